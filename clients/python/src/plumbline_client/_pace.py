"""Keeps the background thread from taking the interpreter away from the rollout loop.

Encoding JSON holds the GIL. It is done in pieces of some ten microseconds, with a real pause after each, so a loop that comes back
from the GPU waits for one piece at most, and seldom for one at all: pauses are nineteen times as long as the work. If a pause takes
milliseconds longer than asked for, somebody else holds the interpreter without giving it away: then encoding is slowed down until it
holds the GIL for `share` of the time at most.
"""

from __future__ import annotations

import sys
import time

SHARE = 0.05
"""Part of the time for which the GIL may be held as long as nobody else holds it for long."""

SHORTEST = 50e-6
"""A pause that makes the scheduler run somebody else. `sleep(0)` would take the GIL back at once."""

LONGEST = 0.1

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
        end = time.perf_counter()
        share = 1.0 if self.hurry else self._share if end < self._contended_until else max(SHARE, self._share)
        pause = min(LONGEST, max(SHORTEST, (end - self._began) * (1 / share - 1)))
        time.sleep(pause)
        self._began = time.perf_counter()
        # A thread that does not let go of the GIL is made to after the switch interval.
        if self._began - end - pause > sys.getswitchinterval() * 0.8:
            self._contended_until = self._began + MEMORY
