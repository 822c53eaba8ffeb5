// The picture: pixels from the server, outlines, boxes and labels on top; zoom and move.
"use strict";

const canvas = byId("picture");
const context = canvas.getContext("2d");

const drawn = { bitmap: null, region: null, key: "" }; // last picture
const overlay = { final: null, raw: null, spots: null, frame: -1, tuned: null, rawTuned: null };

function viewports() {
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  if (!isSplit()) return [{ x: 0, width, height, side: "both" }];
  const half = Math.floor(width / 2);
  return [
    { x: 0, width: half, height, side: "stored" },
    { x: half, width: width - half, height, side: "tuned" },
  ];
}

function isSplit() {
  return state.split && state.tab === "tune" && !run.why_no_tuning;
}

// Pixels of the screen per pixel of the frame, and the middle [X, Y].
function geometry() {
  const view = viewports()[0];
  const whole = Math.min(view.width / run.n_Y, view.height / run.n_X);
  return {
    zoom: state.zoom || whole,
    whole,
    centre: state.zoom && state.centre ? state.centre : [run.n_X / 2, run.n_Y / 2],
    view,
  };
}

function pixelAt(event) {
  const box = canvas.getBoundingClientRect();
  const { zoom, centre } = geometry();
  const left = event.clientX - box.left;
  const view = viewports().findLast((one) => left >= one.x) ?? viewports()[0];
  return [
    centre[0] + (event.clientY - box.top - view.height / 2) / zoom,
    centre[1] + (left - view.x - view.width / 2) / zoom,
  ];
}

// Part of the frame on the screen, with a margin, and the factor of binning.
function wanted() {
  const { zoom, centre, view } = geometry();
  const bin = Math.max(1, Math.floor(1 / (zoom * devicePixelRatio) + 0.01));
  const [high, wide] = [(view.height / zoom) * 0.6, (view.width / zoom) * 0.6];
  const clip = (value, most) => Math.min(Math.max(value, 0), most);
  const begin = (value, most) => clip(Math.floor((value) / (64 * bin)) * 64 * bin, most - 1);
  const end = (value, most) => clip(Math.ceil(value / (64 * bin)) * 64 * bin, most);
  const [x0, y0] = [begin(centre[0] - high, run.n_X), begin(centre[1] - wide, run.n_Y)];
  return {
    x0, y0, bin,
    x1: Math.max(x0 + 1, end(centre[0] + high, run.n_X)),
    y1: Math.max(y0 + 1, end(centre[1] + wide, run.n_Y)),
  };
}

const fetchPicture = latest(async () => {
  try {
    await loadPicture();
  } catch (error) { // or the picture of another frame stays, under the masks of this one
    drawn.bitmap?.close();
    Object.assign(drawn, { bitmap: null, key: "" });
    canvas.dataset.shown = "";
    draw();
    throw error;
  }
});

async function loadPicture() {
  if (state.low === null || state.high === null) {
    const found = await ask("contrast", { of: state.of, frame: state.frame });
    state.low = Number(found.low.toPrecision(4));
    state.high = Number(found.high.toPrecision(4));
    showContrast();
  }
  if (!(state.low < state.high)) throw new Error("contrast: the first value must be below the second one");
  const region = wanted();
  const { low, high, scale, palette, of, frame } = state;
  const asked = { of, frame, ...region, low, high, scale, palette };
  const key = JSON.stringify(asked);
  if (key !== drawn.key) {
    const begun = performance.now();
    const bitmap = await createImageBitmap(await ask("picture", asked));
    drawn.bitmap?.close();
    Object.assign(drawn, { bitmap, region, key });
    say(`picture in ${Math.round(performance.now() - begun)} ms`);
    canvas.dataset.shown = `${of} ${frame}`;
  }
  draw();
}

