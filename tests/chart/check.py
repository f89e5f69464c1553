"""Checks the Helm charts under helm/. Called by scripts/test-chart with the folder of the tools and the binary of Holdfast."""

import base64
import functools
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import yaml
from kubernetes_validate import SchemaNotFoundError, ValidationError, utils

TOOLS, HOLDFAST = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]).absolute()
HELMS = {"helm 4.3": TOOLS / "helm-v37", "helm 3.17": TOOLS / "helm-v32"}
NEWEST, OLDEST = "1.37", "1.25"
# Native sidecars are not known before.
OLDEST_NATIVE = "1.29"
SECRETS = "/run/secrets/holdfast"
FORGED = pathlib.Path(tempfile.mkdtemp(prefix="holdfast-chart-"))

utils.schema_contents = functools.lru_cache(maxsize=None)(utils.schema_contents)
passed = failed = 0


def check(name, problem):
    """One line for a check; `problem` is empty where all is well."""
    global passed, failed
    print(f"{'FAILED' if problem else 'ok    '} {name}" + (f": {problem}" if problem else ""), flush=True)
    passed, failed = passed + (not problem), failed + bool(problem)


def helm(binary, *arguments):
    environment = {**os.environ, "HELM_CACHE_HOME": str(FORGED / "helm"), "HELM_CONFIG_HOME": str(FORGED / "helm")}
    return subprocess.run([binary, *map(str, arguments)], capture_output=True, text=True, env=environment, timeout=60)


def render(binary, chart, *arguments):
    """The manifests, or what Helm said."""
    result = helm(binary, "template", "release", chart, "--namespace", "place", *arguments)
    if result.returncode != 0:
        return result.stderr.strip()
    return [document for document in yaml.safe_load_all(result.stdout) if document]


def of_kind(documents, kind):
    return [document for document in documents if document["kind"] == kind]


def name_of(document):
    return f"{document['kind']}/{document['metadata']['name']}"


def pods(documents):
    return [deployment["spec"]["template"] for deployment in of_kind(documents, "Deployment")]


def containers(pod):
    return pod["spec"].get("initContainers", []) + pod["spec"]["containers"]


def holdfast_of(documents):
    found = [container for pod in pods(documents) for container in containers(pod) if container["name"] == "holdfast"]
    return found[0] if len(found) == 1 else {}


def schema_problem(documents, version):
    """Every manifest against Kubernetes' own schemas, where an unknown property is wrong too."""
    for document in documents:
        try:
            utils.validate(document, version, strict=True)
        except SchemaNotFoundError:
            if (document["apiVersion"], document["kind"]) != ("monitoring.coreos.com/v1", "ServiceMonitor"):
                return f"{name_of(document)}: no schema for {document['apiVersion']}"
            if problem := monitor_problem(document, documents):
                return problem
        except ValidationError as error:
            return f"{name_of(document)}: {'.'.join(map(str, error.path))}: {error.message[:300]}"
    return ""


def monitor_problem(monitor, documents):
    """A ServiceMonitor has no schema here: its keys are looked at one by one."""
    if extra := set(monitor["spec"]) - {"selector", "endpoints"}:
        return f"ServiceMonitor: unknown {extra}"
    services = [s for s in of_kind(documents, "Service") if fits(monitor["spec"]["selector"], s["metadata"]["labels"])]
    if len(services) != 1:
        return f"ServiceMonitor: selects {len(services)} Services"
    for endpoint in monitor["spec"]["endpoints"]:
        if extra := set(endpoint) - {"port", "path", "interval", "scheme", "tlsConfig", "authorization"}:
            return f"ServiceMonitor: unknown {extra}"
        if endpoint["port"] not in [port["name"] for port in services[0]["spec"]["ports"]]:
            return f"ServiceMonitor: the Service has no port {endpoint['port']}"
    return ""


def fits(selector, labels):
    return selector["matchLabels"].items() <= labels.items()


