// Echoes messages of random sizes over permessage-deflate, with Chromium's WebSocket and with the npm package ws, with context taken over
// and without. Usage: node tests/browser/compression.mjs HOLDFAST [MESSAGES]
// Needs playwright-core and ws in a node_modules of $PLAYWRIGHT_FROM, and Chromium at $CHROMIUM or /usr/bin/chromium.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";

const require = createRequire(process.env.PLAYWRIGHT_FROM ? join(process.env.PLAYWRIGHT_FROM, "x.js") : import.meta.url);
const { chromium } = require("playwright-core");
const ws = require("ws");
const [holdfast, messages = "100"] = process.argv.slice(2);
if (!holdfast) {
  console.error("usage: node tests/browser/compression.mjs HOLDFAST [MESSAGES]");
  process.exit(2);
}
const ENDPOINTS = { "/alone": false, "/takeover": true };

// Runs in the page, and here with ws: it may use nothing from outside.
async function echo(url, messages, Socket = WebSocket) {
  const socket = new Socket(url);
  socket.binaryType = "arraybuffer";
  // What ws says of its extensions are their names alone.
  let extensions;
  socket.on?.("upgrade", response => { extensions = response.headers["sec-websocket-extensions"]; });
  const wait = name => new Promise((resolve, reject) => {
    socket[`on${name}`] = resolve;
    socket.onclose = event => reject(new Error(`closed ${event.code} ${event.reason}`));
  });
  await wait("open");
  const words = "the quick brown fox jumps over a lazy dog, and 𝄞 more ".split(" ");
  const random = below => Math.floor(Math.random() * below);
  for (let number = 0; number < messages; number++) {
    const size = 1 + random(65536);
    let sent = "";
    while (sent.length < size / 3) sent += words[random(words.length)] + random(1000);
    if (number % 2) sent = Uint8Array.from({ length: size }, (_, at) => (number % 4 === 1 ? random(256) : at % 13));
    socket.send(sent);
    const { data } = await wait("message");
    const found = typeof data === "string" ? data : new Uint8Array(data);
    const same = typeof sent === "string" ? found === sent : found.length === size && found.every((byte, at) => byte === sent[at]);
    if (!same) throw new Error(`message ${number} of ${sent.length} came back as another one of ${found.length}`);
  }
  extensions ??= socket.extensions;
  socket.close();
  return extensions;
}

const handler = createServer(async (request, response) => {
  const body = [];
  for await (const piece of request) body.push(piece);
  response.writeHead(200, { "content-type": request.headers["content-type"] ?? "application/octet-stream" }).end(Buffer.concat(body));
});
await once(handler.listen(0, "127.0.0.1"), "listening");
const folder = await mkdtemp(join(tmpdir(), "holdfast-"));
await writeFile(join(folder, "holdfast.yaml"), [
  "{listen: '127.0.0.1:0', admin: {listen: '127.0.0.1:0'},",
  `upstreams: {app: {http: {url: 'http://127.0.0.1:${handler.address().port}/'}}}, endpoints: [`,
  ...Object.entries(ENDPOINTS).map(([path, takeover]) => `{path: ${path}, event: none, compression: {level: 3, context_takeover: ${takeover}},`
    + " routes: [{event: $text, upstream: app}, {event: $binary, upstream: app}]},"),
  "]}",
].join("\n"));
const gateway = spawn(holdfast, ["run", "--config", join(folder, "holdfast.yaml")], { stdio: ["ignore", "ignore", "pipe"] });
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync"],
});

// Where it listens, as its log says.
async function listening() {
  let log = "";
  for await (const piece of gateway.stderr) {
    log += piece;
    const plain = log.replace(/\u001b\[[0-9;]*m/g, "");
    const ready = plain.split("\n").slice(0, -1).find(line => line.includes("holdfast is ready"));
    if (ready) return Object.fromEntries([...ready.matchAll(/(listen|admin)="?([0-9.:]+)/g)].map(([, name, value]) => [name, value]));
  }
  throw new Error(`it did not start: ${log}`);
}

try {
  const { listen, admin } = await listening();
  const page = await browser.newPage();
  const clients = { chromium: url => page.evaluate(`(${echo})("${url}", ${messages})`), ws: url => echo(url, messages, ws) };
  for (const [name, client] of Object.entries(clients)) {
    for (const [path, takeover] of Object.entries(ENDPOINTS)) {
      const extensions = await client(`ws://${listen}${path}`);
      const agreed = extensions.startsWith("permessage-deflate") && extensions.includes("no_context_takeover") !== takeover;
      if (!agreed) throw new Error(`${name} ${path}: found the extensions "${extensions}"`);
      console.log(`ok   ${name}: ${messages} messages over ${extensions}`);
    }
  }
  const metrics = await (await fetch(`http://${admin}/metrics`)).text();
  for (const path of Object.keys(ENDPOINTS)) {
    for (const direction of ["received", "sent"]) {
      const [wire, plain] = ["wire", "plain"].map(form => {
        const name = `holdfast_compressed_bytes_total{endpoint="${path}",direction="${direction}",form="${form}"} `;
        return Number(metrics.split(name)[1]?.split("\n")[0]);
      });
      if (!(wire > 0 && wire < plain)) throw new Error(`${path}: ${wire} bytes ${direction} for ${plain}`);
    }
  }
} catch (error) {
  console.error(`FAILED ${error.message.split("\n")[0]}`);
  process.exitCode = 1;
} finally {
  await browser.close();
  gateway.kill("SIGTERM");
  handler.close();
  handler.closeAllConnections();
  await rm(folder, { recursive: true });
}
