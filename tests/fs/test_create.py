"""create, mknod, mkdir, symlink: new nodes of every type."""

import errno
import os
import stat

import pytest

from tests.fs.fslib import CRED, ROOT, USER, Cred, Driver, refused

NAMES = [b"a", b"\xff\x01\n", b"n" * 31, b"n" * 32, b"n" * 33, b"n" * 254, b"n" * 255]
DEVICE = os.makedev(8, 1)
SPECIAL = [(stat.S_IFIFO, 0), (stat.S_IFSOCK, 0), (stat.S_IFCHR, DEVICE), (stat.S_IFBLK, DEVICE)]


@pytest.mark.parametrize("name", NAMES, ids=len)
def test_create(fs: Driver, name: bytes) -> None:
    ino = fs.create(ROOT, name, 0o4640, USER)
    st = fs.getattr(ino)
    assert st[:7] == (stat.S_IFREG | 0o4640, 1, USER.uid, USER.gid, 0, 0, 0)
    assert fs.lookup(ROOT, name) == ino
    assert fs.entries(ROOT) == {name: ino}
    assert fs.getattr(ROOT).size == 60


def test_times_of_a_new_node(fs: Driver) -> None:
    fs.mp.now = lambda: 10 ** 18
    ino = fs.create(ROOT, b"a")
    assert fs.getattr(ino)[7:10] == (10 ** 18,) * 3
    root = fs.getattr(ROOT)
    assert (root.mtime_ns, root.ctime_ns) == (10 ** 18, 10 ** 18) and root.atime_ns != 10 ** 18


@pytest.mark.parametrize("kind, rdev", SPECIAL)
def test_mknod(fs: Driver, kind: int, rdev: int) -> None:
    ino = fs.mknod(ROOT, b"special", kind | 0o600, DEVICE)
    assert fs.getattr(ino)[:7] == (kind | 0o600, 1, 0, 0, rdev, 0, 0)


def test_mknod_makes_files_and_neither_directories_nor_symlinks(fs: Driver) -> None:
    assert stat.S_ISREG(fs.getattr(fs.mknod(ROOT, b"file", stat.S_IFREG | 0o600)).mode)
    for kind in (stat.S_IFDIR, stat.S_IFLNK, 0, 1 << 16 | stat.S_IFIFO):
        with refused(errno.EINVAL):
            fs.mknod(ROOT, b"other", kind | 0o600)


def test_mkdir(fs: Driver) -> None:
    ino = fs.mkdir(ROOT, b"dir", 0o1750, USER)
    assert fs.getattr(ino)[:6] == (stat.S_IFDIR | 0o1750, 2, USER.uid, USER.gid, 0, 40)
    assert fs.getattr(ROOT).nlink == 3
    fs.mkdir(ino, b"below")
    assert fs.getattr(ino).nlink == 3 and fs.getattr(ROOT).nlink == 3
    assert fs.lookup(ino, b"..") == ROOT and fs.lookup(ino, b".") == ino


@pytest.mark.parametrize("length", [1, 47, 48, 49, 2048, 4095])
def test_symlink(fs: Driver, length: int) -> None:
    target = bytes(1 + i % 255 for i in range(length))
    ino = fs.symlink(ROOT, b"link", target, USER)
    assert fs.readlink(ino) == target
    assert fs.getattr(ino)[:6] == (stat.S_IFLNK | 0o777, 1, USER.uid, USER.gid, 0, length)


def test_symlink_refuses_what_is_too_long_or_empty(fs: Driver) -> None:
    with refused(errno.ENAMETOOLONG):
        fs.symlink(ROOT, b"link", b"t" * 4096)
    with refused(errno.ENOENT):
        fs.symlink(ROOT, b"link", b"")
    with refused(errno.EINVAL):
        fs.readlink(fs.create(ROOT, b"file"))


def test_setgid_directory(fs: Driver) -> None:
    parent = fs.mkdir(ROOT, b"dir", 0o2775, Cred(5, 50))
    assert fs.getattr(fs.create(parent, b"file", 0o600, USER))[:4] == (stat.S_IFREG | 0o600, 1, USER.uid, 50)
    assert fs.getattr(fs.mkdir(parent, b"sub", 0o700, USER))[:4] == (stat.S_IFDIR | 0o2700, 2, USER.uid, 50)
    assert fs.getattr(fs.symlink(parent, b"link", b"t", USER)).gid == 50


def test_every_maker_refuses_alike(fs: Driver) -> None:
    gone = fs.mkdir(ROOT, b"gone")
    fs.rmdir(ROOT, b"gone")
    file = fs.create(ROOT, b"there")
    makers = [fs.create, fs.mkdir, lambda dino, name: fs.mknod(dino, name, stat.S_IFIFO),
              lambda dino, name: fs.symlink(dino, name, b"t"), lambda dino, name: fs.link(file, dino, name)]
    for make in makers:
        for dino, name, number in ((ROOT, b"there", errno.EEXIST), (ROOT, b"n" * 256, errno.ENAMETOOLONG),
                                   (gone, b"new", errno.ENOENT), (file, b"new", errno.ENOTDIR)):
            with refused(number):
                make(dino, name)


def test_generations_differ_where_numbers_return(fs: Driver) -> None:
    seen = set()
    for _ in range(5):
        ino = fs.create(ROOT, b"a")
        seen.add((ino, fs.getattr(ino).generation))
        fs.unlink(ROOT, b"a")
        fs.forget(ino)
    assert len(seen) == 5 and len({ino for ino, _generation in seen}) == 1


def test_metadata_of_an_empty_file_is_small(make_fs) -> None:
    fs = make_fs("roomy")
    for i in range(5000):
        fs.forget(fs.create(ROOT, b"name-%08d" % i, 0o644, CRED))
    assert fs.mp.status()["used_bytes"] <= 5000 * 256
