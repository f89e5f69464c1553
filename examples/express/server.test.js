// The handler by itself: signs events as Holdfast does. `npm test`
import assert from "node:assert/strict";
import { once } from "node:events";
import { after, test } from "node:test";
import { Webhook } from "standardwebhooks";

const secret = `whsec_${Buffer.from("a secret of the tests' own").toString("base64")}`;
Object.assign(process.env, { PORT: "0", HOST: "127.0.0.1", HOLDFAST_SIGNING_SECRET: secret });
const { server } = await import("./server.js");
await once(server, "listening");
after(() => server.close());

function post(event, signer = new Webhook(secret), time = new Date()) {
  const body = JSON.stringify(event);
  const headers = {
    "Content-Type": "application/cloudevents+json",
    "webhook-id": "node-key.1",
    "webhook-timestamp": String(Math.floor(time / 1000)),
    "webhook-signature": signer.sign("node-key.1", time, body),
  };
  return fetch(`http://127.0.0.1:${server.address().port}/events`, { method: "POST", headers, body });
}

const message = { type: "holdfast.message", event: "chat.send", seq: 1, connectionid: "node-key", userid: "ann", data: { text: "hello" } };

test("a message is answered with commands", async () => {
  const answer = await post(message);
  assert.equal(answer.headers.get("content-type").split(";")[0], "application/vnd.holdfast.commands+json");
  const [sent, said] = await answer.json();
  assert.deepEqual(sent.send.data, { type: "chat.sent", seq: 1 });
  assert.deepEqual(said.send.to, { group: "lobby", except: ["node-key"] });
});

test("a stranger is refused", async () => {
  assert.equal((await post({ type: "holdfast.connect", data: { query: {} } })).status, 403);
});

test("what is not signed, or is old, is refused", async () => {
  assert.equal((await post(message, new Webhook("whsec_b3RoZXI="))).status, 401);
  assert.equal((await post(message, new Webhook(secret), new Date(Date.now() - 600_000))).status, 401);
});
