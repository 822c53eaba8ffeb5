// Start of the page, frames, contrast, keys and the strip of all frames.
"use strict";

let ranked = { by: "strongest", rank: -1 };

function showFrame(frame, row = null) {
  state.frame = Math.min(Math.max(frame, 0), run.n_frames - 1);
  if (row !== null) choose(row);
  else followSpot();
  showFrameWords();
  drawTimeline();
  fetchOverlay();
  fetchPicture();
  if (state.tab === "tune") tune();
  remember();
}

// A spot is on all frames of its mask: keep its row in step with the frame.
async function followSpot() {
  if (state.row === null) return;
  let begin = 0;
  let before = -1;
  for (let i = 0; i < run.n_frames; i++) {
    const end = begin + run.frames.n_spots[i];
    if (state.row < end) { before = i; break; }
    begin = end;
  }
  const { mask, n_spots: counts } = run.frames;
  if (before < 0 || before === state.frame || mask[before] !== mask[state.frame]) return;
  let first = 0;
  for (let i = 0; i < state.frame; i++) first += counts[i];
  choose(first + (state.row - begin));
}

function showFrameWords() {
  const { angle, delay, n_spots: counts, partner } = run.frames;
  byId("frame").value = state.frame;
  const parts = [];
  if (angle[state.frame] !== null) parts.push(`${number(angle[state.frame])}°`);
  parts.push(laserWord(state.frame));
  if (delay[state.frame]) parts.push(`delay ${number(delay[state.frame])} s`);
  parts.push(`${counts[state.frame]} spots`);
  byId("frame-words").textContent = parts.join(", ");
  byId("previous").disabled = state.frame === 0;
  byId("next").disabled = state.frame === run.n_frames - 1;
  byId("partner").disabled = partner[state.frame] < 0;
  const what = state.of === "frame" || state.of === "difference" ? `frame ${state.frame}` : state.of;
  byId("picture").setAttribute("aria-label", `Picture of ${what}: ${parts.join(", ")}. X goes down, Y to the right.`);
}

function showContrast() {
  byId("low").value = state.low ?? "";
  byId("high").value = state.high ?? "";
  byId("scale").value = state.scale;
  byId("palette").value = state.palette;
  byId("of").value = state.of;
  for (const name of ["final", "raw", "boxes", "labels"]) byId(`show-${name}`).checked = state.show.has(name);
}

const contrasts = {}; // limits by picture: equal on all frames, so that these can be compared
function showPicture(of) {
  contrasts[state.of] = [state.low, state.high];
  state.of = of;
  [state.low, state.high] = contrasts[of] ?? [null, null];
  showContrast();
  showFrameWords();
  fetchPicture();
  remember();
}

function setContrast(low, high) {
  Object.assign(state, { low, high });
  showContrast();
  fetchPicture();
  remember();
}

function toggle(name) {
  if (state.show.has(name)) state.show.delete(name);
  else state.show.add(name);
  showContrast();
  fetchOverlay();
  draw();
  remember();
}

const goRanked = latest(async (by, step) => {
  const rank = by === ranked.by ? ranked.rank + step : 0;
  const found = await ask("ranked", { by, rank });
  ranked = { by, rank: found.rank };
  byId("ranking").value = by;
  if (!found.total) {
    byId("ranked-place").textContent = "none";
    return;
  }
  byId("ranked-place").textContent = `${found.rank + 1} of ${found.total}`;
  if (found.frame !== state.frame) showFrame(found.frame, found.row);
  else choose(found.row);
  goTo(found.X, found.Y, Math.max(6, geometry().zoom));
  if (state.tab !== "tune") showTab("spot");
});

