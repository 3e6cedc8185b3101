"""uvm/vmem.py: an arena of integers handed out in runs (after vmem(9) of NetBSD and Solaris).

Addresses of maps and slots of swap files come from here.  What is free is kept as
runs, in the order of their starts (to coalesce) and of their lengths (best fit).
The number of runs is bounded by pages, never by files.

Invariants
    A1  Runs are not empty, lie inside the arena and neither overlap nor touch.
    A2  Both orders hold the same runs.
    A3  nfree is the sum of their lengths.
"""

from sortedcontainers import SortedDict, SortedSet

from tmpfsd.uvm.errors import demand


class Vmem:
    """Free runs of the integers [base, base + size)."""

    __slots__ = ("base", "end", "nfree", "_starts", "_lengths")

    def __init__(self, base: int, size: int) -> None:
        self.base = base
        self.end = base + size
        self.nfree = 0
        self._starts = SortedDict()
        self._lengths = SortedSet()
        if size:
            self._add(base, size)
            self.nfree = size

    def alloc(self, n: int) -> int:
        """Take n in a row, best fit, lowest first; -1 when no run is long enough."""
        at = self._lengths.bisect_left((n, 0))
        if at == len(self._lengths):
            return -1
        length, start = self._lengths[at]
        self._take(start, length, start, n)
        return start

    def alloc_some(self, n: int) -> tuple[int, int]:
        """Take n in a row, or the longest run there is: (start, count); count is 0 when all is taken."""
        start = self.alloc(n)
        if start >= 0:
            return start, n
        if not self._lengths:
            return 0, 0
        length, start = self._lengths[-1]
        self._take(start, length, start, length)
        return start, length

    def alloc_at(self, start: int, n: int) -> int:
        """Take up to n in a row from start on; how many were free there (perhaps 0)."""
        at = self._starts.bisect_right(start) - 1
        if at < 0:
            return 0
        run, length = self._starts.peekitem(at)
        n = min(n, run + length - start)
        if n <= 0:
            return 0
        self._take(run, length, start, n)
        return n

    def free(self, start: int, n: int = 1) -> None:
        """Give [start, start + n) back."""
        assert self.base <= start and start + n <= self.end and n > 0
        starts = self._starts
        self.nfree += n
        at = starts.bisect_left(start)
        if at < len(starts):
            after, length = starts.peekitem(at)
            assert start + n <= after, "freed twice"
            if start + n == after:
                self._drop(after, length)
                n += length
        if at > 0:
            before, length = starts.peekitem(at - 1)
            assert before + length <= start, "freed twice"
            if before + length == start:
                self._drop(before, length)
                start, n = before, n + length
        self._add(start, n)

    def add(self, n: int) -> None:
        """Make the arena n longer."""
        self.end += n
        self.free(self.end - n, n)

    def extend(self, start: int, n: int) -> None:
        """Bring in [start, start + n), which need not touch what is there (a submap's new chunk)."""
        self.base = min(self.base, start) if self.end > self.base else start
        self.end = max(self.end, start + n)
        self.free(start, n)

    def runs(self, start: int = 0):
        """The free runs (start, length) that begin at or after start, in order."""
        return ((run, self._starts[run]) for run in self._starts.irange(start))

    def is_free(self, i: int) -> bool:
        """Whether i is free."""
        at = self._starts.bisect_right(i) - 1
        if at < 0:
            return False
        run, length = self._starts.peekitem(at)
        return i < run + length

    def _take(self, run: int, length: int, start: int, n: int) -> None:
        self._drop(run, length)
        if start > run:
            self._add(run, start - run)
        if start + n < run + length:
            self._add(start + n, run + length - start - n)
        self.nfree -= n

    def _add(self, start: int, n: int) -> None:
        self._starts[start] = n
        self._lengths.add((n, start))

    def _drop(self, start: int, n: int) -> None:
        del self._starts[start]
        self._lengths.remove((n, start))

    def check(self) -> None:
        """Raise Inconsistent where A1-A3 do not hold."""
        edge, total = self.base - 1, 0
        for start, n in self._starts.items():
            demand(n > 0 and start > edge and start + n <= self.end, "A1", f"run {start}+{n} after {edge}")
            edge, total = start + n, total + n
        demand({(n, s) for s, n in self._starts.items()} == set(self._lengths), "A2", "the two orders differ")
        demand(total == self.nfree, "A3", f"nfree {self.nfree}, runs hold {total}")
