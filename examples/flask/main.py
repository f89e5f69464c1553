"""A chat beside Holdfast, in Flask: Holdfast keeps the sockets, this program keeps nothing."""

import json
import os
import re
import threading
import urllib.error
import urllib.request

from flask import Flask, Response, jsonify, request
from standardwebhooks import Webhook, WebhookVerificationError

ADMIN = os.environ.get("HOLDFAST_ADMIN", "http://127.0.0.1:8001")
TOKEN = os.environ["HOLDFAST_ADMIN_TOKEN"]
webhook = Webhook(os.environ["HOLDFAST_SIGNING_SECRET"])
app = Flask(__name__)


@app.post("/events")
def events():
    # The signature is of the body's bytes, so the body is taken as it came.
    try:
        event = webhook.verify(request.get_data(), dict(request.headers))
    except (WebhookVerificationError, ValueError):
        return "bad signature", 401
    match event["type"], event.get("event"):
        case "holdfast.connect", _:
            return connect(event)
        case "holdfast.disconnect", _:
            print(f"{event['userid']} left: {event['data']['cause']}", flush=True)
            return "", 204
        case _, "chat.send":
            return send(event)
        case _, "chat.remind":
            message = {"type": "chat.reminder", "text": event["data"]["text"]}
            threading.Timer(event["data"]["after_ms"] / 1000, push, (event["connectionid"], message)).start()
            return "", 204
    return "no such event", 404


def connect(event):
    """Accepts the socket, says whose it is and puts it into a group. The body is the first frame."""
    user = event["data"]["query"].get("user", "")
    if not re.fullmatch("[a-z0-9]{1,32}", user):
        return "say who you are: ?user=ann", 403
    return jsonify(type="chat.welcome", user=user), {"Holdfast-User": user, "Holdfast-Join": "lobby"}


def send(event):
    """Commands: the first goes to the sender, the second to everybody else in the group."""
    message = {"type": "chat.message", "from": event["userid"], "text": event["data"]["text"]}
    commands = [
        {"send": {"data": {"type": "chat.sent", "seq": event["seq"]}}},
        {"send": {"to": {"group": "lobby", "except": [event["connectionid"]]}, "data": message}},
    ]
    return Response(json.dumps(commands), mimetype="application/vnd.holdfast.commands+json")


def push(connection, message):
    """Any process may push to a socket at any time, by the connection's ID."""
    url = f"{ADMIN}/v1/connections/{connection}/messages"
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {TOKEN}"}
    try:
        status = urllib.request.urlopen(urllib.request.Request(url, json.dumps(message).encode(), headers)).status
    except urllib.error.URLError as error:
        status = error
    print(f"push to {connection}: {status}", flush=True)
