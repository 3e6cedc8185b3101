"""turns.py: how long background work may go on between two requests.

Work that takes long (the reaper, du, swapoff, ...) is made of steps of some 0.1 ms.  A slice is some steps, and ends as
soon as a request waits.

Picture     begin --over? each step: LOOK has passed, and a request waits, or MOST has passed--> end
            The request loop lets trio run when no request waits, and at each tick.  If requests always wait, a slice
            still gets a part of the time that passed since the last one: removed files must be freed.

Limits      A request waits for the step in progress, which may read or write swap.
            While pyfuse3 waits in its own way nobody knows whether a request waits: slices are as long as allowed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from time import perf_counter_ns

from tmpfsd.server.loop import Loop

LOOK = 50_000               # nanoseconds between two looks for a request
MOST = 2_000_000            # nanoseconds of a slice
SHARE = 10                  # one of so many parts of the time is the background's,
DUE = 400_000               # nanoseconds of a slice at most, while requests wait


class Turns:
    """The slices of one mount.  One at a time: nothing is awaited within it."""

    __slots__ = ("loop", "_clock", "_end", "_look", "_ended")

    def __init__(self, loop: Loop | None = None, clock: Callable[[], int] = perf_counter_ns) -> None:
        self.loop = loop
        self._clock = clock
        self._ended = self._end = self._look = clock()

    def begin(self) -> None:
        """Begin a slice."""
        now = self._clock()
        due = min((now - self._ended) // SHARE, DUE)
        self._look = now + max(due, LOOK)
        self._end = now + MOST

    def over(self) -> bool:
        """Whether the slice has to end, asked after each step."""
        now = self._clock()
        if now < self._look:
            return False
        self._ended = now
        if now >= self._end or self.loop is not None and self.loop.waits():
            return True
        self._look = now + LOOK
        return False

    @contextlib.contextmanager
    def background(self) -> Iterator[None]:
        """While there is something to do between requests, the request loop does not block."""
        loop = self.loop
        if loop is None:
            yield
            return
        loop.background += 1
        try:
            yield
        finally:
            loop.background -= 1
