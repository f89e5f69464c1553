"""Runs the examples beside Holdfast: check.py BUILD HOLDFAST [NAME…]. BUILD holds copies of their folders with their packages.

Each example is started by the command that examples/README.md shows, and must hold the whole conversation.
"""

import asyncio
import os
import re
import sys
import tempfile
import time
import traceback
from pathlib import Path

from conversation import forged, talk
from scene import SECRET, Failed, Process, call, free_port, listens

ROOT = Path(__file__).resolve().parents[2]
# More would not be faster on two cores, and a JVM or a Go compiler would starve the others' timeouts.
AT_ONCE = 3


def starts():
    """Each example's command to start it, by its name, as README.md shows them."""
    rows = re.findall(r"^\| \[(\w+)\]\(.*\| `([^`]+)` \|$", (ROOT / "examples/README.md").read_text(), re.MULTILINE)
    if not rows:
        raise SystemExit("examples/README.md: expected a table of examples, found none")
    return dict(rows)


class Example:
    """An example and a Holdfast beside it, with a folder of logs."""

    def __init__(self, name, start, build, holdfast, folder):
        self.name, self.start, self.build, self.holdfast = name, start, build, holdfast
        self.port, listen, admin = free_port(), free_port(), free_port()
        self.listen, self.admin = f"127.0.0.1:{listen}", f"127.0.0.1:{admin}"
        self.processes = [Process("holdfast", folder / f"{name}-holdfast.log"), Process(name, folder / f"{name}.log")]
        self.environment = {
            "HOLDFAST_SIGNING_SECRET": SECRET,
            "HOLDFAST_LISTEN": self.listen,
            "HOLDFAST_ADMIN_LISTEN": self.admin,
            "HOLDFAST_ADMIN": f"http://{self.admin}",
            "APP_URL": f"http://127.0.0.1:{self.port}/events",
            "PORT": str(self.port),
            "PATH": f"{build / 'venv/bin'}:{os.environ['PATH']}",
        }

    async def run(self):
        """Walks the conversation; the time it took, with and without the start."""
        began = time.monotonic()
        holdfast, app = self.processes
        try:
            config = ROOT / "examples/holdfast.yaml"
            await holdfast.start([self.holdfast, "run", "--config", config], ROOT, self.environment)
            await app.start(["sh", "-c", self.start], self.build / self.name, self.environment)
            await app.ready(f"port {self.port}", lambda: listens(self.port))
            await holdfast.ready("/readyz", self.holdfast_is_ready)
            ready = time.monotonic()
            await talk(self.listen, self.admin, app.text, refuses_strangers=True)
            await forged(f"http://127.0.0.1:{self.port}/events")
            return time.monotonic() - began, time.monotonic() - ready
        finally:
            for process in self.processes:
                await process.stop()

    async def holdfast_is_ready(self):
        host, port = self.admin.split(":")
        return await listens(port) and (await call("GET", f"http://{host}:{port}/readyz"))[0] == 200


async def attempt(example, turn):
    """Runs an example when it is its turn; true if it passed. A failure shows the logs of both."""
    async with turn:
        try:
            whole, talked = await example.run()
            print(f"ok     {example.name:<14} {whole:5.1f} s, of it {talked:4.1f} s of conversation", flush=True)
            return True
        except Exception as error:
            if not isinstance(error, (Failed, OSError)):
                traceback.print_exc()
            logs = "".join(f"--- {process.log}\n{process.text()}" for process in example.processes)
            print(f"FAILED {example.name}: {error}\n{logs}---", flush=True)
            return False


async def main():
    build, holdfast = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    wanted = starts()
    if sys.argv[3:]:
        wanted = {name: wanted[name] for name in sys.argv[3:]}
    turn = asyncio.Semaphore(AT_ONCE)
    with tempfile.TemporaryDirectory(prefix="holdfast-examples-") as folder:
        examples = [Example(name, start, build, holdfast, Path(folder)) for name, start in wanted.items()]
        passed = await asyncio.gather(*(attempt(example, turn) for example in examples))
    print(f"examples: {sum(passed)} of {len(passed)} passed")
    sys.exit(0 if all(passed) else 1)


asyncio.run(main())
