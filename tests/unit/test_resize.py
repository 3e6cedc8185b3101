"""ram that grows and shrinks under pages of every kind, with devices that fail; everything is checked at each step."""

import mmap
import random

import pytest

from tests import failpoints
from tmpfsd.uvm import physmem
from tmpfsd.uvm.aobj import AnonObject
from tmpfsd.uvm.errors import Inconsistent, NoMemory
from tmpfsd.uvm.pagedaemon import STEP_PATIENCE, PageDaemon
from tmpfsd.uvm.pagekind import UNOWNED, WINDOWED, WIRED
from tmpfsd.uvm.physmem import PhysMem
from tmpfsd.uvm.resize import MOVE_STEP, SIFT_STEP, resize
from tmpfsd.uvm.vm import SPARE, Vm

KINDS = {"pageable": 0, "wired": WIRED, "unowned": UNOWNED, "windowed": WINDOWED}


def to(vm: Vm, nframes: int) -> list[int]:
    """Resize, and check the machine after each step."""
    steps = []
    for now in resize(vm, nframes):
        vm.check()
        assert now == vm.phys.nframes and len(vm.phys.free_frames) >= vm.reserve
        steps.append(now)
    return steps


def grown(vm: Vm, n: int, kind: int) -> list[int]:
    """n pages of a kind, each with its number at its start."""
    if kind == WINDOWED:
        AnonObject(vm, vm.reserve)
    vpns = []
    for _ in range(n):
        vm.breathe()
        vpn = vm.kernel_map.alloc()
        vm.alloc_page(vpn, 1, kind)
        vm.phys.u64[vm.write(vpn << 12) >> 3] = vpn
        vpns.append(vpn)
    return vpns


def numbers(vm: Vm, vpns: list[int]) -> list[int]:
    found = []
    for vpn in vpns:
        vm.breathe()
        found.append(vm.phys.u64[vm.read(vpn << 12) >> 3])
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("before", (1200, 600))
def test_every_kind_of_page_keeps_what_is_in_it(make_vm, kind: str, before: int) -> None:
    vm = make_vm(before, nslots=4096)
    vpns = grown(vm, 300 if kind in ("wired", "unowned") else 1500, KINDS[kind])
    random.Random(1).shuffle(vpns)
    for vpn in vpns[:200]:
        vm.breathe()
        vm.read(vpn << 12)
    to(vm, 330)
    assert numbers(vm, vpns) == vpns
    to(vm, 900)
    assert numbers(vm, vpns) == vpns


def test_all_that_is_left_is_resident_where_it_fits(make_vm, fill) -> None:
    vm = make_vm(1024)
    vpns = fill(vm, 100)
    before = vm.daemon.reclaims
    to(vm, 256)
    assert vm.daemon.reclaims == before and all(vm.is_resident(vpn) for vpn in vpns)


def test_steps_are_small(make_vm, fill) -> None:
    vm = make_vm(2048, nslots=4096)
    fill(vm, 1900)
    steps = to(vm, 64)
    assert all(0 <= before - after <= MOVE_STEP for before, after in zip([2048, *steps], steps)) and steps[-1] == 64


@pytest.mark.slow
@pytest.mark.parametrize("filled", (0, 3000, 16000))
def test_no_step_does_much(make_vm, monkeypatch, filled: int) -> None:
    """With any content, and any number of free frames: an empty 1 GiB sorted its free list 256 times."""
    failpoints.interpreted_only()
    vm = make_vm(16384, nslots=1 << 15)
    for i in range(filled):                             # no two are neighbours: each is written alone
        vm.breathe()
        vm.alloc_page(1 + 2 * i, 1)
    work = dict.fromkeys(("_consider", "clean", "drop", "move_page", "sifted"), 0)

    def count(owner: type, name: str) -> None:
        real = getattr(owner, name)

        def counted(self, *args, **more):
            work[name] += 1
            return real(self, *args, **more)
        monkeypatch.setattr(owner, name, counted)

    for name in ("_consider", "clean", "drop"):
        count(PageDaemon, name)
    count(Vm, "move_page")
    set_aside = PhysMem.set_aside

    def sift(self, start: int, n: int) -> int:
        work["sifted"] += min(n, len(self.free_frames) - start)
        return set_aside(self, start, n)
    monkeypatch.setattr(PhysMem, "set_aside", sift)
    for target in (200, 16384):
        for now in resize(vm, target):
            assert work["_consider"] <= STEP_PATIENCE and work["clean"] <= STEP_PATIENCE // 18 + 1
            assert work["move_page"] <= MOVE_STEP and work["sifted"] <= SIFT_STEP
            work.update(dict.fromkeys(work, 0))
        assert now == target


