"""uvm/aobj.py: anonymous objects: pages without an address, which are seen through windows.

The first approach of the mail of 2006.  The page daemon treats these pages like all others that may leave.  How they
are read and written is the matter of their windows (windows.py).

Picture     --alloc, Vm.alloc_page(WINDOWED)--> a page of the object --Vm.free_page, free--> nothing

Invariants  none of its own: those of its map (vmmap.py) and of its windows.

Breathing   Nothing here breathes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tmpfsd.uvm.vmmap import Submap
from tmpfsd.uvm.windows import Windows

if TYPE_CHECKING:
    from tmpfsd.uvm.vm import Vm


class AnonObject:
    """Pages that are seen through windows only."""

    __slots__ = ("vm", "windows", "_pages")

    def __init__(self, vm: Vm, nwindows: int) -> None:
        self.vm = vm
        self.windows = vm.windows = Windows(vm, nwindows)
        self._pages = Submap("the anonymous object", vm.kernel_map)     # their entries in the page table

    def alloc(self) -> int:
        """A page number; there is no memory behind it yet.  O(log chunks)."""
        return self._pages.alloc()

    def free(self, vpn: int) -> None:
        """Give a page number back.  O(log chunks)."""
        self._pages.free(vpn)

    def adopt(self, n: int) -> None:
        """n pages of kernel_map are its own.  O(1)."""
        self._pages.adopt(n)

    def stats(self) -> dict[str, int]:
        """Bytes of the object, and its windows.  O(1)."""
        windows = self.windows
        return {**self._pages.stats(), "windows": len(windows.page), "maps": windows.maps, "recycles": windows.recycles}

    def check(self) -> None:
        """Check its pages; the machine checks the windows.  O(chunks)."""
        self._pages.check()
