"""Checks the image: what its configuration says, what is in it, and what a container of it does. Called by scripts/test-image with
the revision in its label, the command that builds it, and podman's command line."""

import json
import os
import pathlib
import re
import shlex
import struct
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from shared import LIMITS, Client, Podman, check, equal, eventually, finish, free_port

IMAGE = "holdfast:test"
USER = 65532
BYTES_MAX = 40_000_000
# What docs/docker.md runs it with.
HARDENED = ["--read-only", "--read-only-tmpfs=false", "--cap-drop", "all", "--security-opt", "no-new-privileges"]
HARDENED += LIMITS
CONFIG = """
listen: 127.0.0.1:{listen}
admin: {{listen: "127.0.0.1:{admin}"}}
drain: {{window: 100ms, deadline: 10s}}
upstreams:
  # A name, so that the image's resolver is asked.
  app: {{http: {{url: "http://handler.test:{handler}/events"}}}}
endpoints:
  - path: /ws
    connect: app
    disconnect: app
    routes: [{{event: "{event}", upstream: app}}]
"""

class Handler(BaseHTTPRequestHandler):
    """An app: greets at a message, and keeps the types of the events it got."""

    protocol_version = "HTTP/1.1"
    seen = []

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        Handler.seen.append(self.headers["ce-type"])
        answer = b'{"type":"hello","to":' + body + b"}" if self.headers["ce-type"] == "holdfast.message" else b""
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


def check_configuration(image, revision):
    config = image["Config"]
    equal("user", config["User"], f"{USER}:{USER}")
    equal("entrypoint", config["Entrypoint"], ["holdfast"])
    equal("command", config["Cmd"], ["run", "--config", "/etc/holdfast/holdfast.yaml"])
    equal("stop signal", config["StopSignal"], "SIGTERM")
    equal("exposed ports", list(config["ExposedPorts"]), ["8000/tcp"])
    equal("environment", sorted(config["Env"]), ["PATH=/usr/local/bin", "TMPDIR=/dev/shm"])
    equal("health check", image["Healthcheck"]["Test"], ["CMD", "holdfast", "probe", "--live"])
    labels = {name.removeprefix("org.opencontainers.image."): value for name, value in config["Labels"].items()}
    equal("label: title", labels["title"], "Holdfast")
    equal("label: licenses", labels["licenses"], "Apache-2.0")
    equal("label: revision", labels["revision"], revision)
    check("labels: description, source, version", [name for name in ("description", "source", "version") if not labels.get(name)])
    check(f"size: {image['Size'] / 1e6:.1f} MB", "" if image["Size"] < BYTES_MAX else f"over {BYTES_MAX / 1e6:.0f} MB")


def check_files(podman, folder):
    """Only what belongs there, and nothing that one could become root by."""
    container = podman.must("create", IMAGE)
    podman.must("export", "--output", str(folder / "root.tar"), container)
    podman.must("rm", container)
    with tarfile.open(folder / "root.tar") as root:
        members = {member.name: member for member in root if not member.isdir()}
        authorities = root.extractfile("etc/ssl/certs/ca-certificates.crt").read()
        modes = {member.name: member.mode for member in members.values()}
    # What podman itself puts into every container.
    made = {"etc/hostname", "etc/hosts", "etc/mtab", "etc/resolv.conf", "run/.containerenv"}
    libraries = {name for name in members if name.startswith("lib") and ".so" in name}
    wanted = {"etc/group", "etc/passwd", "etc/ssl/certs/ca-certificates.crt", "usr/local/bin/holdfast"}
    equal("files: the program, its libraries, authorities, two names", sorted(set(members) - libraries - made), sorted(wanted))
    equal("libraries", sorted({name.split("/")[-1].split(".")[0].split("-")[0] for name in libraries}), ["ld", "libc", "libgcc_s", "libm"])
    check("no set-user-id", [name for name, mode in modes.items() if mode & 0o6000])
    check("certificate authorities", "" if authorities.count(b"BEGIN CERTIFICATE") > 50 else "fewer than 50")


def check_demo(podman):
    """On a root that cannot be written, without any mount, with no network but loopback."""
    result = podman.run("run", "--rm", "--network", "none", *HARDENED, IMAGE, "demo", "--check")
    check("demo --check", "" if result.returncode == 0 and "every step passed" in result.stdout else f"{result.returncode}: {result.stderr}")


def check_no_configuration(podman):
    result = podman.run("run", "--rm", "--network", "none", *HARDENED, IMAGE)
    equal("without a configuration: exit code", result.returncode, 78)
    check("without a configuration: the file is named", "" if "/etc/holdfast/holdfast.yaml" in result.stderr else result.stderr)


