"""Pages whose bytes are undefined: how one comes about, how it ends, and that there is none at a breath."""

from typing import Callable

import pytest

from tmpfsd.uvm.errors import Inconsistent
from tmpfsd.uvm.vm import Vm


@pytest.fixture
def vm(make_vm: Callable[..., Vm], fill: Callable[..., list[int]]) -> Vm:
    """A machine with 8 pages that are out, from number 1 on, each with its number in it."""
    vm = make_vm()
    vm.check_level = 1
    fill(vm, 8)
    vm.daemon.evict_all()
    return vm


def broken(vm: Vm, invariant: str, call: Callable[[], None]) -> None:
    with pytest.raises(Inconsistent) as caught:
        call()
    assert caught.value.invariant == invariant


def test_new_pages_are_zeroed_when_an_operation_ends_with_them(vm: Vm) -> None:
    first = vm.kernel_map.alloc(3)
    assert vm.alloc_data_pages(first, 3, 1) == 3
    assert vm.phys.arena[vm.read(first << 12)] == 0xDF, "not poisoned: the test would see nothing"
    broken(vm, "V7", vm.check)
    broken(vm, "V7", vm.breathe)
    vm.breathe()
    for vpn in range(first, first + 3):
        at = vm.read(vpn << 12)
        assert not any(vm.phys.arena[at:at + 4096])
    vm.check()


def test_old_pages_are_what_they_were_when_an_operation_ends_with_them(vm: Vm, number_in: Callable[..., int]) -> None:
    assert vm.forget_content(2, 5) == 5
    assert vm.undefined.old == set(range(2, 7))
    assert vm.phys.arena[vm.read(3 << 12)] == 0xDF
    broken(vm, "V7", vm.breathe)
    assert not any(map(vm.is_resident, range(2, 7)))
    assert [number_in(vm, vpn) for vpn in range(1, 9)] == list(range(1, 9))
    vm.check()


def test_what_was_written_is_defined(vm: Vm) -> None:
    vm.forget_content(2, 3)
    for vpn in (2, 3, 4):
        vm.phys.arena[vm.write(vpn << 12)] = 0x55
    vm.undefined.written(2, 3)
    assert not vm.undefined.pages and not vm.undefined.old
    vm.breathe()
    vm.daemon.evict_all()
    assert vm.phys.arena[vm.read(3 << 12)] == 0x55


def test_what_is_in_is_not_forgotten(vm: Vm, number_in: Callable[..., int]) -> None:
    vm.read(3 << 12)
    assert vm.forget_content(2, 3) == 3
    assert vm.undefined.old == {2, 4}
    vm.undefined.restore(vm)
    assert [number_in(vm, vpn) for vpn in (2, 3, 4)] == [2, 3, 4]


def test_what_is_freed_is_not_undefined(vm: Vm) -> None:
    first = vm.kernel_map.alloc(2)
    vm.alloc_data_pages(first, 2, 1)
    vm.forget_content(2, 2)
    vm.free_pages(first, 2)
    vm.free_pages(2, 2)
    vm.breathe()
    vm.check()


def test_without_a_frame_it_stays_out(vm: Vm) -> None:
    vm.breathe()
    free = vm.phys.free_frames[2:]
    del vm.phys.free_frames[2:]
    assert vm.forget_content(2, 5) == 2
    assert vm.forget_content(4, 3) == 0
    vm.phys.free_frames.extend(free)
    vm.undefined.restore(vm)


def test_a_forgotten_page_that_has_lost_its_slot_is_seen(vm: Vm) -> None:
    vm.forget_content(2, 1)
    vm.phys.dirty[vm.pfn_of(2)] = 0
    broken(vm, "V8", vm.check)
    vm.undefined.restore(vm)


def test_no_slot_is_given_while_there_are_forgotten_pages(vm: Vm) -> None:
    vm.forget_content(2, 1)
    vm.most_slotless = vm.nslotless
    with pytest.raises(AssertionError, match="V8"):
        vm.alloc_page(vm.kernel_map.alloc(), 1)
    vm.undefined.restore(vm)
    vm.measure()
