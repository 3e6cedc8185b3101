"""tmpfs/fallocate.py: room reserved, charged at once, and never refused later."""

import errno
import os
import random
from typing import Callable

import pytest

from tests.fs.conftest import MATRIX, name_of
from tests.fs.fslib import POINTS, ROOT, STARVING_FRAMES, Driver, Pair, failing, refused
from tmpfsd.tmpfs import cut, fallocate, holes
from tmpfsd.tmpfs.fserror import FsError
from tmpfsd.tmpfs.regfile import MAX_SIZE
from tmpfsd.uvm.errors import NoMemory, VmError
from tmpfsd.uvm.pagekind import UNWRITTEN

PAGE = 4096


# Where there is no store, a frame backs each promise: the ring of a compressed tier cannot, as it does not know to how
# little the page will shrink.  So that memory has more frames here than these tests reserve pages.
ALONE = {"ram_bytes": (STARVING_FRAMES + 440) * PAGE}


@pytest.fixture(params=MATRIX, ids=name_of)
def fs(make_fs: Callable[..., Driver], request: pytest.FixtureRequest) -> Driver:
    """As in conftest.py, except for the memory of a compressed tier without a store."""
    mode, options = request.param
    alone = ALONE if options.get("swap", "") is None else {}
    return make_fs(mode, tiny=mode == "thrash", **options, **alone)


def reserve(fs: Driver, ino: int, offset: int, length: int, keep: bool = False) -> None:
    fs.do(fallocate.reserve, ino, offset, length, keep)


def blocks(fs: Driver, ino: int) -> int:
    """In pages."""
    return fs.getattr(ino).blocks // 8


