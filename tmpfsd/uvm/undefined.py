"""uvm/undefined.py: pages whose bytes are undefined between two breaths.

A page that will be overwritten whole is not read back, and a new page of data is not zeroed: both save more than the
write costs.  Until they are written, such pages hold the old bytes of their frames, which may be another user's.
They are listed here, so that nobody reads them, whatever ends the operation before it wrote them.

Picture     nothing --vm.alloc_data_pages--> NEW ----written()----> an ordinary page, dirty
            out -------vm.forget_content---> OLD ----written()--/
            NEW --restore()--> zeroes        OLD --restore()--> out again: its slot still has what was there
            NEW --vm.free_pages--> nothing   OLD likewise

Invariants
    V7  Between two operations, and at each breath, no page is here.  (vm.py numbers it with its own.)
    V8  A page of OLD is resident, dirty and has a slot, which holds its content.  So nothing is allocated while there
        are such pages: that may give pages new slots (vm.py, _make_slotless_room()).

Breathing   Nothing here breathes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tmpfsd.uvm.errors import demand
from tmpfsd.uvm.param import PAGE_SHIFT, PAGE_SIZE
from tmpfsd.uvm.physmem import ZERO_PAGE

if TYPE_CHECKING:
    from tmpfsd.uvm.vm import Vm


class Undefined:
    """The undefined pages of one machine: all, and those of them that had content.

    There are at most as many as the frames an operation may take in one breath: a run of data is at most 256 pages.
    """

    __slots__ = ("pages", "old")

    def __init__(self) -> None:
        self.pages: set[int] = set()
        self.old: set[int] = set()

    def written(self, vpn: int, n: int) -> None:
        """n pages in a row are completely written, or gone.  O(n)."""
        run = range(vpn, vpn + n)
        self.pages.difference_update(run)
        if self.old:
            self.old.difference_update(run)

    def restore(self, vm: Vm) -> None:
        """Give pages their old content back, and zero those that had none.  Cannot fail.  O(pages here)."""
        for vpn in self.pages:
            pfn = vm.pfn_of(vpn)
            if vpn in self.old:
                vm.daemon.drop(pfn)
            else:
                vm.phys.arena[pfn << PAGE_SHIFT:(pfn << PAGE_SHIFT) + PAGE_SIZE] = ZERO_PAGE
        self.pages.clear()
        self.old.clear()

    def check(self, vm: Vm) -> None:
        """Raise Inconsistent where V7 or V8 does not hold.  O(pages here)."""
        for vpn in self.old:
            pfn = vm.pfn_of(vpn)
            demand(pfn >= 0 and vm.phys.dirty[pfn] and vm.slot_of[vpn], "V8", f"page {vpn} has lost its content")
        demand(self.old <= self.pages and not self.pages, "V7", f"the bytes of pages {sorted(self.pages)} are nobody's")
