"""What happens to clients when they are forgotten, when the process forks, and when it ends."""

from __future__ import annotations

import atexit
import os
import time
import weakref
from typing import Any, Protocol


class _Client(Protocol):
    def _after_fork(self) -> None: ...


class _Worker(Protocol):
    def retire(self) -> None: ...

    def at_exit(self, waited: float) -> None: ...


_clients: dict[int, weakref.ref[Any]] = {}
_workers: dict[int, weakref.ref[Any]] = {}


def register(client: _Client, worker: _Worker) -> None:
    """Both are known until they are gone. A worker lives on, by its thread, until what its forgotten client had queued is sent."""
    key, own = id(client), id(worker)
    _clients[key] = weakref.ref(client, lambda _: _clients.pop(key, None))
    _workers[own] = weakref.ref(worker, lambda _: _workers.pop(own, None))
    weakref.finalize(client, worker.retire).atexit = False


def _alive(references: dict[int, weakref.ref[Any]]) -> list[Any]:
    return [found for found in (reference() for reference in list(references.values())) if found is not None]


def _after_fork() -> None:
    # What the parent has queued is the parent's.
    _workers.clear()
    for client in _alive(_clients):
        client._after_fork()


def _at_exit() -> None:
    began = time.monotonic()
    for worker in _alive(_workers):
        worker.at_exit(time.monotonic() - began)


# Not on Windows.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
