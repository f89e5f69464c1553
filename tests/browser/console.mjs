// Drives the console in a real browser against a running Holdfast with clients: token, list, send, messages, reload, close.
// Usage: node tests/browser/console.mjs HOLDFAST [folder for screenshots]
// Needs playwright-core and ws in a node_modules of $PLAYWRIGHT_FROM, and Chromium at $CHROMIUM or /usr/bin/chromium.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { contrasts, names } from "./sanity.mjs";

const require = createRequire(process.env.PLAYWRIGHT_FROM ? join(process.env.PLAYWRIGHT_FROM, "x.js") : import.meta.url);
const { chromium } = require("playwright-core");
const { WebSocket } = require("ws");
const [holdfast, shots] = process.argv.slice(2);
if (!holdfast) {
  console.error("usage: node tests/browser/console.mjs HOLDFAST [SCREENSHOT_FOLDER]");
  process.exit(2);
}
const STEP_MS = 20_000;
const HOSTILE = "<img src=x onerror=document.title='broken'><b>bold</b>";
let chatter;
const complaints = [], outside = [], children = [], sockets = [];

// The application: takes everything, and says who connects.
const app = createServer(async (request, response) => {
  let body = "";
  for await (const piece of request) body += piece;
  if (request.headers["ce-type"] === "holdfast.connect") {
    const user = new URLSearchParams(JSON.parse(body).query).get("user") ?? "";
    response.writeHead(204, { "Holdfast-User": user, "Holdfast-Join": "lobby" }).end();
  } else if (request.headers["ce-event"] === "slow") {
    setTimeout(() => response.writeHead(200, { "content-type": "application/json" }).end('{"type":"done"}'), 40);
  } else {
    response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify({ type: "answer", to: body.slice(0, 100) }));
  }
});
await once(app.listen(0, "127.0.0.1"), "listening");
const folder = await mkdtemp(join(tmpdir(), "holdfast-"));
await writeFile(join(folder, "chat.json"), await readFile(new URL("../../schemas/chat.json", import.meta.url)));
await writeFile(join(folder, "common.json"), await readFile(new URL("../../schemas/common.json", import.meta.url)));

function configuration({ tokens = "", routes = [] } = {}) {
  return [
    `listen: 127.0.0.1:0`, `admin: {listen: "127.0.0.1:0"${tokens}}`, "drain: {window: 10ms, deadline: 2s}",
    "upstreams:", `  app: {http: {url: "http://127.0.0.1:${app.address().port}/events"}}`,
    "  orders: {http: {url: \"http://127.0.0.1:1/orders\", deadline: 100ms, breaker: {failures: 1}}}",
    "endpoints:", "  - path: /ws", "    connect: app", "    push_schema: push.json", "    routes:",
    ...routes, "      - {event: \"chat.*\", schema: chat.json, upstream: app}", "      - {event: \"order.*\", upstream: orders}",
    "      - {event: \"*\", upstream: app}", "",
  ].join("\n");
}

/** Starts Holdfast and reads from its log where it listens. */
async function start(name, text) {
  const path = join(folder, name);
  await writeFile(join(folder, "push.json"), '{"type": "object", "required": ["type"]}');
  await writeFile(path, text);
  const child = spawn(holdfast, ["run", "--config", path], { stdio: ["ignore", "ignore", "pipe"] });
  children.push(child);
  let log = "";
  for await (const piece of child.stderr) {
    log += piece;
    const ready = log.replace(/\u001b\[[0-9;]*m/g, "").split("\n").slice(0, -1).find(line => line.includes("holdfast is ready"));
    if (!ready) continue;
    child.stderr.resume();
    const at = Object.fromEntries([...ready.matchAll(/(listen|admin)="?([0-9.:]+)/g)].map(([, key, value]) => [key, value]));
    return { path, listen: `ws://${at.listen}/ws`, console: `http://${at.admin}/` };
  }
  throw new Error(`Holdfast did not start: ${log}`);
}

async function client(gateway, user) {
  const socket = new WebSocket(`${gateway.listen}?user=${encodeURIComponent(user)}`);
  sockets.push(socket);
  socket.received = [];
  socket.on("message", data => socket.received.push(String(data)));
  await once(socket, "open");
  return socket;
}

async function until(what, condition) {
  const end = Date.now() + STEP_MS;
  for (;;) {
    const found = await condition();
    if (found) return found;
    if (Date.now() > end) throw new Error(`not in time: ${what}`);
    await new Promise(resume => setTimeout(resume, 30));
  }
}

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync"],
});

async function open(url, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, colorScheme: "light", ...options });
  await context.addInitScript(() => {
    document.addEventListener("securitypolicyviolation", event => console.error(`violates ${event.violatedDirective}: ${event.blockedURI}`));
  });
  const page = await context.newPage();
  page.setDefaultTimeout(STEP_MS);
  page.on("console", message => {
    // A refused call is one that a step provoked, and looks for on the page.
    const isRefusal = /Failed to load resource.*\b(401|403|410|422)\b/.test(message.text());
    if (message.type() === "error" && !isRefusal) complaints.push(message.text());
  });
  page.on("pageerror", error => complaints.push(String(error)));
  page.on("request", request => { if (new URL(request.url()).origin !== new URL(url).origin && !request.url().startsWith("data:")) outside.push(request.url()); });
  await page.goto(url);
  return page;
}

