// The last five minutes of `/v1/stats` as rates and percentiles, and the newest `/v1/config`. Must not know how they are shown.

import { call, repeat } from "./api.js";

const EVERY_MS = 2000;
const SPAN_MS = 300_000;
/** Percentiles and the figures of upstreams look back so far, since a poll alone sees few attempts. */
const LOOK_BACK_MS = 10_000;

export const samples = [];
export const state = { config: null, ready: null, refused: null };
const listeners = new Set();
let poll;

/** Calls `listener` after each poll; the returned function ends that. */
export function listen(listener) {
  listeners.add(listener);
  listener();
  return () => listeners.delete(listener);
}

export function start() {
  poll?.();
  poll = repeat(EVERY_MS, look);
}

/** Looks again at once, for instance after a reload. */
export function refresh() {
  return look();
}

export function stop() {
  poll?.();
  listeners.forEach(listener => listener());
}

async function look() {
  try {
    const [stats, config, ready] = await Promise.all([
      call("GET", "v1/stats"), call("GET", "v1/config"),
      call("GET", "readyz").catch(refused => ({ ready: false, reason: refused.reason ?? "not ready" }))]);
    Object.assign(state, { config, ready, refused: null });
    add(stats);
  } catch (refused) {
    state.refused = refused;
    if (refused.status === 401) poll?.();
  }
  listeners.forEach(listener => listener());
}

function add(stats) {
  const at = Date.now();
  const last = samples.at(-1);
  // The program was started anew.
  if (last && stats.opened < last.stats.opened) samples.length = 0;
  const sample = { at, stats };
  const before = samples.at(-1);
  const back = samples.findLast(old => at - old.at >= LOOK_BACK_MS - EVERY_MS / 2) ?? samples[0];
  if (before) {
    const seconds = (at - before.at) / 1000;
    const each = name => (stats[name] - before.stats[name]) / seconds;
    for (const name of ["received", "sent", "opened", "closed"]) sample[name] = each(name);
    sample.errors = (errors(stats) - errors(before.stats)) / seconds;
    const buckets = Object.entries(stats.upstreams).map(([name, now]) => since(now, back.stats.upstreams[name]));
    const sum = buckets.reduce((sum, these) => these.map((b, i) => ({ seconds: b.seconds, count: b.count + (sum[i]?.count ?? 0) })), []);
    sample.p50 = percentile(sum, 0.5);
    sample.p99 = percentile(sum, 0.99);
  }
  samples.push(sample);
  while (samples[0].at < at - SPAN_MS) samples.shift();
}

function errors(stats) {
  return Object.entries(stats.events).reduce((sum, [outcome, count]) => outcome === "delivered" ? sum : sum + count, 0);
}

/** Refused events of the time that is plotted, by code, the most frequent first. */
export function errorCodes() {
  const [first, last] = [samples[0]?.stats.events ?? {}, samples.at(-1)?.stats.events ?? {}];
  return Object.entries(last).filter(([code]) => code !== "delivered")
    .map(([code, count]) => [code, count - (first[code] ?? 0)])
    .filter(([, count]) => count > 0).sort((a, b) => b[1] - a[1]);
}

/** Figures of one upstream over the last seconds. */
export function upstream(name) {
  const last = samples.at(-1);
  const now = last?.stats.upstreams[name];
  if (!now) return null;
  const back = samples.findLast(old => last.at - old.at >= LOOK_BACK_MS - EVERY_MS / 2) ?? samples[0];
  const old = back.stats.upstreams[name];
  const count = attempts => Object.values(attempts ?? {}).reduce((a, b) => a + b, 0);
  const good = attempts => ["ok", "rejected", "confirmed"].reduce((sum, outcome) => sum + (attempts?.[outcome] ?? 0), 0);
  const seconds = (last.at - back.at) / 1000;
  const each = of => seconds > 0 ? (of(now.attempts) - of(old?.attempts)) / seconds : null;
  const buckets = since(now, old);
  return {
    inFlight: now.in_flight, waiting: now.waiting,
    rate: each(count), failures: each(attempts => count(attempts) - good(attempts)),
    p50: percentile(buckets, 0.5), p99: percentile(buckets, 0.99),
  };
}

function since(now, old) {
  return now.latency.map((bucket, i) => ({ seconds: bucket.seconds, count: bucket.count - (old?.latency[i]?.count ?? 0) }));
}

/** In microseconds, from cumulative buckets, straight within one; null if there was nothing. */
function percentile(buckets, share) {
  const total = buckets.at(-1)?.count ?? 0;
  if (total === 0) return null;
  const wanted = total * share;
  const at = buckets.findIndex(bucket => bucket.count >= wanted);
  const [low, under] = at > 0 ? [buckets[at - 1].seconds, buckets[at - 1].count] : [0, 0];
  const high = buckets[at].seconds;
  if (high == null) return low * 1e6;
  return (low + (high - low) * (wanted - under) / (buckets[at].count - under)) * 1e6;
}
