"""uvm/swap.py: the slots of a store.

A slot holds one page.  Slots are taken in runs, so that pages that leave together are written in one call and can come
back in one.  The page daemon decides what is written.  The store (store.py) has the bytes.  The seal (seal.py) detects
changed bytes, and perhaps encrypts them.  This file knows which slots are free.

The slot numbers of all stores of a machine are one space (swapset.py); those of this store begin at `base`.

Picture     FREE --alloc--> HELD --free--> FREE (the store keeps it until trim)
                            HELD --retire--> BAD (a write failed, or a page was lost; never again)
                            HELD --free while there is a hold--> PARKED --unpark--> FREE

            page daemon --write_cluster--> seal.seal() --> store.write()
            fault --------read_cluster--> store.read() --> seal.unseal()

Invariants
    S1  Slot 0 is never handed out (0 means "none" in the page table).
    S2  The map has the state of each slot: nheld are held by one page each, nbad are bad, nparked are given back and
        kept for a hold (frozen.py), the rest are free.
    S3  A held slot that was written answers with its page, or the seal refuses it.
"""

from __future__ import annotations

import errno
import logging
import mmap
import time
from typing import Any, Callable, Sequence

from tmpfsd.native import mypyc_attr
from tmpfsd.seldom import seldom
from tmpfsd.uvm import failpoint
from tmpfsd.uvm.errors import NoSwap, SwapIOError, WrongPage, demand
from tmpfsd.uvm.param import PAGE_SIZE, ptoa
from tmpfsd.uvm.seal import Crc, Seal
from tmpfsd.uvm.store import Store
from tmpfsd.uvm.vmem import BAD, HELD, PARKED, Vmem

log = logging.getLogger(__name__)

FULL_SECONDS = 0.5                      # between two looks at a disk that was full
UNPARK = 4096                           # slots unparked at once
HOLE = 4096                             # slots of a hole, and of all holes of one call except the last
UNSAID = -1                             # priority: none was given: below all given ones, in order of age
WRITE_TRIES = 3                         # slots tried for one page that is refused
FAR = 64                                # slots from a bad one to the next that is tried, and its square
STREAK = 8                              # writes that fail in a row before a store gets a rest
FIRST_PAUSE, MOST_PAUSE = 0.05, 1.0     # seconds of rest: the first, and the longest (it doubles)
MOST_PRIORITY = 32767                   # as swapon(8) has it


