"""Where the pages of pools come from."""

import pytest

from tmpfsd.pool import PageableSubmap, Pool, make_backend
from tmpfsd.uvm.errors import Inconsistent, NoMemory
from tmpfsd.uvm.vmmap import SUBMAP_CHUNK

BACKENDS = (("wired", {}), ("pageable-submap", {}), ("pageable-submap", {"submap_bytes": 1 << 16}),
            ("pageable-submap", {"per_pool": True}), ("pageable-submap", {"submap_bytes": 1 << 16, "per_pool": True}))


@pytest.mark.parametrize("name, how", BACKENDS)
def test_every_backend_keeps_the_contract(make_vm, name: str, how: dict) -> None:
    vm = make_vm()
    backend = make_backend(name, vm, **how)
    assert backend.name == name
    vpns = [(backend.alloc_page(owner), owner) for owner in (1, 2, 1, 2, 1)]
    assert len(set(vpns)) == 5 and vm.pages_of[1:3] == [3, 2]
    for vpn, _owner in vpns:
        at = vm.read(vpn << 12)
        assert not any(vm.phys.arena[at:at + 4096])
    stats = backend.stats()
    assert stats["used_bytes"] == stats["high_water_bytes"] == 5 << 12
    assert set(stats) == {"policy", "sharing", "size_bytes", "used_bytes", "high_water_bytes"}
    vm.daemon.evict_all()
    faults = vm.faults
    for vpn, owner in vpns:
        backend.free_page(vpn, owner)
    assert (vm.npages, vm.faults, backend.stats()["used_bytes"]) == (0, faults, 0)
    backend.check()


@pytest.mark.parametrize("name, how", BACKENDS)
def test_a_refusal_changes_nothing(make_vm, name: str, how: dict) -> None:
    vm = make_vm(limit=3)
    backend = make_backend(name, vm, **how)
    for _ in range(3):
        backend.alloc_page(1)
    used = vm.kernel_map.nused
    for _ in range(2):
        with pytest.raises(NoMemory):
            backend.alloc_page(1)
    assert (vm.kernel_map.nused, backend.stats()["used_bytes"]) == (used, 3 << 12)
    backend.check()


def test_wired_stops_at_ram(make_vm) -> None:
    vm = make_vm(64, reserve=16)
    backend = make_backend("wired", vm)
    with pytest.raises(NoMemory, match="cannot leave"):
        while True:
            vm.breathe()
            backend.alloc_page(1)
    assert vm.nwired == backend.npages == 48
    assert vm.daemon.pageouts == 0


def test_pageable_goes_on_beyond_ram(make_vm) -> None:
    vm = make_vm(64, reserve=16)
    backend = PageableSubmap(vm)
    for _ in range(400):
        vm.breathe()
        backend.alloc_page(1)
    assert vm.resident_of[1] <= 64 and vm.npages == 400


def test_auto_grows_and_shrinks(make_vm) -> None:
    vm = make_vm(256)
    backend = PageableSubmap(vm)
    assert backend.stats()["size_bytes"] == 0
    vpns = []
    for _ in range(SUBMAP_CHUNK + 1):
        vm.breathe()
        vpns.append(backend.alloc_page(1))
    assert backend.stats()["size_bytes"] == 2 * SUBMAP_CHUNK << 12
    for vpn in vpns:
        backend.free_page(vpn, 1)
    assert backend.stats()["size_bytes"] == vm.kernel_map.nused == 0


def test_fixed_is_full_while_memory_is_not(make_vm) -> None:
    vm = make_vm()
    backend = PageableSubmap(vm, 4 << 12)
    assert backend.stats()["policy"] == "fixed"
    vpns = [backend.alloc_page(1) for _ in range(4)]
    with pytest.raises(NoMemory, match="submap"):
        backend.alloc_page(2)
    backend.free_page(vpns[0], 1)
    backend.alloc_page(2)


def test_an_eighth_of_a_fixed_submap_is_kept_back(make_vm) -> None:
    vm = make_vm(spare=9)
    backend = PageableSubmap(vm, 20 << 12)
    for _ in range(18):
        backend.alloc_page(1)
    with pytest.raises(NoMemory, match="submap"):
        backend.alloc_page(1)
    with vm.overdraft:
        for _ in range(2):
            backend.alloc_page(1)
        with pytest.raises(NoMemory, match="submap"):
            backend.alloc_page(1)


def test_per_pool_one_pools_end_is_not_anothers(make_vm) -> None:
    vm = make_vm()
    backend = PageableSubmap(vm, 4 << 12, per_pool=True)
    for _ in range(4):
        backend.alloc_page(1)
    with pytest.raises(NoMemory, match="submap of pool 1"):
        backend.alloc_page(1)
    backend.alloc_page(2)
    assert backend.stats()["sharing"] == "per-pool"
    assert backend.stats()["size_bytes"] == 8 << 12


def test_no_such_backend(make_vm) -> None:
    with pytest.raises(ValueError, match="no backend 'aerogel'"):
        make_backend("aerogel", make_vm())


def test_check_looks_into_the_submaps(make_vm) -> None:
    vm = make_vm()
    backend = PageableSubmap(vm, per_pool=True)
    backend.alloc_page(7)
    backend._submaps[7].nused += 1
    with pytest.raises(Inconsistent) as caught:
        backend.check()
    assert caught.value.invariant == "M3"


def test_pages_without_an_owner_are_scanned_for_in_vain(make_vm) -> None:
    vm = make_vm(64, reserve=16)
    backend = make_backend("pageable-flag", vm)
    pages = []
    with pytest.raises(NoMemory, match="cannot leave"):
        while True:
            vm.breathe()
            pages.append(backend.alloc_page(2))
    assert len(pages) == 64 - 16 == vm.nunowned and vm.nwired == 0
    assert vm.daemon.scans > 0 and vm.daemon.pageouts == 0 == vm.swap.nheld
    scans = vm.daemon.scans
    for _ in range(1000):
        vm.breathe()
    assert vm.daemon.scans - scans < 100        # it rests between vain scans
    backend.free_page(pages.pop(), 2)
    backend.alloc_page(2)


@pytest.mark.parametrize("per_pool, message", [(False, "submap of all pools is full"),
                                               (True, "submap of pool small is full")])
def test_a_full_submap_says_which(make_vm, per_pool: bool, message: str) -> None:
    vm = make_vm(64, reserve=16)
    backend = make_backend("pageable-submap", vm, 8 << 12, per_pool)
    small, other = Pool(vm, backend, "small", 1, 2048), Pool(vm, backend, "other", 2, 2048)
    with pytest.raises(NoMemory, match=message):
        while True:
            vm.breathe()
            small.get()
    assert small.npages == 8
    if per_pool:
        other.get()
