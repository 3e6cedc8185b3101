"""uvm/vmem.py: an arena of integers handed out in runs (after vmem(9) of NetBSD and Solaris).

Addresses of maps and slots of swap files come from here.  A map has one byte for each integer, up to the highest one in
use.  Sorted runs (by start and by length) were tried: after random freeing they took 150 to 300 bytes a run, and
there was a run for every second page.

The map is cut into chunks.  Each chunk has two numbers: how many integers are free in it, and an upper bound of the
longest run that starts in it.  They answer two questions: where is the lowest free one, and where may a run of n be.
A search goes over the bounds, one byte for 4096, and then over one chunk: nothing reads the whole map.  A bound is
raised when a run is freed, and lowered when a chunk was searched in vain; this is paid for by what was taken there
since.  A search for a run gives up after LOOKS such chunks and takes from behind the end, or fewer in a row.

Picture     FREE --alloc--> HELD --free--> FREE        HELD --retire--> BAD, for ever
                            HELD --park--> PARKED --unpark--> FREE      (nobody's, but not handed out)

            map     | 1 1 0 1 ... | 1 1 1 1 ... | 0 0 0 0 1 ...      one byte each, CHUNK a chunk
            free    |   700       |      0      |    31              of each chunk
            longest |    16       |      0      |    4               of each chunk, RUN_MAX or more is RUN_MAX

Invariants
    A1  The map holds only these states, ends with one that is not FREE, and lies inside the arena.  If resize() made
        the arena smaller, integers handed out beyond its end (up to `most`) stay so until they are given back.
    A2  Below `low` nothing is free.
    A3  nfree counts the free ones inside the arena, in the map and behind it.
    A4  chunk_free counts the free ones of each chunk of the map.  No run that starts in a chunk is longer than its
        `longest`, which is 0 exactly if none is free in it.  No run at all is longer than `best`.

Limits      A run of more than RUN_MAX is looked for in all chunks that may have one, O(top): this makes fixed submaps.
"""

import re
from array import array
from collections.abc import Iterator
from typing import Final

from tmpfsd.uvm.errors import demand

FREE: Final = 0
HELD: Final = 1
BAD: Final = 2
PARKED: Final = 3
CHUNK_SHIFT = 12
CHUNK = 1 << CHUNK_SHIFT
RUN_MAX: Final = 255            # a byte has this for a longer run, too
LOOKS = 16                      # chunks searched in vain for a run before a shorter one is taken
_TO_HELD = bytes((FREE,)) + bytes((HELD,)) * 255
_FREE_RUN = re.compile(b"\0+")
_ANY = re.compile(b"[^\0]", re.DOTALL)
# By n: chunks that may have a run of n.
_MAY_HAVE = [_ANY, *(re.compile(b"[\\x%02x-\\xff]" % n, re.DOTALL) for n in range(1, RUN_MAX + 1))]


