"""POSIX ACLs and the mode."""

import errno
import stat
from typing import Callable

import pytest

from tests.fs.fslib import CRED, ROOT
from tests.fs.fslib import USER as USER_CRED
from tests.fs.fslib import Driver, refused, ticking
from tmpfsd.tmpfs.acl import ACCESS, DEFAULT, GROUP, GROUP_OBJ, MASK, OTHER, USER, USER_OBJ, encode, parse

NOBODY = (1 << 32) - 1
FULL = [(USER_OBJ, 7, NOBODY), (USER, 6, 1000), (GROUP_OBJ, 5, NOBODY), (GROUP, 4, 1000),
        (MASK, 6, NOBODY), (OTHER, 1, NOBODY)]
MINIMAL = [(USER_OBJ, 6, NOBODY), (GROUP_OBJ, 4, NOBODY), (OTHER, 0, NOBODY)]


@pytest.fixture
def fs(make_fs: Callable[..., Driver], mode: str) -> Driver:
    """With option acl."""
    return make_fs(mode, tiny=mode == "thrash", acl=True)


def test_an_access_acl_sets_the_mode(fs: Driver) -> None:
    ino = fs.create(ROOT, b"a", 0o4600)
    fs.setxattr(ino, ACCESS, encode(FULL), 0, CRED)
    assert stat.S_IMODE(fs.getattr(ino).mode) == 0o4761
    assert parse(fs.getxattr(ino, ACCESS)) == FULL and fs.listxattr(ino) == [ACCESS]


def test_a_minimal_acl_is_the_mode(fs: Driver) -> None:
    ino = fs.create(ROOT, b"a")
    fs.setxattr(ino, ACCESS, encode(FULL))
    fs.setxattr(ino, ACCESS, encode(MINIMAL))
    assert stat.S_IMODE(fs.getattr(ino).mode) == 0o640 and fs.listxattr(ino) == []
    with refused(errno.ENODATA):
        fs.getxattr(ino, ACCESS)


def test_chmod_sets_the_acl(fs: Driver) -> None:
    ino = fs.create(ROOT, b"a")
    fs.setxattr(ino, ACCESS, encode(FULL))
    fs.setattr(ino, mode=0o421)
    after = {(tag, who): perm for tag, perm, who in parse(fs.getxattr(ino, ACCESS))}
    assert (after[USER_OBJ, NOBODY], after[MASK, NOBODY], after[OTHER, NOBODY]) == (4, 2, 1)
    assert (after[GROUP_OBJ, NOBODY], after[USER, 1000], after[GROUP, 1000]) == (5, 6, 4)


def test_inheriting(fs: Driver) -> None:
    parent = fs.mkdir(ROOT, b"d")
    fs.setxattr(parent, DEFAULT, encode(FULL))
    assert stat.S_IMODE(fs.getattr(parent).mode) == 0o755
    file = fs.create(parent, b"f", 0o640)
    assert stat.S_IMODE(fs.getattr(file).mode) == 0o640 and fs.listxattr(file) == [ACCESS]
    assert (MASK, 4, NOBODY) in parse(fs.getxattr(file, ACCESS))
    sub = fs.mkdir(parent, b"s", 0o777)
    assert stat.S_IMODE(fs.getattr(sub).mode) == 0o761
    assert parse(fs.getxattr(sub, DEFAULT)) == FULL
    assert fs.listxattr(fs.symlink(parent, b"l", b"t")) == []
    plain = fs.mkdir(ROOT, b"plain")
    fs.setxattr(plain, DEFAULT, encode(MINIMAL))
    file = fs.create(plain, b"f", 0o666)
    assert stat.S_IMODE(fs.getattr(file).mode) == 0o640 and fs.listxattr(file) == []


def test_what_is_refused(fs: Driver) -> None:
    ino = fs.create(ROOT, b"a")
    with refused(errno.EACCES):
        fs.setxattr(ino, DEFAULT, encode(FULL))
    for value, number in ((b"", errno.EINVAL), (encode(FULL)[:-1], errno.EINVAL), (b"\1\0\0\0", errno.EOPNOTSUPP),
                          (encode(FULL[1:]), errno.EINVAL), (encode(FULL[:4] + FULL[5:]), errno.EINVAL)):
        with refused(number):
            fs.setxattr(ino, ACCESS, value)
    assert fs.listxattr(ino) == []


def test_removing_one_that_is_not_there(fs: Driver) -> None:
    fs.mp.now = ticking()
    for name in (ACCESS, DEFAULT):
        before = fs.getattr(ROOT)
        fs.removexattr(ROOT, name, CRED)
        assert fs.getattr(ROOT).ctime_ns > before.ctime_ns and fs.getattr(ROOT).mode == before.mode
    fs.setxattr(ROOT, DEFAULT, encode(FULL))
    fs.setxattr(ROOT, DEFAULT, encode([]))
    assert fs.listxattr(ROOT) == []


def test_setgid_goes_with_the_acl_of_another_group(fs: Driver) -> None:
    """As with chmod(2): posix_acl_update_mode() of the kernel, also where the ACL is removed."""
    ino = fs.create(ROOT, b"a", 0o2755)
    fs.setxattr(ino, ACCESS, encode(FULL), 0, CRED)
    fs.removexattr(ino, ACCESS, CRED)
    assert stat.S_IMODE(fs.getattr(ino).mode) == 0o2761
    fs.removexattr(ino, ACCESS, USER_CRED)
    assert stat.S_IMODE(fs.getattr(ino).mode) == 0o761


def test_an_acl_that_is_the_mode_sets_ctime(fs: Driver) -> None:
    fs.mp.now = ticking()
    ino = fs.create(ROOT, b"a")
    before = fs.getattr(ino).ctime_ns
    fs.setxattr(ino, ACCESS, encode(MINIMAL))
    assert fs.getattr(ino).ctime_ns > before
