"""Page-ins with other sizes of memory: predicted from a sample, and counted with that size."""

import itertools
import random
from collections.abc import Callable, Iterator

import pytest

from tmpfsd.uvm.sampler import MOST, NOW, SIZES, Sampler
from tmpfsd.uvm.vm import Vm

NPAGES = 6000
FRAMES = 1200
LENGTH = 60_000


def zipf(rng: random.Random) -> Iterator[int]:
    """Few pages are wanted often, many seldom."""
    places = list(range(NPAGES))
    rng.shuffle(places)
    weights = list(itertools.accumulate(1 / (i + 20) for i in range(NPAGES)))
    while True:
        yield places[rng.choices(range(NPAGES), cum_weights=weights)[0]]


def with_scans(rng: random.Random) -> Iterator[int]:
    """The same, and now and then some that go through a part of it in order."""
    wanted = zipf(rng)
    while True:
        yield from itertools.islice(wanted, 3000)
        start = rng.randrange(NPAGES - 1500)
        yield from range(start, start + 1500)


def moving(rng: random.Random) -> Iterator[int]:
    """A working set that moves on slowly."""
    for start in itertools.count(0, 7):
        for _ in range(40):
            yield (start + int(rng.triangular(0, 3000, 400))) % NPAGES


TRACES: dict[str, Callable[[random.Random], Iterator[int]]] = {"zipf": zipf, "scans": with_scans, "moving": moving}


def run(vm: Vm, vpns: list[int], trace: str, sample: bool) -> tuple[int, Sampler | None]:
    """Page-ins of the second half of a trace; the first warms up."""
    accesses = TRACES[trace](random.Random(5))
    for n in range(LENGTH):
        if n == LENGTH // 2:
            before = vm.pageins
            if sample:
                vm.sampler = Sampler(vm)
                for _ in vm.sampler.start():
                    pass
        vm.breathe()
        vpn = vpns[next(accesses)]
        assert vm.phys.u64[(vm.write if n % 7 == 0 else vm.read)(vpn << 12) >> 3] == vpn
    sampler, vm.sampler = vm.sampler, None
    return vm.pageins - before, sampler


@pytest.mark.slow
@pytest.mark.parametrize("trace", TRACES)
def test_predictions_are_within_15_percent(make_vm, fill, trace: str) -> None:
    """For page-ins with half to twice the memory; if there are few, within a few hundred."""
    vm = make_vm(FRAMES, nslots=2 * NPAGES)
    now, sampler = run(vm, fill(vm, NPAGES), trace, True)
    assert sampler is not None
    predicted = dict(zip(SIZES, sampler.curve()))
    assert predicted[1.0] == pytest.approx(now, rel=0.01)
    told = {}
    for size in (0.5, 0.75, 1.5, 2.0):
        other = make_vm(int(FRAMES * size), nslots=2 * NPAGES)
        told[size] = (round(predicted[size]), run(other, fill(other, NPAGES), trace, False)[0])
    print(trace, now, told)
    assert all(guess == pytest.approx(count, rel=0.15, abs=100) for guess, count in told.values()), told


@pytest.mark.parametrize("seed", range(4))
def test_nothing_changes_while_it_samples(make_vm, seed: int) -> None:
    """Pages come, are written, freed, overwritten whole, evicted and moved; watching does not change their content."""
    rng, model = random.Random(seed), {}
    vm = make_vm(120, nslots=4000)
    for step in range(6000):
        vm.breathe()
        if step % 1500 == 500:
            vm.sampler = Sampler(vm)
            vm.sampler.shift = rng.choice((0, 1, 2))
            vm.sampler.measure()
            assert list(vm.sampler.start())[-1] == 120
        elif step % 1500 == 1400:
            vm.sampler = None                       # what is watched still is found by who uses it
        word = rng.random()
        if word < 0.2 and len(model) < 1000 or not model:
            vpn = vm.kernel_map.alloc()
            vm.alloc_page(vpn, 1)
        else:
            vpn = rng.choice(list(model))
            assert vm.phys.u64[vm.read(vpn << 12) >> 3] == model[vpn]
        if word > 0.9:
            model.pop(vpn, None)
            vm.free_page(vpn)
            vm.kernel_map.free(vpn)
            continue
        if word > 0.8 and vm.forget_content(vpn) == 1:
            at = vm.write(vpn << 12)
            vm.phys.arena[at:at + 4096] = bytes(4096)
            vm.undefined.written(vpn, 1)
        model[vpn] = vm.phys.u64[vm.write(vpn << 12) >> 3] = rng.randrange(1 << 60)
        if word > 0.79:
            vm.daemon.evict_all()
        if step % 500 == 0:
            vm.check()
    vm.check()


def test_the_sample_is_bounded(make_vm, fill, monkeypatch: pytest.MonkeyPatch) -> None:
    vm = make_vm(300, nslots=30_000)
    vpns = fill(vm, 500)
    vm.sampler = sampler = Sampler(vm)
    assert sampler.shift == 2
    more = fill(vm, 6 * MOST)
    assert sampler.npages() <= MOST and sampler.shift > 2
    for vpn in more[:5000]:
        vm.breathe()
        vm.read(vpn << 12)
    assert sampler.npages() <= MOST
    for vpn in vpns + more:
        vm.free_page(vpn)
    assert sampler.npages() == 0
    vm.sampler = None


def test_what_is_used_all_the_time_is_told_seldom(make_vm, fill) -> None:
    """A page that each request needs does not come to fault() each time, watched or not."""
    vm = make_vm(4000, nslots=10_000)
    vpns = fill(vm, 3000)
    vm.sampler = sampler = Sampler(vm)
    for _ in sampler.start():
        pass
    hot = next(vpn for vpn in vpns if sampler.is_watched(vpn))
    for n in range(20_000):
        vm.read(hot << 12)
        vm.read(vpns[n % 3000] << 12)
    told = sampler.naccesses
    assert told < 20_000 / 4 * 1.3
    for _ in range(20_000):
        vm.read(hot << 12)
    assert sampler.naccesses <= told + 1
    vm.sampler = None


def test_without_page_ins_there_is_enough(make_vm, fill) -> None:
    vm = make_vm(600, nslots=2000)
    vpns = fill(vm, 400)
    vm.sampler = sampler = Sampler(vm)
    for _ in sampler.start():
        pass
    for n in range(20_000):
        vm.breathe()
        vm.read(vpns[n * 7 % 400] << 12)
    curve = sampler.curve()
    assert curve[NOW:] == [0.0] * len(SIZES[NOW:]) and curve[0] > 0 and sampler.pageins() == 0
    vm.sampler = None
