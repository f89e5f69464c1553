// A message to a connection, a group, a user or everybody, and what became of it.

import { call } from "./api.js";
import { element, number } from "./dom.js";

const PATHS = {
  connection: name => `v1/connections/${encodeURIComponent(name)}/messages`,
  group: name => `v1/groups/${encodeURIComponent(name)}/messages`,
  user: name => `v1/users/${encodeURIComponent(name)}/messages`,
  all: () => "v1/broadcast",
};
const TYPES = { json: "application/json", text: "text/plain; charset=utf-8" };

export function send(main, { values }) {
  const kind = Object.keys(PATHS).find(kind => values.has(kind)) ?? "group";
  main.append(element("h1", { tabindex: "-1" }, "Send"), element("div", { class: "narrow" }, sendForm({ kind, name: values.get(kind) ?? "", isOpen: true })));
}

/** The form. With `isOpen` its user chooses who gets the message. */
export function sendForm({ kind, name, isOpen = false }) {
  const whom = element("select", { id: "send-kind", onchange: match },
    [["connection", "one connection"], ["group", "a group"], ["user", "a user"], ["all", "everybody"]]
      .map(([value, words]) => element("option", { value, selected: value === kind }, words)));
  const target = element("input", { id: "send-name", type: "text", value: name, autocomplete: "off", spellcheck: "false" });
  const targetLabel = element("label", { for: "send-name" }, "Name");
  const data = element("textarea", { id: "send-data", rows: "5", spellcheck: "false", required: true });
  const outcome = element("div", { class: "outcome", role: "status" });
  const kinds = element("fieldset", {}, element("legend", {}, "As"),
    choice("json", "JSON", true), choice("text", "text", false));
  const button = element("button", { type: "submit", class: "main" }, "Send");
  const form = element("form", { class: "send", onsubmit: submit },
    isOpen && element("div", { class: "fields" },
      element("div", {}, element("label", { for: "send-kind" }, "To"), whom), element("div", { class: "grows" }, targetLabel, target)),
    kinds, element("label", { for: "send-data" }, "Message"), data,
    element("div", { class: "buttons" }, button), outcome);
  match();
  return form;

  function match() {
    const isAll = whom.value === "all";
    target.disabled = isAll;
    target.required = isOpen && !isAll;
    targetLabel.textContent = { connection: "ID", group: "Name of the group", user: "Name of the user", all: "Name" }[whom.value];
  }

  async function submit(event) {
    event.preventDefault();
    const type = form.querySelector("input[name=send-type]:checked").value;
    const to = isOpen ? whom.value : kind;
    if (type === "json") {
      try {
        JSON.parse(data.value);
      } catch (error) {
        tell(true, `No JSON: ${error.message}`);
        data.focus();
        return;
      }
    }
    button.disabled = true;
    try {
      const answer = await call("POST", PATHS[to](isOpen ? target.value : name), { body: data.value, type: TYPES[type] });
      tell(answer.delivered === 0, answer.outcome ? "Written: the bytes are in its socket."
        : `Delivered to ${number(answer.delivered)}, dropped ${number(answer.dropped)}.`);
    } catch (refused) {
      tell(true, refused.message, refused.problems);
    }
    button.disabled = false;
  }

  function tell(isFailure, words, problems = []) {
    outcome.className = isFailure ? "outcome failed" : "outcome good";
    outcome.replaceChildren(element("p", {}, words));
    if (problems.length) outcome.append(element("ul", { class: "problems" }, problems.map(problem => element("li", {}, problem))));
  }
}

function choice(value, words, checked) {
  const id = `send-${value}`;
  return element("span", { class: "choice" }, element("input", { type: "radio", id, name: "send-type", value, checked }), element("label", { for: id }, words));
}
