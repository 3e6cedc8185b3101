"""Freed content is not visible to the next user of its memory: pages, strings and nodes, on every backend."""

import pytest

from tests.fs.fslib import ROOT, Driver

SECRET = b"SECRET~!" * 1024
SIZES = (1, 8, 40, 48, 49, 64, 100, 300, 700, 1500, 2047, 2048, 2049, 4095, 4096, 4097, 8192)


@pytest.fixture
def strewn(fs: Driver) -> Driver:
    """One that was full of another's data, in every size; without the poison of the checks."""
    fs.mp.vm.check_level = 0
    for i, size in enumerate(SIZES * 3):
        ino = fs.create(ROOT, b"secret-%d" % i + b"!SECRET!" * (i % 4 * 7))
        fs.write(ino, 0, SECRET[:size])
        fs.setxattr(ino, b"user.secret", SECRET[:size // 2])
        fs.symlink(ROOT, b"link-%d" % i, (SECRET * 2)[:size % 4000 + 1])
    fs.remove_all()
    fs.forget_all()
    return fs


@pytest.mark.parametrize("paged", [False, True])
def test_grown_files_are_zeroes(strewn: Driver, paged: bool) -> None:
    fs = strewn
    if paged:
        fs.mp.breathe()
        fs.mp.vm.daemon.evict_all()
    inos = [fs.create(ROOT, b"new-%d" % i) for i in range(len(SIZES))]
    for ino, size in zip(inos, SIZES):
        fs.truncate(ino, size)
    if paged:
        fs.mp.breathe()
        fs.mp.vm.daemon.evict_all()
    for ino, size in zip(inos, SIZES):
        assert fs.read(ino, 0, size + 1) == bytes(size)


@pytest.mark.parametrize("start", [0, 10, 100, 3000, 5000])
def test_holes_before_and_after_what_is_written(strewn: Driver, start: int) -> None:
    fs = strewn
    for size in SIZES:
        ino = fs.create(ROOT, b"new-%d" % size)
        fs.write(ino, start, b"mine")
        fs.truncate(ino, start + 4 + size)
        assert fs.read(ino, 0, 1 << 20) == bytes(start) + b"mine" + bytes(size)


def test_cut_and_grown_again(strewn: Driver) -> None:
    fs = strewn
    for size in SIZES:
        for keep in {0, 1, size // 2}:
            ino = fs.create(ROOT, b"%d-%d" % (size, keep))
            fs.write(ino, 0, SECRET[:size])
            fs.truncate(ino, keep)
            fs.truncate(ino, size + 3000)
            assert fs.read(ino, 0, 1 << 20) == SECRET[:keep] + bytes(size + 3000 - keep)


def test_a_failed_write_leaves_no_one_elses_bytes(strewn: Driver) -> None:
    """forget_content() gives a page a frame with its old bytes: nobody may read them if the rest fails."""
    fs = strewn
    ino = fs.create(ROOT, b"new")
    fs.write(ino, 0, b"a" * 4096 * 20)
    fs.mp.breathe()
    fs.mp.vm.daemon.evict_all()
    for page in range(20):
        fs.write(ino, page << 12, b"b" * 4096)
    assert fs.read(ino, 0, 1 << 20) == b"b" * 4096 * 20
