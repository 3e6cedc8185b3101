"""What cannot be read back: logged once with its owner, counted, found again, and its slot not used again."""

import logging
from typing import Callable

import pytest

from tmpfsd.uvm import lost
from tmpfsd.uvm.errors import Inconsistent, SwapIOError
from tmpfsd.uvm.lost import Lost, seldom
from tmpfsd.uvm.vm import Vm


def lose(vm: Vm, vpns: list[int], times: int = 3) -> None:
    """Look at pages whose slots are bad, again and again."""
    for _ in range(times):
        for vpn in vpns:
            vm.breathe()
            with pytest.raises(SwapIOError):
                vm.read(vpn << 12)


@pytest.fixture
def vm(make_vm: Callable[..., Vm], fill: Callable[..., list[int]]) -> Vm:
    """A machine with 32 pages that are out, from number 1 on."""
    vm = make_vm()
    vm.owners[1] = "pool of tests"
    fill(vm, 32)
    vm.breathe()
    vm.daemon.evict_all()
    return vm


def test_logged_once_with_its_owner(vm: Vm, caplog: pytest.LogCaptureFixture) -> None:
    vm.swap.bad_read = {vm.slot_of[5], vm.slot_of[9]}
    lose(vm, [5, 9], 100)
    assert len(caplog.records) == 2
    assert "pool of tests" in caplog.text and f"slot {vm.slot_of[9]}, page 9: faulty" in caplog.text
    assert vm.read_errors == 200 and vm.lost.pages == {5, 9}


def test_found_again(vm: Vm, caplog: pytest.LogCaptureFixture, number_in: Callable[[Vm, int], int]) -> None:
    vm.swap.bad_read = {vm.slot_of[5]}
    lose(vm, [5])
    vm.swap.bad_read.clear()
    assert number_in(vm, 5) == 5 and not vm.lost.pages
    vm.daemon.evict_all()
    vm.swap.bad_read = {vm.slot_of[5]}
    lose(vm, [5])
    assert len(caplog.records) == 2             # lost a second time: news


def test_the_slot_of_a_lost_page_is_retired(vm: Vm) -> None:
    slot = vm.slot_of[5]
    vm.swap.flip(slot)
    lose(vm, [5])
    held = vm.swap.nheld
    vm.free_pages(3, 5)
    assert (vm.swap.nbad, vm.swap.nheld) == (1, held - 5) and not vm.lost.pages
    vm.check()
    assert vm.swap.alloc(1, at=slot)[0] != slot
    vm.swap.free(3)


def test_written_over_it_is_lost_no_more(vm: Vm) -> None:
    vm.swap.flip(vm.slot_of[5])
    lose(vm, [5])
    assert vm.forget_content(5) == 1
    vm.write(5 << 12)
    vm.undefined.written(5, 1)
    assert not vm.lost.pages
    vm.free_page(5)
    assert vm.swap.nbad == 0


def test_the_list_is_bounded(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lost, "MOST", 3)
    pages = Lost()
    for vpn in (1, 2, 3, 4, 5, 1, 4):
        pages.add(vpn, "x", SwapIOError("y"))
    assert pages.pages == {1, 2, 3} and len(caplog.records) == 4
    assert pages.remove(1) and not pages.remove(4)


def test_a_dead_device_does_not_fill_the_log(
        make_vm: Callable[..., Vm], fill: Callable[..., list[int]], caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tmpfsd.uvm.pagedaemon.BACKOFF", 0.0)
    vm = make_vm(nslots=10_000)
    vpns = fill(vm, 100)
    vm.daemon.evict_all()
    vm.swap.dead = True
    for _ in range(12):
        for vpn in vpns:
            vm.breathe()
            try:
                vm.write(vpn << 12)
            except SwapIOError:
                pass
    assert vm.daemon.write_errors > 200 and vm.frame_errors > 200
    assert len(caplog.records) < 40 and all(record.levelno == logging.ERROR for record in caplog.records)
    assert "page-out failed" in caplog.text and "no frame" in caplog.text


def test_seldom() -> None:
    assert [n for n in range(1, 100) if seldom(n)] == [1, 2, 4, 8, 16, 32, 64]


@pytest.mark.parametrize("vpn", [3, 500])
def test_l1_a_lost_page_is_out(make_vm: Callable[..., Vm], fill: Callable[..., list[int]], vpn: int) -> None:
    vm = make_vm(check=False)
    fill(vm, 4)
    vm.lost.pages.add(vpn)
    with pytest.raises(Inconsistent) as caught:
        vm.check()
    assert caught.value.invariant == "L1"
