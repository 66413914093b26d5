"""Every alert has its runbook with the sections that an operator needs, and every metric that is named there or in a rule exists."""

import pathlib
import re
import sys

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
RUNBOOKS = ROOT / "docs/runbooks"
URL = "https://github.com/plumbline/plumbline/blob/main/docs/runbooks/"
SECTIONS = ["## Meaning", "## Impact", "## Which cause", "## What to do"]


def exposed():
    """Names of all metrics: from where they are defined, and from the recording rules."""
    names = set(re.findall(r'"(plumbline_\w+)"', (ROOT / "crates/plumbline-server/src/metrics/names.rs").read_text()))
    names |= {f"{name}_{part}" for name in names for part in ("bucket", "sum", "count")}
    recording = yaml.safe_load((ROOT / "deploy/prometheus/rules/plumbline-recording.yaml").read_text())
    return names | {rule["record"] for group in recording["groups"] for rule in group["rules"]}


def named(text):
    # With the level before a colon and the window after it, where it is a recorded name.
    found = set(re.findall(r"(?:\w+:)?\bplumbline_\w+(?::\w+)?", text))
    # What stands for any metric.
    return {name for name in found if "NAME" not in name}


def faults():
    alerts = yaml.safe_load((ROOT / "deploy/prometheus/rules/plumbline-alerts.yaml").read_text())
    rules = [rule for group in alerts["groups"] for rule in group["rules"]]
    known = exposed()
    for rule in rules:
        notes = rule["annotations"]
        if notes["runbook_url"] != f"{URL}{rule['alert']}.md" or not (RUNBOOKS / f"{rule['alert']}.md").is_file():
            yield f"{rule['alert']}: no runbook at {notes['runbook_url']}"
        if rule["labels"]["severity"] not in ("critical", "warning", "info"):
            yield f"{rule['alert']}: severity"
        if "{{" in notes["summary"] or not notes["summary"].endswith(".") or not notes["description"]:
            yield f"{rule['alert']}: the summary is one plain sentence, the description says more"
        if not (ROOT / f"deploy/grafana/dashboards/{notes['dashboard_uid']}.json").is_file():
            yield f"{rule['alert']}: no dashboard {notes['dashboard_uid']}"
        yield from (f"{rule['alert']}: no metric {name}" for name in named(rule["expr"]) - known)
    alerted = {rule["alert"] for rule in rules}
    for path in RUNBOOKS.glob("*.md"):
        text = path.read_text()
        if path.stem not in alerted and path.stem != "README":
            yield f"{path.name}: no such alert"
        if path.stem in alerted:
            yield from (f"{path.name}: no section {section}" for section in SECTIONS if section not in text)
        yield from (f"{path.name}: no metric {name}" for name in named(text) - known)
    for path in sorted((ROOT / "deploy/grafana").glob("*.py")) + [ROOT / "docs/operations.md"]:
        # In the dashboards' sources names are put together; those that are written out must exist.
        whole = {name for name in named(path.read_text()) if not name.endswith("_") and "{" not in name}
        if path.suffix == ".md":
            yield from (f"{path.name}: no metric {name}" for name in whole - known)
    print(f"{len(rules)} rules of {len(alerted)} alerts have their runbooks")


def main():
    found = list(faults())
    if found:
        sys.exit("\n".join(found))


if __name__ == "__main__":
    main()
