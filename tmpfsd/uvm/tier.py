"""uvm/tier.py: the compressed tier: which pages go into the ring (zlog.py), and how its oldest ones leave.

It stands between frames and stores.  The page daemon offers it each page that is to leave.  A page that does not shrink
goes on to the stores, or if those have no room, into the ring as it is.  Room is made at the tail.  Dead records are
passed over.  The record of a resident page is dropped; the page is dirty and without a slot again, as V6 allows.
Others are written to a store, up to 16 in one call, in order of age.  If no store has room, they are carried to the
head: that gains the dead records between them.

The page daemon's reserve demands that a page with a slot can always leave.  But a record of the ring cannot be
overwritten in place as a slot of a store can, and a page that comes back from there and is changed may shrink less.  So
room is kept back for such pages: `keep_bytes` of the ring, or `keep_slots` of the stores, twice what an operation can
change between two breaths.  A changed page of an image cannot be overwritten in place either, and any number of them
may be in frames: room is kept back for all of these, too (backing.py).  When neither is left, tight() is true, and
changes to existing pages are refused (room.py), except removals.  An operation that began before has what was
kept back, and after it only removals change anything.

New pages are refused before that.  Pages without a slot get none while full() is true (so V6 refuses new ones, ENOSPC),
and a thirty-second of the ring, or as many slots, is left for changes.  A file that is made in place of a removed one
changes existing pages, because it uses their items again; its bytes are others, so they may shrink less.

Cleaning is paid for in small parts.  While no store takes the oldest and less than a sixteenth of the ring is free,
each byte that is put adds PASS bytes to the number that the tail owes to pass over.  Each breath pays PAY records of
that.  When less than half of the sixteenth is left, whoever puts something pays for it at once.  In the worst case all
dead records lie behind the live ones.  Then the tail passes over 14/16 of the ring and gains nothing, while 14/16 /
PASS of the ring are written: that is less than the half that is left.  So a page finds room without waiting for a whole
round of the tail.

Picture     page --take--> head of the ring ... tail --skip_dead, drop, write back, carry--> gone, or a store

Invariants
    W1  The ring and the frames together are not more than `ram` (tmpfs/filesystem.py sets both).
    W2  While full(), no page without a slot gets one.  tight() implies full().
    W3  While no store has room and the ring does not move, a page finds room within STEPS steps.

Breathing   take() may run where the page daemon's clean() may.  It moves no page; offsets stay good.

Limits      Removals change pages too, by bytes: 2^17 of them that free no page could use up what is kept back.  When
            frames run out then, they are refused as if a device had failed.
"""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING, Any, Final

from tmpfsd.uvm import failpoint
from tmpfsd.uvm.area import footprint
from tmpfsd.uvm.backing import keep_slots
from tmpfsd.uvm.errors import NoSwap
from tmpfsd.uvm.param import CLUSTER, PAGE_SHIFT, PAGE_SIZE
from tmpfsd.uvm.swap import FAR, WRITE_TRIES
from tmpfsd.uvm.swapset import SwapSet
from tmpfsd.uvm.zlog import MOST_PACKED, WORTH, Oldest, ZLog

if TYPE_CHECKING:
    from tmpfsd.uvm.vm import Vm

DEAD_LOOKS: Final = 32      # dead records passed over in a step
STEPS: Final = 32           # steps that one take() may go towards room
MOST_STEPS: Final = 1 << 30     # and if a page must leave: carrying ends where dead records are found
MOVE_STEPS: Final = 64      # records carried, or 32 passed over, in a step of a ring that moves
IDLE_STEPS: Final = 8       # steps of one slice of idle work
SPARE_SHIFT: Final = 4      # a sixteenth of the ring is kept free: ...
PASS: Final = 32            # ... the tail passes over this many bytes for each that is put, ...
PAY: Final = 32             # ... this many records in each breath
LEAVE_SHIFT: Final = 5      # new pages leave a thirty-second for changes to existing ones
AHEAD_SHIFT: Final = 2      # a quarter of the ring is made free when there is time
WHOLE: Final = footprint(PAGE_SIZE)


