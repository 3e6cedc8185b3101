"""pool/backends.py: where the pages of the metadata pools come from.

A backend gives single pages: a page number in some map, with memory behind it.  Pools and all layers above them do not
know which backend is in use.

    wired               kernel_map, wired: what every tmpfs does to this day
    pageable-flag       kernel_map, allocated PAGEABLE but owned by no object, so on no queue that the page daemon
                        scans: never leaves either (the second approach of the mail of 2006)
    pageable-submap     a pageable submap of kernel_map, or one for each pool (the third approach, the one that worked)
    aobj                an anonymous object seen through windows (the first approach)
    pageable-object     kernel_map, owned by the kernel object: no submap, no size to choose
"""

from __future__ import annotations

from typing import Any, Protocol

from tmpfsd.uvm.aobj import AnonObject
from tmpfsd.uvm.errors import NoMemory
from tmpfsd.uvm.pagekind import UNOWNED, WINDOWED, WIRED
from tmpfsd.uvm.param import atop, ptoa
from tmpfsd.uvm.vm import RESERVE, Vm
from tmpfsd.uvm.vmmap import Submap

KINDS = {"wired": WIRED, "pageable-flag": UNOWNED, "pageable-object": 0}


class Backend(Protocol):
    """The page source of pools.  `owner` numbers the pool (from 1, below uvm.pagekind.MAX_OWNERS).

    All O(log chunks) or less, and the cost of vm.alloc_page() and of the map; check() is O(chunks).
    """

    name: str

    def alloc_page(self, owner: int) -> int:
        """A zeroed page's number.  => NoMemory; nothing has changed."""

    def free_page(self, vpn: int, owner: int) -> None:
        """Give a page back.  => Cannot fail; faults nothing in."""

    def introduce(self, owner: int, name: str) -> None:
        """Tell the name of a pool, for messages."""

    def adopt(self, owner: int, n: int) -> None:
        """n saved pages belong to this pool; kernel_map has them already."""

    def stats(self) -> dict[str, Any]:
        """The `submap` object of the status: policy, sharing and bytes."""

    def check(self) -> None:
        """Raise Inconsistent if its maps are not right."""


class KernelMap:
    """Single pages of kernel_map, of one kind.  All O(1), and O(top / CHUNK) of vmem.py to find one."""

    def __init__(self, vm: Vm, name: str, kind: int) -> None:
        self.vm = vm
        self.name = name
        self.kind = kind
        self.npages = self.high_water = 0

    def introduce(self, owner: int, name: str) -> None:
        """See Backend; something else is always full before kernel_map."""

    def alloc_page(self, owner: int) -> int:
        """See Backend."""
        vpn = self.vm.kernel_map.alloc()
        try:
            self.vm.alloc_page(vpn, owner, self.kind)
        except BaseException:
            self.vm.kernel_map.free(vpn)
            raise
        self.npages += 1
        self.high_water = max(self.high_water, self.npages)
        return vpn

    def free_page(self, vpn: int, owner: int) -> None:
        """See Backend."""
        self.vm.free_page(vpn)
        self.vm.kernel_map.free(vpn)
        self.npages -= 1

    def adopt(self, owner: int, n: int) -> None:
        """See Backend."""
        self.npages += n
        self.high_water = max(self.high_water, self.npages)

    def stats(self) -> dict[str, Any]:
        """There is no submap: the bytes are those of the pools in kernel_map."""
        return {"policy": "none", "sharing": "none", "size_bytes": 0, "used_bytes": ptoa(self.npages),
                "high_water_bytes": ptoa(self.high_water)}

    def check(self) -> None:
        """See Backend; kernel_map checks itself."""


class Aobj:
    """Pages of an anonymous object, seen through windows.  All O(log chunks), check() O(chunks)."""

    name = "aobj"

    def __init__(self, vm: Vm, nwindows: int) -> None:
        self.vm = vm
        self.object = AnonObject(vm, nwindows)

    def introduce(self, owner: int, name: str) -> None:
        """See Backend; the object grows as long as there is memory."""

    def alloc_page(self, owner: int) -> int:
        """See Backend."""
        vpn = self.object.alloc()
        try:
            self.vm.alloc_page(vpn, owner, WINDOWED)
        except BaseException:
            self.object.free(vpn)
            raise
        return vpn

    def free_page(self, vpn: int, owner: int) -> None:
        """See Backend."""
        self.vm.free_page(vpn)
        self.object.free(vpn)

    def adopt(self, owner: int, n: int) -> None:
        """See Backend."""
        self.object.adopt(n)

    def stats(self) -> dict[str, Any]:
        """The object's bytes, and its windows."""
        return {"policy": "object", "sharing": "shared", **self.object.stats()}

    def check(self) -> None:
        """See Backend."""
        self.object.check()


class PageableSubmap:
    """Pages of a submap, which page out: one submap for all pools, or one for each.

    All O(log chunks); stats() O(pools), check() O(chunks).
    """

    name = "pageable-submap"

    def __init__(self, vm: Vm, size_bytes: int = 0, per_pool: bool = False) -> None:
        self.vm = vm
        self.npages_fixed = atop(size_bytes)
        self.per_pool = per_pool
        self._submaps: dict[int, Submap] = {}       # by owner: at most one for each pool
        self._names: dict[int, str] = {}
        if not per_pool:
            self._submap(0)

    def introduce(self, owner: int, name: str) -> None:
        """See Backend."""
        self._names[owner] = name

    def _submap(self, owner: int) -> Submap:
        key = owner if self.per_pool else 0
        if key not in self._submaps:
            name = f"of pool {self._names.get(key, key)}" if self.per_pool else "of all pools"
            self._submaps[key] = Submap(name, self.vm.kernel_map, self.npages_fixed)
        return self._submaps[key]

    def alloc_page(self, owner: int) -> int:
        """See Backend."""
        submap = self._submap(owner)
        spare = min(self.vm.spare, submap.npages // 8)
        if submap.fixed and submap.nused >= submap.npages - spare and not self.vm.overdrawn:
            raise NoMemory(f"submap {submap.name} is full")
        vpn = submap.alloc()
        try:
            self.vm.alloc_page(vpn, owner)
        except BaseException:
            submap.free(vpn)
            raise
        return vpn

    def free_page(self, vpn: int, owner: int) -> None:
        """See Backend."""
        self.vm.free_page(vpn)
        self._submap(owner).free(vpn)

    def adopt(self, owner: int, n: int) -> None:
        """See Backend."""
        self._submap(owner).adopt(n)

    def stats(self) -> dict[str, Any]:
        """Bytes of all its submaps together."""
        parts = [submap.stats() for submap in self._submaps.values()]
        totals = {key: sum(part[key] for part in parts) for key in ("size_bytes", "used_bytes", "high_water_bytes")}
        return {"policy": "fixed" if self.npages_fixed else "auto",
                "sharing": "per-pool" if self.per_pool else "shared", **totals}

    def check(self) -> None:
        """See Backend."""
        for submap in self._submaps.values():
            submap.check()


def make_backend(name: str, vm: Vm, submap_bytes: int = 0, per_pool: bool = False, windows: int = RESERVE) -> Backend:
    """The backend of that name; submap_bytes 0 means submaps that size themselves.  O(submap pages)."""
    if name == "pageable-submap":
        return PageableSubmap(vm, submap_bytes, per_pool)
    if name == "aobj":
        return Aobj(vm, windows)
    if name not in KINDS:
        raise ValueError(f"no backend {name!r}")
    return KernelMap(vm, name, KINDS[name])