@mypyc_attr(allow_interpreted_subclasses=True)         # tests have devices that fail
class Swap:
    """Slots of one store.

    `space` is false for a while after a write found the disk full, or until a slot is freed: meanwhile
    only slots that have their disk blocks are written.  While it drains no slot is given out.
    `full` is for people: the last write that needed room on the disk found none.
    A store that fails STREAK writes in a row rests: nothing is written there for a while.  Then it is asked once more,
    and rests twice as long if it fails again.  The first write that succeeds ends that.
    """

    __slots__ = ("store", "seal", "priority", "nslots", "base", "width", "draining", "full", "nheld", "nbad", "nparked",
                 "untrimmed", "hold", "read_only", "_arena", "_trim_at", "_full_until", "_rest_until",
                 "_pause", "_nfailed", "_nrests")

    def __init__(self, store: Store, nslots: int, base: int = 1, width: int = 0, seal: Seal | None = None,
                 priority: int = UNSAID) -> None:
        self.store = store
        self.seal: Seal = seal if seal is not None else Crc()
        self.priority = priority
        self.nslots = nslots                    # may change, up to `width`
        self.base = base
        self.width = max(width, nslots)
        self.draining = self.full = False
        self.nheld = self.nbad = self.nparked = 0
        self.hold: Callable[[], None] | None = None     # ends a hold (frozen.py) when a slot is needed
        self.read_only = False                  # of a frozen copy
        self._full_until = self._rest_until = 0.0
        self._pause = 0.0                       # of the present rest; 0 while the store works
        self._nfailed = 0                       # writes that failed in a row
        self._nrests = 0                        # how often the store stopped working
        self.untrimmed = 0                      # slots freed since the last trim began
        self._arena = Vmem(base, nslots)        # S1
        self._trim_at = 0

    @property
    def path(self) -> str:
        """Where the store is.  O(1)."""
        return self.store.path

    @property
    def files(self) -> list[Swap]:
        """As SwapSet has it.  O(1)."""
        return [self]

    @property
    def nfree(self) -> int:
        """Slots that alloc() can give, including those parked.  O(1)."""
        if self.draining or self.read_only:
            return 0
        return max(min(self._arena.nfree + self.nparked, self.nslots - self.nheld - self.nbad), 0)

    @property
    def space(self) -> bool:
        """Whether the store may take more: the disk under it was not full just now, and it does not rest.  O(1)."""
        return (not self._full_until or time.monotonic() >= self._full_until) and not self.resting

    @property
    def resting(self) -> bool:
        """Whether nothing is to be written there now, because it failed.  O(1)."""
        return self._rest_until > 0 and time.monotonic() < self._rest_until

    def ask_again(self) -> None:
        """End a rest, for somebody who waits for the store.  O(1)."""
        self._rest_until = 0.0

    def rests_at(self, _slot: int) -> bool:
        """Whether the store of a slot rests.  O(1)."""
        return self.resting

    def owns(self, slot: int) -> bool:
        """Whether a slot is of this file.  O(1)."""
        return self.base <= slot < self.base + self.width

    def resize(self, nslots: int) -> None:
        """Have nslots; if more are held than that, it is full.  O(top / CHUNK), see vmem.py."""
        assert nslots <= self.width
        self.nslots = nslots
        self._arena.resize(nslots)

    def disk_full(self, _slot: int = 0) -> None:
        """A write found no room on the disk.  O(1)."""
        self._full_until = time.monotonic() + FULL_SECONDS
        self.full = True

    def alloc(self, n: int, at: int = 0) -> tuple[int, int]:
        """Hold up to n slots in a row, from `at` on if that one is free: (first, count).  => NoSwap: there is none.

        O(log n) times Vmem.alloc(): 2 us, seldom 100.
        """
        if failpoint.hook:
            failpoint.hook("Swap.alloc")
        if not self.space:
            raise NoSwap("the swap file fails" if self.resting else "the disk under the swap file is full")
        n = min(n, self.nfree)
        if n and not self._arena.nfree:
            self.end_hold()
            while self.nparked and not self._arena.nfree:
                self._unpark()
        if n and at and self._arena.alloc_at(at, 1):
            slot, count = at, 1
        else:
            slot, count = self._arena.alloc_some(n)
        if not count:
            raise NoSwap("the swap file is full")
        self.nheld += count
        missing = self._place(slot) + count - self.seal.nplaces
        if missing > 0:
            self.seal.grow(missing)
        return slot, count

    def _place(self, slot: int) -> int:
        """The place of a slot in the store; there is no place 0."""
        return slot - self.base + 1

    def free(self, slot: int, n: int = 1) -> None:
        """Give slots back; the store learns of it at the next trim().  O(n)."""
        if failpoint.hook:
            failpoint.hook("Swap.free")
        self.seal.forget(self._place(slot), n)
        if self.hold is not None:
            self._arena.park(slot, n)
            self.nparked += n
        else:
            self._arena.free(slot, n)
        self.nheld -= n
        self.untrimmed += n
        self._full_until = 0.0
        if not self.nheld:
            self.full = False

    def end_hold(self) -> None:
        """End a hold, because slots are needed or overwritten.  O(files)."""
        if self.hold is not None:
            self.hold()

    def _unpark(self) -> bool:
        """Make some parked slots free; whether there may be more."""
        n = self._arena.unpark(UNPARK)
        self.nparked -= max(n, 0)
        self.untrimmed += max(n, 0)
        return n != 0

    def retire(self, slot: int) -> None:
        """Never use a held slot again: the device refused it.  O(1)."""
        self._arena.retire(slot)
        self.nheld -= 1
        self.nbad += 1
        if seldom(self.nbad):
            log.warning("swap %s: slot %d failed and is retired (%d so far)", self.path, slot, self.nbad)

    def write_cluster(self, slot: int, pages: Sequence[memoryview], vpns: Sequence[int]) -> None:
        """Write pages to the slots from slot on.  O(pages).  => OSError, and any of them may hold anything."""
        place = self._place(slot)
        try:
            if failpoint.hook:
                failpoint.hook("Swap.write_cluster")
            self.store.write(place, self.seal.seal(place, pages, vpns))
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                self._write_failed(error)
            raise
        if self._nfailed:
            self._write_succeeded()
        if self.full and self.space:
            self.full = False

    def _write_failed(self, error: OSError) -> None:
        """Give the store a rest if it seems to be at fault, and not only a place in it."""
        self._nfailed += 1
        if self._nfailed < STREAK:
            return
        if not self._pause:
            self._nrests += 1
            if seldom(self._nrests):
                log.error("swap %s: takes no pages: %s; it is asked again, ever less often, up to once in %g s",
                          self.path, error.strerror, MOST_PAUSE)
        self._pause = min(max(2 * self._pause, FIRST_PAUSE), MOST_PAUSE)
        self._rest_until = time.monotonic() + self._pause

    def _write_succeeded(self) -> None:
        """The store works, or works again."""
        if self._pause and seldom(self._nrests):
            log.warning("swap %s: takes pages again", self.path)
        self._nfailed, self._pause, self._rest_until = 0, 0.0, 0.0

    def read_cluster(self, slot: int, pages: Sequence[memoryview], vpns: Sequence[int]) -> int:
        """Read slots from slot on into pages: how many are right, counted from the first.

        O(pages).  => SwapIOError when the first is not.
        """
        if failpoint.hook:
            failpoint.hook("Swap.read_cluster")
        place, room = self._place(slot), self.seal.room(pages)
        try:
            self.store.read(place, room)
        except OSError as error:
            if len(pages) > 1:
                return self.read_cluster(slot, pages[:1], vpns)
            raise SwapIOError(f"slot {slot}, page {vpns[0]}: {error.strerror}") from error
        got = self.seal.unseal(place, room, pages, vpns)
        if not got:
            raise WrongPage(f"slot {slot}, page {vpns[0]}: wrong checksum")
        return got

    def trim(self, budget: int = 32) -> bool:
        """Punch holes where slots are free, at most `budget` runs; whether there is more to do.  O(budget) holes.

        Stops when HOLE slots were punched: the file system walks the blocks, 32 holes of 16 MiB took it 80 ms.
        """
        if self.hold is not None or self.draining:      # a file that goes is emptied as a whole
            return False
        if self.nparked and self._unpark():
            return True
        if not self.store.can_discard or not (self.untrimmed or self._trim_at):
            return False
        if not self._trim_at:
            self.untrimmed = 0          # slots freed from here on, perhaps behind us, are for the next pass
        left = HOLE
        for slot, n in self._arena.runs(self._trim_at):
            if not budget or left <= 0:
                return True
            self.store.discard(self._place(slot), n)
            self._trim_at = slot + n
            budget, left = budget - 1, left - n
        while (n := min(self.seal.nplaces - self._place(self._arena.top), HOLE)) > 0:     # behind the last in use
            if not budget or left <= 0:
                self._trim_at = self._arena.top
                return True
            start = self.seal.nplaces - n
            if not self.store.discard(start, n):
                break
            self.seal.cut(start)
            budget, left = budget - 1, left - n
        self._trim_at = 0
        return self.untrimmed > 0

    def stats(self) -> dict[str, Any]:
        """The status of a store.  O(1)."""
        return {"kind": self.store.kind, "path": self.path, "priority": self.priority,
                "size_bytes": ptoa(self.nslots), "used_bytes": ptoa(self.nheld), "state": self.state(),
                "encrypted": self.seal.encrypts, "bad_slots": self.nbad, "disk_full": self.full,
                "draining": self.draining}

    def state(self) -> str:
        """`ok`, or what is wrong, in a word or two.  O(1)."""
        if self.draining:
            return "draining"
        return self.store.state() or ("failing" if self._pause else "disk full" if self.full else "ok")

    def close(self) -> None:
        """Let the store go.  O(1)."""
        self.end_hold()
        self.store.close()

    def check(self, held: set[int] | None = None) -> None:
        """Raise Inconsistent where S1-S3 do not hold; held is the set of slots that pages name.  O(slots)."""
        self._arena.check()
        demand(not self._arena.is_free(0), "S1", "slot 0 is free")
        nheld, nbad = self._arena.count(HELD), self._arena.count(BAD)
        demand((nheld, nbad) == (self.nheld, self.nbad), "S2",
               f"{nheld} slots are held and {nbad} bad, counted {self.nheld} and {self.nbad}")
        nparked = self._arena.count(PARKED)
        demand(nparked == self.nparked, "S2", f"{nparked} slots are parked, counted {self.nparked}")
        if held is None:
            return
        demand(len(held) == self.nheld, "S2", f"{self.nheld} held, pages name {len(held)}")
        for slot in held:
            demand(not self._arena.is_free(slot), "S2", f"slot {slot} is held and free")

    def verify(self, slot: int, vpn: int) -> bool:
        """Whether a held slot answers with its page (S3); reads it without changing anything.  O(1).

        => SwapIOError: it does not answer.
        """
        page = memoryview(_scratch)
        try:
            self.read_cluster(slot, [page], [vpn])
        except WrongPage:
            return False
        return True


# Page aligned, as O_DIRECT demands; private, so that a frozen copy (frozen.py) has its own.
_scratch = mmap.mmap(-1, PAGE_SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
