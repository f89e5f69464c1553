"""Runs the examples beside Holdfast: check.py BUILD HOLDFAST [NAME…]. BUILD holds copies of their folders with their packages.

Each example is started by the command that examples/README.md shows, and must hold the whole conversation.
"""

import asyncio
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

from conversation import forged, refused_by_close, refused_by_status, talk
from scene import SECRET, START_SECONDS, TOKEN, Failed, Process, call, free_port, listens

ROOT = Path(__file__).resolve().parents[2]
OVER_RABBITMQ = ["pika", "celery"]
# More would not be faster on two cores, and a JVM or a Go compiler would starve the others' timeouts.
AT_ONCE = 3
BROWSER_SECONDS = 90


def starts():
    """Each example's command to start it, by its name, as README.md shows them."""
    rows = re.findall(r"^\| \[(\w+)\]\(.*\| `([^`]+)` \|$", (ROOT / "examples/README.md").read_text(), re.MULTILINE)
    folders = {path.parent.name for path in (ROOT / "examples").glob("*/*") if path.suffix != ".html"} - {"schemas", "reconnecting"}
    if {name for name, _ in rows} != folders:
        raise SystemExit(f"examples/README.md: expected the examples {sorted(folders)}, found {sorted(dict(rows))}")
    return dict(rows)


class Example:
    """An example and a Holdfast beside it, with a folder of logs."""

    def __init__(self, name, start, build, holdfast, folder):
        self.name, self.start, self.build, self.binary = name, start, build, holdfast
        self.port, listen, admin = free_port(), free_port(), free_port()
        self.listen, self.admin = f"127.0.0.1:{listen}", f"127.0.0.1:{admin}"
        self.holdfast = Process("holdfast", folder / f"{name}-holdfast.log")
        self.app = Process(name, folder / f"{name}.log")
        self.environment = {
            "HOLDFAST_SIGNING_SECRET": SECRET,
            "HOLDFAST_ADMIN_TOKEN": TOKEN,
            "HOLDFAST_LISTEN": self.listen,
            "HOLDFAST_ADMIN_LISTEN": self.admin,
            "HOLDFAST_ADMIN": f"http://{self.admin}",
            "APP_URL": f"http://127.0.0.1:{self.port}/events",
            "PORT": str(self.port),
            "PATH": f"{build / 'venv/bin'}:{os.environ['PATH']}",
        }

    async def run(self):
        """Starts both and walks the conversation; the seconds that the conversation took."""
        try:
            await self.start_holdfast("examples/holdfast.yaml")
            await self.start_app()
            began = time.monotonic()
            await talk(self.listen, self.admin, self.app.text, refused_by_status)
            await forged(f"http://127.0.0.1:{self.port}/events")
            return time.monotonic() - began
        finally:
            await self.stop()

    async def start_holdfast(self, config):
        self.holdfast.start([self.binary, "run", "--config", config], ROOT, self.environment)
        await self.holdfast.ready("/readyz", self.holdfast_is_ready)

    async def start_app(self):
        self.app.start(["sh", "-c", self.start], self.build / self.name, self.environment)
        await self.app.ready(f"port {self.port}", lambda: listens(self.port))

    async def holdfast_is_ready(self):
        port = int(self.admin.rpartition(":")[2])
        return await listens(port) and (await call("GET", f"http://{self.admin}/readyz"))[0] == 200

    async def stop(self):
        await asyncio.gather(self.app.stop(), self.holdfast.stop())


class Worker(Example):
    """A worker behind RabbitMQ. All share one broker with its queues, so they run one after another."""

    broker = None
    turn = asyncio.Lock()

    async def run(self):
        async with self.turn:
            try:
                self.environment["RABBITMQ_URL"] = await asyncio.wrap_future(self.broker)
                await self.start_holdfast("examples/rabbitmq.yaml")
                self.app.start(["sh", "-c", self.start], self.build / self.name, self.environment)
                await self.app.ready("a line of its log that says so", lambda: re.search(r"\bready\.?$", self.app.text(), re.MULTILINE))
                began = time.monotonic()
                await talk(self.listen, self.admin, self.app.text, refused_by_close)
                return time.monotonic() - began
            finally:
                await self.stop()


