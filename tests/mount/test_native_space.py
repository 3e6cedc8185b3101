"""tests/mount/test_native_space.py: holes through edge=native, as on the kernel's tmpfs."""

import ctypes
import errno
import os
import subprocess
from pathlib import Path
from typing import Callable, Iterator

import pytest
from mountlib import PAGE, Mounted, fails_with, libc, touch

KEEP_SIZE, PUNCH_HOLE, COLLAPSE_RANGE, ZERO_RANGE = 1, 2, 8, 16


@pytest.fixture
def d(make_fs: Callable[..., Mounted]) -> Path:
    return make_fs(tmpfsd="ram=4m,edge=native", size="64m").mnt


@pytest.fixture
def fd(d: Path) -> Iterator[int]:
    """A file of eight pages."""
    touch(d / "file", b"x" * (8 * PAGE))
    handle = os.open(d / "file", os.O_RDWR)
    yield handle
    os.close(handle)


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    if libc.fallocate64(fd, mode, ctypes.c_int64(offset), ctypes.c_int64(length)):
        raise OSError(ctypes.get_errno(), "fallocate")


def test_punch(fd: int) -> None:
    assert os.pread(fd, 8 * PAGE, 0) == b"x" * (8 * PAGE)           # cached: what is punched must leave the cache
    before = os.fstat(fd)
    fallocate(fd, KEEP_SIZE | PUNCH_HOLE, PAGE + 5, 3 * PAGE)
    assert os.pread(fd, 8 * PAGE, 0) == b"x" * (PAGE + 5) + bytes(3 * PAGE) + b"x" * (4 * PAGE - 5)
    after = os.fstat(fd)
    assert (after.st_size, after.st_blocks) == (8 * PAGE, 6 * PAGE // 512) and after.st_mtime_ns >= before.st_mtime_ns
    fallocate(fd, KEEP_SIZE | PUNCH_HOLE, 0, 1 << 40)
    assert os.fstat(fd).st_blocks == 0 and os.pread(fd, 8 * PAGE, 0) == bytes(8 * PAGE)


def test_refused(fd: int) -> None:
    for mode in (PUNCH_HOLE, COLLAPSE_RANGE, ZERO_RANGE):
        with fails_with(errno.EOPNOTSUPP):
            fallocate(fd, mode, 0, PAGE)
    with fails_with(errno.EINVAL):
        fallocate(fd, KEEP_SIZE | PUNCH_HOLE, 0, 0)


def test_posix_fallocate_makes_room_whichever_way(fd: int) -> None:
    os.posix_fallocate(fd, 0, 12 * PAGE)
    assert os.fstat(fd).st_size == 12 * PAGE and os.pread(fd, 20 * PAGE, 0) == b"x" * (8 * PAGE) + bytes(4 * PAGE)


def test_seek(fd: int) -> None:
    fallocate(fd, KEEP_SIZE | PUNCH_HOLE, 2 * PAGE, 2 * PAGE)
    os.truncate(fd, 10 * PAGE)
    found = [(os.lseek(fd, offset, os.SEEK_DATA), os.lseek(fd, offset, os.SEEK_HOLE))
             for offset in (0, PAGE + 1, 2 * PAGE, 3 * PAGE + 9, 4 * PAGE, 8 * PAGE - 1)]
    assert found == [(0, 2 * PAGE), (PAGE + 1, 2 * PAGE), (4 * PAGE, 2 * PAGE), (4 * PAGE, 3 * PAGE + 9),
                     (4 * PAGE, 8 * PAGE), (8 * PAGE - 1, 8 * PAGE)]
    for offset, whence in ((8 * PAGE, os.SEEK_DATA), (10 * PAGE, os.SEEK_HOLE), (1 << 40, os.SEEK_DATA)):
        with fails_with(errno.ENXIO):
            os.lseek(fd, offset, whence)
    assert os.lseek(fd, 8 * PAGE, os.SEEK_HOLE) == 8 * PAGE


def test_cp_keeps_holes(d: Path, fd: int) -> None:
    fallocate(fd, KEEP_SIZE | PUNCH_HOLE, PAGE, 6 * PAGE)
    subprocess.run(["cp", "--sparse=auto", d / "file", d / "copy"], check=True, timeout=30)
    assert (d / "copy").read_bytes() == (d / "file").read_bytes()
    assert os.stat(d / "copy").st_blocks == os.stat(d / "file").st_blocks == 2 * PAGE // 512
