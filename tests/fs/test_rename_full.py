"""rename without memory: never refused for `size`; if ram and swap are full too, a rename that gives back goes on."""

import errno
import random
from itertools import count
from typing import Any, Callable

import pytest

from tests.fs.fslib import ROOT, Driver, refused

PAGE = 4096
EXCHANGE, WHITEOUT = 2, 4
MakeFs = Callable[..., Driver]
# What can be full, and with which options.
FULL: dict[str, dict[str, Any]] = {
    "size": {"size_bytes": 80 * PAGE},
    "no-swap": {"swap": None, "ram_bytes": 110 * PAGE},
    "swap": {"swap_size_bytes": 21 * PAGE},
    "submap": {"submap": 40 * PAGE, "size_bytes": 200 * PAGE},
    "submap-per-pool": {"submap": 16 * PAGE, "submap_sharing": "per-pool", "size_bytes": 400 * PAGE},
    "wired": {"backend": "wired", "swap": None, "ram_bytes": 110 * PAGE},
    "aobj": {"backend": "aobj", "size_bytes": 80 * PAGE}}
HARD = b"a-further-name"
LONG = b"-%d-" + b"n" * 200


def fill(fs: Driver) -> None:
    """Leave no byte: if one kind of node is refused, another may still fit, or a name whose leaf has room."""
    ino = fs.create(ROOT, b"data")
    with refused(errno.ENOSPC):
        for i in count():
            fs.forget(fs.create(ROOT, b"fill-%d" % i))
    with refused(errno.ENOSPC):
        for i in count():
            fs.forget(fs.link(ino, ROOT, b"fill-" + LONG % i))
    with refused(errno.ENOSPC):
        for i in count():
            assert fs.write(ino, i * PAGE, bytes(PAGE)) == PAGE
    for nbytes in (32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1360, 2048, PAGE):
        for leaf in range(8):                   # names hash anew in each mount: any one leaf may be full
            with refused(errno.ENOSPC):
                for i in count():
                    fs.forget(fs.symlink(ROOT, b"s-%d-%d-%d" % (nbytes, leaf, i), b"t" * (nbytes - 1)))


@pytest.fixture(params=FULL)
def full(make_fs: MakeFs, request: pytest.FixtureRequest) -> Driver:
    """A file system without room, with directories of 20 names and of 400 that were made before."""
    fs = make_fs("starving", **FULL[request.param])
    for n in (20, 60):
        ino = fs.mkdir(ROOT, b"d%d" % n)
        for i in range(n):
            fs.forget(fs.create(ino, b"log.%d" % i))
    fs.mkdir(ROOT, b"empty")
    fs.link(fs.create(ROOT, b"first"), ROOT, HARD)
    fill(fs)
    return fs


@pytest.mark.parametrize("size", [20, 60])
def test_rotation(full: Driver, size: int) -> None:
    dino = full.lookup(ROOT, b"d%d" % size)
    for _ in range(5):
        for i in reversed(range(size)):
            full.rename(dino, b"log.%d" % i, dino, b"log.%d" % (i + 1))
        full.rename(dino, b"log.%d" % size, dino, b"log.0")
    full.check()
    assert set(full.entries(dino)) == {b"log.%d" % i for i in range(size)}


def test_into_other_directories_and_back(full: Driver) -> None:
    one, empty = full.lookup(ROOT, b"d20"), full.lookup(ROOT, b"empty")
    for there, back in ((one, empty), (empty, one)) * 3:
        for i in range(20):
            full.rename(there, b"log.%d" % i, back, b"log.%d" % i)
    full.check()
    assert len(full.entries(one)) == 20 and not full.entries(empty)


def test_long_names(full: Driver) -> None:
    dino, empty = full.lookup(ROOT, b"d20"), full.lookup(ROOT, b"empty")
    for name, new in ((b"log.%d", LONG), (LONG, b"x" + LONG), (b"x" + LONG, b"log.%d")):
        for i in range(20):
            full.rename(dino, name % i, empty, new % i)
        dino, empty = empty, dino
    full.check()
    assert set(full.entries(dino)) == {b"log.%d" % i for i in range(20)}


def test_over_another_and_exchange(full: Driver) -> None:
    dino, many = full.lookup(ROOT, b"d20"), full.lookup(ROOT, b"d60")
    full.rename(ROOT, HARD, dino, b"log.3", EXCHANGE)
    full.rename(dino, b"log.4", many, b"log.4", EXCHANGE)
    full.rename(dino, b"log.3", many, b"log.9")
    full.rename(dino, b"log.5", ROOT, HARD)
    full.check()
    assert set(full.entries(dino)) == {b"log.%d" % i for i in range(20)} - {b"log.3", b"log.5"}


def test_a_whiteout_is_a_node_and_refused(full: Driver) -> None:
    dino = full.lookup(ROOT, b"d20")
    names = [name for name in full.entries(ROOT) if len(name) < 32 and name != b"d20"]    # not into itself
    with refused(errno.ENOSPC):
        for name in names:
            before = set(full.entries(dino)), full.mp.vm.npages, full.counts()["strings"]
            full.rename(ROOT, name, dino, name, WHITEOUT)
    assert (set(full.entries(dino)), full.mp.vm.npages, full.counts()["strings"]) == before


@pytest.mark.parametrize("seed", range(3))
def test_size_refuses_no_rename_at_all(make_fs: MakeFs, mode: str, seed: int) -> None:
    """Names that become long, directories that grow: all of it beyond `size`, and all of it comes back."""
    rng = random.Random(seed)
    fs = make_fs(mode, size_bytes=60 * PAGE, swap_size_bytes=400 * PAGE, tiny=True)
    dirs = [fs.mkdir(ROOT, b"dir-%d" % i) for i in range(5)]
    names = {}
    for i in range(150):
        names[i] = (ROOT, b"%d" % i)
        fs.forget(fs.create(*names[i]))
    fill(fs)
    used = fs.mp.vm.npages
    assert used == fs.mp.vm.limit
    for _ in range(400):
        i, dino = rng.randrange(150), rng.choice(dirs)
        new = dino, (b"%d" % i).rjust(rng.choice((3, 32, 33, 100, 255)), b"n")
        fs.rename(*names[i], *new)
        names[i] = new
    for i, (dino, name) in names.items():
        if i % 2:
            fs.rename(dino, name, *names[i - 1], EXCHANGE)
    fs.check()
    assert fs.mp.vm.npages > used and fs.statfs()[2] == 0
    for i, (dino, name) in names.items():
        fs.rename(dino, name, ROOT, b"%d" % i)
    fs.check()
    assert fs.mp.vm.npages <= used + 8          # a leaf more or less, as names hash anew in each mount


def test_what_is_kept_back_is_no_ones_else(make_fs: MakeFs) -> None:
    fs = make_fs("starving", swap=None)
    fill(fs)
    vm = fs.mp.vm
    assert vm.spare == 3 and vm.nslotless == vm.most_slotless - vm.spare and not vm.overdrawn


def test_a_rotation_goes_on_when_nothing_is_kept_back(make_fs: MakeFs) -> None:
    """Within a leaf, and in the dirent that the old name had."""
    fs = make_fs("starving", swap=None)
    fs.mp.vm.spare = 0
    for i in range(9):
        fs.forget(fs.create(ROOT, LONG % i))
    fill(fs)
    for _ in range(3):
        for i in reversed(range(9)):
            fs.rename(ROOT, LONG % i, ROOT, LONG % (i + 1))
        fs.rename(ROOT, LONG % 9, ROOT, b"-0-short")
        fs.rename(ROOT, b"-0-short", ROOT, LONG % 0)
    fs.check()
