"""Answers requests from a RabbitMQ queue with pika: `worker.py URL QUEUE`. A plain RPC worker that knows of no gateway."""

import json
import signal
import sys

import pika


def answer(channel, method, properties, body):
    reply = {"type": "answer", "by": "pika", "echo": json.loads(body)}
    channel.basic_publish(
        exchange="",
        routing_key=properties.reply_to,
        properties=pika.BasicProperties(correlation_id=properties.correlation_id, content_type="application/json"),
        body=json.dumps(reply),
    )
    channel.basic_ack(method.delivery_tag)


signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
channel = pika.BlockingConnection(pika.URLParameters(sys.argv[1])).channel()
channel.basic_qos(prefetch_count=50)
channel.basic_consume(sys.argv[2], answer)
print("ready", flush=True)
channel.start_consuming()
