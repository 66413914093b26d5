"""Processes of the stack: started on free ports of the loopback, stopped whatever happens."""

import atexit
import json
import pathlib
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
# Nothing here takes longer on a busy machine; what does is stuck.
PATIENCE = 300


class Failure(Exception):
    """A check that did not hold."""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def get(url, timeout=30):
    with urllib.request.urlopen(url, timeout=timeout) as answer:
        return answer.read().decode()


def post(url, body):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise Failure(f"{url} answered {error.code}: {error.read().decode()}") from error


def until(what, check, patience=PATIENCE, interval=0.5):
    """Waits for check() to return something true, and returns it."""
    began = time.monotonic()
    while True:
        try:
            found = check()
        except (urllib.error.URLError, ConnectionError):
            found = None
        if found:
            print(f"  {what} (after {time.monotonic() - began:.0f} s)", flush=True)
            return found
        if time.monotonic() - began > patience:
            raise Failure(f"did not happen within {patience} s: {what}")
        time.sleep(interval)


class Service:
    """A child process with its log in a file."""

    def __init__(self, name, command, folder):
        self.name, self.log = name, pathlib.Path(folder) / f"{name}.log"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen([str(part) for part in command], stdout=log, stderr=log, cwd=folder)
        atexit.register(self.stop)

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def alive(self):
        if self.process.poll() is not None:
            raise Failure(f"{self.name} ended with {self.process.returncode}:\n{self.log.read_text()[-2000:]}")
        return True


class Prometheus:
    """Prometheus' HTTP API."""

    def __init__(self, url):
        self.url = url

    def ask(self, path, **parameters):
        query = urllib.parse.urlencode(parameters, doseq=True)
        try:
            return json.loads(get(f"{self.url}/api/v1/{path}?{query}"))["data"]
        except urllib.error.HTTPError as error:
            raise Failure(f"{path} {parameters}: {error.read().decode()}") from error

    def instant(self, expr, at=None):
        return self.ask("query", query=expr, **({"time": at} if at else {}))["result"]

    def range(self, expr, start, end, step):
        return self.ask("query_range", query=expr, start=start, end=end, step=step)["result"]

    def number(self, expr):
        """The value of an expression with one sample, or None."""
        found = self.instant(expr)
        return float(found[0]["value"][1]) if found else None
