"""uvm/vmem.py: an arena of integers handed out in runs (after vmem(9) of NetBSD and Solaris).

Addresses of maps and slots of swap files come from here.  What is handed out stands in a map of one byte each, as
long as the highest one in use; a free run is found by searching it for zeroes.  Sorted runs (by start and by length)
were tried: after random freeing they took 150 to 300 bytes a run, so for each second page.

Picture     FREE --alloc--> HELD --free--> FREE        HELD --retire--> BAD, for ever

Invariants
    A1  The map holds nothing but these states, ends with one that is not FREE, and lies inside the arena, unless
        resize() made that smaller: what was handed out beyond its end (up to `most`) stays so until it is given back.
    A2  Below `low` nothing is free.
    A3  nfree counts what is free inside the arena, in the map and behind it.
"""

import re
from collections.abc import Iterator

from tmpfsd.uvm.errors import demand

FREE, HELD, BAD = range(3)
_FREE_RUNS = re.compile(b"\0+")
_LAST_USED = re.compile(rb"[^\0]\0*\Z")
_TAIL = 4096                    # how much of the map is looked at when its end becomes free


class Vmem:
    """The integers [base, base + size)."""

    __slots__ = ("base", "size", "most", "nfree", "_map", "_low", "_hand")

    def __init__(self, base: int, size: int) -> None:
        self.base = base
        self.size = self.most = size
        self.nfree = size
        self._map = bytearray()
        self._low = 0               # nothing is free below
        self._hand = 0              # where the search for longer runs goes on

    def alloc(self, n: int) -> int:
        """Take n in a row: the first; -1 when there is no such run.  A single one is the lowest."""
        at = self._find(n)
        if at >= 0:
            self._take(at, n)
            return self.base + at
        return -1

    def alloc_some(self, n: int) -> tuple[int, int]:
        """Take n in a row, or half as many, and so on: (first, count); count is 0 when all is taken."""
        n = min(n, self.nfree)
        while n:
            first = self.alloc(n)
            if first >= 0:
                return first, n
            n >>= 1
        return 0, 0

    def alloc_at(self, first: int, n: int) -> int:
        """Take up to n in a row from `first` on; how many were free there (perhaps 0)."""
        at = first - self.base
        if at < 0 or at >= self.size:
            return 0
        part = self._map[at:min(at + n, self.size)]
        count = len(part) - len(part.lstrip(b"\0"))
        if at + count >= len(self._map):
            count = min(n, self.size - at)
        if count:
            self._take(at, count)
        return count

    def free(self, first: int, n: int = 1) -> None:
        """Give [first, first + n) back."""
        at = first - self.base
        assert n > 0 and at >= 0 and self._map.count(HELD, at, at + n) == n, "freed twice"
        self._map[at:at + n] = bytes(n)
        self.nfree += n if at + n <= self.size else max(self.size - at, 0)
        self._low = min(self._low, at)
        while self._map and self._map[-1] == FREE:
            tail = self._map[-_TAIL:]
            used = _LAST_USED.search(tail)
            del self._map[len(self._map) - len(tail) + (used.start() + 1 if used else 0):]
        self._hand = min(self._hand, len(self._map))

    def retire(self, i: int) -> None:
        """Never hand out again what is held now."""
        self._map[i - self.base] = BAD

    def resize(self, size: int) -> None:
        """Be [base, base + size) from now on; what is handed out beyond is not handed out again."""
        self.size = size
        self.most = max(self.most, size)
        self._low, self._hand = min(self._low, size), 0
        self.nfree = self._count_free()

    def _count_free(self) -> int:
        top = len(self._map)
        return self._map.count(FREE, 0, min(self.size, top)) + max(self.size - top, 0)

    def is_free(self, i: int) -> bool:
        """Whether i is free."""
        at = i - self.base
        return 0 <= at < self.size and (at >= len(self._map) or self._map[at] == FREE)

    def runs(self, start: int = 0) -> Iterator[tuple[int, int]]:
        """The free runs (first, length) from start on that lie below what is in use."""
        for run in _FREE_RUNS.finditer(self._map, max(start - self.base, 0)):
            yield self.base + run.start(), run.end() - run.start()

    @property
    def top(self) -> int:
        """The first that lies behind all that is in use."""
        return self.base + len(self._map)

    def count(self, state: int) -> int:
        """How many are HELD, or BAD."""
        return self._map.count(state)

    def _find(self, n: int) -> int:
        """Where n in a row are free, or -1.

        A single one is taken as low as can be, so that the map stays short.  A longer run is looked for behind the
        last one found, then from the start where much is free there, then behind the end.
        """
        used, top, size = self._map, len(self._map), self.size
        if n == 1:
            at = used.find(FREE, self._low, size)
            self._low = at if at >= 0 else min(top, size)
            return at if at >= 0 else top if top < size else -1
        run = bytes(n)
        at = used.find(run, self._hand, size)
        if at < 0 and 2 * (self.nfree - (size - top)) > top:
            at = used.find(run, self._low, size)
        if at < 0 and top + n <= size:
            at = top
        return at if at >= 0 else used.find(run, self._low, size)

    def _take(self, at: int, n: int) -> None:
        missing = at + n - len(self._map)
        if missing > 0:
            self._map.extend(bytes(missing))
        self._map[at:at + n] = b"\1" * n
        self.nfree -= n
        if n > 1:
            self._hand = at + n

    def check(self) -> None:
        """Raise Inconsistent where A1-A3 do not hold."""
        used, top = self._map, len(self._map)
        known = used.count(FREE) + used.count(HELD) + used.count(BAD)
        demand(known == top <= self.most, "A1", f"map of {top} for {self.most}, {known} known states")
        demand(not used or used[-1] != FREE, "A1", "the map ends with what is free")
        demand(used.count(FREE, 0, self._low) == 0, "A2", f"free below {self._low}")
        free = self._count_free()
        demand(free == self.nfree, "A3", f"nfree {self.nfree}, {free} are free")
