"""Anonymous objects, and the windows through which their pages are seen."""

import pytest

from tmpfsd.pool import make_backend
from tmpfsd.uvm import pte
from tmpfsd.uvm.errors import Inconsistent
from tmpfsd.uvm.windows import NO_WINDOW


@pytest.fixture
def machine(make_vm):
    """A machine with an object of 200 pages, each with its number in it, seen through 20 windows."""
    vm = make_vm(64, reserve=16)
    backend = make_backend("aobj", vm, windows=20)
    vpns = []
    for number in range(200):
        vm.breathe()
        vpn = backend.alloc_page(1)
        vm.phys.u64[vm.write(vpn << 12) >> 3] = number
        vpns.append(vpn)
    return vm, backend, vpns


def test_pages_come_back_through_windows(machine) -> None:
    vm, backend, vpns = machine
    for _ in range(2):
        for number, vpn in enumerate(vpns):
            vm.breathe()
            assert vm.phys.u64[vm.read(vpn << 12) >> 3] == number
    stats = backend.stats()
    assert stats["windows"] == 20 and stats["maps"] >= 400 and 0 < stats["recycles"] < stats["maps"]
    assert vm.pageins > 0
    vm.check()
    backend.check()


def test_what_one_breath_touches_stays_mapped(machine) -> None:
    vm, _backend, vpns = machine
    for start in range(0, 200, 16):
        vm.breathe()
        offsets = [vm.write(vpn << 12) for vpn in vpns[start:start + 16]]
        for number, offset in enumerate(offsets, start):
            assert vm.phys.u64[offset >> 3] == number


def test_a_page_without_a_window_is_resident_and_written_out_with_its_neighbours(machine) -> None:
    vm, _backend, vpns = machine
    vm.breathe()
    offset = vm.write(vpns[-1] << 12)
    vm.windows.hide(offset >> 12)
    assert pte.is_hidden(vm.pte[vpns[-1]]) and vm.is_resident(vpns[-1])
    vm.daemon.evict_all()
    assert not vm.is_resident(vpns[-1])
    vm.check()


def test_too_many_pages_between_two_breaths(machine) -> None:
    vm, _backend, vpns = machine
    vm.breathe()
    with pytest.raises(Inconsistent, match="W4: all 20 windows are in use"):
        for vpn in vpns[-40:]:
            vm.read(vpn << 12)


def test_one_window_serves_one_record_at_a_time(make_vm) -> None:
    vm = make_vm(64, reserve=16)
    backend = make_backend("aobj", vm, windows=1)
    vpns = []
    for number in range(100):
        vm.breathe()
        vpns.append(backend.alloc_page(1))
        vm.phys.u64[vm.write(vpns[-1] << 12) >> 3] = number
    for number, vpn in enumerate(vpns):
        vm.breathe()
        assert vm.phys.u64[vm.read(vpn << 12) >> 3] == number
    with pytest.raises(Inconsistent, match="W4"):
        vm.read(vpns[0] << 12)
    vm.check()


def test_freeing_gives_windows_back(machine) -> None:
    vm, backend, vpns = machine
    for vpn in vpns:
        backend.free_page(vpn, 1)
    assert len(vm.windows.free) == 20 and vm.npages == 0 == backend.stats()["used_bytes"]


def _twice(vm) -> None:
    vm.windows.free.append(vm.windows.free[0])


def _wrong_frame(vm) -> None:
    window = next(window for window, vpn in enumerate(vm.windows.page) if vpn)
    vm.windows.window_of[vm.pte[vm.windows.page[window]]] = NO_WINDOW


def _hidden(vm) -> None:
    vpn = next(vpn for vpn in vm.windows.page if vpn)
    vm.pte[vpn] = pte.hidden(vm.pte[vpn])


def _mapped_without_window(vm) -> None:
    pfn = next(pfn for pfn, vpn in enumerate(vm.phys.owner) if vpn and pte.is_hidden(vm.pte[vpn]))
    vm.pte[vm.phys.owner[pfn]] = pfn


@pytest.mark.parametrize("damage, invariant", [
    (_twice, "W3"), (_wrong_frame, "W1"), (_hidden, "W1"), (_mapped_without_window, "W2")])
def test_invariants(make_vm, damage, invariant: str) -> None:
    vm = make_vm(64, reserve=16, check=False)
    backend = make_backend("aobj", vm, windows=20)
    for _ in range(40):
        vm.breathe()
        backend.alloc_page(1)
    vm.breathe()
    vm.check()
    damage(vm)
    with pytest.raises(Inconsistent) as caught:
        vm.check()
    assert caught.value.invariant == invariant
