"""read, write, truncate and punch against a bytearray, around every change of representation."""

import errno
import random
from collections.abc import Callable

import pytest

from tests.fs.fslib import ROOT, Driver, Pair, refused
from tmpfsd.tmpfs.layout import KIND_INLINE, KIND_STRING, KIND_TREE

EDGES = (48, 2048, 4096, 8192, 65536)
NEAR = sorted({edge + d for edge in EDGES for d in (-1, 0, 1)} | {0, 1, 100, 5000})
PAGE = 4096
MAX_SIZE = (1 << 63) - 1


@pytest.mark.parametrize("first", NEAR)
def test_write_then_write(fs: Driver, first: int) -> None:
    for i, second in enumerate(NEAR if fs.roomy else NEAR[::4]):
        pair = Pair(fs, b"%d" % i)
        pair.write(0, b"a" * first)
        pair.write(second, b"b" * 10)
        pair.compare()
    fs.check()


@pytest.mark.parametrize("first", NEAR)
def test_truncate_and_grow_again(fs: Driver, first: int) -> None:
    for i, second in enumerate(NEAR if fs.roomy else NEAR[::4]):
        pair = Pair(fs, b"%d" % i)
        pair.write(0, b"a" * first)
        pair.truncate(second)
        pair.compare()
        pair.truncate(first + 3000)
        pair.compare()
        pair.truncate(0)
        assert pair.kind == KIND_INLINE and pair.npages == 0
        pair.write(0, b"c")
        pair.compare()
    fs.check()


@pytest.mark.parametrize("size", (40, 1000, 2048, 4096, 5000, 65536, 70_000))
def test_punch(fs: Driver, size: int) -> None:
    for i, offset in enumerate(NEAR if fs.roomy else NEAR[::3]):
        for length in (0, 1, 47, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE, 100_000):
            pair = Pair(fs, b"%d-%d" % (i, length))
            pair.write(0, b"a" * size)
            pair.punch(offset, length)
            pair.compare()
            pair.write(max(offset - 5, 0), b"b" * 20)
            pair.compare()
            fs.unlink(ROOT, b"%d-%d" % (i, length))
            fs.forget(pair.ino)
    fs.check()


def test_punch_gives_pages_back(fs: Driver) -> None:
    pair = Pair(fs)
    pair.write(0, b"a" * 30 * PAGE)
    pair.punch(5 * PAGE, 10 * PAGE)
    assert pair.npages == 20
    pair.punch(0, 30 * PAGE)
    assert pair.npages == 0
    pair.compare()


def test_kinds(fs: Driver) -> None:
    pair = Pair(fs)
    for size, kind in ((0, KIND_INLINE), (48, KIND_INLINE), (49, KIND_STRING), (2048, KIND_STRING), (2049, KIND_TREE)):
        pair.truncate(size)
        assert pair.kind == kind
        pair.compare()


@pytest.mark.parametrize("order", ["up", "down", "odd-even", "shuffled"])
def test_extents_merge(fs: Driver, order: str) -> None:
    n = 60
    pages = {"up": list(range(n)), "down": list(range(n))[::-1],
             "odd-even": [*range(1, n, 2), *range(0, n, 2)],
             "shuffled": random.Random(1).sample(range(n), n)}[order]
    pair = Pair(fs)
    for page in pages:
        pair.write(page * PAGE, bytes([page + 1]) * PAGE)
    assert pair.npages == n
    pair.compare()
    fs.check()
    if order == "up":
        assert len(fs.mp.extents.batch_from(fs.mp.mem.node(pair.ino), 0)) <= 2
    for page in pages[::2]:
        pair.punch(page * PAGE, PAGE)
    pair.compare()
    pair.truncate(17 * PAGE + 5)
    pair.compare()


