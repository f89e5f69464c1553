"""The conversation that every example holds, step by step, over real sockets."""

import asyncio
import json
import time

import websockets

from scene import STEP_SECONDS, TOKEN, Failed, call, eventually, frame, open_socket, signed


async def talk(listen, admin, app_log, refuse):
    """Two users come, chat, err, are reminded and leave. `refuse` is how a stranger is refused; `app_log` gives what the
    example has written so far."""
    ws = f"ws://{listen}/ws"
    await refuse(ws)
    ann = await arrive(ws, "ann")
    ben = await arrive(ws, "ben")
    await grouped(admin)

    await ann.send(json.dumps({"type": "chat.send", "text": "hello"}))
    await frame(ann, "chat.sent", seq=1)
    await frame(ben, "chat.message", **{"from": "ann", "text": "hello"})

    # The next frame of ann is the error: her own message did not come back to her.
    await ann.send(json.dumps({"type": "chat.send", "text": ""}))
    error = await frame(ann, "error", code="schema_violation", event="chat.send", seq=2)
    if [place["pointer"] for place in error["errors"]] != ["/text"]:
        raise Failed(f"expected one error at /text, found {error['errors']}")

    await ann.send(json.dumps({"type": "chat.remind", "text": "tea", "after_ms": 100}))
    await frame(ann, "chat.reminder", text="tea")
    await ann.send(json.dumps({"type": "chat.send", "text": "still here"}))
    await frame(ann, "chat.sent", seq=4)
    await frame(ben, "chat.message", **{"from": "ann", "text": "still here"})

    await ben.close()
    await eventually("`ben left: client` in the example's log", lambda: "ben left: client" in app_log())
    await ann.close()
    await eventually("`ann left: client` in the example's log", lambda: "ann left: client" in app_log())


async def refused_by_status(ws):
    """A handler answers a stranger's handshake with 403."""
    try:
        await open_socket(ws)
    except websockets.InvalidStatus as refused:
        if refused.response.status_code == 403:
            return
        raise Failed(f"expected 403 to a handshake without a user, found {refused.response.status_code}") from None
    raise Failed("expected 403 to a handshake without a user, found it accepted")


async def refused_by_close(ws):
    """A worker behind a queue closes a stranger's socket: it cannot answer the handshake."""
    client = await open_socket(ws)
    try:
        found = await asyncio.wait_for(client.recv(), STEP_SECONDS)
    except asyncio.TimeoutError:
        raise Failed(f"expected 4500 to a socket without a user, found nothing within {STEP_SECONDS} s") from None
    except websockets.ConnectionClosed as closed:
        if closed.rcvd and closed.rcvd.code == 4500:
            return
        raise Failed(f"expected 4500 to a socket without a user, found {closed}") from None
    raise Failed(f"expected 4500 to a socket without a user, found {found}")


async def arrive(ws, user):
    client = await open_socket(f"{ws}?user={user}")
    await frame(client, "chat.welcome", user=user)
    return client


async def grouped(admin):
    status, body = await call("GET", f"http://{admin}/v1/groups/lobby/members", headers={"Authorization": f"Bearer {TOKEN}"})
    if status != 200 or len(json.loads(body)["members"]) != 2:
        raise Failed(f"expected two members of the lobby, found {status} {body!r}")


async def forged(url):
    """The handler takes an event that is signed, and no other."""
    event = {
        "specversion": "1.0", "id": "node-key.9", "source": "/ws", "type": "holdfast.disconnect", "seq": 9,
        "connectionid": "node-key", "userid": "eve", "data": {"code": 1000, "reason": "", "cause": "client", "duration_ms": 1},
    }
    body = json.dumps(event).encode()
    now = int(time.time())
    other = "whsec_" + "A" * 32
    headers = signed(body)
    cases = [
        ("a good signature", body, headers, 204),
        ("a second signature that is good", body, headers | {"webhook-signature": f"v1,AAAA {headers['webhook-signature']}"}, 204),
        ("another secret", body, signed(body, secret=other), 401),
        ("another body", body.replace(b"eve", b"eva"), headers, 401),
        ("another message id", body, headers | {"webhook-id": "node-key.8"}, 401),
        ("a timestamp ten minutes old", body, signed(body, seconds=now - 600), 401),
        ("a timestamp ten minutes ahead", body, signed(body, seconds=now + 600), 401),
        ("a timestamp that is none", body, headers | {"webhook-timestamp": "soon"}, 401),
        ("a signature that is none", body, headers | {"webhook-signature": "v1,%"}, 401),
        ("no signature", body, {"Content-Type": "application/cloudevents+json"}, 401),
    ]
    for what, sent, sent_headers, expected in cases:
        status, answer = await call("POST", url, sent, sent_headers)
        if status != expected:
            raise Failed(f"{what}: expected {expected}, found {status} {answer[:200]!r}")
