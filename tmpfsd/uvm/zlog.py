"""uvm/zlog.py: compressed pages in a ring of memory: the tier between frames and stores.

A page that leaves is compressed and written at the head of the ring.  A fault decompresses it.  The oldest stand at
the tail: what is dead there is passed over, and what lives is carried on by tier.py, to a store or back to the head.
So the order of age is kept for nothing, and there is no fragmentation to manage (a log-structured file system cleans
its segments in the same way: Rosenblum and Ousterhout, 1992).

The records of pages are numbered as the slots of a store are, so that the page table, swapoff and check() need not
know which of the two a page is in.  A page of one repeated byte takes a slot and no room in the ring.  A page that
does not shrink is not taken, except whole, where it must leave and there is no other place for it (tier.py).

Picture     ring     ... free | tail: record record (dead) record ... record | head: free ...
            record   slot, page, bytes: 4 + 4 + 2 bytes, 2 of padding; the compressed page; padding to 8 bytes
            slot     FREE --put--> HELD, its record lives --free--> FREE, its record is dead

            place[slot] is where its record stands, in units of 8 bytes; packed[slot] how many bytes it has: 0 for
            a page of one repeated byte, which stands in place[slot] then.

Invariants
    R1  A held slot names a record that names it, or a repeated byte.
    R2  live_bytes is what the records of held slots take, heads and padding included; at most `most_live`.
    R3  used is what lies between tail and head, and they are read from end to end: records and fillers, no gap.
    R4  nheld and nuniform count the held slots.

Breathing   Nothing here breathes.

Limits      A ring has at most 32 GiB.  Nothing finds out a bit that flips in memory, as in frames.
"""

from __future__ import annotations

import mmap
from array import array
from struct import Struct
from typing import Any, NamedTuple, Sequence

from tmpfsd.uvm import failpoint
from tmpfsd.uvm.codec import Codec
from tmpfsd.uvm.errors import SwapIOError, demand
from tmpfsd.uvm.param import PAGE_SIZE, ptoa
from tmpfsd.uvm.vmem import HELD, Vmem

HEAD = Struct("=IIHH")              # slot (0: a filler), page, bytes of the record's body, 0
UNIT_SHIFT = 3
UNIT = 1 << UNIT_SHIFT
MOST_PACKED = PAGE_SIZE * 3 // 4    # a page that takes more is not worth its place here
UNIFORM = 0                         # packed: a page of one repeated byte
MOST_BYTES = 1 << 32 + UNIT_SHIFT
ZRAM = "zram"                       # what swapoff calls it
MORE = 1024                         # slots by which the arrays grow
CLEAN_SHIFT = 3                     # an eighth of the ring is never alive: cleaning copies at most 7 bytes for one


def footprint(nbytes: int) -> int:
    """What a body of nbytes takes in the ring.  O(1)."""
    return (HEAD.size + nbytes + UNIT - 1) & -UNIT


class Oldest(NamedTuple):
    """The live record at the tail."""

    slot: int
    vpn: int
    nbytes: int


