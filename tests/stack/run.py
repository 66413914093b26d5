#!/usr/bin/env python3
"""Runs the stack of deploy/ on loopback ports and checks what it does. Called by check.sh, which finds the programs."""

import argparse
import json
import pathlib
import re
import shutil
import sys
import time

import halves
import panels
from services import REPOSITORY, Failure, Prometheus, Service, free_port, get, until

# All that differs from the files in deploy/: times, so that it takes minutes. (file, what is written there, what it is here)
WINDOW = 60
FASTER = [
    ("prometheus.yml", "scrape_interval: 15s", "scrape_interval: 3s"),
    ("prometheus.yml", "evaluation_interval: 30s", "evaluation_interval: 3s"),
    ("rules/plumbline-recording.yaml", "interval: 30s", "interval: 3s"),
    ("rules/plumbline-recording.yaml", "[5m]", f"[{WINDOW}s]"),
    ("rules/plumbline-recording.yaml", "offset 5m", f"offset {WINDOW}s"),
    ("rules/plumbline-recording.yaml", "time() - 360", f"time() - {WINDOW + 6}"),
    ("rules/plumbline-alerts.yaml", "interval: 30s", "interval: 3s"),
    ("rules/plumbline-alerts.yaml", "for: 2m", "for: 10s"),
    ("rules/plumbline-alerts.yaml", "keep_firing_for: 5m", "keep_firing_for: 10s"),
    ("alertmanager.yml", "group_wait: 30s", "group_wait: 1s"),
    ("alertmanager.yml", "group_interval: 5m", "group_interval: 2s"),
]
# Long enough for the window to fill with a phase, and to forget it.
PHASE = 75


def copied(scratch, receiver):
    """The configuration of deploy/ with the changes of FASTER, in a folder of its own."""
    folder = scratch / "config"
    shutil.copytree(REPOSITORY / "deploy/prometheus", folder, ignore=shutil.ignore_patterns("tests", "generate.py"))
    shutil.copy(REPOSITORY / "deploy/alertmanager/alertmanager.yml", folder)
    for name, old, new in FASTER + [("alertmanager.yml", "http://alert-receiver:9095", receiver)]:
        path = folder / name
        text = path.read_text()
        if old not in text:
            raise Failure(f"deploy's {name} has no `{old}`: the change for this test would change nothing")
        path.write_text(text.replace(old, new))
    return folder


def targets(folder, **addresses):
    for name, own in addresses.items():
        (folder / "targets" / f"{name}.yaml").write_text(json.dumps([{"targets": own}]))


def served(name, command, scratch):
    """A plumbline on a free port, ready."""
    address = f"127.0.0.1:{free_port()}"
    service = Service(name, [*command, "--listen", address], scratch)
    until(f"{name} is ready", lambda: service.alive() and get(f"http://{address}/readyz"))
    return address


def notified(out, alert, status):
    """Notifications that the webhook got of an alert of the demo's run, in this state."""
    bodies = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    every = [entry | {"path": body["path"]} for body in bodies for entry in body["alerts"]]
    own = [entry for entry in every if entry["labels"]["alertname"] == alert and entry["labels"].get("run") == "demo"]
    return [entry for entry in own if entry["status"] == status]


