// Answers requests from a RabbitMQ queue with amqplib: `node worker.mjs URL QUEUE`. A plain RPC worker that knows of no gateway.
// HOLDFAST_NODE_MODULES is the absolute path of the node_modules folder that amqplib is in.
import { createRequire } from "node:module";
import process from "node:process";

// `import` looks beside this file only, where nothing is installed.
const amqplib = createRequire(`${process.env.HOLDFAST_NODE_MODULES}/`)("amqplib");
const [url, queue] = process.argv.slice(2);

process.on("SIGTERM", () => process.exit(0));
const connection = await amqplib.connect(url);
const channel = await connection.createChannel();
await channel.prefetch(50);
await channel.consume(queue, (message) => {
    const { replyTo, correlationId } = message.properties;
    const reply = { type: "answer", by: "amqplib", echo: JSON.parse(message.content) };
    channel.publish("", replyTo, Buffer.from(JSON.stringify(reply)), { correlationId, contentType: "application/json" });
    channel.ack(message);
});
console.log("ready");
