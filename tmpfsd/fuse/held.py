"""fuse/held.py: which pages of holes the kernel may hold, because they were read.

A page that was written through a shared mapping may be in the kernel only, and FUSE says nothing of mappings.  But the
kernel writes to no page that it does not have, and of a hole it has only what it has asked for (READ).  So what was
never read there is a hole for certain, and about the rest the kernel is asked (seek.py).

Picture     a READ of a hole --note()--> pages of a file, as the ends of ranges: [first, behind, first, behind, ...]
            the kernel says that it has not one of them --drop()--> gone; it forgets the file --forget()--> all gone
            more than RANGES of a file, or MOST of all, or a file more than FILES
                --> lost: nothing is known of it but that it was read

Invariants  H1 What the kernel may hold is here, or its file is lost.
            H2 Ends ascend, and are an even number: ranges neither touch nor overlap.
Limits      A lost file is told as all data until the kernel has forgotten it, and for those beyond FILES, with all that
            share its place among LOST, until the unmount.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right

RANGES = 4096                       # of one file
FILES = 8192
MOST = 1 << 16                      # ranges of all files
LOST = 1 << 16                      # places; a file is lost where its number falls upon one that is


class Held:
    """Ranges of pages by inode.  A fixed bound in all."""

    __slots__ = ("_ends", "_nranges", "_lost")

    def __init__(self) -> None:
        self._ends: dict[int, list[int]] = {}       # an empty list: lost
        self._nranges = 0
        self._lost = bytearray()                    # made with the first

    def note(self, ino: int, first: int, behind: int) -> None:
        """Pages of holes were read.  O(ranges of the file)."""
        ends = self._ends.get(ino)
        if ends is None:
            if not self.is_lost(ino):
                self._begin(ino, first, behind)
        elif ends:
            self._set(ino, ends, first, behind, 0)

    def drop(self, ino: int, first: int, behind: int) -> None:
        """The kernel has not got these.  O(ranges of the file)."""
        ends = self._ends.get(ino)
        if ends:
            self._set(ino, ends, first, behind, 1)

    def forget(self, ino: int) -> None:
        """The kernel has forgotten a file, and with it what it held."""
        ends = self._ends.pop(ino, None)
        if ends is not None:
            self._nranges -= len(ends) >> 1

    def has(self, ino: int) -> bool:
        """Whether anything is noted of a file."""
        return ino in self._ends

    def is_lost(self, ino: int) -> bool:
        """Whether the kernel may hold any page."""
        if self._lost and self._lost[ino % LOST]:
            return True
        ends = self._ends.get(ino)
        return ends is not None and not ends

    def next_in(self, ino: int, first: int, behind: int) -> tuple[int, int] | None:
        """The first range of pages from `first` on that may be held; None: none.  O(log ranges).  => Not lost."""
        ends = self._ends.get(ino)
        if not ends:
            return None
        i = bisect_right(ends, first)
        start = first if i & 1 else ends[i] if i < len(ends) else behind
        return (start, min(ends[i | 1], behind)) if start < behind else None

    def _begin(self, ino: int, first: int, behind: int) -> None:
        """A file that nothing was known of; the one that was known longest makes room."""
        if len(self._ends) >= FILES:
            oldest = next(iter(self._ends))
            self.forget(oldest)
            if not self._lost:
                self._lost = bytearray(LOST)
            self._lost[oldest % LOST] = 1
        self._ends[ino] = [first, behind]
        self._nranges += 1

    def _set(self, ino: int, ends: list[int], first: int, behind: int, taken: int) -> None:
        """Put a range in (taken=0) or take it out (1): ends within it go, and its own are ends where they change it."""
        i, j = bisect_left(ends, first), bisect_right(ends, behind)
        new = [first] if i & 1 == taken else []
        if j & 1 == taken:
            new.append(behind)
        self._nranges += len(new) - (j - i) >> 1
        ends[i:j] = new
        if not ends:
            del self._ends[ino]
        elif len(ends) > 2 * RANGES or self._nranges > MOST:
            self._nranges -= len(ends) >> 1
            ends.clear()

    def check(self) -> None:
        """H2, and the count."""
        for ino, ends in self._ends.items():
            assert not len(ends) & 1 and all(a < b for a, b in zip(ends, ends[1:])), f"H2: inode {ino}: {ends}"
        assert self._nranges == sum(map(len, self._ends.values())) >> 1, f"H2: {self._nranges} ranges"
        assert len(self._ends) <= FILES
