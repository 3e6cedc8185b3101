"""tests/mount/test_native_space.py: room and holes through edge=native, as on the kernel's tmpfs."""

import ctypes
import errno
import mmap
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable, Iterator

import pytest
from mountlib import PAGE, Mounted, as_user, fails_with, in_child, libc, mount_tmpfsd, needs_root, touch

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


def test_reserve(d: Path, fd: int) -> None:
    os.utime(fd, (5, 5))
    free = os.statvfs(d).f_bfree
    fallocate(fd, 0, 4 * PAGE, 12 * PAGE)
    st = os.fstat(fd)
    assert (st.st_size, st.st_blocks) == (16 * PAGE, 16 * PAGE // 512) and st.st_mtime > 5
    assert free - os.statvfs(d).f_bfree in range(8, 12)
    fallocate(fd, KEEP_SIZE, 20 * PAGE + 1, PAGE)
    st = os.fstat(fd)
    assert (st.st_size, st.st_blocks) == (16 * PAGE, 18 * PAGE // 512)
    assert os.pread(fd, 1 << 20, 0) == b"x" * (8 * PAGE) + bytes(8 * PAGE)
    os.truncate(fd, 17 * PAGE)
    assert os.fstat(fd).st_blocks == 18 * PAGE // 512
    os.truncate(fd, 17 * PAGE)
    assert os.fstat(fd).st_blocks == 16 * PAGE // 512
    fallocate(fd, KEEP_SIZE, 17 * PAGE, 10 * PAGE)
    fallocate(fd, KEEP_SIZE | PUNCH_HOLE, 15 * PAGE, 100 * PAGE)
    assert (os.fstat(fd).st_size, os.fstat(fd).st_blocks) == (17 * PAGE, 15 * PAGE // 512)


def test_what_does_not_fit_is_undone(fd: int) -> None:
    before = os.fstat(fd)
    with fails_with(errno.ENOSPC):
        fallocate(fd, 0, 0, 65 << 20)
    with fails_with(errno.ENOSPC):
        fallocate(fd, 0, 0, 1 << 62)
    after = os.fstat(fd)
    assert (after.st_size, after.st_blocks, after.st_mtime_ns) == (before.st_size, before.st_blocks,
                                                                   before.st_mtime_ns)


def test_what_is_reserved_is_never_refused(d: Path, fd: int) -> None:
    fallocate(fd, 0, 0, 8 << 20)
    with fails_with(errno.ENOSPC), open(d / "rest", "wb", buffering=0) as rest:
        while True:
            assert rest.write(b"r" * (1 << 20))
    for offset in range(0, 8 << 20, 1 << 16):
        assert os.pwrite(fd, b"kept" * (1 << 14), offset) == 1 << 16
    os.unlink(d / "rest")
    assert os.pread(fd, 8 << 20, 0) == b"kept" * (2 << 20)


def test_a_mapping_of_what_is_reserved(fd: int) -> None:
    fallocate(fd, 0, 8 * PAGE, 8 * PAGE)
    with mmap.mmap(fd, 16 * PAGE) as view:
        view[12 * PAGE:12 * PAGE + 5] = b"hello"
        view.flush()
    assert os.pread(fd, 5, 12 * PAGE) == b"hello" and os.fstat(fd).st_blocks == 16 * PAGE // 512


def test_what_is_reserved_is_a_hole_to_seek(fd: int) -> None:
    fallocate(fd, 0, 8 * PAGE, 8 * PAGE)
    assert os.lseek(fd, 0, os.SEEK_HOLE) == 8 * PAGE
    with fails_with(errno.ENXIO):
        os.lseek(fd, 8 * PAGE, os.SEEK_DATA)
    os.pwrite(fd, b"x", 10 * PAGE)
    assert os.lseek(fd, 8 * PAGE, os.SEEK_DATA) == 10 * PAGE and os.lseek(fd, 10 * PAGE, os.SEEK_HOLE) == 11 * PAGE


@needs_root
@pytest.mark.parametrize("mode", [0, KEEP_SIZE, KEEP_SIZE | PUNCH_HOLE])
def test_set_id_bits_go(d: Path, fd: int, mode: int) -> None:
    os.chmod(d, 0o777)
    os.fchmod(fd, 0o6777)
    fallocate(fd, mode, 0, 2 * PAGE)
    assert os.fstat(fd).st_mode == 0o106777, "root's call takes none"

    def change() -> None:
        fallocate(os.open(d / "file", os.O_RDWR), mode, 0, PAGE)

    as_user(change)
    assert os.fstat(fd).st_mode == 0o100777


@needs_root
def test_rlimit(fd: int) -> None:
    def change() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10 * PAGE, 10 * PAGE))
        with fails_with(errno.EFBIG):
            fallocate(fd, 0, 0, 11 * PAGE)

    in_child(change)
    assert os.fstat(fd).st_blocks == 8 * PAGE // 512


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


def test_seek_sees_what_a_live_mapping_has_changed_in_holes(d: Path) -> None:
    handle = os.open(d / "sparse", os.O_RDWR | os.O_CREAT)
    os.truncate(handle, 1 << 20)
    other = os.open(d / "sparse", os.O_RDONLY)
    with mmap.mmap(handle, 1 << 20) as view:
        view[40 * PAGE:40 * PAGE + 1] = b"x"
        view[255 * PAGE:255 * PAGE + 1] = b"y"
        assert os.lseek(other, 0, os.SEEK_DATA) == 40 * PAGE
        assert os.lseek(other, 40 * PAGE, os.SEEK_HOLE) == 41 * PAGE
        assert os.lseek(other, 41 * PAGE, os.SEEK_DATA) == 255 * PAGE
        view[41 * PAGE:41 * PAGE + 1] = view[42 * PAGE:42 * PAGE + 1] = b"z"
        assert os.lseek(other, 40 * PAGE, os.SEEK_HOLE) == 43 * PAGE
        assert view[40 * PAGE:40 * PAGE + 1] == b"x"
    os.close(other)
    os.close(handle)


def test_seek_in_a_large_hole_that_was_read(d: Path) -> None:
    """A hole that was read is in the kernel, and is still a hole; pages that a mapping changes in it are data."""
    npages = 5000
    handle = os.open(d / "sparse", os.O_RDWR | os.O_CREAT)
    os.truncate(handle, npages * PAGE)
    while os.read(handle, 1 << 20):
        pass
    with fails_with(errno.ENXIO):
        os.lseek(handle, 0, os.SEEK_DATA)
    with mmap.mmap(handle, npages * PAGE) as view:
        view[4000 * PAGE:4500 * PAGE] = b"x" * (500 * PAGE)
        assert os.lseek(handle, 0, os.SEEK_DATA) == 4000 * PAGE
        assert os.lseek(handle, 4000 * PAGE, os.SEEK_HOLE) == 4500 * PAGE
        with fails_with(errno.ENXIO):
            os.lseek(handle, 4500 * PAGE, os.SEEK_DATA)
        subprocess.run(["cp", "--sparse=auto", d / "sparse", d / "copy"], check=True, timeout=30)
        assert os.stat(d / "copy").st_blocks == 500 * PAGE // 512
        assert (d / "copy").read_bytes() == bytes(4000 * PAGE) + b"x" * (500 * PAGE) + bytes(500 * PAGE)
    os.close(handle)


SEEKER = """if True:
    import mmap, os, sys
    fd, npages = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT), 2048
    os.truncate(fd, npages << 12)
    view = mmap.mmap(fd, npages << 12)
    for page in range(0, npages, 2):
        view[page << 12] = 1
    print("ready", flush=True)
    while True:
        for page in range(0, npages, 32):
            view[page << 12] ^= 1
            try:
                os.lseek(fd, page << 12, os.SEEK_DATA)
            except OSError as error:
                if error.errno not in (6,):
                    sys.exit()
"""


@pytest.mark.parametrize("nth", range(4))
def test_a_daemon_that_is_killed_while_holes_are_looked_for_is_gone(nth: int) -> None:
    """None of its threads may wait for itself."""
    mounted = mount_tmpfsd("ram=16m,edge=native,size=64m")
    seeker = subprocess.Popen([sys.executable, "-c", SEEKER, mounted.mnt / "file"], stdout=subprocess.PIPE)
    try:
        assert seeker.stdout is not None and seeker.stdout.readline()
        time.sleep(0.05 * (nth + 1))
        mounted.daemon.kill()
        mounted.daemon.wait(timeout=10)
    finally:
        seeker.kill()
        subprocess.run(["umount", "-f", mounted.mnt], check=False, timeout=30)      # ends the connection in any case
        seeker.communicate(timeout=30)
        mounted.daemon.wait(timeout=30)
        mounted.daemon.returncode = 0
        mounted.close()
