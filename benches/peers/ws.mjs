// A gateway as one writes it by hand: `ws` for the sockets, `undici` for the handler. `node ws.mjs PORT PUBLISH_PORT HANDLER_URL`.
// A client joins the channel that it names by `?id=`; `POST /publish?id=` goes to all of that channel.
import { createServer } from "node:http";
import { Pool } from "undici";
import { WebSocketServer } from "ws";

const [port, publishPort, handler] = process.argv.slice(2);
const { origin, pathname } = new URL(handler);
const pool = new Pool(origin, { connections: 64, pipelining: 1 });
const headers = { "content-type": "application/json" };
const channels = new Map();

async function forward(socket, data) {
  try {
    const { statusCode, body } = await pool.request({ method: "POST", path: pathname, headers, body: data });
    const answer = await body.text();
    if (statusCode === 200) socket.send(answer);
  } catch {
    socket.send('{"type":"error","code":"upstream_unavailable"}');
  }
}

const server = new WebSocketServer({ host: "127.0.0.1", port: Number(port), perMessageDeflate: false, backlog: 4096 });
server.on("connection", (socket, request) => {
  const id = new URLSearchParams(request.url.slice(request.url.indexOf("?") + 1)).get("id");
  let members = channels.get(id);
  if (!members) channels.set(id, (members = new Set()));
  members.add(socket);
  socket.missed = 0;
  socket.on("pong", function () { this.missed = 0; });
  socket.on("message", function (data) { forward(this, data); });
  socket.on("error", function () { this.terminate(); });
  socket.on("close", function () {
    members.delete(this);
    if (members.size === 0) channels.delete(id);
  });
});
// The heartbeat of `ws`' own manual, but patient: clients that are still connecting others read nothing.
setInterval(() => {
  for (const socket of server.clients) {
    if (socket.missed > 4) { socket.terminate(); continue; }
    socket.missed += 1;
    socket.ping();
  }
}, 25_000);

createServer((request, response) => {
  const chunks = [];
  request.on("data", (chunk) => chunks.push(chunk));
  request.on("end", () => {
    const members = channels.get(request.url.slice(request.url.indexOf("id=") + 3));
    if (!members) { response.writeHead(410).end(); return; }
    const message = Buffer.concat(chunks);
    for (const socket of members) socket.send(message, { binary: false });
    response.end(`{"delivered":${members.size}}`);
  });
}).listen(Number(publishPort), "127.0.0.1");
