"""rename: every kind over every kind, long and short names, flags, loops."""

import errno
import stat
from itertools import product

import pytest

from tests.fs.fslib import ROOT, Driver, refused

NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4
NAMES = {"short": b"s", "inline": b"i" * 32, "long": b"l" * 33, "longest": b"L" * 255}
PAIRS = list(product(NAMES, NAMES))


def make(fs: Driver, kind: str, dino: int, name: bytes) -> int:
    """A node of a kind under a name; `hard` keeps its inner name for another entry, `bare` has no inner name."""
    if kind == "dir":
        return fs.mkdir(dino, name)
    if kind == "full":
        ino = fs.mkdir(dino, name)
        fs.create(ino, b"in")
        return ino
    if kind == "hard":
        ino = fs.create(dino, b"other-of-" + name[:5])
        return fs.link(ino, dino, name)
    return fs.create(dino, name)


KINDS = ("file", "hard", "dir", "full")


@pytest.mark.parametrize("apart", [False, True], ids=["same", "apart"])
@pytest.mark.parametrize("there", (None, *KINDS))
@pytest.mark.parametrize("moved", KINDS)
def test_every_kind_over_every_kind(fs: Driver, moved: str, there: str | None, apart: bool) -> None:
    for case, (old, new) in enumerate(PAIRS[::3] if fs.roomy else PAIRS[::7]):
        one = fs.mkdir(ROOT, b"one-%d" % case)
        two = fs.mkdir(ROOT, b"two-%d" % case) if apart else one
        name, nname = b"from-" + NAMES[old][:-5], b"to-" + NAMES[new][:-3]
        ino = make(fs, moved, one, name)
        target = make(fs, there, two, nname) if there else 0
        is_dir, over_dir = moved in ("dir", "full"), there in ("dir", "full")
        number = 0 if not there else errno.ENOTDIR if is_dir > over_dir else errno.EISDIR if over_dir > is_dir \
            else errno.ENOTEMPTY if there == "full" else 0
        before = fs.dump()
        if number:
            with refused(number):
                fs.rename(one, name, two, nname)
            assert fs.dump() == before
            continue
        fs.rename(one, name, two, nname)
        assert fs.lookup(two, nname) == ino and not fs.lookup(one, name)
        assert fs.getattr(one).nlink == 2 + (is_dir and not apart)
        assert fs.getattr(two).nlink == 2 + is_dir
        if target:
            assert fs.getattr(target).nlink == (there == "hard")
        if is_dir:
            assert fs.lookup(ino, b"..") == two
        fs.check()


@pytest.mark.parametrize("apart", [False, True], ids=["same", "apart"])
@pytest.mark.parametrize("second", KINDS)
@pytest.mark.parametrize("first", KINDS)
def test_exchange(fs: Driver, first: str, second: str, apart: bool) -> None:
    for case, (old, new) in enumerate(PAIRS[::3] if fs.roomy else PAIRS[::7]):
        one = fs.mkdir(ROOT, b"one-%d" % case)
        two = fs.mkdir(ROOT, b"two-%d" % case) if apart else one
        name, nname = b"from-" + NAMES[old][:-5], b"to-" + NAMES[new][:-3]
        a, b = make(fs, first, one, name), make(fs, second, two, nname)
        sizes = fs.getattr(one).size, fs.getattr(two).size
        fs.rename(one, name, two, nname, EXCHANGE)
        assert (fs.lookup(one, name), fs.lookup(two, nname)) == (b, a)
        assert (fs.getattr(one).size, fs.getattr(two).size) == sizes
        subdirs = [kind in ("dir", "full") for kind in (second, first)]
        if apart:
            assert (fs.getattr(one).nlink, fs.getattr(two).nlink) == (2 + subdirs[0], 2 + subdirs[1])
        fs.check()
        fs.rename(two, nname, one, name, EXCHANGE)
        assert (fs.lookup(one, name), fs.lookup(two, nname)) == (a, b)
        fs.check()


def test_two_names_of_one_node(fs: Driver) -> None:
    ino = fs.create(ROOT, b"a")
    fs.link(ino, ROOT, b"b")
    for flags in (0, EXCHANGE):
        fs.rename(ROOT, b"a", ROOT, b"b", flags)
        assert fs.entries(ROOT) == {b"a": ino, b"b": ino}
    with refused(errno.EEXIST):
        fs.rename(ROOT, b"a", ROOT, b"b", NOREPLACE)
    fs.rename(ROOT, b"a", ROOT, b"a")
    assert fs.getattr(ino).nlink == 2


def test_noreplace(fs: Driver) -> None:
    ino, other = fs.create(ROOT, b"a"), fs.create(ROOT, b"b")
    with refused(errno.EEXIST):
        fs.rename(ROOT, b"a", ROOT, b"b", NOREPLACE)
    assert fs.entries(ROOT) == {b"a": ino, b"b": other}
    fs.rename(ROOT, b"a", ROOT, b"c", NOREPLACE)
    assert fs.entries(ROOT) == {b"c": ino, b"b": other}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("there", [False, True])
