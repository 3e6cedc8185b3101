"""The n-th page, item or page-in of each operation fails, for every n until it succeeds: nothing has changed."""

import errno
import itertools
import os
import stat
from contextlib import suppress
from typing import Any, Callable

import pytest

from tests import failpoints
from tests.fs.fslib import CRED, POINTS, ROOT, Driver, failing
from tmpfsd.tmpfs import node, vnops
from tmpfsd.tmpfs.acl import ACCESS, DEFAULT, GROUP_OBJ, MASK, OTHER, USER, USER_OBJ, encode
from tmpfsd.uvm.errors import NoMemory, SwapIOError, VmError

LONG = b"l" * 100
NOBODY = (1 << 32) - 1
ENTRIES = [(USER_OBJ, 7, NOBODY), (USER, 6, 1000), (GROUP_OBJ, 5, NOBODY), (MASK, 6, NOBODY), (OTHER, 1, NOBODY)]
ACL = encode(ENTRIES)
ERRNO = {"page": errno.ENOSPC, "data": errno.ENOSPC, "item": errno.ENOSPC, "pagein": errno.EIO}
NAMES = [b"name-%02d" % i for i in range(12)]


class Scene:
    """A small tree with one of everything, and trees that are about to split or merge."""

    def __init__(self, fs: Driver) -> None:
        self.fs = fs
        self.dir, self.other = fs.mkdir(ROOT, b"dir"), fs.mkdir(ROOT, b"other")
        self.file = fs.create(self.dir, b"file")
        fs.write(self.file, 0, b"x" * 40)
        self.packed = fs.create(self.dir, b"packed")
        fs.write(self.packed, 0, b"p" * 1000)
        self.big = fs.create(self.dir, b"big")
        for page in range(0, 40, 2):
            fs.write(self.big, page << 12, b"b" * 4096)
        self.linked = fs.create(self.dir, b"linked")
        fs.link(self.linked, self.other, b"second")
        self.longname = fs.create(self.dir, LONG)
        self.link = fs.symlink(self.dir, b"symlink", b"t" * 500)
        self.sub = fs.mkdir(self.dir, b"sub")
        self.othersub = fs.mkdir(self.other, b"othersub")
        for name in (b"user.one", b"user.two", b"user.three"):
            fs.setxattr(self.file, name, name * 100)
        fs.setxattr(self.file, b"user.big", b"v" * 60_000)
        for name in NAMES:
            fs.create(self.other, name)
        if fs.mp.acl:
            fs.setxattr(self.linked, ACCESS, ACL)
            fs.setxattr(self.othersub, DEFAULT, ACL)


