"""uvm/mini.py: the page daemon's policy on a list of page numbers instead of frames, to see what it would do.

A miniature simulation (Waldspurger et al., Cache Modeling and Optimization using Miniature Simulations, ATC'17): a
sample of the pages uses a memory that is scaled down as the sample is.  The rules are exactly those of pagedaemon.py:
fresh pages go round once, pages of an index have lives, a page that comes back soon is active at once.

Picture     touch(page) --> hit, or miss --enter--> inactive | active --evict--> gone, and since when

Breathing   Nothing here breathes.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from tmpfsd.uvm.queues import LIVES

REFERENCED: Final = 1
FRESH: Final = 2
INDEX: Final = 4            # a page of an index, which has lives
LIFE: Final = 8             # lives are counted in these
LOOKS: Final = 256          # of one eviction: after that the head leaves, whatever it is


class Mini:
    """A memory of `most` sampled pages."""

    __slots__ = ("most", "misses", "_active", "_inactive", "_gone", "_clock")

    def __init__(self, most: float) -> None:
        self.most = most
        self.misses = 0.0
        self._active: OrderedDict[int, int] = OrderedDict()
        self._inactive: OrderedDict[int, int] = OrderedDict()
        self._gone: dict[int, int] = {}
        self._clock = 0

    def touch(self, vpn: int, index: bool, new: bool) -> bool:
        """A page is used, or made (new); whether it was there.  O(1), and O(LOOKS) if another must leave."""
        active, inactive = self._active, self._inactive
        state = inactive.get(vpn, -1)
        if state >= 0:
            inactive[vpn] = state | REFERENCED
            return True
        state = active.get(vpn, -1)
        if state >= 0:
            active[vpn] = state | REFERENCED
            return True
        state = REFERENCED | (INDEX if index else 0)
        left = self._gone.pop(vpn, -1)
        if left >= 0 and not new and self._clock - left <= self.most:
            active[vpn] = state
        else:
            inactive[vpn] = state | FRESH
        self.shrink()
        return False

    def shrink(self) -> None:
        """Evict until at most `most` pages are in.  O(LOOKS) for each."""
        while len(self._active) + len(self._inactive) > max(self.most, 1):
            self._evict()

    def forget(self, vpn: int) -> None:
        """A page is gone for good.  O(1)."""
        self._active.pop(vpn, 0)
        self._inactive.pop(vpn, 0)
        self._gone.pop(vpn, 0)

    def _evict(self) -> None:
        """Evict one page."""
        active, inactive = self._active, self._inactive
        for _ in range(LOOKS):
            while active and 2 * len(inactive) < len(active):
                vpn, state = active.popitem(last=False)
                if state & REFERENCED:
                    active[vpn] = state & INDEX
                    break
                inactive[vpn] = state & INDEX
            if not inactive:
                break
            vpn, state = inactive.popitem(last=False)
            if state & REFERENCED:
                if state & FRESH:
                    inactive[vpn] = (state & INDEX) | (LIVES * LIFE if state & INDEX else 0)
                else:
                    active[vpn] = state & INDEX
            elif state >= LIFE:
                inactive[vpn] = state - LIFE
            else:
                self._left(vpn)
                return
        vpn, _state = (inactive or active).popitem(last=False)
        self._left(vpn)

    def _left(self, vpn: int) -> None:
        self._gone[vpn] = self._clock
        self._clock += 1
