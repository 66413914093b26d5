"""Counters that tell what became of everything that was submitted."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Optional


@dataclass(frozen=True)
class Stats:
    """A consistent snapshot: `submitted == accepted + dropped_total + queued`, always."""

    submitted: int = 0
    """Sequences handed to `submit`; an exchange counts as one."""
    queued: int = 0
    """Not settled yet: waiting, or on their way."""
    queued_bytes: int = 0
    """Their size on the wire before compression, estimated until they are encoded."""
    sent: int = 0
    """Sequences that went over the wire at least once."""
    accepted: int = 0
    """The server has them: scored, or durably stored to be scored."""
    dropped: Mapping[str, int] = field(default_factory=dict)
    """By reason; the README lists them. The server's own reasons have the names of its error codes."""
    requests: int = 0
    """HTTP requests made for them."""
    failed: int = 0
    """Of these, without an answer or with an error."""
    retried: int = 0
    """Requests made again for the same sequences."""
    bytes: int = 0
    """Bytes of bodies sent, compressed, retries included."""
    last_error: Optional[str] = None
    """The last thing that went wrong, for people."""

    @property
    def dropped_total(self) -> int:
        """All dropped sequences."""
        return sum(self.dropped.values())


class Counters:
    """The live counters behind `Stats`; every method is one atomic step."""

    def __init__(self) -> None:
        """All at zero."""
        self._lock = threading.Lock()
        self._submitted = self._queued_bytes = self._sent = self._accepted = 0
        self._requests = self._failed = self._retried = self._bytes = 0
        self._dropped: Counter[str] = Counter()
        self._last_error: Optional[str] = None

    def submitted(self, count: int, size: int) -> None:
        """New sequences of about so many bytes."""
        with self._lock:
            self._submitted += count
            self._queued_bytes += size

    def resized(self, size: int, count: int = 0) -> None:
        """An estimate was that wrong."""
        with self._lock:
            self._queued_bytes += size
            self._submitted += count

    def accepted(self, count: int, size: int) -> None:
        """The server has them."""
        with self._lock:
            self._accepted += count
            self._queued_bytes -= size

    def dropped(self, reason: str, count: int, size: int) -> None:
        """They are lost."""
        with self._lock:
            if count:
                self._dropped[reason] += count
            self._queued_bytes -= size

    def request(self, size: int, first: int, again: bool) -> None:
        """A request goes out with `first` sequences that were never on the wire before."""
        with self._lock:
            self._requests += 1
            self._bytes += size
            self._sent += first
            self._retried += again

    def failed(self, error: str) -> None:
        """A request got no good answer."""
        with self._lock:
            self._failed += 1
            self._last_error = error

    def noted(self, error: str) -> None:
        """Something else went wrong."""
        with self._lock:
            self._last_error = error

    def snapshot(self) -> Stats:
        """All of them at one instant."""
        with self._lock:
            return Stats(
                submitted=self._submitted,
                queued=self._submitted - self._accepted - sum(self._dropped.values()),
                queued_bytes=self._queued_bytes,
                sent=self._sent,
                accepted=self._accepted,
                dropped=dict(self._dropped),
                requests=self._requests,
                failed=self._failed,
                retried=self._retried,
                bytes=self._bytes,
                last_error=self._last_error,
            )