def check_process(podman, container):
    """What the kernel says of the process, seen from outside."""
    state = json.loads(podman.must("inspect", container))[0]["State"]
    lines = pathlib.Path(f"/proc/{state['Pid']}/status").read_text().splitlines()
    status = {name: value.split() for name, value in (line.split(":", 1) for line in lines)}
    equal("it is process 1", status["NSpid"][-1], "1")
    equal("its users", set(status["Uid"] + status["Gid"]), {str(USER)})
    equal("its capabilities", {status[name][0] for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb")}, {"0" * 16})
    equal("it gets no new privileges", status["NoNewPrivs"], ["1"])
    mounts = pathlib.Path(f"/proc/{state['Pid']}/mounts").read_text().splitlines()
    root = next(line.split() for line in mounts if line.split()[1] == "/")
    check("its root cannot be written", "" if "ro" in root[3].split(",") else root[3])


def check_reload(podman, container, client, write):
    """A configuration that is renamed over the old one in the mounted folder is in force without a restart."""
    write("never.sent")

    def refused():
        client.send(1, b'{"type":"hi"}')
        return b"unknown_event" in client.frame()[1]

    eventually("the new configuration is in force", 15, refused)
    check("a changed configuration is in force on the open socket", "")
    write("*")
    result = podman.run("exec", container, "holdfast", "reload")
    check("holdfast reload, inside", "" if result.returncode == 0 else result.stderr)
    client.send(1, b'{"type":"hi"}')
    equal("and the old one again", client.frame()[1], b'{"type":"hello","to":{"type":"hi"}}')


def check_stop(podman, container, client):
    """`podman stop` as `docker stop`: SIGTERM to process 1, a drain, exit code 0."""
    began = time.monotonic()
    stopping = threading.Thread(target=podman.must, args=("stop", "--time", "35", container))
    stopping.start()
    opcode, payload = client.frame()
    equal("SIGTERM: the client is told", (opcode, payload[:2]), (8, struct.pack("!H", 1012)))
    client.send(8, payload[:2])
    client.close()
    stopping.join()
    seconds = time.monotonic() - began
    check(f"SIGTERM: drained in {seconds:.1f} s", "" if seconds < 5 else "it took too long")
    equal("SIGTERM: exit code", json.loads(podman.must("inspect", container))[0]["State"]["ExitCode"], 0)
    equal("SIGTERM: the app got the disconnect, last", Handler.seen[-1], "holdfast.disconnect")


def check_serving(podman, folder):
    handler = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=handler.serve_forever, daemon=True).start()
    ports = {"listen": free_port(), "admin": free_port(), "handler": handler.server_port}
    config = folder / "config"
    config.mkdir(mode=0o755)

    def write(event):
        (config / "new").write_text(CONFIG.format(event=event, **ports))
        (config / "new").rename(config / "holdfast.yaml")

    write("*")
    admin = f"http://127.0.0.1:{ports['admin']}"
    container = podman.must(
        "run", "--detach", "--network", "host", "--add-host", "handler.test:127.0.0.1", "--env", f"HOLDFAST_ADMIN={admin}",
        "--volume", f"{config}:/etc/holdfast:ro", *HARDENED, IMAGE,
    )  # fmt: skip
    try:
        eventually("it is ready", 20, lambda: urllib.request.urlopen(f"{admin}/readyz", timeout=5).status == 200)
        check_process(podman, container)
        check("holdfast probe, inside", podman.run("exec", container, "holdfast", "probe").stderr)
        check("the health check", podman.run("healthcheck", "run", container).stdout)
        client = Client(ports["listen"], "/ws")
        equal("a client outside connects", client.status, b"101")
        client.send(1, b'{"type":"hi"}')
        equal("and is answered by the app", client.frame(), (1, b'{"type":"hello","to":{"type":"hi"}}'))
        check_reload(podman, container, client, write)
        check_stop(podman, container, client)
    except SystemExit:
        print(podman.run("logs", container).stderr, file=sys.stderr)
        raise


def check_documents(podman, builder, folder):
    """The commands of docs/docker.md, with podman and buildah in the place of Docker and free ports in the place of its own."""
    page = pathlib.Path("docs/docker.md").read_text()
    blocks = re.findall(r"^```(?:sh|yaml)\n(.*?)^```", page, re.M | re.S)
    (folder / "ws").mkdir(mode=0o755)
    (folder / "ws/holdfast.yaml").write_text(next(text for text in blocks if "endpoints:" in text))
    docker = folder / "docker"
    docker.write_text(
        f"""#!/bin/sh
verb=$1; shift
case $verb in
    build) cd {shlex.quote(os.getcwd())}; exec {shlex.join(builder)} "$@" ;;
    run) set -- run {shlex.join(LIMITS)} "$@" ;;
    *) set -- "$verb" "$@" ;;
esac
case "$*" in
    # It asks a container that has just been started, and whose listener may not be there yet.
    exec\\ * | *container:*) tries=100 ;;
    *) tries=1 ;;
esac
while ! {shlex.join(podman.command)} "$@"; do
    tries=$((tries - 1))
    [ $tries -gt 0 ] || exit 1
    sleep 0.1
done
"""
    )
    docker.chmod(0o755)
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    ran = 0
    for text in blocks:
        if not text.startswith("docker ") or text.startswith(("docker compose", "docker buildx")):
            continue
        name = text.splitlines()[0][:70]
        text = re.sub(r"(127\.0\.0\.1):\d+:", lambda found: f"{found[1]}:{free_port()}:", text)
        # A word that podman knows only in later versions than Debian's.
        text = text.replace("host-gateway", "127.0.0.1")
        result = subprocess.run(["bash", "-euo", "pipefail", "-c", text], cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
        check(f"docs/docker.md: {name}", "" if result.returncode == 0 else f"{result.returncode}: {result.stderr[-2000:]}")
        ran += 1
    check("docs/docker.md: commands were run", "" if ran >= 4 else f"{ran}")


def main(revision, builder, command, folder):
    podman = Podman(command)
    check_configuration(json.loads(podman.must("image", "inspect", IMAGE))[0], revision)
    check_files(podman, folder)
    check_demo(podman)
    check_no_configuration(podman)
    check_serving(podman, folder)
    check_documents(podman, builder, folder)


with tempfile.TemporaryDirectory(prefix="holdfast-image-") as folder:
    # The container's user looks into it.
    os.chmod(folder, 0o755)
    main(sys.argv[1], shlex.split(sys.argv[2]), sys.argv[3:], pathlib.Path(folder))
finish("image")