@pytest.mark.slow
def test_one_that_is_closed_gives_back_what_it_set_aside(make_vm, fill) -> None:
    for stop in range(1, 30):
        vm = make_vm(1024, nslots=4096, check=False)
        vpns = fill(vm, 700)
        steps = resize(vm, 100)
        for _ in range(stop):
            if next(steps, None) is None:
                break
            vm.check()
        steps.close()
        vm.check()
        assert vm.phys.naside == 0 and vm.most_slotless == vm.phys.nframes - vm.reserve
        assert numbers(vm, vpns) == vpns
        vm.close()


def test_f1_a_frame_is_set_aside_and_free(make_vm) -> None:
    vm = make_vm(600, check=False)
    steps = resize(vm, 300)
    while not vm.phys.naside:
        next(steps)
    vm.check()
    vm.phys.free_frames.append(vm.phys.nframes - 1)
    with pytest.raises(Inconsistent, match="F1"):
        vm.phys.check()


def test_the_coldest_pages_leave(make_vm, fill) -> None:
    vm = make_vm(600, nslots=4096)
    vpns = fill(vm, 550)
    vm.phys.referenced[:] = bytes(600)
    hot = vpns[-100:]                               # in the highest frames, which go
    for vpn in hot:
        vm.read(vpn << 12)
    to(vm, 344)
    assert all(vm.is_resident(vpn) for vpn in hot)


def test_queues_keep_their_order(make_vm, fill) -> None:
    vm = make_vm(600)
    vpns = fill(vm, 40)
    order = [vm.phys.owner[pfn] for pfn in vm.daemon.frames(2)]
    for vpn in vpns[::3]:
        vm.move_page(vm.pfn_of(vpn), vm.phys.alloc(vpn))
    vm.check()
    assert [vm.phys.owner[pfn] for pfn in vm.daemon.frames(2)] == order


def test_what_cannot_leave_is_a_bound(make_vm) -> None:
    vm = make_vm(600)
    vpns = grown(vm, 300, WIRED)
    with pytest.raises(NoMemory, match="1200k of pages cannot leave"):
        to(vm, 300)
    vm.check()
    assert vm.phys.nframes >= 316
    to(vm, 600)
    to(vm, 316)
    assert numbers(vm, vpns) == vpns


def test_without_swap_what_is_used_is_a_bound(make_vm, fill) -> None:
    vm = make_vm(600, nslots=0)
    vpns = fill(vm, 200)
    with pytest.raises(NoMemory):
        to(vm, 100)
    to(vm, 216)
    with pytest.raises(NoMemory):
        fill(vm, 1)
    to(vm, 300)
    vpns += fill(vm, 20)
    assert numbers(vm, vpns) == vpns


def test_full_swap_is_a_bound(make_vm, fill) -> None:
    vm = make_vm(600, nslots=100)
    vpns = fill(vm, 500)
    with pytest.raises(NoMemory):
        to(vm, 300)
    vm.check()
    assert numbers(vm, vpns) == vpns


