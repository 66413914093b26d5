"""What happens to clients when the process forks or ends."""

from __future__ import annotations

import atexit
import os
import weakref
from typing import Any, Protocol


class _Living(Protocol):
    def _after_fork(self) -> None: ...

    def _at_exit(self) -> None: ...


_living: dict[int, weakref.ref[Any]] = {}


def register(client: _Living) -> None:
    """From now on until the client is gone."""
    key = id(client)
    _living[key] = weakref.ref(client, lambda _: _living.pop(key, None))


def _clients() -> list[Any]:
    return [client for client in (reference() for reference in list(_living.values())) if client is not None]


def _after_fork() -> None:
    for client in _clients():
        client._after_fork()


def _at_exit() -> None:
    for client in _clients():
        client._at_exit()


# Not on Windows.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
