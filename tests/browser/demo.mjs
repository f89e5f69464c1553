// Drives the demo's page in a real browser: two windows chat, a bad message shows its error frame, the wire panel fills.
// Usage: node tests/browser/demo.mjs http://127.0.0.1:3000/ [folder for screenshots]
// Needs playwright-core (NODE_PATH or a node_modules above this file) and Chromium at $CHROMIUM or /usr/bin/chromium.
import { createRequire } from "node:module";
import { join } from "node:path";

const require = createRequire(process.env.PLAYWRIGHT_FROM ? join(process.env.PLAYWRIGHT_FROM, "x.js") : import.meta.url);
const { chromium } = require("playwright-core");
const [pageUrl, shots] = process.argv.slice(2);
if (!pageUrl) {
  console.error("usage: node tests/browser/demo.mjs PAGE_URL [SCREENSHOT_FOLDER]");
  process.exit(2);
}
const STEP_MS = 8000;
const complaints = [];
const outside = [];

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync"],
});

async function open(name, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(STEP_MS);
  page.on("console", message => {
    if (message.type() === "error") complaints.push(`${name}: ${message.text()}`);
  });
  page.on("pageerror", error => complaints.push(`${name}: ${error}`));
  page.on("request", request => {
    const url = new URL(request.url());
    if (url.protocol.startsWith("http") && url.origin !== new URL(pageUrl).origin) outside.push(`${name}: ${url}`);
  });
  const url = new URL(pageUrl);
  url.searchParams.set("name", name);
  await page.goto(url.href);
  await page.locator("#status[data-state=open]").waitFor();
  await seen(page, "#messages", `You are ${name}.`);
  return page;
}

async function seen(page, selector, text) {
  await page.locator(selector).filter({ hasText: text }).first().waitFor();
}

async function say(page, text) {
  await page.locator("#text").fill(text);
  await page.keyboard.press("Enter");
}

async function step(name, run) {
  try {
    const result = await run();
    console.log(`ok   ${name}`);
    return result;
  } catch (error) {
    throw new Error(`${name}: ${error.message.split("\n")[0]}`);
  }
}

async function converse() {
  const ann = await step("ann opens the page", () => open("ann"));
  const ben = await step("ben opens the page, and ann hears of it", async () => {
    const page = await open("ben", { colorScheme: "dark" });
    await seen(ann, "#messages", "ben joined.");
    return page;
  });
  await step("both see that two are online", async () => {
    await seen(ann, "#online", "online");
    await seen(ben, "#online", "online");
  });
  await step("a message reaches both windows", async () => {
    await say(ann, "hello from ann");
    await seen(ann, "#messages li.mine", "hello from ann");
    await seen(ben, "#messages li", "hello from ann");
    await say(ben, "hello back");
    await seen(ann, "#messages li", "hello back");
  });
  await step("markup arrives as text", async () => {
    await say(ben, "<img src=x onerror=\"document.title='broken'\"><b>bold</b>");
    await seen(ann, "#messages li", "<b>bold</b>");
    if (await ann.locator("#messages b, #messages img, #wire img").count()) throw new Error("found elements made of a message");
  });
  await step("the bad message shows its error frame", async () => {
    await ann.getByRole("button", { name: "Send a bad message" }).click();
    await seen(ann, "#messages li.error", "schema_violation");
    await seen(ann, "#messages li.error pre", "\"pointer\": \"/text\"");
    await ann.getByRole("button", { name: "Invalid JSON" }).click();
    await seen(ann, "#messages li.error", "invalid_json");
    await ann.getByRole("button", { name: "Unknown event" }).click();
    await seen(ann, "#messages li.error", "unknown_event");
  });
  await step("the socket is open after them", async () => {
    await say(ann, "still here");
    await seen(ben, "#messages li", "still here");
  });
  await step("a binary frame comes back", async () => {
    await ann.getByRole("button", { name: "Binary frame" }).click();
    await seen(ann, "#messages li.notice", "4 bytes: ca fe 00 ff");
  });
  await step("the curl line's push arrives", async () => {
    const line = await ann.locator("#curl").textContent();
    const [, url] = line.match(/(http:\/\/\S+\/messages)/) ?? [];
    const [, body] = line.match(/-d '([^']+)'/) ?? [];
    if (!url || !url.includes(await ann.locator("#connection").textContent())) throw new Error(`found the line ${line}`);
    const answer = await fetch(url, { method: "POST", headers: { "Content-Type": "application/json" }, body });
    const outcome = await answer.json();
    if (answer.status !== 200 || outcome.outcome !== "written") throw new Error(`found ${answer.status} ${JSON.stringify(outcome)}`);
    await seen(ann, "#messages li.notice", "hello from curl");
  });
  await step("a room is entered and spoken to", async () => {
    await ben.locator("#room").selectOption("tea");
    await seen(ben, "#messages li.info", "You entered the tea room.");
    await say(ben, "only for tea");
    await seen(ben, "#messages li.mine", "only for tea");
    await ben.locator("#room").selectOption("");
    await seen(ben, "#messages li.info", "You left the tea room.");
    if (await ann.locator("#messages li", { hasText: "only for tea" }).count()) throw new Error("ann heard it without being there");
  });
  await step("the wire shows events, answers and REST calls", async () => {
    await seen(ann, "#wire li.event", "chat.send");
    await seen(ann, "#wire li.answer", "send chat.message to group lobby");
    await seen(ann, "#wire li.call", "/v1/groups/lobby/members");
    await ann.locator("#wire li.event", { hasText: "chat.send" }).first().locator("summary").click();
    await seen(ann, "#wire li.event details[open] pre", "ce-connectionid");
  });
  if (shots) {
    await ann.screenshot({ path: join(shots, "light-1280.png") });
    await ben.screenshot({ path: join(shots, "dark-1280.png") });
  }
  await step("the page fits 390 pixels", async () => {
    for (const [page, name] of [[ann, "light-390"], [ben, "dark-390"]]) {
      await page.setViewportSize({ width: 390, height: 844 });
      const wide = await page.evaluate(() => document.documentElement.scrollWidth);
      if (wide > 390) throw new Error(`found ${wide} pixels of width`);
      if (shots) await page.screenshot({ path: join(shots, `${name}.png`), fullPage: true });
    }
  });
  await step("ben leaves, and ann hears of it", async () => {
    await ben.context().close();
    await seen(ann, "#messages li.info", "ben left.");
    await seen(ann, "#wire li.event", "disconnect");
    await seen(ann, "#wire li.call", "POST /v1/groups/lobby/messages");
  });
  if (complaints.length) throw new Error(`found console errors: ${complaints.join("; ")}`);
  if (outside.length) throw new Error(`found requests to elsewhere: ${outside.join("; ")}`);
}

try {
  await converse();
  console.log("the demo's page works");
} catch (error) {
  console.error(`FAILED ${error.message}`);
  for (const complaint of complaints) console.error(`  console: ${complaint}`);
  process.exitCode = 1;
} finally {
  await browser.close();
}
