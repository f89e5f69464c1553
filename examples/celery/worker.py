"""A chat behind RabbitMQ, with Celery: its worker takes Holdfast's events beside its own tasks, and a task may push to a socket."""

import json
import os
import re

from celery import Celery, bootsteps
from kombu import Consumer, Queue

COMMANDS = "application/vnd.holdfast.commands+json"
app = Celery("chat", broker=os.environ.get("RABBITMQ_URL", "amqp://guest:guest@127.0.0.1:5672/%2f"))
app.conf.task_default_queue = "chat.tasks"


class Events(bootsteps.ConsumerStep):
    """Celery's way to consume messages that are no tasks."""

    def get_consumers(self, channel):
        # Also made by Holdfast, with the same properties: whoever comes first makes it.
        queue = Queue("chat.events", queue_arguments={"x-queue-type": "quorum"})
        return [Consumer(channel, queues=[queue], callbacks=[self.on_event], accept=["json"], prefetch_count=50)]

    def on_event(self, data, message):
        event = message.headers
        match event["ce-type"], event.get("ce-event"):
            case "holdfast.connect", _:
                connect(message, data["query"].get("user", ""))
            case "holdfast.disconnect", _:
                print(f"{event.get('ce-context')} left: {data['cause']}", flush=True)
            case _ if "ce-context" not in event:
                reply(message, [{"send": {"data": {"type": "chat.refused", "reason": "wait for chat.welcome"}}}])
            case _, "chat.send":
                send(message, data)
            case _, "chat.remind":
                arguments = (event["ce-connectionid"], {"type": "chat.reminder", "text": data["text"]})
                push.apply_async(arguments, countdown=data["after_ms"] / 1000)
        message.ack()


app.steps["consumer"].add(Events)


@app.task
def push(connection, message):
    """Any task may push to a socket at any time, by the connection's ID: all nodes of Holdfast share the queue."""
    publish("holdfast.commands", message, content_type="application/json", headers={"to-connection": connection})


def connect(message, user):
    """A group, a context that comes back with every later event, and a first frame; or the end."""
    if not re.fullmatch("[a-z0-9]{1,32}", user):
        return reply(message, [{"close": {"code": 4500, "reason": "say who you are: ?user=ann"}}])
    welcome = {"type": "chat.welcome", "user": user}
    reply(message, [{"join": {"group": "lobby"}}, {"context": {"value": user}}, {"send": {"data": welcome}}])


def send(message, data):
    """Commands: the first goes to the sender, the second to everybody else in the group."""
    event = message.headers
    said = {"type": "chat.message", "from": event["ce-context"], "text": data["text"]}
    reply(message, [
        {"send": {"data": {"type": "chat.sent", "seq": event["ce-seq"]}}},
        {"send": {"to": {"group": "lobby", "except": [event["ce-connectionid"]]}, "data": said}},
    ])


def reply(message, commands):
    """As RPC over RabbitMQ is always done. Any other content type would be one frame to the sender."""
    asked = message.properties
    publish(asked["reply_to"], commands, content_type=COMMANDS, correlation_id=asked["correlation_id"])


def publish(queue, body, content_type, **properties):
    with app.producer_pool.acquire() as producer:
        producer.publish(json.dumps(body), exchange="", routing_key=queue, content_type=content_type,
                         content_encoding="utf-8", **properties)