class ZLog:
    """A ring of `nbytes` for compressed pages; slots are numbered from `base`, `width` of them at most."""

    __slots__ = ("base", "width", "codec", "nheld", "nuniform", "live_bytes", "used", "hits", "refused", "draining",
                 "_ring", "_mem", "_nbytes", "_head", "_tail", "_place", "_packed", "_slots")

    def __init__(self, nbytes: int, base: int, width: int, codec: Codec) -> None:
        self.base = base
        self.width = width
        self.codec = codec
        self.nheld = self.nuniform = self.live_bytes = self.used = 0
        self.hits = self.refused = 0
        self.draining = False               # takes nothing: it is being let go, or belongs to a frozen copy
        self._nbytes = nbytes & -PAGE_SIZE
        assert 0 < self._nbytes <= MOST_BYTES
        self._ring = mmap.mmap(-1, self._nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._ring.madvise(mmap.MADV_DONTDUMP)
        self._mem = memoryview(self._ring)
        self._head = self._tail = 0
        self._place = array("I")
        self._packed = array("H")
        self._slots = Vmem(base, width)

    @property
    def path(self) -> str:
        """As Swap.  O(1)."""
        return ZRAM

    @property
    def nbytes(self) -> int:
        """The size of the ring.  O(1)."""
        return self._nbytes

    @property
    def most_live(self) -> int:
        """How many bytes of live records there may be, so that cleaning always gets on.  O(1)."""
        return self._nbytes - (self._nbytes >> CLEAN_SHIFT) - 2 * footprint(PAGE_SIZE)

    def owns(self, slot: int) -> bool:
        """Whether a slot is of this ring.  O(1)."""
        return self.base <= slot < self.base + self.width

    # --- in and out ---

    def pack(self, page: memoryview) -> bytes | int | None:
        """A page as put() takes it: its compressed bytes, or the byte that it repeats; None where it does not shrink.

        O(1): 7 us, 0.5 for a repeated byte.
        """
        if page[0] == page[PAGE_SIZE - 1] and page == bytes((page[0],)) * PAGE_SIZE:
            return page[0]
        body = self.codec.pack(page)
        if len(body) > MOST_PACKED:
            self.refused += 1
            return None
        return body

    def room(self, nbytes: int) -> bool:
        """Whether a body of nbytes can be put now, without cleaning.  O(1)."""
        need = footprint(nbytes)
        to_end = self._nbytes - self._head
        return self.used + need + (to_end if need > to_end else 0) <= self._nbytes

    def may_live(self, nbytes: int) -> bool:
        """Whether a body of nbytes more may be alive at all (R2).  O(1)."""
        return self.live_bytes + footprint(nbytes) <= self.most_live

    def alloc(self, n: int) -> int:
        """Hold n slots in a row: the first, 0 where there are none.  O(n)."""
        slot = self._slots.alloc(n)
        if slot < 0:
            return 0
        missing = slot + n - self.base - len(self._place)
        if missing > 0:
            self._place.frombytes(bytes(4 * (missing + MORE)))
            self._packed.frombytes(bytes(2 * (missing + MORE)))
        self.nheld += n
        self.nuniform += n              # until put()
        return slot

    def put(self, slot: int, vpn: int, body: bytes | int) -> None:
        """Write a packed page at the head, for a slot from alloc().  => There must be room().  O(len(body))."""
        if isinstance(body, int):
            self._place[slot - self.base] = body
        else:
            self.nuniform -= 1
            self._write(slot, vpn, body)

    def _write(self, slot: int, vpn: int, body: bytes | memoryview) -> None:
        """Put a record at the head, behind a filler where it would cross the end."""
        need = footprint(len(body))
        if need > self._nbytes - self._head:
            self._fill()
        at = self._head
        assert self.used + need <= self._nbytes, "no room in the ring"
        HEAD.pack_into(self._ring, at, slot, vpn, len(body), 0)
        self._ring[at + HEAD.size:at + HEAD.size + len(body)] = body
        self._place[slot - self.base], self._packed[slot - self.base] = at >> UNIT_SHIFT, len(body)
        self._head = (at + need) % self._nbytes
        self.used += need
        self.live_bytes += need

    def _fill(self) -> None:
        """Nothing stands between the head and the end of the ring; a filler's length is not kept: it ends there."""
        left = self._nbytes - self._head
        if left >= HEAD.size:
            HEAD.pack_into(self._ring, self._head, 0, 0, 0, 0)
        self.used += left
        self._head = 0

    def read_cluster(self, slot: int, pages: Sequence[memoryview], vpns: Sequence[int]) -> int:
        """Decompress the slots from slot on into pages: how many, counted from the first; as Swap has it.

        => SwapIOError when the first does not answer with its page.  O(len(pages)).
        """
        if failpoint.hook:
            failpoint.hook("Swap.read_cluster")
        for i, page in enumerate(pages):
            if not self._read(slot + i, page, vpns[i]):
                if i:
                    return i
                raise SwapIOError(f"compressed page {vpns[0]}, slot {slot}: damaged in memory")
        self.hits += len(pages)
        return len(pages)

    def _read(self, slot: int, page: memoryview, vpn: int) -> bool:
        i = slot - self.base
        packed, place = self._packed[i], self._place[i]
        if packed == UNIFORM:
            page[:] = bytes((place,)) * PAGE_SIZE
            return True
        at = place << UNIT_SHIFT
        named, owner, nbytes, _ = HEAD.unpack_from(self._ring, at)
        if (named, owner, nbytes) != (slot, vpn, packed):
            return False
        body = self._mem[at + HEAD.size:at + HEAD.size + packed]
        if packed == PAGE_SIZE:
            page[:] = body
            return True
        return self.codec.unpack(body, page)

    def free(self, slot: int, n: int = 1) -> None:
        """Give slots back; their records are dead, and are passed over when the tail comes to them.  O(n)."""
        self._slots.free(slot, n)
        for i in range(slot - self.base, slot - self.base + n):
            if self._packed[i] == UNIFORM:
                self.nuniform -= 1
            else:
                self.live_bytes -= footprint(self._packed[i])
                self._packed[i] = UNIFORM
        self.nheld -= n
        top = self._slots.top - self.base
        if len(self._place) > top + 2 * MORE:
            del self._place[top + MORE:], self._packed[top + MORE:]

    def retire(self, slot: int) -> None:
        """Give back a slot whose page was lost: memory has no bad blocks.  O(1)."""
        self.free(slot)

    def end_hold(self) -> None:
        """As Swap: a frozen copy has a ring of its own.  O(1)."""

    # --- the tail ---

    def skip_dead(self, most: int) -> int:
        """Pass over dead records and fillers at the tail, at most so many: how many.  O(most)."""
        n = 0
        while n < most and self.used and self._advance():
            n += 1
        return n

    def _advance(self) -> bool:
        """Pass over what stands at the tail, unless it is a live record; whether it was passed over."""
        at = self._tail
        left = self._nbytes - at
        slot = nbytes = 0
        if left >= HEAD.size:
            slot, _vpn, nbytes, _ = HEAD.unpack_from(self._ring, at)
        if not slot:
            self._tail = 0
            self.used -= left
            return True
        if self._is_live(slot, at, nbytes):
            return False
        self._drop_tail(footprint(nbytes))
        return True

    def _is_live(self, slot: int, at: int, nbytes: int) -> bool:
        i = slot - self.base
        return i < len(self._place) and self._packed[i] == nbytes != UNIFORM and self._place[i] == at >> UNIT_SHIFT

    def _drop_tail(self, nbytes: int) -> None:
        self._tail = (self._tail + nbytes) % self._nbytes
        self.used -= nbytes

    def oldest(self) -> Oldest | None:
        """The live record at the tail; None where what stands there is dead, or nothing does.  O(1)."""
        at = self._tail
        if not self.used or self._nbytes - at < HEAD.size:
            return None
        slot, vpn, nbytes, _ = HEAD.unpack_from(self._ring, at)
        return Oldest(slot, vpn, nbytes) if slot and self._is_live(slot, at, nbytes) else None

    def peek(self, most: int, looks: int) -> list[Oldest]:
        """Up to `most` of the oldest live records, dead ones between them passed over.  O(looks).  Changes nothing."""
        found: list[Oldest] = []
        at, left = self._tail, self.used
        while left > 0 and looks > 0 and len(found) < most:
            looks -= 1
            to_end = self._nbytes - at
            slot = vpn = nbytes = 0
            if to_end >= HEAD.size:
                slot, vpn, nbytes, _ = HEAD.unpack_from(self._ring, at)
            if slot and self._is_live(slot, at, nbytes):
                found.append(Oldest(slot, vpn, nbytes))
            size = footprint(nbytes) if slot else to_end
            at, left = (at + size) % self._nbytes, left - size
        return found

    def unpack(self, record: Oldest, page: memoryview) -> bool:
        """Fill a page from a record; False where that is damaged.  O(1): 4 us."""
        return self._read(record.slot, page, record.vpn)

    def footprint_of(self, slot: int) -> int:
        """What the record of a held slot takes.  O(1)."""
        packed = self._packed[slot - self.base]
        return footprint(packed) if packed != UNIFORM else 0

    def carry(self) -> None:
        """Copy the oldest record from the tail to the head.  => There is one.  O(its bytes).

        Needs no room beyond what the ring keeps: the place at the tail is free before the head is written.
        """
        slot, vpn, nbytes, _ = HEAD.unpack_from(self._ring, self._tail)
        body = self._ring[self._tail + HEAD.size:self._tail + HEAD.size + nbytes]
        self._drop_tail(footprint(nbytes))
        self.live_bytes -= footprint(nbytes)
        self._write(slot, vpn, body)

    # --- the rest ---

    def stats(self) -> dict[str, Any]:
        """The status' zram, without what tier.py adds.  O(1)."""
        stored = ptoa(self.nheld)
        return {"size_bytes": self._nbytes, "used_bytes": self.live_bytes, "stored_bytes": stored,
                "ratio": round(stored / self.live_bytes, 2) if self.live_bytes else 0.0, "hits": self.hits}

    def close(self) -> None:
        """Give the memory back, now or when the last that looks at it is gone.  O(1) here."""
        try:
            self._mem.release()
            self._ring.close()
        except BufferError:
            pass

    def check(self, held: set[int]) -> None:
        """Raise Inconsistent where R1-R4 do not hold; held is the set of slots that pages name.  O(slots + records)."""
        self._slots.check()
        demand(self._slots.count(HELD) == self.nheld == len(held), "R4", f"{self.nheld} held, pages name {len(held)}")
        live = uniform = 0
        for slot in sorted(held):
            i = slot - self.base
            demand(not self._slots.is_free(slot), "R4", f"slot {slot} is held and free")
            if self._packed[i] == UNIFORM:
                uniform += 1
                demand(self._place[i] < 256, "R1", f"slot {slot} repeats {self._place[i]}")
                continue
            live += footprint(self._packed[i])
            head = HEAD.unpack_from(self._ring, self._place[i] << UNIT_SHIFT)
            demand((head[0], head[2]) == (slot, self._packed[i]), "R1", f"slot {slot} names the record of {head[0]}")
        demand(live == self.live_bytes <= self.most_live, "R2", f"{live} live bytes, counted {self.live_bytes}")
        demand(uniform == self.nuniform, "R4", f"{uniform} uniform pages, counted {self.nuniform}")
        self._check_ring(live)

    def _check_ring(self, live: int) -> None:
        """Read the ring from tail to head."""
        at, left, found = self._tail, self.used, 0
        while left > 0:
            to_end = self._nbytes - at
            slot, _vpn, nbytes, _ = HEAD.unpack_from(self._ring, at) if to_end >= HEAD.size else (0, 0, 0, 0)
            size = footprint(nbytes) if slot else to_end
            found += size if slot and self._is_live(slot, at, nbytes) else 0
            at, left = (at + size) % self._nbytes, left - size
        demand(left == 0 and at == self._head, "R3", f"the ring ends at {at}, {left} left, head {self._head}")
        demand(found == live, "R3", f"{found} live bytes between tail and head, {live} are")

    def verify(self, slot: int, vpn: int) -> bool:
        """Whether a held slot answers with its page (R1).  O(1)."""
        return self._read(slot, memoryview(bytearray(PAGE_SIZE)), vpn)
