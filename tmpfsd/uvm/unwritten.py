"""uvm/unwritten.py: promised pages: they count, and have room to live in, but neither a frame nor content.

fallocate(2) reserves such pages.  The first write takes a frame from the reserve, as a page-in does, and cannot fail.
So a page gets its place when it is promised: a slot of a swap file, or if there is none, it counts for V6 as a page
that must stay in memory.  Until the first write its owner is UNWRITTEN, so one byte of `flags` tells it from all
others, and runs of them are found at the speed of memory.

Picture     --promise--> UNWRITTEN, a slot ---bring_in--> RESIDENT, dirty, slot        (zeroes)
                         UNWRITTEN, no slot --bring_in--> RESIDENT, dirty, no slot
                         --free_pages--> nothing
Invariants
    V9  An unwritten page has no frame.  No other page has its slot, if it has one; the content of the slot means
        nothing.

Breathing   Nothing here breathes.

Limits      A promise without a slot does not get one when a slot becomes free.  As long as it stands, ram cannot be
            made smaller than all such pages and the reserve.  The ring of a compressed tier (tier.py) has no room for
            promises: without a store they take frames.  A full disk under the swap file is a device that fails: a
            promise does not check for room there.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from tmpfsd.uvm.backing import keep_slots
from tmpfsd.uvm.errors import NoMemory, NoSwap, SwapIOError
from tmpfsd.uvm.pagekind import UNWRITTEN
from tmpfsd.uvm.param import PAGE_SHIFT, PAGE_SIZE
from tmpfsd.uvm.physmem import ZERO_PAGE

if TYPE_CHECKING:
    from tmpfsd.uvm.swap import Swap
    from tmpfsd.uvm.vm import Vm
    from tmpfsd.uvm.zlog import ZLog

DATA = 1                    # owner of the pages that they become
_LIKE = bytes((UNWRITTEN,))
_UNLIKE = bytes((DATA,))


def demand_room(vm: Vm, n: int) -> None:
    """See that n pages can be promised.  O(swap files).  => NoMemory."""
    if n > vm.limit - vm.npages:
        raise NoMemory("size is used up")
    if n > _slots(vm) + max(vm.most_slotless - vm.spare - vm.nslotless, 0):
        raise NoMemory("ram is full and no swap space is left")


def _slots(vm: Vm) -> int:
    """How many slots may be taken for promises: all free ones except those kept back (tier.py, backing.py)."""
    if vm.swap is None or not vm.swap.space:
        return 0
    kept = vm.tier.keep_slots if vm.tier is not None else keep_slots(vm)
    return max(vm.swap.nfree - kept, 0)


def promise(vm: Vm, vpn: int, n: int) -> None:
    """Promise n pages in a row, whose numbers are the caller's.  O(n), 0.05 us each.  => NoMemory; nothing changed."""
    demand_room(vm, n)
    if vpn + n > len(vm.flags):
        vm._grow(vpn + n - 1)
    got, most = 0, min(n, _slots(vm))
    while got < most and vm.swap is not None:
        try:
            slot, count = vm.swap.alloc(most - got)
        except NoSwap:
            break
        vm.slot_of[vpn + got:vpn + got + count] = array("I", range(slot, slot + count))
        got += count
    if n - got > max(vm.most_slotless - vm.spare - vm.nslotless, 0):
        vm.free_slots(vm.slot_of[vpn:vpn + got])
        vm.slot_of[vpn:vpn + got] = array("I", bytes(4 * got))
        raise NoMemory("ram is full and no swap space is left")
    vm.flags[vpn:vpn + n] = _LIKE * n
    vm.npages += n
    vm.nslotless += n - got
    vm.pages_of[UNWRITTEN] += n


def bring_in(vm: Vm, vpn: int, whole: bool = False) -> int:
    """Give an unwritten page a frame, because it is to be written: the frame.  O(1).  => SwapIOError: no frame.

    The frame is zeroed.  If the whole page will be written, it keeps its old bytes, as with vm.forget_content().
    """
    if not vm._free:
        raise SwapIOError(f"no frame for page {vpn}: the swap device does not take pages")
    pfn = vm.phys.alloc(vpn)
    if whole:
        vm.undefined.pages.add(vpn)
    else:
        at = pfn << PAGE_SHIFT
        vm.phys.arena[at:at + PAGE_SIZE] = ZERO_PAGE
    vm.phys.dirty[pfn] = vm.phys.referenced[pfn] = 1        # V3, and its slot has nothing of it
    vm.pte[vpn] = pfn
    vm.flags[vpn] = DATA
    vm.pages_of[UNWRITTEN] -= 1
    vm.pages_of[DATA] += 1
    vm.resident_of[DATA] += 1
    vm.daemon.fresh[pfn] = 1
    vm.daemon.enter(pfn)
    vm.daemon.slotted[pfn] = vm.slot_of[vpn] != 0
    if vm.sampler is not None:
        vm.sampler.made(vpn, 1)
    return pfn


def is_unwritten(vm: Vm, vpn: int) -> bool:
    """Whether a page is promised and was never written.  O(1)."""
    return vm.flags[vpn] == UNWRITTEN


def run(vm: Vm, vpn: int, n: int) -> tuple[bool, int]:
    """(whether the first of n pages of data is unwritten, how many in a row are like it).  O(n), at 20 per ns."""
    if not vm.pages_of[UNWRITTEN]:
        return False, n
    found = vm.flags[vpn] == UNWRITTEN
    end = vm.flags.find(_UNLIKE if found else _LIKE, vpn, vpn + n)
    return found, n if end < 0 else end - vpn


def settle(vm: Vm, swap: Swap | ZLog, vpn: int) -> None:
    """Give an unwritten page a slot of another file, or none, because `swap` is let go.  O(1).  => NoSwap."""
    assert vm.swap is not None
    try:
        slot = vm.swap.alloc(1)[0]
    except NoSwap:
        if vm.nslotless >= vm.most_slotless:
            raise NoSwap("what it holds fits nowhere else: other swap files and ram are full") from None
        slot = 0
        vm.nslotless += 1
    swap.free(vm.slot_of[vpn])
    vm.slot_of[vpn] = slot
