"""Logging that an outage cannot turn into a flood."""

from __future__ import annotations

import logging
import threading
import time

logger = logging.getLogger("plumbline_client")

EVERY_SECONDS = 60.0


class LimitedLog:
    """Each kind of message at most once a minute; the next one says how many were left out."""

    def __init__(self) -> None:
        """Nothing said yet."""
        self._lock = threading.Lock()
        self._last: dict[str, float] = {}
        self._left_out: dict[str, int] = {}

    def warning(self, kind: str, message: str, *arguments: object) -> None:
        """Never given headers, keys or texts of rollouts."""
        now = time.monotonic()
        with self._lock:
            last = self._last.get(kind)
            if last is not None and now - last < EVERY_SECONDS:
                self._left_out[kind] = self._left_out.get(kind, 0) + 1
                return
            self._last[kind] = now
            left_out = self._left_out.pop(kind, 0)
        more = f" ({left_out} like this were not logged)" if left_out else ""
        logger.warning(message + more, *arguments)
