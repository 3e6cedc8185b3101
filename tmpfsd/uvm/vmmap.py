"""uvm/vmmap.py: the address space: kernel_map and its submaps.

A map hands out ranges of page numbers.  A page has no memory behind it until vm.py enters it.  File data lives in
ranges of kernel_map itself; metadata lives in single pages of kernel_map or of a submap, depending on the backend.

Invariants
    M1  Page number 0 is in no map.
    M2  A submap's chunks come from its parent, and hold all it has handed out.
    M3  nused counts the pages handed out and not given back.

Limits      2^31 page numbers: 8 TiB of data and metadata in one mount.
"""

from sortedcontainers import SortedDict, SortedList

from tmpfsd.uvm.errors import NoMemory, demand
from tmpfsd.uvm.param import ptoa
from tmpfsd.uvm.vmem import Vmem

KERNEL_MAP_PAGES = (1 << 31) - 2
SUBMAP_CHUNK = 64           # pages by which a submap that sizes itself grows: 256 KiB


class VmMap:
    """A map: ranges of page numbers; single ones are the lowest that are free."""

    __slots__ = ("name", "nused", "arena")

    def __init__(self, name: str, base: int = 1, npages: int = KERNEL_MAP_PAGES) -> None:
        self.name = name
        self.nused = 0
        self.arena = Vmem(base, npages)

    def alloc(self, n: int = 1) -> int:
        """The first page number of a range of n.  => NoMemory when the map is full.  See Vmem.alloc()."""
        vpn = self.arena.alloc(n)
        if vpn < 0:
            raise NoMemory(f"{self.name} is full")
        self.nused += n
        return vpn

    def alloc_some(self, n: int, after: int = 0) -> tuple[int, int]:
        """Up to n page numbers in a row, from `after` on if they are free there: (first, count).

        => NoMemory when the map is full.  See Vmem.alloc_some().
        """
        if after:
            count = self.arena.alloc_at(after, n)
            if count:
                self.nused += count
                return after, count
        vpn, count = self.arena.alloc_some(n)
        if not count:
            raise NoMemory(f"{self.name} is full")
        self.nused += count
        return vpn, count

    def fill(self, used: bytes) -> None:
        """Mark as handed out those that are not 0 in `used`, from the first page number on.  O(top)."""
        self.arena.fill(used)
        self.nused = self.arena.size - self.arena.nfree

    def free(self, vpn: int, n: int = 1) -> None:
        """Give a range back.  O(n)."""
        self.arena.free(vpn, n)
        self.nused -= n

    def check(self) -> None:
        """Raise Inconsistent where M1 or M3 does not hold.  O(top)."""
        self.arena.check()
        demand(self.arena.base > 0, "M1", f"{self.name} starts at page 0")
        demand(self.nused == self.arena.size - self.arena.nfree, "M3", f"{self.name}: {self.nused} used")


class Submap:
    """Single pages from another map: from a range of fixed size, or from chunks that come and go.

    npages 0 means that it sizes itself.  `high_water` is the largest number of pages ever handed out at a time.
    """

    __slots__ = ("name", "parent", "fixed", "npages", "nused", "high_water", "adopted", "_base", "_unmade",
                 "_spare", "_chunks", "_partial")

    def __init__(self, name: str, parent: VmMap, npages: int = 0) -> None:
        self.name = name
        self.parent = parent
        self.fixed = npages > 0
        self.npages = npages
        self.nused = self.high_water = 0
        self.adopted = 0                        # pages of the parent that are in no chunk
        self._base = parent.alloc(npages) if npages else 0
        self._unmade = self._base               # fixed: chunks from here on were never used
        self._spare = SortedList()              # fixed: chunks that are empty again
        self._chunks = SortedDict()             # first page of a chunk -> bitmap of its free pages
        self._partial = SortedList()            # chunks with a free page

    def alloc(self) -> int:
        """A page number.  O(log chunks).  => NoMemory when the submap is full."""
        if not self._partial:
            self._grow()
        chunk = self._partial[0]
        free = self._chunks[chunk]
        lowest = free & -free
        self._chunks[chunk] = free ^ lowest
        if free == lowest:
            del self._partial[0]
        self.nused += 1
        self.high_water = max(self.high_water, self.nused)
        return chunk + lowest.bit_length() - 1

    def free(self, vpn: int) -> None:
        """Give a page number back; an empty chunk goes back to where it came from.  O(log chunks)."""
        before = self._chunks.bisect_right(vpn) - 1
        chunk = self._chunks.keys()[before] if before >= 0 else vpn - SUBMAP_CHUNK
        if vpn >= chunk + SUBMAP_CHUNK and self.adopted:
            self.parent.free(vpn)
            self._count_adopted(-1)
            return
        free, bit = self._chunks[chunk], 1 << vpn - chunk
        assert not free & bit and bit <= self._all_of(chunk), "freed twice"
        self._chunks[chunk] = free | bit
        self.nused -= 1
        if not free:
            self._partial.add(chunk)
        if free | bit == self._all_of(chunk):
            self._shrink(chunk)

    def adopt(self, n: int) -> None:
        """n single pages of the parent belong to it now.  O(1).  => It is not of a fixed size."""
        assert not self.fixed, "a fixed submap has its pages in a row"
        self._count_adopted(n)

    def _count_adopted(self, n: int) -> None:
        self.adopted += n
        self.npages += n
        self.nused += n
        self.high_water = max(self.high_water, self.nused)

    def _all_of(self, chunk: int) -> int:
        """The bitmap of a chunk with no page in use; the last one of a fixed submap may be short."""
        size = min(SUBMAP_CHUNK, self._base + self.npages - chunk) if self.fixed else SUBMAP_CHUNK
        return (1 << size) - 1

    def _grow(self) -> None:
        if not self.fixed:
            chunk = self.parent.alloc(SUBMAP_CHUNK)
            self.npages += SUBMAP_CHUNK
        elif self._spare:
            chunk = self._spare.pop(0)
        elif self._unmade < self._base + self.npages:
            chunk = self._unmade
            self._unmade += SUBMAP_CHUNK
        else:
            raise NoMemory(f"submap {self.name} is full")
        self._chunks[chunk] = self._all_of(chunk)
        self._partial.add(chunk)

    def _shrink(self, chunk: int) -> None:
        del self._chunks[chunk]
        self._partial.remove(chunk)
        if self.fixed:
            self._spare.add(chunk)
        else:
            self.parent.free(chunk, SUBMAP_CHUNK)
            self.npages -= SUBMAP_CHUNK

    def stats(self) -> dict[str, int]:
        """Bytes of it: size, used, the most ever used.  O(1)."""
        return {"size_bytes": ptoa(self.npages), "used_bytes": ptoa(self.nused),
                "high_water_bytes": ptoa(self.high_water)}

    def check(self) -> None:
        """Raise Inconsistent where M2 or M3 does not hold.  O(chunks)."""
        used = sum((self._all_of(chunk) & ~free).bit_count() for chunk, free in self._chunks.items())
        used += self.adopted
        demand(used == self.nused, "M3", f"{self.name}: {used} used, counted {self.nused}")
        partial = [chunk for chunk, free in self._chunks.items() if free]
        demand(partial == list(self._partial), "M2", f"{self.name}: chunks with room")
        if not self.fixed:
            found = len(self._chunks) * SUBMAP_CHUNK + self.adopted
            demand(found == self.npages, "M2", f"{self.name}: chunks do not add up")
        for chunk in self._chunks:
            demand(not self.parent.arena.is_free(chunk), "M2", f"{self.name}: chunk {chunk} is not its parent's")
