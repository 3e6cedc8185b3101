"""The machine: pages that are made, leave, come back and go."""

import os
import random
from pathlib import Path

import pytest

from tests import failpoints
from tmpfsd.uvm.errors import Inconsistent, NoMemory, SwapIOError
from tmpfsd.uvm.pagekind import WIRED
from tmpfsd.uvm.store import open_store
from tmpfsd.uvm.swap import Swap
from tmpfsd.uvm.vm import READAHEAD, Vm

PAGE = 4096


# --- pages ---

def test_a_new_page_is_zeroed_whatever_was_in_its_frame(make_vm, fill) -> None:
    vm = make_vm()
    vpn = fill(vm, 1)[0]
    at = vm.write(vpn << 12)
    vm.phys.arena[at:at + PAGE] = b"x" * PAGE
    vm.free_page(vpn)
    vm.alloc_page(vpn, 2)
    assert vm.read(vpn << 12) == at
    assert not any(vm.phys.arena[at:at + PAGE])


def test_offsets_within_a_page(make_vm, fill) -> None:
    vm = make_vm()
    vpn = fill(vm, 1)[0]
    assert vm.read((vpn << 12) + 77) == vm.write(vpn << 12) + 77


def test_a_page_that_does_not_exist(make_vm, fill) -> None:
    vm = make_vm()
    vpn = fill(vm, 1)[0]
    with pytest.raises(Inconsistent) as caught:
        vm.read(vpn + 1 << 12)
    assert caught.value.invariant == "V1"
    vm.free_page(vpn)
    with pytest.raises(AssertionError):
        vm.free_page(vpn)


def test_pages_are_counted_by_owner(make_vm, fill) -> None:
    vm = make_vm()
    fill(vm, 3, owner=5)
    fill(vm, 2, owner=6)
    vm.alloc_page(vm.kernel_map.alloc(), 6, WIRED)
    vm.daemon.evict_all()
    assert (vm.pages_of[5], vm.pages_of[6], vm.npages, vm.nwired) == (3, 3, 6, 1)
    assert (vm.resident_of[5], vm.resident_of[6], vm.resident_of[6 | WIRED]) == (0, 0, 1)


def test_the_limit_refuses_and_nothing_has_changed(make_vm, fill) -> None:
    vm = make_vm(limit=5)
    vpns = fill(vm, 5)
    with pytest.raises(NoMemory, match="size"):
        fill(vm, 1)
    vm.check()
    vm.free_page(vpns[0])
    vm.kernel_map.free(vpns[0])
    fill(vm, 1)


def test_freeing_a_run_gives_slots_back_in_runs(make_vm, fill) -> None:
    vm = make_vm()
    vpns = fill(vm, 20)
    vm.daemon.evict_all()
    assert vm.swap.nheld == 20
    vm.read(vpns[3] << 12)
    calls = []
    before = vm.faults
    with failpoints.at("Swap.free", lambda: calls.append(vm.swap.nheld)):
        vm.free_pages(vpns[0], 20)
    assert vm.faults == before
    assert vm.swap.nheld == 0 and vm.npages == 0 and len(vm.phys.free_frames) == vm.phys.nframes
    assert calls[0] == 20 and len(calls) <= 3


def test_freed_frames_are_poisoned(make_vm, fill) -> None:
    vm = make_vm()
    vpn = fill(vm, 1)[0]
    at = vm.read(vpn << 12)
    vm.free_page(vpn)
    assert vm.phys.arena[at:at + PAGE] == b"\xdf" * PAGE


def test_the_page_table_grows(make_vm) -> None:
    vm = make_vm()
    vm.alloc_page(50_000, 1)
    assert len(vm.flags) == len(vm.pte) == len(vm.slot_of) > 50_000
    assert not vm.is_resident(49_999) and vm.is_resident(50_000)
    vm.free_page(50_000)


# --- leaving and coming back ---

def test_pages_come_back_as_they_left(make_vm, fill, number_in) -> None:
    vm = make_vm()
    vpns = fill(vm, 500)
    assert vm.daemon.pageouts >= 500 - vm.phys.nframes
    for vpn in random.Random(3).sample(vpns, 500):
        vm.breathe()
        assert number_in(vm, vpn) == vpn


def test_nothing_is_evicted_between_two_breaths(make_vm, fill, number_in) -> None:
    vm = make_vm()
    vpns = fill(vm, 300)
    vm.breathe()
    resident = {vpn: vm.pfn_of(vpn) for vpn in vpns if vm.is_resident(vpn)}
    out = [vpn for vpn in vpns if not vm.is_resident(vpn)][::20]
    reclaims = vm.daemon.reclaims
    for vpn in out[:8]:
        assert number_in(vm, vpn) == vpn
    for _ in range(8):
        vm.alloc_page(vm.kernel_map.alloc(), 1)
    assert vm.daemon.reclaims == reclaims
    assert all(vm.pfn_of(vpn) == pfn for vpn, pfn in resident.items())


