"""tmpfs/fileattr.py: what the flags of files forbid (tests/mount/test_native_chattr.py compares with tmpfs)."""

import errno

import pytest

from tests.fs.fslib import CRED, ROOT, USER, Driver, refused
from tmpfsd.tmpfs import detach, fallocate, fileattr
from tmpfsd.tmpfs.layout import FL_APPEND, FL_IMMUTABLE, FL_NODUMP, LINKABLE

PAGE = 4096


def test_none_is_asked_for_before_one_is_set(fs: Driver) -> None:
    ino = fs.create(ROOT, b"a")
    assert not fs.mp.flagged and fs.do(fileattr.get, ino) == 0
    fs.do(fileattr.put, ino, FL_NODUMP, CRED)
    assert fs.mp.flagged and fs.do(fileattr.get, ino) == FL_NODUMP and fs.getattr(ino).rdev == 0
    with refused(errno.EOPNOTSUPP):
        fs.do(fileattr.put, ino, LINKABLE, CRED)
    with refused(errno.ENOTTY):
        fs.do(fileattr.put, fs.symlink(ROOT, b"l", b"x"), 0, CRED)
    with refused(errno.EPERM):
        fs.do(fileattr.put, ino, 0, USER)


@pytest.mark.parametrize("flags", [FL_IMMUTABLE, FL_APPEND])
def test_bytes(fs: Driver, flags: int) -> None:
    ino = fs.create(ROOT, b"a")
    fs.write(ino, 0, b"x" * 9000)
    fs.do(fileattr.put, ino, flags, CRED)
    attempts = [lambda: fs.write(ino, 9000, b"y"), lambda: fs.setattr(ino, size=5)]
    if flags == FL_IMMUTABLE:
        attempts.append(lambda: fs.write(ino, 9000, b"y", appends=True))
        attempts.append(lambda: fs.do(fallocate.reserve, ino, 0, PAGE, True))
    else:
        attempts.append(lambda: fs.write(ino, 8999, b"y", appends=True))
    for attempt in attempts:
        with refused(errno.EPERM):
            attempt()
    if flags == FL_APPEND:
        assert fs.write(ino, 9000, b"y", appends=True) == 1
        fs.do(fallocate.reserve, ino, 0, 5 * PAGE, True)
    fs.do(fileattr.put, ino, 0, CRED)
    assert fs.write(ino, 0, b"z") == 1


def test_devices_have_numbers_and_no_flags(fs: Driver) -> None:
    """A device's number stands where other nodes have flags."""
    fs.do(fileattr.put, fs.create(ROOT, b"a"), FL_NODUMP, CRED)
    ino = fs.mknod(ROOT, b"dev", 0o020666, FL_IMMUTABLE | FL_APPEND)
    assert fs.do(fileattr.get, ino) == 0 and fs.getattr(ino).rdev == 0x30
    fs.setattr(ino, mode=0o600)
    fs.rename(ROOT, b"dev", ROOT, b"dev2")
    fs.unlink(ROOT, b"dev2")


def test_a_tree_is_not_discarded(fs: Driver) -> None:
    dino = fs.mkdir(ROOT, b"d")
    fs.do(fileattr.put, dino, FL_IMMUTABLE, CRED)
    with refused(errno.EPERM):
        fs.do(detach.detach, ROOT, b"d")
    fs.do(fileattr.put, dino, 0, CRED)
    fs.do(detach.detach, ROOT, b"d")
    fs.reap_all()


def test_times_after_a_write(fs: Driver) -> None:
    """With `writeback` the kernel sends mtime and ctime of an append; other times are refused, and all if immutable."""
    ino = fs.create(ROOT, b"a")
    fs.do(fileattr.put, ino, FL_APPEND, CRED)
    fs.setattr(ino, mtime_ns=5 << 30, ctime_ns=5 << 30)
    assert fs.getattr(ino).mtime_ns == fs.getattr(ino).ctime_ns == 5 << 30
    for times in ({"mtime_ns": 5, "ctime_ns": 6}, {"mtime_ns": 5}, {"atime_ns": 5, "mtime_ns": 6, "ctime_ns": 6}):
        with refused(errno.EPERM):
            fs.setattr(ino, **times)
    fs.do(fileattr.put, ino, FL_IMMUTABLE, CRED)
    with refused(errno.EPERM):
        fs.setattr(ino, mtime_ns=5, ctime_ns=5)
    fs.do(fileattr.put, ino, 0, CRED)
