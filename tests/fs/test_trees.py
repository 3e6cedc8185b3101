"""Whole trees from inside: discard, paths, walks; compared with the results of single operations."""

import errno
from typing import Any, Callable

import pytest

from tests.fs.fslib import ROOT, Driver, failing, refused
from tests.fs.treelib import LONG, SUPER, USER, Caller, grow, names_below, planted, take
from tmpfsd.tmpfs import reap, walk
from tmpfsd.tmpfs.layout import tn_links
from tmpfsd.uvm.errors import Inconsistent, SwapIOError, VmError


def test_all_is_given_back(fs: Driver) -> None:
    planted(fs)
    fs.create(ROOT, b"other")
    take(fs)
    assert set(fs.entries(ROOT)) == {b"other"} and fs.getattr(ROOT).nlink == 2
    fs.check()
    fs.reap_all()
    fs.check()
    assert fs.mp.mem.nodes.nitems == 2 and not fs.mp.mem.norphans and not fs.mp.lost_nodes


def test_every_slice_leaves_all_invariants(make_fs: Callable[..., Driver], mode: str) -> None:
    fs = make_fs(mode, tiny=True)
    grow(fs, fs.mkdir(ROOT, b"top"), 12, 1)
    fs.forget_all()
    take(fs)
    fs.reap_all(check=True)


def test_counts_what_rm_would_remove(fs: Driver) -> None:
    top = planted(fs)
    names = sum(1 for entry in walk.Walk(fs.mp, top) if entry is not None) - 1
    take(fs)
    assert fs.reap_all()[0] == names


def test_open_files_live_on(fs: Driver) -> None:
    top = planted(fs)
    ino = fs.lookup(top, b"file-9")
    sub = fs.lookup(top, b"dir-0")
    take(fs)
    _names, known = fs.reap_all()
    assert sorted(known) == sorted(((top, b"file-9", ino, False), (top, b"dir-0", sub, True)))
    assert fs.content(ino) == b"x" * 360 and fs.getattr(ino).nlink == 0 and fs.getattr(sub).nlink == 0
    fs.write(ino, 0, b"still here")
    assert not fs.entries(sub)
    with refused(errno.ENOENT):
        fs.create(sub, b"new")
    with refused(errno.ENOENT):
        fs.lookup(sub, b"..")
    fs.check()
    assert fs.mp.mem.nodes.nitems == 3
    fs.forget_all()
    assert fs.mp.mem.nodes.nitems == 1


def test_links_from_outside_stay(fs: Driver) -> None:
    top = planted(fs)
    inside = fs.lookup(top, b"big")
    fs.link(inside, ROOT, b"kept")
    fs.rename(top, LONG, ROOT, b"moved")
    other = fs.create(ROOT, b"first")
    fs.link(other, top, b"second")
    before = fs.content(inside)
    fs.forget_all()
    take(fs)
    fs.reap_all()
    fs.check()
    assert set(fs.entries(ROOT)) == {b"kept", b"moved", b"first"}
    assert fs.getattr(inside).nlink == fs.getattr(other).nlink == 1 and fs.content(inside) == before


def test_what_happens_between_slices(fs: Driver) -> None:
    """A user who still has directories of the tree open may do anything in it."""
    top = planted(fs)
    sub, deep = fs.lookup(top, b"dir-0"), fs.lookup(fs.lookup(top, b"dir-1"), b"dir-0")
    take(fs)
    fs.create(deep, b"late")
    fs.mkdir(deep, b"late-dir")
    fs.rename(deep, b"dir-0" if b"dir-0" in fs.entries(deep) else b"late-dir", ROOT, b"saved")
    fs.create(ROOT, b"goes")
    fs.rename(ROOT, b"goes", deep, b"gone")
    with refused(errno.ENOENT):
        fs.rename(top, b"file-1", ROOT, b"too-late")
    with refused(errno.ENOENT):
        fs.rmdir(top, LONG + b"dir")
    with refused(errno.ENOENT):
        fs.mkdir(top, b"new")
    fs.unlink(top, b"file-2")
    reap.reap(fs.mp)
    fs.check()
    fs.unlink(sub, b"file-1")
    fs.forget_all()
    fs.mkdir(ROOT, b"top")
    fs.reap_all()
    fs.check()
    assert set(fs.entries(ROOT)) == {b"saved", b"top"}


