"""The metrics that docs/metrics.md has, which a test holds to the code, and those that the dashboard, the alerts and the documents name."""

import json
import pathlib
import re

PAGE = pathlib.Path("docs/metrics.md")
DASHBOARD = pathlib.Path("deploy/grafana/holdfast.json")
RULES = pathlib.Path("deploy/prometheus/rules.yaml")
# Labels that a scrape, or a histogram, adds.
ADDED = {"instance", "job", "le"}


def of_page():
    """Each metric's family with its kind and labels, from the table that is made from the code."""
    families = {}
    for name, kind, labels in re.findall(r"^\| `(holdfast_\w+)` \| (\w+) \| ([^|]*) \|", PAGE.read_text(), re.M):
        families[name.removesuffix("_total") if kind == "counter" else name] = (kind, set(re.findall(r"\w+", labels)))
    assert len(families) > 40, f"found {len(families)} metrics in {PAGE}"
    return families


def words():
    """The values that a label may have, by metric and label, where the page lists them."""
    metrics = samples(of_page())
    listed = {}
    for label, of, values in re.findall(r"^\| `(\w+)` \| ([^|]*) \| (`[^|]*`) \|$", PAGE.read_text(), re.M):
        for name in re.findall(r"`(\w+)`", of) or metrics:
            if values.count("`") == 2 * (values.count(",") + 1):
                listed.setdefault((name, label), set(re.findall(r"`([^`]+)`", values)))
    assert len(listed) > 20, f"found {len(listed)} lists of values in {PAGE}"
    return listed


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
    families = of_page()
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
    pages = sorted(pathlib.Path("docs").glob("**/*.md"))
    # Documents name families too, and leave an end open by `…`.
    for page in [*pages, pathlib.Path("README.md"), DASHBOARD, RULES]:
        for name, selector in re.findall(r"\b(holdfast_[a-z_]+[a-z])(?![a-z_…])(\{[^}`]*\})?", page.read_text()):
            family = names.get(name, name)
            if family not in families:
                yield f"{page.name}: no metric {name}"
            elif page.suffix == ".md":
                told = re.findall(r"(\w+)(?==|[,}])", re.sub(r'"[^"]*"', "", selector))
                yield from (f"{page.name}: {name} has no label {label}" for label in told if label not in families[family][1])
