"""uvm/unwritten.py: pages that are promised count, read as nothing, and can always be written."""

import pytest

from tmpfsd.uvm import unwritten
from tmpfsd.uvm.errors import Inconsistent, NoMemory, NoSwap
from tmpfsd.uvm.pagekind import UNWRITTEN
from tmpfsd.uvm.swapset import free_base, swapoff, swapon
from tmpfsd.uvm.vm import Vm


def promise(vm: Vm, n: int) -> int:
    """The first of n."""
    vpn = vm.kernel_map.alloc(n)
    try:
        unwritten.promise(vm, vpn, n)
    except NoMemory:
        vm.kernel_map.free(vpn, n)
        raise
    return vpn


def write_all(vm: Vm, vpn: int, n: int) -> None:
    for page in range(vpn, vpn + n):
        vm.breathe()
        at = vm.write(page << 12)
        assert vm.phys.arena[at:at + 4096] == bytes(4096)
        vm.phys.u64[at >> 3] = page
    for page in range(vpn, vpn + n):
        vm.breathe()
        assert vm.phys.u64[vm.read(page << 12) >> 3] == page


def test_each_can_be_written(make_vm, fill) -> None:
    vm = make_vm(nslots=500)
    vpn = promise(vm, 400)
    vm.check()
    assert (vm.npages, vm.nslotless, vm.phys.nused, vm.pages_of[UNWRITTEN]) == (400, 0, 0, 400)
    with pytest.raises(NoMemory):
        fill(vm, 200)                   # what others may have is what is left
    vm.check()
    write_all(vm, vpn, 400)
    vm.check()
    assert not vm.pages_of[UNWRITTEN]


def test_without_swap_and_with_too_little(make_vm) -> None:
    vm = make_vm(nslots=0)              # 64 frames, 16 of them the reserve
    with pytest.raises(NoMemory):
        promise(vm, 49)
    vm.check()
    write_all(vm, promise(vm, 48), 48)
    vm = make_vm(nslots=10)
    with pytest.raises(NoMemory):
        promise(vm, 59)
    vpn = promise(vm, 58)
    vm.check()
    assert vm.nslotless == 48
    write_all(vm, vpn, 58)


def test_the_limit(make_vm) -> None:
    vm = make_vm(limit=100)
    promise(vm, 60)
    with pytest.raises(NoMemory, match="size"):
        promise(vm, 41)
    promise(vm, 40)


def test_given_back(make_vm) -> None:
    vm = make_vm(nslots=100)
    vpn = promise(vm, 120)
    write_all(vm, vpn + 30, 40)
    vm.free_pages(vpn, 120)
    vm.kernel_map.free(vpn, 120)
    vm.check()
    assert not vm.npages and not vm.nslotless and not vm.swap.nheld


def test_runs(make_vm) -> None:
    vm = make_vm(nslots=500)
    vpn = promise(vm, 200)
    write_all(vm, vpn + 30, 40)
    found, at = [], vpn
    while at < vpn + 200:
        found.append(unwritten.run(vm, at, vpn + 200 - at))
        at += found[-1][1]
    assert found == [(True, 30), (False, 40), (True, 130)]


def test_the_file_that_has_its_slots_goes(make_vm, make_swap) -> None:
    vm = make_vm(nslots=200)
    first = vm.swap
    vpn = promise(vm, 150)
    write_all(vm, vpn + 20, 30)
    other = make_swap(300, free_base([first], 300))
    swapon(vm, other)
    for _ in swapoff(vm, first):
        vm.check()
    write_all(vm, vpn + 60, 30)
    vm.check()
    with pytest.raises(NoSwap):
        for _ in swapoff(vm, other):
            pass
    vm.check()


def test_a_device_that_is_full_later(make_vm) -> None:
    """The promise is of slots: a full disk under them is a failure of the device."""
    vm = make_vm(nslots=200)
    vpn = promise(vm, 30)
    vm.swap.room = 0
    write_all(vm, vpn, 30)


def test_the_check_sees_a_frame(make_vm) -> None:
    vm = make_vm(check=False)
    vpn = promise(vm, 3)
    vm.write(vpn << 12)
    vm.flags[vpn] = UNWRITTEN
    with pytest.raises(Inconsistent, match="V9"):
        vm.check()
