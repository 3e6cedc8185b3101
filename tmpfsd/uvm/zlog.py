"""uvm/zlog.py: compressed pages in a ring of memory: the tier between frames and stores.

A page that leaves is compressed and written at the head of the ring.  A fault decompresses it.  The oldest stand at the
tail: dead records there are passed over, and tier.py carries live ones to a store or back to the head.  So the order of
age costs nothing, and there is no fragmentation to manage (a log-structured file system cleans its segments in the same
way: Rosenblum and Ousterhout, 1992).

The records of pages are numbered as the slots of a store are, so the page table, swapoff and check() need not know
which of the two a page is in.  A page of one repeated byte takes a slot and no room in the ring.  A page that does not
shrink is taken only if it must leave and no other place is left; it is stored as it is then (tier.py).

A second area makes a ring larger or smaller (zresize.py).  New records go there, and the oldest are carried there from
the first area, until that is empty and is given back.  Reads find both, by the place.

Picture     ring     ... free | tail: record record (dead) record ... record | head: free ...     (area.py)
            moving   the old: | tail: record ... record |     the new: record record | head: free
            slot     FREE --put--> HELD, its record lives --free--> FREE, its record is dead

            place[slot] tells the area and the offset of its record; packed[slot] is its number of bytes, or 0 for a
            page of one repeated byte: then place[slot] is that byte.

Invariants
    R1  A held slot names a record that names it, or a repeated byte.
    R2  live_bytes is the size of the records of held slots, heads and padding included; at most `most_live`.
    R3  used is the number of bytes between tail and head: records and fillers, without a gap.
    R4  nheld and nuniform count the held slots.
    R5  While it moves, the live records of the old area and all of the new one together fit into the new one, and the
        memory that both keep is at most the larger of their sizes.

Breathing   Nothing here breathes.

Limits      A ring has at most 16 GiB.  Nothing detects a bit that flips in memory, as in frames.
"""

from __future__ import annotations

from array import array
from typing import Any, NamedTuple, Sequence

from tmpfsd.uvm import failpoint
from tmpfsd.uvm.area import HALF_SHIFT, HEAD, UNIT_SHIFT, Area, footprint
from tmpfsd.uvm.codec import Codec
from tmpfsd.uvm.errors import SwapIOError, demand
from tmpfsd.uvm.param import PAGE_SIZE, ptoa
from tmpfsd.uvm.vmem import HELD, Vmem

MOST_PACKED = PAGE_SIZE * 15 // 16  # a page that takes more is not worth its place here
WORTH = PAGE_SIZE * 3 // 4          # nor is one that takes more than this, where it would displace others
UNIFORM = 0                         # packed: a page of one repeated byte
ZRAM = "zram"                       # its name for swapoff
MORE = 1024                         # slots by which the arrays grow
MARGIN = 4 * PAGE_SIZE  # memory of an old area goes in whole pages, and after its records were copied
CLEAN_SHIFT = 3                     # an eighth of the ring is never alive: cleaning copies at most 7 bytes for one


def most_live_of(nbytes: int) -> int:
    """How many bytes of a ring of nbytes may be live, so that cleaning always makes progress.  O(1)."""
    return nbytes - (nbytes >> CLEAN_SHIFT) - 2 * footprint(PAGE_SIZE)


class Oldest(NamedTuple):
    """The live record at the tail."""

    slot: int
    vpn: int
    nbytes: int


