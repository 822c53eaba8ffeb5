// Panels: the chosen spot and its course, spots of the frame, tuning, the run.
"use strict";

const SVG = "http://www.w3.org/2000/svg";
const MOST_ROWS = 1000; // rows of the list of spots

function showTab(name) {
  state.tab = name;
  for (const tab of document.querySelectorAll("[role=tab]")) {
    const isOpen = tab.id === `tab-${name}`;
    tab.setAttribute("aria-selected", isOpen);
    tab.tabIndex = isOpen ? 0 : -1;
    byId(tab.getAttribute("aria-controls")).hidden = !isOpen;
  }
  if (name === "tune") tune();
  draw();
  fetchPicture();
  remember();
}

async function choose(row) {
  state.row = row;
  remember();
  draw();
  markInList();
  showSpot();
}

const showSpot = latest(async () => {
  const row = state.row;
  byId("spot-none").hidden = row !== null;
  byId("spot-some").hidden = row === null;
  if (row === null) return;
  const spot = await ask("spot", { row });
  byId("spot-title").textContent = `Spot ${spot.row}, frame ${spot.frame}, X ${spot.X} Y ${spot.Y}`;
  byId("spot-flags").textContent = spot.flags.length ? `Flags: ${spot.flags.join(", ")}` : "No flags";
  const body = byId("properties").tBodies[0];
  body.replaceChildren(...spot.properties.map(({ name, value, unit, description }) => {
    const line = element("tr");
    line.title = description;
    line.append(element("td", name), element("td", number(value)), element("td", unit ?? "", "unit"));
    return line;
  }));
  showCourse(spot);
});

function shape(name, attributes, className = "", text = "") {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (className) made.setAttribute("class", className);
  if (text) made.textContent = text;
  return made;
}

function short(value) {
  const size = Math.abs(value);
  return size >= 1e5 || (size > 0 && size < 0.01) ? value.toExponential(2) : String(Number(value.toPrecision(3)));
}

function showCourse(spot) {
  const { frames, why } = spot.course;
  const chart = byId("course");
  chart.replaceChildren();
  byId("course-legend").hidden = !frames.length;
  if (!frames.length) {
    byId("course-title").textContent = `No course: ${why}`;
    return;
  }
  const { I, sigma, laser_on: laser, rows, what } = spot.course;
  byId("course-title").textContent = `${what}, counts, on the ${frames.length} frames of its mask or block`;
  const known = I.map((value, i) => [value ?? 0, sigma[i] ?? 0]);
  const low = Math.min(0, ...known.map(([value, error]) => value - error));
  const high = Math.max(...known.map(([value, error]) => value + error), low + 1);
  const x = (i) => 58 + (frames.length > 1 ? (i / (frames.length - 1)) * 290 : 145);
  const y = (value) => 140 - ((value - low) / (high - low)) * 125;
  for (const value of [low, (low + high) / 2, high]) {
    chart.append(shape("line", { x1: 50, x2: 354, y1: y(value), y2: y(value) }, "axis"));
    chart.append(shape("text", { x: 46, y: y(value) + 3, "text-anchor": "end" }, "", short(value)));
  }
  for (const i of new Set([0, Math.floor((frames.length - 1) / 2), frames.length - 1])) {
    chart.append(shape("text", { x: x(i), y: 158, "text-anchor": "middle" }, "", String(frames[i])));
  }
  frames.forEach((frame, i) => {
    if (I[i] === null) return;
    const kind = { 0: "off", 1: "on" }[laser[i]] ?? "unknown";
    if (sigma[i] !== null) chart.append(shape("line", { x1: x(i), x2: x(i), y1: y(I[i] - sigma[i]), y2: y(I[i] + sigma[i]) }, kind));
    const dot = shape("circle", { cx: x(i), cy: y(I[i]), r: 4, "stroke-width": 1.5 }, frame === spot.frame ? `${kind} chosen` : kind);
    dot.append(shape("title", {}, "", `frame ${frame}, ${kind}: ${number(I[i])}`));
    dot.addEventListener("click", () => showFrame(frame, rows[i] ?? null));
    chart.append(dot);
  });
}

function showList() {
  const { first, XY, I, snr, flags, label } = overlay.spots;
  const order = I.map((_, i) => i).sort((a, b) => I[b] - I[a]).slice(0, MOST_ROWS);
  byId("list").tBodies[0].replaceChildren(...order.map((i) => {
    const line = element("tr");
    line.dataset.row = first + i;
    line.tabIndex = 0;
    const flagged = flags ? Object.keys(run.flags).filter((name) => flags[i] & run.flags[name]).join(", ") : "";
    for (const text of [label[i], XY[i][0], XY[i][1], number(I[i]), snr ? number(snr[i]) : "–", flagged]) line.append(element("td", text));
    return line;
  }));
  byId("list-more").textContent = I.length > MOST_ROWS
    ? `${MOST_ROWS} of ${I.length} spots, the strongest` : I.length ? "" : "This frame has no spots.";
  markInList();
}

function markInList() {
  for (const line of byId("list").tBodies[0].rows) line.classList.toggle("chosen", Number(line.dataset.row) === state.row);
}

