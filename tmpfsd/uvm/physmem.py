"""uvm/physmem.py: physical memory: one anonymous mapping cut into frames.

Everything that the file system stores is read and written in place here, at `pfn << PAGE_SHIFT`.  No Python object
stands for a frame; its state is in arrays.  vm.py and pagedaemon.py decide which page is in a frame and when it leaves.

The mapping is as large as the machine's memory, so that `ram` can grow while views of it are held; address space that
was never touched costs nothing.  The frames stand at its start: [0, nframes).

While `ram` shrinks, the frames from `ceiling` on are to go: the free ones are set aside, and not taken any more.

Picture     FREE --alloc--> held (owner[pfn] is its page) --free--> FREE, or ASIDE from the ceiling on
            not there --grow--> FREE --set_aside--> ASIDE --shrink--> not there, its memory given back to the system
                                                          --lift_ceiling--> FREE

Invariants
    F1  A frame is in the free list, once, or has an owner, or is set aside.  naside frames are set aside, all of them
        from the ceiling on.
    F2  A free frame is neither referenced nor dirty.
    F3  The arrays have an entry for each present frame, and no others.

Limits      If the system refuses address space (ulimit -v, vm.overcommit_memory=2), ram cannot grow beyond its size at
            the mount.
"""

import mmap
import os
from array import array
from itertools import compress
from typing import Final

from tmpfsd.uvm.errors import demand
from tmpfsd.uvm.param import PAGE_SHIFT, PAGE_SIZE

NO_PAGE: Final = 0          # no page has the number 0: kernel_map starts at 1
MAP_NORESERVE = 0x4000      # <linux/mman.h>; the mmap module of Python 3.11 has no name for it


def _reserve(nbytes: int) -> mmap.mmap:
    """Map address space for nbytes; for as much as the machine has memory, if the system allows it."""
    # Private, so that the memory is the daemon's own, and kept out of core files: it holds users' data.
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        arena = mmap.mmap(-1, max(nbytes, physical), flags=flags | MAP_NORESERVE)
    except OSError:
        arena = mmap.mmap(-1, nbytes, flags=flags)
    arena.madvise(mmap.MADV_DONTDUMP)
    return arena


