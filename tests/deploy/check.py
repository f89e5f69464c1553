"""Checks deploy/ against the code and against a running Holdfast. Called by scripts/test-deploy with the binary."""

import base64
import json
import os
import pathlib
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request

import names

passed = failed = 0


def check(name, problem):
    global passed, failed
    print(f"{'FAILED' if problem else 'ok    '} {name}" + (f": {problem}" if problem else ""), flush=True)
    passed, failed = passed + (not problem), failed + bool(problem)


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def fetch(url):
    with urllib.request.urlopen(url, timeout=5) as answer:
        return answer.read().decode()


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


def converse(port):
    """One message over a socket of its own, and its echo."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        key = base64.b64encode(os.urandom(16)).decode()
        head = f"GET /chat?name=ann HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
        client.sendall(head.encode())
        received = b""
        for message in ({"type": "chat.send", "text": "hello", "room": "lobby"}, {"type": "nothing.takes.this"}):
            body = json.dumps(message).encode()
            mask = os.urandom(4)
            client.sendall(struct.pack("!BB", 0x81, 0x80 | len(body)) + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(body)))
        while b"unknown_event" not in received:
            if not (more := client.recv(4096)):
                raise SystemExit(f"the socket closed: {received}")
            received += more
        assert received.startswith(b"HTTP/1.1 101"), received


def check_metrics(url):
    result = subprocess.run(["promtool", "check", "metrics"], input=fetch(url), capture_output=True, text=True)
    check("promtool check metrics", result.stdout + result.stderr if result.returncode or result.stdout or result.stderr else "")
    text = fetch(urllib.request.Request(url, headers={"Accept": "application/openmetrics-text;version=1.0.0"}))
    check("the answer ends as OpenMetrics does", "" if text.endswith("# EOF\n") else "no # EOF")
    served = dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.M))
    families = names.of_page()
    wrong = [name for name, kind in served.items() if families.get(name, [""])[0] != kind]
    check(f"{len(served)} served metrics are those of the page", wrong)
    listed = names.words()
    strange = [
        f"{name} has {label}={value!r}"
        for name, labels in re.findall(r"^(holdfast_\w+)\{(.*)\} ", text, re.M)
        for label, value in re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', labels)
        if value not in listed.get((name, label), [value])
    ]
    check("their labels have values that the page lists", strange)


def query(prometheus, text):
    """The series of a query, with Grafana's variables filled in."""
    for variable, value in {"$__rate_interval": "30s", "$instance": ".*", "$endpoint": ".*"}.items():
        text = text.replace(variable, value)
    url = f"{prometheus}/api/v1/query?" + urllib.parse.urlencode({"query": text})
    return json.loads(fetch(url))["data"]["result"]


def check_queries(prometheus):
    """Each query is one that Prometheus takes; those on metrics that are always there have an answer, where nothing is compared."""
    empty, count = [], 0
    for place, text in names.queries():
        try:
            found = query(prometheus, text)
        except urllib.error.HTTPError as error:
            check(place, f"{text}: {error.read().decode()}")
            continue
        count += 1
        if not found and not re.search(r"[<>=] \d", text) and any(name in text for name in ALWAYS):
            empty.append(place)
    check(f"{count} queries are answered", f"nothing for {empty}" if empty else "" if count > 50 else f"{count}")


ALWAYS = ["holdfast_connections{", "holdfast_connections_limit", "holdfast_messages_received", "holdfast_events_total", "holdfast_event_duration", "holdfast_build_info"]
ALWAYS += ["holdfast_upstream_", "holdfast_breaker_state", "holdfast_mailbox_bytes", "holdfast_config_generation", "holdfast_amqp_blocked{"]


def main(binary, folder):
    wrong = list(names.problems())
    check(f"{len(names.of_page())} metrics: those that the dashboard, the alerts and the documents name are there, and each is shown", "\n  ".join(wrong))
    listen, admin, page, web = (free_port() for _ in range(4))
    address = f"127.0.0.1:{admin}"
    flags = ["--listen", f"127.0.0.1:{listen}", "--admin", address, "--page", f"127.0.0.1:{page}"]
    (folder / "prometheus.yaml").write_text(
        f"global: {{scrape_interval: 250ms, evaluation_interval: 250ms}}\nrule_files: ['{names.RULES.absolute()}']\n"
        f"scrape_configs: [{{job_name: holdfast, static_configs: [{{targets: ['{address}']}}]}}]\n"
    )
    storage = [f"--config.file={folder / 'prometheus.yaml'}", f"--storage.tsdb.path={folder / 'data'}"]
    with open(folder / "log", "w") as log:
        started = [subprocess.Popen([binary, "demo", *flags], stdout=log, stderr=log)]
        try:
            eventually("Holdfast is ready", 20, lambda: fetch(f"http://{address}/readyz"))
            converse(listen)
            started.append(subprocess.Popen(["prometheus", *storage, f"--web.listen-address=127.0.0.1:{web}", "--log.level=warn"], stdout=log, stderr=log))
            check_metrics(f"http://{address}/metrics")
            prometheus = f"http://127.0.0.1:{web}"
            eventually("Prometheus is ready", 20, lambda: fetch(f"{prometheus}/-/ready"))
            seen = lambda: query(prometheus, 'rate(holdfast_events_total{outcome="delivered"}[30s])')
            eventually("Prometheus has scraped twice", 20, seen)
            check("the message is seen", "" if query(prometheus, 'sum(holdfast_messages_received_total{endpoint="/chat"}) >= 2') else "it is not")
            check_queries(prometheus)
            groups = json.loads(fetch(f"{prometheus}/api/v1/rules"))["data"]["groups"]
            ill = [f"{rule['name']}: {rule.get('lastError')}" for group in groups for rule in group["rules"] if rule["health"] == "err"]
            check("the alerts are evaluated", ill or ("" if groups else "there are none"))
            firing = [rule["name"] for group in groups for rule in group["rules"] if rule["state"] == "firing"]
            check("none fires", firing)
        except SystemExit:
            print((folder / "log").read_text(), file=sys.stderr)
            raise
        finally:
            for process in started:
                process.send_signal(signal.SIGTERM)
            codes = [process.wait(timeout=40) for process in started]
    check("both leave with 0", "" if codes == [0, 0] else f"{codes}")
    print(f"deploy: {passed} passed, {failed} failed")


with tempfile.TemporaryDirectory(prefix="holdfast-deploy-") as folder:
    main(sys.argv[1], pathlib.Path(folder))
sys.exit(1 if failed or not passed else 0)
