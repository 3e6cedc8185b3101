"""tmpfs/holes.py: SEEK_DATA and SEEK_HOLE against a map of pages."""

import errno
import os
import random

import pytest

from tests.fs.fslib import ROOT, Driver, refused
from tmpfsd.tmpfs import holes
from tmpfsd.tmpfs.fserror import FsError
from tmpfsd.uvm.param import PAGE_SIZE

PAGES = 120


def seek(fs: Driver, ino: int, offset: int, whence: int) -> int:
    """The offset found, or -1."""
    fs.mp.breathe()
    try:
        return holes.seek(fs.mp, ino, offset, whence)
    except FsError as error:
        assert error.errno == errno.ENXIO
        return -1


def expected(data: list[bool], size: int, offset: int, whence: int) -> int:
    """The expected answer, found by looking at each page."""
    if offset >= size:
        return -1
    page = offset // PAGE_SIZE
    while page * PAGE_SIZE < size:
        if data[page] == (whence == os.SEEK_DATA):
            return max(offset, page * PAGE_SIZE)
        page += 1
    return size if whence == os.SEEK_HOLE else -1


@pytest.mark.parametrize("seed", range(4))
def test_as_a_map_says(fs: Driver, seed: int) -> None:
    rng, ino = random.Random(seed), fs.create(ROOT, b"a")
    fs.write(ino, 0, b"x" * PAGE_SIZE)
    data = [True] + [False] * PAGES
    for _ in range(40):
        page, count = rng.randrange(PAGES - 20), rng.randrange(1, 20)
        if rng.random() < 0.6:
            fs.write(ino, page * PAGE_SIZE, b"y" * (count * PAGE_SIZE))
        else:
            fs.punch(ino, page * PAGE_SIZE, count * PAGE_SIZE)
            count = min(count, max(fs.getattr(ino).size // PAGE_SIZE - page, 0))
            data[page:page + count] = [False] * count
            continue
        data[page:page + count] = [True] * count
    fs.truncate(ino, size := PAGES * PAGE_SIZE - 7)
    for offset in [*range(0, size, PAGE_SIZE), *(rng.randrange(size + 5) for _ in range(100)), size - 1, size]:
        for whence in (os.SEEK_DATA, os.SEEK_HOLE):
            assert seek(fs, ino, offset, whence) == expected(data, size, offset, whence), (offset, whence)


@pytest.mark.parametrize("size", [0, 1, 48, 49, 2048])
def test_packed(fs: Driver, size: int) -> None:
    ino = fs.create(ROOT, b"a")
    fs.write(ino, 0, b"x" * size)
    for offset in (0, size // 2, size - 1):
        if 0 <= offset < size:
            assert (seek(fs, ino, offset, os.SEEK_DATA), seek(fs, ino, offset, os.SEEK_HOLE)) == (offset, size)
    assert seek(fs, ino, size, os.SEEK_DATA) == seek(fs, ino, size, os.SEEK_HOLE) == -1


def test_all_hole_and_another_whence(fs: Driver) -> None:
    ino = fs.create(ROOT, b"a")
    fs.truncate(ino, 1 << 50)
    assert (seek(fs, ino, 5, os.SEEK_DATA), seek(fs, ino, 5, os.SEEK_HOLE)) == (-1, 5)
    with refused(errno.EINVAL):
        holes.seek(fs.mp, ino, 0, os.SEEK_END)
