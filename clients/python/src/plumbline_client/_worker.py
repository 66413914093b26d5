"""The bounded queue and the one background thread that empties it."""

from __future__ import annotations

import itertools
import threading
import time
import uuid
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Optional

from ._config import Config
from ._delivery import Batch, Delivery, Entry
from ._encode import encode
from ._log import LimitedLog
from ._pace import Pace
from .errors import ConversionError
from .rollout import Item, Rejected
from .stats import Counters

IDLE_SECONDS = 5.0
"""How often an idle thread looks whether its client is still there."""


@dataclass
class Lot:
    """What was submitted at once: items, or something that will make them."""

    number: int
    head: str
    items: Iterable[Item]
    count: int
    size: int
    """Estimated bytes."""


class Worker:
    """Everything that does not survive a fork: queue, counters, thread, connection."""

    def __init__(self, config: Config) -> None:
        """Starts no thread: the first submission does."""
        self.counters = Counters()
        self.log = LimitedLog()
        self._config = config
        self._name = config.worker or "client"
        self._uid = uuid.uuid4().hex[:12]
        self._batch_numbers = itertools.count(1)
        self._item_numbers = itertools.count(1)
        self._lot_numbers = itertools.count(1)
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._queue: deque[Lot] = deque()
        self._queued = self._queued_bytes = 0
        self._flushes = 0
        self._closing = self._retired = False
        self._thread: Optional[threading.Thread] = None
        self._pace = Pace(config.gil_share)
        self._delivery = Delivery(config, self.counters, self.log, self._stop, self._new_key, self._wake)
        # Of the thread alone: the lot that is being taken apart, and what came out of it and did not fit into the last batch.
        self._open: Optional[Lot] = None
        self._rest: Iterator[Item] = iter(())
        self._made = self._unsized = 0
        self._held: Optional[tuple[str, Entry]] = None
        self._working_on: Optional[int] = None

    # Called by any thread.

    def put(self, head: str, items: Iterable[Item], count: int, size: int) -> bool:
        """Queues a lot, or drops it or older ones. Waits for nothing but a short lock."""
        if count == 0:
            return True
        reason = self._put(head, items, count, size)
        if reason is not None and reason != "closed":
            # Outside of the lock: a log handler may be slow.
            self.log.warning(reason, "sequences were dropped: %s", reason)
        return reason is None

    def _put(self, head: str, items: Iterable[Item], count: int, size: int) -> Optional[str]:
        """Why something was dropped."""
        config, reason = self._config, None
        with self._changed:
            self.counters.submitted(count, size)
            if self._closing:
                self.counters.dropped("closed", count, size)
                return "closed"
            fits_ever = count <= config.max_queue_sequences and size <= config.max_queue_bytes
            while fits_ever and config.drop == "oldest" and self._queue and not self._fits(count, size):
                oldest = self._queue.popleft()
                self._queued -= oldest.count
                self._queued_bytes -= oldest.size
                self.counters.dropped("queue_full", oldest.count, oldest.size)
                reason = "queue_full"
            if not self._fits(count, size):
                self.counters.dropped("queue_full", count, size)
                return "queue_full"
            if self._thread is None and not self._start():
                self.counters.dropped("no_thread", count, size)
                return "no_thread"
            self._queue.append(Lot(next(self._lot_numbers), head, items, count, size))
            self._queued += count
            self._queued_bytes += size
            self._changed.notify_all()
        return reason

    def flush(self, timeout: Optional[float]) -> bool:
        """Waits until what has been put so far is settled."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            last = next(self._lot_numbers)
            self._flushes += 1
            self._pace.hurry = True
            self._changed.notify_all()
            try:
                while (first := self._first_unsettled()) is not None and first < last:
                    left = None if deadline is None else deadline - time.monotonic()
                    if left is not None and left <= 0:
                        return False
                    self._changed.wait(left)
            finally:
                self._flushes -= 1
                self._pace.hurry = self._flushes > 0
        return True

    def close(self, timeout: float) -> bool:
        """Flushes, then ends the thread; what is not settled by then is dropped."""
        done = self.flush(timeout)
        with self._changed:
            self._closing = True
            self._stop.set()
            left = list(self._queue)
            self._queue.clear()
            self._queued = self._queued_bytes = 0
            for lot in left:
                self.counters.dropped("closed", lot.count, lot.size)
            thread = self._thread
            self._changed.notify_all()
        self._delivery.connection.abort()
        if thread is not None and thread is not threading.current_thread():
            thread.join(1.0)
        return done

    def retire(self) -> None:
        """The client was forgotten: the thread ends when the queue is empty."""
        # Garbage may be collected anywhere, also while this very lock is held: nothing is waited for here.
        self._retired = True

    def at_exit(self, waited: float) -> None:
        """The process ends, and others have used so much of the time already."""
        self.close(max(0.0, self._config.exit_timeout - waited))

    # Below, with the lock held.

    def _fits(self, count: int, size: int) -> bool:
        config = self._config
        return self._queued + count <= config.max_queue_sequences and self._queued_bytes + size <= config.max_queue_bytes

    def _start(self) -> bool:
        thread = threading.Thread(target=self._run, name="plumbline-client", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # the interpreter is shutting down, or there are no threads left
            self.counters.noted(str(error))
            return False
        self._thread = thread
        return True

    def _first_unsettled(self) -> Optional[int]:
        if self._working_on is not None:
            return self._working_on
        return self._queue[0].number if self._queue else None

    # The thread.

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _new_key(self) -> str:
        return f"{self._uid}-{next(self._batch_numbers)}"

    def _run(self) -> None:
        try:
            self._loop()
        finally:
            self._delivery.connection.close()

    def _loop(self) -> None:
        while True:
            batch: Optional[Batch] = None
            try:
                batch = self._collect()
                if batch is None:
                    return
                self._delivery.deliver(batch)
            except Exception as error:  # noqa: BLE001 (a defect must not end the thread: later sequences would pile up)
                self._report("defect", f"{type(error).__name__}: {error}")
                if batch is not None:
                    self._delivery.drop([entry for entry in batch.entries if not entry.settled], "defect")
                self._stop.wait(1.0)
            self._settle()

    def _settle(self) -> None:
        """What is being worked on now: what was held back, else the lot that is open, else nothing."""
        with self._changed:
            first = self._held[1] if self._held is not None else None
            if first is not None:
                self._working_on = first.lot
            else:
                self._working_on = None if self._open is None else self._open.number
            self._changed.notify_all()

    def _collect(self) -> Optional[Batch]:
        """The next batch: full, or as old as `linger`; None when closed."""
        config = self._config
        head, size = "", 0
        entries: list[Entry] = []
        ids: set[str] = set()
        until: Optional[float] = None
        self._pace.begin()
        while len(entries) < config.batch_sequences and size < config.batch_bytes:
            found = self._next(until)
            if found is None:
                break
            its_head, entry = found
            first = entries[0].item if entries else entry.item
            if (its_head, entry.item.kind) != (head or its_head, first.kind) or entry.item.id in ids:
                self._held = found
                break
            if until is None:
                until = time.monotonic() + config.linger
            head = its_head
            entries.append(entry)
            ids.add(entry.item.id)
            size += entry.size
        return Batch(head, entries) if entries else None

    def _next(self, until: Optional[float]) -> Optional[tuple[str, Entry]]:
        """The next encoded item; None if there is none by then, or none will come."""
        if self._held is not None:
            held, self._held = self._held, None
            return held
        while not self._stop.is_set():
            if self._open is None and not self._take(until):
                return None
            entry = self._encoded_next()
            if entry is not None:
                return entry
        self._abandon("closed")
        return None

    def _take(self, until: Optional[float]) -> bool:
        with self._changed:
            while not self._queue:
                if self._closing or self._retired or (until is not None and self._flushes):
                    return False
                if until is None and self._working_on is not None:
                    self._working_on = None
                    self._changed.notify_all()
                left = None if until is None else until - time.monotonic()
                if left is not None and left <= 0:
                    return False
                # Not for ever: `retire` cannot notify.
                self._changed.wait(IDLE_SECONDS if left is None else left)
            lot = self._queue.popleft()
            self._queued -= lot.count
            self._queued_bytes -= lot.size
            if self._working_on is None:
                self._working_on = lot.number
        self._open, self._rest, self._made, self._unsized = lot, iter(lot.items), 0, lot.size
        self._pace.begin()
        return True

    def _encoded_next(self) -> Optional[tuple[str, Entry]]:
        """The next item of the open lot; None for one that is dropped, and at the lot's end."""
        lot = self._open
        assert lot is not None
        try:
            item = next(self._rest)
        except StopIteration:
            self._abandon("conversion_failed")
            return None
        except Exception as error:  # noqa: BLE001 (a helper met something that it does not know)
            reason = error.reason if isinstance(error, ConversionError) else "conversion_failed"
            self._report(reason, f"{type(error).__name__}: {error}")
            self._abandon(reason)
            return None
        self._pace()
        self._made += 1
        # The share of the estimate that belongs to this item.
        share = lot.size // lot.count if self._made <= lot.count else 0
        self._unsized -= share
        if self._made > lot.count:
            self.counters.resized(0, count=1)
        try:
            if isinstance(item, Rejected):
                raise ConversionError(item.reason, item.detail)
            encoded = encode(item, f"{self._name}-{self._uid}-{next(self._item_numbers)}", self._config, self._pace)
        except Exception as error:  # noqa: BLE001 (hostile objects raise what they like)
            reason = error.reason if isinstance(error, ConversionError) else "not_serialisable"
            self.counters.dropped(reason, 1, share)
            self._report(reason, str(error))
            return None
        if not self._sampled(encoded.id):
            self.counters.dropped("sampled_out", 1, share)
            return None
        self.counters.resized(len(encoded.json) - share)
        return lot.head, Entry(encoded, len(encoded.json), lot.number)

    def _report(self, reason: str, detail: str) -> None:
        self.counters.noted(detail)
        self.log.warning(reason, "a sequence was dropped: %s", detail)

    def _sampled(self, identity: str) -> bool:
        """The same for the same id everywhere."""
        rate = self._config.sample_rate
        return rate >= 1 or zlib.crc32(identity.encode("utf-8", "surrogatepass")) < rate * 2**32

    def _abandon(self, reason: str) -> None:
        """Ends the open lot. What was counted and did not come out of it is dropped."""
        lot, self._open, self._rest = self._open, None, iter(())
        if lot is not None:
            self.counters.dropped(reason, max(0, lot.count - self._made), self._unsized)
            self._unsized = 0