class ZLog:
    """A ring of `nbytes` for compressed pages; slots are numbered from `base`, `width` of them at most."""

    __slots__ = ("base", "width", "codec", "nheld", "nuniform", "live_bytes", "most_live", "hits", "refused",
                 "draining", "_now", "_old", "_old_live", "_place", "_packed", "_slots")

    def __init__(self, nbytes: int, base: int, width: int, codec: Codec) -> None:
        self.base = base
        self.width = width
        self.codec = codec
        self.nheld = self.nuniform = self.live_bytes = 0
        self.hits = self.refused = 0
        self.draining = False               # takes nothing: it is being let go, or belongs to a frozen copy
        self._now = Area(nbytes & -PAGE_SIZE, 0)
        self._old: Area | None = None       # what it moves from
        self._old_live = 0
        self.most_live = most_live_of(self._now.nbytes)     # lower when it is to be made smaller (zresize.py)
        self._place = array("I")
        self._packed = array("H")
        self._slots = Vmem(base, width)

    @property
    def path(self) -> str:
        """As Swap.  O(1)."""
        return ZRAM

    @property
    def nbytes(self) -> int:
        """The size of the ring; while it moves, the larger.  O(1)."""
        old = self._old
        return self._now.nbytes if old is None else max(self._now.nbytes, old.nbytes)

    @property
    def used(self) -> int:
        """How many bytes lie between tail and head.  O(1)."""
        return self._now.used + (self._old.used if self._old is not None else 0)

    @property
    def passed(self) -> int:
        """How many bytes the tail has moved on, in the area that is written to.  O(1)."""
        return self._now.passed

    @property
    def moving(self) -> bool:
        """Whether it still has an old area.  O(1)."""
        return self._old is not None

    def owns(self, slot: int) -> bool:
        """Whether a slot is of this ring.  O(1)."""
        return self.base <= slot < self.base + self.width

    # --- in and out ---

    def pack(self, page: memoryview, most: int = MOST_PACKED) -> bytes | int | None:
        """A page as put() takes it: its compressed bytes, or the byte it repeats; None if it takes more than most.

        O(1): 7 us, 0.5 for a repeated byte.
        """
        if page[0] == page[PAGE_SIZE - 1] and page == bytes((page[0],)) * PAGE_SIZE:
            return page[0]
        body = self.codec.pack(page)
        if len(body) > most:
            self.refused += 1
            return None
        return body

    def room(self, nbytes: int) -> bool:
        """Whether a body of nbytes can be put now, without cleaning.  O(1)."""
        need, now, old = footprint(nbytes), self._now, self._old
        if old is None:
            return now.room(need)
        # The new one does not wrap around yet; the live records of the old one will come (R5).
        return now.used + self._old_live + need <= now.nbytes and now.used + old.kept + need + MARGIN <= self.nbytes

    def may_live(self, nbytes: int) -> bool:
        """Whether another body of nbytes may be live at all (R2).  O(1)."""
        return self.live_bytes + footprint(nbytes) <= self.most_live

    def alloc(self, n: int) -> int:
        """Hold n slots in a row: the first, or 0 if there are none.  O(n)."""
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
        self._place[slot - self.base] = self._now.write(slot, vpn, body)
        self._packed[slot - self.base] = len(body)
        self.live_bytes += footprint(len(body))

    def _where(self, place: int) -> tuple[Area, int]:
        """The area of a place, and the offset there."""
        old = self._old
        area = old if old is not None and place >> HALF_SHIFT == old.half else self._now
        return area, (place & (1 << HALF_SHIFT) - 1) << UNIT_SHIFT

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
        area, at = self._where(place)
        named, owner, nbytes, _ = HEAD.unpack_from(area.memory, at)
        if (named, owner, nbytes) != (slot, vpn, packed):
            return False
        body = area.body(at, packed)
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
                nbytes = footprint(self._packed[i])
                self.live_bytes -= nbytes
                if self._old is not None and self._where(self._place[i])[0] is self._old:
                    self._old_live -= nbytes
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

    def _last(self) -> Area:
        """Where the tail is."""
        return self._now if self._old is None else self._old

    def skip_dead(self, most: int) -> int:
        """Pass over dead records and fillers at the tail, at most `most` of them: how many.  O(most)."""
        n, area = 0, self._last()
        while n < most and area.used:
            record = area.at(area.tail)
            if self._is_live(record.slot, area.place(area.tail), record.nbytes):
                break
            area.drop_tail(record.size)
            n += 1
        return n

    def _is_live(self, slot: int, place: int, nbytes: int) -> bool:
        i = slot - self.base
        return slot > 0 and i < len(self._place) and self._packed[i] == nbytes != UNIFORM and self._place[i] == place

    def oldest(self) -> Oldest | None:
        """The live record at the tail; None if there is a dead one or none.  O(1)."""
        found = self.peek(1, 1)
        return found[0] if found else None

    def peek(self, most: int, looks: int) -> list[Oldest]:
        """Up to `most` of the oldest live records, dead ones between them passed over.  O(looks).  Changes nothing."""
        found: list[Oldest] = []
        area = self._last()
        at, left = area.tail, area.used
        while left > 0 and looks > 0 and len(found) < most:
            looks -= 1
            record = area.at(at)
            if self._is_live(record.slot, area.place(at), record.nbytes):
                found.append(Oldest(record.slot, record.vpn, record.nbytes))
            at, left = (at + record.size) % area.nbytes, left - record.size
        return found

    def unpack(self, record: Oldest, page: memoryview) -> bool:
        """Fill a page from a record; False if that is damaged.  O(1): 4 us."""
        return self._read(record.slot, page, record.vpn)

    def footprint_of(self, slot: int) -> int:
        """The size of a held slot's record.  O(1)."""
        packed = self._packed[slot - self.base]
        return footprint(packed) if packed != UNIFORM else 0

    def carry(self) -> None:
        """Copy the oldest record from the tail to the head.  => There is one.  O(its bytes).

        Needs no additional room: the place at the tail is free before the head is written.
        """
        area = self._last()
        record, at = area.at(area.tail), area.tail
        body = bytes(area.body(at, record.nbytes))
        area.drop_tail(record.size)
        self.live_bytes -= record.size
        if area is self._old:
            self._old_live -= record.size
        self._write(record.slot, record.vpn, body)

    # --- another size ---

    def move_to(self, nbytes: int) -> None:
        """Write to an area of nbytes from now on; arrive() tells when the old one is empty.  O(1).

        => The ring is not moving already, and the live records fit: most_live was lowered before.
        """
        nbytes &= -PAGE_SIZE
        assert self._old is None and self.live_bytes <= most_live_of(nbytes)
        self._old, self._old_live = self._now, self.live_bytes
        self._now = Area(nbytes, 1 - self._now.half)
        self.most_live = most_live_of(nbytes)

    def shed(self) -> bool:
        """Give back free memory of the old area; whether there may be more.  O(SHED)."""
        return self._old is not None and self._old.shed()

    def arrive(self) -> bool:
        """Close the old area if it is empty; whether there is none now.  O(1) here."""
        if self._old is not None and not self._old.used:
            self._old.close()
            self._old = None
        return self._old is None

    # --- the rest ---

    def stats(self) -> dict[str, Any]:
        """The object `zram` of the status, without the fields that tier.py adds.  O(1)."""
        stored = ptoa(self.nheld)
        return {"size_bytes": self.nbytes, "used_bytes": self.live_bytes, "stored_bytes": stored,
                "ratio": round(stored / self.live_bytes, 2) if self.live_bytes else 0.0, "hits": self.hits}

    def close(self) -> None:
        """Give the memory back.  O(1) here."""
        self._now.close()
        if self._old is not None:
            self._old.close()

    def check(self, held: set[int]) -> None:
        """Raise Inconsistent where R1-R5 do not hold; held is the set of slots that pages name.  O(slots + records)."""
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
            area, at = self._where(self._place[i])
            head = HEAD.unpack_from(area.memory, at)
            demand((head[0], head[2]) == (slot, self._packed[i]), "R1", f"slot {slot} names the record of {head[0]}")
        demand(live == self.live_bytes <= self.most_live, "R2", f"{live} live bytes, counted {self.live_bytes}")
        demand(uniform == self.nuniform, "R4", f"{uniform} uniform pages, counted {self.nuniform}")
        now, old = self._now, self._old
        found = self._check_area(now)
        if old is not None:
            in_old = self._check_area(old)
            demand(in_old == self._old_live, "R5", f"{in_old} live bytes in the old area, counted {self._old_live}")
            demand(now.used + in_old <= now.nbytes and now.used + old.kept <= self.nbytes, "R5",
                   f"{in_old} of {old.kept} to come to {now.used} of {now.nbytes}")
            found += in_old
        demand(found == live, "R3", f"{found} live bytes between tail and head, {live} are")

    def _check_area(self, area: Area) -> int:
        """Read an area from tail to head; how many bytes in it live."""
        at, left, found = area.tail, area.used, 0
        while left > 0:
            record = area.at(at)
            found += record.size if self._is_live(record.slot, area.place(at), record.nbytes) else 0
            at, left = (at + record.size) % area.nbytes, left - record.size
        demand(left == 0 and at == area.head, "R3", f"the ring ends at {at}, {left} left, head {area.head}")
        return found

    def verify(self, slot: int, vpn: int) -> bool:
        """Whether a held slot answers with its page (R1).  O(1)."""
        return self._read(slot, memoryview(bytearray(PAGE_SIZE)), vpn)
