"""Memory is as full as it can be, and a slot or a write to swap fails within each operation.

The n-th fails, for every n until the operation needs none more, once or from there on.  A refused operation has changed
nothing; one that succeeds is complete.
"""

import errno
import itertools
from collections.abc import Iterator
from typing import Any, Callable

import pytest

from tests import failpoints
from tests.fs.fslib import SWAP_POINTS, Driver, failing
from tests.fs.test_failures import CASES, REMOVALS, Case, Scene, differences, exact
from tests.servers import Server, need_server
from tmpfsd.uvm.errors import NoMemory, NoSwap, VmError

REFUSALS = (errno.ENOSPC, errno.EIO)        # EIO: no frame can be had for a page that is out
MOST = 200                                  # failures of one operation, by which it must have succeeded


def tighten(fs: Driver) -> None:
    """Bring the number of pages without a slot to the bound of V6: the next page needs one to be written out."""
    vm = fs.mp.vm
    vm.breathe()
    vm.daemon.evict_all()
    for vpn in [vpn for vpn, slot in enumerate(vm.slot_of) if slot]:
        if vm.nslotless == vm.phys.nframes - vm.reserve:
            break
        vm.write(vpn << 12)
        vm.free_slots([vm.slot_of[vpn]])
        vm.slot_of[vpn] = 0
        vm.daemon.slotted[vm.pfn_of(vpn)] = 0
        vm.nslotless += 1


def attempt(scene: Scene, case: Case, point: str, n: int) -> tuple[int, int]:
    """Try a case with the n-th call failing: (errno or 0, calls there were).  Swap is well again afterwards."""
    vm = scene.fs.mp.vm
    tighten(scene.fs)
    try:
        with failing(point, n) as fuse:
            case(scene)
        return 0, fuse.calls
    except VmError as error:
        return error.errno, fuse.calls
    finally:
        vm.daemon.resting_until = 0.0
        for file in vm.swap.files:
            file._full_until = file._rest_until = 0.0


RING_POINTS = ("ring", "full ring")
# Swap alone, in clear and encrypted, a compressed tier before either, and a server, which is always encrypted.
SWAPS: dict[str, dict[str, Any]] = {"clear": {"swap_crypt": False}, "encrypted": {}, "ring": {"ring": 1 << 20},
                                    "ring, clear": {"ring": 1 << 20, "swap_crypt": False}, "server": {}}
COMBINATIONS = [(case, point, swap) for case, point, swap in itertools.product(CASES, SWAP_POINTS, SWAPS)
                if swap == "ring" or swap == "encrypted" and point not in RING_POINTS
                or swap in ("clear", "server") and point in ("write", "slot")
                or swap == "ring, clear" and point in ("write", "ring")]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of swap for all that need one."""
    need_server()
    made = Server(tmp_path_factory.mktemp("server"))
    yield made
    made.kill()


@pytest.mark.parametrize("case, point, swap", COMBINATIONS)
def test_nothing_has_changed_or_all_of_it(make_fs: Callable[..., Driver], request: pytest.FixtureRequest, case: str,
                                          point: str, swap: str) -> None:
    how = {"swap": request.getfixturevalue("server").place} if swap == "server" else SWAPS[swap]
    nothing_or_all(lambda: make_fs("starving", tiny=True, noatime=True, acl=True, **how), case, point)


def nothing_or_all(make: Callable[[], Driver], case: str, point: str) -> None:
    """Make the n-th call of a point fail in a case, on full memory, for every n until the case succeeds."""
    scene, before, counts = None, {}, {}
    for n in range(MOST):
        if scene is None:
            scene = Scene(make())
            before, counts = scene.fs.dump(), exact(scene.fs)
        fs, refs = scene.fs, scene.fs.refs.copy()
        number, calls = attempt(scene, CASES[case], point, n)
        fs.check()
        if not number:
            if calls <= n:
                return
            scene = None
            continue
        assert number in REFUSALS
        assert exact(fs) == counts, f"counts after failure {n}"
        assert fs.refs == refs
        assert differences(before, fs.dump()) == {}, f"failure {n} of {case}"
    raise AssertionError(f"{case} still fails at {point} {MOST}")


@pytest.mark.parametrize("point", [point for point, (*_rest, lasting) in SWAP_POINTS.items()
                                   if lasting and point not in RING_POINTS])
def test_what_needs_a_page_is_refused(make_fs: Callable[..., Driver], point: str) -> None:
    """The test above sees refusals, not operations that do without."""
    scene = Scene(make_fs("starving", tiny=True, noatime=True, acl=True))
    assert attempt(scene, CASES["write-hole"], point, 0)[0] == errno.ENOSPC


@pytest.mark.parametrize("case", REMOVALS)
def test_removal_needs_neither_pages_nor_items_nor_slots(
        fs: Driver, case: str) -> None:
    """On every backend, roomy and tight."""
    scene = Scene(fs)
    tighten(fs)

    def refuse(error: type[VmError]) -> Callable[[], None]:
        def call() -> None:
            raise error("not now")

        return call

    with failpoints.at(("Vm.alloc_page", "Pool.get"), refuse(NoMemory)), failpoints.at("Swap.alloc", refuse(NoSwap)):
        REMOVALS[case](scene)
    fs.check()