@pytest.mark.parametrize("offset", [1 << 31, 1 << 32, 1 << 44, (1 << 62) + 12345, MAX_SIZE - 10])
def test_sparse(fs: Driver, offset: int) -> None:
    ino = fs.create(ROOT, b"sparse")
    fs.write(ino, 0, b"head")
    assert fs.write(ino, offset, b"0123456789") == 10
    assert fs.getattr(ino).size == offset + 10 and fs.getattr(ino).blocks <= 24
    assert fs.read(ino, offset - 5, 100) == bytes(5) + b"0123456789"
    assert fs.read(ino, 0, 4096) == b"head" + bytes(4092)
    assert fs.read(ino, offset // 2, 70_000) == bytes(min(70_000, offset + 10 - offset // 2))
    fs.truncate(ino, offset + 3)
    assert fs.read(ino, offset, 100) == b"012"
    fs.truncate(ino, 2)
    assert fs.read(ino, 0, 100) == b"he" and fs.getattr(ino).blocks == 8


def test_the_largest_file(fs: Driver) -> None:
    ino = fs.create(ROOT, b"a")
    fs.truncate(ino, MAX_SIZE)
    assert fs.getattr(ino)[5:7] == (MAX_SIZE, 0)
    assert fs.read(ino, MAX_SIZE - 3, 10) == bytes(3)
    for operation in (lambda: fs.truncate(ino, MAX_SIZE + 1), lambda: fs.write(ino, MAX_SIZE, b"x"),
                      lambda: fs.write(ino, MAX_SIZE - 1, b"xy")):
        with refused(errno.EFBIG):
            operation()
    assert fs.write(ino, MAX_SIZE - 1, b"x") == 1
    fs.punch(ino, MAX_SIZE - 100, 1000)
    assert fs.read(ino, MAX_SIZE - 3, 10) == bytes(3)


def test_reads_beyond_the_end(fs: Driver) -> None:
    for i, size in enumerate((0, 10, 1000, 10_000)):
        pair = Pair(fs, b"%d" % i)
        pair.write(0, b"x" * size)
        for offset in (size, size + 1, 1 << 40, MAX_SIZE):
            assert fs.read(pair.ino, offset, 100) == b""
        assert fs.read(pair.ino, 0, 0) == b"" and fs.write(pair.ino, 5, b"") == 0
        pair.compare()


def test_large_writes_go_through_few_frames(fs: Driver) -> None:
    pair = Pair(fs)
    data = random.Random(1).randbytes(1_000_000 + 77)
    pair.write(123, data)
    pair.compare()
    pair.write(50_000, data[::-1])
    pair.compare()


def test_type_is_looked_at(fs: Driver) -> None:
    parent, link, fifo = fs.mkdir(ROOT, b"d"), fs.symlink(ROOT, b"s", b"t"), fs.mknod(ROOT, b"f", 0o010600)
    for i in range(30):
        fs.create(parent, b"%d" % i)
    for ino, number in ((parent, errno.EISDIR), (link, errno.EINVAL), (fifo, errno.EINVAL)):
        with refused(number):
            fs.truncate(ino, 5)
        with refused(number):
            fs.setattr(ino, size=5)
    fs.open(parent, 0o1000)
    assert len(fs.entries(parent)) == 30


def test_punch_of_a_directory_is_refused(fs: Driver) -> None:
    parent = fs.mkdir(ROOT, b"d")
    for i in range(30):
        fs.create(parent, b"%d" % i)
    with refused(errno.EISDIR, errno.EINVAL):
        fs.punch(parent, 0, 100)


def test_times(fs: Driver) -> None:
    pair = Pair(fs)
    pair.write(0, b"a" * 5000)
    for i, change in enumerate((lambda: fs.write(pair.ino, 0, b"x"), lambda: fs.truncate(pair.ino, 100),
                                lambda: fs.punch(pair.ino, 0, 10), lambda: fs.open(pair.ino, 0o1000))):
        now = (i + 5) * 10 ** 18
        fs.mp.now = lambda now=now: now
        change()
        assert fs.getattr(pair.ino)[8:10] == (now, now)


def test_pages_come_back_while_a_file_shrinks(fs: Driver) -> None:
    pair = Pair(fs)
    before = fs.mp.vm.pages_of[1]
    pair.write(0, b"x" * 200 * PAGE)
    for size in (150 * PAGE + 1, 100 * PAGE, 3 * PAGE - 1, 1):
        pair.truncate(size)
        assert fs.mp.vm.pages_of[1] - before == -(-size // PAGE) == pair.npages
        fs.check()


def test_streaming_data_leaves_the_metadata_in(make_fs: Callable[..., Driver]) -> None:
    """Ten times the memory is written and read; pages that are used all the time stay."""
    fs = make_fs("roomy", noatime=True)
    names = [b"file%d" % number for number in range(2000)]
    for name in names:
        fs.create(ROOT, name)
    data = fs.create(ROOT, b"data")
    vm, chunk = fs.mp.vm, bytes(64 << 10)
    nchunks = 10 * vm.phys.nframes * PAGE // len(chunk)

    def faults() -> int:
        before = vm.faults
        for name in names:
            fs.getattr(fs.lookup(ROOT, name))
        return vm.faults - before

    def stream(operation: Callable[[int], object]) -> int:
        found = 0
        for number in range(nchunks):
            operation(number * len(chunk))
            if number % (nchunks // 10) == 0:
                found += faults()
        return found

    pages = sum(pool.npages for pool in fs.mp.mem.pools())
    for _ in range(3):
        faults()
    assert faults() == 0
    assert stream(lambda at: fs.write(data, at, chunk)) < pages
    assert stream(lambda at: fs.read(data, at, len(chunk))) < pages