class OwnTests(Example):
    """The tests that an example has of its own: they need no Holdfast."""

    async def run(self):
        began = time.monotonic()
        folder, _, command = self.start.partition(": ")
        try:
            self.app.start(["sh", "-c", command], self.build / folder, self.environment)
            await self.app.succeeds(START_SECONDS)
            return time.monotonic() - began
        finally:
            await self.app.stop()


class Pages(Example):
    """The pages, in a browser, beside Express. The browser's driver starts Holdfast, since it must also end it."""

    async def run(self):
        browser = Process("browser", self.holdfast.log)
        try:
            self.app.start(["sh", "-c", self.start], self.build / "express", self.environment)
            await self.app.ready(f"port {self.port}", lambda: listens(self.port))
            began = time.monotonic()
            browser.start(["node", ROOT / "tests/examples/pages.mjs", self.build, self.binary], ROOT, self.environment)
            await browser.succeeds(BROWSER_SECONDS)
            return time.monotonic() - began
        finally:
            await asyncio.gather(self.app.stop(), browser.stop())


async def attempt(example, turn):
    """Runs an example when it is its turn; true if it passed. A failure shows the logs of both."""
    async with turn:
        began = time.monotonic()
        try:
            talked = await example.run()
            print(f"ok     {example.name:<19} {time.monotonic() - began:5.1f} s, of it {talked:4.1f} s without the start", flush=True)
            return True
        except Exception as error:
            if not isinstance(error, (Failed, OSError)):
                traceback.print_exc()
            logs = "".join(f"--- {process.log}\n{process.text()}" for process in (example.app, example.holdfast))
            print(f"FAILED {example.name}: {error!r}\n{logs}---", flush=True)
            return False


def start_broker(folder):
    """A broker of the tests' own; its URL. It ends with this program."""
    command = [ROOT / "scripts/rabbitmq", "start", folder / "rabbitmq", "--watch", str(os.getpid())]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def all_examples(build, holdfast, folder):
    """Every example, and what else is checked with them, in the order of README.md."""
    found = starts()
    found["axum"] = found["axum"].replace("cargo run --example axum", str(ROOT / "target/debug/examples/axum"))
    kinds = {name: Worker for name in OVER_RABBITMQ}
    examples = [kinds.get(name, Example)(name, start, build, holdfast, folder) for name, start in found.items()]
    return examples + [
        Pages("pages", found["express"], build, holdfast, folder),
        OwnTests("express's own tests", "express: npm test", build, holdfast, folder),
        OwnTests("fastapi's own tests", "fastapi: python -m unittest", build, holdfast, folder),
    ]


async def main():
    # Asked to end, it ends what it started first, as after Ctrl-C.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asyncio.current_task().cancel)
    build, holdfast = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    with tempfile.TemporaryDirectory(prefix="holdfast-examples-") as name:
        folder = Path(name)
        examples = [one for one in all_examples(build, holdfast, folder) if not sys.argv[3:] or one.name in sys.argv[3:]]
        if not examples:
            raise SystemExit(f"expected names of examples, found {sys.argv[3:]}")
        if any(isinstance(example, Worker) for example in examples):
            Worker.broker = ThreadPoolExecutor(1).submit(start_broker, folder)
        turn, alone = asyncio.Semaphore(AT_ONCE), asyncio.Semaphore(len(OVER_RABBITMQ))
        try:
            # Workers wait for their broker: that must not take the others' turns.
            attempts = [attempt(example, alone if isinstance(example, Worker) else turn) for example in examples]
            # With `return_exceptions` it waits for all of them even when it is cut short.
            passed = await asyncio.gather(*attempts, return_exceptions=True)
        finally:
            if Worker.broker:
                # A broker that is only starting could not be stopped.
                wait([Worker.broker])
                subprocess.run([ROOT / "scripts/rabbitmq", "stop", folder / "rabbitmq"], check=False)
    print(f"examples: {passed.count(True)} of {len(passed)} passed")
    sys.exit(0 if passed.count(True) == len(passed) else 1)


asyncio.run(main())
