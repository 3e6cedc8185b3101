"""uvm/vmmap.py: the address space: kernel_map and its submaps.

A map hands out ranges of page numbers; nothing here has memory behind it until vm.py
enters a page.  File data lives in ranges of kernel_map itself, metadata in single
pages of it or of a submap, by backend.

Invariants
    M1  Page number 0 is in no map.
    M2  A submap's chunks are its parent's, and hold all it has handed out.
    M3  nused is what is handed out and not given back.

Limits      2^31 page numbers: 8 TiB of data and metadata in one mount.
"""

from sortedcontainers import SortedDict

from tmpfsd.uvm.errors import NoMemory, demand
from tmpfsd.uvm.param import ptoa
from tmpfsd.uvm.vmem import Vmem

KERNEL_MAP_PAGES = (1 << 31) - 2
SUBMAP_CHUNK = 64           # pages by which a submap that sizes itself grows: 256 KiB


class VmMap:
    """A map: ranges of page numbers, lowest first."""

    __slots__ = ("name", "nused", "arena")

    def __init__(self, name: str, base: int = 1, npages: int = KERNEL_MAP_PAGES) -> None:
        self.name = name
        self.nused = 0
        self.arena = Vmem(base, npages)

    def alloc(self, n: int = 1) -> int:
        """The first page number of a range of n.  => NoMemory when the map is full."""
        vpn = self.arena.alloc(n)
        if vpn < 0:
            raise NoMemory(f"{self.name} is full")
        self.nused += n
        return vpn

    def alloc_some(self, n: int, after: int = 0) -> tuple[int, int]:
        """Up to n page numbers in a row, from `after` on if they are free there: (first, count)."""
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

    def free(self, vpn: int, n: int = 1) -> None:
        """Give a range back."""
        self.arena.free(vpn, n)
        self.nused -= n

    def check(self) -> None:
        """Raise Inconsistent where M1 or M3 does not hold."""
        self.arena.check()
        demand(self.arena.base > 0, "M1", f"{self.name} starts at page 0")
        size = self.arena.end - self.arena.base
        demand(self.nused == size - self.arena.nfree, "M3", f"{self.name}: {self.nused} used")


class Submap:
    """Single pages out of a range of another map: of a fixed size, or of chunks that come and go.

    npages 0 means that it sizes itself.  `high_water` is the most pages it has ever handed out.
    """

    __slots__ = ("name", "parent", "fixed", "npages", "nused", "high_water", "arena", "_chunks")

    def __init__(self, name: str, parent: VmMap, npages: int = 0) -> None:
        self.name = name
        self.parent = parent
        self.fixed = npages > 0
        self.npages = npages
        self.nused = self.high_water = 0
        self.arena = Vmem(parent.alloc(npages), npages) if npages else Vmem(1, 0)
        self._chunks = SortedDict()         # start of a chunk -> pages of it that are handed out

    def alloc(self) -> int:
        """A page number.  => NoMemory when the submap is full."""
        vpn = self.arena.alloc(1)
        if vpn < 0:
            if self.fixed:
                raise NoMemory(f"submap {self.name} is full")
            self._grow()
            vpn = self.arena.alloc(1)
        if not self.fixed:
            self._chunks[self._chunk_of(vpn)] += 1
        self.nused += 1
        self.high_water = max(self.high_water, self.nused)
        return vpn

    def free(self, vpn: int) -> None:
        """Give a page number back; a chunk that empties goes back to the parent."""
        self.arena.free(vpn)
        self.nused -= 1
        if self.fixed:
            return
        chunk = self._chunk_of(vpn)
        self._chunks[chunk] -= 1
        if not self._chunks[chunk]:
            self._shrink(chunk)

    def _chunk_of(self, vpn: int) -> int:
        return self._chunks.keys()[self._chunks.bisect_right(vpn) - 1]

    def _grow(self) -> None:
        chunk = self.parent.alloc(SUBMAP_CHUNK)
        self._chunks[chunk] = 0
        self.arena.extend(chunk, SUBMAP_CHUNK)
        self.npages += SUBMAP_CHUNK

    def _shrink(self, chunk: int) -> None:
        del self._chunks[chunk]
        taken = self.arena.alloc_at(chunk, SUBMAP_CHUNK)
        assert taken == SUBMAP_CHUNK
        self.parent.free(chunk, SUBMAP_CHUNK)
        self.npages -= SUBMAP_CHUNK

    def stats(self) -> dict[str, int]:
        """Bytes of it: size, used, the most ever used."""
        return {"size_bytes": ptoa(self.npages), "used_bytes": ptoa(self.nused),
                "high_water_bytes": ptoa(self.high_water)}

    def check(self) -> None:
        """Raise Inconsistent where M2 or M3 does not hold."""
        self.arena.check()
        demand(self.nused == self.npages - self.arena.nfree, "M3", f"{self.name}: {self.nused} used")
        if self.fixed:
            return
        demand(len(self._chunks) * SUBMAP_CHUNK == self.npages, "M2", f"{self.name}: chunks do not add up")
        demand(sum(self._chunks.values()) == self.nused, "M2", f"{self.name}: chunk counts do not add up")
        for chunk in self._chunks:
            demand(not self.parent.arena.is_free(chunk), "M2", f"{self.name}: chunk {chunk} is not its parent's")
