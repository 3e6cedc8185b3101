"""tmpfs/tmpfile.py: files that are made without a name."""

import errno
import stat
from typing import Callable

import pytest

from tests.fs.fslib import CRED, POINTS, ROOT, USER, Driver, failing, refused
from tmpfsd.tmpfs import fileattr, layout, tmpfile
from tmpfsd.uvm.errors import VmError


def make(fs: Driver, dino: int = ROOT, linkable: bool = True) -> int:
    """(+1)"""
    ino = fs.do(tmpfile.make, dino, 0o640, USER, linkable)
    fs.refs[ino] += 1
    return ino


def test_life(fs: Driver) -> None:
    ino = make(fs)
    fs.write(ino, 0, b"x" * 10_000)
    st = fs.getattr(ino)
    assert (st.mode, st.nlink, st.uid, st.gid, st.size, st.rdev) == (stat.S_IFREG | 0o640, 0, 1000, 1001, 10_000, 0)
    fs.check()
    assert fs.link(ino, ROOT, b"name") == ino and fs.getattr(ino).nlink == 1
    fs.check()
    fs.unlink(ROOT, b"name")
    with refused(errno.ENOENT):
        fs.link(ino, ROOT, b"again")


def test_never_named(fs: Driver) -> None:
    gone, kept = make(fs), make(fs, linkable=False)
    fs.write(gone, 0, b"x" * 100_000)
    fs.forget(gone)
    assert not fs.mp.mem.nodes.is_held(gone - 1)
    with refused(errno.ENOENT):
        fs.link(kept, ROOT, b"name")


def test_group_and_directory(fs: Driver) -> None:
    dino = fs.mkdir(ROOT, b"d", 0o2777)
    assert fs.getattr(make(fs, dino)).gid == fs.getattr(dino).gid != USER.gid
    with refused(errno.ENOTDIR):
        make(fs, fs.create(ROOT, b"f"))


def test_flags_of_its_directory(fs: Driver) -> None:
    fileattr.put(fs.mp, ROOT, layout.FL_NODUMP | layout.FL_NOATIME, CRED)
    for linkable in (True, False):
        assert fileattr.get(fs.mp, make(fs, linkable=linkable)) == layout.FL_NODUMP | layout.FL_NOATIME
    ino = make(fs)
    fs.link(ino, ROOT, b"name")
    assert fileattr.get(fs.mp, ino) == layout.FL_NODUMP | layout.FL_NOATIME


def test_nr_inodes(make_fs: Callable[..., Driver]) -> None:
    fs = make_fs("roomy", nr_inodes=4)
    ino = make(fs)
    for name in (b"a", b"b", b"c"):
        fs.create(ROOT, name)
    for attempt in (lambda: make(fs), lambda: fs.link(ino, ROOT, b"d")):
        with refused(errno.ENOSPC):
            attempt()
    fs.unlink(ROOT, b"a")
    fs.link(ino, ROOT, b"d")


@pytest.mark.parametrize("point", POINTS)
def test_failures(make_fs: Callable[..., Driver], point: str) -> None:
    fs = make_fs("roomy", tiny=True, acl=True)
    dino = fs.mkdir(ROOT, b"d")
    for n in range(40):
        before = fs.counts()
        fs.mp.vm.thrash = point == "pagein"
        ino = 0
        with failing(point, n) as fuse:
            try:
                ino = make(fs, dino)
                fs.link(ino, dino, b"name%d" % n)
            except VmError:
                assert ino or fs.counts()["nodes"] == before["nodes"]
        fs.mp.vm.thrash = False
        fs.check()
        if fuse.calls <= n:
            return
    raise AssertionError("it still fails")


def test_refused_where_it_may_not_be(fs: Driver) -> None:
    """A file that lost its name, and one that is being freed, are no files of O_TMPFILE."""
    ino = fs.create(ROOT, b"a", 0o644, CRED)
    fs.unlink(ROOT, b"a")
    with refused(errno.ENOENT):
        fs.link(ino, ROOT, b"b")
