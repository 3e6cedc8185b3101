"""tmpfs/clock.py: the clock that nodes are stamped with: the kernel's coarse one, and never behind what that said.

The kernel makes some stamps itself (utime(2) of now) and hands them over.  Its clock for that is the coarse one, but
since Linux 6.13 not behind any stamp that another file system took finely meanwhile, and that floor is told to nobody.
So what it hands over, a moment ahead of ours, is our floor, until the clock has come so far.

Limits      A time of the next MOMENT that somebody sets himself looks alike: stamps are as much ahead then, no more.
"""

from __future__ import annotations

import time

CLOCK_REALTIME_COARSE = 5       # <linux/time.h>; the time module has no name for it
MOMENT = 10_000_000             # ns: between two ticks of the coarse clock, at most


class Clock:
    """The clock of one mount."""

    __slots__ = ("floor",)

    def __init__(self) -> None:
        self.floor = 0

    def now(self) -> int:
        """Return the time in ns; a clock that was set back is followed."""
        now = time.clock_gettime_ns(CLOCK_REALTIME_COARSE)
        return self.floor if now < self.floor <= now + MOMENT else now

    def heard(self, ns: int) -> None:
        """The kernel handed a time over."""
        now = time.clock_gettime_ns(CLOCK_REALTIME_COARSE)
        if max(now, self.floor) < ns <= now + MOMENT:
            self.floor = ns
