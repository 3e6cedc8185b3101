"""uvm/pagedaemon.py: which page leaves, and when.

Called from vm.breathe() when frames run short, from vm.alloc_page() when too many pages
have no slot, and from the idle loop to launder ahead.  It never runs between two breaths
of an operation but to write pages out, which moves none of them.

Two queues of frames, as in UVM, and a third for pages that could not be written.  A page comes in fresh at
the inactive tail.  At the inactive head, a page that was referenced goes round once more if it is fresh (a
burst of touches to one page counts once: this keeps a scan from flushing the working set) and is activated
if it was referenced again; one that was not referenced leaves.  A page that comes back soon after it left,
sooner than the machine has frames, is activated at once (the refault distance of Linux mm/workingset.c).  A
dirty page for which there is no slot is held aside until there is one: where swap is full, nobody scans it
again and again.

Picture     --enter--> INACTIVE(fresh) --> INACTIVE --referenced--> ACTIVE
                          |                   |     <--balance--      |
                          +--- reclaim: clean, drop                 (refault: --enter--> ACTIVE)
                               no slot: HELD --there are slots--> INACTIVE

Invariants
    D1  A frame is on a queue exactly when it holds a page that may leave.
    D2  count says how many frames each queue has.

Breathing   reclaim() and evict_all() make offsets stale.  launder() leaves them, but a page it cleaned must be
            looked up again before it is written: only give_slots() may run inside an operation.
"""

from __future__ import annotations

import errno
import time
from array import array
from itertools import chain, islice
from typing import TYPE_CHECKING, Iterable

from tmpfsd.uvm.errors import NoSwap, demand

if TYPE_CHECKING:
    from tmpfsd.uvm.vm import Vm

NOT_QUEUED, ACTIVE, INACTIVE, HELD = range(4)
CLUSTER = 16                # pages written together: 64 KiB
WRITE_TRIES = 3             # slots tried for one page before it stays
FAR = 64                    # slots from a bad one to the next that is tried, and its square
MANY_ERRORS = 16            # writes that fail before reclaim gives the device a rest
BACKOFF = 0.05              # seconds of rest after a reclaim that a failing device or empty queues left short