async function step(name, run) {
  const begun = Date.now();
  try {
    const result = await run();
    console.log(`ok   ${name} (${Date.now() - begun} ms)`);
    return result;
  } catch (error) {
    throw new Error(`${name}: ${error.message.split("\n").slice(0, 3).join(" ")}`);
  }
}

const seen = (page, selector, text) => page.locator(selector).filter({ hasText: text }).first().waitFor();

async function giveToken(page, token) {
  await page.getByLabel("Token of the admin listener").fill(token);
  await page.getByRole("button", { name: "Open" }).click();
}

async function look(page, name) {
  const wrong = await page.evaluate(names);
  if (wrong.length) throw new Error(`${name}: ${wrong.join("; ")}`);
  for (const width of [1280, 390]) {
    await page.setViewportSize({ width, height: width === 390 ? 844 : 800 });
    const found = await page.evaluate(() => document.documentElement.scrollWidth);
    if (found > width) throw new Error(`${name}: found ${found} pixels of width, expected ${width}`);
    for (const colorScheme of ["light", "dark"]) {
      await page.emulateMedia({ colorScheme, reducedMotion: "reduce" });
      const pale = await page.evaluate(contrasts);
      if (pale.length) throw new Error(`${name}, ${colorScheme}: ${pale.join("; ")}`);
      if (shots) await page.screenshot({ path: join(shots, `console-${name}-${width}-${colorScheme}.png`), fullPage: width === 390 });
    }
  }
  await page.setViewportSize({ width: 1280, height: 800 });
  await page.emulateMedia({ colorScheme: "light", reducedMotion: "no-preference" });
}

