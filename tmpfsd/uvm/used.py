"""uvm/used.py: which pages were used since some moment, in the order in which they came in.

For a snapshot that brings its working set along (image/FORMAT.md, the table `hot`).  A fault notes the page that is
asked for.  The page daemon notes a resident page when it finds that it was referenced, and when the page leaves.  So at
the end only pages are missing that are resident and were referenced since the last look; used_pages() adds them.  Pages
that came in by read-ahead are noted when they are used.

Picture     Used(vm): nothing is referenced --note()--> in `order`, its bit is set --used_pages()--> all

Breathing   Nothing here breathes.

Limits      Pages that were referenced before it began look unused to the page daemon when it begins.
            A page number that is freed and used again counts as the same page.
"""

from __future__ import annotations

from array import array
from itertools import compress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tmpfsd.uvm.vm import Vm

MOST: Final = 1 << 20       # pages that are remembered: 4 GiB, in 4 MiB of memory


class Used:
    """A bit for each page, and their order."""

    __slots__ = ("order", "_bits", "_most")

    def __init__(self, vm: Vm, most: int = MOST) -> None:
        self._most = most
        self.order = array("I")
        self._bits = bytearray(len(vm.flags) + 7 >> 3)
        vm.phys.referenced[:] = bytes(len(vm.phys.referenced))

    def note(self, vpn: int) -> None:
        """Page vpn was used.  O(1)."""
        at, bit = vpn >> 3, 1 << (vpn & 7)
        if at >= len(self._bits):
            self._bits.extend(bytes(at + 1 - len(self._bits) + (at >> 3)))
        if not self._bits[at] & bit and len(self.order) < self._most:
            self._bits[at] |= bit
            self.order.append(vpn)


def used_pages(vm: Vm) -> array[int]:
    """The pages that were used; if nothing was noted, those that are in memory.  O(frames)."""
    if vm.used is None:
        return array("I", filter(None, vm.phys.owner))
    for vpn in compress(vm.phys.owner, vm.phys.referenced):
        vm.used.note(vpn)
    return vm.used.order
