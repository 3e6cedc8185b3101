"""Extended attributes: sizes, flags, name spaces, the tree of many."""

import errno
import random
from itertools import permutations
from typing import Callable

import pytest

from tests import failpoints
from tests.fs.fslib import CRED, ROOT, USER, Driver, refused
from tmpfsd.pool.strings import CLASSES, TREE
from tmpfsd.tmpfs import layout, vnops, xattr
from tmpfsd.tmpfs.directory import Directories
from tmpfsd.tmpfs.filesystem import Mount
from tmpfsd.uvm.param import PAGE_SIZE

SIZES = [0, 1, 100, 2020, 2027, 2028, 2029, 2048, 2049, 4095, 4096, 4097, 8192, 30_000, 65_535, 65_536]
CREATE, REPLACE = 1, 2


@pytest.mark.parametrize("name", [b"user.a", b"user." + b"n" * 250], ids=len)
def test_sizes(fs: Driver, name: bytes) -> None:
    ino = fs.create(ROOT, b"a")
    for size in SIZES:
        value = random.Random(size).randbytes(size)
        fs.setxattr(ino, name, value)
        assert fs.getxattr(ino, name) == value
        fs.check()
    fs.setxattr(ino, name, b"")
    assert fs.getxattr(ino, name) == b"" and fs.listxattr(ino) == [name]
    with refused(errno.E2BIG):
        fs.setxattr(ino, name, bytes(65_537))


@pytest.mark.parametrize("old", SIZES[::3])
def test_replacing_gives_the_old_back(fs: Driver, old: int) -> None:
    ino = fs.create(ROOT, b"a")
    for new in SIZES[::2]:
        before = fs.counts()["strings"]
        fs.setxattr(ino, b"user.a", bytes(old))
        fs.setxattr(ino, b"user.a", bytes(new))
        fs.removexattr(ino, b"user.a")
        assert fs.counts()["strings"] == before


def test_flags(fs: Driver) -> None:
    ino = fs.create(ROOT, b"a")
    with refused(errno.ENODATA):
        fs.setxattr(ino, b"user.a", b"v", REPLACE)
    fs.setxattr(ino, b"user.a", b"v", CREATE)
    with refused(errno.EEXIST):
        fs.setxattr(ino, b"user.a", b"w", CREATE)
    fs.setxattr(ino, b"user.a", b"x", REPLACE)
    assert fs.getxattr(ino, b"user.a") == b"x"
    for operation in (fs.getxattr, fs.removexattr):
        with refused(errno.ENODATA):
            operation(ino, b"user.none")


@pytest.mark.parametrize("order", list(permutations(range(4)))[::3])
def test_removal_in_any_order(fs: Driver, order: tuple[int, ...]) -> None:
    ino = fs.mkdir(ROOT, b"a")
    kept = {b"user.%d" % i: bytes([i]) * (1 + i * 2500) for i in range(4)}
    for name, value in kept.items():
        fs.setxattr(ino, name, value)
    for i in order:
        fs.removexattr(ino, b"user.%d" % i)
        del kept[b"user.%d" % i]
        assert {name: fs.getxattr(ino, name) for name in fs.listxattr(ino)} == kept
        fs.check()


@pytest.mark.parametrize("seed", range(3))
def test_against_a_dict(fs: Driver, seed: int) -> None:
    rng = random.Random(seed)
    ino = fs.create(ROOT, b"a")
    model: dict[bytes, bytes] = {}
    for step in range(600 if fs.roomy else 150):
        name = b"user.%d" % rng.randrange(80)
        if rng.random() < (0.4 if step % 300 < 150 else 0.7) and model:
            name = rng.choice(list(model))
            fs.removexattr(ino, name)
            del model[name]
        elif rng.random() < 0.9:
            model[name] = rng.randbytes(rng.choice((0, 5, 200, 3000)))
            fs.setxattr(ino, name, model[name])
        else:
            number = errno.EEXIST if name in model else errno.ENODATA
            with refused(number):
                fs.setxattr(ino, name, b"v", CREATE if name in model else REPLACE)
        if step % 30 == 0:
            assert {name: fs.getxattr(ino, name) for name in fs.listxattr(ino)} == model
            fs.check()
    fs.forget_all()
    fs.unlink(ROOT, b"a")
    fs.reap_all()
    assert fs.counts()["strings"] == fs.start["strings"]


def depth(mp: Mount, ino: int) -> int:
    """Steps from the topmost attribute of a node to the lowest."""
    def below(handle: int) -> int:
        return 1 + max(map(below, layout.tx_below(mp.arena, mp.mem.string(handle)))) if handle else 0
    return below(layout.tn_xattr(mp.arena, mp.mem.node(ino)))


def test_the_way_to_one_of_many_is_short(make_fs: Callable[..., Driver]) -> None:
    """Also after they were removed and set in the order in which they are listed."""
    fs = make_fs()
    ino = fs.create(ROOT, b"a")
    for i in range(3000):
        fs.setxattr(ino, b"user.%d" % i, b"v")
    assert depth(fs.mp, ino) <= 40
    fs.check()
    names = vnops.listxattr(fs.mp, ino, CRED)
    for name in names[:2000]:
        fs.removexattr(ino, name)
    for name in names[:2000]:
        fs.setxattr(ino, name, b"w")
    assert depth(fs.mp, ino) <= 40 and len(fs.listxattr(ino)) == 3000


