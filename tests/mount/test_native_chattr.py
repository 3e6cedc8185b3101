"""tests/mount/test_native_chattr.py: the flags of chattr(1), on both file systems."""

import errno
import fcntl
import mmap
import os
import shutil
import struct
import subprocess
import time
from pathlib import Path
from typing import Callable, Iterator

import pytest
from mountlib import (
    NOBODY, RENAME_EXCHANGE, Mounted, as_user, eventually, fails_with, in_child, needs_root, renameat2, touch
)

pytestmark = needs_root
GETFLAGS, SETFLAGS, FSGETXATTR, FSSETXATTR = 0x80086601, 0x40086602, 0x801C581F, 0x401C5820
IMMUTABLE, APPEND, NODUMP, NOATIME = 0x10, 0x20, 0x40, 0x80
FSX = struct.Struct("=IIIII8x")


@pytest.fixture
def d(make_fs: Callable[..., Mounted]) -> Iterator[Path]:
    mnt = make_fs(tmpfsd="ram=4m,edge=native", size="64m", mode="1777").mnt
    yield mnt
    for path, _dirs, names in os.walk(mnt):
        for name in (".", *names):
            if os.path.isfile(there := os.path.join(path, name)) or name == ".":
                chattr(there, 0)


def chattr(path: "Path | str | int", flags: int) -> None:
    fd = path if isinstance(path, int) else os.open(path, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, SETFLAGS, struct.pack("=Q", flags))
    finally:
        if fd is not path:
            os.close(fd)


def flags_of(path: Path) -> int:
    fd = os.open(path, os.O_RDONLY)
    try:
        found, = struct.unpack("=Q", fcntl.ioctl(fd, GETFLAGS, bytes(8)))
        return int(found & 0xFFFFFFFF)
    finally:
        os.close(fd)


@pytest.mark.parametrize("what", ["file", "directory"])
def test_set_and_asked_for(d: Path, what: str) -> None:
    path = d / "a"
    path.mkdir() if what == "directory" else touch(path)
    assert flags_of(path) == 0
    for flags in (NODUMP, NOATIME | NODUMP, IMMUTABLE, APPEND | NODUMP, 0):
        before = os.stat(path).st_ctime_ns
        time.sleep(0.02)
        chattr(path, flags)
        assert flags_of(path) == flags and os.stat(path).st_ctime_ns > before
    for flags in (1, 2, 4, 8, 0x800, 1 << 31):
        with fails_with(errno.EOPNOTSUPP):
            chattr(path, flags)
    fd = os.open(path, os.O_RDONLY)
    fcntl.ioctl(fd, FSSETXATTR, FSX.pack(0x80 | 0x10, 0, 0, 0, 0))
    assert flags_of(path) == APPEND | NODUMP
    assert FSX.unpack(fcntl.ioctl(fd, FSGETXATTR, FSX.pack(0, 0, 0, 0, 0)))[0] == 0x90
    with fails_with(errno.EOPNOTSUPP, errno.EINVAL):
        fcntl.ioctl(fd, FSSETXATTR, FSX.pack(0, 0, 0, 7, 0))
    with fails_with(errno.ENOTTY):
        fcntl.ioctl(fd, 0x80086699, bytes(8))
    chattr(fd, 0)
    os.close(fd)


def test_who_may(d: Path) -> None:
    touch(d / "mine")
    os.chown(d / "mine", NOBODY, NOBODY)
    touch(d / "others")
    as_user(lambda: chattr(d / "mine", NODUMP))
    assert flags_of(d / "mine") == NODUMP
    for name, flags in (("mine", IMMUTABLE), ("mine", APPEND | NODUMP), ("others", NODUMP)):
        with fails_with(errno.EPERM):
            as_user(lambda: chattr(d / name, flags))