async function converse() {
  const tokens = ", tokens: {boss: {token: boss-token-boss, scopes: [read, push, admin]}, looker: {token: looker-token-l, scopes: [read]}}";
  const gateway = await start("holdfast.yaml", configuration({ tokens }));
  const crowd = await Promise.all(Array.from({ length: 55 }, (_, i) => client(gateway, `guest${i}`)));
  chatter = setInterval(() => {
    const socket = crowd[Math.floor(Math.random() * crowd.length)];
    socket.send(JSON.stringify({ type: "chat.send", text: "x".repeat(1 + Math.random() * 200) }));
    if (Math.random() < 0.1) socket.send('{"type":"chat.send"}');
    if (Math.random() < 0.05) socket.send('{"type":"order.created"}');
  }, 40);
  const page = await step("the console opens and asks for a token", async () => {
    const page = await open(gateway.console);
    if (new URL(page.url()).pathname !== "/console") throw new Error(`found ${page.url()}`);
    await page.locator("#token-dialog[open]").waitFor();
    return page;
  });
  await step("a wrong token is refused in words", async () => {
    await giveToken(page, "wrong");
    await seen(page, "#token-why", "This token is not known here.");
  });
  await look(page, "token");
  await step("with the right one it shows what the node does", async () => {
    await giveToken(page, "boss-token-boss");
    await seen(page, ".plot output", "55");
    await seen(page, "#state", "generation 1");
    if (await page.evaluate(() => document.cookie + localStorage.getItem("holdfast-token"))  !== "null") throw new Error("the token left its tab");
    await seen(page, ".plot", "schema_violation");
    await seen(page, "tbody tr", "127.0.0.1:1");
    await seen(page, ".mark.bad", "open");
    await seen(page, "tbody tr", "refused");
  });
  await step("plots move", async () => {
    const line = page.locator(".plot").nth(1).locator(".line-2");
    const drawn = () => line.getAttribute("d");
    const before = await drawn();
    await until("another line", async () => (await drawn()) !== before && (await drawn()).includes("L"));
  });
  await look(page, "overview");

  const ann = await step("a connection appears while the list is looked at", async () => {
    await page.keyboard.press("2");
    await seen(page, ".count", "1 to 50 of 55");
    await page.getByRole("button", { name: "Older" }).click();
    await seen(page, ".count", "51 to 55 of 55");
    await page.getByRole("button", { name: "Newer" }).click();
    const ann = await client(gateway, `ann ${HOSTILE}`);
    await seen(page, "tbody td", "ann <img");
    return ann;
  });
  await look(page, "connections");
  await step("search and keys open it, Esc goes back", async () => {
    await page.keyboard.press("/");
    await page.keyboard.type("ANN <img");
    await seen(page, ".count", "1 found");
    await page.keyboard.press("ArrowDown");
    await page.keyboard.press("Enter");
    await seen(page, ".facts dd", "ann <img");
    await page.keyboard.press("Escape");
    await seen(page, ".count", "1 found");
    await page.keyboard.press("j");
    await page.keyboard.press("Enter");
    await seen(page, ".facts dd", "lobby");
    await page.keyboard.press("?");
    await page.locator("#keys-dialog[open]").waitFor();
    await page.keyboard.press("Escape");
  });
  await step("a message that is sent here reaches its socket", async () => {
    await page.getByLabel("Message", { exact: true }).fill('{"type": "notice", "text": "hello"');
    await page.getByRole("button", { name: "Send", exact: true }).click();
    await seen(page, ".outcome.failed", "No JSON");
    await page.getByLabel("Message", { exact: true }).fill('{"text": "hello"}');
    await page.getByRole("button", { name: "Send", exact: true }).click();
    await seen(page, ".outcome.failed .problems li", "type");
    await page.getByLabel("Message", { exact: true }).fill('{"type": "notice", "text": "hello"}');
    await page.getByRole("button", { name: "Send", exact: true }).click();
    await seen(page, ".outcome.good", "Written");
    await until("the message", () => ann.received.some(text => text.includes('"notice"')));
  });
  await step("its messages show rule, schema, attempts and stages", async () => {
    ann.send('{"type":"chat.send","text":"hello there"}');
    const row = page.locator("tr.in", { hasText: "chat.send" }).filter({ hasText: "attempt" }).first();
    await row.waitFor();
    const words = await row.textContent();
    for (const part of ["chat.*", "chat.json @", "app", "1 attempt"]) {
      if (!words.includes(part)) throw new Error(`expected ${part}, found ${words}`);
    }
    const stages = await row.locator("svg").getAttribute("aria-label");
    if (!/upstream [0-9.]+ (µs|ms)/.test(stages)) throw new Error(`found the stages ${stages}`);
    await row.getByRole("button").click();
    await seen(page, "tr.more pre", "hello there");
    await seen(page, "tr.more dl", "Generation1");
    await seen(page, "tr.out", "answer");
    ann.send('{"type":"chat.send"}');
    await seen(page, "tr.in td.failed", "schema_violation");
    ann.send('{"type":"slow"}');
    await seen(page, "tr.in", "slow");
  });
  await step("markup arrives as text", async () => {
    ann.send(JSON.stringify({ type: HOSTILE, text: HOSTILE }));
    await seen(page, "tr.in", "<b>bold</b>");
    await page.locator("tr.in", { hasText: "<b>bold</b>" }).first().getByRole("button").click();
    await seen(page, "tr.more pre", HOSTILE);
    if (await page.locator("main img, main b").count()) throw new Error("found elements made of a message");
  });
  await look(page, "connection");
  await step("a group is sent to", async () => {
    await page.getByRole("link", { name: "Send", exact: true }).click();
    await page.getByLabel("Name of the group").fill("lobby");
    await page.getByLabel("Message", { exact: true }).fill('{"type": "all"}');
    await page.getByRole("button", { name: "Send", exact: true }).click();
    await seen(page, ".outcome.good", "Delivered to 56, dropped 0.");
    await until("the message", () => ann.received.some(text => text.includes('"all"')));
  });
  await look(page, "send");
  await step("a reload shows what it changed", async () => {
    await page.getByRole("link", { name: "Configuration" }).click();
    await writeFile(gateway.path, configuration({ tokens, routes: ["      - {event: \"new.*\", upstream: app}"] }));
    await page.getByRole("button", { name: "Reload" }).click();
    await seen(page, ".facts dd", "2");
    await seen(page, "tbody tr", "endpoints[/ws].routes");
  });
  await step("a refused one says why", async () => {
    await writeFile(gateway.path, configuration({ tokens, routes: ["      - {event: \"new.*\", upstream: nobody}"] }));
    await page.getByRole("button", { name: "Reload" }).click();
    await seen(page, ".outcome.failed", "the old one stays");
    await seen(page, ".refusal li", "nobody");
    await seen(page, "#state", "reload refused");
  });
  await look(page, "configuration");
  await step("a connection is closed with code and reason, after a question", async () => {
    await page.getByRole("link", { name: "Connections", exact: true }).click();
    await page.getByLabel("Search").fill("ann <img");
    await seen(page, ".count", "1 found");
    await page.locator("tbody a").click();
    await page.getByRole("button", { name: "Close…" }).click();
    await page.getByLabel("Reason").fill("enough for today");
    await look(page, "close");
    await page.getByRole("button", { name: "Cancel" }).click();
    await page.getByRole("button", { name: "Close…" }).click();
    const closed = once(ann, "close");
    await page.getByLabel("Code").fill("4501");
    await page.getByRole("button", { name: "Close connection" }).click();
    const [code, reason] = await closed;
    if (code !== 4501 || String(reason) !== "enough for today") throw new Error(`found ${code} ${reason}`);
    await seen(page, "tr.notice", "4501");
    await seen(page, ".empty", "This connection is gone.");
  });
  await step("the switch of the theme is remembered", async () => {
    const ground = () => page.evaluate(() => getComputedStyle(document.documentElement).backgroundColor);
    const light = await ground();
    await page.getByRole("button", { name: "Theme: auto" }).click();
    if ((await ground()) === light) throw new Error("expected another ground");
    await page.reload();
    await seen(page, "#theme", "Dark");
    await page.getByRole("button", { name: "Theme: dark" }).click();
  });
  await step("a token without a scope is told which it lacks", async () => {
    await page.getByRole("button", { name: "Forget token" }).click();
    await giveToken(page, "looker-token-l");
    await seen(page, "#state", "generation");
    await page.getByRole("link", { name: "Send", exact: true }).click();
    await page.getByLabel("Name of the group").fill("lobby");
    await page.getByLabel("Message", { exact: true }).fill("{}");
    await page.getByRole("button", { name: "Send", exact: true }).click();
    await seen(page, ".outcome.failed", 'has not the scope "push"');
  });
  clearInterval(chatter);
  await step("on loopback without tokens no form appears, and calls pass", async () => {
    const plain = await start("plain.yaml", configuration());
    const ben = await client(plain, "ben");
    const page = await open(`${plain.console}console#/send?user=ben`);
    await page.getByLabel("Message", { exact: true }).fill('{"type": "hello"}');
    await page.getByRole("button", { name: "Send", exact: true }).click();
    await seen(page, ".outcome.good", "Delivered to 1");
    await until("the message", () => ben.received.some(text => text.includes("hello")));
    if (await page.locator("dialog[open]").count()) throw new Error("found a form");
  });
  if (complaints.length) throw new Error(`found console errors: ${complaints.join("; ")}`);
  if (outside.length) throw new Error(`found requests to elsewhere: ${outside.join("; ")}`);
}

try {
  if (shots) await mkdir(shots, { recursive: true });
  await converse();
  console.log("the console works");
} catch (error) {
  console.error(`FAILED ${error.message}`);
  for (const complaint of complaints) console.error(`  console: ${complaint}`);
  process.exitCode = 1;
} finally {
  clearInterval(chatter);
  sockets.forEach(socket => socket.terminate());
  children.forEach(child => child.kill("SIGKILL"));
  await browser.close();
  app.close();
  app.closeAllConnections();
  await rm(folder, { recursive: true, force: true });
}