def reference_problem(documents):
    """What manifests say of each other: selectors, ports, volumes."""
    for pod in pods(documents):
        volumes = {volume["name"] for volume in pod["spec"].get("volumes", [])}
        for container in containers(pod):
            ports = {port["name"] for port in container.get("ports", [])}
            if missing := {mount["name"] for mount in container.get("volumeMounts", [])} - volumes:
                return f"{container['name']}: no volume {missing}"
            hooks = [container.get(key, {}) for key in ("livenessProbe", "readinessProbe")]
            for hook in [*hooks, container.get("lifecycle", {}).get("preStop", {})]:
                if problem := hook_problem(hook, ports):
                    return f"{container['name']}: {problem}"
    labels = [pod["metadata"]["labels"] for pod in pods(documents)]
    ports = {port["name"] for pod in pods(documents) for container in containers(pod) for port in container.get("ports", [])}
    for service in of_kind(documents, "Service"):
        if not any(service["spec"]["selector"].items() <= found.items() for found in labels):
            return f"{name_of(service)} selects no pod"
        if missing := {port["targetPort"] for port in service["spec"]["ports"]} - ports:
            return f"{name_of(service)}: no port {missing}"
    for document in of_kind(documents, "PodDisruptionBudget") + of_kind(documents, "NetworkPolicy"):
        selector = document["spec"].get("selector") or document["spec"]["podSelector"]
        if not any(fits(selector, found) for found in labels):
            return f"{name_of(document)} selects no pod"
    return ""


def hook_problem(hook, ports):
    """A hook calls a port that there is, or runs a command that Holdfast knows."""
    if (port := (hook.get("httpGet") or hook.get("tcpSocket") or {}).get("port")) and port not in ports:
        return f"no port {port}"
    if command := hook.get("exec", {}).get("command"):
        # `--help` comes last: what stands before it is read first, and nothing is called.
        result = subprocess.run([HOLDFAST, *command[1:], "--help"], capture_output=True, text=True, timeout=60)
        if command[0] != "holdfast" or result.returncode != 0:
            return f"{command}: {result.stderr.strip()}"
    return ""


