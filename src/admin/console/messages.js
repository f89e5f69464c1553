// The last messages of `/v1/watch`, as they go, with what happened to each. They are recorded only while this looks.

import { lines, query } from "./api.js";
import { age, brief, bytes, clock, element, facts, number, svg, table, text } from "./dom.js";

const SHOWN = 100;
const AGAIN_MS = 3000;
const COLUMNS = [["Time", "time"], ["", "arrow"], ["Event"], ["Size", "number size wide"], ["Rule and schema", "rule wide"],
  ["Upstream", "upstream wide"], ["Outcome", "outcome"], ["Stages", "stages"]];
/** The order and the colours of stages; others come behind them. */
const STAGES = ["waited", "checked", "upstream"];

export function messages(filter, onEnd = () => {}) {
  const body = element("tbody");
  const state = element("p", { class: "count", role: "status" });
  const empty = element("p", { class: "empty" }, "Nothing yet. What comes and goes from now on appears here.");
  const pause = element("button", { type: "button", id: "pause", "aria-pressed": "false", "aria-keyshortcuts": "p", onclick: toggle }, "Pause");
  const legend = element("p", { class: "legend", "aria-hidden": "true" },
    STAGES.map((name, i) => element("span", { class: `key stage-${i + 1}` }, name)));
  const node = element("div", { class: "live" },
    element("div", { class: "bar" }, element("h2", {}, "Messages"), state, legend, pause), table("The last messages, the newest first", COLUMNS, body), empty);
  const ending = new AbortController();
  let isPaused = false, held = [], missed = 0;

  watch();
  return { node, end: () => ending.abort() };

  async function watch() {
    while (!ending.signal.aborted) {
      try {
        text(state, "…");
        for await (const record of lines(`v1/watch${query(filter)}`, ending.signal)) take(record);
        text(state, "the stream ended");
      } catch (refused) {
        if (ending.signal.aborted) return;
        text(state, refused.status === 404 ? "this Holdfast shows no messages" : refused.message);
        // The answer would be the same.
        if ([400, 401, 403, 404].includes(refused.status)) return;
      }
      await new Promise(resume => setTimeout(resume, AGAIN_MS));
    }
  }

  function take(record) {
    if (record.kind === "alive") {
      tell();
      return;
    }
    if (record.kind === "missed") missed += record.count;
    if (record.kind === "disconnected") onEnd();
    if (isPaused) {
      held.push(record);
      if (held.length > SHOWN) held.shift();
    } else {
      add(record);
    }
    tell();
  }

  function tell() {
    text(state, (isPaused ? `paused, ${held.length} held` : "live") + (missed ? `, ${number(missed)} missed` : ""));
  }

  function toggle() {
    isPaused = !isPaused;
    pause.setAttribute("aria-pressed", isPaused);
    text(pause, isPaused ? "Resume" : "Pause");
    if (!isPaused) held.splice(0).forEach(add);
    tell();
  }

  function add(record) {
    empty.hidden = true;
    body.prepend(...show(record));
    while (body.children.length > 2 * SHOWN) {
      body.lastElementChild.remove();
      body.lastElementChild.remove();
    }
  }
}

let serial = 0;

/** A row, and a hidden one with everything that is known. */
function show(record) {
  if (record.kind !== "message") return [notice(record), element("tr", { hidden: true })];
  const isIn = record.direction === "in";
  const id = `message-${serial += 1}`;
  const more = element("tr", { id, class: "more", hidden: true }, element("td", { colspan: COLUMNS.length }));
  const name = isIn ? record.event ?? (record.binary != null ? "$binary" : "–") : record.cause;
  const open = element("button", { type: "button", class: "opens", "aria-expanded": "false", "aria-controls": id, onclick: () => {
    more.hidden = !more.hidden;
    open.setAttribute("aria-expanded", !more.hidden);
    if (!more.hidden && !more.firstChild.hasChildNodes()) more.firstChild.append(...detail(record));
  } }, name ?? "–");
  const isGood = ["answered", "accepted", "delivered", "written"].includes(record.outcome);
  const row = element("tr", { class: isIn ? "in" : "out" },
    element("td", { class: "mono" }, time(record)),
    element("td", { class: "arrow" }, element("span", { "aria-hidden": "true" }, isIn ? "→" : "←"), element("span", { class: "unseen" }, record.direction)),
    element("th", { scope: "row" }, open),
    element("td", { class: "number wide" }, bytes(record.size)),
    element("td", { class: "wide two" }, element("span", {}, record.route ?? ""), element("small", {}, schema(record, true))),
    element("td", { class: "wide two" }, element("span", {}, record.upstream ?? ""), element("small", {}, attempts(record))),
    element("td", { class: isGood ? "outcome" : "outcome failed" }, record.outcome ?? ""),
    element("td", { class: "stages" }, bar(record.stages_us)));
  return [row, more];
}

