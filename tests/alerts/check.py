"""The real service, a real Alertmanager, and webhooks behind both. Run by check.sh."""

import base64
import contextlib
import hashlib
import hmac
import http.server
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

RECORDINGS = pathlib.Path("crates/plumbline/assets/recordings")
PATIENCE = 120
SECRET = "the secret of this check"
HIGH, DRIFT = "PlumblineDivergenceHigh", "PlumblineDivergenceDrift"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def ask(url, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        text = answer.read()
    return json.loads(text) if text.strip().startswith((b"{", b"[")) else text.decode()


def until(what, holds):
    """Waits until something holds, and gives what it gave."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            found = holds()
            if found:
                print(f"ok: {what}", flush=True)
                return found
        time.sleep(0.3)
    sys.exit(f"FAILED, never: {what}")


def check(what, holds):
    if not holds:
        sys.exit(f"FAILED: {what}")
    print(f"ok: {what}", flush=True)


class Webhook:
    """Remembers what is posted to it."""

    def __init__(self):
        self.posts = posts = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                posts.append((dict(self.headers.items()), body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def bodies(self):
        return [json.loads(body) for _, body in self.posts]

    def told(self, name):
        """Statuses of an alert of this name, in order; what was said twice in a row, as Alertmanager does for a group, counts once."""
        told = []
        for body in self.bodies():
            for alert in body["alerts"]:
                if alert["labels"]["alertname"] == name and alert["status"] not in told[-1:]:
                    told.append(alert["status"])
        return told


class Plumbline:
    """The service, with a window of a few seconds."""

    def __init__(self, binary, folder, arguments):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = open(folder / "plumbline.log", "ab")
        variables = {name: value for name, value in os.environ.items() if not name.startswith("PLUMBLINE_")}
        # Levels in nats from the beginning: the measured floor would make the drift detector learn anew at some time.
        variables |= {
            "PLUMBLINE_WINDOW_SECONDS": "3",
            "PLUMBLINE_DRIFT_BASELINE_SEQUENCES": "40",
            "PLUMBLINE_NOISE_FLOOR_TOKENS": "0",
        }
        own = ["serve", "--listen", f"127.0.0.1:{self.port}", "--alert-interval-seconds", "1", "--alert-for-seconds", "1"]
        own += ["--alert-keep-seconds", "1", "--data-dir", str(folder / "data"), "--log-format", "json"]
        self.process = subprocess.Popen([binary, *own, *arguments], env=variables, stderr=self.log)
        until("plumbline is ready", lambda: ask(f"{self.url}/readyz"))

    def feed(self, name):
        sequences = [json.loads(line) for line in (RECORDINGS / f"{name}.jsonl").read_text().splitlines()]
        for sequence in sequences:
            sequence.pop("group", None)
            sequence["id"] = f"{time.time_ns()}-{sequence['id']}"
        ask(f"{self.url}/v1/verifications", {"run": "grpo", "engine": "vllm", "sequences": sequences})

    def firing(self):
        return {alert["labels"]["alertname"]: alert for alert in ask(f"{self.url}/v1/alerts")["firing"]}

    def end(self, how):
        self.process.send_signal(how)
        return self.process.wait(timeout=60)


def main():
    binary = str(pathlib.Path(sys.argv[1]).resolve())
    folder = pathlib.Path(tempfile.mkdtemp(prefix="plumbline-alerts-"))
    processes = []
    try:
        run(binary, folder, processes)
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()
        shutil.rmtree(folder)


def run(binary, folder, processes):
    behind, direct = Webhook(), Webhook()
    port = free_port()
    alertmanager = f"http://127.0.0.1:{port}"
    config = folder / "alertmanager.yml"
    config.write_text(
        f"""
route: {{receiver: behind, group_by: ['...'], group_wait: 1s, group_interval: 1s, repeat_interval: 1h}}
receivers: [{{name: behind, webhook_configs: [{{url: '{behind.url}', send_resolved: true}}]}}]
"""
    )
    log = open(folder / "alertmanager.log", "wb")
    arguments = [f"--config.file={config}", f"--storage.path={folder}/am", f"--web.listen-address=127.0.0.1:{port}"]
    processes.append(
        subprocess.Popen(["prometheus-alertmanager", *arguments, "--cluster.listen-address="], stderr=log, stdout=log)
    )
    until("alertmanager is ready", lambda: ask(f"{alertmanager}/-/ready"))

    def there(name):
        found = ask(f"{alertmanager}/api/v2/alerts?active=true")
        return next((alert for alert in found if alert["labels"]["alertname"] == name), None)

    secrets = folder / "secrets"
    secrets.write_text(f"direct hmac {SECRET}\n")
    receivers = ["--alertmanager-url", alertmanager, "--alert-webhook-url", f"direct={direct.url}"]
    receivers += ["--alert-secret-file", str(secrets), "--external-url", "https://plumbline.example"]

    tested = subprocess.run([binary, "alerts", "test", *receivers], capture_output=True, text=True)
    check("plumbline alerts test: both receivers took it", tested.returncode == 0 and tested.stdout.count("took") == 2)
    until("the test alert is in Alertmanager", lambda: there("PlumblineTest"))

    service = Plumbline(binary, folder, receivers)
    processes.append(service.process)

    def fires(name):
        service.feed("tiny-bf16-stale")
        return service.firing().get(name)

    def is_over(*names):
        service.feed("tiny-bf16-raw")
        return not set(names) & set(service.firing())

    for _ in range(3):
        service.feed("tiny-bf16-raw")
    time.sleep(2)
    check("the right weights raise nothing", not service.firing() and not there(HIGH))

    for name in (HIGH, DRIFT):
        until(f"stale weights: {name} fires", lambda name=name: fires(name))
        until(f"{name} is in Alertmanager", lambda name=name: there(name))
        until(f"{name} reaches the webhook behind it", lambda name=name: "firing" in behind.told(name))
    own, shown = service.firing()[HIGH], there(HIGH)
    check("with the fingerprint that Alertmanager computes", own["fingerprint"] == shown["fingerprint"])
    check("with labels of the run", (shown["labels"]["run"], shown["labels"]["engine"]) == ("grpo", "vllm"))
    check("with numbers and the sign convention", {"summary", "description", "log_ratio_sign"} <= set(shown["annotations"]))
    check("with a link", shown["generatorURL"] == "https://plumbline.example/#/runs/grpo")

    until("the end is remembered", lambda: all(one["waiting"] == 0 for one in ask(f"{service.url}/v1/alerts")["receivers"]))
    time.sleep(1)
    service.end(signal.SIGKILL)
    service = Plumbline(binary, folder, receivers)
    processes.append(service.process)
    until("after a kill it still fires", lambda: HIGH in service.firing())
    time.sleep(5)
    check("nobody is told of the beginning again", behind.told(HIGH) == direct.told(HIGH) == ["firing"])
    count = sum(body["commonLabels"]["alertname"] == HIGH for body in direct.bodies())
    check("and the webhook was posted to once", count == 1)

    until("the right weights: it is over", lambda: is_over(HIGH, DRIFT))
    for name in (HIGH, DRIFT):
        until(f"{name} is resolved behind Alertmanager", lambda name=name: behind.told(name) == ["firing", "resolved"])
        until(f"{name} is resolved at the webhook", lambda name=name: direct.told(name) == ["firing", "resolved"])
        until(f"{name} is no longer active", lambda name=name: there(name) is None)

    theirs, ours = (next(body for body in hook.bodies() if body["commonLabels"]["alertname"] == HIGH) for hook in (behind, direct))
    check("our body has the keys of theirs", sorted(theirs) == sorted(ours))
    check("and so has each alert", sorted(theirs["alerts"][0]) == sorted(ours["alerts"][0]))
    types = [{key: type(value) for key, value in body.items()} for body in (theirs, ours)]
    check("of the same types", types[0] == types[1])
    same = ["version", "status", "groupLabels", "commonLabels", "truncatedAlerts"]
    check("and says the same", all(theirs[key] == ours[key] for key in same))

    for headers, body in direct.posts:
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        digest = base64.b64encode(hmac.new(SECRET.encode(), signed, hashlib.sha256).digest()).decode()
        if headers["webhook-signature"] != f"v1,{digest}":
            sys.exit("FAILED: a signature is wrong")
    print(f"ok: {len(direct.posts)} signatures are right")
    check("an orderly end", service.end(signal.SIGTERM) == 0)
    check("no secret is in the log", SECRET not in (folder / "plumbline.log").read_text())


main()
