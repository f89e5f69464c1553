// Elements and words. All text from outside goes in by text nodes: nothing here reads markup.

const SVG = "http://www.w3.org/2000/svg";

/** An element: `on…` properties listen, others are attributes (true sets one, false and null leave it out); strings become text. */
export function element(name, properties = {}, ...children) {
  return fill(document.createElement(name), properties, children);
}

export function svg(name, properties = {}, ...children) {
  return fill(document.createElementNS(SVG, name), properties, children);
}

function fill(node, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.flat().filter(child => child != null && child !== false));
  return node;
}

/** Changes text only where it differs, so that selections and live regions stay quiet. */
export function text(node, words) {
  if (node.textContent !== String(words)) node.textContent = words;
}

/** A table in a box that scrolls by itself. `columns` are [words, class]. */
export function table(caption, columns, body) {
  const heads = columns.map(([words, kind]) => element("th", { scope: "col", class: kind }, words));
  return element("div", { class: "scrolls" },
    element("table", {}, element("caption", { class: "unseen" }, caption), element("thead", {}, element("tr", {}, heads)), body));
}

/** Facts: [words, value] pairs as a description list; those without a value are left out. */
export function facts(pairs) {
  return pairs.filter(([, value]) => value != null && value !== "")
    .map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value)));
}

/** Tells what became of something, where a screen reader hears it too. */
export function say(words, isFailure = false) {
  const said = document.getElementById("said");
  said.className = isFailure ? "said failed" : "said";
  said.textContent = words;
  clearTimeout(say.timer);
  say.timer = setTimeout(() => { said.textContent = ""; }, 8000);
}

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

export function number(value) {
  return whole.format(value);
}

export function rate(value) {
  return value == null ? "–" : value >= 100 ? whole.format(value) : value >= 10 ? value.toFixed(1) : value === 0 ? "0" : value.toFixed(2);
}

export function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  while (value >= 1024 && at < units.length - 1) { value /= 1024; at += 1; }
  return `${at === 0 || value >= 100 ? whole.format(value) : value.toFixed(1)} ${units[at]}`;
}

/** A short time, from microseconds. */
export function brief(us) {
  if (us == null) return "–";
  if (us < 1000) return `${whole.format(us)} µs`;
  if (us < 1e6) return `${(us / 1000).toFixed(us < 1e4 ? 1 : 0)} ms`;
  return `${(us / 1e6).toFixed(us < 1e7 ? 1 : 0)} s`;
}

/** A long time, from milliseconds. */
export function age(ms) {
  const seconds = Math.max(0, Math.round(ms / 1000));
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${Math.floor(seconds % 3600 / 60)} min`;
  return `${Math.floor(seconds / 86400)} d ${Math.floor(seconds % 86400 / 3600)} h`;
}

export function clock(time) {
  const date = new Date(time);
  return `${date.toLocaleTimeString("en-GB")}.${String(date.getMilliseconds()).padStart(3, "0")}`;
}

export function moment(time) {
  return element("time", { datetime: time }, new Date(time).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "medium" }));
}