Case = Callable[[Scene], Any]
CASES: dict[str, Case] = {
    "create": lambda s: s.fs.create(s.other, b"new"),
    "create-long": lambda s: s.fs.create(s.other, LONG),
    "create-first": lambda s: s.fs.create(s.sub, b"new"),
    "mknod": lambda s: s.fs.mknod(s.other, b"new", stat.S_IFCHR | 0o600, 5),
    "mkdir": lambda s: s.fs.mkdir(s.other, b"new"),
    "symlink": lambda s: s.fs.symlink(s.other, LONG, b"t" * 3000),
    "link": lambda s: s.fs.link(s.file, s.other, b"new"),
    "link-long": lambda s: s.fs.link(s.file, s.other, LONG),
    "lookup": lambda s: s.fs.lookup(s.dir, b"linked"),
    "rename": lambda s: s.fs.rename(s.dir, b"file", s.other, b"new"),
    "rename-to-long": lambda s: s.fs.rename(s.dir, b"file", s.other, LONG),
    "rename-from-long": lambda s: s.fs.rename(s.dir, LONG, s.other, b"short"),
    "rename-dir": lambda s: s.fs.rename(s.dir, b"sub", s.other, b"new"),
    "rename-over": lambda s: s.fs.rename(s.dir, b"file", s.other, b"second"),
    "rename-over-long": lambda s: s.fs.rename(s.dir, b"file", s.dir, LONG),
    "rename-over-dir": lambda s: s.fs.rename(s.dir, b"sub", s.other, b"othersub"),
    "rename-second": lambda s: s.fs.rename(s.other, b"second", s.dir, b"new"),
    "exchange": lambda s: s.fs.rename(s.dir, LONG, s.other, b"second", 2),
    "exchange-dirs": lambda s: s.fs.rename(s.dir, b"file", s.other, b"othersub", 2),
    "whiteout": lambda s: s.fs.rename(s.dir, b"file", s.other, LONG, 4),
    "whiteout-over": lambda s: s.fs.rename(s.dir, LONG, s.other, b"second", 4),
    "write-inline": lambda s: s.fs.write(s.file, 40, b"y" * 8),
    "write-to-string": lambda s: s.fs.write(s.file, 40, b"y" * 100),
    "write-string-grows": lambda s: s.fs.write(s.packed, 1000, b"y" * 500),
    "write-to-pages": lambda s: s.fs.write(s.packed, 0, b"y" * 3000),
    "write-hole": lambda s: s.fs.write(s.big, 3 << 12, b"y" * 100),
    "write-far": lambda s: s.fs.write(s.big, 1 << 40, b"y" * 100),
    "write-over": lambda s: s.fs.write(s.big, 4 << 12, b"y" * 100),
    "read": lambda s: s.fs.read(s.big, 0, 100_000),
    "read-packed": lambda s: s.fs.read(s.packed, 0, 100_000),
    "readlink": lambda s: s.fs.readlink(s.link),
    "grow": lambda s: s.fs.truncate(s.file, 2000),
    "grow-to-pages": lambda s: s.fs.truncate(s.packed, 5000),
    "shrink-packed": lambda s: s.fs.truncate(s.packed, 10),
    "empty-packed": lambda s: s.fs.truncate(s.packed, 0),
    "setattr": lambda s: s.fs.setattr(s.file, mode=0o600, uid=5, gid=6, atime_ns=1, mtime_ns=2),
    "setattr-size": lambda s: s.fs.setattr(s.file, mode=0o600, size=2000),
    "getattr": lambda s: s.fs.getattr(s.file),
    "setxattr": lambda s: s.fs.setxattr(s.file, b"user.new", b"v" * 100),
    "setxattr-big": lambda s: s.fs.setxattr(s.file, b"user.new", b"v" * 65536),
    "replace-first": lambda s: s.fs.setxattr(s.file, b"user.big", b"v" * 50),
    "replace-last": lambda s: s.fs.setxattr(s.file, b"user.one", b"v" * 5000),
    "removexattr-first": lambda s: s.fs.removexattr(s.file, b"user.big"),
    "removexattr-middle": lambda s: s.fs.removexattr(s.file, b"user.two"),
    "removexattr-last": lambda s: s.fs.removexattr(s.file, b"user.one"),
    "getxattr": lambda s: s.fs.getxattr(s.file, b"user.big"),
    "listxattr": lambda s: s.fs.listxattr(s.file),
    "unlink": lambda s: s.fs.unlink(s.other, NAMES[7]),
    "unlink-second": lambda s: s.fs.unlink(s.other, b"second"),
    "unlink-long": lambda s: s.fs.unlink(s.dir, LONG),
    "rmdir": lambda s: s.fs.rmdir(s.dir, b"sub"),
    "acl": lambda s: s.fs.setxattr(s.file, ACCESS, ACL),
    "acl-minimal": lambda s: s.fs.setxattr(s.linked, ACCESS, encode([ENTRIES[0], ENTRIES[2], ENTRIES[4]])),
    "acl-default": lambda s: s.fs.setxattr(s.dir, DEFAULT, ACL),
    "acl-chmod": lambda s: s.fs.setattr(s.linked, mode=0o421),
    "acl-create": lambda s: s.fs.create(s.othersub, b"new", 0o666),
    "acl-mkdir": lambda s: s.fs.mkdir(s.othersub, b"new", 0o777),
    "create-trunc": lambda s: s.fs.open(s.packed, os.O_TRUNC),
}


@pytest.mark.parametrize("case, point", list(itertools.product(CASES, POINTS)))
def test_nothing_has_changed(make_fs: Callable[..., Driver], case: str, point: str) -> None:
    nothing_has_changed(lambda: make_fs(tiny=True, noatime=True, acl=True), case, point)


def nothing_has_changed(make: Callable[[], Driver], case: str, point: str) -> None:
    """Make the n-th call of a point fail in a case, for every n until the case succeeds."""
    fs = make()
    scene = Scene(fs)
    before, counts = fs.dump(), exact(fs)
    for n in itertools.count():
        fs.mp.breathe()
        fs.mp.vm.daemon.evict_all()
        refs = fs.refs.copy()
        # Whatever an operation breathes, its pages are out: what it reads after its commit is found.
        fs.mp.vm.thrash = point == "pagein"
        number, calls = attempt(scene, case, point, n)
        fs.mp.vm.thrash = False
        if not number and calls <= n:
            break
        if not number:
            # The operation does without: it must be whole.
            fs.check()
            fs = make()
            scene = Scene(fs)
            before, counts = fs.dump(), exact(fs)
            continue
        assert number == ERRNO[point]
        assert exact(fs) == counts, f"counts after failure {n}"
        fs.check()
        assert fs.refs == refs
        assert differences(before, fs.dump()) == {}, f"failure {n} of {case}"
        assert n < 300