def test_whiteout(fs: Driver, name: bytes, there: bool) -> None:
    parent = fs.mkdir(ROOT, b"d")
    ino = fs.create(ROOT, name)
    if there:
        fs.create(parent, b"new")
    fs.rename(ROOT, name, parent, b"new", WHITEOUT)
    white = fs.lookup(ROOT, name)
    assert fs.getattr(white)[:6] == (stat.S_IFCHR, 1, 0, 0, 0, 0)
    assert fs.lookup(parent, b"new") == ino


def test_whiteout_within_a_directory_and_noreplace(fs: Driver) -> None:
    ino = fs.create(ROOT, b"a")
    fs.rename(ROOT, b"a", ROOT, b"b", WHITEOUT | NOREPLACE)
    assert fs.lookup(ROOT, b"b") == ino and stat.S_ISCHR(fs.getattr(fs.lookup(ROOT, b"a")).mode)


def test_flags_that_make_no_sense(fs: Driver) -> None:
    fs.create(ROOT, b"a")
    for flags in (8, EXCHANGE | NOREPLACE, EXCHANGE | WHITEOUT):
        with refused(errno.EINVAL):
            fs.rename(ROOT, b"a", ROOT, b"b", flags)
    with refused(errno.ENOENT):
        fs.rename(ROOT, b"a", ROOT, b"b", EXCHANGE)
    with refused(errno.ENOENT):
        fs.rename(ROOT, b"none", ROOT, b"b")
    for name, nname in ((b"n" * 256, b"b"), (b"a", b"n" * 256)):
        with refused(errno.ENAMETOOLONG):
            fs.rename(ROOT, name, ROOT, nname)


def test_loops(fs: Driver) -> None:
    a = fs.mkdir(ROOT, b"a")
    b = fs.mkdir(a, b"b")
    c = fs.mkdir(b, b"c")
    before = fs.dump()
    for dino, name, ndino, nname, flags, number in (
            (ROOT, b"a", a, b"x", 0, errno.EINVAL), (ROOT, b"a", c, b"x", 0, errno.EINVAL),
            (ROOT, b"a", b, b"c", EXCHANGE, errno.EINVAL), (b, b"c", ROOT, b"a", EXCHANGE, errno.EINVAL),
            (b, b"c", ROOT, b"a", 0, errno.ENOTEMPTY), (a, b"b", ROOT, b"a", 0, errno.ENOTEMPTY)):
        with refused(number):
            fs.rename(dino, name, ndino, nname, flags)
    assert fs.dump() == before


def test_into_a_removed_directory(fs: Driver) -> None:
    gone = fs.mkdir(ROOT, b"gone")
    fs.rmdir(ROOT, b"gone")
    fs.create(ROOT, b"a")
    with refused(errno.ENOENT):
        fs.rename(ROOT, b"a", gone, b"b")


@pytest.mark.timeout(10)
def test_a_directory_into_a_removed_directory_whose_parent_is_gone(fs: Driver) -> None:
    fs.mkdir(ROOT, b"d")
    parent = fs.mkdir(ROOT, b"p")
    gone = fs.mkdir(parent, b"gone")
    fs.rmdir(parent, b"gone")
    fs.rmdir(ROOT, b"p")
    fs.forget(parent)
    with refused(errno.ENOENT):
        fs.rename(ROOT, b"d", gone, b"b")


def test_times(fs: Driver) -> None:
    one, two = fs.mkdir(ROOT, b"one"), fs.mkdir(ROOT, b"two")
    ino = fs.create(one, b"a")
    mtime = fs.getattr(ino).mtime_ns
    fs.mp.now = lambda: 7 * 10 ** 18
    fs.rename(one, b"a", two, b"b")
    for changed in (one, two):
        assert fs.getattr(changed)[8:10] == (7 * 10 ** 18,) * 2
    assert fs.getattr(ino).ctime_ns == 7 * 10 ** 18 and fs.getattr(ino).mtime_ns == mtime


def test_replacing_ends_the_node(fs: Driver) -> None:
    fs.create(ROOT, b"a")
    other = fs.create(ROOT, b"b")
    fs.write(other, 0, b"x" * 50_000)
    fs.forget(other)
    nodes, pages = fs.mp.mem.nodes.nitems, fs.mp.vm.npages
    fs.rename(ROOT, b"a", ROOT, b"b")
    assert fs.mp.mem.nodes.nitems == nodes - 1 and fs.mp.vm.npages <= pages - 13


def test_what_is_not_there_goes_nowhere(fs: Driver) -> None:
    other = fs.mkdir(ROOT, b"other")
    before = fs.dump()
    for directory in (ROOT, other):
        with refused(errno.ENOENT):
            fs.rename(ROOT, b"nothing", directory, b"new")
    with refused(errno.ENOTDIR):
        fs.rename(fs.create(ROOT, b"file"), b"a", ROOT, b"b")
    fs.unlink(ROOT, b"file")
    fs.forget_all()
    assert set(fs.dump()) == set(before)