def run(plumbline, scratch):
    receiver, out = f"127.0.0.1:{free_port()}", scratch / "notifications.jsonl"
    receiver_program = REPOSITORY / "deploy/compose/alert_receiver.py"
    Service("receiver", [sys.executable, receiver_program, "--listen", receiver, "--out", out], scratch)
    folder = copied(scratch, f"http://{receiver}")
    alertmanager, prometheus, engines = (f"127.0.0.1:{free_port()}" for _ in range(3))
    Service("engines", [sys.executable, REPOSITORY / "tests/stack/engines.py", engines.rpartition(":")[2]], scratch)
    print("starting", flush=True)
    first, second, whole = (served(name, [plumbline, "serve"], scratch) for name in ("first", "second", "whole"))
    targets(folder, alertmanager=[alertmanager], vllm=[engines], sglang=[], plumbline=[first, second, whole])
    Service("alertmanager", [
        "prometheus-alertmanager", f"--config.file={folder}/alertmanager.yml", f"--storage.path={scratch}/alertmanager",
        f"--web.listen-address={alertmanager}", "--cluster.listen-address=",
    ], scratch)
    server = Service("prometheus", [
        "prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={scratch}/tsdb", f"--web.listen-address={prometheus}",
    ], scratch)
    until("Prometheus is ready", lambda: server.alive() and get(f"http://{prometheus}/-/ready"))
    until("Alertmanager is ready", lambda: get(f"http://{alertmanager}/-/ready"))
    api = Prometheus(f"http://{prometheus}")
    until("Prometheus scrapes three replicas", lambda: server.alive() and api.number('sum(up{job="plumbline"})') == 3)

    print("two replicas against one", flush=True)
    floors = 'sum(plumbline_noise_floor_state{job="plumbline", state=~"sampled|traffic"})'
    until("all three have measured their noise floor", lambda: api.number(floors) == 3)
    halves.check(api, f"http://{first}", f"http://{second}", f"http://{whole}")

    print("the demo's story: healthy, stale weights, healthy", flush=True)
    demo = f"127.0.0.1:{free_port()}"
    story = Service("demo", [plumbline, "demo", "--phase-seconds", PHASE, "--listen", demo], scratch)
    targets(folder, plumbline=[first, second, whole, demo])
    said = lambda pattern: story.alive() and re.search(pattern, story.log.read_text())
    until("the healthy phase is over", lambda: said(r"(?m)^healthy +consistent"))
    firing = 'ALERTS{alertname=~"PlumblineDivergence.*|PlumblineCorrelationLow", run="demo", alertstate="firing"}'
    early = api.instant(f"max_over_time({firing}[{PHASE}s])")
    if early or notified(out, "PlumblineDivergenceHigh", "firing"):
        raise Failure(f"an alert fired in the healthy phase: {early}")
    if not api.number('run_engine_model:plumbline_tokens_scored:increase5m{run="demo"}') >= 1000:
        raise Failure("too little traffic for the silence of alerts to mean anything")
    fired = until("PlumblineDivergenceHigh reached the webhook", lambda: story.alive() and notified(out, "PlumblineDivergenceHigh", "firing"))
    print(f"    {fired[0]['annotations']['description']}", flush=True)
    pager = until("PlumblineDivergenceCritical reached the pager", lambda: notified(out, "PlumblineDivergenceCritical", "firing"), patience=60)
    if pager[0]["path"] != "/pager" or fired[0]["path"] != "/chat":
        raise Failure(f"routed to {fired[0]['path']} and {pager[0]['path']}")

    print("every panel of the dashboards", flush=True)
    # It is measured beside the traffic, which takes its time on a busy machine.
    known = 'run_engine_model:plumbline_noise_floor_multiple:window5m{run="demo"}'
    until("the demo's noise floor is known", lambda: story.alive() and api.instant(known))
    panels.check(api, seconds=PHASE)

    until("the stale phase is over", lambda: said(r"(?m)^stale weights +divergent"))
    until("it is resolved", lambda: story.alive() and notified(out, "PlumblineDivergenceHigh", "resolved"))
    if not api.number('run_engine_model:plumbline_tokens_scored:increase5m{run="demo"}') >= 1000:
        raise Failure("resolved by silence, not by healthy traffic")
    left = api.instant(firing)
    if left:
        time.sleep(WINDOW / 2)
        left = api.instant(firing)
    if left:
        raise Failure(f"still firing in the healthy phase: {left}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plumbline", type=pathlib.Path, required=True)
    parser.add_argument("--scratch", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    began = time.monotonic()
    try:
        run(arguments.plumbline, arguments.scratch)
    except Failure as failure:
        for log in sorted(arguments.scratch.glob("*.log")):
            print(f"--- {log.name}\n{log.read_text()[-1500:]}", file=sys.stderr)
        sys.exit(f"the stack failed: {failure}")
    print(f"the stack works as it should ({time.monotonic() - began:.0f} s)")


if __name__ == "__main__":
    main()
