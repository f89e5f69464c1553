"""Reads the Dockerfile, compose.yaml and what they name, and holds them against each other. Called by scripts/test-image with the
Compose schema and the binary."""

import json
import os
import pathlib
import re
import subprocess
import sys

import jsonschema
import yaml

HARDENED = {"read_only": True, "cap_drop": ["ALL"]}
# Who needs more than that, and says so in compose.yaml.
SOFTER = {"rabbitmq": {"read_only", "cap_drop"}, "grafana": {"read_only"}}

passed = failed = 0


def check(name, problem):
    global passed, failed
    if problem:
        print(f"FAILED {name}: {problem}", flush=True)
    passed, failed = passed + (not problem), failed + bool(problem)


def substituted(text):
    """Compose's `${NAME:-default}`, where no variable is set; every one has a default."""
    check("compose.yaml: every variable has a default", re.findall(r"\$\{\w+\}|\$\w+", text.replace("$$", "")))
    return re.sub(r"\$\{(\w+):-([^}]*)\}", r"\2", text)


def seconds(text):
    return int(re.fullmatch(r"(\d+)s", text)[1])


def check_service(name, service, compose):
    for key, value in HARDENED.items():
        if key not in SOFTER.get(name, ()):
            check(f"{name}: {key}", "" if service.get(key) == value else f"{service.get(key)}")
    check(f"{name}: no-new-privileges", "" if "no-new-privileges" in service["security_opt"] else "missing")
    check(f"{name}: ports are on loopback", [port for port in service.get("ports", []) if not port.startswith("127.0.0.1:")])
    check(f"{name}: waits for what there is", [other for other in service.get("depends_on", {}) if other not in compose["services"]])
    for volume in service.get("volumes", []):
        source = volume.split(":")[0]
        known = pathlib.Path(source).is_dir() if source.startswith(".") else source in compose["volumes"]
        check(f"{name}: {volume} is a folder or a volume", "" if known else "it is not")
    dockerfile = pathlib.Path(service["build"], "Dockerfile") if "build" in service else None
    own = dockerfile and re.search("^HEALTHCHECK", dockerfile.read_text(), re.M)
    check(f"{name}: has a health check", "" if "healthcheck" in service or own else "none")
    tag = service["image"].rpartition(":")[2]
    check(f"{name}: {service['image']} is of one version", "" if "build" in service or re.search(r"\d", tag) else "it is not")


def check_holdfast(service, binary):
    config = service["command"][2].removeprefix("/etc/holdfast/")
    environment = {"PATH": os.environ["PATH"], **service["environment"]}
    result = subprocess.run([binary, "check", config], env=environment, capture_output=True, text=True)
    check(f"holdfast check {config}", result.stderr)
    drain = yaml.safe_load(pathlib.Path(config).read_text())["drain"]
    check("the drain fits into stop_grace_period", "" if seconds(drain["deadline"]) < seconds(service["stop_grace_period"]) else f"{drain}")
    # The places are as in this repository, so that this check sees what the container does.
    for volume in service["volumes"]:
        source, target, _ = volume.split(":")
        check(volume, "" if target == "/etc/holdfast/" + source.removeprefix("./") else "another place than in the repository")