def test_breathe_fills_the_reserve(make_vm, fill) -> None:
    vm = make_vm(64, reserve=16)
    fill(vm, 200)
    for _ in range(30):
        vm.breathe()
        assert len(vm.phys.free_frames) >= vm.reserve
        for _ in range(vm.reserve):
            vm.alloc_page(vm.kernel_map.alloc(), 1)


def test_breathe_does_nothing_while_the_reserve_is_full(make_vm, fill) -> None:
    vm = make_vm()
    fill(vm, 10)
    vm.breathe()
    assert (vm.daemon.scans, vm.daemon.pageouts) == (0, 0)


def test_reading_does_not_make_a_page_dirty(make_vm, fill, number_in) -> None:
    vm = make_vm()
    vpns = fill(vm, 8)
    vm.daemon.evict_all()
    outs = vm.daemon.pageouts
    for vpn in vpns:
        number_in(vm, vpn)
    vm.daemon.evict_all()
    assert vm.daemon.pageouts == outs
    vm.write(vpns[0] << 12)
    vm.daemon.evict_all()
    assert vm.daemon.pageouts == outs + 1


def test_wired_pages_stay(make_vm) -> None:
    vm = make_vm()
    for _ in range(20):
        vm.alloc_page(vm.kernel_map.alloc(), 1, WIRED)
    vm.daemon.evict_all()
    assert vm.daemon.pageouts == 0
    assert vm.resident_of[1 | WIRED] == vm.nwired == 20


@pytest.mark.parametrize("name", ("", "swap"), ids=("directory", "file"))
@pytest.mark.parametrize("direct", (False, True), ids=("buffered", "direct"))
def test_kinds_of_swap(tmp_path: Path, fill, number_in, name: str, direct: bool) -> None:
    try:
        store = open_store(str(tmp_path / name), direct)
    except OSError as error:
        pytest.skip(f"no O_DIRECT in {tmp_path}: {error.strerror}")
    vm = Vm(64 << 12, Swap(store, 1000), reserve=16)
    vpns = fill(vm, 300)
    for vpn in vpns:
        vm.breathe()
        assert number_in(vm, vpn) == vpn
    vm.check()
    vm.close()


def test_what_is_freed_gives_its_disk_blocks_back(make_vm, fill) -> None:
    vm = make_vm()
    vpns = fill(vm, 600)
    blocks = os.fstat(vm.swap.store.fd).st_blocks
    if not blocks:
        pytest.skip("this file system does not count blocks at once")
    assert blocks >= 8 * 500
    for i, vpn in enumerate(vpns):
        vm.free_page(vpn)
        if i % 50 == 0:
            vm.idle()
    while vm.idle():
        pass
    assert os.fstat(vm.swap.store.fd).st_blocks <= 16


def test_the_environment_sets_the_debug_levels(monkeypatch) -> None:
    monkeypatch.setenv("TMPFSD_CHECK", "2")
    monkeypatch.setenv("TMPFSD_THRASH", "1")
    vm = Vm(80 << 12)
    assert (vm.check_level, vm.thrash) == (2, True)
    vm.close()


# --- reading ahead ---