def test_immutable_file(d: Path) -> None:
    touch(d / "a", b"kept" * 1000)
    touch(d / "b")
    os.setxattr(d / "a", "user.a", b"1")
    chattr(d / "a", IMMUTABLE)
    for attempt in (lambda: os.unlink(d / "a"), lambda: os.rename(d / "a", d / "c"),
                    lambda: os.rename(d / "b", d / "a"), lambda: renameat2(d / "a", d / "b", RENAME_EXCHANGE),
                    lambda: os.link(d / "a", d / "c"), lambda: os.chmod(d / "a", 0o600),
                    lambda: os.chown(d / "a", 1, 1), lambda: os.utime(d / "a"), lambda: os.utime(d / "a", (1, 1)),
                    lambda: os.truncate(d / "a", 5), lambda: os.setxattr(d / "a", "user.a", b"2"),
                    lambda: os.removexattr(d / "a", "user.a"), lambda: touch(d / "a", b"new")):
        with fails_with(errno.EPERM):
            attempt()
    assert (d / "a").read_bytes() == b"kept" * 1000 and os.getxattr(d / "a", "user.a") == b"1"
    chattr(d / "a", 0)
    touch(d / "a", b"new")
    os.unlink(d / "a")


def test_append_only_file(d: Path) -> None:
    touch(d / "a", b"one")
    chattr(d / "a", APPEND)
    with open(d / "a", "ab") as file:
        file.write(b"two" * 1000)
    assert (d / "a").read_bytes() == b"one" + b"two" * 1000
    os.utime(d / "a")
    for attempt in (lambda: os.unlink(d / "a"), lambda: os.rename(d / "a", d / "c"), lambda: os.link(d / "a", d / "c"),
                    lambda: os.chmod(d / "a", 0o600), lambda: os.utime(d / "a", (1, 1)),
                    lambda: os.truncate(d / "a", 5), lambda: os.setxattr(d / "a", "user.a", b"2"),
                    lambda: touch(d / "a", b"new")):
        with fails_with(errno.EPERM):
            attempt()

    def overwrite() -> None:
        fd = os.open(d / "a", os.O_RDWR)
        os.pwrite(fd, b"x", 0)

    with fails_with(errno.EPERM):
        in_child(overwrite)
    assert (d / "a").read_bytes() == b"one" + b"two" * 1000


def test_directories(d: Path) -> None:
    os.mkdir(d / "dir")
    touch(d / "dir" / "a")
    touch(d / "out")
    chattr(d / "dir", APPEND)
    touch(d / "dir" / "b")
    os.rename(d / "out", d / "dir" / "out")
    refused = [lambda: os.unlink(d / "dir" / "a"), lambda: os.rename(d / "dir" / "a", d / "c"),
               lambda: os.rename(d / "dir" / "a", d / "dir" / "b"), lambda: os.rename(d / "dir", d / "other"),
               lambda: os.rmdir(d / "dir"), lambda: os.chmod(d / "dir", 0o700)]
    for attempt in refused:
        with fails_with(errno.EPERM):
            attempt()
    chattr(d / "dir", IMMUTABLE)
    refused += [lambda: touch(d / "dir" / "new"), lambda: os.mkdir(d / "dir" / "new"),
                lambda: os.symlink("x", d / "dir" / "new"), lambda: os.link(d / "dir" / "a", d / "dir" / "new")]
    for attempt in refused:
        with fails_with(errno.EPERM):
            attempt()
    with open(d / "dir" / "a", "wb") as file:
        file.write(b"what is in it may change")
    os.link(d / "dir" / "a", d / "linked")
    chattr(d / "dir", 0)
    shutil.rmtree(d / "dir")


def test_inherited(d: Path) -> None:
    os.mkdir(d / "dir")
    chattr(d / "dir", NODUMP | NOATIME)
    touch(d / "dir" / "a")
    os.mkdir(d / "dir" / "sub")
    os.mkfifo(d / "dir" / "fifo")
    os.mknod(d / "dir" / "null", 0o020666, os.makedev(1, 3))
    assert [flags_of(d / "dir" / name) for name in ("a", "sub")] == [NODUMP | NOATIME] * 2
    assert os.stat(d / "dir" / "a").st_rdev == 0 and os.stat(d / "dir" / "null").st_rdev == os.makedev(1, 3)
    chattr(d / "dir", APPEND)
    touch(d / "dir" / "b")
    assert flags_of(d / "dir" / "b") == 0


