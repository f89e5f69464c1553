// Socket.IO with a forwarder written by hand: `node socketio.mjs PORT PUBLISH_PORT HANDLER_URL`.
// A client joins the room that it names when it connects; `POST /publish?id=` goes to all of that room.
import { createServer } from "node:http";
import { Server } from "socket.io";
import { Pool } from "undici";

const [port, publishPort, handler] = process.argv.slice(2);
const { origin, pathname } = new URL(handler);
const pool = new Pool(origin, { connections: 64, pipelining: 1 });
const headers = { "content-type": "application/json" };

async function forward(socket, message) {
  try {
    const { statusCode, body } = await pool.request({ method: "POST", path: pathname, headers, body: JSON.stringify(message) });
    const answer = await body.json();
    if (statusCode === 200) socket.emit("message", answer);
  } catch {
    socket.emit("message", { type: "error", code: "upstream_unavailable" });
  }
}

const server = createServer();
// Patient with pongs: clients that are still connecting others read nothing.
const io = new Server(server, { transports: ["websocket"], serveClient: false, pingTimeout: 120_000 });
// Its manual's advice for memory: the request that opened a connection is not kept.
io.engine.on("connection", (socket) => { socket.request = null; });
io.on("connection", (socket) => {
  socket.join(socket.handshake.auth.channel);
  socket.on("message", (message) => forward(socket, message));
});
server.listen({ host: "127.0.0.1", port: Number(port), backlog: 4096 });

createServer((request, response) => {
  const chunks = [];
  request.on("data", (chunk) => chunks.push(chunk));
  request.on("end", () => {
    const room = request.url.slice(request.url.indexOf("id=") + 3);
    const members = io.sockets.adapter.rooms.get(room);
    if (!members) { response.writeHead(410).end(); return; }
    io.to(room).emit("message", JSON.parse(Buffer.concat(chunks)));
    response.end(`{"delivered":${members.size}}`);
  });
}).listen(Number(publishPort), "127.0.0.1");