def test_names_whose_hashes_are_alike(monkeypatch: pytest.MonkeyPatch, fs: Driver) -> None:
    failpoints.interpreted_only()
    monkeypatch.setattr(Directories, "bits", lambda self, name: name[-1] & 1)
    ino = fs.create(ROOT, b"a")
    names = [b"user.%d" % i for i in range(90)]
    for name in names:
        fs.setxattr(ino, name, name)
    fs.check()
    for name in names[::3]:
        fs.removexattr(ino, name)
    fs.check()
    assert all(fs.getxattr(ino, name) == name for name in names if names.index(name) % 3)


def test_names_that_a_list_has_no_room_for(make_fs: Callable[..., Driver]) -> None:
    fs = make_fs()
    ino = fs.create(ROOT, b"a")
    for i in range(256):
        fs.setxattr(ino, b"user." + (b"%d" % i).rjust(250 if i < 255 else 249, b"n"), b"v")
    listed = sum(len(name) + 1 for name in fs.listxattr(ino))
    assert listed == 65_535
    for name in (b"user.a", b"trusted.t"):
        with refused(errno.ENOSPC):
            fs.setxattr(ino, name, b"v")
    fs.setxattr(ino, fs.listxattr(ino)[0], b"another value of one that is there")
    fs.removexattr(ino, fs.listxattr(ino)[9])
    fs.setxattr(ino, b"user.a", b"v")
    fs.check()


@pytest.mark.parametrize("most", (1, 7))
def test_removed_in_slices(fs: Driver, most: int) -> None:
    ino = fs.create(ROOT, b"a")
    for i in range(30):
        fs.setxattr(ino, b"user.%d" % i, bytes(i * 300))
    for left in range(30 - most, -most, -most):
        assert xattr.remove_some(fs.mp, ino, most) == (left > 0)
        assert len(fs.listxattr(ino)) == max(left, 0)
        fs.check()
    assert not xattr.remove_some(fs.mp, ino, most)


def test_many(fs: Driver) -> None:
    ino = fs.create(ROOT, b"a")
    names = [b"user.%03d" % i for i in range(100 if fs.roomy else 40)]
    for name in names:
        fs.setxattr(ino, name, name * 20)
    assert fs.listxattr(ino) == names
    assert all(fs.getxattr(ino, name) == name * 20 for name in names)
    fs.unlink(ROOT, b"a")
    fs.forget(ino)
    fs.reap_all()
    assert fs.counts()["strings"] == fs.start["strings"]


BAD_NAMES = {b"user.": errno.EINVAL, b"trusted.": errno.EINVAL, b"": errno.ERANGE, b"user." + b"n" * 251: errno.ERANGE,
             b"system.x": errno.EOPNOTSUPP, b"nodot": errno.EOPNOTSUPP, b"users.x": errno.EOPNOTSUPP,
             b"system.posix_acl_access": errno.EOPNOTSUPP}


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_are_refused(fs: Driver, name: bytes) -> None:
    ino = fs.create(ROOT, b"a")
    for operation in (lambda: fs.setxattr(ino, name, b"v"), lambda: fs.getxattr(ino, name),
                      lambda: fs.removexattr(ino, name)):
        with refused(BAD_NAMES[name]):
            operation()


def test_trusted_names_are_for_the_privileged(fs: Driver) -> None:
    ino = fs.create(ROOT, b"a")
    names = [b"security.s", b"trusted.t", b"user.u"]
    for name in names:
        fs.setxattr(ino, name, b"v")
    assert fs.listxattr(ino, CRED) == names
    assert fs.listxattr(ino, USER) == [b"security.s", b"user.u"]


def test_labels_are_not_supported_before_there_is_one(fs: Driver) -> None:
    """So ls -l asks once, not for each entry."""
    one, other, label = fs.create(ROOT, b"a"), fs.create(ROOT, b"b"), b"security.selinux"
    with refused(errno.EOPNOTSUPP):
        fs.getxattr(one, label)
    with refused(errno.ENODATA):
        fs.getxattr(one, b"security.s")
    with refused(errno.ENODATA):
        fs.removexattr(one, label)
    fs.setxattr(one, label, b"system_u:object_r:tmp_t:s0")
    assert fs.getxattr(one, label) == b"system_u:object_r:tmp_t:s0"
    with refused(errno.ENODATA):
        fs.getxattr(other, label)
    fs.removexattr(one, label)
    with refused(errno.ENODATA):
        fs.getxattr(one, label)


def test_option_noxattr(make_fs: Callable[..., Driver]) -> None:
    fs = make_fs(xattr=False)
    with refused(errno.EOPNOTSUPP):
        fs.setxattr(ROOT, b"user.a", b"v")


def test_ctime(fs: Driver) -> None:
    ino = fs.create(ROOT, b"a")
    mtime = fs.getattr(ino).mtime_ns
    for now, change in ((10 ** 18, lambda: fs.setxattr(ino, b"user.a", b"v")),
                        (2 * 10 ** 18, lambda: fs.removexattr(ino, b"user.a"))):
        fs.mp.now = lambda now=now: now
        change()
        assert fs.getattr(ino)[8:10] == (mtime, now)


def test_a_page_of_a_value_is_no_page_of_an_index(fs: Driver) -> None:
    """Else values that fill `ram` would get as many lives as the pages of the trees."""
    vm, strings = fs.mp.vm, fs.mp.mem.strings
    ino = fs.create(ROOT, b"file")
    fs.setxattr(ino, b"user.big", bytes(20_000))
    assert strings.pools[CLASSES.index(PAGE_SIZE)].npages == 5 and not strings.pools[TREE].npages
    lives = {pool.name: vm.daemon.lives_of[pool.owner] for pool in fs.mp.mem.pools()}
    assert {name for name, n in lives.items() if n} == {"nlookup", "tree"}