def test_two_at_a_time(fs: Driver) -> None:
    planted(fs)
    grow(fs, fs.mkdir(ROOT, b"second"), 20, 1)
    fs.forget_all()
    take(fs)
    reap.reap(fs.mp)
    take(fs, b"second")
    fs.check()
    fs.reap_all()
    assert fs.mp.mem.nodes.nitems == 1


def test_deep_and_wide(make_fs: Callable[..., Driver], mode: str) -> None:
    fs = make_fs(mode)
    dino = top = fs.mkdir(ROOT, b"top")
    for _ in range(500 if fs.roomy else 60):
        dino = fs.mkdir(dino, b"d")
    for i in range(1000 if fs.roomy else 100):
        fs.mkdir(top, b"wide-%d" % i)
    fs.forget_all()
    take(fs)
    fs.reap_all()
    assert fs.mp.mem.nodes.nitems == 1


def test_not_a_directory(fs: Driver) -> None:
    fs.create(ROOT, b"file")
    with refused(errno.ENOTDIR):
        take(fs, b"file")
    with refused(errno.ENOENT):
        take(fs, b"absent")


def test_norphans_make_room_at_once(make_fs: Callable[..., Driver]) -> None:
    fs = make_fs(nr_inodes=4)
    top = fs.mkdir(ROOT, b"top")
    fs.create(top, b"a")
    fs.create(top, b"b")
    fs.forget_all()
    take(fs)
    fs.create(ROOT, b"new")
    fs.reap_all()


def test_needs_no_memory(make_fs: Callable[..., Driver], mode: str) -> None:
    """With size used up to the last page, a tree can still be discarded; and no allocation is asked for to undo it."""
    fs = make_fs(mode, size_bytes=1 << 20)
    top = fs.mkdir(ROOT, b"top")
    grow(fs, top, 6, 1)
    with pytest.raises(VmError):
        for i in range(10_000):
            fs.write(fs.create(top, b"filler-%d" % i), 0, b"x" * 5000)
    fs.forget_all()
    with failing("page", 0):
        take(fs)
        fs.reap_all()
    assert fs.mp.mem.nodes.nitems == 1


def test_a_page_that_cannot_be_read_once(make_fs: Callable[..., Driver]) -> None:
    """The n-th page-in fails, for every n: the other nodes are freed, and those lost are counted."""
    lost = 0
    for n in range(0, 60, 1):
        fs = make_fs("starving", tiny=True)
        grow(fs, fs.mkdir(ROOT, b"top"), 6, 1)
        fs.forget_all()
        fs.mp.vm.daemon.evict_all()
        take(fs)
        with failing("pagein", n) as fuse:
            while fs.mp.doomed:
                try:
                    reap.reap(fs.mp)
                except SwapIOError:
                    assert fuse.calls == n + 1
        fs.mp.check()
        lost += fs.mp.lost_nodes
        fs.lost = True                  # what was lost stays allocated
        if fuse.calls <= n:
            break
    else:
        raise AssertionError("more page-ins than tried")
    assert lost > 3


def test_a_broken_list_is_seen(make_fs: Callable[..., Driver]) -> None:
    """K1 and K2."""
    fs = make_fs()
    planted(fs)
    take(fs)
    mp = fs.mp
    doomed, mp.doomed = mp.doomed, 0
    with pytest.raises(Inconsistent, match="K2"):
        mp.check()
    mp.doomed = ROOT
    with pytest.raises(Inconsistent, match="K1"):
        mp.check()
    mp.doomed = doomed
    mp.check()
    assert not tn_links(mp.arena, mp.mem.node(doomed))
    fs.reap_all()


# --- paths and permissions ---

