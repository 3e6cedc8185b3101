"""link, unlink, rmdir, lookup and forget: the life of names and nodes."""

import errno
import stat

import pytest

from tests.fs.fslib import CRED, ROOT, Driver, refused
from tmpfsd.tmpfs import layout, vnops
from tmpfsd.tmpfs.layout import NLOOKUP_MAX

LENGTHS = [1, 32, 33, 255]


@pytest.mark.parametrize("second", LENGTHS)
@pytest.mark.parametrize("first", LENGTHS)
@pytest.mark.parametrize("gone_first", [0, 1])
def test_two_names(fs: Driver, first: int, second: int, gone_first: int) -> None:
    names = [b"a" * first, b"b" * second]
    ino = fs.create(ROOT, names[0])
    assert fs.link(ino, ROOT, names[1]) == ino
    assert fs.getattr(ino).nlink == 2 and fs.getattr(ROOT).size == 80
    fs.check()
    fs.unlink(ROOT, names.pop(gone_first))
    assert fs.getattr(ino).nlink == 1 and fs.entries(ROOT) == {names[0]: ino}
    fs.check()
    # The node may keep a name again.
    fs.link(ino, ROOT, b"third")
    assert fs.entries(ROOT) == {names[0]: ino, b"third": ino}


def test_link_is_of_any_type_but_directories(fs: Driver) -> None:
    for i, ino in enumerate((fs.symlink(ROOT, b"s", b"t"), fs.mknod(ROOT, b"f", stat.S_IFIFO), fs.create(ROOT, b"c"))):
        fs.link(ino, ROOT, b"link-%d" % i)
    with refused(errno.EPERM):
        fs.link(fs.mkdir(ROOT, b"d"), ROOT, b"new")


def test_link_of_a_removed_file_and_of_too_many(fs: Driver) -> None:
    ino = fs.create(ROOT, b"a")
    at = fs.mp.mem.node_w(ino)
    layout.set_tn_links(fs.mp.arena, at, vnops.LINK_MAX)
    with refused(errno.EMLINK):
        vnops.link(fs.mp, ino, ROOT, b"b")
    layout.set_tn_links(fs.mp.arena, fs.mp.mem.node_w(ino), 1)
    fs.unlink(ROOT, b"a")
    with refused(errno.ENOENT):
        fs.link(ino, ROOT, b"b")


def test_unlink_refuses(fs: Driver) -> None:
    fs.mkdir(ROOT, b"d")
    for name, number in ((b"d", errno.EISDIR), (b"none", errno.ENOENT), (b"n" * 256, errno.ENAMETOOLONG)):
        with refused(number):
            fs.unlink(ROOT, name)


def test_rmdir_refuses(fs: Driver) -> None:
    parent = fs.mkdir(ROOT, b"d")
    fs.create(parent, b"f")
    for dino, name, number in ((ROOT, b"d", errno.ENOTEMPTY), (parent, b"f", errno.ENOTDIR),
                               (ROOT, b"none", errno.ENOENT)):
        with refused(number):
            fs.rmdir(dino, name)


def test_rmdir(fs: Driver) -> None:
    ino = fs.mkdir(ROOT, b"d")
    fs.mp.now = lambda: 7 * 10 ** 18
    fs.rmdir(ROOT, b"d")
    assert fs.getattr(ROOT).nlink == 2 and fs.getattr(ino).nlink == 0
    assert fs.getattr(ROOT).mtime_ns == fs.getattr(ino).ctime_ns == 7 * 10 ** 18
    assert not fs.lookup(ROOT, b"d")


def test_unlink_touches_times(fs: Driver) -> None:
    ino = fs.create(ROOT, b"a")
    fs.link(ino, ROOT, b"b")
    mtime = fs.getattr(ino).mtime_ns
    fs.mp.now = lambda: 7 * 10 ** 18
    fs.unlink(ROOT, b"a")
    assert fs.getattr(ino).ctime_ns == fs.getattr(ROOT).mtime_ns == fs.getattr(ROOT).ctime_ns == 7 * 10 ** 18
    assert fs.getattr(ino).mtime_ns == mtime


