"""Dashboards: through Grafana's own types and back, and what a person expects of every panel."""

import json
import pathlib
import re
import sys

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "deploy/grafana/dashboards"
# Read by Grafana's Prometheus plug-in; the types know what all datasources have.
OF_THE_PLUGIN = re.compile(r"/annotations/list/\d+/(titleFormat|textFormat|step)|/templating/list/\d+/definition")
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


def lost(written, kept, where=""):
    """What the types did not keep, because they do not know it or have it as something else."""
    if isinstance(written, dict) and isinstance(kept, dict):
        for key, value in written.items():
            if key not in kept:
                if value not in (None, {}, []) and not OF_THE_PLUGIN.fullmatch(f"{where}/{key}"):
                    yield f"{where}/{key} is not known"
            else:
                yield from lost(value, kept[key], f"{where}/{key}")
    elif isinstance(written, list) and isinstance(kept, list) and len(written) == len(kept):
        for index, value in enumerate(written):
            yield from lost(value, kept[index], f"{where}/{index}")
    elif written != kept:
        yield f"{where}: {written!r} became {kept!r}"


def overlaps(panels):
    taken = {}
    for panel in panels:
        place = panel["gridPos"]
        if place["x"] + place["w"] > 24:
            yield f"{panel['title']} is wider than the screen"
        for cell in ((x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])):
            if cell in taken:
                yield f"{panel['title']} lies over {taken[cell]}"
                break
            taken[cell] = panel["title"]


def faults(board):
    yield from lost(board, json.loads(JSONEncoder().encode(Dashboard.from_json(board))))
    panels = board["panels"]
    yield from overlaps(panels)
    ids = [panel["id"] for panel in panels]
    if len(set(ids)) != len(ids):
        yield "ids of panels are not unique"
    titles = [panel["title"] for panel in panels]
    if len(set(titles)) != len(titles):
        yield "titles of panels are not unique"
    if board["id"] is not None or "__inputs" in board or not 39 <= board["schemaVersion"] <= 41:
        yield "not fit for provisioning: id, __inputs or schemaVersion"
    variables = {variable["name"]: variable for variable in board["templating"]["list"]}
    if variables["datasource"]["type"] != "datasource" or variables["datasource"]["query"] != "prometheus":
        yield "no variable for the datasource"
    for variable in variables.values():
        if variable["type"] == "query" and variable["datasource"] != DATASOURCE:
            yield f"variable {variable['name']} does not use the datasource variable"
        uses = "$" + variable["name"]
        if variable["type"] == "query" and not any(uses in target["expr"] for panel in panels for target in panel.get("targets", [])):
            yield f"variable {variable['name']} is used by no panel"
    for panel in panels:
        if panel["type"] == "row":
            continue
        if not panel.get("description", "").endswith("."):
            yield f"{panel['title']}: no description in a sentence"
        if not panel["fieldConfig"]["defaults"].get("unit"):
            yield f"{panel['title']}: no unit"
        if panel["datasource"] != DATASOURCE:
            yield f"{panel['title']}: another datasource"
        if not panel["targets"]:
            yield f"{panel['title']}: no query"
        refs = [target["refId"] for target in panel["targets"]]
        if len(set(refs)) != len(refs):
            yield f"{panel['title']}: refIds are not unique"
        for target in panel["targets"]:
            if target["datasource"] != DATASOURCE or not target["legendFormat"]:
                yield f"{panel['title']} {target['refId']}: another datasource, or no legend"


def main():
    register_default_plugins()
    uids, found = set(), []
    for path in sorted(FOLDER.glob("*.json")):
        board = json.loads(path.read_text())
        found += [f"{path.name}: {fault}" for fault in faults(board)]
        if path.stem != board["uid"] or board["uid"] in uids:
            found.append(f"{path.name}: its uid is {board['uid']}")
        uids.add(board["uid"])
        print(f"{path.name}: {sum(panel['type'] != 'row' for panel in board['panels'])} panels")
    if uids != {"plumbline-overview", "plumbline-divergence", "plumbline-service"}:
        found.append(f"dashboards are {sorted(uids)}")
    if found:
        sys.exit("\n".join(found))


if __name__ == "__main__":
    main()
