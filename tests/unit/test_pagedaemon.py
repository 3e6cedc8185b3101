"""Which page leaves, and which pages are written; test_pagedaemon_failures.py has the failures."""

import random

import pytest

from tests import failpoints
from tmpfsd.uvm import pte
from tmpfsd.uvm.errors import Inconsistent, NoMemory
from tmpfsd.uvm.pagedaemon import PATIENCE, STEP_PATIENCE, PageDaemon
from tmpfsd.uvm.pagekind import WIRED
from tmpfsd.uvm.queues import ACTIVE, HELD, INACTIVE, LIVES
from tmpfsd.uvm.vm import Vm


def touch(vm: Vm, vpns) -> None:
    for vpn in vpns:
        vm.breathe()
        vm.read(vpn << 12)


def pageins(vm: Vm, vpns) -> int:
    """How many page-ins it costs to touch these."""
    before = vm.pageins
    touch(vm, vpns)
    return vm.pageins - before


def queue_of(vm: Vm, vpn: int) -> int:
    return vm.daemon.queue[vm.pfn_of(vpn)]


# --- which page leaves ---

def test_the_page_that_was_not_touched_leaves_first(make_vm, fill) -> None:
    vm = make_vm(64, reserve=16)
    vpns = fill(vm, 40)
    vm.phys.referenced[:] = bytes(64)
    touch(vm, vpns[:20])
    for vpn in fill(vm, 9):
        assert vm.is_resident(vpn)
    vm.breathe()
    assert all(vm.is_resident(vpn) for vpn in vpns[:20])
    assert not all(vm.is_resident(vpn) for vpn in vpns[20:])


def test_one_burst_of_touches_gives_one_more_round(make_vm, fill) -> None:
    vm = make_vm()
    vpn = fill(vm, 1)[0]
    pfn = vm.pfn_of(vpn)
    assert vm.daemon.fresh[pfn] and vm.phys.referenced[pfn]
    vm.daemon._consider(pfn)
    assert queue_of(vm, vpn) == INACTIVE and not vm.daemon.fresh[pfn]
    vm.daemon._consider(pfn)
    assert not vm.is_resident(vpn)


def test_a_page_touched_in_two_rounds_is_activated(make_vm, fill) -> None:
    vm = make_vm()
    vpn = fill(vm, 1)[0]
    vm.daemon._consider(vm.pfn_of(vpn))
    vm.read(vpn << 12)
    vm.daemon._consider(vm.pfn_of(vpn))
    assert queue_of(vm, vpn) == ACTIVE


def test_a_third_stays_inactive(make_vm, fill) -> None:
    vm = make_vm(256, reserve=16)
    vpns = fill(vm, 90)
    for vpn in vpns:
        vm.daemon.requeue(vm.pfn_of(vpn), ACTIVE)
    vm.phys.referenced[:] = bytes(256)
    vm.daemon._balance()
    assert vm.daemon.count[1:] == [60, 30, 0]
    assert [queue_of(vm, vpn) for vpn in vpns[:30]] == [INACTIVE] * 30


def test_when_all_were_touched_one_leaves_active_all_the_same(make_vm, fill) -> None:
    vm = make_vm()
    for vpn in fill(vm, 9):
        vm.daemon.requeue(vm.pfn_of(vpn), ACTIVE)
    vm.daemon._balance()
    assert vm.daemon.count[1:] == [8, 1, 0]
    vm.daemon.check()


def test_a_scan_larger_than_memory_leaves_the_working_set_in(make_vm, fill) -> None:
    vm = make_vm(256, reserve=16, nslots=4096)
    vpns = fill(vm, 1500)
    work, scanned = vpns[:60], vpns[60:]
    for _ in range(4):
        touch(vm, work)                         # refaults activate it
    assert pageins(vm, work) == 0
    lost = 0
    for start in range(0, len(scanned), 40):
        touch(vm, scanned[start:start + 40])    # each page once, as `find` and `ls -R` do
        lost += pageins(vm, work)
    assert lost <= 6                            # 36 rounds over 60 pages


