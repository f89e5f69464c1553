"""The metrics that the code makes, and those that the dashboard, the alerts and the documents name."""

import json
import pathlib
import re

SOURCE = pathlib.Path("src/telemetry/metrics.rs")
DASHBOARD = pathlib.Path("deploy/grafana/holdfast.json")
RULES = pathlib.Path("deploy/prometheus/rules.yaml")
# Labels that a scrape, or a histogram, adds.
ADDED = {"instance", "job", "le"}


def of_source():
    """Each metric's family with its kind and labels, from the table in the code."""
    text = SOURCE.read_text()
    labels = {name: set(re.findall(r"\w+", fields)) for name, fields in re.findall(r"^    (\w+) \{ ([\w, ]+) \}", text, re.M)}
    table = text.split("pub struct Metrics {")[1].split("\n}")[0]
    types = dict(re.findall(r"^    pub (\w+): ([^\n]+),$", table, re.M))
    families = {"holdfast_build_info": ("gauge", {"kind"})}
    for field, how, name in re.findall(r'(\w+): add(_counter_seconds|_seconds|)\(\s*&mut r,\s*"(\w+)"', text):
        unit = "_seconds" if how else ""
        kind = re.search(r"Counter|Gauge|Histogram", types[field])[0].lower()
        label = re.search(r"<(\w+)", types[field])
        families[f"holdfast_{name}{unit}"] = (kind, labels.get(label[1], set()) if label else set())
    families["holdfast_batch_events"] = ("histogram", labels["RouteLabel"])
    assert len(families) > 40, f"found {len(families)} metrics in {SOURCE}"
    return families


def samples(families):
    """Names as they are queried, each with its family."""
    suffixes = {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_sum", "_count"]}
    return {family + suffix: family for family, (kind, _) in families.items() for suffix in suffixes[kind]}


def queries():
    """Every query of the dashboard and of the alerts, with where it is from."""
    import yaml

    dashboard = json.loads(DASHBOARD.read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield f"{DASHBOARD.name}: {panel['title']}", target["expr"]
    for annotation in dashboard["annotations"]["list"]:
        yield f"{DASHBOARD.name}: {annotation['name']}", annotation["expr"]
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        for rule in group["rules"]:
            yield f"{RULES.name}: {rule['alert']}", rule["expr"]


def problems():
    """What is named and is not there: metrics, and labels."""
    families = of_source()
    names = samples(families)
    for place, query in queries():
        used = re.findall(r"\bholdfast_\w+", query)
        known = ADDED.union(*(families[names[name]][1] for name in used if name in names))
        yield from (f"{place}: no metric {name}" for name in used if name not in names)
        matched = [label for selector in re.findall(r"\{([^}]*)\}", query) for label in re.findall(r"(\w+)\s*(?:=|!)", selector)]
        grouped = [label for clause in re.findall(r"\bby \(([^)]*)\)", query) for label in re.findall(r"\w+", clause)]
        yield from (f"{place}: no label {label}" for label in matched + grouped if label not in known)
    shown = "".join(query for _, query in queries())
    yield from (f"{DASHBOARD.name}: {family} is shown nowhere" for family in families if family not in shown)
    pages = sorted(pathlib.Path("docs").glob("*.md"))
    told = "".join(page.read_text() for page in pages)
    yield from (f"docs: {family} is explained nowhere" for family in families if family not in told)
    # Documents name families too, and leave an end open by `…`.
    for page in [*pages, pathlib.Path("README.md"), DASHBOARD, RULES]:
        for name, selector in re.findall(r"\b(holdfast_[a-z_]+[a-z])(?![a-z_…])(\{[^}`]*\})?", page.read_text()):
            family = names.get(name, name)
            if family not in families:
                yield f"{page.name}: no metric {name}"
            elif page.suffix == ".md":
                told = re.findall(r"(\w+)(?==|[,}])", re.sub(r'"[^"]*"', "", selector))
                yield from (f"{page.name}: {name} has no label {label}" for label in told if label not in families[family][1])
