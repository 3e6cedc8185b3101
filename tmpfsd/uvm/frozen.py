"""uvm/frozen.py: a frozen copy of the machine, in a process of its own, that looks around while the machine runs on.

fork() copies frames and tables: whatever operations change afterwards, the copy does not see.  What is out is in the
swap files, which both have.  So as long as the copy lives, what was in a slot when it was made stays there: hold()
has slots that are given back parked (vmem.py) instead of free, no holes are punched, and no page is written over in
place.  Requests come first.  Where only a parked slot would do, or the page's own, the hold is broken: the slots are
free, and whoever holds them is told that the copy is worth nothing any more.

The copy writes to no swap file (`read_only`).  It drops clean pages and keeps dirty ones; become_copy() gives it
frames of its own, SPARE of them, to page in to.

Picture     --hold--> HELD BACK --let_go--> slots are unparked in slices, from idle() and trim()
                          |------broken---> the same, and broken() is called

Invariants
    Z1  While slots are held back, what was held when that began is neither written to nor punched.

Breathing   Nothing here breathes.

Limits      One hold at a time.  Memory that is changed meanwhile exists twice, up to `ram`.
"""

from __future__ import annotations

from typing import Callable

from tmpfsd.uvm.queues import ACTIVE, HELD, INACTIVE
from tmpfsd.uvm.swap import Swap
from tmpfsd.uvm.vm import Vm

SPARE = 4096                # frames of its own that a copy has: 16 MiB


class Hold:
    """Keeps what is in the swap files where it is."""

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
        """A slot is needed: tell who holds them, and let go.  O(files)."""
        self.broken = True
        self._tell()
        self.let_go()

    def let_go(self) -> None:
        """Slots may be used again.  O(files); unparking them is the swap files' matter."""
        for file in self._files():
            file.hold = None


def become_copy(vm: Vm) -> None:
    """Be the copy: never write to swap, and have frames to page in to.  O(frames)."""
    vm.trace = vm.sampler = None
    vm.thrash = False
    for file in vm.swap.files if vm.swap is not None else []:
        file.read_only = True
    if vm.tier is not None:
        vm.tier.ring.draining = True        # it is ours, but what is put there is copied memory
    for queue in (INACTIVE, ACTIVE):
        for pfn in list(vm.daemon.frames(queue)):
            if vm.phys.dirty[pfn]:
                vm.daemon.requeue(pfn, HELD)
    more = min(vm.phys.nframes + SPARE, vm.phys.most)
    vm.phys.grow(max(more, vm.phys.nframes))
    vm.measure()