def test_a_scan_of_many_touches_a_page_is_a_scan_too(make_vm, fill) -> None:
    vm = make_vm(256, reserve=16, nslots=4096)
    vpns = fill(vm, 1500)
    work, scanned = vpns[:60], vpns[60:]
    for _ in range(4):
        touch(vm, work)
    lost = 0
    for start in range(0, len(scanned), 40):
        for vpn in scanned[start:start + 40]:
            for _ in range(25):                 # 25 nodes stand in a page
                vm.breathe()
                vm.read(vpn << 12)
        lost += pageins(vm, work)
    assert lost <= 6


def test_a_working_set_that_moves_is_followed(make_vm, fill) -> None:
    vm = make_vm(256, reserve=16, nslots=4096)
    vpns = fill(vm, 1000)
    for work in (vpns[:150], vpns[300:450], vpns[600:750]):
        for _ in range(8):
            touch(vm, work)
        assert pageins(vm, work) == 0


def test_a_page_that_comes_back_soon_is_activated(make_vm, fill) -> None:
    vm = make_vm(64, reserve=16, nslots=4096)
    vpns = fill(vm, 300)
    soon = next(vpn for vpn in reversed(vpns) if not vm.is_resident(vpn))
    late = vpns[0]
    vm.breathe()
    assert vm.daemon.came_back_soon(vm.pte[soon])
    assert not vm.daemon.came_back_soon(vm.pte[late])
    touch(vm, (soon, late))
    assert (queue_of(vm, soon), queue_of(vm, late)) == (ACTIVE, INACTIVE)


def test_the_clock_of_refaults_wraps(make_vm, fill) -> None:
    vm = make_vm()
    vpns = fill(vm, 4)
    vm.daemon.clock = pte.CLOCK
    vm.daemon.evict_all()
    assert {vm.pte[vpn] for vpn in vpns} == {pte.out(clock) for clock in (pte.CLOCK, 0, 1, 2)}
    assert all(vm.daemon.came_back_soon(vm.pte[vpn]) for vpn in vpns)
    touch(vm, vpns)


# --- what is written ---

def test_neighbours_are_written_together_in_aligned_windows(make_vm, fill) -> None:
    vm = make_vm(128, reserve=16)
    fill(vm, 60)                                # pages 1 to 60
    vm.daemon.evict_all()
    assert [len(slots) for slots in vm.swap.writes] == [15, 16, 16, 13]
    assert [vm.slot_of[vpn] for vpn in range(1, 61)] == list(range(1, 61))


def test_a_cluster_leaves_out_what_is_clean_active_or_wired(make_vm, fill) -> None:
    vm = make_vm()
    vpns = fill(vm, 15)
    vm.daemon.requeue(vm.pfn_of(vpns[3]), ACTIVE)
    vm.alloc_page(vm.kernel_map.alloc(), 2, WIRED)
    assert vm.daemon._cluster(vpns[5]) == (vpns[4], vpns[14] + 1)
    vm.daemon.clean(vm.pfn_of(vpns[3]))        # itself, though it is active, and its neighbours
    assert vm.swap.writes == [range(1, 16)]


def test_a_cluster_is_as_long_as_the_slots_in_a_row(make_vm, fill) -> None:
    vm = make_vm(nslots=5)
    vpns = fill(vm, 15)
    assert vm.daemon.clean(vm.pfn_of(vpns[9]))
    assert vm.slot_of[vpns[9]] and vm.swap.writes == [range(1, 6)]
    assert vm.nslotless == 10


def test_launder_leaves_offsets_and_makes_eviction_a_drop(make_vm, fill) -> None:
    vm = make_vm(256, reserve=16)
    vpns = fill(vm, 100)
    frames = [vm.pfn_of(vpn) for vpn in vpns]
    assert vm.daemon.launder(32) >= 32
    assert [vm.pfn_of(vpn) for vpn in vpns] == frames
    assert vm.phys.dirty.count(1) == 100 - vm.daemon.pageouts
    while vm.daemon.launder(32):
        pass
    assert not any(vm.phys.dirty)
    writes = len(vm.swap.writes)
    vm.daemon.evict_all()
    assert len(vm.swap.writes) == writes


def test_idle_launders_when_frames_run_short_and_comes_to_an_end(make_vm, fill) -> None:
    vm = make_vm(256, reserve=16)
    fill(vm, 100)
    assert not vm.idle() and vm.daemon.pageouts == 0
    fill(vm, 120)
    slices = 0
    while vm.idle():
        slices += 1
        assert slices < 50
    assert vm.phys.dirty.count(1) == 0