const fetchOverlay = latest(async () => {
  const frame = state.frame;
  if (overlay.frame !== frame) {
    overlay.spots = await ask("spots", { frame });
    Object.assign(overlay, { frame, final: null, raw: null });
    showList();
  }
  const finalKind = run.kinds.includes("synced") ? "synced" : "filtered";
  for (const [name, kind] of [["final", finalKind], ["raw", "raw"]]) {
    if (state.show.has(name) && overlay[name] === null && run.kinds.includes(kind)) {
      overlay[name] = outline(await ask("masks", { frame, kind }));
    }
  }
  canvas.dataset.masks = state.show.has("final") && overlay.final ? overlay.final.n_pixels : "";
  draw();
});

function outline(found) {
  const path = new Path2D();
  for (let i = 0; i < found.along_y.length; i += 3) {
    path.moveTo(found.along_y[i + 1], found.along_y[i]);
    path.lineTo(found.along_y[i + 2], found.along_y[i]);
  }
  for (let i = 0; i < found.along_x.length; i += 3) {
    path.moveTo(found.along_x[i], found.along_x[i + 1]);
    path.lineTo(found.along_x[i], found.along_x[i + 2]);
  }
  if (found.too_many) say(`the mask has ${found.n_pixels} pixels, too many to draw`);
  return { path, n_pixels: found.n_pixels };
}

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

let isDue = false;
function draw() {
  if (isDue) return;
  isDue = true;
  requestAnimationFrame(() => {
    isDue = false;
    drawNow();
  });
}

function drawNow() {
  const ratio = devicePixelRatio;
  const [width, height] = [Math.round(canvas.clientWidth * ratio), Math.round(canvas.clientHeight * ratio)];
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  context.resetTransform();
  context.clearRect(0, 0, width, height);
  for (const view of viewports()) drawView(view, ratio);
  byId("split").hidden = !isSplit();
  const { zoom } = geometry();
  byId("zoom").textContent = `${zoom >= 1 ? number(Number(zoom.toPrecision(3))) : number(Number(zoom.toPrecision(2)))} ×`;
}

function drawView(view, ratio) {
  const { zoom, centre } = geometry();
  context.save();
  context.resetTransform();
  context.beginPath();
  context.rect(view.x * ratio, 0, view.width * ratio, view.height * ratio);
  context.clip();
  const k = zoom * ratio;
  context.setTransform(k, 0, 0, k, (view.x + view.width / 2 - centre[1] * zoom) * ratio, (view.height / 2 - centre[0] * zoom) * ratio);
  if (drawn.bitmap !== null) {
    const { x0, y0, bin } = drawn.region;
    context.imageSmoothingEnabled = k < 1;
    context.drawImage(drawn.bitmap, y0, x0, drawn.bitmap.width * bin, drawn.bitmap.height * bin);
  }
  const line = (name, path, thick = 1.4) => {
    context.strokeStyle = colour(name);
    context.lineWidth = thick / zoom;
    context.stroke(path);
  };
  const isHere = overlay.frame === state.frame;
  const showsTuned = state.tab === "tune" && overlay.tuned?.frame === state.frame;
  if (isHere && view.side !== "tuned") {
    // on one picture, the raw mask is the tuned one
    if (state.show.has("raw") && overlay.raw && !(showsTuned && view.side === "both")) line("raw", overlay.raw.path);
    if (state.show.has("final") && overlay.final) line("final", overlay.final.path);
    if (state.show.has("boxes")) line("box", boxes(overlay.spots.box), 1);
    if (state.show.has("labels")) labels(zoom);
  }
  if (showsTuned && view.side !== "stored") {
    if (state.show.has("raw")) line("raw", overlay.tuned.raw.path);
    line("tuned", overlay.tuned.final.path);
    if (state.show.has("boxes")) line("box", boxes(overlay.tuned.boxes), 1);
  }
  const chosen = chosenIndex();
  if (chosen !== null) line("chosen", boxes([overlay.spots.box[chosen]], 2), 2.5);
  context.restore();
}

function boxes(list, margin = 0) {
  const path = new Path2D();
  for (const [x0, x1, y0, y1] of list) path.rect(y0 - margin, x0 - margin, y1 - y0 + 2 * margin, x1 - x0 + 2 * margin);
  return path;
}

