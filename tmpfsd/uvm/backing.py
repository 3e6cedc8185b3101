"""uvm/backing.py: pages that were there before the mount: an image, seen as slots that can only be read.

The slots of a backing are the first in the space of numbers (swapset.py): each of its pages has one, as if it had been
paged out.  A page that is changed gets a slot of a store at page-out.  Its old slot is given back, which only means
that nobody reads it any more.  Nothing is written to a backing, so any number of mounts can share one.

A page with a slot must be able to leave, or the reserve cannot be filled (README.md, V6).  A dirty page with a slot of
a store can be overwritten in place; one with a slot of a backing cannot.  So as many slots of the stores are kept back
as there may be such pages in frames.  When only these are left, pages without a slot get none, and changes to existing
pages are refused (room.py), except removals.

Picture     OUT, slot of the backing --fault--> clean --write--> dirty --clean--> clean, slot of a store
                                                                       --no store takes it--> dirty, no slot (V6)
Invariants
    B1  The numbers of a backing begin at 1.  nheld counts the pages that have one.

Breathing   Nothing here breathes.

Limits      If the disk under the swap file is full, pages that have kept slots cannot leave either: this counts as a
            device that fails.
"""

from __future__ import annotations

import re
from array import array
from typing import TYPE_CHECKING, Protocol, Sequence

from tmpfsd.uvm import pte
from tmpfsd.uvm.errors import NoMemory, NoSwap
from tmpfsd.uvm.pagekind import UNWRITTEN

if TYPE_CHECKING:
    from tmpfsd.uvm.vm import Vm

_FRAMELESS = re.compile(b"[\\0\\x%02x]+" % UNWRITTEN)
_UNWRITTEN = re.compile(b"\\x%02x+" % UNWRITTEN)


class Backing(Protocol):
    """What memory needs of an image.  Slots, pages and errors are as Swap has them."""

    @property
    def base(self) -> int:
        """Its first slot: 1 (B1).  O(1)."""

    @property
    def width(self) -> int:
        """How many slots it has.  O(1)."""

    @property
    def nheld(self) -> int:
        """How many pages have one.  O(1)."""

    def owns(self, slot: int) -> bool:
        """Whether a slot is one of its own.  O(1)."""

    def free(self, slot: int, n: int = 1) -> None:
        """Nobody reads n slots any more.  O(1).  => They are not used again."""

    def retire(self, slot: int) -> None:
        """As free(), for a page that was lost and is freed.  O(1)."""

    def read_cluster(self, slot: int, pages: Sequence[memoryview], vpns: Sequence[int]) -> int:
        """See Swap.  O(pages)."""

    def verify(self, slot: int, vpn: int) -> bool:
        """See Swap.  O(1)."""

    def descriptors(self) -> list[int]:
        """The open files that a frozen copy must keep.  O(1)."""

    def check(self, held: set[int]) -> None:
        """Raise Inconsistent where B1 does not hold; held are the slots that pages name.  O(1)."""

    def stats(self) -> dict[str, object]:
        """What the status tells of it: path, pages that are still its own, pages read.  O(1)."""

    def close(self) -> None:
        """Let go.  O(1)."""


def keep_slots(vm: Vm) -> int:
    """How many slots of the stores are kept for changed pages of the backing.  O(1)."""
    return min(vm.phys.nframes, vm.image.nheld) + 2 * vm.reserve if vm.image is not None else 0


def tight(vm: Vm) -> bool:
    """Whether the stores have only the slots left that are kept back.  O(files)."""
    return vm.image is not None and (vm.swap is None or vm.swap.nfree < keep_slots(vm))


def surrender(vm: Vm, vpn: int) -> None:
    """No store takes a changed page of the backing: it loses its slot, if V6 allows it.  O(1)."""
    if vm.nslotless < vm.most_slotless:
        vm.lose_slot(vpn)


def restore(vm: Vm, flags: bytes, slots: bytes) -> None:
    """Enter the pages of the backing, with owner and slot of each; all are out.  O(pages), at the speed of memory.

    => The machine has no page yet.  => NoMemory: there are more than `limit`, or promised pages have no room.
    """
    assert not vm.npages, "there are pages already"
    n = len(flags)
    free = flags.count(0)
    if n - free > vm.limit:
        raise NoMemory("size is used up")
    if n > len(vm.flags):
        vm._grow(n - 1)
    vm.flags[:n] = flags
    vm.slot_of[:n] = array("I", slots)
    vm.pte[:n] = pte.row(pte.LONG_OUT, n)
    for run in _FRAMELESS.finditer(flags):
        vm.pte[run.start():run.end()] = pte.row(pte.NONE, run.end() - run.start())
    vm.npages = n - free
    for owner in range(1, len(vm.pages_of)):
        vm.pages_of[owner] = flags.count(owner)
    vm.kernel_map.fill(flags[1:])
    for run in _UNWRITTEN.finditer(flags):
        _promise(vm, run.start(), run.end())


def _promise(vm: Vm, vpn: int, end: int) -> None:
    """Give unwritten pages slots, or count them as pages without one.  => NoMemory."""
    while vpn < end and vm.swap is not None:
        try:
            slot, count = vm.swap.alloc(end - vpn)
        except NoSwap:
            break
        vm.slot_of[vpn:vpn + count] = array("I", range(slot, slot + count))
        vpn += count
    vm.nslotless += end - vpn
    if vm.nslotless > vm.most_slotless:
        raise NoMemory("ram and swap have no room for what is reserved")