function drawTimeline() {
  const strip = byId("timeline");
  const ratio = devicePixelRatio;
  const [width, height] = [strip.clientWidth, strip.clientHeight];
  Object.assign(strip, { width: width * ratio, height: height * ratio });
  const paint = strip.getContext("2d");
  paint.scale(ratio, ratio);
  const { n_spots: counts, laser_on: laser } = run.frames;
  const most = counts.reduce((a, b) => Math.max(a, b), 1);
  const wide = width / counts.length;
  // where several frames share a column of the screen, the one with most spots is seen
  counts.forEach((count, i) => {
    paint.fillStyle = colour(laser[i] === 1 ? "on" : "off");
    const high = (count / most) * (height - 6);
    paint.fillRect(i * wide, height - high, Math.max(1, wide > 4 ? wide - 1 : wide), high);
  });
  paint.fillStyle = colour("chosen");
  const at = (state.frame + 0.5) * wide;
  paint.fillRect(at - 1, 0, 2, height);
  paint.fillRect(at - 4, 0, 8, 4);
}

function step(by) {
  showFrame(state.frame + by);
}

function nextBlock(by) {
  const { block } = run.frames;
  let frame = state.frame;
  while (frame + by >= 0 && frame + by < run.n_frames && block[frame] === block[state.frame]) frame += by;
  showFrame(frame);
}

function nextSpot(by) {
  if (overlay.frame !== state.frame || !overlay.spots.label.length) return;
  const n = overlay.spots.label.length;
  const index = ((chosenIndex() ?? (by > 0 ? -1 : n)) + by + n) % n;
  const [X, Y] = overlay.spots.XY[index];
  choose(overlay.spots.first + index);
  if (state.zoom) goTo(X, Y);
}

const KEYS = [
  ["ArrowLeft", "←", "previous frame", () => step(-1)],
  ["ArrowRight", "→", "next frame", () => step(1)],
  ["PageUp", "Page up", "previous angle", () => nextBlock(-1)],
  ["PageDown", "Page down", "next angle", () => nextBlock(1)],
  ["p", "p", "other frame of the off/on pair", () => byId("partner").click()],
  ["+", "+", "zoom in", () => zoomBy(1.5)],
  ["-", "-", "zoom out", () => zoomBy(1 / 1.5)],
  ["0", "0", "whole frame", () => byId("fit").click()],
  ["c", "c", "contrast that suits the picture", () => byId("auto").click()],
  ["m", "m", "masks on or off", () => toggle("final")],
  ["r", "r", "raw mask on or off", () => toggle("raw")],
  ["b", "b", "boxes on or off", () => toggle("boxes")],
  ["l", "l", "labels on or off", () => toggle("labels")],
  ["d", "d", "frame, or frame less background", () => showPicture(state.of === "difference" ? "frame" : "difference")],
  ["g", "g", "frame, or background", () => showPicture(state.of === "avg" ? pictures()[0] : "avg")],
  ["n", "n", "next spot of the frame", () => nextSpot(1)],
  ["N", "N", "previous spot of the frame", () => nextSpot(-1)],
  ["s", "s", "strongest spot, then the next one", () => goRanked("strongest", 1)],
  ["w", "w", "weakest spot, then the next one", () => goRanked("weakest", 1)],
  ["o", "o", "next overloaded spot", () => goRanked("overloaded", 1)],
  ["f", "f", "next flagged spot", () => goRanked("flagged", 1)],
  ["t", "t", "tune", () => showTab("tune")],
  ["Escape", "Esc", "no spot", () => choose(null)],
  ["?", "?", "these keys", () => byId("keys").showModal()],
];

document.addEventListener("keydown", (event) => {
  if (!run || event.ctrlKey || event.metaKey || event.altKey || byId("keys").open) return;
  const target = event.target;
  const types = target.matches("input:not([type=checkbox]):not([type=range]), textarea, select");
  if (types || (target.matches("input[type=range], [role=tab]") && event.key.startsWith("Arrow"))) return;
  const found = KEYS.find(([key]) => key === event.key);
  if (!found) return;
  event.preventDefault();
  if (run.why_no_frames && event.key === "d") return;
  found[3]();
});

