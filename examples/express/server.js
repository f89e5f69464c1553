// A chat beside Holdfast, in Express: Holdfast keeps the sockets, this program keeps nothing.
import express from "express";
import { Webhook } from "standardwebhooks";

const { PORT = 3000, HOST = "127.0.0.1", HOLDFAST_SIGNING_SECRET } = process.env;
const { HOLDFAST_ADMIN = "http://127.0.0.1:8001", HOLDFAST_ADMIN_TOKEN } = process.env;
const webhook = new Webhook(HOLDFAST_SIGNING_SECRET);
const app = express();

// The signature is of the body's bytes, so the body is taken before any parser.
app.post("/events", express.text({ type: "*/*", limit: "1mb" }), (request, response) => {
  let event;
  try {
    event = webhook.verify(request.body, request.headers);
  } catch {
    return response.status(401).send("bad signature");
  }
  answer(event, response);
});

function answer(event, response) {
  if (event.type === "holdfast.connect") return connect(event, response);
  if (event.type === "holdfast.disconnect") {
    console.log(`${event.userid} left: ${event.data.cause}`);
    return response.status(204).end();
  }
  if (event.event === "chat.send") return send(event, response);
  if (event.event === "chat.remind") {
    setTimeout(push, event.data.after_ms, event.connectionid, { type: "chat.reminder", text: event.data.text });
    return response.status(204).end();
  }
  response.status(404).send("no such event");
}

// Accepts the socket, says whose it is and puts it into a group. The body is the first frame.
function connect(event, response) {
  const user = event.data.query.user ?? "";
  if (!/^[a-z0-9]{1,32}$/.test(user)) return response.status(403).send("say who you are: ?user=ann");
  response.set({ "Holdfast-User": user, "Holdfast-Join": "lobby" }).json({ type: "chat.welcome", user });
}

// Commands: the first goes to the sender, the second to everybody else in the group.
function send(event, response) {
  const message = { type: "chat.message", from: event.userid, text: event.data.text };
  response.type("application/vnd.holdfast.commands+json").send([
    { send: { data: { type: "chat.sent", seq: event.seq } } },
    { send: { to: { group: "lobby", except: [event.connectionid] }, data: message } },
  ]);
}

// Any process may push to a socket at any time, by the connection's ID.
async function push(connection, message) {
  const answer = await fetch(`${HOLDFAST_ADMIN}/v1/connections/${connection}/messages`, {
    method: "POST",
    headers: { "Content-Type": "application/json", Authorization: `Bearer ${HOLDFAST_ADMIN_TOKEN}` },
    body: JSON.stringify(message),
  }).catch(error => ({ status: error.message }));
  console.log(`push to ${connection}: ${answer.status}`);
}

export const server = app.listen(PORT, HOST, () => console.log(`listening on ${HOST}:${PORT}`));