function notice(record) {
  const words = {
    connected: "connected",
    disconnected: `disconnected: ${record.code} ${record.reason ?? ""} (${record.cause}), after ${age(record.duration_ms ?? 0)}`,
    missed: `${number(record.count ?? 0)} records were missed: they came faster than this page took them`,
  }[record.kind] ?? record.kind;
  return element("tr", { class: "notice" },
    element("td", { class: "mono" }, record.time ? time(record) : ""), element("td", { colspan: COLUMNS.length - 1 }, words));
}

function time({ time }) {
  const [seconds, rest] = clock(time).split(".");
  return element("time", { datetime: time }, seconds, element("span", { class: "wide" }, `.${rest}`));
}

function schema({ schema }, isShort = false) {
  return schema ? `${isShort ? schema.file.split("/").at(-1) : schema.file} @ ${schema.hash}` : "";
}

function attempts({ attempts }) {
  return attempts == null ? "" : `${attempts} ${attempts === 1 ? "attempt" : "attempts"}`;
}

/** Indented, where it is whole and JSON. */
function written({ data, binary, cut, hidden }) {
  if (hidden || data == null) return hidden ? "Not shown: this endpoint redacts, or nothing was read of it." : `base64: ${binary ?? ""}`;
  if (cut) return data;
  try {
    return JSON.stringify(JSON.parse(data), null, 2);
  } catch {
    return data;
  }
}

function stagesOf(stages) {
  return Object.entries(stages ?? {}).filter(([name]) => name !== "total")
    .sort(([a], [b]) => (STAGES.indexOf(a) + 1 || 9) - (STAGES.indexOf(b) + 1 || 9));
}

/** Shares of the whole as a bar, and the whole in figures. */
function bar(stages) {
  const parts = stagesOf(stages);
  if (parts.length === 0) return "";
  const sum = parts.reduce((sum, [, us]) => sum + us, 0);
  const total = Math.max(stages.total ?? 0, sum);
  let x = 0;
  const boxes = parts.map(([name, us]) => {
    const width = total ? us / total * 100 : 0;
    const box = svg("rect", { x, y: 0, width, height: 8, class: `stage-${STAGES.indexOf(name) + 1 || 4}` });
    x += width;
    return box;
  });
  const words = parts.map(([name, us]) => `${name} ${brief(us)}`).join(", ");
  return element("span", { class: "timing", title: words },
    svg("svg", { viewBox: "0 0 100 8", preserveAspectRatio: "none", role: "img", "aria-label": words }, boxes), element("span", {}, brief(total)));
}

function detail(record) {
  const times = stagesOf(record.stages_us).map(([name, us]) => `${name} ${brief(us)}`).join(", ");
  const note = record.cut && !record.hidden ? `the first of ${bytes(record.size)}` : "";
  return [
    element("dl", { class: "facts" }, facts([["Number", record.seq], ["Size", bytes(record.size)], ["Rule", record.route], ["Schema", schema(record)],
      ["Upstream", record.upstream && `${record.upstream}, ${attempts(record)}`], ["Generation", record.generation], ["Cause", record.cause],
      ["Outcome", record.outcome], ["Stages", times]])),
    element("pre", { tabindex: "0", "aria-label": "Data" }, written(record)),
    note && element("p", { class: "hint" }, note),
  ].filter(Boolean);
}
