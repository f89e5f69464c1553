// Calls to the admin API with the token of this tab. Knows HTTP; must not know what is shown.

const TOKEN = "holdfast-token";
const base = new URL("./", document.baseURI);

/** Set by the page: called when a call wants a token that there is not. */
export const hooks = { unauthorised: () => {} };

export const token = {
  get: () => sessionStorage.getItem(TOKEN),
  set: value => sessionStorage.setItem(TOKEN, value),
  forget: () => sessionStorage.removeItem(TOKEN),
};

/** A call that was refused, or found nobody; `message` is for people. */
export class Refused extends Error {
  constructor(status, error) {
    super(error.message ?? `the answer was ${status}`);
    this.status = status;
    this.code = error.code;
    this.reason = error.reason;
    this.problems = error.problems ?? (error.errors ?? []).map(at => `${at.pointer || "the whole message"}: ${at.message}`);
  }
}

async function request(method, path, { body, type, signal, accept } = {}) {
  const headers = {};
  const used = token.get();
  if (used) headers.Authorization = `Bearer ${used}`;
  if (type) headers["Content-Type"] = type;
  if (accept) headers.Accept = accept;
  let answer;
  try {
    answer = await fetch(new URL(path, base), { method, headers, body, signal, cache: "no-store", credentials: "same-origin" });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Refused(0, { code: "unreachable", message: "Holdfast does not answer" });
  }
  if (answer.ok) return answer;
  const refusal = await answer.json().catch(() => ({}));
  const refused = new Refused(answer.status, { ...refusal, ...refusal.error });
  // Of several calls with one token the first tells.
  if (answer.status === 401 && used === token.get()) {
    token.forget();
    hooks.unauthorised(used ? "This token is not known here." : "");
  }
  throw refused;
}

/** The answer's JSON, or null where there is none. */
export async function call(method, path, options) {
  const answer = await request(method, path, options);
  const type = answer.headers.get("content-type") ?? "";
  return type.includes("json") ? answer.json() : null;
}

/** Objects of a stream of lines, until it ends or `signal` ends it. */
export async function* lines(path, signal) {
  const answer = await request("GET", path, { signal, accept: "application/x-ndjson" });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n");
    rest = parts.pop();
    for (const line of parts) if (line.trim()) yield JSON.parse(line);
  }
}

export function query(values) {
  const filled = Object.entries(values).filter(([, value]) => value != null && value !== "" && value !== 0);
  return filled.length ? `?${new URLSearchParams(filled)}` : "";
}

/** Runs `job` now and every `everyMs` while the page is seen, one at a time, until the returned function is called. */
export function repeat(everyMs, job) {
  let timer, ended = false, isRunning = false;
  const turn = async () => {
    clearTimeout(timer);
    if (ended || isRunning || document.hidden) return;
    isRunning = true;
    await job();
    isRunning = false;
    if (!ended) timer = setTimeout(turn, everyMs);
  };
  document.addEventListener("visibilitychange", turn);
  turn();
  const end = () => {
    ended = true;
    clearTimeout(timer);
    document.removeEventListener("visibilitychange", turn);
  };
  return Object.assign(end, { now: turn });
}