class PhysMem:
    """The arena and the frames of its first `ram_bytes`."""

    __slots__ = ("nframes", "most", "arena", "mem", "u64", "u32", "owner", "referenced", "dirty", "free_frames",
                 "ceiling", "aside", "naside")

    def __init__(self, ram_bytes: int) -> None:
        self.nframes = 0
        self.arena = _reserve(ram_bytes >> PAGE_SHIFT << PAGE_SHIFT)
        self.most = len(self.arena) >> PAGE_SHIFT       # frames that there can be
        self.mem = memoryview(self.arena)
        self.u64 = self.mem.cast("Q")
        self.u32 = self.mem.cast("I")
        self.owner = array("I")
        self.referenced = bytearray()
        self.dirty = bytearray()
        # A stack: the frame freed last is the warmest in the processor's caches.
        self.free_frames = array("I")
        self.ceiling = self.most
        self.aside = bytearray()            # 1 for each frame from the ceiling on that is set aside
        self.naside = 0
        self.grow(ram_bytes >> PAGE_SHIFT)

    @property
    def nused(self) -> int:
        """How many frames have a page.  O(1)."""
        return self.nframes - len(self.free_frames) - self.naside

    def grow(self, nframes: int) -> None:
        """Have nframes; the new ones are free and are taken last.  O(frames that are new + free ones)."""
        assert self.nframes <= nframes <= self.most
        more = nframes - self.nframes
        self.owner.frombytes(bytes(4 * more))
        self.referenced.extend(bytes(more))
        self.dirty.extend(bytes(more))
        self.free_frames[0:0] = array("I", range(nframes - 1, self.nframes - 1, -1))
        self.nframes = nframes

    def set_aside(self, start: int, n: int) -> int:
        """Set aside those of free_frames[start:start + n] that are not below the ceiling; how many are below it.

        O(n).
        """
        part = self.free_frames[start:start + n]
        ceiling = self.ceiling
        low = array("I", [pfn for pfn in part if pfn < ceiling])
        self.free_frames[start:start + n] = low
        for pfn in part:
            if pfn >= ceiling:
                self.aside[pfn - ceiling] = 1
        self.naside += len(part) - len(low)
        return len(low)

    def set_ceiling(self, ceiling: int) -> None:
        """Frames from `ceiling` on are to go: those that become free are set aside.  O(those)."""
        self.ceiling = ceiling
        self.aside.extend(bytes(self.nframes - ceiling))

    def lift_ceiling(self) -> None:
        """No frame is to go any more: those set aside are free.  O(frames from the ceiling on)."""
        self.free_frames.extend(compress(range(self.ceiling, self.nframes), self.aside))
        self.aside.clear()
        self.naside = 0
        self.ceiling = self.most

    def shrink(self, nframes: int) -> None:
        """Have only nframes: those behind must be set aside.  Their memory goes back to the system.  O(those)."""
        gone = self.nframes - nframes
        assert nframes >= self.ceiling and self.naside >= gone and not any(self.owner[nframes:]), "not all set aside"
        self.naside -= gone
        del self.aside[nframes - self.ceiling:]
        del self.owner[nframes:], self.referenced[nframes:], self.dirty[nframes:]
        self.nframes = nframes
        if gone:
            self.arena.madvise(mmap.MADV_DONTNEED, nframes << PAGE_SHIFT, gone << PAGE_SHIFT)

    def alloc(self, vpn: int) -> int:
        """A frame for page vpn, with its old bytes.  O(1).  => IndexError when none is free."""
        pfn = self.free_frames.pop()
        self.owner[pfn] = vpn
        return pfn

    def free(self, pfn: int) -> None:
        """Give a frame back.  O(1)."""
        assert self.owner[pfn] != NO_PAGE, "frame freed twice"
        self.owner[pfn] = NO_PAGE
        self.referenced[pfn] = self.dirty[pfn] = 0
        if pfn < self.ceiling:
            self.free_frames.append(pfn)
        else:
            self.aside[pfn - self.ceiling] = 1
            self.naside += 1

    def frame(self, pfn: int) -> memoryview:
        """The bytes of a frame.  O(1)."""
        return self.mem[pfn << PAGE_SHIFT:(pfn + 1) << PAGE_SHIFT]

    def close(self) -> None:
        """Give the arena back to the system, now or when its last view is gone.  O(1) here."""
        try:
            for view in (self.u64, self.u32, self.mem):
                view.release()
            self.arena.close()
        except BufferError:
            pass

    def check(self) -> None:
        """Raise Inconsistent where F1, F2 or F3 does not hold.  O(frames)."""
        sizes = {len(self.owner), len(self.referenced), len(self.dirty)}
        demand(sizes == {self.nframes}, "F3", f"{self.nframes} frames, arrays of {sorted(sizes)}")
        free = set(self.free_frames)
        demand(len(free) == len(self.free_frames), "F1", "a frame is in the free list twice")
        demand(not free or max(free) < self.nframes, "F3", "a frame that is not there is free")
        aside = set(compress(range(self.ceiling, self.nframes), self.aside))
        demand(len(aside) == self.naside, "F1", f"{len(aside)} frames are set aside, counted {self.naside}")
        for pfn in range(self.nframes):
            unowned = self.owner[pfn] == NO_PAGE
            demand((pfn in free) + (pfn in aside) == unowned, "F1", f"frame {pfn}, owner {self.owner[pfn]}")
            if unowned:
                demand(not self.referenced[pfn] and not self.dirty[pfn], "F2", f"free frame {pfn} is in use")


ZERO_PAGE = bytes(PAGE_SIZE)
