"""Several swap files: taken in, filled, drained and let go, with devices that fail; all is checked at each step."""

import os
import random

import pytest

from tests import failpoints
from tmpfsd.uvm import swapset
from tmpfsd.uvm.aobj import AnonObject
from tmpfsd.uvm.errors import Inconsistent, NoMemory, NoSwap, SwapIOError
from tmpfsd.uvm.pagekind import WINDOWED
from tmpfsd.uvm.swap import Swap
from tmpfsd.uvm.swapset import SwapSet, free_base, swapoff, swapon
from tmpfsd.uvm.vm import Vm


@pytest.fixture(autouse=True)
def small_steps(monkeypatch) -> None:
    monkeypatch.setattr(swapset, "STEP_PAGES", 20)


@pytest.fixture
def add(make_swap):
    """Give a machine another file."""
    def take_in(vm: Vm, nslots: int = 1024):
        files = vm.swap.files if vm.swap is not None else []
        swap = make_swap(nslots, free_base(files, nslots))
        swapon(vm, swap)
        return swap
    return take_in


def off(vm: Vm, swap, deep: bool = True) -> list[int]:
    """Drain to the end, and check the machine after each step."""
    steps = []
    for left in swapoff(vm, swap):
        vm.check(deep)
        steps.append(left)
    vm.check()
    return steps


def numbers(vm: Vm, vpns: list[int]) -> list[int]:
    found = []
    for vpn in vpns:
        vm.breathe()
        found.append(vm.phys.u64[vm.read(vpn << 12) >> 3])
    return found


# --- the space of numbers ---

def test_ranges_do_not_touch_and_are_used_again(make_swap) -> None:
    one, two = make_swap(100), make_swap(50, 102)
    assert (one.base, free_base([one], 50)) == (1, 102)
    assert free_base([one, two], 10) == 153
    assert free_base([two], 90) == 1 and free_base([two], 101) == 153
    SwapSet([one, two]).check(set())


def test_there_are_no_more_numbers_than_32_bits(make_swap) -> None:
    with pytest.raises(NoSwap, match="no slot numbers left"):
        free_base([make_swap(100)], 1 << 32)


def test_t1_ranges_touch(make_swap) -> None:
    with pytest.raises(Inconsistent, match="T1"):
        SwapSet([make_swap(100), make_swap(50, 101)]).check(set())


def test_t1_a_slot_is_nobodys(make_swap) -> None:
    with pytest.raises(Inconsistent, match="T1"):
        SwapSet([make_swap(100), make_swap(50, 102)]).check({101})


def test_a_file_that_does_not_begin_at_1_uses_its_own_first_pages(make_swap) -> None:
    swap = make_swap(8, 1000)
    pages = [memoryview(bytes([i]) * 4096) for i in range(4)]
    slot, count = swap.alloc(4)
    swap.write_cluster(slot, pages, range(4))
    assert (slot, count, os.fstat(swap.store.fd).st_size) == (1000, 4, 5 << 12)
    assert all(swap.verify(slot + i, i) for i in range(4))
    swap.free(1001, 3)
    while swap.trim():
        pass
    assert swap.seal.nplaces == 2 and swap.verify(1000, 0)


# --- taking in ---

def test_files_are_filled_in_turn(make_vm, fill, add) -> None:
    vm = make_vm(64, nslots=20)
    one, two = vm.swap, add(vm, 30)
    fill(vm, 90)
    assert (one.nheld, two.nheld) == (20, 30) or one.nfree == 0 < two.nheld
    assert vm.swap.nheld == one.nheld + two.nheld and vm.swap.nslots == 50


