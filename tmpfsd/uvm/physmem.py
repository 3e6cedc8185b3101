"""uvm/physmem.py: physical memory: one anonymous mapping cut into frames.

Everything that the file system stores is read and written in place here, at
`pfn << PAGE_SHIFT`.  No Python object stands for a frame; what is known of one is
in arrays.  Which page is in a frame and when it leaves is vm.py's and
pagedaemon.py's matter.

Picture     FREE --alloc--> held (owner[pfn] is its page) --free--> FREE

Invariants
    F1  A frame is either in the free list, once, or has an owner.
    F2  A free frame is neither referenced nor dirty.
"""

import mmap
from array import array

from tmpfsd.uvm.errors import demand
from tmpfsd.uvm.param import PAGE_SHIFT, PAGE_SIZE

NO_PAGE = 0                 # no page has the number 0: kernel_map starts at 1


class PhysMem:
    """The arena of `ram_bytes` and its frames."""

    __slots__ = ("nframes", "arena", "mem", "u64", "u32", "owner", "referenced", "dirty", "free_frames")

    def __init__(self, ram_bytes: int) -> None:
        self.nframes = ram_bytes >> PAGE_SHIFT
        # Private, so that the memory is the daemon's own, and kept out of core files: it holds users' data.
        self.arena = mmap.mmap(-1, self.nframes << PAGE_SHIFT, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.arena.madvise(mmap.MADV_DONTDUMP)
        self.mem = memoryview(self.arena)
        self.u64 = self.mem.cast("Q")
        self.u32 = self.mem.cast("I")
        self.owner = array("I", bytes(4 * self.nframes))
        self.referenced = bytearray(self.nframes)
        self.dirty = bytearray(self.nframes)
        # A stack: the frame freed last is the warmest in the processor's caches.
        self.free_frames = array("I", range(self.nframes - 1, -1, -1))

    def alloc(self, vpn: int) -> int:
        """A frame for page vpn; its bytes are what they were.  => IndexError when none is free."""
        pfn = self.free_frames.pop()
        self.owner[pfn] = vpn
        return pfn

    def free(self, pfn: int) -> None:
        """Give a frame back."""
        assert self.owner[pfn] != NO_PAGE, "frame freed twice"
        self.owner[pfn] = NO_PAGE
        self.referenced[pfn] = self.dirty[pfn] = 0
        self.free_frames.append(pfn)

    def frame(self, pfn: int) -> memoryview:
        """The bytes of a frame."""
        return self.mem[pfn << PAGE_SHIFT:(pfn + 1) << PAGE_SHIFT]

    def close(self) -> None:
        """Give the arena back to the system, now or when the last that looks at it is gone (a traceback may)."""
        try:
            for view in (self.u64, self.u32, self.mem):
                view.release()
            self.arena.close()
        except BufferError:
            pass

    def check(self) -> None:
        """Raise Inconsistent where F1 or F2 does not hold."""
        free = set(self.free_frames)
        demand(len(free) == len(self.free_frames), "F1", "a frame is in the free list twice")
        for pfn in range(self.nframes):
            demand((pfn in free) == (self.owner[pfn] == NO_PAGE), "F1", f"frame {pfn}, owner {self.owner[pfn]}")
            if pfn in free:
                demand(not self.referenced[pfn] and not self.dirty[pfn], "F2", f"free frame {pfn} is in use")


ZERO_PAGE = bytes(PAGE_SIZE)
