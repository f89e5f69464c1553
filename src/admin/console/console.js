// The page: sections by the address's hash, keys, theme, the token's form.

import { hooks, token } from "./api.js";
import { configuration } from "./configuration.js";
import { connection } from "./connection.js";
import { connections, lastList } from "./connections.js";
import { text } from "./dom.js";
import { overview } from "./overview.js";
import { send } from "./send.js";
import * as stats from "./stats.js";

const SECTIONS = ["#/", "#/connections", "#/send", "#/configuration"];
const THEMES = ["auto", "dark", "light"];
const THEME = "holdfast-theme";
const $ = id => document.getElementById(id);
const main = $("main");

let end = () => {};
let leads = null;

function show() {
  const [path, values = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [section, id] = path.split("/").map(decode);
  const view = { "": overview, connections: id ? connection : connections, send, configuration }[section] ?? overview;
  end();
  main.replaceChildren();
  leads = view === connection ? lastList : section ? "#/" : null;
  for (const link of document.querySelectorAll("nav a")) {
    const isHere = link.hash === `#/${section}`;
    if (isHere) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  end = view(main, { id, values: new URLSearchParams(values) }) ?? (() => {});
  const title = main.querySelector("h1");
  document.title = `${title.textContent} · Holdfast`;
  if (!document.querySelector("dialog[open]")) title.focus({ preventScroll: true });
  scrollTo(0, 0);
}

function decode(words) {
  try {
    return decodeURIComponent(words);
  } catch {
    return words;
  }
}

// Keys

function step(by) {
  const rows = [...main.querySelectorAll("tbody th a, tbody button.opens")];
  if (rows.length === 0) return;
  const at = rows.indexOf(document.activeElement);
  const next = rows[at < 0 ? (by > 0 ? 0 : rows.length - 1) : Math.min(rows.length - 1, Math.max(0, at + by))];
  next.focus();
  next.scrollIntoView({ block: "nearest" });
}

function search() {
  const field = $("search");
  if (field) {
    field.focus();
    field.select();
  } else {
    location.hash = "#/connections";
    addEventListener("hashchange", () => $("search")?.focus(), { once: true });
  }
}

function back(field) {
  if (field?.value && field.type === "search") {
    field.value = "";
    field.dispatchEvent(new Event("input"));
  } else if (field) {
    field.blur();
  } else if (leads) {
    location.hash = leads;
  }
}

const KEYS = {
  "/": search, "?": () => $("keys-dialog").showModal(), "j": () => step(1), "k": () => step(-1), "p": () => $("pause")?.click(),
  "1": () => { location.hash = SECTIONS[0]; }, "2": () => { location.hash = SECTIONS[1]; },
  "3": () => { location.hash = SECTIONS[2]; }, "4": () => { location.hash = SECTIONS[3]; },
};

document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const field = event.target.closest("input, textarea, select");
  const isList = !field || field.type === "search";
  let run = null;
  if (event.key === "Escape") run = () => back(field);
  else if (isList && event.key === "ArrowDown") run = () => step(1);
  else if (isList && event.key === "ArrowUp") run = () => step(-1);
  else if (!field) run = KEYS[event.key];
  // Without rows the arrows scroll.
  if (!run || (event.key.startsWith("Arrow") && !main.querySelector("tbody th a, tbody button.opens"))) return;
  event.preventDefault();
  run();
});

// Theme

function applyTheme() {
  const theme = localStorage.getItem(THEME) ?? "auto";
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  $("theme").textContent = { auto: "Auto", dark: "Dark", light: "Light" }[theme];
  $("theme").setAttribute("aria-label", `Theme: ${theme}`);
}

$("theme").addEventListener("click", () => {
  const theme = localStorage.getItem(THEME) ?? "auto";
  localStorage.setItem(THEME, THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length]);
  applyTheme();
});
$("help").addEventListener("click", () => $("keys-dialog").showModal());

// Token

hooks.unauthorised = why => {
  // Whatever the section goes on to ask would be answered the same.
  end();
  end = () => {};
  const dialog = $("token-dialog");
  $("token-why").textContent = why;
  if (!dialog.open) dialog.showModal();
};

$("token-form").addEventListener("submit", event => {
  event.preventDefault();
  token.set($("token").value.trim());
  $("token").value = "";
  $("token-dialog").close();
  begin();
});

// Without a token there is nothing to go back to.
$("token-dialog").addEventListener("cancel", event => event.preventDefault());

$("forget").addEventListener("click", () => {
  token.forget();
  stats.samples.length = 0;
  stats.state.config = null;
  begin();
});

// What the header tells of the node

function tell() {
  const { config, ready, refused } = stats.state;
  const trouble = $("trouble");
  trouble.hidden = !refused || refused.status === 401;
  text(trouble, refused && refused.status !== 401 ? words(refused) : "");
  const state = $("state");
  state.className = `state ${ready?.ready === false || config?.last_error ? "bad" : ""}`;
  text($("generation"), config ? `generation ${config.generation}` : "");
  text($("warning"), ready?.ready === false ? `not ready: ${ready.reason ?? "draining"}` : config?.last_error ? "reload refused" : "");
}

function words(refused) {
  if (refused.status === 0) return "Holdfast does not answer. This page goes on asking.";
  if (refused.status === 403) return `Not allowed: ${refused.message}.`;
  return `${refused.message} (${refused.status}).`;
}

function begin() {
  $("forget").hidden = !token.get();
  stats.start();
  show();
}

applyTheme();
stats.listen(tell);
addEventListener("hashchange", show);
begin();