def attempt(scene: Scene, case: str, point: str, n: int) -> tuple[int, int]:
    """Try a case with the n-th call failing: (errno or 0, calls there were)."""
    with failing(point, n) as fuse:
        try:
            CASES[case](scene)
        except VmError as error:
            return error.errno, fuse.calls
    return 0, fuse.calls


def exact(fs: Driver) -> dict[str, Any]:
    """Counts that a failed operation may not change."""
    return {key: value for key, value in fs.counts().items() if key != "slotless"}


def differences(before: dict, after: dict) -> dict:
    """The state that a failure must not change; generations of nodes that were never made do not count."""
    return {ino: (before.get(ino), after.get(ino)) for ino in before.keys() | after.keys()
            if before.get(ino) != after.get(ino)}


REMOVALS: dict[str, Case] = {
    "unlink": lambda s: s.fs.unlink(s.other, NAMES[7]),
    "unlink-big": lambda s: s.fs.unlink(s.dir, b"big"),
    "rmdir": lambda s: s.fs.rmdir(s.dir, b"sub"),
    "truncate": lambda s: s.fs.truncate(s.big, 5 << 12),
    "truncate-0": lambda s: s.fs.truncate(s.big, 0),
    "truncate-packed": lambda s: s.fs.truncate(s.packed, 5),
    "forget": lambda s: [s.fs.unlink(s.dir, b"file"), s.fs.forget(s.file)],
    "all-of-them": lambda s: [s.fs.unlink(s.other, name) for name in NAMES],
    "removexattr": lambda s: s.fs.removexattr(s.file, b"user.big"),
    "rename-over": lambda s: s.fs.rename(s.dir, b"file", s.dir, b"packed"),
    "rename-over-long": lambda s: s.fs.rename(s.dir, b"file", s.dir, LONG),
    "rename-long-over-short": lambda s: s.fs.rename(s.dir, LONG, s.dir, b"file"),
    "rename-over-dir": lambda s: s.fs.rename(s.dir, b"sub", s.other, b"othersub"),
}


@pytest.mark.parametrize("case", REMOVALS)
def test_removal_needs_no_memory(fs: Driver, case: str) -> None:
    scene = Scene(fs)

    def no_page() -> None:
        raise NoMemory("not now")

    with failpoints.at("Vm.alloc_page", no_page):
        REMOVALS[case](scene)
    fs.check()


ENDED: dict[str, Callable[[Driver], int]] = {
    "inline": lambda fs: _written(fs, 40),
    "packed": lambda fs: _written(fs, 1000),
    "pages": lambda fs: _written(fs, 5000),
    "many pages": lambda fs: _written(fs, 3 << 20),
    "symlink": lambda fs: fs.symlink(ROOT, b"it", b"t" * 30),
    "long symlink": lambda fs: fs.symlink(ROOT, b"it", b"t" * 500),
    "device": lambda fs: fs.mknod(ROOT, b"it", stat.S_IFCHR | 0o600, 5),
}


def _written(fs: Driver, size: int) -> int:
    ino = fs.create(ROOT, b"it")
    fs.write(ino, 0, b"x" * size)
    return ino


@pytest.mark.parametrize("nattributes", (0, 1, 6))
@pytest.mark.parametrize("kind", ENDED)
def test_a_node_that_cannot_be_freed_is_whole(make_fs: Callable[..., Driver], kind: str, nattributes: int) -> None:
    """The n-th page-in after the last reference is gone fails, once: what is left of the node breaks no invariant."""
    for n in itertools.count():
        fs = make_fs(tiny=True, noatime=True, xattr=True, usrquota=True)
        ino = ENDED[kind](fs)
        for i in range(nattributes):
            fs.setxattr(ino, b"trusted.%d" % i, b"v" * 300)
        fs.unlink(ROOT, b"it")
        fs.mp.vm.daemon.evict_all()
        fs.lost = fs.mp.vm.thrash = True
        with failing("pagein", n) as fuse:
            fs.forget(ino)
            with suppress(SwapIOError):
                fs.reap_all()
        fs.mp.vm.thrash = False
        fs.reap_all()
        fs.check()
        lost, tried = fs.mp.lost_nodes, len(fs.mp.given_up)
        while node.free_again(fs.mp):
            fs.reap_all()
            fs.check()
        assert (fs.mp.lost_nodes, fs.mp.given_up) == (lost - tried, []), "the fault has passed"
        assert lost - tried or fs.mp.mem.nodes.nitems == 1, "it is gone"
        if fuse.calls <= n:
            break
    assert n > 0 and not lost


