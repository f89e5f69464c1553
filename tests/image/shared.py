"""What the checks of the image and of compose.yaml share."""

import base64
import os
import resource
import socket
import struct
import subprocess
import sys
import time

# This machine's own: who may not raise limits cannot give podman's.
FILES = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
LIMITS = ["--ulimit", f"nofile={FILES}:{FILES}", "--ulimit", "nproc=1024:1024"]

passed = failed = 0


def check(name, problem):
    global passed, failed
    print(f"{'FAILED' if problem else 'ok    '} {name}" + (f": {problem}" if problem else ""), flush=True)
    passed, failed = passed + (not problem), failed + bool(problem)


def equal(name, found, expected):
    check(name, "" if found == expected else f"expected {expected!r}, found {found!r}")


def eventually(what, seconds, attempt):
    """What `attempt` returns, as soon as that is something."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if found := attempt():
                return found
        except OSError:
            pass
        if time.monotonic() > deadline:
            raise SystemExit(f"not within {seconds} s: {what}")
        time.sleep(0.05)


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Podman:
    def __init__(self, command):
        self.command = command

    def run(self, *arguments, timeout=60):
        return subprocess.run([*self.command, *arguments], capture_output=True, text=True, timeout=timeout)

    def must(self, *arguments):
        result = self.run(*arguments)
        if result.returncode:
            raise SystemExit(f"podman {' '.join(arguments)}: {result.stderr}")
        return result.stdout.strip()


class Client:
    """A WebSocket, as far as this test needs one: small frames."""

    def __init__(self, port, path):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self.stream = self.socket.makefile("rb")
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(
            f"GET {path} HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: {key}\r\n\r\n".encode()
        )
        self.status = self.stream.readline().split()[1]
        while self.stream.readline() not in (b"\r\n", b""):
            pass

    def send(self, opcode, payload):
        mask = os.urandom(4)
        masked = bytes(b ^ mask[i % 4] for i, b in enumerate(payload))
        self.socket.sendall(struct.pack("!BB", 0x80 | opcode, 0x80 | len(payload)) + mask + masked)

    def frame(self):
        first, size = self.stream.read(2)
        if size == 126:
            (size,) = struct.unpack("!H", self.stream.read(2))
        return first & 15, self.stream.read(size)

    def close(self):
        self.stream.close()
        self.socket.close()


def finish(what):
    """Says how it went, and leaves."""
    print(f"{what}: {passed} passed, {failed} failed")
    sys.exit(1 if failed or not passed else 0)
