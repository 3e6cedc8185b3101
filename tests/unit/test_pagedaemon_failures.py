"""The page daemon where slots, devices and disks fail."""

import errno
import time

import pytest

from tests import failpoints
from tmpfsd.uvm import pagedaemon, swap
from tmpfsd.uvm.errors import NoMemory, SwapIOError
from tmpfsd.uvm.pagedaemon import BACKOFF
from tmpfsd.uvm.queues import HELD
from tmpfsd.uvm.swapset import free_base, swapon
from tmpfsd.uvm.vm import Vm


def survive(vm: Vm, vpns, number_in) -> None:
    for vpn in vpns:
        vm.breathe()
        assert number_in(vm, vpn) == vpn
    vm.check()


def test_a_bad_slot_is_retired_and_another_used(make_vm, fill, number_in) -> None:
    vm = make_vm()
    vm.swap.bad_write = {1, 2, 20, 21}
    vpns = fill(vm, 200)
    survive(vm, vpns, number_in)
    assert vm.swap.nbad >= 1
    assert not vm.swap.bad_write & set(vm.slot_of)
    assert vm.daemon.write_errors >= vm.swap.nbad


def test_three_bad_slots_in_a_row_do_not_end_swapping(make_vm, fill, number_in) -> None:
    vm = make_vm()
    vm.swap.bad_write = {1, 2, 3}
    survive(vm, fill(vm, 200), number_in)


def test_a_bad_slot_under_a_page_keeps_the_page_in(make_vm, fill, number_in) -> None:
    vm = make_vm(nslots=15)
    vpns = fill(vm, 15)
    vm.daemon.evict_all()
    vm.write(vpns[3] << 12)
    slot = vm.slot_of[vpns[3]]
    vm.swap.bad_write = {slot}
    vm.daemon.evict_all()                       # no other slot is free: it is written over, in vain
    assert vm.is_resident(vpns[3]) and vm.phys.dirty[vm.pfn_of(vpns[3])]
    survive(vm, vpns, number_in)
    vm.free_page(vpns.pop())
    vm.daemon.evict_all()                       # there is another now
    assert not vm.is_resident(vpns[3])
    survive(vm, vpns, number_in)


def test_short_transfers(make_vm, fill, number_in) -> None:
    vm = make_vm()
    vm.swap.short = True
    survive(vm, fill(vm, 200), number_in)


def test_a_full_disk_refuses_and_loses_nothing(make_vm, fill, number_in) -> None:
    vm = make_vm(64, reserve=16)
    vm.swap.room = 100 << 12
    vpns: list[int] = []
    with pytest.raises(NoMemory, match="no swap space"):
        while True:
            vpns += fill(vm, 1)
    assert 100 <= len(vpns) <= 160
    assert vm.swap.nbad == 0                    # a full disk says nothing of a slot
    vm.check()
    tried, refused = len(vm.swap.writes), vm.daemon.write_errors
    with pytest.raises(NoMemory):
        fill(vm, 1)
    assert (len(vm.swap.writes), vm.daemon.write_errors) == (tried, refused), "the full disk was asked again at once"
    survive(vm, vpns[::-7], number_in)


def test_slots_given_back_unwritten_do_not_reopen_a_full_disk(make_vm, fill) -> None:
    vm = make_vm(64, reserve=16)
    vpn, = fill(vm, 1)
    vm.swap.room = 0
    assert not vm.daemon._clean_one(vpn, settle=True)
    assert vm.swap.nheld == 0 and not vm.swap.space


def test_a_slot_that_is_freed_reopens_a_full_disk(make_vm, fill, number_in) -> None:
    vm = make_vm(64, reserve=16)
    vm.swap.room = 40 << 12
    vpns: list[int] = []
    with pytest.raises(NoMemory):
        while True:
            vpns += fill(vm, 1)
    vm.swap.room = -1
    gone = next(vpn for vpn in vpns if vm.slot_of[vpn])
    vm.free_page(gone)
    vpns.remove(gone)
    vpns += fill(vm, 30)
    survive(vm, vpns, number_in)


