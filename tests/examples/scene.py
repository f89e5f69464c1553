"""What a walk through an example needs: free ports, processes with their logs, frames that are awaited, REST, signatures."""

import asyncio
import base64
import hashlib
import hmac
import json
import os
import random
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import websockets

STEP_SECONDS = 10
START_SECONDS = 60


def secrets():
    """The signing secret and the admin token, made by the lines that examples/README.md shows for it."""
    readme = (Path(__file__).resolve().parents[2] / "examples/README.md").read_text()
    lines = readme.partition("```sh\ncat > .env")[2].partition("```")[0]
    script = f"cat > .env{lines}\n. ./.env; echo $HOLDFAST_SIGNING_SECRET $HOLDFAST_ADMIN_TOKEN"
    with tempfile.TemporaryDirectory() as folder:
        shell = subprocess.run(["sh", "-ec", script], cwd=folder, check=True, stdout=subprocess.PIPE, text=True)
    return shell.stdout.split()


SECRET, TOKEN = secrets()


class Failed(Exception):
    """A step that did not go as it should: what was expected, and what was found."""


def free_port():
    """A port below the system's ephemeral ones, so that nobody's outgoing connection takes it before its server does."""
    while True:
        port = random.randrange(23000, 32000)
        if port in free_port.given:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        free_port.given.add(port)
        return port


free_port.given = set()


async def eventually(what, check, seconds=STEP_SECONDS):
    """The first true answer of `check`, or a failure that names `what` was waited for and what was found last."""
    deadline = time.monotonic() + seconds
    while True:
        found = check()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return found
        if time.monotonic() > deadline:
            raise Failed(f"expected {what} within {seconds} s")
        await asyncio.sleep(0.02)


async def listens(port):
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


class Process:
    """A program in a session of its own, so that ending it ends what it started; its output goes to a file."""

    def __init__(self, name, log):
        self.name, self.log, self.process = name, log, None

    def start(self, command, folder, environment):
        """Not asynchronous: a run that is cut short here would lose the process that it must end."""
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                command, cwd=folder, env=os.environ | environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    async def ready(self, what, check):
        def ended_or_ready():
            if self.process.poll() is not None:
                raise Failed(f"{self.name} ended with {self.process.returncode} before it was ready")
            return check()

        await eventually(f"{self.name} to be ready: {what}", ended_or_ready, START_SECONDS)

    async def succeeds(self, seconds):
        """Waits for its end, which must be with 0."""
        await eventually(f"the end of {self.name}", lambda: self.process.poll() is not None, seconds)
        if self.process.returncode != 0:
            raise Failed(f"expected {self.name} to end with 0, found {self.process.returncode}")

    async def stop(self):
        """Asks the program to end; whatever of its session is left after that is killed."""
        if self.process is None:
            return
        try:
            self.process.terminate()
            await eventually("the end", lambda: self.process.poll() is not None)
        except Failed:
            pass
        finally:
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self.process.wait()

    def text(self):
        return Path(self.log).read_text(errors="replace") if Path(self.log).exists() else ""


async def call(method, url, body=None, headers=None):
    """One HTTP request: its status and its body. A refused connection is a failure."""

    def run():
        request = urllib.request.Request(url, data=body, headers=headers or {}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=STEP_SECONDS) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()
        except OSError as error:
            raise Failed(f"expected an answer from {url}, found {error}") from None

    return await asyncio.to_thread(run)


async def open_socket(url):
    return await websockets.connect(url, open_timeout=STEP_SECONDS, proxy=None)


async def frame(client, kind, **fields):
    """The next frame, which must be of this type with these fields."""
    try:
        found = json.loads(await asyncio.wait_for(client.recv(), STEP_SECONDS))
    except asyncio.TimeoutError:
        raise Failed(f"expected {kind}, found nothing within {STEP_SECONDS} s") from None
    except websockets.ConnectionClosed as closed:
        raise Failed(f"expected {kind}, found the end of the socket: {closed}") from None
    if {**found, "type": kind, **fields} != found:
        raise Failed(f"expected {kind} with {fields}, found {found}")
    return found


def signed(body, secret=SECRET, seconds=None, message_id="node-key.0"):
    """The headers of Standard Webhooks for a body."""
    seconds = int(time.time()) if seconds is None else seconds
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.new(key, f"{message_id}.{seconds}.".encode() + body, hashlib.sha256).digest()
    return {
        "Content-Type": "application/cloudevents+json",
        "webhook-id": message_id,
        "webhook-timestamp": str(seconds),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }
