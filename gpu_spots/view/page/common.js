// Requests, the state of the page, and its address.
"use strict";

const token = new URLSearchParams(location.search).get("token");
const byId = (id) => document.getElementById(id);

// What is known of the run; set once.
let run = null;

const state = {
  frame: 0,
  of: "frame",
  centre: null, // [X, Y] of the middle of the picture, pixels; null: middle of the frame
  zoom: 0, // pixels of the screen per pixel of the frame; 0: the whole frame
  low: null, // null: chosen by the program
  high: null,
  scale: "linear",
  palette: "inverted",
  show: new Set(["final"]),
  row: null, // chosen spot
  tab: "spot",
  split: false,
  tune: {}, // options that differ from the stored ones
};

async function ask(name, parameters = {}, signal = undefined) {
  const query = new URLSearchParams({ ...parameters, token });
  const answer = await fetch(`api/${name}?${query}`, { signal });
  if (!answer.ok) {
    let text = `${answer.status}`;
    try {
      text = (await answer.json()).error;
    } catch {
      text = `the server refused the request (${answer.status}); reload the page from the address that gpu-spots view printed`;
    }
    throw new Error(text);
  }
  return answer.headers.get("content-type").startsWith("image/") ? answer.blob() : answer.json();
}

// Run the latest of many calls, one at a time: those in between are left out.
function latest(work) {
  let isBusy = false;
  let wanted = null;
  return async function call(...values) {
    wanted = values;
    if (isBusy) return;
    isBusy = true;
    try {
      while (wanted !== null) {
        const now = wanted;
        wanted = null;
        try {
          await work(...now);
        } catch (error) {
          say(error instanceof TypeError ? "gpu-spots view has ended, or cannot be reached" : error.message);
        }
      }
    } finally {
      isBusy = false;
    }
  };
}

function say(text) {
  byId("status").textContent = text;
}

function element(name, text = "", className = "") {
  const made = document.createElement(name);
  made.textContent = text; // never HTML: names come from files
  if (className) made.className = className;
  return made;
}

function number(value) {
  if (value === null || value === undefined) return "–";
  if (Array.isArray(value)) return value.map(number).join(", ");
  if (Number.isInteger(value)) return String(value);
  const size = Math.abs(value);
  return size >= 1e6 || (size > 0 && size < 1e-3) ? value.toExponential(3) : String(Number(value.toPrecision(5)));
}

function laserWord(frame) {
  return { 0: "laser off", 1: "laser on" }[run.frames.laser_on[frame]] ?? "laser unknown";
}

// The address keeps what is shown, so that it can be reloaded and passed on.
let writing = null;
function remember() {
  clearTimeout(writing);
  writing = setTimeout(() => {
    const kept = new URLSearchParams();
    kept.set("frame", state.frame);
    kept.set("of", state.of);
    if (state.zoom && state.centre) {
      kept.set("zoom", Number(state.zoom.toPrecision(4)));
      kept.set("X", Math.round(state.centre[0]));
      kept.set("Y", Math.round(state.centre[1]));
    }
    if (state.low !== null) kept.set("low", state.low);
    if (state.high !== null) kept.set("high", state.high);
    kept.set("scale", state.scale);
    kept.set("palette", state.palette);
    kept.set("show", [...state.show].join(","));
    if (state.row !== null) kept.set("spot", state.row);
    kept.set("tab", state.tab);
    if (state.split) kept.set("split", 1);
    for (const [name, value] of Object.entries(state.tune)) kept.set(`tune-${name}`, value);
    history.replaceState(null, "", `${location.pathname}${location.search}#${kept}`);
  }, 150);
}

function finite(text) {
  const value = Number(text);
  return text !== null && text !== "" && Number.isFinite(value) ? value : null;
}

function recall() {
  const kept = new URLSearchParams(location.hash.slice(1));
  const oneOf = (name, allowed) => (allowed.includes(kept.get(name)) ? kept.get(name) : state[name]);
  state.frame = Math.min(Math.max(Math.round(finite(kept.get("frame")) ?? 0), 0), run.n_frames - 1);
  state.of = oneOf("of", pictures());
  state.zoom = Math.min(Math.max(finite(kept.get("zoom")) ?? 0, 0), 64);
  const [X, Y] = [finite(kept.get("X")), finite(kept.get("Y"))];
  state.centre = X === null || Y === null ? null : [X, Y];
  state.low = finite(kept.get("low"));
  state.high = finite(kept.get("high"));
  state.scale = oneOf("scale", ["linear", "sqrt", "log"]);
  state.palette = oneOf("palette", ["inverted", "grey", "heat"]);
  if (kept.has("show")) {
    state.show = new Set(kept.get("show").split(",").filter((name) => ["final", "raw", "boxes", "labels"].includes(name)));
  }
  const row = finite(kept.get("spot"));
  state.row = row !== null && row >= 0 && row < run.n_spots ? Math.round(row) : null;
  state.tab = oneOf("tab", ["spot", "list", "tune", "run"]);
  state.split = kept.has("split");
  state.tune = {};
  for (const name of ["finder", "cutoff", "erosions", "dilations", "connectivity", "significance", "streaks"]) {
    const value = kept.get(`tune-${name}`);
    if (value !== null && (name === "finder" || finite(value) !== null)) state.tune[name] = value;
  }
}

function pictures() {
  return run.why_no_frames ? run.maps : ["frame", "difference", ...run.maps];
}
