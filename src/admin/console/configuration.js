// The configuration in use, what its last reload changed, and why one was refused.

import { call } from "./api.js";
import { age, element, facts, moment, number, table } from "./dom.js";
import * as stats from "./stats.js";

export function configuration(main) {
  const list = element("dl", { class: "facts across" });
  const outcome = element("div", { class: "outcome", role: "status" });
  const button = element("button", { type: "button", class: "main", onclick: reload }, "Reload");
  const refusal = element("section", { hidden: true });
  const diff = element("section");
  main.append(element("div", { class: "bar" }, element("h1", { tabindex: "-1" }, "Configuration"), button), outcome, list, refusal, diff);
  let shown;
  return stats.listen(() => {
    const { config } = stats.state;
    if (!config) return;
    list.replaceChildren(...facts([
      ["Generation", number(config.generation)],
      ["Loaded", element("span", {}, moment(config.loaded_at), `, ${age(Date.now() - new Date(config.loaded_at))} ago`)],
      ["Hash", element("span", { class: "mono" }, config.hash.slice(0, 16))],
      ["Endpoints", element("span", { class: "mono" }, config.endpoints.join("  "))],
    ]));
    // Only when it says something new: it may be selected, or read out.
    const news = JSON.stringify([config.generation, config.last_error, config.last_diff]);
    if (news === shown) return;
    shown = news;
    showRefusal(refusal, config.last_error);
    diff.replaceChildren(...showDiff(config));
  });

  async function reload() {
    button.disabled = true;
    try {
      const { generation, changed } = await call("POST", "v1/config/reload");
      tell("good", changed ? `Generation ${generation} is in use.` : `Nothing to change: generation ${generation} says the same.`);
    } catch (refused) {
      tell("failed", `${refused.message.replace(/^./, first => first.toUpperCase())}.`);
    }
    button.disabled = false;
    await stats.refresh();
  }

  function tell(kind, words) {
    outcome.className = `outcome ${kind}`;
    outcome.replaceChildren(element("p", {}, words));
  }
}

function showRefusal(section, error) {
  section.hidden = !error;
  section.className = "refusal";
  if (!error) return;
  section.replaceChildren(
    element("h2", {}, "The last reload was refused"),
    element("p", {}, moment(error.at), `. The configuration above stays in use.`),
    element("ul", { class: "problems" }, error.problems.map(problem => element("li", {}, problem))));
}

function showDiff({ last_diff: changes }) {
  const heading = element("h2", {}, "What the last reload changed");
  if (!changes?.length) return [heading, element("p", { class: "empty" }, "Nothing since the start.")];
  const rows = changes.map(({ path, change, from, to }) => element("tr", {},
    element("th", { scope: "row", class: "mono" }, path), element("td", { class: "kind" }, change),
    element("td", { class: "mono from" }, written(from)), element("td", { class: "mono to" }, written(to))));
  const shown = table("Changes", [["Where"], ["What", "kind"], ["Before"], ["Now"]], element("tbody", {}, rows));
  shown.classList.add("changes");
  return [heading, shown];
}

function written(value) {
  if (value == null) return "–";
  if (typeof value === "string") return value;
  if (Array.isArray(value) && value.every(item => typeof item === "string")) return value.join("\n");
  if (typeof value !== "object" || Array.isArray(value)) return JSON.stringify(value);
  return Object.entries(value).map(([key, part]) => `${key}: ${typeof part === "string" ? part : JSON.stringify(part)}`).join("\n");
}