def test_a_disk_that_was_full_at_first_is_tried_again(make_vm, fill, monkeypatch) -> None:
    vm = make_vm(64, reserve=16)
    vm.swap.room = 0
    with pytest.raises(NoMemory):
        fill(vm, 100)
    vm.swap.room = -1
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 3600)
    fill(vm, 100)


def test_a_dead_device_leaves_resident_pages_at_work(make_vm, fill, number_in) -> None:
    vm = make_vm(64, reserve=16, nslots=100_000)
    vpns = fill(vm, 40)
    vm.swap.dead = True
    with pytest.raises(NoMemory):
        while True:
            vpns += fill(vm, 1)
    for vpn in vpns:
        assert number_in(vm, vpn) == vpn
    assert len(vpns) >= vm.phys.nframes - vm.reserve
    vm.check()


def test_a_device_that_comes_back_is_used_again(make_vm, fill, number_in, monkeypatch) -> None:
    vm = make_vm(64, reserve=16, nslots=100_000)
    vm.swap.dead = True
    vpns: list[int] = []
    with pytest.raises(NoMemory):
        while True:
            vpns += fill(vm, 1)
    vm.swap.dead = False
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 3600)
    survive(vm, vpns + fill(vm, 100), number_in)


def test_a_device_that_dies_under_dirty_pages(make_vm, fill, number_in) -> None:
    """Pages with slots fill memory, are changed, and none of them can be written."""
    vm = make_vm(64, reserve=16, nslots=100_000)
    vpns = fill(vm, 100)
    vm.breathe()
    vm.swap.dead = True
    seen = []
    with pytest.raises((SwapIOError, NoMemory)):
        for vpn in vpns:
            vm.breathe()
            vm.write(vpn << 12)
            seen.append(vpn)
    assert len(seen) >= vm.reserve
    vm.check()
    for vpn in seen:
        if vm.is_resident(vpn):
            assert number_in(vm, vpn) == vpn


def test_a_dead_device_is_not_tried_for_every_page_at_each_breath(make_vm, fill) -> None:
    vm = make_vm(512, reserve=16, nslots=100_000)
    vpns = fill(vm, 490)
    vm.swap.dead = True
    for vpn in range(vpns[-1] + 1, vpns[-1] + 10):
        try:
            vm.alloc_page(vpn, 1)
        except NoMemory:
            break
    vm.breathe()
    assert len(vm.swap.writes) <= 100
    assert vm.swap.nbad <= 100


