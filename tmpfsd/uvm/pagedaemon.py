"""uvm/pagedaemon.py: which page leaves, and when.

Called from vm.breathe() when frames run short, from vm.alloc_page() when too many pages
have no slot, and from the idle loop to launder ahead.  Between two breaths of an operation it
only writes pages out, which moves none of them.

Two queues of frames, as in UVM, and a third for pages that could not be written.  A page comes in fresh at the inactive
tail.  At the inactive head, a page that was not referenced leaves.  A page that was referenced goes round once more if
it is fresh, and is activated if it is not.  So a burst of touches to one page counts once, and a scan does not flush
the working set.  A page that comes back soon after it left (after fewer evictions than the machine has frames) is
activated at once (the refault distance of Linux mm/workingset.c).  A dirty page for which there is no slot is held
aside until there is one, so that full swap does not mean scanning it again and again.  Pages of an index lead to many
others and are worth more than one of them: they go round LIVES times unreferenced before they leave, as with a GCLOCK
of that weight.

Picture     --enter--> INACTIVE(fresh) --> INACTIVE --referenced--> ACTIVE
                          |                   |     <--balance--      |
                          +--- reclaim: clean, drop                 (refault: --enter--> ACTIVE)
                               no slot: HELD --there are slots--> INACTIVE

Invariants
    D1  A frame is on a queue exactly when it holds a page that may leave.
    D2  count says how many frames each queue has.
    D3  The arrays have an entry for each present frame, and no others.
    D4  slotted tells for each frame whether it is on a queue and its page has a slot: such a page can leave at once.

Breathing   reclaim() and evict_all() make offsets stale.  launder() does not, but a page it cleaned must be looked up
            again before it is written: so only give_slots() may run inside an operation.
"""

from __future__ import annotations

import errno
import logging
import time
from itertools import chain, islice
from typing import TYPE_CHECKING, Final, Generator

from tmpfsd.seldom import seldom
from tmpfsd.uvm import backing, failpoint, pte, room
from tmpfsd.uvm.errors import NoSwap, demand
from tmpfsd.uvm.pagekind import MAX_OWNERS
from tmpfsd.uvm.param import CLUSTER
from tmpfsd.uvm.queues import ACTIVE, HELD, INACTIVE, LIVES, NHEADS, NOT_QUEUED, Queues
from tmpfsd.uvm.swap import FAR, WRITE_TRIES

if TYPE_CHECKING:
    from tmpfsd.uvm.vm import Vm

log = logging.getLogger(__name__)

MOST_BATCH = 128            # pages that one breath evicts beyond those that must be free: half a millisecond
MANY_ERRORS = 16            # writes that fail before reclaim gives the device a rest
FLUSH_LOOKS = 2048          # frames looked at in a step of flush()
PATIENCE = 2048             # looks of one reclaim: 3 ms
STEP_PATIENCE = 512         # looks of one step where eviction goes in steps: a slow disk gets less at once, 700 KiB
WRITE_COST = 16             # looks that a write costs, and 2 more for each page
PACK_COST: Final = 6        # looks that packing a page costs
BALANCE_LOOKS = 32          # active pages looked at between two inactive ones
BACKOFF = 0.05              # seconds of rest after a reclaim that a failing device or empty queues left short


