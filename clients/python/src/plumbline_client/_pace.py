"""Keeps the background thread from taking the interpreter away from the rollout loop.

Encoding JSON holds the GIL. It is done in pieces of some ten microseconds, with a real pause after each, so a loop that comes back
from the GPU waits for one piece at most. If the pause takes longer than asked for, somebody else wants the interpreter: then
encoding is slowed down until it holds the GIL for `share` of the time at most.
"""

from __future__ import annotations

import time

PAUSE = 50e-6
"""A pause that makes the scheduler run somebody else. `sleep(0)` would take the GIL back at once."""

CONTENDED = 1e-3
"""A pause that took so much longer means that the GIL was held by others: they give it up after 5 ms only."""

MEMORY = 0.1
"""Seconds for which contention is assumed to go on."""


class Pace:
    """Call it after every piece of work that held the GIL."""

    def __init__(self, share: float) -> None:
        """`share` of the time under contention, in (0, 1]."""
        self._share = share
        self._contended_until = 0.0
        self._began = time.perf_counter()
        self.hurry = False
        """Somebody waits for the queue to become empty: no need to be polite."""

    def begin(self) -> None:
        """A piece of work begins: what came before was not ours."""
        self._began = time.perf_counter()

    def __call__(self) -> None:
        """Pauses, longer where the interpreter is wanted by others."""
        if self._share >= 1:
            return
        end = time.perf_counter()
        worked = end - self._began
        pause = PAUSE
        if end < self._contended_until and not self.hurry:
            pause = max(PAUSE, worked * (1 / self._share - 1))
        time.sleep(pause)
        self._began = time.perf_counter()
        if self._began - end - pause > CONTENDED:
            self._contended_until = self._began + MEMORY
