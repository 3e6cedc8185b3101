"""uvm/windows.py: the windows through which the pages of an anonymous object are seen.

There are few windows.  They are allocated when a page is touched and recycled when they are idle, as ubc_alloc() and
ubc_release() do with file pages (uvm_bio.c).  A page without a window is hidden (pte.py), so touching it comes to
fault().  An offset is good until the next breathe(), so each page that an operation touches between two breaths needs a
window of its own: one window cannot hold two records.  Windows are therefore kept in reserve as frames are.  `reserve`
windows are always enough: an operation touches at most that many pages between two breaths, or it could not run when
all of them are out.  Fewer are enough for a pool whose user holds fewer records at a time; a file system's mount
refuses fewer (options.py).

Only the machine (vm.py) calls them, and only if it has any.  A page comes into view in Vm._show(), and leaves its frame
in Vm.leave_frame().

Picture     OUT --fault--> SHOWN --recycle--> HIDDEN, in a frame --fault--> SHOWN
                             |                   |
                             +----leave_frame----+--> OUT, or nothing

Invariants
    W1  A window shows one resident page of an object, or none; the page's frame names its window.
    W2  A page of an object is in view exactly when a window shows it.
    W3  The free windows are those that show nothing.
    W4  Between two breaths no more pages are touched than there are windows.

Breathing   recycle() makes offsets stale: only breathe() calls it.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Final

from tmpfsd.uvm import pte
from tmpfsd.uvm.errors import Inconsistent, demand
from tmpfsd.uvm.pagekind import WINDOWED

if TYPE_CHECKING:
    from tmpfsd.uvm.vm import Vm

NO_WINDOW: Final = -1


class Windows:
    """The windows of one machine."""

    __slots__ = ("vm", "reserve", "page", "window_of", "free", "hand", "maps", "recycles")

    def __init__(self, vm: Vm, nwindows: int) -> None:
        assert nwindows > 0, "nothing can be seen without a window"
        self.vm = vm
        self.reserve = min(vm.reserve, nwindows)                # free at each breath
        self.page = array("I", bytes(4 * nwindows))             # what each shows, 0 for nothing
        self.window_of = array("i", [NO_WINDOW] * vm.phys.nframes)
        self.free = array("I", range(nwindows - 1, -1, -1))
        self.hand = 0                                           # windows are recycled in turn
        self.maps = self.recycles = 0

    def show(self, vpn: int, pfn: int) -> None:
        """A window shows page vpn, which is in frame pfn, from now on.  O(1)."""
        if not self.free:
            raise Inconsistent("W4", f"all {len(self.page)} windows are in use, and another page is touched")
        window = self.free.pop()
        self.page[window] = vpn
        self.window_of[pfn] = window
        self.vm.pte[vpn] = pfn
        self.maps += 1

    def hide(self, pfn: int) -> None:
        """Take away the window of a frame, if it has one; its page stays resident.  O(1)."""
        window = self.window_of[pfn]
        if window != NO_WINDOW:
            self.vm.pte[self.page[window]] = pte.hidden(pfn)
            self.page[window] = 0
            self.window_of[pfn] = NO_WINDOW
            self.free.append(window)

    def resize(self) -> None:
        """Adapt to the present number of frames; no window shows one that is gone.  O(frames that are new)."""
        nframes = self.vm.phys.nframes
        del self.window_of[nframes:]
        self.window_of.extend([NO_WINDOW] * (nframes - len(self.window_of)))

    def move(self, pfn: int, to: int) -> None:
        """The page of frame pfn is in frame `to` now; its window follows.  O(1)."""
        self.window_of[to], self.window_of[pfn] = self.window_of[pfn], NO_WINDOW

    def recycle(self) -> None:
        """Take windows away in turn, until the reserve is free.  O(windows).  => Offsets are stale afterwards."""
        while len(self.free) < self.reserve:
            vpn = self.page[self.hand]
            self.hand = (self.hand + 1) % len(self.page)
            if vpn:
                self.hide(self.vm.pte[vpn])
                self.recycles += 1

    def check(self) -> None:
        """Raise Inconsistent where W1-W3 do not hold.  O(windows + frames)."""
        vm = self.vm
        free = set(self.free)
        demand(len(free) == len(self.free), "W3", "a window is free twice")
        for window, vpn in enumerate(self.page):
            demand((window in free) == (vpn == 0), "W3", f"window {window} shows page {vpn}")
            if vpn:
                pfn = vm.pte[vpn]
                demand(pfn >= 0 and self.window_of[pfn] == window, "W1", f"window {window}, page {vpn}, frame {pfn}")
        for pfn, window in enumerate(self.window_of):
            vpn = vm.phys.owner[pfn]
            if window != NO_WINDOW:
                demand(vpn and self.page[window] == vpn, "W1", f"frame {pfn} names window {window}")
            elif vpn and vm.flags[vpn] & WINDOWED:
                demand(vm.pte[vpn] == pte.hidden(pfn), "W2", f"page {vpn} is in view, and no window shows it")