class PageDaemon:
    """The queues of one Vm and the policy over them."""

    __slots__ = ("vm", "next", "prev", "queue", "fresh", "count", "clock", "batch", "resting_until", "vain_until",
                 "scans", "reclaims", "stalls", "pageouts", "write_errors")

    def __init__(self, vm: Vm) -> None:
        nframes = vm.phys.nframes
        self.vm = vm
        # Circular lists through the frames; the heads stand behind the last frame.
        self.next = array("I", range(nframes + 3))
        self.prev = array("I", range(nframes + 3))
        self.queue = bytearray(nframes)
        self.fresh = bytearray(nframes)
        self.count = [nframes, 0, 0, 0]
        self.clock = 0                      # pages that have left; what refault distances are measured in
        self.batch = min(max(nframes >> 5, CLUSTER), 512, (nframes - vm.reserve + 3) // 4)
        self.resting_until = self.vain_until = 0.0
        self.scans = self.reclaims = self.stalls = self.pageouts = self.write_errors = 0

    # --- queues ---

    def enter(self, pfn: int, queue: int = INACTIVE) -> None:
        """Put a frame that may leave at the tail of a queue."""
        head = len(self.queue) + queue - 1
        last = self.prev[head]
        self.next[last] = self.prev[head] = pfn
        self.prev[pfn] = last
        self.next[pfn] = head
        self.queue[pfn] = queue
        self.count[queue] += 1

    def remove(self, pfn: int) -> None:
        """Take a frame off its queue."""
        before, after = self.prev[pfn], self.next[pfn]
        self.next[before] = after
        self.prev[after] = before
        self.count[self.queue[pfn]] -= 1
        self.queue[pfn] = NOT_QUEUED

    def _requeue(self, pfn: int, queue: int) -> None:
        self.remove(pfn)
        self.enter(pfn, queue)

    def _head(self, queue: int) -> int:
        """The frame that has waited longest; meaningless when the queue is empty."""
        return self.next[len(self.queue) + queue - 1]

    def frames(self, queue: int) -> Iterable[int]:
        """The frames of a queue, longest waiting first; the queue may not change meanwhile."""
        head = len(self.queue) + queue - 1
        pfn = self.next[head]
        while pfn != head:
            yield pfn
            pfn = self.next[pfn]

    # --- which page leaves ---

    def reclaim(self) -> None:
        """Evict until a batch of frames beyond the low watermark is free.  => Offsets are stale afterwards."""
        now = time.monotonic()
        if now < self.resting_until or now < self.vain_until and not any(self.count[ACTIVE:]):
            return
        self.scans += 1
        if not any(self.count[ACTIVE:]):
            self.stalls += 1
            self.vain_until = now + BACKOFF         # no queue has a page: looking harder finds none
            return
        vm, free = self.vm, self.vm.phys.free_frames
        target = vm.low + self.batch
        errors = self.write_errors
        self._retry_held()
        # A page is looked at once for its reference, once for being fresh or active, and once more to leave.
        left = 4 * (self.count[ACTIVE] + self.count[INACTIVE])
        while len(free) < target and left > 0 and self.write_errors < errors + MANY_ERRORS:
            self._balance()
            if not self.count[INACTIVE]:
                break
            left -= 1
            self._consider(self._head(INACTIVE))
        if len(free) < vm.reserve:
            self.stalls += 1
            if self.write_errors > errors:
                self.resting_until = now + BACKOFF

    def _consider(self, pfn: int) -> None:
        """Evict the frame at the inactive head, or put it where it belongs."""
        vm = self.vm
        if vm.phys.referenced[pfn]:
            vm.phys.referenced[pfn] = 0
            self._requeue(pfn, INACTIVE if self.fresh[pfn] else ACTIVE)
            self.fresh[pfn] = 0
        elif vm.phys.dirty[pfn] and not self.clean(pfn):
            # A page that has a slot can be written over in place whenever the device works again: it stays in sight.
            self._requeue(pfn, INACTIVE if vm.slot_of[vm.phys.owner[pfn]] else HELD)
        else:
            self.drop(pfn)

    def _retry_held(self) -> None:
        """Let as many held pages try again as there may be slots for."""
        swap = self.vm.swap
        if self.count[HELD] and swap is not None and swap.space:
            for pfn in list(islice(self.frames(HELD), min(swap.nfree, self.batch))):
                self._requeue(pfn, INACTIVE)

    def _balance(self) -> None:
        """Keep a third of the pages inactive: so long is the run-up in which a page can prove itself."""
        count, referenced = self.count, self.vm.phys.referenced
        left = count[ACTIVE]
        while left and 2 * count[INACTIVE] < count[ACTIVE]:
            left -= 1
            pfn = self._head(ACTIVE)
            self._requeue(pfn, ACTIVE if referenced[pfn] else INACTIVE)
            referenced[pfn] = 0
        if left == 0 and not count[INACTIVE] and count[ACTIVE]:
            self._requeue(self._head(ACTIVE), INACTIVE)

    def drop(self, pfn: int) -> None:
        """Evict a clean page: its frame is free, its slot keeps it."""
        vm = self.vm
        vpn = vm.phys.owner[pfn]
        if vm.trace is not None:
            vm.trace("drop", vpn, 1)
        if vm.windows is not None:
            vm.windows.unmap(pfn)
        vm.frame_of[vpn] = -2 - self.clock
        self.clock = (self.clock + 1) & 0x3FFFFFFF
        vm.resident_of[vm.flags[vpn]] -= 1
        self.remove(pfn)
        vm.phys.free(pfn)
        self.reclaims += 1

    def came_back_soon(self, mark: int) -> bool:
        """Whether a page that left at -2 - mark did so less than one memory's worth of evictions ago."""
        return (self.clock - (-2 - mark)) & 0x3FFFFFFF <= len(self.queue)

    def evict_all(self) -> None:
        """Evict whatever may leave (TMPFSD_THRASH, `flush`).  => Offsets are stale afterwards."""
        for queue in (INACTIVE, ACTIVE, HELD):
            for pfn in list(self.frames(queue)):
                if not self.vm.phys.dirty[pfn] or self.clean(pfn):
                    self.drop(pfn)

    # --- laundering ---

    def launder(self, npages: int) -> int:
        """Write out dirty pages that will leave next, about npages of them; how many were written."""
        dirty, before = self.vm.phys.dirty, self.pageouts
        for pfn in islice(self.frames(INACTIVE), 4 * npages):
            if dirty[pfn] and not self.clean(pfn) or self.pageouts - before >= npages:
                break
        return self.pageouts - before

    def give_slots(self, npages: int) -> None:
        """Write out pages that have no slot, about npages of them, in the middle of an operation.

        They stay dirty: the operation may hold offsets into them and write there after us.
        """
        vm, most = self.vm, self.vm.nslotless - npages
        held = list(islice(self.frames(HELD), npages))
        for pfn in chain(held, self.frames(INACTIVE), self.frames(ACTIVE)):
            if not vm.slot_of[vm.phys.owner[pfn]] and not self.clean(pfn, settle=False) or vm.nslotless <= most:
                break

    def clean(self, pfn: int, settle: bool = True) -> bool:
        """Write a dirty page out, with dirty neighbours in address space; whether that went well.

        It is clean then, unless settle is false.  Slots are assigned here, in a row.  A page keeps the slot it had
        until the new one is written; where no new one can be had it is written over in place, so that a page that
        was ever out can always leave again.
        """
        vm = self.vm
        swap = vm.swap
        if swap is None:
            return False
        vpn = vm.phys.owner[pfn]
        lo, hi = self._cluster(vpn)
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
            self._failed(error)
            return self._clean_one(vpn, settle)
        self._assign(slot, lo, hi, settle)
        return True

    def _cluster(self, vpn: int) -> tuple[int, int]:
        """The pages around vpn that are dirty and wait for eviction too: [lo, hi) within one aligned window."""
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

    def _assign(self, slot: int, lo: int, hi: int, settle: bool) -> None:
        """Pages [lo, hi) are in the slots from slot on, and their old slots are free."""
        vm = self.vm
        old = vm.slot_of[lo:hi]
        for i, vpn in enumerate(range(lo, hi)):
            vm.slot_of[vpn] = slot + i
            pfn = vm.pfn_of(vpn)
            if settle:
                vm.phys.dirty[pfn] = 0
            if self.queue[pfn] == HELD:
                self._requeue(pfn, INACTIVE)
        vm.nslotless -= old.count(0)
        vm.free_slots(old)

    def _clean_one(self, vpn: int, settle: bool) -> bool:
        """Write one page to any slot that takes it, and retire those that did not.

        Where none of several takes it, the device is at fault and not the slots: they are kept for better days.
        """
        swap = self.vm.swap
        assert swap is not None
        refused: list[int] = []
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
                if self._failed(error):
                    break
                continue
            for bad in refused:
                swap.retire(bad)
            self._assign(slot, vpn, vpn + 1, settle)
            return True
        full = not swap.space
        for slot in refused:
            swap.free(slot)
        if full:
            swap.disk_full()
        return self._clean_in_place(vpn, settle)

    def _clean_in_place(self, vpn: int, settle: bool) -> bool:
        """Write a page over the slot it has."""
        vm = self.vm
        slot = vm.slot_of[vpn]
        if not slot:
            return False
        try:
            self._write(slot, vpn, vpn + 1)
        except OSError as error:
            self._failed(error)
            return False
        if settle:
            vm.phys.dirty[vm.pfn_of(vpn)] = 0
        return True

    def _failed(self, error: OSError) -> bool:
        """Note a write error; whether it only means that the disk is full."""
        self.write_errors += 1
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full and self.vm.swap is not None:
            self.vm.swap.disk_full()
        return full

    def check(self) -> None:
        """Raise Inconsistent where D1 or D2 does not hold."""
        vm = self.vm
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
