"""uvm/frozen.py: a frozen copy of the machine, in a process of its own, that looks around while the machine runs on.

fork() copies frames and tables, so the copy does not see what operations change afterwards.  Pages that are out are in
the swap files, which both share.  So as long as the copy lives, the content of a slot at the fork stays there: slots
that are given back are parked (vmem.py) instead of free, no holes are punched, and no page is overwritten in place
(Hold).  Requests come first.  If one needs a parked slot, or the page's own, the hold is broken: the slots are free,
and the holder is told that the copy is worth nothing any more.

The copy writes to no swap file (`read_only`).  It drops clean pages and keeps dirty ones.  become_copy() gives it SPARE
frames of its own for page-ins.

Picture     --hold--> HELD BACK --let_go--> slots are unparked in slices, from idle() and trim()
                          |------broken---> the same, and broken() is called

Invariants
    Z1  While there is a hold, slots that were held when it began are neither written to nor punched.

Breathing   Nothing here breathes.

Limits      One hold at a time.  Memory that is changed meanwhile exists twice, up to `ram`.
"""

from __future__ import annotations

from typing import Callable

from tmpfsd.uvm.queues import ACTIVE, HELD, INACTIVE
from tmpfsd.uvm.swap import Swap
from tmpfsd.uvm.vm import Vm

SPARE = 4096                # frames that a copy has in addition: 16 MiB


class Hold:
    """Keeps the contents of the swap files where they are."""

    __slots__ = ("vm", "broken", "_tell")

    def __init__(self, vm: Vm, tell: Callable[[], None]) -> None:
        self.vm = vm
        self.broken = False
        self._tell = tell
        for file in self._files():
            file.hold = self.end_early

    def _files(self) -> list[Swap]:
        return self.vm.swap.files if self.vm.swap is not None else []

    def end_early(self) -> None:
        """A slot is needed: tell the holder, and let go.  O(files)."""
        self.broken = True
        self._tell()
        self.let_go()

    def let_go(self) -> None:
        """Slots may be used again.  O(files); the swap files unpark them."""
        for file in self._files():
            file.hold = None


def become_copy(vm: Vm) -> None:
    """Be the copy: never write to swap, and have frames to page in to.  O(frames)."""
    vm.trace = vm.sampler = None
    vm.thrash = False
    for file in vm.swap.files if vm.swap is not None else []:
        file.read_only = True
    if vm.tier is not None:
        vm.tier.ring.draining = True        # it is ours, but a write there makes the system copy memory
    for queue in (INACTIVE, ACTIVE):
        for pfn in list(vm.daemon.frames(queue)):
            if vm.phys.dirty[pfn]:
                vm.daemon.requeue(pfn, HELD)
    more = min(vm.phys.nframes + SPARE, vm.phys.most)
    vm.phys.grow(max(more, vm.phys.nframes))
    vm.measure()
