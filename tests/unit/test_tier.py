"""Machines with a compressed tier: with stores behind it, without, with stores that fail, and full."""

import itertools
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tmpfsd.uvm import room
from tmpfsd.uvm.codec import Zstd
from tmpfsd.uvm.errors import NoMemory, NoSwap, SwapIOError
from tmpfsd.uvm.seal import Gcm
from tmpfsd.uvm.swapset import RING_BASE, RING_WIDTH, swapoff
from tmpfsd.uvm.tier import compress_in
from tmpfsd.uvm.vm import Vm
from tmpfsd.uvm.zlog import ZLog
from tmpfsd.uvm.zresize import resize_ring

PAGE = 4096
MakeMachine = Callable[..., "Machine"]


class Machine:
    """A machine, and the content of its pages: a number at the start and some bytes that do not shrink."""

    def __init__(self, vm: Vm, seed: int) -> None:
        self.vm, self.rng = vm, random.Random(seed)
        self.model: dict[int, bytes] = {}

    def add(self, nrandom: int) -> int:
        """Another page."""
        self.vm.breathe()
        vpn = self.vm.kernel_map.alloc()
        try:
            self.vm.alloc_page(vpn, 1)
        except NoMemory:
            self.vm.kernel_map.free(vpn)
            raise
        self._write(vpn, nrandom)
        return vpn

    def change(self, vpn: int, nrandom: int) -> None:
        """Other bytes in a page that there is."""
        self.vm.breathe()
        room.demand(self.vm)
        self._write(vpn, nrandom)

    def _write(self, vpn: int, nrandom: int) -> None:
        content = vpn.to_bytes(8, "little") + self.rng.randbytes(nrandom)
        at = self.vm.write(vpn << 12)
        self.vm.phys.arena[at:at + PAGE] = content + bytes(PAGE - len(content))
        self.model[vpn] = content

    def remove(self, vpn: int) -> None:
        """A page is gone."""
        self.vm.breathe()
        self.vm.free_page(vpn)
        self.vm.kernel_map.free(vpn)
        del self.model[vpn]

    def look(self, vpn: int) -> None:
        """A page has the right content."""
        self.vm.breathe()
        at, content = self.vm.read(vpn << 12), self.model[vpn]
        assert self.vm.phys.arena[at:at + PAGE] == content + bytes(PAGE - len(content)), vpn

    def survive(self) -> None:
        """All have, and every invariant holds."""
        for vpn in self.model:
            self.look(vpn)
        self.vm.check()


@pytest.fixture
def machine(make_vm: Callable[..., Vm]) -> Iterator[MakeMachine]:
    made: list[Machine] = []

    def make(ring: int = 1 << 20, seed: int = 1, encrypt: bool = False, **more: int) -> Machine:
        vm = make_vm(**more)
        if encrypt:
            vm.swap.seal = Gcm()
        compress_in(vm, ZLog(ring, RING_BASE, RING_WIDTH, Zstd()))
        made.append(Machine(vm, seed))
        return made[-1]

    yield make
    for each in made:
        for vpn in list(each.model):
            each.remove(vpn)
        each.vm.check()
        if each.vm.tier is not None:
            assert (each.vm.tier.ring.nheld, each.vm.tier.ring.live_bytes) == (0, 0)


@pytest.mark.parametrize("nslots, encrypt", [(0, False), (4000, False), (4000, True)])
def test_many_times_memory_in_memory(machine: MakeMachine, nslots: int, encrypt: bool) -> None:
    here = machine(nslots=nslots, encrypt=encrypt)
    for _ in range(1000):
        here.add(300)
    here.survive()
    tier = here.vm.tier
    assert tier is not None and tier.ring.nheld > 900 and tier.ring.hits > 0 and tier.stats()["ratio"] > 8
    assert all(file.nheld == 0 for file in here.vm.swap.files)         # none of it went to the store


