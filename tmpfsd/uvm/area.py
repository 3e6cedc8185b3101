"""uvm/area.py: a circular log of records in memory: new ones are written at the head, the oldest stand at the tail.

The ring of compressed pages (zlog.py) has one area, and two while it is made larger or smaller.  The ring knows which
records are alive.

Picture     area        ... free | tail: record record filler | record ... | head: free ...
            record      slot, page, bytes: 4 + 4 + 2 bytes, 2 of padding; the body; padding to 8 bytes
            filler      slot 0; it ends where the area ends

            kept is how much of the memory counts as ours in the system: all of it, until shed() gives back what lies
            between head and tail.  That is done only when nothing is written to the area any more.

Breathing   Nothing here breathes.
"""

from __future__ import annotations

import mmap
from struct import Struct
from typing import NamedTuple

from tmpfsd.uvm.param import PAGE_SIZE

HEAD = Struct("=IIHH")              # slot (0: a filler), page, bytes of the record's body, 0
UNIT_SHIFT = 3
UNIT = 1 << UNIT_SHIFT
HALF_SHIFT = 31                     # a place has 32 bits: in which of two areas, and where, in units
MOST_BYTES = 1 << HALF_SHIFT + UNIT_SHIFT
SHED = 1 << 20                      # bytes given back in a step: 0.1 ms


def footprint(nbytes: int) -> int:
    """How many bytes of an area a body of nbytes takes.  O(1)."""
    return (HEAD.size + nbytes + UNIT - 1) & -UNIT


class LogRecord(NamedTuple):
    """The record at an offset; slot 0 is a filler.  size is how many bytes of the area it takes."""

    slot: int
    vpn: int
    nbytes: int
    size: int


class Area:
    """nbytes of memory.  Its places have one of the two values of the highest bit (half)."""

    __slots__ = ("half", "nbytes", "head", "tail", "used", "kept", "passed", "memory", "_view")

    def __init__(self, nbytes: int, half: int) -> None:
        assert 0 < nbytes <= MOST_BYTES and not nbytes % PAGE_SIZE
        self.half = half
        self.nbytes = self.kept = nbytes
        self.head = self.tail = self.used = 0
        self.passed = 0                     # bytes that the tail has moved on, ever
        self.memory = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.memory.madvise(mmap.MADV_DONTDUMP)
        self._view = memoryview(self.memory)

    def place(self, at: int) -> int:
        """The place that names an offset.  O(1)."""
        return self.half << HALF_SHIFT | at >> UNIT_SHIFT

    def room(self, need: int) -> bool:
        """Whether a record of need bytes can be written at the head.  O(1)."""
        to_end = self.nbytes - self.head
        return self.used + need + (to_end if need > to_end else 0) <= self.nbytes

    def write(self, slot: int, vpn: int, body: bytes | memoryview) -> int:
        """Put a record at the head, after a filler if it would cross the end; its place.  => There must be room().
        O(len(body))."""
        need = footprint(len(body))
        if need > self.nbytes - self.head:
            self._fill()
        at = self.head
        assert self.used + need <= self.nbytes, "no room in the ring"
        HEAD.pack_into(self.memory, at, slot, vpn, len(body), 0)
        self.memory[at + HEAD.size:at + HEAD.size + len(body)] = body
        self.head = (at + need) % self.nbytes
        self.used += need
        return self.place(at)

    def _fill(self) -> None:
        """Put a filler from the head to the end of the area."""
        left = self.nbytes - self.head
        if left >= HEAD.size:
            HEAD.pack_into(self.memory, self.head, 0, 0, 0, 0)
        self.used += left
        self.head = 0

    def at(self, offset: int) -> LogRecord:
        """The record or filler at an offset.  O(1)."""
        to_end = self.nbytes - offset
        if to_end >= HEAD.size:
            slot, vpn, nbytes, _ = HEAD.unpack_from(self.memory, offset)
            if slot:
                return LogRecord(slot, vpn, nbytes, footprint(nbytes))
        return LogRecord(0, 0, 0, to_end)

    def body(self, offset: int, nbytes: int) -> memoryview:
        """The body of a record; good until the next write.  O(1)."""
        return self._view[offset + HEAD.size:offset + HEAD.size + nbytes]

    def drop_tail(self, nbytes: int) -> None:
        """Drop nbytes at the tail.  O(1)."""
        self.tail = (self.tail + nbytes) % self.nbytes
        self.used -= nbytes
        self.passed += nbytes

    def shed(self) -> bool:
        """Give free memory back, when nothing is written here any more; whether there is more.  O(SHED).

        The memory given back begins at the head, and is nbytes - kept long.
        """
        first = -(-self.head // PAGE_SIZE) * PAGE_SIZE
        free = self.nbytes - self.used - (first - self.head)
        start = (first + self.nbytes - self.kept) % self.nbytes
        n = min(free - (self.nbytes - self.kept), SHED, self.nbytes - start) & -PAGE_SIZE
        if n <= 0:
            return False
        self.memory.madvise(mmap.MADV_DONTNEED, start, n)
        self.kept -= n
        return True

    def close(self) -> None:
        """Give the memory back, now or when its last view is gone.  O(1) here."""
        try:
            self._view.release()
            self.memory.close()
        except BufferError:
            pass
