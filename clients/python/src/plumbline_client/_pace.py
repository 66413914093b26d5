"""Keeps the background thread from taking the interpreter away from the rollout loop.

Encoding JSON holds the GIL. It is done in pieces of a fraction of a millisecond, with a real pause after each, so a loop that comes back
from the GPU waits for one piece at most. While other threads of the process compute, pauses are so long that encoding holds the GIL for
`share` of the time: that bounds what it can cost them, whatever they do. While they sleep, it may have more.
"""

from __future__ import annotations

import time

IDLE_SHARE = 0.1
"""Part of the time while nothing else in the process computes."""

IDLE = 0.1
"""Part of a pause that other threads may compute and still count as idle."""

SHORTEST = 50e-6
"""A pause that makes the scheduler run somebody else. `sleep(0)` would take the GIL back at once."""

LONGEST = 0.2

SMALLEST = 150e-6
"""Work that is worth handing the interpreter over; less is put together."""

SWITCH = 50e-6
"""What handing the interpreter over and back costs the others, besides the work itself."""


class Pace:
    """Call it after every piece of work that held the GIL."""

    def __init__(self, share: float) -> None:
        """`share` of the time while others compute, in (0, 1]."""
        self._share = share
        self._idle = False
        self._began = time.perf_counter()
        self.hurry = False
        """Somebody waits for the queue to become empty: no need to be polite."""

    def begin(self) -> None:
        """A piece of work begins: what came before was not ours."""
        self._began = time.perf_counter()

    def __call__(self) -> None:
        """Pauses."""
        began = time.perf_counter()
        if began - self._began < SMALLEST:
            return
        share = 1.0 if self.hurry else max(self._share, IDLE_SHARE) if self._idle else self._share
        computed = time.process_time()
        time.sleep(min(LONGEST, max(SHORTEST, (began - self._began + SWITCH) * (1 / share - 1))))
        ended = time.perf_counter()
        # This thread slept: the process's time is that of others.
        self._idle = time.process_time() - computed < IDLE * (ended - began)
        self._began = ended
