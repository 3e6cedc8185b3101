"""uvm/sampler.py: how many page-ins there would be with another number of frames, from a sample of the real accesses.

The sample is the pages whose hashed number is small (SHARDS: Waldspurger et al., Efficient MRC Construction with
SHARDS, FAST'15), at most MOST; if there are more, half of them are let go.  A watched page that is resident is hidden
(pte.py), so the next access comes to fault(), which tells us.  After that the page is not watched until some others
were told (AHEAD).  So a page that is used all the time costs no more than one that is used now and then, and pages
outside the sample cost nothing.  Each access that is told goes to a miniature of the memory (mini.py) for each of
SIZES.

A page that is met the first time was in memory or out before we looked.  If it was out, its refault distance says which
larger memories would still have had it (as in mm/workingset.c).  If it was in, smaller ones are not judged by it.

Picture     WATCHED --access--> told, not watched --AHEAD others are told--> WATCHED
               ^-- start(), page-in by read-ahead

Invariants  none of its own: a page that is watched is resident, and pfn_of() tells its frame as usual.

Breathing   Nothing here breathes.

Measured, CPU of the core, interpreted: three reads and a breath 0.41 us without it and 0.74 with it; where one of the
reads is a page-in of a file in the page cache 9.2 and 11.0.  Page-ins at half to twice the frames were told with errors
of 0.2 to 6.5 % on three traces (tests/unit/test_sampler.py).

Limits      Pages that are seen through windows (windows.py) are not watched.
            Some 3 MiB while it is there, whatever is in memory.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, Iterator

from tmpfsd.uvm import pte
from tmpfsd.uvm.mini import Mini
from tmpfsd.uvm.pagedaemon import MOST_BATCH
from tmpfsd.uvm.pagekind import UNOWNED, WINDOWED, WIRED
from tmpfsd.uvm.param import CLUSTER

if TYPE_CHECKING:
    from tmpfsd.uvm.vm import Vm

# Factors of the present number of frames.  Not Final: mypyc 2.4 takes a final tuple of floats for one never set.
SIZES = (0.25, 0.375, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)
NOW: Final = 4              # of SIZES: 1.0
MOST: Final = 4096          # pages in the sample
LEAST_SHIFT: Final = 2      # a quarter of the pages at most
AHEAD_SHIFT: Final = 3      # an eighth of the smallest memory is not watched at a time
MOST_AHEAD: Final = 64
STEP: Final = 2048          # frames looked at in a step of start()
UNWATCHED: Final = WIRED | UNOWNED | WINDOWED        # kinds of pages
HASH: Final = 0x9E3779B1    # odd, and near 2^32 divided by the golden ratio: neighbours are spread


class Sampler:
    """A sample of the accesses to one machine.  => start() goes through its frames."""

    __slots__ = ("vm", "shift", "minis", "unjudged", "ntouches", "naccesses", "began", "waited", "nwaited",
                 "_pageins", "_known", "_resting")

    def __init__(self, vm: Vm) -> None:
        self.vm = vm
        self.shift = LEAST_SHIFT
        while vm.npages >> self.shift > MOST // 2:
            self.shift += 1
        self.minis = [Mini(0.0) for _ in SIZES]
        self.unjudged = [0.0 for _ in SIZES]    # accesses that say nothing about a size
        self.ntouches = 0.0                     # accesses to all pages, estimated from the sample
        self.naccesses = 0                      # and those in the sample
        self.began = time.monotonic()
        self.waited = [0.0, 0.0]                # seconds that page-ins took: from stores, from the ring
        self.nwaited = [0, 0]                   # and how many
        self._pageins = vm.pageins
        self._known: set[int] = set()
        self._resting: OrderedDict[int, int] = OrderedDict()    # told, and not watched yet
        self.measure()

    def usable(self, nframes: float) -> float:
        """How many pages that may leave are in memory, on average, with nframes frames.  O(1)."""
        vm = self.vm
        kept = vm.low + min(max(nframes / 32, CLUSTER), MOST_BATCH) / 2
        return max(nframes - kept - vm.nwired - vm.nunowned, 1.0)

    def measure(self) -> None:
        """Adapt the miniatures to the number of frames and the size of the sample.  O(SIZES)."""
        nframes = min(self.vm.phys.nframes, self.vm.phys.ceiling)
        for i, size in enumerate(SIZES):
            self.minis[i].most = self.usable(nframes * size) / (1 << self.shift)

    def start(self) -> Iterator[int]:
        """Watch resident pages; yields how many frames were looked at.  O(frames), in steps of STEP."""
        phys = self.vm.phys
        pfn = 0
        while pfn < phys.nframes:
            for each in range(pfn, min(pfn + STEP, phys.nframes)):
                if phys.owner[each]:
                    self._watch(phys.owner[each])
            pfn += STEP
            yield min(pfn, phys.nframes)

    def is_watched(self, vpn: int) -> bool:
        """Whether a page is in the sample.  O(1)."""
        return (vpn * HASH & 0xFFFFFFFF) >> (32 - self.shift) == 0

    def _watch(self, vpn: int) -> None:
        vm = self.vm
        if self.is_watched(vpn) and vm.pte[vpn] >= 0 and not vm.flags[vpn] & UNWATCHED:
            vm.pte[vpn] = pte.hidden(vm.pte[vpn])

    def came_in(self, vpn: int, n: int, entry: int, began: float) -> None:
        """Page vpn was asked for, and came in with the n - 1 after it, not asked for yet; it had this entry.

        O(n + SIZES).
        """
        vm = self.vm
        ring = vm.tier is not None and vm.tier.ring.owns(vm.slot_of[vpn])
        self.waited[ring] += time.monotonic() - began
        self.nwaited[ring] += n
        for page in range(vpn + 1, vpn + n):
            self._watch(page)
        self.touched(vpn, entry)

    def touched(self, vpn: int, entry: int) -> None:
        """A page that had this entry was asked for: it was watched, or came in.  O(SIZES)."""
        if not self.is_watched(vpn) or self.vm.flags[vpn] & UNWATCHED:
            return
        first, missed = vpn not in self._known, pte.is_out(entry)
        distance = float(pte.distance(entry, self.vm.daemon.clock)) if first and missed else 0.0
        self._tell(vpn, first, missed, distance, False)

    def made(self, vpn: int, n: int) -> None:
        """n pages are new, and in memory.  O(n)."""
        for page in range(vpn, vpn + n):
            if self.is_watched(page) and self.vm.may_leave(page):
                self.forget(page)
                self._tell(page, False, False, 0.0, True)

    def forget(self, vpn: int) -> None:
        """A page is freed.  O(SIZES)."""
        if vpn in self._known:
            self._known.remove(vpn)
            self._resting.pop(vpn, 0)
            for mini in self.minis:
                mini.forget(vpn)

    def _tell(self, vpn: int, first: bool, missed: bool, distance: float, new: bool) -> None:
        weight = float(1 << self.shift)
        self.ntouches += weight
        self.naccesses += 1
        self._known.add(vpn)
        index = self.vm.daemon.lives_of[self.vm.flags[vpn]] > 0
        here = self.minis[NOW].most * weight
        for i, mini in enumerate(self.minis):
            hit = mini.touch(vpn, index, new)
            if new:
                continue
            if not first:
                mini.misses += 0.0 if hit else weight
            elif missed:
                mini.misses += weight if distance > mini.most * weight - here else 0.0
            elif i < NOW:
                self.unjudged[i] += weight
        if len(self._known) > MOST:
            self._thin()
        self._rest(vpn)

    def _rest(self, vpn: int) -> None:
        """Do not watch a page for a while; watch another again."""
        resting = self._resting
        resting.pop(vpn, 0)
        resting[vpn] = 0
        if len(resting) > min(max(int(self.minis[0].most) >> AHEAD_SHIFT, 1), MOST_AHEAD):
            self._watch(resting.popitem(last=False)[0])

    def _thin(self) -> None:
        """Halve the sample."""
        self.shift += 1
        for vpn in [vpn for vpn in self._known if not self.is_watched(vpn)]:
            self.forget(vpn)
        self.measure()
        for mini in self.minis:
            mini.shrink()

    # --- what came of it ---

    def curve(self) -> list[float]:
        """Page-ins that there would have been since it began, by SIZES.  O(SIZES).

        The sample is a little more or less busy than all pages; the real number of page-ins corrects for that.
        """
        found = []
        for i, mini in enumerate(self.minis):
            judged = self.ntouches - self.unjudged[i]
            found.append(mini.misses * self.ntouches / judged if judged > 0 else 0.0)
        really = float(self.pageins())
        if really > 0 and found[NOW] > 0:
            right = min(max(really / found[NOW], 0.5), 2.0)
            found = [each * right for each in found]
        for i in range(len(found) - 2, -1, -1):         # less memory is never better
            found[i] = max(found[i], found[i + 1])
        return found

    def pageins(self) -> int:
        """Real page-ins since it began.  O(1)."""
        return self.vm.pageins - self._pageins

    def npages(self) -> int:
        """How many pages are in the sample.  O(1)."""
        return len(self._known)

    def seconds(self) -> float:
        """How long it has watched.  O(1)."""
        return time.monotonic() - self.began
