"""tmpfs/clock.py: the clock for time stamps of nodes: the kernel's coarse one, and never behind the kernel's stamps.

The kernel makes some stamps itself (utime(2) of now) and hands them over.  It uses the coarse clock, but since Linux
6.13 its stamps are not behind any fine stamp that another file system took meanwhile.  It tells nobody that floor.  So
a stamp that it hands over, a moment ahead of our clock, is our floor until the clock has reached it.

Limits      If a user sets a time that is less than a MOMENT ahead, it looks the same: stamps are as much ahead then.
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
        """Return the time in ns; if the clock is set back, this follows it."""
        now = time.clock_gettime_ns(CLOCK_REALTIME_COARSE)
        return self.floor if now < self.floor <= now + MOMENT else now

    def heard(self, ns: int) -> None:
        """The kernel handed a time over."""
        now = time.clock_gettime_ns(CLOCK_REALTIME_COARSE)
        if max(now, self.floor) < ns <= now + MOMENT:
            self.floor = ns
