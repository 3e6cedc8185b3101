"""tmpfs/copyrange.py: bytes from file to file."""

import errno
import random
from typing import Callable

import pytest

from tests.fs.fslib import POINTS, ROOT, Driver, failing, refused
from tmpfsd.tmpfs import copyrange
from tmpfsd.tmpfs.regfile import MAX_SIZE
from tmpfsd.uvm.errors import VmError

PAGE = 4096


def copy(fs: Driver, *args: int) -> int:
    return fs.do(copyrange.copy, *args)


def test_as_slices(fs: Driver) -> None:
    rng = random.Random(3)
    data = bytes(rng.randbytes(90_000) + bytes(40_000) + rng.randbytes(20_000))
    source, target, model = fs.create(ROOT, b"a"), fs.create(ROOT, b"b"), bytearray()
    fs.write(source, 0, data)
    for _ in range(40):
        start, to, length = rng.randrange(160_000), rng.randrange(160_000), rng.choice((1, 40, 5000, 70_000, 200_000))
        part = data[start:start + length]
        assert copy(fs, source, start, target, to, length) == len(part)
        if part:
            model.extend(bytes(max(to - len(model), 0)))
            model[to:to + len(part)] = part
        assert fs.read(target, 0, 400_000) == model


def test_bounds(fs: Driver) -> None:
    source, target = fs.create(ROOT, b"a"), fs.create(ROOT, b"b")
    fs.truncate(source, 1 << 40)
    if fs.roomy:
        assert copy(fs, source, 5, target, 0, 1 << 40) == copyrange.MOST
    with refused(errno.EFBIG):
        copy(fs, source, 0, target, MAX_SIZE - 5, 100)
    for start, to, length in ((0, 99, 100), (99, 0, 100), (7, 7, 1)):
        with refused(errno.EINVAL):
            copy(fs, source, start, source, to, length)
    assert copy(fs, source, 0, source, 100, 100) == 100 and not copy(fs, source, 1 << 40, target, 0, 5)


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "lasting"])
@pytest.mark.parametrize("point", POINTS)
def test_failures(make_fs: Callable[..., Driver], point: str, lasting: bool) -> None:
    """The bytes copied before the failure are there and reported; behind them nothing has changed."""
    fs = make_fs("roomy", tiny=True, noatime=True)
    data, old = random.Random(1).randbytes(200_000), b"\x99" * 150_000
    source = fs.create(ROOT, b"a")
    fs.write(source, 0, data)
    for n in range(200):
        target = fs.create(ROOT, b"b")
        fs.write(target, 0, old)
        fs.mp.breathe()
        fs.mp.vm.daemon.evict_all()
        fs.mp.vm.thrash = point == "pagein"
        done = 0
        with failing(point, n, lasting) as fuse:
            try:
                done = copy(fs, source, 10, target, 5, 180_000)
            except VmError:
                pass
        fs.mp.vm.thrash = False
        fs.check()
        assert fs.read(target, 0, 400_000) == old[:5] + data[10:10 + done] + old[5 + done:]
        fs.unlink(ROOT, b"b")
        fs.forget(target)
        if fuse.calls <= n:
            assert done == 180_000
            return
    raise AssertionError("it still fails")