def test_pages_written_together_are_read_together(make_vm, fill, number_in) -> None:
    vm = make_vm()
    vpns = fill(vm, 32)
    vm.daemon.evict_all()
    assert max(map(len, vm.swap.writes)) == 16
    for vpn in vpns:
        assert number_in(vm, vpn) == vpn
    # The first two come alone: what reads in order shows itself by then.
    assert vm.pageins == 32
    assert vm.faults <= 2 + -(-30 // READAHEAD) + 4
    assert max(map(len, vm.swap.reads)) == READAHEAD


def test_random_reads_bring_in_one_page_each(make_vm, fill, number_in) -> None:
    vm = make_vm()
    vpns = fill(vm, 32)
    vm.daemon.evict_all()
    for vpn in vpns[::-3]:
        number_in(vm, vpn)
    assert vm.pageins == vm.faults == len(vpns[::-3])


def test_reading_ahead_leaves_the_reserve_alone(make_vm, fill, number_in) -> None:
    vm = make_vm(64, reserve=16)
    vpns = fill(vm, 200)
    vm.breathe()
    vm.daemon.evict_all()
    for vpn in vpns[:60]:
        number_in(vm, vpn)
    free = len(vm.phys.free_frames)
    assert free < vm.reserve
    number_in(vm, vpns[70])
    assert len(vm.phys.free_frames) == free - 1


@pytest.mark.parametrize("trouble", ("flip", "bad_read"))
def test_trouble_in_a_page_read_ahead_is_not_the_readers(make_vm, fill, number_in, trouble: str) -> None:
    vm = make_vm(check=trouble != "flip")
    vpns = fill(vm, 16)
    vm.daemon.evict_all()
    slot = vm.slot_of[vpns[5]]
    if trouble == "flip":
        vm.swap.flip(slot)
    else:
        vm.swap.bad_read.add(slot)
    for vpn in vpns[:5] + vpns[6:]:
        assert number_in(vm, vpn) == vpn
    for _ in range(3):
        with pytest.raises(SwapIOError):
            number_in(vm, vpns[5])
    assert vm.read_errors == 3
    vm.swap.bad_read.clear()
    if trouble == "bad_read":
        assert number_in(vm, vpns[5]) == vpns[5]


def test_a_failed_fault_changes_nothing(make_vm, fill, number_in) -> None:
    vm = make_vm()
    vpns = fill(vm, 16)
    vm.daemon.evict_all()
    vm.swap.bad_read.add(vm.slot_of[vpns[0]])
    free, entry = len(vm.phys.free_frames), vm.pte[vpns[0]]
    with pytest.raises(SwapIOError):
        vm.write(vpns[0] << 12)
    assert (len(vm.phys.free_frames), vm.pte[vpns[0]]) == (free, entry)
    vm.swap.bad_read.clear()
    vm.check()


def test_an_unreadable_page_can_be_freed(make_vm, fill) -> None:
    vm = make_vm()
    vpn = fill(vm, 1)[0]
    vm.daemon.evict_all()
    vm.swap.flip(vm.slot_of[vpn])
    vm.free_page(vpn)
    assert vm.swap.nheld == 0


# --- running out ---

def fill_up(vm: Vm, fill) -> list[int]:
    """Pages until there is no memory for another."""
    vpns: list[int] = []
    with pytest.raises(NoMemory):
        while True:
            vpns += fill(vm, 1)
    return vpns


@pytest.mark.parametrize("nslots", (0, 1, 7, 40, 100))
def test_swap_full_refuses_and_loses_nothing(make_vm, fill, number_in, nslots: int) -> None:
    vm = make_vm(64, reserve=16, nslots=nslots)
    vpns = fill_up(vm, fill)
    assert len(vpns) == vm.phys.nframes - vm.reserve + nslots       # V6, to the page
    for vpn in vpns:
        vm.breathe()
        assert number_in(vm, vpn) == vpn
    vm.check()
    vm.breathe()
    for vpn in vpns[::2]:
        vm.free_page(vpn)
        vm.kernel_map.free(vpn)
    assert len(fill_up(vm, fill)) == len(vpns[::2])


@pytest.mark.parametrize("nslots", (0, 40))
def test_an_overdraft_has_what_is_kept_back(make_vm, fill, nslots: int) -> None:
    vm = make_vm(64, reserve=16, nslots=nslots, spare=5)
    n = len(fill_up(vm, fill))
    assert n == vm.phys.nframes - vm.reserve - 5 + nslots
    for _ in range(2):
        with vm.overdraft:
            vpns = fill_up(vm, fill)
        assert len(vpns) == 5 and not vm.overdrawn
        with pytest.raises(NoMemory):
            vm.alloc_data_pages(vm.kernel_map.alloc(), 1, 1)
        vm.check()
        vm.breathe()
        for vpn in vpns:
            vm.free_page(vpn)
            vm.kernel_map.free(vpn)


def test_an_overdraft_knows_no_limit(make_vm, fill) -> None:
    vm = make_vm(64, reserve=16, nslots=100, limit=10)
    assert len(fill_up(vm, fill)) == 10
    with vm.overdraft:
        fill(vm, 20)
    with pytest.raises(NoMemory, match="size"):
        fill(vm, 1)
    vm.check()


@pytest.mark.parametrize("error", (NoMemory, SwapIOError))
def test_an_overdraft_ends_with_what_runs_within(make_vm, error: type[Exception]) -> None:
    vm = make_vm()
    with pytest.raises(error):
        with vm.overdraft:
            raise error("any")
    assert not vm.overdrawn


def test_what_is_kept_back_is_a_quarter_at_most(make_vm) -> None:
    assert make_vm(64, reserve=16, spare=100).spare == 12
    assert make_vm(64, reserve=16).spare == 0


def test_with_swap_full_pages_that_were_out_are_rewritten_in_place(make_vm, fill, number_in) -> None:
    vm = make_vm(64, reserve=16, nslots=40)
    vpns = fill_up(vm, fill)
    for turn in range(3):
        for vpn in [vpn for vpn in vpns if vm.slot_of[vpn]]:
            vm.breathe()
            slot = vm.slot_of[vpn]
            vm.phys.u64[vm.write(vpn << 12) >> 3] = vpn
            assert vm.slot_of[vpn] == slot
    assert vm.swap.nfree == 0 and len(vm.phys.free_frames) >= 1
    for vpn in vpns:
        vm.breathe()
        assert number_in(vm, vpn) == vpn


def test_swap_full_does_not_starve_faults(make_vm, fill, number_in) -> None:
    vm = make_vm(128, reserve=64, nslots=128)
    vpns = fill_up(vm, fill)
    out = [vpn for vpn in vpns if not vm.is_resident(vpn)]
    for _ in range(3):
        for vpn in out:
            vm.breathe()
            assert number_in(vm, vpn) == vpn


def test_wired_pages_stop_where_the_reserve_begins(make_vm, fill) -> None:
    vm = make_vm(64, reserve=16)
    fill(vm, 100)
    with pytest.raises(NoMemory, match="cannot leave"):
        while True:
            vm.breathe()
            vpn = vm.kernel_map.alloc()
            vm.alloc_page(vpn, 2, WIRED)
    vm.kernel_map.free(vpn)
    assert vm.nwired == 48
    vm.breathe()
    assert len(vm.phys.free_frames) >= vm.reserve


# --- everything at once ---

@pytest.mark.slow
@pytest.mark.parametrize("nframes, nslots, thrash", (
    pytest.param(400, 4000, False, id="roomy"), pytest.param(400, 4000, True, id="roomy-thrash"),
    pytest.param(24, 4000, False, id="starving"), pytest.param(24, 4000, True, id="starving-thrash"),
    pytest.param(24, 100, False, id="full"), pytest.param(24, 100, True, id="full-thrash")))
@pytest.mark.parametrize("seed", range(2))
def test_against_a_dict(make_vm, seed: int, nframes: int, nslots: int, thrash: bool) -> None:
    rng = random.Random(seed)
    vm = make_vm(nframes, reserve=8, nslots=nslots)
    vm.thrash = thrash
    model: dict[int, int] = {}
    for step in range(2500):
        vm.breathe()
        for _ in range(rng.randint(1, 6)):
            how = rng.random()
            if how < 0.3:
                vpn = vm.kernel_map.alloc()
                try:
                    vm.alloc_page(vpn, rng.choice((1, 2)))
                    model[vpn] = 0
                except NoMemory:
                    vm.kernel_map.free(vpn)
            elif model:
                vpn = rng.choice(list(model))
                if how < 0.5:
                    model[vpn] = rng.getrandbits(60)
                    vm.phys.u64[(vm.write(vpn << 12) >> 3) + 511] = model[vpn]
                elif how < 0.72 + 0.3 * (len(model) > 300):
                    vm.free_page(vpn)
                    vm.kernel_map.free(vpn)
                    del model[vpn]
                else:
                    value = vm.phys.u64[(vm.read(vpn << 12) >> 3) + 511]
                    assert value == model[vpn], f"seed {seed}, step {step}, page {vpn}"
        if rng.random() < 0.1:
            vm.idle()
        if step % 250 == 0:
            vm.check()
    assert vm.npages == len(model)
    for vpn in model:
        vm.free_page(vpn)
    assert len(vm.phys.free_frames) == nframes and vm.swap.nheld == 0


def test_pages_for_data_come_as_they_are_and_no_more_than_there_is_room(make_vm) -> None:
    vm = make_vm(64, reserve=16, limit=100)
    old = vm.kernel_map.alloc(30)
    assert vm.alloc_data_pages(old, 30, 1) == 30
    for vpn in range(old, old + 30):
        vm.phys.arena[vm.write(vpn << 12)] = 0x55
    vm.free_pages(old, 30)
    first = vm.kernel_map.alloc(120)
    got = vm.alloc_data_pages(first, 120, 1)
    assert got == 64 - 16, "a page without a slot must leave the reserve alone (V6)"
    vm.undefined.written(first, got)
    vm.check()
    vm.breathe()
    while got < 100:
        got += vm.alloc_data_pages(first + got, 120 - got, 1)
        vm.undefined.written(first, got)
        vm.check()
        vm.breathe()
    with pytest.raises(NoMemory, match="size is used up"):
        vm.alloc_data_pages(first + got, 1, 1)
    assert vm.pages_of[1] == vm.npages == 100
    vm.free_pages(first, 100)
    vm.check()