function labels(zoom) {
  if (zoom < 0.5 && overlay.spots.label.length > 400) {
    say("labels: zoom in to see them");
    return;
  }
  context.font = `${12 / zoom}px system-ui, sans-serif`;
  context.fillStyle = colour("box");
  overlay.spots.label.forEach((label, i) => {
    const [x0, , , y1] = overlay.spots.box[i];
    context.fillText(label, y1 + 2 / zoom, x0 + 4 / zoom);
  });
}

// Index of the chosen spot among those of the frame; null: it is on another one, or none is.
function chosenIndex() {
  if (state.row === null || overlay.frame !== state.frame || overlay.spots === null) return null;
  const index = state.row - overlay.spots.first;
  return index >= 0 && index < overlay.spots.label.length ? index : null;
}

function spotAt([X, Y]) {
  if (overlay.frame !== state.frame) return null;
  let best = null;
  let nearest = Infinity;
  const reach = Math.max(1, 4 / geometry().zoom);
  overlay.spots.box.forEach(([x0, x1, y0, y1], i) => {
    if (X < x0 - reach || X >= x1 + reach || Y < y0 - reach || Y >= y1 + reach) return;
    const [x, y] = overlay.spots.XY[i];
    const far = (X - x - 0.5) ** 2 + (Y - y - 0.5) ** 2;
    if (far < nearest) [nearest, best] = [far, i];
  });
  return best === null ? null : overlay.spots.first + best;
}

function zoomBy(factor, at = null) {
  const { zoom, whole, centre } = geometry();
  const next = Math.min(Math.max(zoom * factor, whole * 0.9), 64);
  if (next <= whole) {
    Object.assign(state, { zoom: 0, centre: null });
  } else {
    const fixed = at ?? centre;
    state.centre = centre.map((value, i) => fixed[i] + ((value - fixed[i]) * zoom) / next);
    state.zoom = next;
  }
  moved();
}

function goTo(X, Y, zoom = null) {
  const now = geometry();
  state.zoom = zoom ?? Math.max(now.zoom, now.whole * 1.01);
  state.centre = [X + 0.5, Y + 0.5];
  moved();
}

function moved() {
  draw();
  fetchPicture();
  remember();
}

let dragging = null;
canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  dragging = { x: event.clientX, y: event.clientY, far: false, ...geometry() };
});
canvas.addEventListener("pointermove", (event) => {
  if (dragging === null) {
    readPixel(pixelAt(event));
    return;
  }
  const [right, down] = [event.clientX - dragging.x, event.clientY - dragging.y];
  if (Math.hypot(right, down) > 4) dragging.far = true;
  if (!dragging.far) return;
  state.zoom = dragging.zoom;
  state.centre = [dragging.centre[0] - down / dragging.zoom, dragging.centre[1] - right / dragging.zoom];
  moved();
});
canvas.addEventListener("pointerup", (event) => {
  const was = dragging;
  dragging = null;
  if (was && !was.far) choose(spotAt(pixelAt(event)));
});
canvas.addEventListener("pointercancel", () => { dragging = null; });
canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  zoomBy(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015)), pixelAt(event));
}, { passive: false });
new ResizeObserver(() => { if (run) moved(); }).observe(canvas);

const readPixel = latest(async ([x, y]) => {
  const [X, Y] = [Math.floor(x), Math.floor(y)];
  if (X < 0 || Y < 0 || X >= run.n_X || Y >= run.n_Y) {
    byId("pixel").textContent = "";
    return;
  }
  const found = await ask("pixel", { frame: state.frame, X, Y });
  const parts = [`X ${X}  Y ${Y}`];
  if ("value" in found) parts.push(`value ${number(found.value)}`);
  parts.push(`background ${number(found.avg)}`, `noise ${number(found.noise)}`);
  if ("value" in found && found.noise > 0) parts.push(`${number((found.value - found.avg) / found.noise)} σ`);
  byId("pixel").textContent = parts.join("   ");
  await new Promise((done) => setTimeout(done, 60));
});