class PageDaemon(Queues):
    """The queues of one Vm and the policy over them."""

    __slots__ = ("vm", "lives_of", "clock", "batch", "patience", "hand", "resting_until", "vain_until", "scans",
                 "reclaims", "stalls", "pageouts", "write_errors", "denied")

    def __init__(self, vm: Vm) -> None:
        super().__init__()
        self.vm = vm
        self.lives_of = bytearray(256)      # by flags
        self.patience = 0                   # looks that are left to this breath; writing costs some
        self.hand = 0                       # where _take() goes on
        self.clock = 0                      # pages that have left: refault distances are measured in these
        self.scans = self.reclaims = self.stalls = self.pageouts = self.write_errors = 0
        self.denied = 0                     # write errors, and pages not written because their store rests
        self.resize()

    def resize(self) -> None:
        """Adapt to the present number of frames; those that are gone were on no queue.  O(frames that are new)."""
        nframes = self.vm.phys.nframes
        self.know_frames(nframes)
        self.batch = min(max(nframes >> 5, CLUSTER), MOST_BATCH, (nframes - self.vm.reserve + 3) // 4)
        self.resting_until = self.vain_until = 0.0

    def keep_index(self, owner: int) -> None:
        """The pages of this owner are an index: they get LIVES rounds more.  O(1)."""
        for flags in range(owner, len(self.lives_of), MAX_OWNERS):
            self.lives_of[flags] = LIVES

    # --- which page leaves ---

    def reclaim(self) -> None:
        """Evict until a batch of frames beyond the low watermark is free, or patience is at an end.

        => Offsets are stale afterwards.  O(PATIENCE + frames below the low watermark), whatever is in memory.
        """
        now = time.monotonic()
        if now < self.resting_until or now < self.vain_until and not any(self.count[ACTIVE:]):
            return
        self.scans += 1
        if not any(self.count[ACTIVE:]):
            self.stalls += 1
            self.vain_until = now + BACKOFF         # no queue has a page: looking harder finds none
            return
        vm, denied = self.vm, self.denied
        self.make_free(vm.low + self.batch)
        if len(vm.phys.free_frames) < vm.low:
            self._take(vm.low)
        if len(vm.phys.free_frames) < vm.reserve:
            self.stalls += 1
            if self.denied > denied:
                self.resting_until = now + BACKOFF

    def make_free(self, nframes: int, patience: int = PATIENCE) -> None:
        """Evict until so many frames are free, or patience is at an end.  O(patience).

        => Offsets are stale afterwards.
        """
        free, denied = self.vm.phys.free_frames, self.denied
        self._retry_held()
        self.patience = patience
        while len(free) < nframes and self.patience > 0 and self.denied < denied + MANY_ERRORS:
            self._balance()
            if not self.count[INACTIVE]:
                break
            self.patience -= 1
            self._consider(self._head(INACTIVE))

    def _take(self, nframes: int) -> None:
        """Evict, without choosing well, until so many frames are free: heads first, then pages that have a slot.

        By V6 enough pages have one, wherever they wait; `slotted` is searched for them at the speed of memory.  So the
        reserve is full after each reclaim, unless the device does not take pages.
        """
        free, denied = self.vm.phys.free_frames, self.denied
        for _ in range(2 * nframes):
            queue = INACTIVE if self.count[INACTIVE] else ACTIVE
            if len(free) >= nframes or not self.count[queue] or self.denied >= denied + MANY_ERRORS:
                break
            pfn = self._head(queue)
            if self._has_no_room(pfn) or not self._evict(pfn):
                self._put_aside(pfn)
        for _ in range(2 * nframes):
            if len(free) >= nframes or self.denied >= denied + MANY_ERRORS:
                break
            self.hand = self.slotted.find(1, self.hand) + 1 or self.slotted.find(1) + 1
            if not self.hand:
                break
            self._evict(self.hand - 1)

    def _has_no_room(self, pfn: int) -> bool:
        """Whether a page cannot be written because it has no slot and none is free; without trying."""
        vm = self.vm
        if self.slotted[pfn]:
            return False
        if vm.tier is not None or vm.image is not None:
            return room.full(vm)
        return vm.swap is None or not vm.swap.nfree or not vm.swap.space

    def _put_aside(self, pfn: int) -> None:
        """Queue a page that could not be written: on HELD, to wait for a slot.

        If it has a slot, it stays on INACTIVE: it can be overwritten in place when the device works again.
        """
        self.requeue(pfn, INACTIVE if self.slotted[pfn] else HELD)

    def _consider(self, pfn: int) -> None:
        """Evict the frame at the inactive head, or put it where it belongs."""
        if failpoint.hook:
            failpoint.hook("PageDaemon._consider")
        vm = self.vm
        if vm.phys.referenced[pfn]:
            vm.phys.referenced[pfn] = 0
            if vm.used is not None:
                vm.used.note(vm.phys.owner[pfn])
            self.requeue(pfn, INACTIVE if self.fresh[pfn] else ACTIVE)
            self.fresh[pfn] = 0
            self.lives[pfn] = self.lives_of[vm.flags[vm.phys.owner[pfn]]]
        elif self.lives[pfn]:
            self.lives[pfn] -= 1
            self.requeue(pfn, INACTIVE)
        elif vm.phys.dirty[pfn] and (self._has_no_room(pfn) or not self.clean(pfn)):
            self._put_aside(pfn)
        else:
            self.drop(pfn)

    def _retry_held(self) -> None:
        """Let as many held pages try again as there may be slots for."""
        swap = self.vm.swap
        if not self.count[HELD] or swap is None:
            return
        tier = self.vm.tier
        if tier is not None and not tier.full() or tier is None and swap.space:
            most = self.batch if tier is not None else min(swap.nfree, self.batch)
            for pfn in list(islice(self.frames(HELD), most)):
                self.requeue(pfn, INACTIVE)

    def _balance(self) -> None:
        """Keep a third of the pages inactive: that is the time in which a page can show that it is used."""
        count, referenced = self.count, self.vm.phys.referenced
        left = min(count[ACTIVE], BALANCE_LOOKS)
        while left and 2 * count[INACTIVE] < count[ACTIVE]:
            left -= 1
            self.patience -= 1
            pfn = self._head(ACTIVE)
            if referenced[pfn] and self.vm.used is not None:
                self.vm.used.note(self.vm.phys.owner[pfn])
            self.requeue(pfn, ACTIVE if referenced[pfn] else INACTIVE)
            referenced[pfn] = 0
        if left == 0 and not count[INACTIVE] and count[ACTIVE]:
            self.requeue(self._head(ACTIVE), INACTIVE)

    def drop(self, pfn: int) -> None:
        """Evict a clean page: its frame becomes free, its content is in its slot.  O(1)."""
        vm = self.vm
        vpn = vm.phys.owner[pfn]
        if vm.trace is not None:
            vm.trace("drop", vpn, 1)
        if vm.used is not None and vm.phys.referenced[pfn]:
            vm.used.note(vpn)
        vm.leave_frame(vpn, pfn, pte.out(self.clock))
        self.clock += 1
        self.reclaims += 1

    def came_back_soon(self, entry: int) -> bool:
        """Whether the page that has this entry left less than one memory's worth of evictions ago.  O(1)."""
        return pte.distance(entry, self.clock) <= len(self.queue)

    def evict_all(self) -> None:
        """Evict all pages that may leave (TMPFSD_THRASH).  O(frames).  => Offsets are stale afterwards."""
        for queue in (INACTIVE, ACTIVE, HELD):
            for pfn in list(self.frames(queue)):
                self._evict(pfn)

    def _evict(self, pfn: int) -> bool:
        """Evict a page that may leave, referenced or not; whether that went well."""
        gone = not self.vm.phys.dirty[pfn] or self.clean(pfn)
        if gone:
            self.drop(pfn)
        return gone

    def flush(self) -> Generator[int, None, int]:
        """Evict all pages that may leave, in steps; yields frames looked at, returns how many pages stayed.

        => Offsets are stale after each step.  O(frames), in steps of O(FLUSH_LOOKS) and O(STEP_PATIENCE).
        """
        for start in range(0, len(self.queue), FLUSH_LOOKS):        # first: clusters are made of inactive pages
            for pfn in range(start, min(start + FLUSH_LOOKS, len(self.queue))):
                if self.queue[pfn] == ACTIVE:
                    self.requeue(pfn, INACTIVE)
            yield 0
        for file in self.vm.swap.files if self.vm.swap is not None else ():
            file.ask_again()
        stayed, denied = 0, self.denied
        pfn = 0
        while pfn < len(self.queue):
            self.patience = STEP_PATIENCE
            while pfn < len(self.queue) and self.patience > 0:
                if self.queue[pfn] != NOT_QUEUED and (self.denied > denied + MANY_ERRORS or not self._evict(pfn)):
                    stayed += 1
                self.patience -= 1
                pfn += 1
            yield pfn
        return stayed

    # --- laundering ---

    def launder(self, npages: int) -> int:
        """Write out dirty pages that will leave next, about npages of them; how many were written.  O(npages)."""
        dirty, before = self.vm.phys.dirty, self.pageouts
        for pfn in islice(self.frames(INACTIVE), 4 * npages):
            if dirty[pfn] and not self.clean(pfn) or self.pageouts - before >= npages:
                break
        return self.pageouts - before

    def give_slots(self, npages: int) -> None:
        """Write out pages that have no slot, about npages of them, in the middle of an operation.

        They stay dirty: the operation may hold offsets into them and write there after us.  O(npages + reserve) at the
        bound of V6, where all resident pages except `reserve` have no slot.
        """
        vm, most = self.vm, self.vm.nslotless - npages
        held = list(islice(self.frames(HELD), npages))
        for pfn in chain(held, self.frames(INACTIVE), self.frames(ACTIVE)):
            if not vm.slot_of[vm.phys.owner[pfn]] and not self.clean(pfn, settle=False) or vm.nslotless <= most:
                break

    def clean(self, pfn: int, settle: bool = True) -> bool:
        """Write a dirty page out, with dirty neighbours in address space; whether that went well.

        It is clean then, unless settle is false.  Slots are assigned here, in a row.  A page keeps its old slot until
        the new one is written.  If there is no new one, the old one is overwritten in place.  So a page that was ever
        out can always leave again.  O(CLUSTER).
        """
        vm = self.vm
        swap = vm.swap
        if swap is None:
            return False
        vpn = vm.phys.owner[pfn]
        lo, hi = self._cluster(vpn)
        self.patience -= WRITE_COST + 2 * (hi - lo)
        tier = vm.tier
        if tier is not None:
            self.patience -= PACK_COST * (hi - lo)
            if not vm.slot_of[vpn] and tier.full():
                return False
            taken, lo, hi = tier.take(vpn, lo, hi, settle)
            if taken:
                return True
            if not tier.stores_have_room():     # what is left there is for pages that have a slot
                if not vm.slot_of[vpn]:
                    return False
                lo, hi = vpn, vpn + 1
        elif vm.image is not None and not vm.slot_of[vpn] and backing.tight(vm):
            return False
        try:
            slot, count = swap.alloc(hi - lo)
        except NoSwap:
            return self._clean_in_place(vpn, settle)
        if count < hi - lo:
            lo = max(lo, vpn - count + 1)
            hi = lo + count
        try:
            self._write(slot, lo, hi)
        except OSError as error:
            swap.free(slot, count)
            self.failed(error, slot)
            return self._clean_one(vpn, settle)
        self.assign(slot, lo, hi, settle)
        return True

    def _cluster(self, vpn: int) -> tuple[int, int]:
        """The pages around vpn that are dirty and inactive too: [lo, hi) within one aligned window."""
        vm = self.vm
        pfn_of, dirty, queue = vm.pfn_of, vm.phys.dirty, self.queue
        lo = hi = vpn
        base = vpn & -CLUSTER
        while lo > base and (pfn := pfn_of(lo - 1)) >= 0 and dirty[pfn] and queue[pfn] == INACTIVE:
            lo -= 1
        hi += 1
        top = min(base + CLUSTER, len(vm.flags))
        while hi < top and (pfn := pfn_of(hi)) >= 0 and dirty[pfn] and queue[pfn] == INACTIVE:
            hi += 1
        return lo, hi

    def _write(self, slot: int, lo: int, hi: int) -> None:
        vm = self.vm
        frame, pfn_of = vm.phys.frame, vm.pfn_of
        vpns = range(lo, hi)
        assert vm.swap is not None
        vm.swap.write_cluster(slot, [frame(pfn_of(vpn)) for vpn in vpns], vpns)
        self.pageouts += hi - lo
        if vm.trace is not None:
            vm.trace("out", lo, hi - lo)

    def assign(self, slot: int, lo: int, hi: int, settle: bool) -> None:
        """Pages [lo, hi) are in the slots from slot on, and their old slots are free.  O(hi - lo)."""
        vm = self.vm
        old = vm.slot_of[lo:hi]
        for i, vpn in enumerate(range(lo, hi)):
            vm.slot_of[vpn] = slot + i
            pfn = vm.pfn_of(vpn)
            self.slotted[pfn] = 1
            if settle:
                vm.phys.dirty[pfn] = 0
            if self.queue[pfn] == HELD:
                self.requeue(pfn, INACTIVE)
        vm.nslotless -= old.count(0)
        vm.free_slots(old)

    def _clean_one(self, vpn: int, settle: bool) -> bool:
        """Write one page to any slot that takes it, and retire those that did not.

        If none of several takes it, the device is at fault and not the slots: none is retired.
        """
        swap = self.vm.swap
        assert swap is not None
        refused: list[int] = []
        full = False
        for _ in range(WRITE_TRIES):
            try:
                # Elsewhere at each try: bad blocks come in rows.
                slot, _count = swap.alloc(1, refused[0] + FAR ** len(refused) if refused else 0)
            except NoSwap:
                break
            try:
                self._write(slot, vpn, vpn + 1)
            except OSError as error:
                refused.append(slot)
                full = self.failed(error, slot)
                if full:
                    break
                continue
            for bad in refused:
                swap.retire(bad)
            self.assign(slot, vpn, vpn + 1, settle)
            return True
        for slot in refused:
            swap.free(slot)
        if full:
            swap.disk_full(refused[-1])         # free() took that back
        return self._clean_in_place(vpn, settle)

    def _clean_in_place(self, vpn: int, settle: bool) -> bool:
        """Write a page over the slot it has."""
        vm = self.vm
        slot = vm.slot_of[vpn]
        if not slot or vm.swap is None or vm.swap.read_only:
            return False
        if vm.tier is not None and vm.tier.ring.owns(slot):
            return vm.tier.take_whole(vpn, settle)
        if vm.image is not None and vm.image.owns(slot):
            backing.surrender(vm, vpn)
            return False
        if vm.swap.rests_at(slot):
            self.denied += 1
            return False
        vm.swap.end_hold()              # a frozen copy must not read half of it
        try:
            self._write(slot, vpn, vpn + 1)
        except OSError as error:
            self.failed(error, slot)
            return False
        if settle:
            vm.phys.dirty[vm.pfn_of(vpn)] = 0
        return True

    def failed(self, error: OSError, slot: int) -> bool:
        """Note a write error at a slot; whether it only means that the disk is full.  O(1)."""
        self.write_errors += 1
        self.denied += 1
        if seldom(self.write_errors):
            log.error("page-out failed, %d times so far: %s", self.write_errors, error.strerror)
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full and self.vm.swap is not None:
            self.vm.swap.disk_full(slot)
        return full

    def check(self) -> None:
        """Raise Inconsistent where D1, D2, D3 or D4 does not hold.  O(frames)."""
        vm = self.vm
        sizes = {len(self.next) - NHEADS, len(self.prev) - NHEADS, len(self.queue), len(self.fresh),
                 len(self.lives), len(self.slotted)}
        demand(sizes == {vm.phys.nframes}, "D3", f"{vm.phys.nframes} frames, arrays of {sorted(sizes)}")
        seen: dict[int, int] = {}
        for queue in (ACTIVE, INACTIVE, HELD):
            frames = list(self.frames(queue))
            demand(len(frames) == self.count[queue], "D2", f"queue {queue}: {len(frames)}, counted {self.count[queue]}")
            seen.update((pfn, queue) for pfn in frames)
        for pfn in range(vm.phys.nframes):
            vpn = vm.phys.owner[pfn]
            may_leave = vpn != 0 and vm.may_leave(vpn)
            demand((pfn in seen) == may_leave, "D1", f"frame {pfn}, page {vpn}, queue {seen.get(pfn)}")
            demand(self.queue[pfn] == seen.get(pfn, NOT_QUEUED), "D1", f"frame {pfn} says {self.queue[pfn]}")
            demand(self.slotted[pfn] == (may_leave and vm.slot_of[vpn] != 0), "D4", f"frame {pfn}, page {vpn}")
