"""A chat behind RabbitMQ, with pika: Holdfast keeps the sockets, any number of these workers share the queue."""

import json
import os
import re
import sys
import time

import pika

COMMANDS = "application/vnd.holdfast.commands+json"


def on_event(channel, method, properties, body):
    event, data = properties.headers, json.loads(body)
    match event["ce-type"], event.get("ce-event"):
        case "holdfast.connect", _:
            connect(channel, properties, data["query"].get("user", ""))
        case "holdfast.disconnect", _:
            print(f"{event.get('ce-context')} left: {data['cause']}", flush=True)
        case _ if "ce-context" not in event:
            reply(channel, properties, [{"send": {"data": {"type": "chat.refused", "reason": "wait for chat.welcome"}}}])
        case _, "chat.send":
            send(channel, properties, data)
        case _, "chat.remind":
            message = {"type": "chat.reminder", "text": data["text"]}
            connection = event["ce-connectionid"]
            channel.connection.call_later(data["after_ms"] / 1000, lambda: push(channel, connection, message))
    channel.basic_ack(method.delivery_tag)


def connect(channel, properties, user):
    """A group, a context that comes back with every later event, and a first frame; or the end."""
    if not re.fullmatch("[a-z0-9]{1,32}", user):
        return reply(channel, properties, [{"close": {"code": 4500, "reason": "say who you are: ?user=ann"}}])
    welcome = {"type": "chat.welcome", "user": user}
    reply(channel, properties, [{"join": {"group": "lobby"}}, {"context": {"value": user}}, {"send": {"data": welcome}}])


def send(channel, properties, data):
    """Commands: the first goes to the sender, the second to everybody else in the group."""
    event = properties.headers
    message = {"type": "chat.message", "from": event["ce-context"], "text": data["text"]}
    reply(channel, properties, [
        {"send": {"data": {"type": "chat.sent", "seq": event["ce-seq"]}}},
        {"send": {"to": {"group": "lobby", "except": [event["ce-connectionid"]]}, "data": message}},
    ])


def reply(channel, properties, commands):
    """As RPC over RabbitMQ is always done. Any other content type would be one frame to the sender."""
    answer = pika.BasicProperties(correlation_id=properties.correlation_id, content_type=COMMANDS)
    channel.basic_publish("", properties.reply_to, json.dumps(commands), answer)


def push(channel, connection, message):
    """Any process may push to a socket at any time, by the connection's ID: all nodes of Holdfast share the queue."""
    target = pika.BasicProperties(content_type="application/json", headers={"to-connection": connection})
    channel.basic_publish("", "holdfast.commands", json.dumps(message), target)


def work(url):
    channel = pika.BlockingConnection(pika.URLParameters(url)).channel()
    # Also made by Holdfast, with the same properties: whoever comes first makes it.
    channel.queue_declare("chat.events", durable=True, arguments={"x-queue-type": "quorum"})
    channel.basic_qos(prefetch_count=50)
    channel.basic_consume("chat.events", on_event)
    print("ready", flush=True)
    channel.start_consuming()


def main():
    url = os.environ.get("RABBITMQ_URL", "amqp://guest:guest@127.0.0.1:5672/%2f")
    while True:
        try:
            work(url)
        except pika.exceptions.AMQPConnectionError as error:
            # A broker that restarts; also one that still makes the queue which somebody else declared at the same time (541).
            print(f"again in a second: {error!r}", file=sys.stderr, flush=True)
            time.sleep(1)


if __name__ == "__main__":
    main()
