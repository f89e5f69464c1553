"""A chat beside Holdfast, in Django: Holdfast keeps the sockets, this program keeps nothing."""

import json
import os
import re
import sys
import threading
import urllib.error
import urllib.request

from django.conf import settings
from django.core.management import execute_from_command_line
from django.http import HttpResponse, JsonResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST
from standardwebhooks import Webhook, WebhookVerificationError

ADMIN = os.environ.get("HOLDFAST_ADMIN", "http://127.0.0.1:8001")
TOKEN = os.environ["HOLDFAST_ADMIN_TOKEN"]
webhook = Webhook(os.environ["HOLDFAST_SIGNING_SECRET"])
# Stands for a project's settings, so that the example is one file.
settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["127.0.0.1", "localhost"])


# The signature stands for the CSRF token. It is of the body's bytes, so the body is taken as it came.
@csrf_exempt
@require_POST
def events(request):
    try:
        event = webhook.verify(request.body, dict(request.headers))
    except (WebhookVerificationError, ValueError):
        return HttpResponse("bad signature", status=401)
    match event["type"], event.get("event"):
        case "holdfast.connect", _:
            return connect(event)
        case "holdfast.disconnect", _:
            print(f"{event['userid']} left: {event['data']['cause']}", flush=True)
            return HttpResponse(status=204)
        case _, "chat.send":
            return send(event)
        case _, "chat.remind":
            message = {"type": "chat.reminder", "text": event["data"]["text"]}
            threading.Timer(event["data"]["after_ms"] / 1000, push, (event["connectionid"], message)).start()
            return HttpResponse(status=204)
    return HttpResponse("no such event", status=404)


def connect(event):
    """Accepts the socket, says whose it is and puts it into a group. The body is the first frame."""
    user = event["data"]["query"].get("user", "")
    if not re.fullmatch("[a-z0-9]{1,32}", user):
        return HttpResponse("say who you are: ?user=ann", status=403)
    return JsonResponse({"type": "chat.welcome", "user": user}, headers={"Holdfast-User": user, "Holdfast-Join": "lobby"})


def send(event):
    """Commands: the first goes to the sender, the second to everybody else in the group."""
    message = {"type": "chat.message", "from": event["userid"], "text": event["data"]["text"]}
    commands = [
        {"send": {"data": {"type": "chat.sent", "seq": event["seq"]}}},
        {"send": {"to": {"group": "lobby", "except": [event["connectionid"]]}, "data": message}},
    ]
    return HttpResponse(json.dumps(commands), content_type="application/vnd.holdfast.commands+json")


def push(connection, message):
    """Any process may push to a socket at any time, by the connection's ID."""
    url = f"{ADMIN}/v1/connections/{connection}/messages"
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {TOKEN}"}
    try:
        status = urllib.request.urlopen(urllib.request.Request(url, json.dumps(message).encode(), headers)).status
    except urllib.error.URLError as error:
        status = error
    print(f"push to {connection}: {status}", flush=True)


urlpatterns = [path("events", events)]

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