def test_a_dead_store_is_asked_ever_less_often(make_vm, fill, number_in, monkeypatch, caplog) -> None:
    """A minute of it, looked at each hundredth of a second: pages that have slots, and new ones."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    vm = make_vm(64, reserve=16, nslots=100_000)
    vpns = fill(vm, 100)
    vm.swap.dead = True
    del vm.swap.writes[:]
    for step in range(6000):
        vm.breathe()
        vm.idle()
        for work in (lambda: vm.write(vpns[step % 100] << 12), lambda: vpns.extend(fill(vm, 1))):
            try:
                work()
            except (SwapIOError, NoMemory):
                pass
        now[0] += 0.01
    assert swap.STREAK < len(vm.swap.writes) <= swap.STREAK + 10 + 60 / swap.MOST_PAUSE
    assert vm.swap.state() == "failing" and not vm.swap.space
    vm.swap.dead = False
    now[0] += swap.MOST_PAUSE
    survive(vm, vpns, number_in)
    vpns += fill(vm, 100)
    survive(vm, vpns, number_in)
    assert vm.swap.state() != "failing" and vm.swap.space
    told = [record.getMessage() for record in caplog.records if record.getMessage().startswith("swap ")]
    assert len(told) == 2 and "takes no pages" in told[0] and "takes pages again" in told[1]
    del caplog.records[:]


def test_another_store_is_used_while_one_is_dead(make_vm, make_swap, fill, number_in) -> None:
    """It was tried for each cluster, and its slots retired one by one."""
    vm = make_vm(64, reserve=16, nslots=10_000)
    first, second = vm.swap, make_swap(10_000, free_base(vm.swap.files, 10_000))
    swapon(vm, second)
    first.dead = True
    vpns = fill(vm, 1000)
    assert len(first.writes) <= swap.STREAK + 5 and first.nbad <= swap.STREAK
    survive(vm, vpns, number_in)


def test_a_bad_place_now_and_then_is_no_dead_store(make_vm, fill, number_in) -> None:
    vm = make_vm(64, reserve=16, nslots=10_000)
    vm.swap.bad_write = set(range(1, 5000, 20))
    survive(vm, fill(vm, 2000), number_in)
    assert vm.swap.nbad > 20 and not vm.swap.resting


def test_after_a_reclaim_in_vain_the_daemon_rests(make_vm, fill, monkeypatch) -> None:
    now = [100.0]
    monkeypatch.setattr(pagedaemon.time, "monotonic", lambda: now[0])
    vm = make_vm(64, reserve=16, nslots=100_000)
    for vpn in range(1, 60):
        vm.alloc_page(vpn, 1)
    vm.swap.dead = True
    scans = []
    for _ in range(3):
        vm.breathe()
        scans.append(vm.daemon.scans)
        now[0] += BACKOFF / 4
    now[0] += BACKOFF
    vm.breathe()
    assert scans == [1, 1, 1]
    assert (vm.daemon.scans, vm.daemon.stalls) == (2, 2)


def test_with_swap_full_what_cannot_leave_is_not_scanned_again(make_vm, fill, number_in) -> None:
    vm = make_vm(256, reserve=16, nslots=60)
    vpns: list[int] = []
    with pytest.raises(NoMemory):
        while True:
            vpns += fill(vm, 1)
    vm.breathe()
    looks = []
    out = [vpn for vpn in vpns if not vm.is_resident(vpn)]
    with failpoints.at("PageDaemon._consider", lambda: looks.append(1)):
        for vpn in out:
            vm.breathe()
            assert number_in(vm, vpn) == vpn
    assert 0 < len(looks) <= 6 * len(out)


def test_held_pages_leave_when_there_are_slots_again(make_vm, fill, number_in) -> None:
    vm = make_vm(64, reserve=16, nslots=40)
    vpns: list[int] = []
    with pytest.raises(NoMemory):
        while True:
            vpns += fill(vm, 1)
    vm.breathe()
    held = vm.daemon.count[HELD]
    assert held
    for vpn in [vpn for vpn in vpns if vm.slot_of[vpn]]:
        vm.free_page(vpn)
        vpns.remove(vpn)
    vpns += fill(vm, 35)
    assert vm.daemon.count[HELD] < held
    survive(vm, vpns, number_in)


def test_with_swap_full_a_device_that_comes_back_is_used_again(make_vm, fill, number_in, monkeypatch) -> None:
    """Pages that have slots and could not be written over are held aside; they must not stay there."""
    vm = make_vm(64, reserve=16, nslots=60)
    vpns: list[int] = []
    with pytest.raises(NoMemory):
        while True:
            vpns += fill(vm, 1)
    vm.swap.dead = True
    now = [time.monotonic()]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    for vpn in vpns:
        vm.breathe()
        now[0] += 1
        try:
            vm.write(vpn << 12)
        except SwapIOError:
            break
    vm.swap.dead = False
    now[0] += 3600
    survive(vm, vpns, number_in)
    survive(vm, vpns[::-1], number_in)


@pytest.mark.parametrize("error", (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS))
def test_only_a_full_disk_counts_as_full(make_vm, error: int) -> None:
    vm = make_vm()
    full = error in (errno.ENOSPC, errno.EDQUOT)
    assert vm.daemon.failed(OSError(error, ""), 0) == full
    assert vm.swap.space == (not full)
    assert vm.daemon.write_errors == 1
