// What the node does now: plots, upstreams, the broker.

import { age, brief, element, number, rate, table } from "./dom.js";
import { plot } from "./plot.js";
import * as stats from "./stats.js";

export function overview(main) {
  const plots = [
    [plot("Connections", [{ name: "open", of: sample => sample.stats.connections }], value => value == null ? "–" : number(value)),
      last => last.opened == null ? "" : `${rate(last.opened)} opened and ${rate(last.closed)} closed a second`],
    [plot("Messages a second", [{ name: "in", of: sample => sample.received }, { name: "out", of: sample => sample.sent }], rate),
      last => `${number(last.stats.received)} in and ${number(last.stats.sent)} out since the start`],
    [plot("Errors a second", [{ name: "refused or undelivered", of: sample => sample.errors }], rate),
      () => stats.errorCodes().slice(0, 3).map(([code, count]) => `${code} ${number(count)}`).join(" · ") || "none in this time"],
    [plot("Upstream latency", [{ name: "p50", of: sample => sample.p50 }, { name: "p99", of: sample => sample.p99 }], brief),
      () => "of attempts and confirms, over ten seconds"],
  ];
  const upstreams = element("div");
  const broker = element("section", { hidden: true });
  main.append(
    element("h1", { tabindex: "-1", class: "unseen" }, "Overview"),
    element("div", { class: "plots" }, plots.map(([each]) => each.node)),
    element("section", {}, element("h2", {}, "Upstreams"), upstreams), broker);
  return stats.listen(() => {
    const last = stats.samples.at(-1);
    plots.forEach(([each, words]) => each.update(stats.samples, last ? words(last) : ""));
    if (!stats.state.config) return;
    upstreams.replaceChildren(showUpstreams(stats.state.config.upstreams));
    const { rabbitmq } = stats.state.config;
    broker.hidden = !rabbitmq;
    if (rabbitmq) broker.replaceChildren(element("h2", {}, "RabbitMQ"), showBroker(rabbitmq));
  });
}

/** A word with a mark whose shape says the same as its colour. */
export function mark(kind, words) {
  return element("span", { class: `mark ${kind}` }, words);
}

const BREAKERS = { closed: ["good", "closed"], half_open: ["wary", "probing"], open: ["bad", "open"] };

function showUpstreams(list) {
  if (list.length === 0) return element("p", { class: "empty" }, "The configuration names none.");
  const rows = list.flatMap(({ name, addresses, error }) => {
    const figures = stats.upstream(name);
    const sums = first => [
      element("td", { class: "number" }, first && figures ? rate(figures.rate) : ""),
      element("td", { class: "number wide" }, first && figures ? rate(figures.failures) : ""),
      element("td", { class: "number wide" }, first && figures ? number(figures.waiting) : ""),
      element("td", { class: "number" }, first && figures ? brief(figures.p50) : ""),
      element("td", { class: "number wide" }, first && figures ? brief(figures.p99) : ""),
    ];
    const row = (first, address, breaker, inFlight, failure) => element("tr", {},
      element("th", { scope: "row" }, first ? name : ""), element("td", { class: "mono wide" }, address), element("td", {}, breaker),
      element("td", { class: "number wide" }, inFlight), sums(first), element("td", { class: "wide grows" }, failure));
    if (addresses.length === 0) {
      const state = error ? mark("bad", "failing") : mark("good", "ready");
      return [row(true, "–", state, figures ? number(figures.inFlight) : "", error ?? "")];
    }
    return addresses.map(({ address, breaker, in_flight, last_failure }, i) => {
      const failure = last_failure ? `${age(Date.now() - new Date(last_failure.at))} ago: ${last_failure.reason}` : "";
      const state = element("span", {}, mark(...BREAKERS[breaker] ?? ["wary", breaker]));
      // Where its own column is hidden.
      if (breaker !== "closed") state.append(element("small", { class: "thin" }, failure));
      return row(i === 0, address, state, number(in_flight), failure);
    });
  });
  return table("Upstreams", [["Name"], ["Address", "wide"], ["Breaker"], ["In flight", "number wide"], ["Attempts/s", "number"],
    ["Failed/s", "number wide"], ["Waiting", "number wide"], ["p50", "number"], ["p99", "number wide"], ["Last failure", "wide"]],
  element("tbody", {}, rows));
}

const LINKS = { connected: "good", connecting: "bad", blocked: "wary" };

function showBroker({ connections, errors }) {
  const rows = connections.map(({ role, state, host, vhost, user, error }) => element("tr", {},
    element("th", { scope: "row" }, role), element("td", {}, mark(LINKS[state] ?? "wary", state)),
    element("td", { class: "mono wide" }, `${user}@${host}${vhost === "/" ? "" : `/${vhost}`}`), element("td", {}, error ?? "")));
  const box = element("div", {}, table("Connections to the broker",
    [["For"], ["State"], ["Broker", "wide"], ["Error"]], element("tbody", {}, rows)));
  if (errors.length) box.append(element("ul", { class: "problems" }, errors.map(error => element("li", {}, error))));
  return box;
}
