"""The handler by itself: signs events as Holdfast does. `python -m unittest`"""

import json
import os
import unittest
from datetime import datetime, timedelta, timezone

from fastapi.testclient import TestClient
from standardwebhooks import Webhook

SECRET = "whsec_c2VjcmV0IG9mIHRoZSB0ZXN0cw=="
os.environ |= {"HOLDFAST_SIGNING_SECRET": SECRET, "HOLDFAST_ADMIN_TOKEN": "none"}
from main import app  # noqa: E402, its settings are read when it is imported

MESSAGE = {"type": "holdfast.message", "event": "chat.send", "seq": 1, "connectionid": "node-key", "userid": "ann", "data": {"text": "hello"}}


def post(event, secret=SECRET, age=timedelta()):
    body, time = json.dumps(event), datetime.now(timezone.utc) - age
    headers = {
        "webhook-id": "node-key.1",
        "webhook-timestamp": str(int(time.timestamp())),
        "webhook-signature": Webhook(secret).sign("node-key.1", time, body),
    }
    return TestClient(app).post("/events", content=body, headers=headers)


class Events(unittest.TestCase):
    def test_a_message_is_answered_with_commands(self):
        answer = post(MESSAGE)
        self.assertEqual(answer.headers["content-type"], "application/vnd.holdfast.commands+json")
        sent, said = answer.json()
        self.assertEqual(sent["send"]["data"], {"type": "chat.sent", "seq": 1})
        self.assertEqual(said["send"]["to"], {"group": "lobby", "except": ["node-key"]})

    def test_a_stranger_is_refused(self):
        self.assertEqual(post({"type": "holdfast.connect", "data": {"query": {}}}).status_code, 403)

    def test_what_is_not_signed_or_is_old_is_refused(self):
        self.assertEqual(post(MESSAGE, secret="whsec_b3RoZXI=").status_code, 401)
        self.assertEqual(post(MESSAGE, age=timedelta(minutes=10)).status_code, 401)