def test_the_highest_priority_is_filled_first(make_vm, fill, make_swap) -> None:
    vm = make_vm(64, nslots=30)
    first = vm.swap
    added = [Swap(make_swap(20).store, 20, free_base(vm.swap.files, 20), priority=5)]
    swapon(vm, added[0])
    for priority in (9, -1):
        added.append(Swap(make_swap(20).store, 20, free_base(vm.swap.files, 20), priority=priority))
        swapon(vm, added[-1])
    assert [file.priority for file in vm.swap.files] == [9, 5, -1, -2]
    assert vm.swap.files == [added[1], added[0], first, added[2]]
    for expected in ((16, 0, 0, 0), (20, 12, 0, 0), (20, 20, 8, 0)):
        slot = sum(expected) - 16
        while slot < sum(expected):
            slot += vm.swap.alloc(sum(expected) - slot)[1]
        assert tuple(file.nheld for file in vm.swap.files) == expected
    for file in vm.swap.files:
        while file.nheld:
            file.free(file.base + file.nheld - 1)


def test_files_of_equal_priority_take_clusters_in_turn(make_swap) -> None:
    files = [Swap(make_swap(20).store, 20, base, priority=3) for base in (1, 100, 200)]
    swap = SwapSet(files)
    assert [swap.alloc(4) for _ in range(4)] == [(1, 4), (100, 4), (200, 4), (5, 4)]
    assert {file.nheld for file in swap.files} == {4, 8}
    swap.check({*range(1, 9), *range(100, 104), *range(200, 204)})
    while swap.nfree:
        swap.alloc(4)
    assert swap.nheld == 60


def test_t2_priorities_in_disorder(make_swap) -> None:
    swap = SwapSet([make_swap(100), make_swap(50, 102)])
    swap.files[1].priority = 7
    with pytest.raises(Inconsistent, match="T2"):
        swap.check(set())


def test_a_machine_without_swap_gets_some(make_vm, fill, add) -> None:
    vm = make_vm(64, nslots=0)
    vpns = fill(vm, 48)
    with pytest.raises(NoMemory):
        fill(vm, 1)
    add(vm)
    vpns += fill(vm, 200)
    vm.check()
    assert numbers(vm, vpns) == vpns


def test_pages_that_waited_for_slots_get_them(make_vm, fill, add) -> None:
    vm = make_vm(64, nslots=20)
    vpns = fill(vm, 68)
    with pytest.raises(NoMemory):
        fill(vm, 1)
    add(vm)
    vpns += fill(vm, 100)
    assert numbers(vm, vpns) == vpns


def test_too_many_files(make_vm, add) -> None:
    vm = make_vm(64, nslots=8)
    for _ in range(swapset.MAX_FILES - 1):
        add(vm, 8)
    with pytest.raises(NoSwap, match="at most 16"):
        add(vm, 8)


def test_a_full_disk_under_one_file_fills_the_other(make_vm, fill, add) -> None:
    vm = make_vm(64, nslots=1024)
    one, two = vm.swap, add(vm)
    one.room = 30 << 12
    vpns = fill(vm, 300)
    vm.check()
    assert one.nheld <= 30 and one.nbad == 0 and two.nheld > 200 and numbers(vm, vpns) == vpns


def test_a_dead_file_is_gone_round(make_vm, fill, add) -> None:
    vm = make_vm(64, nslots=1024)
    one, two = vm.swap, add(vm)
    one.dead = True
    vpns = fill(vm, 300)
    vm.check()
    assert two.nheld > 200 and numbers(vm, vpns) == vpns


# --- draining ---

@pytest.mark.parametrize("kind", (0, WINDOWED), ids=("pageable", "windowed"))
@pytest.mark.parametrize("which", (0, 1))
def test_what_was_on_it_is_elsewhere(make_vm, add, kind: int, which: int) -> None:
    vm = make_vm(64, nslots=400)
    if kind:
        AnonObject(vm, vm.reserve)
    vpns = []
    for i in range(600):
        if i == 200:
            add(vm, 1024)
        vm.breathe()
        vpn = vm.kernel_map.alloc()
        vm.alloc_page(vpn, 1, kind)
        vm.phys.u64[vm.write(vpn << 12) >> 3] = vpn
        vpns.append(vpn)
    random.Random(2).shuffle(vpns)
    if which == 1:
        add(vm, 1024)
    steps = off(vm, vm.swap.files[which])
    assert steps[-1] == 0 and len(steps) > 3
    assert numbers(vm, vpns) == vpns


