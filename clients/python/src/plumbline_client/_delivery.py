"""Brings one batch to its end: accepted, or dropped with a reason for each sequence."""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Optional

from ._config import Config
from ._encode import Encoded
from ._http import Connection, Response, gzipped
from ._log import LimitedLog
from .errors import ApiError, ConnectionFailed
from .stats import Counters

PATH = "/v1/verifications"

FIRST_BACKOFF = 0.5

SYNC_AFTER_501 = 300.0
"""Seconds for which a server without a store is not asked again to answer later."""

SYNC_AFTER_STORE_TROUBLE = 30.0

_ELEMENT = re.compile(r"^/(?:sequences|exchanges)/(\d+)(?:/|$)")

# Nothing is wrong with the sequences: they are sent again. 401 to 404 are here because keys and proxies change while a run goes on.
_AGAIN = frozenset({401, 403, 404, 405, 408, 425, 429, 500, 502, 503, 504})


@dataclass
class Entry:
    """An encoded item on its way."""

    item: Encoded
    size: int
    """Bytes of it that are counted as queued."""
    lot: int = 0
    """Number of what it was submitted with."""
    sent: bool = False
    settled: bool = False


@dataclass
class Batch:
    """What goes into one body."""

    head: str
    """The body up to its list: run, engine, worker."""
    entries: list[Entry]
    began: float = field(default_factory=time.monotonic)
    tries: int = 0
    key: str = ""
    compress: bool = True
    encoded: Optional[bytes] = None

    def body(self, compress: bool) -> bytes:
        """The body, made once for all tries."""
        if self.encoded is None:
            parts = [f'{self.head},"{self.entries[0].item.kind}":['.encode("ascii")]
            for number, entry in enumerate(self.entries):
                if number:
                    parts.append(b",")
                parts.append(entry.item.json)
            parts.append(b"]}")
            self.encoded = gzipped(parts) if compress else b"".join(parts)
        return self.encoded

    def part(self, entries: list[Entry]) -> Batch:
        """Some of it as a batch of its own, under a key of its own, with the same time left."""
        return Batch(self.head, entries, began=self.began, tries=self.tries, compress=self.compress)


