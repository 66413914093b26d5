"""How much longer do a rollout loop's steps take with Plumbline's client in it?

    python benchmarks/rollout_loop.py [--url http://127.0.0.1:8080] [--steps 100]

Without `--url` the servers are fakes: one that accepts everything, one that accepts connections and never answers, one that says 429,
and a port where nothing listens. Each step takes 50 ms and hands over 64 sequences of 128 + 512 tokens: 650,000 sampled tokens a second,
far beyond what one worker samples, so what cannot be encoded within the client's share of the interpreter is dropped and counted.

The steps are of four kinds:
- `gpu`: the interpreter is free (`time.sleep`), as while a GPU works;
- `ops`: 100 calls of half a millisecond into C that give the GIL back, as a loop of torch operations;
- `mixed`: half `ops`, half Python;
- `python`: pure Python that never gives the GIL back, the worst case.

Steps with and without the client take turns: in the latter nothing is submitted and the background thread is held at a gate, so both
see the same machine. Two numbers tell what the client costs:

- `growth`: of a step, trimmed mean over pairs of neighbouring steps, with its 95 % bootstrap interval;
- `background`: CPU time of the client's thread in percent of the time of the steps with it. The loop can wait for the interpreter only
  while this thread has it. In `gpu` and `ops` most of it is time in which the loop does not want the interpreter.
"""

from __future__ import annotations

import argparse
import random
import socket
import statistics
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Optional

from plumbline_client import Client, Rollout
from plumbline_client._pace import Pace

STEP_SECONDS = 0.05
SEQUENCES, PROMPT, COMPLETION = 64, 128, 512


