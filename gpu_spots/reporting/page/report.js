// Charts of a report: uPlot draws them, a mouse or the keyboard zooms.
(() => {
  "use strict";
  const root = document.documentElement;
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const drawn = new Map();
  const colour = (name) => getComputedStyle(root).getPropertyValue(name).trim();

  function options(chart, width, height) {
    const ink = colour("--ink"), line = colour("--line");
    const axis = (label, isLog) => ({
      label, stroke: ink, labelSize: 22, size: 56, font: "12px sans-serif",
      labelFont: "12px sans-serif", grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1 },
      values: (_, splits) => splits.map((v) => (v === null ? "" : short(v))),
      ...(isLog ? { splits: (_, __, min, max) => decades(min, max), filter: (_, splits) => splits } : {}),
    });
    return {
      width, height,
      scales: {
        x: { time: false, distr: chart.x_log ? 3 : 1, range: (_, min, max) => (min < max ? [min, max] : [min - 1, max + 1]) },
        y: { distr: chart.y_log ? 3 : 1, ...(chart.y_range ? { range: () => chart.y_range } : {}) },
      },
      axes: [{ ...axis(chart.x_label, chart.x_log), size: 36 }, axis(chart.y_label, chart.y_log)],
      cursor: { drag: { x: true, y: true, uni: 20 }, focus: { prox: 16 } },
      legend: { live: true },
      series: [
        { label: chart.x_label.split(",")[0], value: (_, v) => (v === null ? "-" : short(v)) },
        ...chart.series.map((one) => ({
          label: one.label, stroke: colour("--colour-" + (one.colour % 4)), spanGaps: true,
          value: (_, v) => (v === null || v === undefined ? "-" : short(v)),
          ...style(one, colour("--colour-" + (one.colour % 4))),
        })),
      ],
    };
  }

  // ticks of a logarithmic axis: powers of ten, with 2 and 5 between them if there are few
  function decades(min, max) {
    const first = Math.floor(Math.log10(min)), last = Math.ceil(Math.log10(max));
    for (const parts of last - first > 3 ? [[1], [1, 2, 5]] : [[1, 2, 5], [1, 2, 3, 4, 5, 6, 7, 8, 9]]) {
      const ticks = [];
      for (let power = first; power <= last; power++) {
        for (const part of parts) ticks.push(part * 10 ** power);
      }
      const inside = ticks.filter((v) => v >= min && v <= max);
      if (inside.length > 1) return inside;
    }
    return [min, max];
  }

  function style(one, stroke) {
    if (one.style === "points") return { paths: () => null, points: { show: true, size: 4, fill: stroke, width: 0 } };
    if (one.style === "steps") return { paths: uPlot.paths.stepped({ align: 1 }), points: { show: false }, width: 1.5 };
    if (one.style === "dashes") return { dash: [6, 4], points: { show: false }, width: 1.5 };
    return { width: 1.5, points: { show: one.y.filter((v) => v !== null).length < 200, size: 4, fill: stroke } };
  }

  function short(v) {
    if (v === 0) return "0";
    const a = Math.abs(v);
    if (a >= 1e6 || a < 1e-3) return v.toExponential(2).replace(/\.?0+e/, "e").replace("e+", "e");
    return String(Number(v.toPrecision(5)));
  }

  const paper = [340, 200]; // a column, and two rows with pictures below them on a page of A4, pixels
  function draw(box, wanted) {
    const chart = charts[Number(box.dataset.chart)];
    const before = drawn.get(box);
    if (before) before.destroy();
    const data = [chart.x, ...chart.series.map((one) => one.y)];
    const [width, height] = wanted || [Math.max(240, Math.floor(box.getBoundingClientRect().width)), 260];
    const range = (plot, axis) => [plot.scales[axis].min, plot.scales[axis].max];
    const hooks = {
      ready: [(plot) => { plot.whole = { x: range(plot, "x"), y: range(plot, "y") }; report(plot, box); }],
      setScale: [(plot) => report(plot, box)],
    };
    drawn.set(box, new uPlot({ ...options(chart, width, height), hooks }, data, box));
  }

  // the limits that are shown, for the tools beside the chart, for screen readers and for tests
  function report(plot, box) {
    const { min, max } = plot.scales.x;
    if (min === null || min === undefined) return;
    box.dataset.x = min + " " + max;
    box.closest("figure").querySelector("output").textContent = "shown: " + short(min) + " to " + short(max);
  }

  function scaled(plot, axis, shift, factor, log) {
    let { min, max } = plot.scales[axis];
    if (log) { min = Math.log10(min); max = Math.log10(max); }
    const middle = (min + max) / 2 + shift * (max - min), half = (max - min) / 2 * factor;
    const ends = [middle - half, middle + half].map((v) => (log ? 10 ** v : v));
    plot.setScale(axis, { min: ends[0], max: ends[1] });
  }

  function act(box, what) {
    const plot = drawn.get(box), chart = charts[Number(box.dataset.chart)];
    if (!plot) return;
    if (what === "in") scaled(plot, "x", 0, 0.5, chart.x_log);
    if (what === "out") scaled(plot, "x", 0, 2, chart.x_log);
    if (what === "left") scaled(plot, "x", -0.2, 1, chart.x_log);
    if (what === "right") scaled(plot, "x", 0.2, 1, chart.x_log);
    if (what === "whole") {
      plot.batch(() => {
        for (const axis of ["x", "y"]) plot.setScale(axis, { min: plot.whole[axis][0], max: plot.whole[axis][1] });
      });
    }
  }

  const keys = { "+": "in", "=": "in", "-": "out", ArrowLeft: "left", ArrowRight: "right", "0": "whole", Escape: "whole" };
  const boxes = [...document.querySelectorAll(".chart")];
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting) { seen.unobserve(entry.target); draw(entry.target); }
    }
  }, { rootMargin: "300px" });
  for (const box of boxes) {
    seen.observe(box);
    box.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || !(event.key in keys)) return;
      event.preventDefault();
      act(box, keys[event.key]);
    });
  }
  for (const button of document.querySelectorAll("button[data-do]")) {
    button.addEventListener("click", () => act(button.closest("figure").querySelector(".chart"), button.dataset.do));
  }

  const again = () => drawn.forEach((_, box) => draw(box));
  let waiting = 0;
  window.addEventListener("resize", () => { clearTimeout(waiting); waiting = setTimeout(again, 200); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
  document.getElementById("theme").addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    again();
  });
  for (const toggle of document.querySelectorAll("input[data-marks]")) {
    toggle.addEventListener("change", () =>
      toggle.closest("section").classList.toggle("hide-marks", !toggle.checked));
  }
  const copy = document.getElementById("copy");
  if (copy) {
    copy.addEventListener("click", async () => {
      const text = document.getElementById("command").textContent;
      try {
        await navigator.clipboard.writeText(text);
        copy.textContent = "Copied";
      } catch {  // the browser does not allow it: select the text instead
        getSelection().selectAllChildren(document.getElementById("command"));
      }
    });
  }

  // paper is white, and has room for all charts
  let theme;
  window.addEventListener("beforeprint", () => {
    theme = root.dataset.theme;
    root.dataset.theme = "light";
    for (const box of boxes) { seen.unobserve(box); draw(box, paper); }
  });
  window.addEventListener("afterprint", () => {
    if (theme === undefined) delete root.dataset.theme; else root.dataset.theme = theme;
    again();
  });
})();
