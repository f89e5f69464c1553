// Drives the examples' pages in a real browser: `node pages.mjs BUILD HOLDFAST`. The environment is that of examples/holdfast.yaml, and
// an example's handler already answers at APP_URL. PLAYWRIGHT_FROM names the folder whose node_modules holds playwright-core.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { dirname, join, resolve } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { pathToFileURL } from "node:url";

const { chromium } = createRequire(join(process.env.PLAYWRIGHT_FROM, "x.js"))("playwright-core");
const [build, binary] = process.argv.slice(2);
const { HOLDFAST_LISTEN, HOLDFAST_ADMIN, HOLDFAST_ADMIN_TOKEN } = process.env;
const STEP_MS = 10_000;
const complaints = [];

async function eventually(what, check) {
  const deadline = Date.now() + STEP_MS;
  for (;;) {
    const found = await check();
    if (found) return found;
    if (Date.now() > deadline) throw new Error(`expected ${what} within ${STEP_MS} ms`);
    await pause(20);
  }
}

async function startHoldfast() {
  const holdfast = spawn(binary, ["run", "--config", resolve("examples/holdfast.yaml")], { stdio: ["ignore", "inherit", "inherit"] });
  await eventually("Holdfast to be ready", () => fetch(`${HOLDFAST_ADMIN}/readyz`).then(answer => answer.ok, () => false));
  return holdfast;
}

async function stopHoldfast(holdfast) {
  const gone = once(holdfast, "exit");
  holdfast.kill("SIGTERM");
  await gone;
}

async function rest(method, path) {
  const answer = await fetch(`${HOLDFAST_ADMIN}${path}`, { method, headers: { Authorization: `Bearer ${HOLDFAST_ADMIN_TOKEN}` } });
  const text = await answer.text();
  if (!answer.ok) throw new Error(`expected 2xx to ${method} ${path}, found ${answer.status} ${text}`);
  return text ? JSON.parse(text) : null;
}

const connections = async user => (await rest("GET", `/v1/users/${user}/connections`)).connections;

async function open(browser, folder, user) {
  const page = await browser.newPage();
  page.setDefaultTimeout(STEP_MS);
  page.on("pageerror", error => complaints.push(`${user}: ${error}`));
  // A socket that cannot be opened is such an error too, and expected while Holdfast is away.
  page.on("console", message => {
    if (message.type() === "error" && !message.text().includes("WebSocket connection to")) complaints.push(`${user}: ${message.text()}`);
  });
  await page.clock.install();
  const url = pathToFileURL(resolve(build, folder, "index.html"));
  url.search = new URLSearchParams({ user, ws: `ws://${HOLDFAST_LISTEN}/ws` }).toString();
  await page.goto(url.href);
  await seen(page, "#status", "open");
  return page;
}

async function seen(page, selector, text) {
  await page.locator(selector).filter({ hasText: text }).first().waitFor();
}

async function chat(browser) {
  const ann = await open(browser, "page", "ann");
  const ben = await open(browser, "page", "ben");
  await ann.locator("#text").fill("hello <b>ben</b>");
  await ann.keyboard.press("Enter");
  await seen(ben, "#messages li", "ann: hello <b>ben</b>");
  await seen(ann, "#messages li", "chat.sent");
  await ann.getByRole("button", { name: "Send" }).click();
  await seen(ann, "#messages li", "schema_violation");
  await ann.locator("#text").fill("tea");
  await ann.getByRole("button", { name: "In a second" }).click();
  await seen(ann, "#messages li", "remember: tea");
  await pushFromShell();
  await seen(ann, "#messages li", "remember: from the shell");
  await ann.close();
  await ben.close();
}

// The line that README.md shows.
async function pushFromShell() {
  const [line] = (await readFile("examples/README.md", "utf8")).match(/^holdfast push .*/m);
  const shell = spawn("sh", ["-c", line], { env: { ...process.env, PATH: `${dirname(binary)}:${process.env.PATH}` }, stdio: "inherit" });
  const [status] = await once(shell, "exit");
  if (status !== 0) throw new Error(`expected 0 of ${line}, found ${status}`);
}

// Comes back after 4400 and after a drain's 1012, and not after 4500.
async function comeBack(browser) {
  const page = await open(browser, "reconnecting", "cat");
  let sockets = 0;
  page.on("websocket", () => sockets++);
  const [first] = await connections("cat");
  await rest("DELETE", `/v1/connections/${first}?code=4400`);
  await seen(page, "#status", "waiting: 4400");
  await page.clock.fastForward(6_000);
  await seen(page, "#status", "open");
  await stopHoldfast(holdfast);
  await seen(page, "#status", "waiting: 10");
  holdfast = await startHoldfast();
  await eventually("the page to come back after a drain", async () => {
    await page.clock.fastForward(30_000);
    return (await connections("cat")).length === 1;
  });
  await seen(page, "#status", "open");
  const before = sockets;
  await rest("DELETE", `/v1/connections/${(await connections("cat"))[0]}?code=4500`);
  await seen(page, "#status", "stopped: 4500");
  for (let minute = 0; minute < 5; minute++) await page.clock.fastForward(60_000);
  if (sockets !== before) throw new Error(`expected no try after 4500, found ${sockets - before}`);
  if (before < 2) throw new Error(`expected two sockets more by then, found ${before}: the count shows nothing`);
}

let holdfast = await startHoldfast();
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync"],
});
try {
  await chat(browser);
  await comeBack(browser);
  if (complaints.length) throw new Error(`found errors on the pages: ${complaints.join("; ")}`);
} catch (error) {
  console.error(error);
  process.exitCode = 1;
} finally {
  await browser.close();
  if (holdfast.exitCode === null) await stopHoldfast(holdfast);
}