def test_what_is_out_is_copied_without_a_frame(make_vm, fill, add) -> None:
    vm = make_vm(64)
    one = vm.swap
    vpns = fill(vm, 300)
    vm.daemon.evict_all()
    add(vm)
    before = vm.faults, vm.daemon.reclaims, len(vm.phys.free_frames)
    off(vm, one)
    assert (vm.faults, vm.daemon.reclaims, len(vm.phys.free_frames)) == before
    assert max(map(len, vm.swap.writes)) == 16
    assert numbers(vm, vpns) == vpns


def test_the_last_file_goes_when_memory_has_room(make_vm, fill) -> None:
    vm = make_vm(64)
    vpns = fill(vm, 40)
    vm.daemon.evict_all()
    off(vm, vm.swap)
    assert vm.swap is None and all(vm.is_resident(vpn) for vpn in vpns)
    assert numbers(vm, vpns) == vpns
    with pytest.raises(NoMemory):
        fill(vm, 10)


def test_what_fits_nowhere_is_refused_and_nothing_has_changed(make_vm, fill, add) -> None:
    vm = make_vm(64)
    one = vm.swap
    vpns = fill(vm, 200)
    add(vm, 50)
    held = one.nheld
    with pytest.raises(NoSwap, match="holds .*k; other swap files have room for 200k, ram for"):
        off(vm, one)
    assert one.nheld == held and not one.draining
    assert numbers(vm, vpns) == vpns


def test_other_file_and_memory_together(make_vm, fill, add) -> None:
    vm = make_vm(64)
    one = vm.swap
    vpns = fill(vm, 100)
    vm.daemon.evict_all()
    add(vm, 60)
    off(vm, one)
    assert vm.nslotless == 40 and numbers(vm, vpns) == vpns


def test_interrupted_it_is_used_as_before(make_vm, fill, add) -> None:
    vm = make_vm(64)
    one = vm.swap
    vpns = fill(vm, 300)
    add(vm, 1024)
    draining = swapoff(vm, one)
    for _ in range(3):
        next(draining)
    assert one.draining and not one.nfree
    draining.close()
    assert not one.draining and 0 < one.nheld
    vm.check()
    vpns += fill(vm, 100)
    assert one.nheld > 200 and numbers(vm, vpns) == vpns
    off(vm, one)
    assert numbers(vm, vpns) == vpns


def test_operations_go_on_between_the_steps(make_vm, fill, add) -> None:
    vm = make_vm(64, nslots=4096)
    one, rng = vm.swap, random.Random(5)
    vpns = fill(vm, 600)
    add(vm, 4096)
    for _ in swapoff(vm, one):
        vpns += fill(vm, 7)
        for _ in range(10):
            vpn = vpns.pop(rng.randrange(len(vpns)))
            vm.free_page(vpn)
            vm.kernel_map.free(vpn)
        for vpn in rng.sample(vpns, 30):
            vm.breathe()
            assert vm.phys.u64[vm.write(vpn << 12) >> 3] == vpn
        vm.check()
    assert numbers(vm, vpns) == vpns


def test_filled_while_it_drains_it_is_refused(make_vm, fill, add) -> None:
    vm = make_vm(64)
    one = vm.swap
    vpns = fill(vm, 100)
    vm.daemon.evict_all()
    two = add(vm, 120)
    with pytest.raises(NoSwap, match="fits nowhere else"):
        for _ in swapoff(vm, one):
            try:
                vpns += fill(vm, 30)
            except NoMemory:
                pass
            vm.check()
    assert two.nfree == 0 and not one.draining
    vm.check()
    assert numbers(vm, vpns) == vpns


# --- devices that fail ---

def test_what_cannot_be_read_stays_and_the_rest_is_saved(make_vm, fill, add) -> None:
    vm = make_vm(64)
    one = vm.swap
    vpns = fill(vm, 300)
    vm.daemon.evict_all()
    add(vm)
    bad = vpns[100:103]
    one.bad_read = {vm.slot_of[vpn] for vpn in bad}
    with pytest.raises(SwapIOError, match="3 pages cannot be read back"):
        off(vm, one, deep=False)
    assert one.nheld == 3 and not one.draining and one in vm.swap.files
    one.bad_read.clear()
    off(vm, one)
    assert numbers(vm, vpns) == vpns