def test_noatime(d: Path) -> None:
    touch(d / "a", b"x")
    os.utime(d / "a", (5, 10**9))
    chattr(d / "a", NOATIME)
    assert (d / "a").read_bytes() == b"x" and os.stat(d / "a").st_atime == 5


@pytest.mark.skipif(not shutil.which("chattr"), reason="chattr is not installed")
def test_the_programs(d: Path) -> None:
    touch(d / "a")
    subprocess.run(["chattr", "+ad", d / "a"], check=True, timeout=30)
    listed = subprocess.run(["lsattr", d / "a"], check=True, timeout=30, capture_output=True, text=True).stdout
    assert {*listed.split()[0]} == {*"ad-"}
    subprocess.run(["chattr", "-ad", d / "a"], check=True, timeout=30)


def test_no_file_in_an_immutable_directory(d: Path) -> None:
    (d / "dir").mkdir()
    chattr(d / "dir", IMMUTABLE)
    for flags in (os.O_CREAT, os.O_TMPFILE):
        with fails_with(errno.EPERM):
            os.open(d / "dir" / "x" if flags == os.O_CREAT else d / "dir", flags | os.O_RDWR, 0o600)


@pytest.mark.parametrize("flags", [IMMUTABLE, APPEND])
def test_what_a_mapping_forges_is_forgotten(tmpfsd: Callable[..., Mounted], flags: int) -> None:
    """FUSE lets anybody who may write open it; tmpfs refuses that.  The bytes are refused, and not shown for long."""
    mnt = tmpfsd("ram=4m,edge=native").mnt
    (mnt / "f").write_bytes(b"secret")
    chattr(mnt / "f", flags)
    fd = os.open(mnt / "f", os.O_RDWR)
    with mmap.mmap(fd, 6) as mapped:
        mapped[:] = b"forged"
        with fails_with(errno.EPERM):
            mapped.flush()
    os.close(fd)
    assert eventually(lambda: (mnt / "f").read_bytes() == b"secret")
    chattr(mnt / "f", 0)


def test_times_of_appends_through_the_page_cache(tmpfsd: Callable[..., Mounted]) -> None:
    """With `writeback` the kernel sends the times of a write in a request of its own; each fsync here sent one."""
    mnt = tmpfsd("ram=4m,edge=native,writeback").mnt
    (mnt / "log").write_bytes(b"one\n")
    chattr(mnt / "log", APPEND)
    for _ in range(20):
        with open(mnt / "log", "ab") as file:
            time.sleep(0.005)
            file.write(b"more\n")
            file.flush()
            os.fsync(file.fileno())
    os.utime(mnt / "log")
    with fails_with(errno.EPERM):
        os.utime(mnt / "log", (1, 1))
    chattr(mnt / "log", 0)


def test_appending_through_the_page_cache(tmpfsd: Callable[..., Mounted]) -> None:
    """With `writeback` a write has neither O_APPEND nor a beginning: the page of the end is written from its start."""
    mnt = tmpfsd("ram=4m,edge=native,writeback").mnt
    (mnt / "log").write_bytes(b"one\n")
    chattr(mnt / "log", APPEND)
    for line in (b"two\n", b"x" * 10_000):
        fd = os.open(mnt / "log", os.O_WRONLY | os.O_APPEND)
        os.write(fd, line)
        os.fsync(fd)
        os.close(fd)
    subprocess.run(["sysctl", "-q", "vm.drop_caches=1"], check=False, capture_output=True, timeout=20)
    assert (mnt / "log").read_bytes() == b"one\ntwo\n" + b"x" * 10_000
    fd = os.open(mnt / "log", os.O_WRONLY)
    os.pwrite(fd, b"ONE", 0)
    with fails_with(errno.EPERM):
        os.fsync(fd)
    os.close(fd)                        # told once
    assert eventually(lambda: (mnt / "log").read_bytes().startswith(b"one\n"))
    chattr(mnt / "log", 0)