def test_charged_and_zero(fs: Driver) -> None:
    ino = fs.create(ROOT, b"a")
    used = fs.mp.vm.npages
    reserve(fs, ino, 5, 50 * PAGE)
    st = fs.getattr(ino)
    assert (st.size, st.blocks // 8, fs.mp.vm.pages_of[UNWRITTEN]) == (50 * PAGE + 5, 51, 51)
    assert fs.mp.vm.npages >= used + 51 and fs.mp.status()["data"]["reserved_pages"] == 51
    assert fs.read(ino, 0, 1 << 20) == bytes(st.size)
    assert fs.mp.vm.pages_of[UNWRITTEN] == 51, "reading takes no page"
    reserve(fs, ino, 0, 50 * PAGE)
    assert blocks(fs, ino) == 51


def test_keep_size(fs: Driver) -> None:
    ino = fs.create(ROOT, b"a")
    reserve(fs, ino, 0, 10 * PAGE, keep=True)
    assert (fs.getattr(ino).size, blocks(fs, ino), fs.read(ino, 0, 100)) == (0, 10, b"")
    fs.check()
    fs.write(ino, 3 * PAGE + 5, b"abc")
    assert fs.read(ino, 0, 1 << 20) == bytes(3 * PAGE + 5) + b"abc"
    fs.truncate(ino, 5 * PAGE)
    assert blocks(fs, ino) == 10, "a longer file keeps what is reserved behind it"
    fs.check()
    fs.truncate(ino, 5 * PAGE)
    assert blocks(fs, ino) == 5
    reserve(fs, ino, 20 * PAGE, 10, keep=True)
    fs.punch(ino, 4 * PAGE, 1 << 40)
    assert (blocks(fs, ino), fs.getattr(ino).size) == (4, 5 * PAGE)
    fs.truncate(ino, 0)
    assert blocks(fs, ino) == 0


def test_refused_whole(fs: Driver) -> None:
    ino = fs.create(ROOT, b"a")
    fs.write(ino, 0, b"x" * 100)
    with refused(errno.ENOSPC):
        reserve(fs, ino, 0, 300 << 20)
    with refused(errno.EFBIG):
        reserve(fs, ino, 5, MAX_SIZE)
    with refused(errno.ENOSPC):
        reserve(fs, ino, 0, MAX_SIZE)           # at once
    assert fs.getattr(ino).size == 100 and fs.read(ino, 0, 1000) == b"x" * 100


def test_never_refused_later(make_fs: Callable[..., Driver]) -> None:
    """Everything is full; reserved pages can be written, page by page in any order."""
    for swap in (None, "dir"):
        fs = make_fs("starving", **({"swap": None} if swap is None else {"swap_size_bytes": 2 << 20}))
        ino, other = fs.create(ROOT, b"a"), fs.create(ROOT, b"b")
        npages = 5 if swap is None else 300
        reserve(fs, ino, 0, npages * PAGE)
        with refused(errno.ENOSPC):
            for i in range(100_000):
                assert fs.write(other, i * PAGE, b"o" * PAGE) == PAGE
        order = list(range(npages))
        random.Random(1).shuffle(order)
        for page in order:
            assert fs.write(ino, page * PAGE + 7, b"%d" % page) == len(b"%d" % page)
        for page in order:
            assert fs.read(ino, page * PAGE, 20) == (bytes(7) + b"%d" % page).ljust(20, b"\0")
        fs.check()


@pytest.mark.parametrize("seed", range(6))
def test_beside_a_model(fs: Driver, seed: int) -> None:
    rng, pair = random.Random(seed), Pair(fs)
    for _ in range(60):
        offset, length = rng.choice((0, 5, 3000, PAGE, 10 * PAGE, 70_000)), rng.choice((1, 2000, PAGE, 50_000, 90_001))
        kind = rng.randrange(6)
        if kind == 0:
            pair.write(offset, rng.randbytes(length))
        elif kind == 1:
            pair.truncate(rng.choice((0, offset, length)))
        elif kind == 2:
            pair.punch(offset, length)
        else:
            keep = kind == 3
            reserve(fs, pair.ino, offset, length, keep)
            if not keep:
                pair.data.extend(bytes(max(offset + length - len(pair.data), 0)))
        pair.compare()
        if rng.random() < 0.2:
            fs.check()


def test_seek(fs: Driver) -> None:
    ino = fs.create(ROOT, b"a")
    reserve(fs, ino, 0, 20 * PAGE)

    def seek(offset: int, whence: int) -> int:
        fs.mp.breathe()
        try:
            return holes.seek(fs.mp, ino, offset, whence)
        except FsError as error:
            return -error.errno

    assert (seek(5, os.SEEK_HOLE), seek(5, os.SEEK_DATA)) == (5, -errno.ENXIO)
    fs.write(ino, 3 * PAGE, b"x" * (2 * PAGE))
    fs.write(ino, 9 * PAGE, b"x")
    assert [(seek(page * PAGE, os.SEEK_HOLE) // PAGE, seek(page * PAGE, os.SEEK_DATA) // PAGE)
            for page in (0, 3, 4, 5, 9)] == [(0, 3), (5, 3), (5, 4), (5, 9), (10, 9)]
    assert seek(10 * PAGE, os.SEEK_DATA) == -errno.ENXIO


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "lasting"])
@pytest.mark.parametrize("point", POINTS)
def test_failures(make_fs: Callable[..., Driver], point: str, lasting: bool) -> None:
    """All or nothing."""
    fs = make_fs("roomy", tiny=True, noatime=True)
    ino = fs.create(ROOT, b"a")
    for n in range(200):
        fs.truncate(ino, 0)
        for page in (3, 4, 9, 20, 22, 24, 26, 28, 30, 40):
            fs.write(ino, page * PAGE, b"x" * PAGE)
        fs.mp.breathe()
        fs.mp.vm.daemon.evict_all()
        fs.mp.vm.thrash = point == "pagein"
        before, failed = fs.getattr(ino), False
        with failing(point, n, lasting) as fuse:
            try:
                reserve(fs, ino, PAGE, 60 * PAGE)
            except VmError:
                failed = True
        fs.mp.vm.thrash = False
        fs.check()
        after = fs.getattr(ino)
        if failed and not (lasting and point == "pagein"):
            assert (after.size, after.blocks) == (before.size, before.blocks)
        if not failed:
            assert (after.size, after.blocks) == (61 * PAGE, 60 * 8)
        if fuse.calls <= n:
            assert not failed
            return
    raise AssertionError("it still fails")


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "lasting"])
@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("offset, length", [(0, 8 * PAGE), (5, 8 * PAGE), (3 * PAGE, PAGE), (4 * PAGE + 1, 2)])
def test_a_write_that_fails(make_fs: Callable[..., Driver], offset: int, length: int, point: str,
                            lasting: bool) -> None:
    """Over pages that are out, in and unwritten: each byte is the old one, which may be zero, or the new one."""
    fs = make_fs("roomy", tiny=True, noatime=True)
    data = b"\xf1" * length
    for n in range(200):
        ino = fs.create(ROOT, b"a")
        reserve(fs, ino, 0, 10 * PAGE)
        fs.write(ino, 2 * PAGE, b"\x07" * (2 * PAGE))
        fs.mp.breathe()
        fs.mp.vm.daemon.evict_all()
        fs.write(ino, 6 * PAGE, b"\x08" * PAGE)
        old = bytes(fs.read(ino, 0, 1 << 20))
        fs.mp.breathe()
        fs.mp.vm.thrash = point == "pagein"
        done = 0
        with failing(point, n, lasting) as fuse:
            try:
                done = fs.write(ino, offset, data)
            except VmError:
                pass
        fs.mp.vm.thrash = False
        fs.check()
        assert fs.read(ino, 0, 1 << 20) == old[:offset] + data[:done] + old[offset + done:]
        assert blocks(fs, ino) == 10
        fs.unlink(ROOT, b"a")
        fs.forget(ino)
        if fuse.calls <= n:
            assert done == length
            return
    raise AssertionError("it still fails")