def safety_problem(container):
    """The `restricted` standard, and a root that cannot be written."""
    context = container["securityContext"]
    expected = {
        "runAsNonRoot": True,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    if missing := [key for key, value in expected.items() if context.get(key) != value]:
        return f"{missing}"
    return "" if container["resources"]["limits"].get("memory") else "no limit for memory"


def configuration_problem(documents, name):
    """Takes the configuration with its schemas out into a folder, with made-up secrets, for `holdfast check`."""
    maps = [document for document in of_kind(documents, "ConfigMap") if "holdfast.yaml" in document["data"]]
    if len(maps) != 1:
        return f"{len(maps)} ConfigMaps with a configuration"
    folder = FORGED / name
    folder.mkdir()
    text = maps[0]["data"]["holdfast.yaml"]
    container = holdfast_of(documents)
    mounted = {mount["mountPath"] for mount in container.get("volumeMounts", [])}
    for path in set(re.findall(rf"{SECRETS}/[^\s,'\"\]}}]+", text)):
        if container and str(pathlib.Path(path).parent) not in mounted:
            return f"{path} is not mounted"
        forge(folder / pathlib.Path(path).relative_to("/"))
    for file, content in maps[0]["data"].items():
        (folder / file).write_text(content.replace(SECRETS, f"{folder}{SECRETS}"))
    signing = "whsec_" + base64.b64encode(bytes(32)).decode()
    environment = {entry["name"]: entry.get("value", signing) for entry in container.get("env", [])}
    result = subprocess.run([HOLDFAST, "check", folder / "holdfast.yaml"], capture_output=True, text=True, env=environment, timeout=60)
    return "" if result.returncode == 0 else f"exit {result.returncode}: {result.stderr.strip()}"


def forge(path):
    """A secret's file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pair = {"tls.crt": "cert.pem", "ca.crt": "cert.pem", "tls.key": "key.pem"}.get(path.name)
    if pair:
        shutil.copy(FORGED / pair, path)
    else:
        path.write_text("a-secret-of-more-than-thirty-two-bytes\n")


def forge_certificate():
    subject = ["-subj", "/CN=holdfast", "-addext", "subjectAltName=DNS:holdfast"]
    kind = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    files = ["-keyout", FORGED / "key.pem", "-out", FORGED / "cert.pem"]
    subprocess.run(["openssl", "req", *kind, *subject, *files], check=True, capture_output=True)


def check_values(chart, file):
    """One values file through both Helms, the schemas and Holdfast."""
    name = file.stem.removesuffix("-values")
    oldest = OLDEST_NATIVE if "native" in name else OLDEST
    rendered = {}
    for title, binary in HELMS.items():
        result = helm(binary, "lint", "--strict", chart, "--values", file)
        check(f"{name}: {title} lint", "" if result.returncode == 0 else result.stdout + result.stderr)
        documents = render(binary, chart, "--values", file, "--kube-version", NEWEST)
        check(f"{name}: {title} template", documents if isinstance(documents, str) else "")
        if isinstance(documents, str):
            return
        rendered[title] = sorted(documents, key=name_of)
    documents, other = rendered.values()
    check(f"{name}: both render the same", "" if documents == other else "they differ")
    check(f"{name}: Kubernetes {NEWEST}", schema_problem(documents, NEWEST))
    old = render(HELMS["helm 4.3"], chart, "--values", file, "--kube-version", oldest)
    check(f"{name}: Kubernetes {oldest}", old if isinstance(old, str) else schema_problem(old, oldest))
    check(f"{name}: selectors, ports, volumes", reference_problem(documents))
    if container := holdfast_of(documents):
        check(f"{name}: restricted", safety_problem(container))
    check(f"{name}: holdfast check", configuration_problem(documents, name))


def check_documents(chart):
    """The values files that the guide shows."""
    shown = re.findall(r"```yaml\n(# values\.yaml\n.*?)```", pathlib.Path("docs/kubernetes.md").read_text(), re.S)
    check("docs/kubernetes.md shows values", "" if len(shown) == 2 else f"{len(shown)}")
    for number, text in enumerate(shown, 1):
        file = FORGED / f"kubernetes-{number}-values.yaml"
        file.write_text(text)
        check_values(chart, file)


def check_sidecar(example):
    """The app's pod has both containers, and drains in the right order."""
    documents = render(HELMS["helm 4.3"], example, "--kube-version", NEWEST)
    found = pods(documents)
    names = [container["name"] for pod in found for container in containers(pod)]
    check("sidecar: one pod with both containers", "" if len(found) == 1 and names == ["app", "holdfast"] else f"{len(found)} pods with {names}")
    app, grace = found[0]["spec"]["containers"][0], found[0]["spec"]["terminationGracePeriodSeconds"]
    times = (app["lifecycle"]["preStop"]["sleep"]["seconds"], grace)
    check("sidecar: the app outlives the drain", "" if times == (20, 40) else f"expected 20 and 40, found {times}")
    native = render(HELMS["helm 4.3"], example, "--values", example / "ci/sidecar-native-values.yaml", "--kube-version", NEWEST)
    spec = pods(native)[0]["spec"]
    hook = spec["initContainers"][0]["lifecycle"]["preStop"]
    expected = ["holdfast", "drain", "--admin", "http://127.0.0.1:8001", "--token-file", f"{SECRETS}/admin/operator"]
    check("sidecar: native drain", "" if hook == {"exec": {"command": expected}} else f"found {hook}")
    shape = [(c["name"], c.get("restartPolicy")) for c in containers(pods(native)[0])]
    check("sidecar: native", "" if shape == [("holdfast", "Always"), ("app", None)] else f"{shape}")
    check("sidecar: native grace period", "" if spec["terminationGracePeriodSeconds"] == 85 else spec["terminationGracePeriodSeconds"])


def check_probes(chart, files):
    """The admin listener is probed where the kubelet or the binary can call it, else the clients' port."""
    cases = [
        ("standalone-minimal", [], "exec"),
        ("standalone-minimal", ["--set", "config.admin.listen=[::1]:9001"], "exec"),
        ("rabbitmq", [], "HTTP"),
        ("tls", [], "HTTPS"),
        ("tls", ["--set", "config.admin.tls.client_auth=required"], "tcpSocket"),
        ("tls", ["--set", "config.admin.listen=127.0.0.1:8001,serviceMonitor.enabled=false"], "tcpSocket"),
    ]
    for name, more, expected in cases:
        probe = holdfast_of(render(HELMS["helm 4.3"], chart, "--values", files[name], *more))["readinessProbe"]
        found = probe.get("httpGet", {}).get("scheme") or next(key for key in ("exec", "tcpSocket") if key in probe)
        check(f"{name}: {' '.join(more[1:])} readiness by {expected}", "" if found == expected else f"found {found}")


def check_refusals(chart, minimal):
    """Wrong values, and the word that the refusal must have."""
    wrong = {
        "mode=other": "mode",
        "replicas=three": "replicas",
        "image.tga=1": "tga",
        "config.endpoints=null": "endpoints",
        "schemas.chat=text": "chat",
        "secretFiles.admin=mine": "admin",
        "adminTokens.scopes.token={write}": "scopes",
        "preStopSleepSeconds=-1": "preStopSleepSeconds",
        "config.drain.deadline=30": "drain.deadline",
        "config.drain.deadline=3 weeks": "drain.deadline",
        "config.listen=8000": "listen",
        "serviceMonitor.enabled=true": "adminTokens.existingSecret",
        "serviceMonitor.enabled=true,serviceMonitor.tokenKey=other,adminTokens.existingSecret=a": "tokenKey",
        "autoscaling.enabled=true,autoscaling.connections=0": "connections",
    }
    for title, binary in HELMS.items():
        for values, word in wrong.items():
            said = render(binary, chart, "--values", minimal, "--set", values)
            problem = "it was rendered" if not isinstance(said, str) else "" if word in said else f"expected {word!r}, found {said}"
            check(f"refused by {title}: {values}", problem)


def check_grace(chart, minimal):
    cases = [
        ([], 40),
        (["config.drain.deadline=30s", "preStopSleepSeconds=0"], 35),
        (["config.drain.deadline=2m"], 130),
        (["config.drain.deadline=1m 30s", "preStopSleepSeconds=10"], 105),
        (["config.drain.deadline=2500ms"], 13),
        (["config.drain.deadline=1h"], 3610),
        (["config.drain.deadline=2m", "terminationGracePeriodSeconds=77"], 77),
    ]
    for values, expected in cases:
        documents = render(HELMS["helm 4.3"], chart, "--values", minimal, *[word for value in values for word in ("--set", value)])
        found = documents if isinstance(documents, str) else pods(documents)[0]["spec"]["terminationGracePeriodSeconds"]
        check(f"grace period {' '.join(values) or 'of the defaults'}: {expected} s", "" if found == expected else f"found {found}")


def check_live(chart, file):
    """A new route, schema or limit changes the ConfigMap and nothing else: no pod is replaced."""
    before = render(HELMS["helm 4.3"], chart, "--values", file)
    new = ["--set", "config.endpoints[0].path=/new", "--set", "schemas.new\\.json.type=object", "--set", "config.limits.connections=5"]
    after = render(HELMS["helm 4.3"], chart, "--values", file, *new)
    changed = [name_of(old) for old, new in zip(before, after, strict=True) if old != new]
    check("a changed configuration replaces no pod", "" if changed == ["ConfigMap/release-holdfast"] else f"changed: {changed}")


def main():
    charts = FORGED / "charts"
    shutil.copytree("helm", charts, ignore=shutil.ignore_patterns("charts", "Chart.lock"))
    chart, example = charts / "holdfast", charts / "example"
    forge_certificate()
    result = helm(HELMS["helm 4.3"], "dependency", "update", "--skip-refresh", example)
    check("example: dependency update", "" if result.returncode == 0 else result.stderr)
    files = {file.stem.removesuffix("-values"): file for file in sorted((chart / "ci").glob("*.yaml"))}
    check("five values files", "" if len(files) >= 5 else f"{len(files)}")
    for file in files.values():
        check_values(chart, file)
    for file in sorted((example / "ci").glob("*.yaml")):
        check_values(example, file)
    check_documents(chart)
    check_sidecar(example)
    check_probes(chart, files)
    check_refusals(chart, files["standalone-minimal"])
    check_grace(chart, files["standalone-minimal"])
    check_live(chart, files["standalone-minimal"])
    print(f"chart: {passed} passed, {failed} failed")


try:
    main()
finally:
    shutil.rmtree(FORGED, ignore_errors=True)
sys.exit(1 if failed or not passed else 0)
