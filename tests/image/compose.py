"""Runs compose.yaml by podman-compose, on free ports, with stand-ins of Debian's packages under the names of images that a
registry would give. Grafana is left out: Debian has none. Called by scripts/test-image with podman-compose and podman's command line."""

import base64
import json
import os
import pathlib
import re
import shlex
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

from shared import LIMITS, Client, Podman, check, equal, eventually, finish, free_port

SERVICES = ["app", "rabbitmq", "holdfast", "prometheus"]
TOKEN = "local-only"


def fetch(url, body=None, **headers):
    request = urllib.request.Request(url, data=body, headers=headers)
    with urllib.request.urlopen(request, timeout=5) as answer:
        return answer.read()


class Project:
    def __init__(self, program, podman, folder):
        self.podman = podman
        self.name = f"holdfast-test-{os.getpid()}"
        self.ports = {port: free_port() for port in (8000, 8001, 9090, 15672)}
        text = pathlib.Path("compose.yaml").read_text()
        text = text.replace("name: holdfast\n", f"name: {self.name}\n").replace("- ./", f"- {os.getcwd()}/")
        text = re.sub(r"127\.0\.0\.1:(\d+):", lambda found: f"127.0.0.1:{self.ports.get(int(found[1]), 0)}:", text)
        (folder / "compose.yaml").write_text(text)
        wrapper = folder / "podman"
        command = shlex.join(podman.command)
        wrapper.write_text(
            f"""#!/bin/sh
verb=$1; shift
case $verb in
    run | create) exec {command} "$verb" {shlex.join(LIMITS)} "$@" ;;
    *) exec {command} "$verb" "$@" ;;
esac
"""
        )
        wrapper.chmod(0o755)
        self.command = [program, "--podman-path", str(wrapper), "--file", str(folder / "compose.yaml")]

    def compose(self, *arguments):
        return subprocess.run([*self.command, *arguments], capture_output=True, text=True, timeout=200)

    def container(self, service):
        return f"{self.name}_{service}_1"

    def url(self, port, path):
        return f"http://127.0.0.1:{self.ports[port]}{path}"


def check_conversation(project):
    ann, bob = (Client(project.ports[8000], f"/ws?user={user}") for user in ("ann", "bob"))
    welcome = [b'{"type":"chat.welcome","user":"%s"}' % user for user in (b"ann", b"bob")]
    equal("two clients are welcomed by the app", [client.frame()[1] for client in (ann, bob)], welcome)
    ann.send(1, b'{"type":"chat.send","text":"hello"}')
    check("one is answered", "" if b"chat.sent" in ann.frame()[1] else "it is not")
    check("the other gets the message", "" if b'"text":"hello"' in bob.frame()[1] else "it does not")
    ann.send(1, b'{"type":"chat.remind","text":"tea","after_ms":10}')
    check("the app pushes by REST, with the token", "" if b"chat.reminder" in ann.frame()[1] else "it does not")
    ann.send(1, b'{"type":"order.created"}')
    check("an order is in RabbitMQ's queue", "" if b'"ack"' in ann.frame()[1] else "it is not")
    message = {"properties": {"headers": {"to-user": "bob"}}, "routing_key": "holdfast.commands", "payload": "news", "payload_encoding": "string"}
    login = base64.b64encode(f"holdfast:{TOKEN}".encode()).decode()
    publish = project.url(15672, "/api/exchanges/%2f/amq.default/publish")
    fetch(publish, json.dumps(message).encode(), Authorization=f"Basic {login}")
    equal("a command out of a queue reaches its user", bob.frame()[1], b"news")
    bob.close()
    return ann


def check_monitoring(project):
    try:
        fetch(project.url(8001, "/v1/config"))
        check("the admin API wants its token", "it answered without")
    except urllib.error.HTTPError as error:
        equal("the admin API wants its token", error.code, 401)
    query = project.url(9090, "/api/v1/query?") + urllib.parse.urlencode({"query": "sum(holdfast_messages_received_total) >= 3"})
    eventually("Prometheus has scraped the messages", 30, lambda: json.loads(fetch(query))["data"]["result"])
    groups = json.loads(fetch(project.url(9090, "/api/v1/rules")))["data"]["groups"]
    check("Prometheus has the alerts", "" if groups and groups[0]["rules"] else "it has none")


def check_stop(project, client):
    # One after another, as Compose does it, who depends on others before them; podman-compose would stop all at once.
    order = ["prometheus", "holdfast", "app", "rabbitmq"]
    stopping = threading.Thread(target=lambda: [project.compose("stop", service) for service in order])
    stopping.start()
    equal("the client is told", client.frame(), (8, struct.pack("!H", 1012) + b"going away"))
    client.close()
    stopping.join()
    state = {name: json.loads(project.podman.must("inspect", project.container(name)))[0]["State"] for name in SERVICES}
    # 143: ended by SIGTERM, which `init` passes on.
    equal("exit codes", {name: state[name]["ExitCode"] for name in SERVICES}, {"app": 143, "rabbitmq": 0, "holdfast": 0, "prometheus": 0})
    log = project.podman.run("logs", project.container("app")).stdout
    check("the app was told of the drain", "" if "ann left: drain" in log else log)


def main(program, command, folder):
    project = Project(program, Podman(command), folder)
    try:
        began = time.monotonic()
        result = project.compose("up", "--no-build", "--detach", *SERVICES)
        check("up", "" if result.returncode == 0 else result.stderr)
        for name in SERVICES:
            ask = lambda: project.podman.run("healthcheck", "run", project.container(name)).returncode == 0
            eventually(f"{name} is healthy", 120, ask)
            check(f"{name} is healthy", "")
        print(f"       after {time.monotonic() - began:.0f} s")
        client = check_conversation(project)
        check_monitoring(project)
        check_stop(project, client)
    except SystemExit:
        for name in SERVICES:
            print(f"== {name}", project.podman.run("logs", project.container(name)), file=sys.stderr)
        raise
    finally:
        project.compose("down", "--volumes")
        project.podman.run("network", "rm", "--force", f"{project.name}_default")


with tempfile.TemporaryDirectory(prefix="holdfast-compose-") as folder:
    main(sys.argv[1], sys.argv[2:], pathlib.Path(folder))
finish("compose")
