"""fuse/held.py: which pages of holes the kernel may hold, because they were read.

A page that was written through a shared mapping may be in the kernel only, and FUSE does not tell of mappings.  But the
kernel writes to no page that it does not have, and it has only those pages of a hole that it has read (READ).  So a
page of a hole that was never read is a hole for certain.  The kernel is asked about the others (seek.py).

Picture     a READ of a hole --note()--> pages of a file, as the ends of ranges: [first, behind, first, behind, ...]
            the kernel tells that it lacks one of them --drop()--> gone; it forgets the file --forget()--> all gone
            more than RANGES of a file, or MOST of all, or one file more than FILES
                --> lost: it is only known that the file was read

Invariants  H1 Pages that the kernel may hold are here, or their file is lost.
            H2 Ends ascend, and their number is even: ranges neither touch nor overlap.
Limits      A lost file is reported as all data until the kernel has forgotten it.  Beyond FILES, it and all files that
            share its place in LOST are so until the unmount.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right

RANGES = 4096                       # of one file
FILES = 8192
MOST = 1 << 16                      # ranges of all files
LOST = 1 << 16                      # places; a file is lost if the place of its number is set


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
        """The kernel does not have these.  O(ranges of the file)."""
        ends = self._ends.get(ino)
        if ends:
            self._set(ino, ends, first, behind, 1)

    def forget(self, ino: int) -> None:
        """The kernel has forgotten a file and its pages."""
        ends = self._ends.pop(ino, None)
        if ends is not None:
            self._nranges -= len(ends) >> 1

    def has(self, ino: int) -> bool:
        """Whether anything is noted for a file."""
        return ino in self._ends

    def is_lost(self, ino: int) -> bool:
        """Whether the kernel may hold any page of a file."""
        if self._lost and self._lost[ino % LOST]:
            return True
        ends = self._ends.get(ino)
        return ends is not None and not ends

    def next_in(self, ino: int, first: int, behind: int) -> tuple[int, int] | None:
        """The first range of pages from `first` on that may be held, or None.  O(log ranges).  => Not lost."""
        ends = self._ends.get(ino)
        if not ends:
            return None
        i = bisect_right(ends, first)
        start = first if i & 1 else ends[i] if i < len(ends) else behind
        return (start, min(ends[i | 1], behind)) if start < behind else None

    def _begin(self, ino: int, first: int, behind: int) -> None:
        """Enter a new file; if there are too many, the oldest one is lost."""
        if len(self._ends) >= FILES:
            oldest = next(iter(self._ends))
            self.forget(oldest)
            if not self._lost:
                self._lost = bytearray(LOST)
            self._lost[oldest % LOST] = 1
        self._ends[ino] = [first, behind]
        self._nranges += 1

    def _set(self, ino: int, ends: list[int], first: int, behind: int, taken: int) -> None:
        """Put a range in (taken=0) or take it out (1): drop ends within it, add its own where membership changes."""
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