def compress_in(vm: Vm, ring: ZLog) -> None:
    """Give a machine that has paged nothing out yet a compressed tier.  O(files)."""
    vm.swap = SwapSet(vm.swap.files if vm.swap is not None else [], ring, vm.image)
    vm.tier = Tier(vm, ring)


class Tier:
    """The compressed tier of one machine."""

    __slots__ = ("vm", "ring", "writebacks", "carried", "owes", "_buffer", "_scratch")

    def __init__(self, vm: Vm, ring: ZLog) -> None:
        self.vm = vm
        self.ring = ring
        self.writebacks = self.carried = 0
        self.owes = 0                       # bytes that the tail is to pass over
        # Page aligned, as O_DIRECT demands.
        self._buffer = mmap.mmap(-1, CLUSTER * PAGE_SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        view = memoryview(self._buffer)
        self._scratch = [view[i << PAGE_SHIFT:(i + 1) << PAGE_SHIFT] for i in range(CLUSTER)]

    @property
    def keep_slots(self) -> int:
        """How many slots of the stores are kept back, if the ring has no room.  O(1)."""
        return keep_slots(self.vm) + 2 * self.vm.reserve + CLUSTER

    @property
    def keep_bytes(self) -> int:
        """How many bytes of the ring are kept back, if the stores have no room.  O(1)."""
        return self.keep_slots * WHOLE

    @property
    def spare_bytes(self) -> int:
        """How many bytes of the ring new pages leave for existing ones, which may come to shrink less.  O(1)."""
        return self.ring.most_live >> LEAVE_SHIFT

    def stores_have_room(self) -> bool:
        """Whether stores take new pages, or the oldest in the ring.  O(files)."""
        swap = self.vm.swap
        room = swap.nfree - self.keep_slots - CLUSTER if swap is not None else 0    # a cluster may be written then
        # Changes are left as many bytes as in the ring, of small stores a thirty-second.
        return room > 0 and (room > self.spare_bytes >> PAGE_SHIFT
                             or swap is not None and room > swap.nslots >> LEAVE_SHIFT)

    def is_crowded(self) -> bool:
        """Whether so much of the ring is used that idle work writes some of it back.  O(1)."""
        ring = self.ring
        return ring.used > ring.nbytes - (ring.nbytes >> AHEAD_SHIFT)

    def tight(self) -> bool:
        """Whether only what is kept back is left, so that only removals may change pages.  O(files)."""
        swap = self.vm.swap
        return not self._has_bytes(0) and (swap is None or swap.nfree <= self.keep_slots)

    def full(self) -> bool:
        """Whether new pages get nothing more, so that existing ones can still change (W2).  O(files)."""
        return not self._has_bytes(self.spare_bytes) and not self.stores_have_room()

    def _has_bytes(self, nbytes: int) -> bool:
        """Whether the ring can take nbytes and still have what is kept back.  O(1)."""
        ring = self.ring
        return not ring.draining and ring.live_bytes + self.keep_bytes + nbytes <= ring.most_live

    # --- in ---

    def take(self, vpn: int, lo: int, hi: int, settle: bool) -> tuple[bool, int, int]:
        """Put page vpn into the ring, with neighbours in [lo, hi): (whether it is there, else [lo, hi) for a store).

        O(CLUSTER): 10 us a page.
        """
        ring = self.ring
        if ring.draining:
            return False, lo, hi
        bodies, first = self._alike(vpn, lo, hi)
        if bodies[vpn - first] is None:
            if not self.stores_have_room() and self._put(vpn, [bytes(self.vm.phys.frame(self.vm.pfn_of(vpn)))], settle):
                return True, lo, hi
            return False, first, first + len(bodies)
        if self._put(first, bodies, settle) or len(bodies) > 1 and self._put(vpn, [bodies[vpn - first]], settle):
            return True, first, first + len(bodies)
        return False, lo, hi

    def take_whole(self, vpn: int, settle: bool) -> bool:
        """Put a page that has a record into the ring, as it is if it does not shrink, because nothing else takes it.

        If the new record fits then, the old one goes first: the page's content is in the frame.  O(CLUSTER) (W3).
        """
        vm, ring = self.vm, self.ring
        if ring.draining:
            return False
        page = vm.phys.frame(vm.pfn_of(vpn))
        body = ring.pack(page)
        whole: list[bytes | int | None] = [bytes(page) if body is None else body]
        need = footprint(len(body)) if isinstance(body, bytes) else WHOLE if body is None else 0
        if ring.live_bytes - ring.footprint_of(vm.slot_of[vpn]) + need > ring.most_live:
            return self._put(vpn, whole, settle)
        vm.lose_slot(vpn)
        return self._put(vpn, whole, settle, last=True)

    def _alike(self, vpn: int, lo: int, hi: int) -> tuple[list[bytes | int | None], int]:
        """(packed pages around vpn, the first): if vpn shrinks, those that shrink, else those that do not."""
        pack, frame, pfn_of = self.ring.pack, self.vm.phys.frame, self.vm.pfn_of
        most = WORTH if self.is_crowded() and self.stores_have_room() else MOST_PACKED
        bodies = [pack(frame(pfn_of(vpn)), most)]
        refused = bodies[0] is None
        end = vpn + 1
        while end < hi:
            body = pack(frame(pfn_of(end)), most)
            if (body is None) != refused:
                break
            bodies.append(body)
            end += 1
        first = vpn
        while first > lo:
            body = pack(frame(pfn_of(first - 1)), most)
            if (body is None) != refused:
                break
            bodies.insert(0, body)
            first -= 1
        return bodies, first

    def _put(self, vpn: int, bodies: list[bytes | int | None], settle: bool, last: bool = False) -> bool:
        """Put packed pages from vpn on into the ring; whether there was room.

        With `last`, what is kept back may be used, and the number of steps is not limited.
        """
        if failpoint.hook:
            try:
                failpoint.hook("Tier.put")
            except NoSwap:
                return False
        vm, ring, n = self.vm, self.ring, len(bodies)
        need = sum([footprint(len(body)) for body in bodies if isinstance(body, bytes)])
        limit = ring.most_live
        if not last and vm.slot_of[vpn:vpn + n].count(0) and not self.stores_have_room():
            limit -= self.keep_bytes + self.spare_bytes
        if not self._make_room(need, limit, MOST_STEPS if last else STEPS):
            return False
        slot = ring.alloc(n)
        if not slot:
            return False
        for i in range(n):
            body = bodies[i]
            assert body is not None
            ring.put(slot + i, vpn + i, body)
        vm.daemon.pageouts += n
        if vm.trace is not None:
            vm.trace("out", vpn, n)
        vm.daemon.assign(slot, vpn, vpn + n, settle)
        self._owe(need)
        return True

    # --- room ---

    def pay(self, records: int = PAY) -> None:
        """Move the tail on as far as it owes, by at most `records` (W3).  O(records)."""
        ring = self.ring
        while self.owes > 0 and records > 0:
            start = ring.passed
            if self._has_spare(0) or not self.step(True):
                self.owes = 0
                return
            self.owes -= ring.passed - start
            records -= 1

    def _owe(self, put: int) -> None:
        """Note that `put` bytes were put, and clean for them at once if little is left.  O(put)."""
        if self._has_spare(0):
            return
        self.owes += PASS * put
        if not self._has_spare(1):
            ring = self.ring
            until = ring.passed + PASS * put
            while self.owes > 0 and ring.passed < until:
                self.pay(1)

    def _has_spare(self, shift: int) -> bool:
        """Whether a sixteenth is free (shift 0), or half of that (1), or neither is needed.  O(files)."""
        ring = self.ring
        return (ring.nbytes - ring.used >= ring.nbytes >> SPARE_SHIFT + shift or ring.moving or ring.draining
                or self.stores_have_room())

    def _make_room(self, need: int, limit: int, steps: int) -> bool:
        """Go up to `steps` steps at the tail, until need bytes can be put and at most limit are alive then."""
        ring = self.ring
        while ring.live_bytes + need > limit or not ring.room(need + WHOLE):
            steps -= 1
            if steps < 0 or not self.step(ring.live_bytes + need <= limit):
                return False
        return True

    def step(self, carry: bool) -> bool:
        """Move some of the oldest records out of the way; whether anything was done.  O(CLUSTER)."""
        ring, vm = self.ring, self.vm
        if ring.moving and (ring.shed() or ring.arrive()) or ring.skip_dead(DEAD_LOOKS):
            return True
        oldest = ring.oldest()
        if oldest is None:
            return False
        if self._drop(oldest) or self.stores_have_room() and self._write_back():
            return True
        if carry:
            ring.carry()
            self.carried += 1
        elif vm.swap is not None and not vm.swap.space:
            return False
        return carry

    def move(self) -> None:
        """Carry some records from the old area of a ring that moves to the new one.  O(MOVE_STEPS)."""
        ring = self.ring
        for _ in range(MOVE_STEPS):
            if ring.shed() or ring.arrive():
                return
            if not ring.skip_dead(DEAD_LOOKS):
                ring.carry()
                self.carried += 1

    def _drop(self, oldest: Oldest) -> bool:
        """Drop the record of a resident page, if another page without a slot is well within V6; whether it was."""
        vm = self.vm
        pfn = vm.pfn_of(oldest.vpn)
        if pfn < 0 or vm.nslotless + vm.low >= vm.most_slotless - vm.spare or vm.undefined.old:
            return False
        vm.lose_slot(oldest.vpn)
        return True

    def _write_back(self) -> bool:
        """Write the oldest records to a store, in one call; whether any was written."""
        vm, swap = self.vm, self.vm.swap
        records = self.ring.peek(CLUSTER, 4 * CLUSTER)
        n = 0
        while n < len(records) and self.ring.unpack(records[n], self._scratch[n]):
            n += 1
        if not n or swap is None:
            return False
        try:
            slot, n = swap.alloc(n)
        except NoSwap:
            return False
        try:
            swap.write_cluster(slot, self._scratch[:n], [record.vpn for record in records[:n]])
        except OSError as error:
            swap.free(slot, n)
            vm.daemon.failed(error, slot)
            return self._write_one(records[0])
        self._move(slot, records[:n])
        return True

    def _write_one(self, record: Oldest) -> bool:
        """Write one record to any slot that takes it, as PageDaemon._clean_one() does with a page."""
        swap = self.vm.swap
        assert swap is not None
        refused: list[int] = []
        done = False
        for _ in range(WRITE_TRIES):
            try:
                slot, _count = swap.alloc(1, refused[0] + FAR ** len(refused) if refused else 0)
            except NoSwap:
                break
            try:
                swap.write_cluster(slot, self._scratch[:1], [record.vpn])
            except OSError as error:
                refused.append(slot)
                if self.vm.daemon.failed(error, slot):
                    break
                continue
            self._move(slot, [record])
            done = True
            break
        for slot in refused:
            if done:
                swap.retire(slot)
            else:
                swap.free(slot)
        return done

    def _move(self, slot: int, records: list[Oldest]) -> None:
        """Note that records are in the slots of a store from slot on."""
        vm = self.vm
        for i in range(len(records)):
            vm.slot_of[records[i].vpn] = slot + i
            self.ring.free(records[i].slot)
        self.writebacks += len(records)

    # --- background ---

    def idle(self) -> bool:
        """Write the oldest records back while the ring is more than three quarters full; whether there is more to do.

        O(IDLE_STEPS).
        """
        ring = self.ring
        if ring.moving:
            self.move()
            return True
        for _ in range(IDLE_STEPS):
            if not self.is_crowded() or ring.draining:
                return False
            if not ring.skip_dead(DEAD_LOOKS) and not (self.stores_have_room() and self._write_back()):
                return False
        return True

    def stats(self) -> dict[str, Any]:
        """The object `zram` of the status; full: new pages are refused, or nearly.  O(files)."""
        vm = self.vm
        full = not self._has_bytes(self.spare_bytes + WHOLE) and not self.stores_have_room()
        slotless = vm.nslotless + CLUSTER > vm.most_slotless - vm.spare
        return {**self.ring.stats(), "writebacks": self.writebacks, "full": full and slotless}

    def close(self) -> None:
        """Give its memory back.  O(1)."""
        self.ring.close()