@pytest.mark.parametrize("nslots, encrypt", [(0, False), (3000, False), (3000, True)])
@pytest.mark.parametrize("seed", range(3))
def test_random_steps(machine: MakeMachine, nslots: int, encrypt: bool, seed: int) -> None:
    """Pages come, change their packed size, and go; ENOSPC refuses and loses nothing."""
    here, rng, refused = machine(nslots=nslots, encrypt=encrypt, seed=seed), random.Random(seed), 0
    for step in range(6000):
        nrandom = rng.choice((0, 50, 300, 1000, 3000, 4000))
        what = rng.random()
        try:
            if what < 0.4 or not here.model:
                here.add(nrandom)
            elif what < 0.6:
                here.change(rng.choice(list(here.model)), nrandom)
            elif what < 0.9:
                here.look(rng.choice(list(here.model)))
            else:
                here.remove(rng.choice(list(here.model)))
            if step % 50 == 0:
                here.vm.idle()
        except NoMemory:
            refused += 1
        if step % 1000 == 0:
            here.vm.check()
    here.survive()
    assert (refused > 0) == (nslots == 0)
    assert nslots == 0 or here.vm.tier.writebacks > 0


def fill(here: Machine, sizes: Iterator[int]) -> int:
    """Add pages until one is refused; how many there are."""
    with pytest.raises(NoMemory, match="no swap space"):
        for nrandom in sizes:
            here.add(nrandom)
    return len(here.model)


@pytest.mark.parametrize("nslots", (0, 60, 200))
def test_exhaustion(machine: MakeMachine, nslots: int) -> None:
    """Every tier is full: pages can be read and removed, and then there is room again."""
    here = machine(nslots=nslots)
    count = fill(here, itertools.cycle((500, 1500, 3800)))
    here.survive()
    assert not here.vm.tier.stores_have_room()
    for vpn in list(here.model)[::2]:
        here.remove(vpn)
    here.survive()
    assert fill(here, itertools.cycle((500, 1500, 3800))) > 0.9 * count
    here.survive()


@pytest.mark.parametrize("nslots", (0, 60))
def test_pages_that_come_to_shrink_less(machine: MakeMachine, nslots: int) -> None:
    """Change pages until that is refused: an operation can still get all its frames, and nothing is lost."""
    here = machine(nslots=nslots)
    fill(here, itertools.repeat(100))
    with pytest.raises(NoMemory, match="compressed tier are full"):
        for vpn in list(here.model):
            here.change(vpn, 4000)
    here.survive()
    for _ in range(3):          # who began before the gate was shut may go on: as many pages as an operation takes
        here.vm.breathe()
        assert len(here.vm.phys.free_frames) >= here.vm.reserve
        here.survive()
    with here.vm.overdraft:
        room.demand(here.vm)
    while here.vm.tier.tight():
        here.remove(next(iter(here.model)))
    room.demand(here.vm)
    here.survive()


@pytest.mark.parametrize("nslots", (0, 60, 200))
def test_a_full_machine_lets_its_pages_change(machine: MakeMachine, nslots: int) -> None:
    """New pages are refused before changes are: after removing a file on a full mount, another can be made."""
    here = machine(nslots=nslots)
    fill(here, itertools.repeat(600))
    assert here.vm.tier is not None and here.vm.tier.stats()["full"]
    for vpn in here.rng.sample(list(here.model), 300):
        here.change(vpn, 600)
    here.survive()
    with pytest.raises(NoMemory):
        here.add(600)


def test_the_last_operation_finds_what_was_kept_back(machine: MakeMachine) -> None:
    here = machine(nslots=0, ring=2 << 20)
    fill(here, itertools.repeat(100))
    vpns = list(here.model)
    for _ in range(2):
        here.vm.breathe()
        for vpn in vpns[:here.vm.reserve]:
            here._write(vpn, 4000)
        del vpns[:here.vm.reserve]
    here.survive()