class Delivery:
    """Sends batches one after the other, for one thread."""

    def __init__(
        self,
        config: Config,
        counters: Counters,
        log: LimitedLog,
        stop: threading.Event,
        new_key: Callable[[], str],
        settled: Callable[[], None],
    ) -> None:
        """`stop` ends all waiting: what is left is dropped. `settled` is called when something was settled."""
        self.connection = Connection(config)
        self._config = config
        self._counters = counters
        self._log = log
        self._stop = stop
        self._new_key = new_key
        self._settled = settled
        self._sync_until = 0.0

    def deliver(self, batch: Batch) -> None:
        """Returns when every entry is settled."""
        batches = [batch]
        while batches:
            current = batches.pop()
            if self._stop.is_set():
                self.drop(current.entries, "closed")
            elif current.entries:
                batches += reversed(self._attempt(current))

    def _attempt(self, batch: Batch) -> list[Batch]:
        """One request; what is to be sent next because of it."""
        batch.key = batch.key or self._new_key()
        compress = self._config.compress and batch.compress
        body = batch.body(compress)
        headers = {"Content-Type": "application/json", "Idempotency-Key": batch.key}
        if compress:
            headers["Content-Encoding"] = "gzip"
        if self._asks_for_later():
            headers["Prefer"] = "respond-async"
        else:
            headers["Plumbline-Priority"] = "bulk"
        first = [entry for entry in batch.entries if not entry.sent]
        self._counters.request(len(body), len(first), again=batch.tries > 0)
        for entry in first:
            entry.sent = True
        batch.tries += 1
        try:
            response = self.connection.request("POST", PATH, body, headers)
        except ConnectionFailed as error:
            self._counters.failed(str(error))
            self._log.warning(error.kind, "Plumbline at %s cannot be reached: %s", self._config.url, error.detail)
            return self._later(batch, error.kind, None)
        if 200 <= response.status < 300:
            self._accept(batch.entries)
            return []
        return self._refused(batch, response)

    def _asks_for_later(self) -> bool:
        wish = self._config.respond_async
        return wish if wish is not None else time.monotonic() >= self._sync_until

    def _refused(self, batch: Batch, response: Response) -> list[Batch]:
        error = response.error()
        self._counters.failed(str(error))
        if self._config.respond_async is None and error.code in ("async_unavailable", "store_unavailable"):
            # It still answers requests that wait for their answer.
            asked_for_later = self._asks_for_later()
            seconds = SYNC_AFTER_501 if error.code == "async_unavailable" else SYNC_AFTER_STORE_TROUBLE
            self._sync_until = time.monotonic() + seconds
            if asked_for_later:
                return [batch]
        if error.code == "idempotency_key_reused":
            # A proxy or another client has used it: the content decides then.
            return self._fresh(batch)
        if (error.code == "compression_ratio" or error.status == 415) and batch.compress and self._config.compress:
            batch.compress, batch.encoded = False, None
            return self._fresh(batch)
        self._log.warning(error.code, "Plumbline at %s refused sequences: %s", self._config.url, error)
        bad = _pointed_at(error, len(batch.entries))
        if bad:
            return self._without(batch, bad, error)
        if error.status in _AGAIN:
            return self._later(batch, error.code, error.retry_after)
        return self._narrowed(batch, error)

    def _without(self, batch: Batch, bad: dict[int, str], error: ApiError) -> list[Batch]:
        """Drops the entries that the server pointed at; the others go on."""
        for index, code in bad.items():
            self.drop([batch.entries[index]], code)
        left = [entry for index, entry in enumerate(batch.entries) if index not in bad]
        return [batch.part(left)] if left else []

    def _narrowed(self, batch: Batch, error: ApiError) -> list[Batch]:
        """Too large, or wrong nobody knows where: halves, until what is wrong is alone."""
        shared = bool(error.errors) and error.status == 422 and error.code != "too_many_sequences"
        if len(batch.entries) == 1 or shared:
            self.drop(batch.entries, error.code)
            return []
        middle = len(batch.entries) // 2
        return [batch.part(batch.entries[:middle]), batch.part(batch.entries[middle:])]

    def _fresh(self, batch: Batch) -> list[Batch]:
        if batch.tries > 8:
            self.drop(batch.entries, "gave_up")
            return []
        batch.key = ""
        return [batch]

    def _later(self, batch: Batch, reason: str, retry_after: Optional[float]) -> list[Batch]:
        """Waits as long as told, or longer each time; beyond `retry_seconds` the batch is dropped."""
        if retry_after is None:
            ceiling = min(self._config.max_backoff, FIRST_BACKOFF * 2.0 ** min(batch.tries - 1, 30))
            wait = ceiling * random.uniform(0.5, 1.0)
        else:
            # The server keeps a place for some seconds from then on; workers that were told the same do not come at once.
            wait = retry_after + random.uniform(0.0, 0.5)
        if time.monotonic() + wait - batch.began > self._config.retry_seconds:
            self.drop(batch.entries, reason)
            return []
        self._stop.wait(wait)
        return [batch]

    def _accept(self, entries: list[Entry]) -> None:
        self._counters.accepted(len(entries), sum(entry.size for entry in entries))
        self._settle(entries)

    def drop(self, entries: list[Entry], reason: str) -> None:
        """Gives up on entries."""
        self._counters.dropped(reason, len(entries), sum(entry.size for entry in entries))
        self._settle(entries)

    def _settle(self, entries: list[Entry]) -> None:
        for entry in entries:
            entry.settled = True
        self._settled()


def _pointed_at(error: ApiError, count: int) -> dict[int, str]:
    """Which elements of the list the server found fault with, and why."""
    found: dict[int, str] = {}
    for entry in error.errors:
        match = _ELEMENT.match(entry.pointer)
        if match and int(match.group(1)) < count:
            found.setdefault(int(match.group(1)), entry.code or error.code)
    return found
