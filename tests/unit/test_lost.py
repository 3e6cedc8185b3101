"""Pages that cannot be read back: logged once with their owner, counted, found again, and their slots not reused."""

import logging
from typing import Callable

import pytest

from tmpfsd.seldom import seldom
from tmpfsd.uvm import lost
from tmpfsd.uvm.errors import Inconsistent, SwapIOError, Unanswered
from tmpfsd.uvm.lost import Lost, Unreadable, heed
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
    monkeypatch.setattr("tmpfsd.uvm.swap.MOST_PAUSE", 1e-9)
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


def found_in(vm: Vm) -> Unreadable:
    """The findings of a check of a copy."""
    vm.unreadable = found = Unreadable(vm)
    try:
        vm.check()
    finally:
        vm.unreadable = None
    return found


def test_a_check_reads_twice_what_fails(vm: Vm) -> None:
    vm.swap.bad_once = {vm.slot_of[5], vm.slot_of[9]}
    vm.check()
    vm.swap.bad_once = {vm.slot_of[5], vm.slot_of[9]}
    assert (found_in(vm).nlost, found_in(vm).pages) == (0, [])


def test_a_slot_that_does_not_answer_is_a_lost_page_and_no_inconsistency(vm: Vm) -> None:
    vm.swap.bad_read = {vm.slot_of[5], vm.slot_of[9]}
    vm.check()
    assert not vm.lost.pages                    # it has only looked
    found = found_in(vm)
    assert (found.nlost, found.pages) == (2, [(5, vm.slot_of[5]), (9, vm.slot_of[9])])
    heed(vm, found.pages)
    assert vm.lost.pages == {5, 9} and found_in(vm).nlost == 2


def test_a_fault_that_has_passed_is_found_by_a_check(vm: Vm) -> None:
    """Though nobody has looked at the pages since; and what is lost still is not lost twice."""
    bad = {vpn: vm.slot_of[vpn] for vpn in (5, 9)}
    vm.swap.bad_read = set(bad.values())
    lose(vm, [5, 9], times=1)
    assert found_in(vm).nlost == 2
    vm.swap.bad_read = {bad[9]}
    found = found_in(vm)
    assert (found.nlost, found.pages, found.healed) == (1, [(9, bad[9])], [(5, bad[5])])
    heed(vm, found.pages, [*found.healed, (9, bad[5]), (1 << 20, 7)])
    assert vm.lost.pages == {9}
    vm.swap.bad_read.clear()
    found = found_in(vm)
    heed(vm, found.pages, found.healed)
    assert found.nlost == 0 and not vm.lost.pages


def test_a_store_that_is_away_ends_the_check_of_a_mount(vm: Vm) -> None:
    vm.swap.away = True
    vm.check()
    with pytest.raises(Unanswered):
        found_in(vm)
    vm.check()
    assert not vm.lost.pages


def test_wrong_bytes_are_a_lost_page_to_who_knows_that_stores_lie(vm: Vm) -> None:
    """They are S3 to tests and to who checks each operation: there nobody else writes to the store."""
    vm.swap.flip(vm.slot_of[5])
    with pytest.raises(Inconsistent, match="S3"):
        vm.check()
    found = found_in(vm)
    assert (found.nlost, found.pages) == (1, [(5, vm.slot_of[5])])
    vm.swap.flip(vm.slot_of[5])


def test_a_resident_page_whose_slot_is_bad_is_written_anew(
        vm: Vm, number_in: Callable[[Vm, int], int], caplog: pytest.LogCaptureFixture) -> None:
    assert number_in(vm, 5) == 5
    bad = vm.slot_of[5]
    vm.swap.bad_read = {bad}
    found = found_in(vm)
    assert (found.nlost, found.pages) == (0, [(5, bad)])
    heed(vm, found.pages)
    assert not vm.lost.pages and "1 pages are written anew" in caplog.text
    vm.daemon.evict_all()
    assert vm.slot_of[5] != bad and not vm.is_resident(5) and number_in(vm, 5) == 5


def test_what_has_changed_since_is_not_heeded(vm: Vm, fill: Callable[..., list[int]]) -> None:
    vm.swap.bad_read = {vm.slot_of[vpn] for vpn in (5, 6, 7)}
    pages = found_in(vm).pages
    vm.swap.bad_read.clear()
    vm.free_page(5)
    vm.write(6 << 12)
    vm.daemon.evict_all()                       # 6 is in another slot now
    heed(vm, [*pages, (1 << 20, 3)])
    assert vm.lost.pages == {7}
    vm.read(7 << 12)


def test_what_a_check_notes_is_bounded(vm: Vm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lost, "MOST", 3)
    vm.swap.bad_read = {vm.slot_of[vpn] for vpn in range(1, 33)}
    found = found_in(vm)
    assert found.nlost == 32 and len(found.pages) == 3


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
