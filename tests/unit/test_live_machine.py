"""A machine whose memory and swap change while it works, with devices that fail: seeded random plays against a dict."""

import random
from collections.abc import Generator, Iterator

import pytest

from tmpfsd.uvm import resize as resize_module
from tmpfsd.uvm import swapset
from tmpfsd.uvm.aobj import AnonObject
from tmpfsd.uvm.errors import NoMemory, NoSwap, SwapIOError
from tmpfsd.uvm.pagekind import UNOWNED, WINDOWED, WIRED
from tmpfsd.uvm.resize import resize
from tmpfsd.uvm.swapset import free_base, swapoff, swapon
from tmpfsd.uvm.vm import Vm

MOST = 400                  # frames


class Play:
    """Random operations on one machine, and the expected content of its pages."""

    def __init__(self, vm: Vm, seed: int, make_swap, faults: bool) -> None:
        self.vm, self.rng, self.make_swap, self.faults = vm, random.Random(seed), make_swap, faults
        self.content: dict[int, int] = {}
        self.change: Generator[int, None, None] | None = None
        self.done: dict[str, int] = {}
        AnonObject(vm, vm.reserve)

    def count(self, what: str) -> None:
        self.done[what] = self.done.get(what, 0) + 1

    def step(self) -> None:
        """One operation between two breaths, a step of a change, or a fault that comes or goes."""
        choices = (self.new, self.new, self.new, self.touch, self.touch, self.touch, self.free, self.alter, self.alter)
        self.rng.choice(choices + ((self.fail,) if self.faults else ()))()

    def new(self) -> None:
        kind = self.rng.choices((0, WINDOWED, WIRED, UNOWNED), (60, 20, 2, 1))[0]
        self.vm.breathe()
        vpn = self.vm.kernel_map.alloc()
        try:
            self.vm.alloc_page(vpn, 1, kind)
        except NoMemory:
            self.vm.kernel_map.free(vpn)
            self.count("refused")
            return
        self.write(vpn)

    def write(self, vpn: int) -> None:
        self.content[vpn] = self.rng.getrandbits(60)
        self.vm.phys.u64[self.vm.write(vpn << 12) >> 3] = self.content[vpn]

    def touch(self) -> None:
        for vpn in self.rng.sample(sorted(self.content), min(len(self.content), 5)):
            self.vm.breathe()
            try:
                assert self.vm.phys.u64[self.vm.read(vpn << 12) >> 3] == self.content[vpn]
                if self.rng.random() < 0.3:
                    self.write(vpn)
            except SwapIOError:
                assert self.faults
                self.count("unreadable")

    def free(self) -> None:
        for vpn in self.rng.sample(sorted(self.content), min(len(self.content), self.rng.randrange(4))):
            self.vm.free_page(vpn)
            self.vm.kernel_map.free(vpn)
            del self.content[vpn]

    def alter(self) -> None:
        """Go on with a change, or begin one."""
        if self.change is None:
            self.change = self.begin()
            return
        try:
            if self.rng.random() < 0.02:
                self.change.close()
                raise StopIteration
            next(self.change)
            self.count("step")
        except StopIteration:
            self.change = None
        except (NoMemory, NoSwap, SwapIOError):
            self.count("change refused")
            self.change = None

    def begin(self) -> Iterator[int] | None:
        files = self.vm.swap.files if self.vm.swap is not None else []
        choice = self.rng.random()
        if choice < 0.4:
            return resize(self.vm, self.rng.randint(20, MOST))
        if choice < 0.7 and len(files) < 4:
            nslots = self.rng.randint(10, 300)
            swapon(self.vm, self.make_swap(nslots, free_base(files, nslots)))
        elif files and choice < 0.9:
            self.count("swapoff")
            return swapoff(self.vm, self.rng.choice(files))
        elif choice < 0.95:
            return self.vm.daemon.flush()
        elif files:
            file = self.rng.choice(files)
            file.resize(self.rng.randint(0, file.width))
        return None

    def fail(self) -> None:
        """A device fails in some way, or works again."""
        for file in self.vm.swap.files if self.vm.swap is not None else []:
            file.dead = self.rng.random() < 0.1
            file.room = self.rng.choice((-1, -1, 50 << 12))
            file.bad_write = set(self.rng.sample(range(1, 300), 10)) if self.rng.random() < 0.2 else set()
            file.bad_read = set(self.rng.sample(range(1, 300), 3)) if self.rng.random() < 0.1 else set()

    def heal(self) -> None:
        self.vm.thrash = False
        for file in self.vm.swap.files if self.vm.swap is not None else []:
            file.dead, file.room, file.bad_write, file.bad_read = False, -1, set(), set()


@pytest.fixture(autouse=True)
def small_steps(monkeypatch) -> None:
    monkeypatch.setattr(swapset, "STEP_PAGES", 15)
    monkeypatch.setattr(swapset, "STEP_LOOKS", 200)
    monkeypatch.setattr(resize_module, "MIN_LOT", 30)
    monkeypatch.setattr(resize_module, "MOVE_STEP", 10)
    monkeypatch.setattr(resize_module, "SIFT_STEP", 25)


@pytest.mark.parametrize("faults", (False, True), ids=("sound", "faulty"))
@pytest.mark.parametrize("thrash", (False, True), ids=("", "thrash"))
@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_lost(make_vm, make_swap, monkeypatch, faults: bool, thrash: bool, seed: int) -> None:
    monkeypatch.setattr("tmpfsd.uvm.pagedaemon.BACKOFF", 0)
    monkeypatch.setattr("tmpfsd.uvm.swap.FULL_SECONDS", 0)
    monkeypatch.setattr("tmpfsd.uvm.swap.MOST_PAUSE", 1e-9)
    vm = make_vm(200, nslots=200)
    vm.thrash = thrash
    play = Play(vm, seed, make_swap, faults)
    for number in range(1200):
        play.step()
        if number % 10 == 0:
            vm.check(deep=not faults)
    play.heal()
    for vpn, expected in play.content.items():
        vm.breathe()
        assert vm.phys.u64[vm.read(vpn << 12) >> 3] == expected
    assert play.done["step"] > 50 and play.done.get("swapoff", 0) > 0