for (const kind of ["click", "keydown"]) {
  byId("list").tBodies[0].addEventListener(kind, (event) => {
    if (kind === "keydown" && event.key !== "Enter") return;
    const line = event.target.closest("tr");
    const row = Number(line.dataset.row);
    const [X, Y] = overlay.spots.XY[row - overlay.spots.first];
    goTo(X, Y);
    choose(row);
    showTab("spot");
  });
}

// --- tuning ---

const SLIDERS = ["significance", "cutoff", "erosions", "dilations"];

function tunedValues() {
  const stored = run.parameters;
  return {
    finder: stored.finder,
    cutoff: stored.cutoff,
    erosions: stored.erosions,
    dilations: stored.dilations,
    connectivity: stored.structure[1],
    significance: stored.significance,
    streaks: stored.streaks ? 1 : 0,
    ...state.tune,
  };
}

function showTuneValues() {
  if (run.why_no_tuning) {
    byId("tune").hidden = true;
    byId("tune-none").hidden = false;
    byId("tune-none").textContent = `Tuning is not possible: ${run.why_no_tuning}`;
    return;
  }
  const values = tunedValues();
  byId("finder").value = values.finder;
  byId("connectivity").value = values.connectivity;
  byId("streaks").checked = Number(values.streaks) === 1;
  byId("side-by-side").checked = state.split;
  for (const name of SLIDERS) {
    byId(name).value = values[name];
    if (document.activeElement !== byId(`${name}-number`)) byId(`${name}-number`).value = values[name];
  }
  document.querySelector(".of-matched").hidden = values.finder !== "matched";
  document.querySelector(".of-threshold").hidden = values.finder !== "threshold";
}

function change(name, value) {
  const stored = { ...run.parameters, connectivity: run.parameters.structure[1], streaks: run.parameters.streaks ? 1 : 0 };
  if (String(stored[name]) === String(value)) delete state.tune[name];
  else state.tune[name] = value;
  showTuneValues();
  remember();
  tune();
}

const tune = latest(async () => {
  if (run.why_no_tuning || state.tab !== "tune") return;
  const frame = state.frame;
  const values = tunedValues();
  const begun = performance.now();
  let found;
  try {
    found = await ask("tuned", { frame, ...values });
  } catch (error) {
    byId("tune-words").textContent = error.message;
    throw error;
  }
  overlay.tuned = { frame, final: outline(found.final), raw: outline(found.raw), boxes: found.boxes };
  byId("n-stored").textContent = found.stored_spots;
  byId("n-tuned").textContent = found.n_spots;
  byId("n-lost").textContent = `${found.lost} lost`;
  byId("n-new").textContent = `${found.new} new`;
  byId("command").value = found.command;
  byId("copied").textContent = "";
  const same = { true: "The masks are the stored ones.", false: "", null: "" }[found.same_as_stored];
  const odd = found.is_stored && found.same_as_stored === false
    ? "The stored background gives slightly other masks than the run: it is rounded in the file." : "";
  byId("tune-words").textContent = `Masks in ${Math.round(found.seconds * 1000)} ms (${Math.round(performance.now() - begun)} ms with the picture). ${same}${odd}`;
  byId("panel-tune").dataset.tuned = JSON.stringify({ frame, ...values });
  draw();
  for (const id of ["false-stored", "false-tuned"]) byId(id).textContent = "…";
  countFalse(frame, values);
});

const PAUSE = 250; // ms; the server computes one thing at a time, and masks come first
const countFalse = latest(async (frame, values) => {
  await new Promise((done) => setTimeout(done, PAUSE));
  if (byId("panel-tune").dataset.tuned !== JSON.stringify({ frame, ...values })) return;
  const found = await ask("false", { frame, ...values });
  byId("false-stored").textContent = found.stored;
  byId("false-tuned").textContent = found.tuned;
});

for (const name of SLIDERS) {
  byId(name).addEventListener("input", () => {
    byId(`${name}-number`).value = byId(name).value;
    change(name, byId(name).value);
  });
  byId(`${name}-number`).addEventListener("input", (event) => {
    if (event.target.value !== "" && event.target.validity.valid) change(name, event.target.value);
  });
}
byId("finder").addEventListener("change", (event) => change("finder", event.target.value));
byId("connectivity").addEventListener("change", (event) => change("connectivity", event.target.value));
byId("streaks").addEventListener("change", (event) => change("streaks", event.target.checked ? 1 : 0));
byId("side-by-side").addEventListener("change", (event) => {
  state.split = event.target.checked;
  moved();
});
byId("reset").addEventListener("click", () => {
  state.tune = {};
  showTuneValues();
  remember();
  tune();
});
byId("tune").addEventListener("submit", (event) => event.preventDefault());
byId("copy").addEventListener("click", async () => {
  const box = byId("command");
  try {
    await navigator.clipboard.writeText(box.value);
  } catch { // not allowed: the text is selected, so that it can be copied by hand
    box.select();
    document.execCommand("copy");
  }
  byId("copied").textContent = "copied";
});

// --- the run ---

function showRun() {
  byId("run-words").textContent = `${run.n_spots} spots on ${run.n_frames} frames of ${run.n_X} x ${run.n_Y} pixels. X is the row, from the top; Y is the column.`;
  byId("info").tBodies[0].replaceChildren(...Object.entries(run.info).map(([name, value]) => {
    const line = element("tr");
    line.append(element("td", name), element("td", value));
    return line;
  }));
}