class Vmem:
    """The integers [base, base + size)."""

    __slots__ = ("base", "size", "most", "nfree", "_map", "_chunk_free", "_longest", "_best", "_low", "_hand",
                 "_parked")

    def __init__(self, base: int, size: int) -> None:
        self.base = base
        self.size = self.most = size
        self.nfree = size
        self._map = bytearray()
        self._chunk_free = array("H")
        self._longest = bytearray()
        self._best = 0
        self._low = 0               # nothing is free below
        self._hand = 0              # where the search for longer runs goes on
        self._parked = 0            # nothing is parked below

    def alloc(self, n: int) -> int:
        """Take n in a row: the first; -1 when no such run was found.  A single one is the lowest.

        O(n + CHUNK * LOOKS + top / CHUNK), all at the speed of memory: 1 us, seldom 20.
        """
        at = self._find_one() if n == 1 else self._find(n)
        if at >= 0:
            self._take(at, n)
            return self.base + at
        return -1

    def alloc_some(self, n: int) -> tuple[int, int]:
        """Take n in a row, or half as many, and so on: (first, count); count is 0 when all is taken.

        O(log n) times alloc().
        """
        n = min(n, self.nfree)
        while n:
            first = self.alloc(n)
            if first >= 0:
                return first, n
            n >>= 1
        return 0, 0

    def alloc_at(self, first: int, n: int) -> int:
        """Take up to n in a row from `first` on; how many were free there (perhaps 0).  O(n)."""
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
        """Give [first, first + n) back.  O(n), and O(top / CHUNK) when the end of the map becomes free."""
        at = first - self.base
        assert n > 0 and at >= 0 and self._map.count(HELD, at, at + n) == n, "freed twice"
        self._give(at, n)

    def park(self, first: int, n: int = 1) -> None:
        """Take back [first, first + n), but do not hand it out before unpark().  O(n)."""
        at = first - self.base
        assert n > 0 and at >= 0 and self._map.count(HELD, at, at + n) == n, "parked twice"
        self._map[at:at + n] = bytes((PARKED,)) * n
        self._parked = min(self._parked, at)

    def unpark(self, budget: int) -> int:
        """Free parked ones, the lowest first: how many; 0 when nothing is parked.  O(budget + LOOKS * CHUNK).

        => -1 when none was found yet, and there may be some.
        """
        used, end = self._map, self._parked + LOOKS * CHUNK
        at = used.find(PARKED, self._parked, end)
        if at < 0:
            self._parked = min(end, len(used))
            return -1 if end < len(used) else 0
        part = used[at:at + budget]
        n = len(part) - len(part.lstrip(bytes((PARKED,))))
        self._parked = at + n
        self._give(at, n)
        return n

    def fill(self, used: bytes) -> None:
        """Hold those that are not 0 in `used`; nothing was taken before.  O(top)."""
        assert not self._map, "something was taken"
        self._map.extend(used.rstrip(b"\0").translate(_TO_HELD))
        for at in range(0, len(self._map), CHUNK):
            free = self._map.count(FREE, at, at + CHUNK)
            self._chunk_free.append(free)
            self._longest.append(RUN_MAX if free else 0)
        self._best = RUN_MAX
        self.nfree = self.size - self._map.count(HELD)

    def retire(self, i: int) -> None:
        """Never hand out i again, which is held now.  O(1)."""
        self._map[i - self.base] = BAD

    def resize(self, size: int) -> None:
        """Be [base, base + size) from now on; those handed out beyond are not handed out again.  O(top / CHUNK)."""
        self.size = size
        self.most = max(self.most, size)
        self._low, self._hand = min(self._low, size), 0
        self.nfree = self._count_free()

    def is_free(self, i: int) -> bool:
        """Whether i is free.  O(1)."""
        at = i - self.base
        return 0 <= at < self.size and (at >= len(self._map) or self._map[at] == FREE)

    def runs(self, start: int = 0) -> Iterator[tuple[int, int]]:
        """The free runs (first, length) from start on, up to the highest in use, cut at the ends of chunks.

        O(CHUNK + top / CHUNK) for each, as fast as memory is read.
        """
        at = max(start - self.base, 0)
        while (found := _ANY.search(self._longest, at >> CHUNK_SHIFT)) is not None:
            chunk = found.start()
            at = max(at, chunk << CHUNK_SHIFT)
            end = chunk + 1 << CHUNK_SHIFT
            while (run := _FREE_RUN.search(self._map, at, end)) is not None:
                at = run.end()
                yield self.base + run.start(), at - run.start()
            at = end

    @property
    def top(self) -> int:
        """The first integer after all that are in use.  O(1)."""
        return self.base + len(self._map)

    def count(self, state: int) -> int:
        """How many are HELD, BAD or PARKED.  O(top), for checks."""
        return self._map.count(state)

    def _count_free(self) -> int:
        top, whole = len(self._map), self.size >> CHUNK_SHIFT
        if self.size >= top:
            return sum(self._chunk_free) + self.size - top
        return sum(self._chunk_free[:whole]) + self._map.count(FREE, whole << CHUNK_SHIFT, self.size)

    def _find_one(self) -> int:
        """The offset of the lowest free one, so that the map stays short; -1 if there is none."""
        size, top = self.size, len(self._map)
        found = _ANY.search(self._longest, self._low >> CHUNK_SHIFT)
        if found is not None:
            chunk = found.start() << CHUNK_SHIFT
            at = self._map.find(FREE, max(chunk, self._low), min(chunk + CHUNK, size))
            if at >= 0:
                self._low = at
                return at
        self._low = min(top, size)
        return top if top < size else -1

    def _find(self, n: int) -> int:
        """Where n in a row are free, or -1.

        The search goes on behind the last run found; then from the start, if much is free there; then behind the end;
        and last from the start in any case.
        """
        top, size = len(self._map), self.size
        behind = size - top
        if min(n, RUN_MAX) > self._best:
            return top if n <= behind else -1
        looks = LOOKS if n <= RUN_MAX else len(self._longest) + 1
        at, looks = self._search(n, self._hand, looks)
        if at < 0 and 2 * (self.nfree - behind) > top:
            at, looks = self._search(n, self._low, looks)
        if at < 0 and n <= behind:
            return top
        return at if at >= 0 else self._search(n, self._low, looks)[0]

    def _search(self, n: int, start: int, looks: int) -> tuple[int, int]:
        """Where n in a row are free from start on, or -1; and how many of the looks into chunks are left."""
        longest, run, may_have = self._longest, bytes(n), _MAY_HAVE[min(n, RUN_MAX)]
        chunk = start >> CHUNK_SHIFT
        while looks and (found := may_have.search(longest, chunk)) is not None:
            chunk = found.start()
            first = chunk << CHUNK_SHIFT
            end = first + CHUNK
            at = self._map.find(run, max(first, start), min(end + n - 1, self.size))
            if at >= 0:
                return at, looks
            if start <= first and end + n - 1 <= self.size and n <= RUN_MAX:
                longest[chunk] = n - 1
            looks -= 1
            chunk += 1
            self._hand = min(chunk << CHUNK_SHIFT, len(self._map))
        if looks and start <= self._low and n <= RUN_MAX and self.size >= len(self._map):
            self._best = min(self._best, n - 1)
        return -1, looks

    def _take(self, at: int, n: int) -> None:
        end, top = at + n, len(self._map)
        if end > top:
            self._map.extend(bytes(end - top))
            missing = (end + CHUNK - 1 >> CHUNK_SHIFT) - len(self._longest)
            self._longest.extend(bytes(missing))
            self._chunk_free.frombytes(bytes(2 * missing))
            if at > top:
                self._note_free(top, at - top)
                self._low = min(self._low, top)
        self._map[at:end] = b"\1" * n
        inside = min(end, top) - at
        if inside > 0:
            self._count(at, inside, -1)
        self.nfree -= n
        if n > 1:
            self._hand = end

    def _give(self, at: int, n: int) -> None:
        """[at, at + n) is free."""
        self._map[at:at + n] = bytes(n)
        self.nfree += n if at + n <= self.size else max(self.size - at, 0)
        self._low = min(self._low, at)
        self._note_free(at, n)
        if at + n == len(self._map):
            self._cut()

    def _count(self, at: int, n: int, sign: int) -> None:
        """Count [at, at + n) in their chunks as free (sign 1) or taken (-1)."""
        counts = self._chunk_free
        chunk, last = at >> CHUNK_SHIFT, at + n - 1 >> CHUNK_SHIFT
        if chunk == last:
            counts[chunk] += sign * n
            if not counts[chunk]:
                self._longest[chunk] = 0
            return
        while chunk <= last:
            here = min(at + n, chunk + 1 << CHUNK_SHIFT) - max(at, chunk << CHUNK_SHIFT)
            counts[chunk] += sign * here
            if not counts[chunk]:
                self._longest[chunk] = 0
            chunk += 1

    def _note_free(self, at: int, n: int) -> None:
        """Update counts and bounds of chunks, as [at, at + n) was marked free."""
        self._count(at, n, 1)
        used, longest = self._map, self._longest
        before = used[max(at - RUN_MAX, 0):at]
        first = at - len(before) + len(before.rstrip(b"\0"))
        behind = used[at + n:at + n + RUN_MAX]
        end = at + n + len(behind) - len(behind.lstrip(b"\0"))
        for chunk in range(first >> CHUNK_SHIFT, (at + n - 1 >> CHUNK_SHIFT) + 1):
            length = min(end - max(first, chunk << CHUNK_SHIFT), RUN_MAX)
            self._best = max(self._best, length)
            if length > longest[chunk]:
                longest[chunk] = length

    def _cut(self) -> None:
        """Cut free ones off the end of the map."""
        used, counts = self._map, self._chunk_free
        chunk = len(counts) - 1
        while chunk >= 0 and counts[chunk] == min(CHUNK, len(used) - (chunk << CHUNK_SHIFT)):
            chunk -= 1
        del counts[chunk + 1:], self._longest[chunk + 1:]
        del used[chunk + 1 << CHUNK_SHIFT:]
        if used:
            tail = used[chunk << CHUNK_SHIFT:]
            gone = len(tail) - len(tail.rstrip(b"\0"))
            if gone:
                counts[chunk] -= gone
                del used[len(used) - gone:]
                if not counts[chunk]:
                    self._longest[chunk] = 0
        self._hand = min(self._hand, len(used))
        self._parked = min(self._parked, len(used))

    def check(self) -> None:
        """Raise Inconsistent where A1-A4 do not hold.  O(top)."""
        used, top = self._map, len(self._map)
        known = sum(used.count(state) for state in (FREE, HELD, BAD, PARKED))
        demand(known == top <= self.most, "A1", f"map of {top} for {self.most}, {known} known states")
        demand(not used or used[-1] != FREE, "A1", "the map ends with what is free")
        demand(used.count(FREE, 0, self._low) == 0, "A2", f"free below {self._low}")
        free = used.count(FREE, 0, min(self.size, top)) + max(self.size - top, 0)
        demand(free == self.nfree, "A3", f"nfree {self.nfree}, {free} are free")
        nchunks = top + CHUNK - 1 >> CHUNK_SHIFT
        best = self._best
        demand(best >= RUN_MAX or used.find(bytes(best + 1)) < 0, "A4", f"a run is longer than {best}")
        known = len(self._longest)
        demand(nchunks == known == len(self._chunk_free), "A4", f"{known} chunks of {nchunks}")
        for chunk in range(nchunks):
            self._check_chunk(chunk)

    def _check_chunk(self, chunk: int) -> None:
        at, bound = chunk << CHUNK_SHIFT, self._longest[chunk]
        free = self._map.count(FREE, at, at + CHUNK)
        demand(free == self._chunk_free[chunk], "A4", f"chunk {chunk}: {free} free, counted {self._chunk_free[chunk]}")
        demand((bound == 0) == (free == 0), "A4", f"chunk {chunk}: {free} free, none is longer than {bound}")
        longer = bound < RUN_MAX and self._map.find(bytes(bound + 1), at, at + CHUNK + bound) >= 0
        demand(not longer, "A4", f"chunk {chunk}: a run is longer than {bound}")