function listen() {
  byId("previous").addEventListener("click", () => step(-1));
  byId("next").addEventListener("click", () => step(1));
  byId("partner").addEventListener("click", () => showFrame(run.frames.partner[state.frame]));
  byId("frame").addEventListener("change", (event) => showFrame(Math.round(finite(event.target.value) ?? state.frame)));
  byId("of").addEventListener("change", (event) => showPicture(event.target.value));
  for (const name of ["low", "high"]) {
    byId(name).addEventListener("change", () => setContrast(finite(byId("low").value) ?? state.low, finite(byId("high").value) ?? state.high));
  }
  byId("auto").addEventListener("click", () => setContrast(null, null));
  for (const name of ["scale", "palette"]) {
    byId(name).addEventListener("change", (event) => {
      state[name] = event.target.value;
      fetchPicture();
      remember();
    });
  }
  for (const name of ["final", "raw", "boxes", "labels"]) byId(`show-${name}`).addEventListener("change", () => toggle(name));
  byId("zoom-in").addEventListener("click", () => zoomBy(1.5));
  byId("zoom-out").addEventListener("click", () => zoomBy(1 / 1.5));
  byId("fit").addEventListener("click", () => {
    Object.assign(state, { zoom: 0, centre: null });
    moved();
  });
  byId("ranking").addEventListener("change", (event) => goRanked(event.target.value, 1));
  byId("ranked-next").addEventListener("click", () => goRanked(byId("ranking").value, 1));
  byId("ranked-previous").addEventListener("click", () => goRanked(byId("ranking").value, -1));
  byId("help").addEventListener("click", () => byId("keys").showModal());
  byId("keys-close").addEventListener("click", () => byId("keys").close());
  const tabs = [...document.querySelectorAll("[role=tab]")];
  tabs.forEach((tab, i) => {
    tab.addEventListener("click", () => showTab(tab.id.slice(4)));
    tab.addEventListener("keydown", (event) => {
      const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!by) return;
      const next = tabs[(i + by + tabs.length) % tabs.length];
      showTab(next.id.slice(4));
      next.focus();
    });
  });
  byId("timeline").addEventListener("click", (event) => {
    const box = byId("timeline").getBoundingClientRect();
    showFrame(Math.floor(((event.clientX - box.left) / box.width) * run.n_frames));
  });
  addEventListener("hashchange", () => {
    recall();
    showAll();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    draw();
    drawTimeline();
  });
  addEventListener("resize", drawTimeline);
}

function showAll() {
  showContrast();
  showTuneValues();
  showTab(state.tab);
  showFrameWords();
  drawTimeline();
  fetchOverlay();
  fetchPicture();
  showSpot();
}

async function start() {
  run = await ask("run");
  const name = run.file.split("/").pop();
  document.title = `${name} – gpu-spots view`;
  byId("file").textContent = name;
  byId("file").title = run.file;
  byId("of-frames").textContent = `of ${run.n_frames}, from 0`;
  byId("frame").max = run.n_frames - 1;
  byId("of").replaceChildren(...pictures().map((of) => {
    const words = { frame: "frame", difference: "frame less background" };
    const option = element("option", words[of] ?? of);
    option.value = of;
    option.title = run.descriptions[of] ?? "";
    return option;
  }));
  if (run.why_no_frames) {
    state.of = "avg";
    byId("notice").hidden = false;
    byId("notice").textContent = `The frames cannot be shown: ${run.why_no_frames}. Statistics, masks and spots can.`;
  }
  byId("show-raw").disabled = !run.kinds.includes("raw");
  byId("show-final").disabled = !run.kinds.includes("synced") && !run.kinds.includes("filtered");
  byId("keys").querySelector("tbody").replaceChildren(...KEYS.map(([, key, words]) => {
    const line = element("tr");
    const cell = element("td");
    cell.append(element("kbd", key));
    line.append(cell, element("td", words));
    return line;
  }));
  recall();
  listen();
  showRun();
  showAll();
}

start().catch((error) => {
  byId("notice").hidden = false;
  byId("notice").textContent = error.message;
});
