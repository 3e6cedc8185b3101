"""uvm/vmcheck.py: checks the invariants of memory: those of vm.py (V1-V9), of its parts, and L1.

It recounts all counters, repairs nothing, and brings no page in: slots are read into a separate buffer.

A page that cannot be read is lost data; it breaks no invariant.  The same is true of a slot with wrong bytes if
somebody else may have written to the store.  The check of a mount has vm.unreadable, and both are noted there.  Without
it, in tests and in a check after each operation, nobody else writes there, and wrong bytes are S3.

Breathing   Never.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Callable, Final

from tmpfsd.uvm import pte
from tmpfsd.uvm.errors import SwapIOError, Unanswered, demand
from tmpfsd.uvm.pagekind import MAX_OWNERS, OWNER_MASK, UNOWNED, UNWRITTEN, WIRED

if TYPE_CHECKING:
    from tmpfsd.uvm.vm import Vm

TELL: Final = 1024          # pages between two reports of check_vm() on its progress


def check_vm(vm: Vm, deep: bool, tell: Callable[[int], None]) -> None:
    """Raise Inconsistent where an invariant does not hold; deep reads every slot.  O(pages + frames)."""
    vm.phys.check()
    vm.undefined.check(vm)
    vm.kernel_map.check()
    vm.daemon.check()
    if vm.windows is not None:
        vm.windows.check()
    slots = [slot for slot in vm.slot_of if slot]
    demand(len(slots) == len(set(slots)), "V5", "two pages have one slot")
    if vm.swap is not None:
        vm.swap.check(set(slots))
    for vpn in range(len(vm.flags)):
        if not vpn & TELL - 1:
            tell(vpn)
        _check_page(vm, vpn, deep)
    for vpn in vm.lost.pages:
        demand(vm.flags[vpn] and not vm.is_resident(vpn), "L1", f"lost page {vpn} is resident, or nobody's")
    _check_counts(vm)


def _check_page(vm: Vm, vpn: int, deep: bool) -> None:
    entry, slot, flags = vm.pte[vpn], vm.slot_of[vpn], vm.flags[vpn]
    pfn = pte.pfn(entry)
    if not flags:
        demand(entry == pte.NONE and not slot, "V1", f"page {vpn} has no owner, frame {pfn}, slot {slot}")
        return
    if flags == UNWRITTEN:
        demand(entry == pte.NONE, "V9", f"page {vpn} is unwritten, and in frame {pfn}")
        return
    demand(entry != pte.NONE, "V1", f"page {vpn} is neither resident nor out")
    if pfn >= 0:
        demand(vm.phys.owner[pfn] == vpn, "V2", f"page {vpn}, frame {pfn} of page {vm.phys.owner[pfn]}")
    demand(slot or (pfn >= 0 and vm.phys.dirty[pfn]), "V3", f"page {vpn} has no slot and is not dirty in a frame")
    if deep and slot and (pfn < 0 or not vm.phys.dirty[pfn]) and (
            vm.unreadable is not None or vpn not in vm.lost.pages):
        _check_slot(vm, vpn, slot, pfn >= 0)


def _check_slot(vm: Vm, vpn: int, slot: int, resident: bool) -> None:
    """Read the slot of page vpn, and once more if that fails: the failure may be temporary.

    => Unanswered: the check of a mount ends; a store that is away would make all its pages lost ones.
    """
    assert vm.swap is not None
    wrong = False
    for _ in range(2):
        try:
            if vm.swap.verify(slot, vpn):
                if vm.unreadable is not None:
                    vm.unreadable.answered(vpn, slot)
                return
            wrong = True
        except Unanswered:
            if vm.unreadable is not None:
                raise
            return
        except SwapIOError:
            wrong = False
    if vm.unreadable is not None:
        vm.unreadable.add(vpn, slot, resident)
    else:
        demand(not wrong, "S3", f"slot {slot} does not answer with page {vpn}")


def _check_counts(vm: Vm) -> None:
    pages, resident = [0] * MAX_OWNERS, [0] * 256
    slotless = wired = unowned = 0
    for vpn in range(len(vm.flags)):          # mypyc knows no enumerate() of a bytearray
        flags = vm.flags[vpn]
        if flags:
            pages[flags & OWNER_MASK] += 1
            resident[flags] += vm.is_resident(vpn)
            slotless += not vm.slot_of[vpn]
            wired += bool(flags & WIRED)
            unowned += bool(flags & UNOWNED)
    demand(sum(resident) == vm.phys.nused, "V2", f"{sum(resident)} resident pages")
    demand(pages == vm.pages_of and resident == vm.resident_of, "V4", "pages by owner")
    found = (sum(pages), slotless, wired, unowned)
    counted = (vm.npages, vm.nslotless, vm.nwired, vm.nunowned)
    demand(found == counted, "V4", f"pages, slotless, wired, unowned: {found}, counted {counted}")
    most = min(vm.phys.nframes, vm.phys.ceiling) - vm.reserve
    demand(vm.most_slotless == most, "V6", f"{most} pages may be without a slot, noted {vm.most_slotless}")
    demand(slotless <= most or vm.daemon.write_errors, "V6", f"{slotless} pages without a slot")
