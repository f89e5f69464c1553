"""A chat beside Holdfast, in FastAPI: Holdfast keeps the sockets, this program keeps nothing."""

import asyncio
import os
import re

import httpx2
from fastapi import BackgroundTasks, FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from standardwebhooks import Webhook, WebhookVerificationError

ADMIN = os.environ.get("HOLDFAST_ADMIN", "http://127.0.0.1:8001")
TOKEN = os.environ["HOLDFAST_ADMIN_TOKEN"]
webhook = Webhook(os.environ["HOLDFAST_SIGNING_SECRET"])
app = FastAPI()


@app.post("/events")
async def events(request: Request, later: BackgroundTasks):
    # The signature is of the body's bytes, so the body is taken as it came.
    try:
        event = webhook.verify(await request.body(), dict(request.headers))
    except (WebhookVerificationError, ValueError):
        return PlainTextResponse("bad signature", 401)
    match event["type"], event.get("event"):
        case "holdfast.connect", _:
            return connect(event)
        case "holdfast.disconnect", _:
            print(f"{event['userid']} left: {event['data']['cause']}", flush=True)
            return Response(status_code=204)
        case _, "chat.send":
            return send(event)
        case _, "chat.remind":
            message = {"type": "chat.reminder", "text": event["data"]["text"]}
            later.add_task(push, event["connectionid"], message, event["data"]["after_ms"] / 1000)
            return Response(status_code=204)
    return PlainTextResponse("no such event", 404)


def connect(event):
    """Accepts the socket, says whose it is and puts it into a group. The body is the first frame."""
    user = event["data"]["query"].get("user", "")
    if not re.fullmatch("[a-z0-9]{1,32}", user):
        return PlainTextResponse("say who you are: ?user=ann", 403)
    return JSONResponse({"type": "chat.welcome", "user": user}, headers={"Holdfast-User": user, "Holdfast-Join": "lobby"})


def send(event):
    """Commands: the first goes to the sender, the second to everybody else in the group."""
    message = {"type": "chat.message", "from": event["userid"], "text": event["data"]["text"]}
    commands = [
        {"send": {"data": {"type": "chat.sent", "seq": event["seq"]}}},
        {"send": {"to": {"group": "lobby", "except": [event["connectionid"]]}, "data": message}},
    ]
    return JSONResponse(commands, media_type="application/vnd.holdfast.commands+json")


async def push(connection, message, after_seconds):
    """Any process may push to a socket at any time, by the connection's ID."""
    await asyncio.sleep(after_seconds)
    async with httpx2.AsyncClient(headers={"Authorization": f"Bearer {TOKEN}"}) as client:
        answer = await client.post(f"{ADMIN}/v1/connections/{connection}/messages", json=message)
    print(f"push to {connection}: {answer.status_code}", flush=True)