def test_a_node_that_cannot_be_freed_is_tried_seldom(make_fs: Callable[..., Driver]) -> None:
    """While the fault lasts, and only as many as are noted; when it has passed, they are freed."""
    fs = make_fs(noatime=True, xattr=True)
    count = node.GIVEN_UP_MOST + 6
    inos = [fs.create(ROOT, b"%d" % i) for i in range(count)]
    for ino in inos:
        fs.setxattr(ino, b"user.a", b"v" * 300)
    fs.write(inos[0], 0, b"x" * 4096 * 600)
    for i, ino in enumerate(inos):
        fs.unlink(ROOT, b"%d" % i)
    fs.mp.vm.daemon.evict_all()
    for ino in inos:
        fs.getattr(ino)
        node.is_known(fs.mp, ino)
    fs.lost = True
    with failing("pagein", 0, lasting=True):
        for ino in inos:
            fs.forget(ino)
        assert (fs.mp.lost_nodes, len(fs.mp.given_up)) == (count, node.GIVEN_UP_MOST)
        assert node.free_again(fs.mp) and not node.free_again(fs.mp), "once in some seconds"
    fs.reap_all()
    fs.check()
    for _ in inos:
        fs.mp.again_at = 0.0
        node.free_again(fs.mp)
        fs.reap_all()
    assert (fs.mp.lost_nodes, fs.mp.given_up, fs.mp.mem.nodes.nitems) == (6, [], 7)
    fs.check()


def heal(fs: Driver, va: int) -> Callable[[], None]:
    """Spoil a page's slot; the function returned brings the bytes back."""
    vm = fs.mp.vm
    vm.breathe()
    vm.daemon.evict_all()
    assert vm.swap is not None
    fd, place = vm.swap.store.fd, vm.slot_of[va >> 12] << 12
    saved = os.pread(fd, 4096, place)
    os.pwrite(fd, b"\x55" * 4096, place)
    return lambda: (os.pwrite(fd, saved, place), None)[1]


def test_lost_node_page_does_not_stop_others(make_fs: Callable[..., Driver]) -> None:
    fs = make_fs(noatime=True)
    first = fs.mkdir(ROOT, b"dir")
    for i in range(60):
        fs.create(first, b"%d" % i)
    fs.unlink(first, b"30")
    fs.forget_all()
    # The page of node 30 has a free item, so that the pool gives it out next.
    restore = heal(fs, fs.mp.mem.nodes.va(31))
    try:
        with pytest.raises(SwapIOError):
            vnops.getattr(fs.mp, 30)
        fs.create(ROOT, b"new")
    finally:
        restore()
    assert fs.lookup(ROOT, b"new")


def test_lost_data_page_is_eio_and_nothing_else(make_fs: Callable[..., Driver]) -> None:
    fs = make_fs(noatime=True)
    one = fs.create(ROOT, b"one")
    fs.write(one, 0, b"1" * 4096 * 40)
    vpn = fs.mp.extents.first_from(fs.mp.mem.node(one), 0)[1] >> 24
    restore = heal(fs, (vpn + 20) << 12)
    with pytest.raises(SwapIOError):
        fs.read(one, 20 << 12, 10)
    assert fs.read(one, 0, 10) == b"1" * 10
    assert fs.write(one, 19 << 12, b"2" * 5000) == 4096     # short: the second page could not be had
    restore()
    assert fs.read(one, 20 << 12, 10) == b"1" * 10
    heal(fs, (vpn + 20) << 12)
    assert fs.write(one, 20 << 12, b"3" * 4096) == 4096      # all of it: what was there need not be read
    assert fs.read(one, 20 << 12, 10) == b"3" * 10
    fs.setattr(one, CRED, mode=0o600)


def test_readdir_gives_out_what_it_has_before_an_entry_that_cannot_be_read(make_fs: Callable[..., Driver]) -> None:
    fs = make_fs(noatime=True)
    first = fs.mkdir(ROOT, b"dir")
    for i in range(200):
        fs.create(first, b"%d" % i)
    vnode = fs.mp.mem.nodes.va(100) & ~4095
    restore = heal(fs, vnode)
    cookies, failures, words = [0], 0, 0

    def emit(_name: bytes, ino: int, _attributes: tuple, cookie: int) -> bool:
        nonlocal words
        cookies.append(cookie)
        words += cookie > 2
        if cookie > 2:
            fs.refs[ino] += 1
        return True

    for _ in range(20):
        fs.mp.breathe()
        try:
            vnops.readdir(fs.mp, first, cookies[-1], emit)
        except SwapIOError:
            failures += 1
            break
    stopped_at = words
    restore()
    fs.mp.breathe()
    vnops.readdir(fs.mp, first, cookies[-1], emit)
    assert failures == 1 and stopped_at < 200 == words and len(set(cookies)) == 203
