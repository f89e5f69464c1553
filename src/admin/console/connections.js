// The list of connections: searched, in pages, walked through by keys.

import { call, query, repeat } from "./api.js";
import { age, bytes, element, number, table, text } from "./dom.js";

const PAGE = 50;
const EVERY_MS = 2000;
const COLUMNS = [["Connection"], ["User"], ["Endpoint", "wide"], ["Groups", "wide"], ["Address", "wide"], ["Open for", "number"],
  ["In", "number wide"], ["Out", "number wide"], ["Unread", "number wide"]];

/** Where Esc in a connection leads back to. */
export let lastList = "#/connections";

export function connections(main, { values }) {
  let search = values.get("search") ?? "";
  let offset = Number(values.get("offset")) || 0;
  let total = 0;
  let asked = 0;
  let wait;
  const rows = new Map();

  const input = element("input", { id: "search", type: "search", value: search, spellcheck: "false", autocomplete: "off",
    placeholder: "ID, user, group, endpoint or address", "aria-keyshortcuts": "/", oninput: () => look(input.value) });
  const count = element("p", { class: "count", role: "status" });
  const body = element("tbody");
  const empty = element("p", { class: "empty", hidden: true });
  const newer = element("button", { type: "button", onclick: () => turn(-PAGE) }, "Newer");
  const older = element("button", { type: "button", onclick: () => turn(PAGE) }, "Older");
  main.append(
    element("h1", { tabindex: "-1" }, "Connections"),
    element("div", { class: "bar", role: "search" }, element("label", { for: "search" }, "Search"), input, count),
    table("Connections, the newest first", COLUMNS, body), empty,
    element("div", { class: "pager" }, newer, older));

  remember();
  const poll = repeat(EVERY_MS, refresh);

  function look(words) {
    clearTimeout(wait);
    wait = setTimeout(() => { search = words.trim(); offset = 0; remember(); refresh(); }, 150);
  }

  function turn(by) {
    offset = Math.max(0, offset + by);
    remember();
    refresh();
  }

  function remember() {
    lastList = `#/connections${query({ search, offset })}`;
    history.replaceState(null, "", lastList);
  }

  async function refresh() {
    const mine = asked += 1;
    let answer;
    try {
      answer = await call("GET", `v1/connections${query({ limit: PAGE, offset, search })}`);
    } catch (refused) {
      count.textContent = refused.message;
      return;
    }
    // A later question was answered first.
    if (mine === asked) show(answer);
  }

  function show({ total: all, connections: list }) {
    total = all;
    if (list.length === 0 && offset > 0) {
      offset = Math.max(0, Math.floor((total - 1) / PAGE) * PAGE);
      remember();
      refresh();
      return;
    }
    const last = offset + list.length;
    text(count, total > PAGE ? `${number(offset + 1)} to ${number(last)} of ${number(total)}` : `${number(total)} ${search ? "found" : "open"}`);
    newer.disabled = offset === 0;
    older.disabled = last >= total;
    newer.parentElement.hidden = total <= PAGE;
    empty.hidden = list.length > 0;
    text(empty, search ? "Nothing fits. The search looks in IDs, users, groups, endpoints and addresses." : "Nobody is connected.");
    const ids = new Set(list.map(({ id }) => id));
    for (const id of rows.keys()) if (!ids.has(id)) rows.delete(id);
    const shown = list.map(connection => {
      const row = rows.get(connection.id) ?? makeRow(connection);
      rows.set(connection.id, row);
      row.update(connection);
      return row.node;
    });
    // Moving a row takes its focus away: only where rows came or went.
    if (shown.length !== body.children.length || shown.some((node, i) => node !== body.children[i])) {
      const focused = document.activeElement;
      body.replaceChildren(...shown);
      if (body.contains(focused)) focused.focus({ preventScroll: true });
    }
  }

  return () => { poll(); clearTimeout(wait); };
}

function makeRow({ id, endpoint, remote_addr }) {
  const cells = {};
  const cell = (name, kind) => cells[name] = element("td", { class: kind });
  const node = element("tr", { onclick: event => { if (!event.target.closest("a")) location.hash = `#/connections/${id}`; } },
    element("th", { scope: "row" }, element("a", { class: "mono", href: `#/connections/${id}` }, id)),
    cell("user", "clipped"), element("td", { class: "wide mono" }, endpoint), cell("groups", "wide clipped"), element("td", { class: "wide mono" }, remote_addr),
    cell("age", "number"), cell("in", "number wide"), cell("out", "number wide"), cell("waiting", "number wide"));
  function update({ user, groups, opened_at, received, sent, mailbox_bytes }) {
    text(cells.user, user ?? "–");
    text(cells.groups, groups.join(", ") || "–");
    text(cells.age, age(Date.now() - new Date(opened_at)));
    text(cells.in, number(received));
    text(cells.out, number(sent));
    text(cells.waiting, mailbox_bytes ? bytes(mailbox_bytes) : "–");
  }
  return { node, update };
}