@pytest.mark.parametrize("size", [0, 40, 1000, 100_000])
def test_a_removed_file_lives_while_it_is_known(fs: Driver, size: int) -> None:
    ino = fs.create(ROOT, b"a")
    fs.setxattr(ino, b"user.a", b"v" * 5000)
    fs.write(ino, 0, b"x" * size)
    fs.unlink(ROOT, b"a")
    nodes = fs.mp.mem.nodes.nitems
    fs.write(ino, size, b"y" * 5000)
    fs.check()
    assert fs.read(ino, 0, size + 5000) == b"x" * size + b"y" * 5000
    fs.forget(ino)
    assert fs.mp.mem.nodes.nitems == nodes - 1
    fs.check()


def test_references_are_counted(fs: Driver) -> None:
    ino = fs.create(ROOT, b"a")
    for _ in range(5):
        assert fs.lookup(ROOT, b"a") == ino
    fs.unlink(ROOT, b"a")
    fs.forget(ino, 3)
    fs.forget(ino, 2)
    assert fs.mp.mem.nodes.is_held(ino - 1)
    fs.forget(ino, 1)
    assert not fs.mp.mem.nodes.is_held(ino - 1)


def test_unlink_of_a_file_the_kernel_does_not_know_ends_it(fs: Driver) -> None:
    ino = fs.create(ROOT, b"a")
    fs.write(ino, 0, b"x" * 10_000)
    fs.forget(ino)
    fs.unlink(ROOT, b"a")
    assert fs.counts()["nodes"] == fs.start["nodes"]


def test_too_many_references_stick(fs: Driver) -> None:
    ino = fs.create(ROOT, b"a")
    word = fs.mp.mem.nlookup_word(ino)
    fs.mp.mem.u32[word] = NLOOKUP_MAX - 1
    fs.lookup(ROOT, b"a")
    fs.lookup(ROOT, b"a")
    fs.mp.breathe()
    assert fs.mp.mem.u32[fs.mp.mem.nlookup_word(ino)] == NLOOKUP_MAX
    fs.forget(ino, 1000)
    assert fs.mp.mem.u32[fs.mp.mem.nlookup_word(ino)] == NLOOKUP_MAX
    fs.mp.mem.u32[fs.mp.mem.nlookup_word(ino)] = 1
    fs.refs[ino] = 1


def test_lookup(fs: Driver) -> None:
    parent = fs.mkdir(ROOT, b"d")
    ino = fs.create(parent, b"f", 0o600, CRED)
    assert fs.lookup(parent, b"f") == ino
    assert fs.lookup(ROOT, b"f") == 0 == fs.lookup(parent, b"")
    with refused(errno.ENAMETOOLONG):
        fs.lookup(ROOT, b"n" * 256)
    assert fs.lookup(ROOT, b"..") == ROOT == fs.lookup(ROOT, b".")
    assert fs.lookup(ino, b".") == ino


def test_dot_of_a_node_that_is_gone_is_stale(fs: Driver) -> None:
    ino = fs.create(ROOT, b"a")
    fs.unlink(ROOT, b"a")
    fs.forget(ino)
    with refused(errno.ESTALE):
        fs.lookup(ino, b".")
    with refused(errno.ESTALE):
        fs.lookup(1 << 30, b".")


def test_dotdot_of_a_removed_directory(fs: Driver) -> None:
    parent = fs.mkdir(ROOT, b"p")
    below = fs.mkdir(parent, b"d")
    fs.rmdir(parent, b"d")
    fs.rmdir(ROOT, b"p")
    fs.forget(parent)
    with refused(errno.ENOENT, errno.ESTALE):
        fs.lookup(below, b"..")
    # The parent's number is another node now.
    assert fs.mkdir(ROOT, b"new") == parent
    with refused(errno.ENOENT, errno.ESTALE):
        fs.lookup(below, b"..")


def test_lookup_in_a_file_is_refused(fs: Driver) -> None:
    ino = fs.create(ROOT, b"f")
    fs.write(ino, 0, b"\x01\x00\x00\x08" * 5)
    with refused(errno.ENOTDIR):
        fs.lookup(ino, b"name")