class Fake(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    status = 202

    def do_POST(self) -> None:  # noqa: N802
        self.rfile.read(int(self.headers["Content-Length"]))
        body = b"{}"
        self.send_response(self.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if self.status == 429:
            self.send_header("Retry-After", "1")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Refusing(Fake):
    status = 429


def serve(handler: type[BaseHTTPRequestHandler]) -> str:
    """A fake server in a process of its own: it must not take this interpreter's time."""
    import multiprocessing

    ready = multiprocessing.get_context("spawn").Queue()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(handler, ready), daemon=True)
    process.start()
    return f"http://127.0.0.1:{ready.get(timeout=60)}"


def _serve(handler: type[BaseHTTPRequestHandler], ready: Any) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    ready.put(server.server_address[1])
    server.serve_forever()


def silent() -> str:
    """Takes connections and never answers."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    kept = []

    def accept() -> None:
        while True:
            kept.append(listener.accept()[0])

    threading.Thread(target=accept, daemon=True).start()
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


def dead() -> str:
    """A port where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


def rollouts() -> list[Rollout]:
    rng = random.Random(1)

    def ids(count: int) -> list[int]:
        return [rng.randrange(2000) for _ in range(count)]

    numbers = [[-rng.expovariate(1.0) for _ in range(COMPLETION)] for _ in range(SEQUENCES)]
    return [Rollout(ids(PROMPT), ids(COMPLETION), logprobs) for logprobs in numbers]


PAYLOAD = random.Random(2).randbytes(8192)


def calibrate(work: Callable[[int], None]) -> int:
    """How much of a work makes a step of the right length."""
    amount = 1
    while True:
        began = time.perf_counter()
        work(amount)
        took = time.perf_counter() - began
        if took > STEP_SECONDS / 2:
            return max(1, round(amount * STEP_SECONDS / took))
        amount *= 2


def sleeping(_: int) -> None:
    time.sleep(STEP_SECONDS)


def operations(amount: int) -> None:
    for _ in range(amount):
        zlib.compress(PAYLOAD, 1)  # gives the GIL back


def python(amount: int) -> None:
    total = 0
    for index in range(amount):
        total += index & 7


def step_kinds() -> dict[str, Callable[[], None]]:
    ops, plain = calibrate(operations), calibrate(python)

    def mixed() -> None:
        operations(ops // 2)
        python(plain // 2)

    return {
        "gpu": lambda: sleeping(0),
        "ops": lambda: operations(ops),
        "mixed": mixed,
        "python": lambda: python(plain),
    }


class GatedPace(Pace):
    """Holds the background thread, between two pieces of work, while the gate is closed."""

    def __init__(self, share: float) -> None:
        super().__init__(share)
        self.gate = threading.Event()

    def __call__(self) -> None:
        super().__call__()
        self.gate.wait()
        self.begin()


@dataclass
class Measured:
    without: list[float]
    """Seconds of each step."""
    with_client: list[float]
    background: float
    """CPU seconds of the background thread for each second of the steps with the client."""
    submit: float
    """Seconds of a submission, median."""


def measure(step: Callable[[], None], client: Client, batch: list[Rollout], steps: int) -> Measured:
    """Steps without and with submissions take turns."""
    pace = GatedPace(client._config.gil_share)
    client._worker._pace = pace
    found = Measured([], [], 0.0, 0.0)
    submissions: list[float] = []
    for _ in range(steps):
        began = time.perf_counter()
        step()
        found.without.append(time.perf_counter() - began)
        pace.gate.set()
        others = time.process_time() - time.thread_time()
        began = time.perf_counter()
        step()
        handed_over = time.perf_counter()
        client.submit(batch)
        ended = time.perf_counter()
        found.background += time.process_time() - time.thread_time() - others
        pace.gate.clear()
        submissions.append(ended - handed_over)
        found.with_client.append(ended - began)
        # It has stopped when the next step begins.
        time.sleep(0.002)
    pace.gate.set()
    found.background /= sum(found.with_client)
    found.submit = statistics.median(submissions)
    return found


def growth(without: list[float], with_client: list[float]) -> tuple[float, float, float]:
    """Percent, with a bootstrap interval over pairs."""
    pairs = [100 * (b / a - 1) for a, b in zip(without, with_client)]
    rng = random.Random(3)
    means = sorted(trimmed(rng.choices(pairs, k=len(pairs))) for _ in range(1000))
    return trimmed(pairs), means[25], means[974]


def trimmed(values: list[float]) -> float:
    """Mean without the tenth at each end: steps that something else has disturbed."""
    tenth = len(values) // 10
    return statistics.mean(sorted(values)[tenth : len(values) - tenth])


def chosen(only: list[str], server: str, kind: str) -> bool:
    """Whether neither is ruled out by what was named of its sort."""
    kinds = [name for name in only if name in ("gpu", "ops", "mixed", "python")]
    servers = [name for name in only if name not in kinds]
    return (not kinds or kind in kinds) and (not servers or server in servers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="a real server instead of the fakes")
    parser.add_argument("--steps", type=int, default=100, help="with the client, for each kind and server")
    parser.add_argument("--only", nargs="*", default=[], help="servers and kinds of steps; all of them unless named")
    parser.add_argument("--gil-share", type=float, default=None)
    arguments = parser.parse_args()
    servers: dict[str, Optional[str]] = (
        {"real": arguments.url} if arguments.url else {"accepting": serve(Fake), "silent": silent(), "429": serve(Refusing), "dead": dead()}
    )
    options: dict[str, Any] = {} if arguments.gil_share is None else {"gil_share": arguments.gil_share}
    batch = rollouts()
    print("server     step     ms without  growth %   95 % interval  background %  submit us  accepted/submitted")
    for server, url in servers.items():
        for kind, step in step_kinds().items():
            if not chosen(arguments.only, server, kind):
                continue
            client = Client(url or "", run="benchmark", exit_timeout=0.0, **options)
            found = measure(step, client, batch, arguments.steps)
            stats = client.stats()
            client.close(0.0)
            middle, low, high = growth(found.without, found.with_client)
            print(
                f"{server:10} {kind:8} {statistics.median(found.without) * 1e3:10.2f} {middle:9.2f} {low:6.2f} to {high:6.2f}"
                f" {found.background * 100:13.2f} {found.submit * 1e6:10.0f}  {stats.accepted}/{stats.submitted}",
                flush=True,
            )


if __name__ == "__main__":
    main()
