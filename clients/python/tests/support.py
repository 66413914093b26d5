"""Servers to test against, and small helpers."""

from __future__ import annotations

import itertools
import json
import os
import socket
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Optional

from plumbline_client import Rollout, Stats

REPOSITORY = Path(__file__).resolve().parents[3]
PATIENCE = 120.0
"""Longer than anything here takes on a busy machine; only a hang reaches it."""

_numbers = itertools.count()


def rollout(tokens: int = 8, **fields: Any) -> Rollout:
    """One that no other is equal to, in the vocabulary of the embedded model."""
    number = next(_numbers)
    completion = [3 + (number // 1900**place + place) % 1900 for place in range(tokens)]
    return Rollout([1, 5, 9], completion, [-1.5 - place / 8 for place in range(tokens)], **fields)


def balanced(stats: Stats) -> bool:
    return stats.submitted == stats.accepted + stats.dropped_total + stats.queued


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"never happened: {what}")
        time.sleep(0.01)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class Plumbline:
    """The real binary, started in an empty folder; killed at the end."""

    def __init__(self, binary: Path, folder: Path, *arguments: str, scheme: str = "http") -> None:
        self.folder = folder
        self.scheme = scheme
        self._command = [str(binary), "serve", "--log-format", "json", *arguments]
        self._listen = "127.0.0.1:0"
        self._process: Optional[subprocess.Popen[str]] = None
        self.url = ""
        self.start()

    def start(self) -> None:
        """Again on the same port, if it was started before."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PLUMBLINE_")}
        process = subprocess.Popen(
            [*self._command, "--listen", self._listen],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._process = process
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if entry.get("message") == "listening":
                self._listen = entry["address"]
                self.url = f"{self.scheme}://{self._listen}"
                break
        else:
            raise AssertionError("the server did not start:\n" + "".join(said))
        # Read to the end, so that the server never blocks on a full pipe.
        threading.Thread(target=process.stderr.read, daemon=True).start()
        until(self._ready, "the server is ready")

    def _ready(self) -> bool:
        # For this alone the certificate of a test is taken on trust.
        context = ssl._create_unverified_context() if self.scheme == "https" else None
        try:
            urllib.request.urlopen(self.url + "/readyz", timeout=PATIENCE, context=context).close()
        except urllib.error.HTTPError:
            return False
        return True

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=PATIENCE) as response:
            return json.load(response)

    def counted(self, run: str) -> int:
        """Sequences of a run that were scored and counted since its beginning, whatever restarts there were."""
        try:
            view = self.get(f"/v1/runs/{run}")
        except urllib.error.HTTPError as error:
            assert error.code == 404
            return 0
        return sum(sum(engine["totals"]["verdicts"].values()) for engine in view["engines"])

    def __enter__(self) -> Plumbline:
        return self

    def __exit__(self, kind: Optional[type[BaseException]], error: Optional[BaseException], traceback: Optional[TracebackType]) -> None:
        self.kill()


@dataclass
class Seen:
    """A request that a scripted server got."""

    method: str
    path: str
    headers: Mapping[str, str]
    raw: bytes
    connection: int

    @property
    def body(self) -> Any:
        gzipped = self.headers.get("content-encoding") == "gzip"
        return json.loads(zlib.decompress(self.raw, 31) if gzipped else self.raw)

    @property
    def ids(self) -> list[str]:
        return [sequence["id"] for sequence in self.body["sequences"]]


Answer = tuple[int, Mapping[str, str], Any]


def problem(status: int, code: str, *pointers: str, retry_after: Optional[str] = None) -> Answer:
    """As the real server says it."""
    errors = [{"pointer": pointer, "detail": "is wrong", "code": code} for pointer in pointers]
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    return status, headers, {"code": code, "status": status, "detail": "for a test", "request_id": "r", "errors": errors}


ACCEPTED: Answer = (202, {}, {"id": "ver_1", "state": "queued"})


class Scripted:
    """Answers with `answer(seen)`; by default it accepts everything."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.answer: Callable[[Seen], Answer] = lambda _: ACCEPTED
        outer = self
        connections = itertools.count()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                self.number = next(connections)

            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers.get("Content-Length", "0")))
                headers = {name.lower(): value for name, value in self.headers.items()}
                seen = Seen(self.command, self.path, headers, raw, self.number)
                outer.seen.append(seen)
                status, extra, document = outer.answer(seen)
                body = document if isinstance(document, bytes) else json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                for name, value in extra.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def answers(self, *answers: Answer) -> None:
        """These, one after the other, and then acceptance."""
        left = iter(answers)
        self.answer = lambda _: next(left, ACCEPTED)

    def __enter__(self) -> Scripted:
        return self

    def __exit__(self, kind: Optional[type[BaseException]], error: Optional[BaseException], traceback: Optional[TracebackType]) -> None:
        self._server.shutdown()
        self._server.server_close()