@pytest.mark.parametrize("nrandom", (200, 1500))
def test_no_operation_pays_for_all_that_lives_in_the_ring(machine: MakeMachine, nrandom: int) -> None:
    """Dead records lie behind live ones, again and again: the newest are removed, and others come."""
    here = machine(ring=2 << 20)
    tier = here.vm.tier
    assert tier is not None
    with suppress(NoMemory):
        while True:
            here.add(nrandom)
    most = 0
    for _ in range(20):
        for vpn in list(here.model)[-len(here.model) // 7:]:
            here.remove(vpn)
        with suppress(NoMemory):
            while True:
                before = tier.carried
                here.add(nrandom)
                most = max(most, tier.carried - before)
    lives = tier.ring.nheld
    assert 0 < most < 200 < lives, "of what lives only some is carried in one operation"
    here.survive()


def test_the_oldest_are_written_back(machine: MakeMachine) -> None:
    here = machine(nslots=4000, ring=1 << 20)
    vpns = [here.add(2000) for _ in range(800)]
    tier, swap = here.vm.tier, here.vm.swap
    on_disk = [vpn for vpn in vpns if swap.files[0].owns(here.vm.slot_of[vpn])]
    assert tier.writebacks == len(on_disk) > 200 and max(on_disk) < vpns[500]
    assert here.vm.slot_of[on_disk[1]] == here.vm.slot_of[on_disk[0]] + 1      # in rows, to be read ahead
    here.survive()


def test_idle_makes_room_ahead(machine: MakeMachine) -> None:
    here = machine(nslots=4000, ring=1 << 20)
    for _ in range(480):
        here.add(2000)
    ring = here.vm.tier.ring
    assert ring.used > ring.nbytes * 3 // 4
    while here.vm.idle():
        here.vm.breathe()
    assert ring.used <= ring.nbytes * 3 // 4 and here.vm.tier.writebacks
    here.survive()


@pytest.mark.parametrize("fault", ("dead", "room", "bad"))
def test_a_store_that_fails(machine: MakeMachine, fault: str) -> None:
    """The ring holds what it can; pages that cannot be written stay; nothing is lost."""
    here = machine(nslots=4000)
    store = here.vm.swap.files[0]
    here.add(10)
    if fault == "bad":
        store.bad_write = set(range(3, 4000, 7))
    else:
        setattr(store, fault, True if fault == "dead" else 100 << 12)
    try:
        for _ in range(700):
            here.add(2000)
        assert fault == "bad" and store.nbad > 0
    except NoMemory:
        assert fault != "bad"
    refused = 0
    for vpn in here.model:
        try:
            here.look(vpn)
        except SwapIOError:             # no frame can be had from a device that takes nothing
            refused += 1
    assert refused == 0 or fault == "dead"
    here.vm.check()
    store.dead, store.room = False, -1
    here.vm.daemon.resting_until = store._full_until = store._rest_until = 0.0
    here.survive()


def test_a_record_that_is_damaged_is_lost_alone(machine: MakeMachine) -> None:
    here = machine(nslots=4000)
    vpns = [here.add(1000) for _ in range(300)]
    ring, out = here.vm.tier.ring, [vpn for vpn in vpns if not here.vm.is_resident(vpn)]
    i = here.vm.slot_of[out[0]] - ring.base
    ring._now.memory[ring._place[i] * 8 + 12:ring._place[i] * 8 + 60] = bytes(48)
    here.vm.breathe()
    with pytest.raises(SwapIOError):
        here.vm.read(out[0] << 12)
    assert here.vm.lost.pages == {out[0]}
    here.remove(out[0])
    assert not here.vm.lost.pages
    here.survive()


def test_swapoff_of_the_ring(machine: MakeMachine) -> None:
    here = machine(nslots=4000)
    for _ in range(500):
        here.add(500)
    for _ in swapoff(here.vm, here.vm.tier.ring):
        here.vm.breathe()
    assert here.vm.tier is None and here.vm.swap.nheld >= 400
    here.survive()
    for _ in range(100):
        here.add(500)
    here.survive()


def test_swapoff_of_the_ring_without_room(machine: MakeMachine) -> None:
    here = machine(nslots=0)
    for _ in range(500):
        here.add(500)
    with pytest.raises(NoSwap, match="other swap files have room for 0k"):
        for _ in swapoff(here.vm, here.vm.tier.ring):
            pass
    assert not here.vm.tier.ring.draining
    here.survive()


def test_swapoff_of_the_store_behind(machine: MakeMachine, tmp_path: Path) -> None:
    here = machine(nslots=4000)
    for _ in range(700):
        here.add(2000)
    for vpn in list(here.model)[100:]:
        here.remove(vpn)
    file = here.vm.swap.files[0]
    for _ in swapoff(here.vm, file):
        here.vm.breathe()
    assert here.vm.swap.files == [] and here.vm.tier is not None
    here.survive()


# --- another size of the ring ---

@pytest.mark.parametrize("nslots", (0, 3000))
@pytest.mark.parametrize("sizes", ((3 << 20, 1 << 20, 2 << 20), (1 << 20, 5 << 20), (2 << 20, 2 << 20)))
def test_a_ring_of_another_size_under_load(machine: MakeMachine, nslots: int, sizes: tuple[int, ...]) -> None:
    here, rng = machine(ring=sizes[0], nslots=nslots), random.Random(7)
    for _ in range(300):
        here.add(700)
    ring = here.vm.tier.ring
    for nbytes in sizes[1:]:
        most = max(ring.nbytes, nbytes)
        for steps, _left in enumerate(resize_ring(here.vm, nbytes)):
            here.vm.check()                     # R5: both areas keep no more than the larger
            assert ring.nbytes <= most
            here.change(rng.choice(list(here.model)), rng.choice((0, 50, 700, 1000)))
            here.look(rng.choice(list(here.model)))
            if steps % 3 == 0:
                with suppress(NoMemory):
                    here.add(rng.choice((0, 700)))
            if steps % 5 == 0:
                here.remove(rng.choice(list(here.model)))
        assert ring.nbytes == nbytes and not ring.moving
        here.survive()


def test_what_a_smaller_ring_cannot_have_goes_to_the_store(machine: MakeMachine) -> None:
    here = machine(ring=4 << 20, nslots=4000)
    for _ in range(2000):
        here.add(1500)
    tier = here.vm.tier
    lived, before = tier.ring.live_bytes, tier.writebacks
    left = list(resize_ring(here.vm, 1 << 20))
    assert len(left) > 20 and tier.writebacks > before and tier.ring.live_bytes < lived - (2 << 20)
    here.survive()


def test_a_smaller_ring_is_refused_where_nothing_takes_what_is_too_much(machine: MakeMachine) -> None:
    here = machine(ring=4 << 20, nslots=0)
    for _ in range(1500):
        here.add(1500)
    ring = here.vm.tier.ring
    most = ring.most_live
    with pytest.raises(NoSwap, match="it holds .*k and must keep"):
        list(resize_ring(here.vm, 1 << 20))
    assert (ring.nbytes, ring.most_live, ring.moving) == (4 << 20, most, False)
    here.survive()


def test_a_smaller_ring_is_refused_half_way_where_the_store_is_full(machine: MakeMachine) -> None:
    here = machine(ring=4 << 20, nslots=1000)
    for _ in range(2000):
        here.add(1500)
    ring = here.vm.tier.ring
    most = ring.most_live
    with pytest.raises(NoSwap, match="no swap file takes"):
        for _ in resize_ring(here.vm, 1 << 20):
            here.vm.check()
    assert (ring.nbytes, ring.most_live, ring.moving) == (4 << 20, most, False)
    here.survive()


@pytest.mark.parametrize("after", (0, 1, 3, 8, 30, 60))
def test_closed_half_way(machine: MakeMachine, after: int) -> None:
    """Nothing is lost, and idle work or another change of size goes on from there."""
    here = machine(ring=3 << 20, nslots=3000)
    for _ in range(1500):
        here.add(1500)
    ring, steps = here.vm.tier.ring, resize_ring(here.vm, 1 << 20)
    for _ in itertools.islice(steps, after):
        pass
    steps.close()
    here.survive()
    if after % 2:
        while here.vm.tier.idle():
            here.vm.check()
        assert not ring.moving
    else:
        list(resize_ring(here.vm, 2 << 20))
        assert ring.nbytes == 2 << 20
    here.survive()


def test_a_ring_that_moves_and_fills_up(machine: MakeMachine) -> None:
    """ENOSPC as in a ring of that size; records that had to leave have left, and additions empty the old area."""
    here = machine(ring=4 << 20, nslots=0)
    for _ in range(150):
        here.add(700)
    steps = resize_ring(here.vm, 1 << 20)
    while not here.vm.tier.ring.moving:
        next(steps)
    steps.close()
    with pytest.raises(NoMemory):
        for _ in range(100_000):
            here.add(2500)
    here.survive()
    assert len(here.model) > 300


def test_what_hardly_shrinks_is_taken_while_there_is_room(machine: MakeMachine) -> None:
    """It displaces nothing: where the ring is crowded it goes to the store."""
    here = machine(nslots=4000)
    tier = here.vm.tier
    assert tier is not None
    while not tier.is_crowded():
        here.add(3400)                      # takes more than three quarters, and less than 15 sixteenths
    held = tier.ring.nheld
    assert held > 150 and not here.vm.swap.files[0].nheld
    for _ in range(300):
        here.add(3400)
    assert here.vm.swap.files[0].nheld > 250 and tier.ring.nheld <= held + 32
    here.survive()