def test_a_flipped_bit_is_not_copied(make_vm, fill, add) -> None:
    vm = make_vm(64, check=False)
    one = vm.swap
    vpns = fill(vm, 100)
    vm.daemon.evict_all()
    add(vm)
    one.flip(vm.slot_of[vpns[50]])
    with pytest.raises(SwapIOError, match="1 pages"):
        for _ in swapoff(vm, one):
            pass
    assert one.nheld == 1
    with pytest.raises(SwapIOError):
        vm.read(vpns[50] << 12)
    assert numbers(vm, vpns[:50] + vpns[51:]) == vpns[:50] + vpns[51:]


@pytest.mark.parametrize("trouble", ("dead", "bad slots"))
def test_the_other_file_fails(make_vm, fill, add, trouble: str) -> None:
    vm = make_vm(64)
    one = vm.swap
    vpns = fill(vm, 200)
    vm.daemon.evict_all()
    two = add(vm)
    two.dead = trouble == "dead"
    two.bad_write = set(range(1, 1025, 7)) if trouble == "bad slots" else set()
    if trouble == "dead":
        with pytest.raises(NoSwap):
            off(vm, one)
        assert not one.draining
        two.dead = False
    off(vm, one)
    assert numbers(vm, vpns) == vpns


# --- its size ---

def test_a_smaller_file_is_full_and_a_larger_one_takes_more(make_vm, fill) -> None:
    vm = make_vm(64, nslots=1024)
    swap = vm.swap
    vpns = fill(vm, 200)
    held = swap.nheld
    swap.resize(held // 2)
    vm.check()
    assert swap.nfree == 0
    with pytest.raises(NoMemory):
        vpns += fill(vm, 1)
        for _ in range(100):
            vpns += fill(vm, 1)
    assert swap.nheld <= held
    swap.resize(1024)
    vpns += fill(vm, 100)
    assert numbers(vm, vpns) == vpns


@pytest.mark.parametrize("gap", (1, 1000))
def test_no_step_looks_at_many_or_moves_many(make_vm, add, monkeypatch, gap: int) -> None:
    failpoints.interpreted_only()
    vm = make_vm(256, nslots=4096)
    one = vm.swap
    for i in range(300):                        # no two are neighbours
        vm.breathe()
        vm.alloc_page(2 + (1 + gap) * i, 1)
    vm.daemon.evict_all()
    add(vm, 1024)
    moved, looked = [], []
    real = swapset._step

    def step(vm, swap, vpn):
        held = swap.nheld
        end, lost = real(vm, swap, vpn)
        moved.append(held - swap.nheld)
        looked.append(end - vpn)
        return end, lost
    monkeypatch.setattr(swapset, "_step", step)
    monkeypatch.setattr(swapset, "STEP_PAGES", 100)
    monkeypatch.setattr(swapset, "STEP_LOOKS", 5000)
    off(vm, one)
    assert max(moved) <= 100 and max(looked) <= 5000 and sum(moved) == 300


# --- what the set tells of its files ---

def test_every_file_ends_its_hold(make_swap) -> None:
    files, ended = [make_swap(10), make_swap(10, 12)], []
    for file in files:
        file.hold = lambda file=file: ended.append(file)
    SwapSet(files).end_hold()
    assert ended == files


def test_a_file_that_is_draining_is_no_room(make_swap) -> None:
    one, two = make_swap(10), make_swap(10, 12)
    swaps = SwapSet([one, two])
    one.draining = True
    assert swaps.space
    two.disk_full()
    assert not swaps.space


def test_too_many_slots_are_named(make_swap) -> None:
    with pytest.raises(NoSwap, match="left for 16777216m$"):
        free_base([make_swap(10)], 1 << 32)
