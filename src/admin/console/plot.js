// A plot of the last minutes, drawn in SVG. Must not know what is plotted.

import { element, svg, text } from "./dom.js";

const WIDTH = 300;
const HEIGHT = 72;
/** The shortest that holds what there is: a plot that has just begun is no thin strip. */
const SPANS_MIN = [1, 2, 5];

/** `series` are {name, of: sample => number or null}; `format` writes a value. */
export function plot(title, series, format) {
  const grid = svg("path", { class: "grid", d: `M0 .5H${WIDTH}M0 ${HEIGHT / 2}H${WIDTH}M0 ${HEIGHT - .5}H${WIDTH}` });
  const area = svg("path", { class: "area" });
  const paths = series.map((_, i) => svg("path", { class: `line line-${i + 1}` }));
  const cursor = svg("path", { class: "cursor" });
  const drawing = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" },
    grid, area, paths, cursor);
  const top = element("span", { class: "top" });
  const values = series.map(() => element("output", { for: "" }));
  const legend = series.map(({ name }, i) => element("span", { class: `entry entry-${i + 1}` }, values[i], element("span", { class: "name" }, name)));
  const when = element("span");
  const note = element("p", { class: "note" });
  const node = element("section", { class: "plot" },
    element("h2", {}, title), element("div", { class: "figures" }, legend),
    element("div", { class: "canvas" }, drawing, top),
    element("div", { class: "axis", "aria-hidden": "true" }, when, element("span", {}, "now")), note);

  let shown = [], pointed = null, spanMin = SPANS_MIN[0];
  drawing.addEventListener("pointermove", event => {
    const box = drawing.getBoundingClientRect();
    pointed = (event.clientX - box.left) / box.width;
    figures();
  });
  drawing.addEventListener("pointerleave", () => { pointed = null; figures(); });

  function figures() {
    const now = Date.now();
    const wanted = pointed == null ? now : now - spanMin * 60_000 * (1 - pointed);
    const nearest = pointed == null ? shown.at(-1)
      : shown.reduce((best, sample) => best && Math.abs(best.at - wanted) <= Math.abs(sample.at - wanted) ? best : sample, null);
    series.forEach(({ of }, i) => text(values[i], nearest ? format(of(nearest)) : "–"));
    cursor.setAttribute("d", pointed == null ? "" : `M${pointed * WIDTH} 0V${HEIGHT}`);
    text(when, pointed == null || !nearest ? `${spanMin} min ago` : new Date(nearest.at).toLocaleTimeString("en-GB"));
  }

  function update(samples, words = "") {
    shown = samples;
    const now = Date.now();
    const most = Math.max(0, ...series.flatMap(({ of }) => samples.map(sample => of(sample) ?? 0)));
    const limit = ceiling(most);
    spanMin = SPANS_MIN.find(minutes => now - (samples[0]?.at ?? now) <= minutes * 60_000) ?? SPANS_MIN.at(-1);
    const x = sample => (1 - (now - sample.at) / (spanMin * 60_000)) * WIDTH;
    const y = value => HEIGHT - 1 - value / limit * (HEIGHT - 4);
    series.forEach(({ of }, i) => {
      const runs = split(samples, of);
      const line = runs.map(run => "M" + run.map(sample => `${x(sample).toFixed(1)} ${y(of(sample)).toFixed(1)}`).join("L")).join("");
      paths[i].setAttribute("d", line);
      if (i === 0) {
        area.setAttribute("d", runs.map(run =>
          `M${x(run[0]).toFixed(1)} ${HEIGHT}L` + run.map(sample => `${x(sample).toFixed(1)} ${y(of(sample)).toFixed(1)}`).join("L") +
          `L${x(run.at(-1)).toFixed(1)} ${HEIGHT}Z`).join(""));
      }
    });
    text(top, most > 0 ? format(limit) : "");
    text(note, words);
    figures();
    const latest = samples.at(-1);
    drawing.setAttribute("aria-label", `${title}, the last ${spanMin === 1 ? "minute" : `${spanMin} minutes`}. Now ` +
      series.map(({ name, of }) => `${name} ${latest ? format(of(latest)) : "unknown"}`).join(", "));
  }

  return { node, update };
}

/** Parts of the samples without gaps. */
function split(samples, of) {
  const runs = [];
  let run = null;
  for (const sample of samples) {
    if (of(sample) == null) run = null;
    else if (run) run.push(sample);
    else runs.push(run = [sample]);
  }
  return runs;
}

/** The next of 1, 2, 5, 10, 20, …: a scale that does not jump with each sample. */
function ceiling(most) {
  if (most <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(most));
  return [1, 2, 5, 10].map(step => step * power).find(step => step >= most);
}