def test_give_slots_keeps_pages_dirty_and_where_they_are(make_vm, fill, number_in) -> None:
    vm = make_vm(256)
    vpns = fill(vm, 40)
    frames = [vm.pfn_of(vpn) for vpn in vpns]
    vm.daemon.give_slots(20)
    assert 20 <= vm.daemon.pageouts == 40 - vm.nslotless
    assert all(vm.phys.dirty[pfn] for pfn in frames)
    assert [vm.pfn_of(vpn) for vpn in vpns] == frames
    at = vm.pfn_of(vpns[0]) << 9
    assert vm.slot_of[vpns[0]]
    vm.phys.u64[at] = 4711                      # an offset taken before, written after
    vm.daemon.evict_all()
    assert number_in(vm, vpns[0]) == 4711


def test_alloc_page_gives_slots_and_never_evicts(make_vm) -> None:
    vm = make_vm(64, reserve=16)
    for vpn in range(1, 65):
        vm.alloc_page(vpn, 1)
        assert vm.nslotless <= 48
    assert vm.daemon.reclaims == 0
    assert vm.phys.dirty.count(1) == 64
    with pytest.raises(NoMemory):               # only the reserve was promised
        vm.alloc_page(65, 1)
    vm.breathe()
    vm.alloc_page(65, 1)


# --- how much one reclaim may look at ---

class Counted:
    """A method that counts how often it is called."""

    def __init__(self, real) -> None:
        self.real, self.calls = real, 0

    def __get__(self, instance, _owner=None):
        def call(*args):
            self.calls += 1
            return self.real(instance, *args)
        return call


def work_of_a_breath(vm: Vm, monkeypatch) -> int:
    """How many times a frame was looked at, moved between queues or evicted."""
    failpoints.interpreted_only()
    with monkeypatch.context() as patch:
        counted = [Counted(getattr(PageDaemon, name)) for name in ("_consider", "requeue", "clean", "drop")]
        for each in counted:
            patch.setattr(PageDaemon, each.real.__name__, each)
        vm.breathe()
    return sum(each.calls for each in counted)


MOST_WORK = 2 * PATIENCE + 8 * 96       # a look may end in a move; and what _take() does for the reserve


@pytest.mark.slow
@pytest.mark.parametrize("queue", (INACTIVE, ACTIVE))
def test_a_reclaim_is_bounded_whatever_the_lives(make_vm, monkeypatch, queue: int) -> None:
    """ram=512m full of pages of an index, all of them referenced, took 6 s in one breath."""
    vm = make_vm(8192, reserve=64, nslots=1 << 14)
    vm.daemon.keep_index(2)
    for vpn in range(1, 8192 - vm.low):
        vm.alloc_page(vpn, 2)
    for pfn in list(vm.daemon.frames(INACTIVE)):
        vm.daemon.requeue(pfn, queue)
        vm.daemon.lives[pfn], vm.daemon.fresh[pfn] = LIVES, 0
    rounds = 0
    for vpn in range(9000, 9400):
        if len(vm.phys.free_frames) < vm.low:
            rounds += 1
            for pfn in vm.daemon.frames(queue):
                vm.phys.referenced[pfn] = 1
            assert work_of_a_breath(vm, monkeypatch) <= MOST_WORK
            assert len(vm.phys.free_frames) >= vm.low
        vm.alloc_page(vpn, 2)
    assert rounds >= 3


def test_what_can_leave_is_found_among_all_that_cannot(make_vm, monkeypatch, number_in) -> None:
    """Swap is full, and the few pages that have slots stand behind thousands that have none."""
    vm = make_vm(8192, reserve=64, nslots=200)
    for vpn in range(1, 8100):
        vm.breathe()
        vm.alloc_page(vpn, 1)
        vm.phys.u64[vm.write(vpn << 12) >> 3] = vpn
    for _ in range(40):
        vm.daemon.make_free(8192)
    out = [vpn for vpn in range(1, 8100) if not vm.is_resident(vpn)]
    assert vm.swap.nfree == 0 and len(out) == 200
    for pfn in range(8192):                             # as if all but the last were still to be looked at
        if vm.daemon.queue[pfn]:
            vm.daemon.requeue(pfn, ACTIVE)
    rng = random.Random(5)
    for _ in range(400):
        before = len(vm.phys.free_frames)
        work = work_of_a_breath(vm, monkeypatch)
        assert work <= MOST_WORK and len(vm.phys.free_frames) >= vm.reserve, before
        vpn = rng.choice(out)
        assert number_in(vm, vpn) == vpn