def test_find(fs: Driver) -> None:
    top = planted(fs)
    sub = fs.lookup(top, b"dir-0")
    assert walk.find(fs.mp, b"top//dir-0/", SUPER) == (top, b"dir-0", sub)
    assert walk.find(fs.mp, b"", SUPER) == (ROOT, b"", ROOT)
    for path, number in ((b"top/none", errno.ENOENT), (b"top/file-1/x", errno.ENOTDIR), (b"top/far/x", errno.ELOOP),
                         (b"x" * 256, errno.ENAMETOOLONG)):
        with refused(number):
            walk.find(fs.mp, path, SUPER)
    assert not any(fs.mp.mem.u32[fs.mp.mem.nlookup_word(ino)] for ino in (top,) if ino not in fs.refs)
    fs.setattr(top, mode=0o700)
    with refused(errno.EACCES):
        walk.find(fs.mp, b"top/dir-0", USER)


def allowed(fs: Driver, path: bytes, who: Any) -> bool:
    """May who discard path?"""
    fs.mp.breathe()
    for _ in walk.may_discard(fs.mp, walk.find(fs.mp, path, who), who):
        fs.mp.breathe()
    return True


def test_who_may_discard(fs: Driver) -> None:
    mine = {"uid": 1000, "gid": 1001}
    top = fs.mkdir(ROOT, b"top", 0o755)
    fs.setattr(top, **mine)
    sub = fs.mkdir(top, b"sub", 0o755)
    fs.create(sub, b"file", 0)
    with refused(errno.EACCES):         # no write on the parent
        allowed(fs, b"top", USER)
    fs.setattr(ROOT, mode=0o777)
    with refused(errno.EACCES):         # sub is someone else's and not empty
        allowed(fs, b"top", USER)
    assert allowed(fs, b"top", SUPER)
    fs.setattr(sub, mode=0o777)
    assert allowed(fs, b"top", USER)
    fs.setattr(sub, mode=0o1777)
    with refused(errno.EPERM):          # sticky, and the file is someone else's
        allowed(fs, b"top", USER)
    fs.setattr(sub, **mine)
    assert allowed(fs, b"top", USER)
    fs.setattr(sub, mode=0o300)
    with refused(errno.EACCES):         # what is in it cannot be listed
        allowed(fs, b"top", USER)
    fs.unlink(sub, b"file")
    fs.setattr(sub, mode=0, uid=0)
    assert allowed(fs, b"top", USER)    # an empty directory needs nothing
    fs.setattr(ROOT, mode=0o1777)
    assert allowed(fs, b"top", USER)
    fs.setattr(top, uid=0)
    with refused(errno.EPERM):
        allowed(fs, b"top", USER)
    fs.setattr(ROOT, mode=0o770, gid=1001)
    fs.setattr(top, uid=1000)
    assert allowed(fs, b"top", Caller(1000, (1001,)))
    with refused(errno.EACCES):
        allowed(fs, b"top", Caller(1000, (1002,)))


# --- walks ---

def test_walk_meets_every_name_once(fs: Driver) -> None:
    top = planted(fs)
    met = [(entry.dino, entry.value) for entry in walk.Walk(fs.mp, top) if entry is not None]
    assert len(met) == len(set(met)) == names_below(fs, top) + 1


def test_walk_survives_changes(fs: Driver) -> None:
    """Between slices the tree is removed, and its numbers are used again."""
    planted(fs)
    going = walk.Walk(fs.mp, fs.lookup(ROOT, b"top"))
    fs.forget_all()
    met = 0
    for entry in going:
        met += entry is not None
        if entry is None and met > 20 and b"top" in fs.entries(ROOT):
            take(fs)
            fs.reap_all()
            for i in range(50):
                fs.forget(fs.mkdir(ROOT, b"new-%d" % i))
    assert met > 20


def test_too_deep(fs: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "MAX_DEPTH", 2)
    planted(fs)
    going = walk.Walk(fs.mp, ROOT)
    assert sum(1 for _ in going) > 5 and going.skipped == 3
    with refused(errno.EACCES):
        fs.setattr(ROOT, mode=0o777)
        allowed(fs, b"top", Caller(1000))
