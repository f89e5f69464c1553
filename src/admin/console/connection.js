// One connection: its facts, its messages as they go, a send, its close.

import { call, query, repeat } from "./api.js";
import { lastList } from "./connections.js";
import { age, bytes, element, facts, moment, number, say } from "./dom.js";
import { messages } from "./messages.js";
import { sendForm } from "./send.js";

const EVERY_MS = 2000;

export function connection(main, { id }) {
  const path = `v1/connections/${encodeURIComponent(id)}`;
  const list = element("dl", { class: "facts" });
  const gone = element("p", { class: "empty", hidden: true, role: "status" }, "This connection is gone.");
  const closing = element("button", { type: "button", class: "danger", onclick: () => ask(id, path) }, "Close…");
  const live = messages({ connection: id }, () => poll?.now());
  const form = sendForm({ kind: "connection", name: id });
  main.append(
    element("p", { class: "back" }, element("a", { href: lastList, "aria-keyshortcuts": "Escape" }, "← Connections")),
    element("div", { class: "bar" }, element("h1", { tabindex: "-1", class: "mono" }, id), closing),
    element("div", { class: "split" },
      element("div", { class: "side" },
        element("section", {}, element("h2", { class: "unseen" }, "Facts"), gone, list),
        element("section", {}, element("h2", {}, "Send to it"), form)),
      element("section", { class: "rest" }, live.node)));

  const poll = repeat(EVERY_MS, async () => {
    try {
      list.replaceChildren(...show(await call("GET", path)));
      gone.hidden = true;
    } catch (refused) {
      if (refused.status !== 410 && refused.status !== 400) {
        say(refused.message, true);
        return;
      }
      gone.hidden = false;
      gone.textContent = refused.status === 410 ? "This connection is gone." : refused.message;
      for (const button of [closing, ...form.querySelectorAll("button")]) button.disabled = true;
      poll();
    }
  });
  return () => { poll(); live.end(); };
}

function show(c) {
  return facts([
    ["User", c.user],
    ["Endpoint", element("span", { class: "mono" }, c.endpoint)],
    ["Address", element("span", { class: "mono" }, c.remote_addr)],
    ["Groups", c.groups.join(", ") || "none"],
    ["Subprotocol", c.subprotocol],
    ["Context", c.context && element("span", { class: "mono" }, c.context)],
    ["Opened", element("span", {}, moment(c.opened_at), `, ${age(Date.now() - new Date(c.opened_at))} ago`)],
    ["Messages", `${number(c.received)} in, ${number(c.sent)} out`],
    ["Unread", bytes(c.mailbox_bytes)],
  ]);
}

/** Asks for code and reason before it closes. */
function ask(id, path) {
  const dialog = document.getElementById("close-dialog");
  const [code, reason] = [document.getElementById("close-code"), document.getElementById("close-reason")];
  document.getElementById("close-whose").textContent = id;
  document.getElementById("close-cancel").onclick = () => dialog.close();
  document.getElementById("close-form").onsubmit = async event => {
    event.preventDefault();
    dialog.close();
    try {
      await call("DELETE", `${path}${query({ code: code.value, reason: reason.value })}`);
      say(`Closing ${id} with ${code.value}.`);
    } catch (refused) {
      say(refused.message, true);
    }
  };
  dialog.showModal();
}