def test_a_flush_evicts_in_bounded_steps(make_vm, monkeypatch) -> None:
    failpoints.interpreted_only()
    vm = make_vm(8192, reserve=64, nslots=1 << 14)
    for vpn in range(1, 8000, 2):                       # no two are neighbours: each is written alone
        vm.alloc_page(vpn, 1)
    counted = Counted(PageDaemon.clean)
    monkeypatch.setattr(PageDaemon, "clean", counted)
    for _ in vm.daemon.flush():
        assert counted.calls <= STEP_PATIENCE // 18 + 1
        counted.calls = 0
    assert not any(vm.is_resident(vpn) for vpn in range(1, 8000, 2))


# --- invariants ---

def broken(vm: Vm, invariant: str) -> None:
    with pytest.raises(Inconsistent) as caught:
        vm.daemon.check()
    assert caught.value.invariant == invariant


def test_d1_a_wired_page_is_on_a_queue(make_vm) -> None:
    vm = make_vm(check=False)
    vm.alloc_page(1, 1, WIRED)
    vm.daemon.enter(vm.pfn_of(1))
    broken(vm, "D1")


def test_d1_a_page_that_may_leave_is_on_no_queue(make_vm, fill) -> None:
    vm = make_vm(check=False)
    vm.daemon.remove(vm.pfn_of(fill(vm, 3)[1]))
    broken(vm, "D1")


def test_d1_a_frame_says_another_queue(make_vm, fill) -> None:
    vm = make_vm(check=False)
    vm.daemon.queue[vm.pfn_of(fill(vm, 1)[0])] = ACTIVE
    broken(vm, "D1")


@pytest.mark.parametrize("queue", (ACTIVE, INACTIVE, HELD))
def test_d2_counts(make_vm, fill, queue: int) -> None:
    vm = make_vm(check=False)
    fill(vm, 3)
    vm.daemon.count[queue] += 1
    broken(vm, "D2")


def test_d4_a_frame_says_that_its_page_has_a_slot(make_vm, fill) -> None:
    vm = make_vm(check=False)
    vm.daemon.slotted[vm.pfn_of(fill(vm, 1)[0])] = 1
    broken(vm, "D4")


# --- pages of an index ---

INDEX = 2


def mixed(vm, nindex: int, nothers: int) -> tuple[list[int], list[int]]:
    """Pages of an index and others, in no order."""
    vm.daemon.keep_index(INDEX)
    index, others = [], []
    for number in range(nindex + nothers):
        vm.breathe()
        vpn = vm.kernel_map.alloc()
        is_index = number * nindex // (nindex + nothers) != (number + 1) * nindex // (nindex + nothers)
        vm.alloc_page(vpn, INDEX if is_index else 1)
        (index if is_index else others).append(vpn)
    return index, others


def test_an_index_stays_in_where_each_look_takes_one_other_page(make_vm) -> None:
    """As with stats at random: each goes through one of few pages of the index to one of many others."""
    vm = make_vm(256, reserve=16, nslots=4096)
    index, others = mixed(vm, 120, 1500)
    rng = random.Random(4)

    def look(n: int) -> tuple[int, int]:
        found = [0, 0]
        for _ in range(n):
            for which, vpns in enumerate((index, others)):
                vm.breathe()
                before = vm.faults
                vm.read(rng.choice(vpns) << 12)
                found[which] += vm.faults - before
        return found[0], found[1]

    look(3000)
    of_index, of_others = look(3000)
    assert of_others > 2400 and of_index < 300      # with no lives: about 600
    vm.daemon.check()


def test_an_index_that_is_not_used_any_more_leaves(make_vm) -> None:
    vm = make_vm(256, reserve=16, nslots=4096)
    index, others = mixed(vm, 120, 400)
    for _ in range(5):
        touch(vm, index)
    assert pageins(vm, index) == 0
    work = others[:170]                 # more than there is room for beside the index
    for _ in range(2 * LIVES):
        touch(vm, work)
    assert pageins(vm, work) == 0 and sum(vm.is_resident(vpn) for vpn in index) <= 70
