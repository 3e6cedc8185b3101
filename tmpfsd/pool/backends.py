"""pool/backends.py: where the pages of the metadata pools come from.

A backend gives single pages: a page number in some map, with memory behind it.  Pools and all
above them do not know which one is in use.

    wired               kernel_map, wired: what every tmpfs does to this day
    pageable-submap     a pageable submap of kernel_map: the way of the mail of 2006 that worked
"""

from __future__ import annotations

from typing import Any, Protocol

from tmpfsd.uvm.param import atop, ptoa
from tmpfsd.uvm.vm import Vm
from tmpfsd.uvm.vmmap import Submap


class Backend(Protocol):
    """The page source of pools.  `owner` numbers the pool (below uvm.vm.MAX_OWNERS)."""

    name: str

    def alloc_page(self, owner: int) -> int:
        """A zeroed page's number.  => NoMemory; nothing has changed."""

    def free_page(self, vpn: int, owner: int) -> None:
        """Give a page back.  => Cannot fail; faults nothing in."""

    def stats(self) -> dict[str, Any]:
        """The `submap` object of the status: policy, sharing and bytes."""

    def check(self) -> None:
        """Raise Inconsistent where its maps are not right."""


class Wired:
    """Pages of kernel_map that never leave."""

    name = "wired"

    def __init__(self, vm: Vm) -> None:
        self.vm = vm
        self.npages = self.high_water = 0

    def alloc_page(self, owner: int) -> int:
        """See Backend."""
        vpn = self.vm.kernel_map.alloc()
        try:
            self.vm.alloc_page(vpn, owner, wired=True)
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

    def stats(self) -> dict[str, Any]:
        """No submap: the bytes are those of the pools in kernel_map."""
        return {"policy": "none", "sharing": "none", "size_bytes": 0, "used_bytes": ptoa(self.npages),
                "high_water_bytes": ptoa(self.high_water)}

    def check(self) -> None:
        """See Backend; kernel_map checks itself."""


class PageableSubmap:
    """Pages of a submap, which page out: one submap for all pools, or one for each."""

    name = "pageable-submap"

    def __init__(self, vm: Vm, size_bytes: int = 0, per_pool: bool = False) -> None:
        self.vm = vm
        self.npages_fixed = atop(size_bytes)
        self.per_pool = per_pool
        self._submaps: dict[int, Submap] = {}       # by owner: at most one for each pool
        if not per_pool:
            self._submap(0)

    def _submap(self, owner: int) -> Submap:
        key = owner if self.per_pool else 0
        if key not in self._submaps:
            name = f"of pool {key}" if self.per_pool else "of the pools"
            self._submaps[key] = Submap(name, self.vm.kernel_map, self.npages_fixed)
        return self._submaps[key]

    def alloc_page(self, owner: int) -> int:
        """See Backend."""
        submap = self._submap(owner)
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


def make_backend(name: str, vm: Vm, submap_bytes: int = 0, per_pool: bool = False) -> Backend:
    """The backend of that name; submap_bytes 0 means a submap that sizes itself."""
    if name == Wired.name:
        return Wired(vm)
    if name == PageableSubmap.name:
        return PageableSubmap(vm, submap_bytes, per_pool)
    raise ValueError(f"no backend {name!r}")