@pytest.mark.parametrize("trouble", ("dead", "full", "bad slots"))
def test_a_device_that_fails_loses_nothing(make_vm, fill, trouble: str) -> None:
    vm = make_vm(1000, nslots=4096)
    vpns = fill(vm, 900)
    if trouble == "dead":
        vm.swap.dead = True
    elif trouble == "full":
        vm.swap.room = 100 << 12
    else:
        vm.swap.bad_write = set(range(1, 4096, 5))
    if trouble == "bad slots":
        to(vm, 200)
    else:
        with pytest.raises(NoMemory):
            to(vm, 200)
        vm.check()
        to(vm, 1000)
        vm.swap.dead, vm.swap.room = False, -1
        vm.swap._full_until = 0.0
        to(vm, 200)
    assert numbers(vm, vpns) == vpns


def test_pages_that_have_slots_but_cannot_be_written_are_a_bound(make_vm, fill) -> None:
    vm = make_vm(1000, nslots=4096)
    vpns = fill(vm, 900)
    vm.daemon.evict_all()
    for vpn in vpns:
        vm.breathe()
        vm.write(vpn << 12)
    vm.swap.dead = True
    assert vm.nslotless == 0
    with pytest.raises(NoMemory, match="3600k of pages cannot leave"):
        to(vm, 200)
    vm.swap.dead = False
    to(vm, 200)
    assert numbers(vm, vpns) == vpns


def test_operations_go_on_between_the_steps(make_vm, fill) -> None:
    vm = make_vm(2000, nslots=8192)
    rng = random.Random(3)
    vpns = fill(vm, 1800)
    for _ in resize(vm, 100):
        vpns += fill(vm, 30)
        for vpn in rng.sample(vpns, 60):
            vm.breathe()
            assert vm.phys.u64[vm.write(vpn << 12) >> 3] == vpn
        vm.check()
    assert numbers(vm, vpns) == vpns


def test_new_pages_are_not_refused_between_the_steps(make_vm) -> None:
    """Pages without a slot are as many as may be when the bound goes down; swap has room for all."""
    vm = make_vm(600, nslots=2048, spare=SPARE)
    vpns = grown(vm, 600 - vm.reserve - SPARE, 0)
    for _ in resize(vm, 200):
        vm.breathe()
        vpns.append(vm.kernel_map.alloc())
        vm.alloc_page(vpns[-1], 1)
        vm.phys.u64[vm.write(vpns[-1] << 12) >> 3] = vpns[-1]
    assert numbers(vm, vpns) == vpns


def test_marks_follow(make_vm) -> None:
    vm = make_vm(4096)
    low, batch = vm.low, vm.daemon.batch
    to(vm, 32)
    assert vm.low < low and vm.daemon.batch < batch and vm.most_slotless == 16
    to(vm, 4096)
    assert (vm.low, vm.daemon.batch, vm.most_slotless) == (low, batch, 4080)


def test_below_the_reserve_is_refused(make_vm) -> None:
    with pytest.raises(AssertionError):
        to(make_vm(64), 16)


def test_memory_goes_back_to_the_system(make_vm, fill) -> None:
    def resident() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1])

    vm = make_vm(8192, nslots=0)
    vpns = fill(vm, 8000)
    before = resident()
    vm.free_pages(vpns[0], 8000)
    vm.kernel_map.free(vpns[0], 8000)
    to(vm, 256)
    assert before - resident() > 7000


def test_address_space_that_is_refused_is_a_bound(monkeypatch) -> None:
    made = mmap.mmap

    def small(fileno: int, length: int, **more) -> mmap.mmap:
        if length > 1 << 20:
            raise OSError(12, "Cannot allocate memory")
        return made(fileno, length, **more)
    monkeypatch.setattr(physmem.mmap, "mmap", small)
    vm = Vm(1 << 20)
    assert vm.phys.most == 256
    with pytest.raises(NoMemory, match="address space for 1m"):
        to(vm, 257)
    vm.close()


def test_f3_an_array_is_too_long() -> None:
    phys = PhysMem(32 << 12)
    phys.dirty.append(0)
    with pytest.raises(Inconsistent, match="F3"):
        phys.check()
    phys.close()


def test_d3_a_queue_knows_too_many_frames(make_vm) -> None:
    vm = make_vm(check=False)
    vm.daemon.fresh.append(0)
    with pytest.raises(Inconsistent, match="D3"):
        vm.daemon.check()
