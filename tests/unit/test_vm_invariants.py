"""Each invariant of the machine, broken by hand: check() names it."""

import pytest

from tmpfsd.uvm import pte
from tmpfsd.uvm.errors import Inconsistent
from tmpfsd.uvm.pagekind import WIRED
from tmpfsd.uvm.vm import Vm


@pytest.fixture
def vm(make_vm, fill) -> Vm:
    """A machine with pages in, out, dirty, clean and wired, to be broken."""
    vm = make_vm(check=False)
    vpns = fill(vm, 10)
    vm.daemon.evict_all()
    for vpn in vpns[:5]:
        vm.read(vpn << 12)
    fill(vm, 3)
    vm.alloc_page(20, 3, WIRED)
    vm.check()
    return vm


def broken(vm: Vm, invariant: str) -> None:
    with pytest.raises(Inconsistent) as caught:
        vm.check()
    assert caught.value.invariant == invariant


def test_v1_a_page_without_an_owner_has_a_slot(vm: Vm) -> None:
    vm.slot_of[500], _count = vm.swap.alloc(1)
    broken(vm, "V1")


def test_v1_a_page_is_neither_in_nor_out(vm: Vm) -> None:
    vm.pte[8] = pte.NONE
    broken(vm, "V1")


def test_v2_page_and_frame_differ(vm: Vm) -> None:
    vm.pte[1], vm.pte[2] = vm.pte[2], vm.pte[1]
    broken(vm, "V2")


def test_v2_a_frame_names_a_page_that_is_out(vm: Vm) -> None:
    vm.pte[1] = pte.out(0)
    broken(vm, "V2")


def test_v3_a_page_without_a_slot_is_clean(vm: Vm) -> None:
    assert not vm.slot_of[11]
    vm.phys.dirty[vm.pfn_of(11)] = 0
    broken(vm, "V3")


@pytest.mark.parametrize("counter", ("npages", "nslotless", "nwired"))
def test_v4_counters(vm: Vm, counter: str) -> None:
    setattr(vm, counter, getattr(vm, counter) + 1)
    broken(vm, "V4")


@pytest.mark.parametrize("counter", ("pages_of", "resident_of"))
def test_v4_counters_by_owner(vm: Vm, counter: str) -> None:
    getattr(vm, counter)[7] += 1
    broken(vm, "V4")


def test_v5_two_pages_have_one_slot(vm: Vm) -> None:
    vm.slot_of[7] = vm.slot_of[8]
    broken(vm, "V5")


def test_v6_too_many_pages_without_a_slot(vm: Vm) -> None:
    vm.reserve = vm.phys.nframes - vm.nslotless + 1
    vm.measure()
    broken(vm, "V6")
    vm.daemon.write_errors = 1
    vm.check()


@pytest.mark.parametrize("vpn", (1, 9), ids=("clean", "out"))
def test_s3_a_slot_has_changed(vm: Vm, vpn: int) -> None:
    vm.check(deep=False)
    vm.swap.flip(vm.slot_of[vpn])
    vm.check(deep=False)
    broken(vm, "S3")


def test_s3_the_slot_of_a_dirty_page_does_not_matter(vm: Vm) -> None:
    vm.write(1 << 12)
    vm.swap.flip(vm.slot_of[1])
    vm.check()