def test_counts_what_is_there(fs: Driver) -> None:
    rng, ino = random.Random(5), fs.create(ROOT, b"a")
    there: set[int] = set()
    for _ in range(30):
        page, n = rng.randrange(200), rng.choice((1, 1, 3, 20))
        fs.write(ino, page * PAGE, b"x" * (n * PAGE))
        there.update(range(page, page + n))
    for _ in range(60):
        first = rng.randrange(230)
        last = first + rng.randrange(1, 60)
        assert fs.do(cut.pages_between, ino, first, last) == len(there & set(range(first, last)))


def test_undone_but_for_what_was_written_meanwhile(fs: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others run between two steps: a mapping is written back, memory gets short."""
    monkeypatch.setattr(fallocate, "FEW", 1)
    ino = fs.create(ROOT, b"a")
    for page in (5, 10, 15, 20):
        fs.write(ino, page * PAGE, b"x" * PAGE)
    reservation = fs.do(fallocate.Reservation, ino, 0, 30 * PAGE, True)
    for _ in range(3):
        fs.mp.breathe()
        assert reservation.step()
    fs.write(ino, 2 * PAGE, b"mapped")
    reservation.failure = NoMemory("size is used up")
    with refused(errno.ENOSPC):
        while True:
            fs.mp.breathe()
            assert reservation.step()
    fs.check()
    assert blocks(fs, ino) == 5 and fs.read(ino, 2 * PAGE, 6) == b"mapped"


def test_removed_and_doomed(fs: Driver) -> None:
    """A long tail that is cut, and a file that goes, give back what was reserved."""
    ino = fs.create(ROOT, b"a")
    reserve(fs, ino, 0, 3000 * PAGE if fs.roomy else 400 * PAGE)
    for page in range(0, 300, 3):
        fs.write(ino, page * PAGE, b"x")
    fs.truncate(ino, 10 * PAGE + 1)
    fs.check()
    fs.reap_all()
    assert blocks(fs, ino) == 11
    reserve(fs, ino, 0, 100 * PAGE)
    fs.unlink(ROOT, b"a")
    fs.forget(ino)


def test_of_a_copy_that_looks_around(fs: Driver) -> None:
    """A walk over all that is there brings nothing in."""
    ino = fs.create(ROOT, b"a")
    reserve(fs, ino, 0, 100 * PAGE)
    fs.check()
    assert fs.mp.vm.pages_of[UNWRITTEN] == 100