def check_monitoring(compose):
    config = "deploy/prometheus/prometheus.yaml"
    # Only the syntax: the token's file is written in the container.
    result = subprocess.run(["promtool", "check", "config", "--syntax-only", config], capture_output=True, text=True)
    check(f"promtool check config {config}", result.stderr if result.returncode else "")
    scrape = yaml.safe_load(pathlib.Path(config).read_text())["scrape_configs"][0]
    services = compose["services"]
    hosts = [target.split(":")[0] for target in scrape["static_configs"][0]["targets"]]
    check("prometheus asks a service", [host for host in hosts if host not in services])
    token = scrape["authorization"]["credentials_file"]
    check("prometheus is given the token that it reads", "" if token in services["prometheus"]["entrypoint"][2] else token)
    provisioning = pathlib.Path("deploy/grafana/provisioning")
    source = yaml.safe_load((provisioning / "datasources/prometheus.yaml").read_text())["datasources"][0]
    check("grafana asks a service", "" if re.fullmatch(r"http://(\w+):9090", source["url"])[1] in services else source["url"])
    provider = yaml.safe_load((provisioning / "dashboards/holdfast.yaml").read_text())["providers"][0]
    mounts = dict(volume.split(":")[:2][::-1] for volume in services["grafana"]["volumes"])
    folder = mounts.get(provider["options"]["path"])
    check("grafana finds the dashboard", "" if folder and pathlib.Path(folder, "holdfast.json").is_file() else f"{mounts}")


def check_dockerfile():
    """The image is what the chart expects, and bears Cargo's version."""
    text = pathlib.Path("Dockerfile").read_text()
    version = re.search(r'^version = "(.+)"', pathlib.Path("Cargo.toml").read_text(), re.M)[1]
    check("Dockerfile: the version is Cargo's", "" if f"\nARG VERSION={version}\n" in text else version)
    rust = re.search(r'^rust-version = "(.+)"', pathlib.Path("Cargo.toml").read_text(), re.M)[1]
    check("Dockerfile: the builder's Rust is Cargo's", "" if f"\nARG BUILDER=rust:{rust}-" in text else rust)
    values = yaml.safe_load(pathlib.Path("helm/holdfast/values.yaml").read_text())["securityContext"]
    check("Dockerfile: the user is the chart's", "" if f"\nUSER {values['runAsUser']}:{values['runAsGroup']}\n" in text else f"{values}")
    command = json.loads(re.search(r"^CMD (\[.*\])$", text, re.M)[1])
    chart = re.search(r"^args: \[(.*)\]$", pathlib.Path("helm/holdfast/templates/_pod.tpl").read_text(), re.M)[1]
    check("Dockerfile: the command is the chart's", "" if ", ".join(command) == chart else chart)


def check_context():
    """What the program includes of other folders is copied into the build, and is not kept out of it."""
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", pathlib.Path("Dockerfile").read_text(), re.M)
    copied = {name for names in copied for name in names.split()}
    let_in = {line[1:] for line in pathlib.Path(".dockerignore").read_text().splitlines() if line.startswith("!")}
    check(".dockerignore lets in what is copied, and nothing else", sorted(copied ^ let_in))
    for file in pathlib.Path("src").rglob("*.rs"):
        for name in re.findall(r'include_(?:str|bytes)!\("(.+?)"\)', file.read_text()):
            path = os.path.relpath(file.parent / name)
            check(f"{file}: {path} is in the image's build", "" if any((path + "/").startswith(f"{top}/") for top in copied) else "it is not")


def check_documents(validator):
    """Compose files in the documents."""
    found = 0
    for page in pathlib.Path("docs").rglob("*.md"):
        for block in re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.M | re.S):
            if not block.startswith("# compose.yaml"):
                continue
            found += 1
            check(f"{page}", [error.message for error in validator.iter_errors(yaml.safe_load(block))])
    check("Compose files in the documents", "" if found else "none found")


def main(schema, binary):
    validator = jsonschema.Draft7Validator(json.loads(pathlib.Path(schema).read_text()))
    compose = yaml.safe_load(substituted(pathlib.Path("compose.yaml").read_text()))
    check("compose.yaml fits the schema", [f"{error.json_path}: {error.message}" for error in validator.iter_errors(compose)])
    for name, service in compose["services"].items():
        check_service(name, service, compose)
    check_holdfast(compose["services"]["holdfast"], binary)
    check_monitoring(compose)
    check_dockerfile()
    check_context()
    check_documents(validator)
    print(f"image, lint: {passed} passed, {failed} failed")


main(*sys.argv[1:])
sys.exit(1 if failed or not passed else 0)
