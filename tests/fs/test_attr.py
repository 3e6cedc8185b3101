"""getattr and setattr: modes, owners, times before 1970 and beyond every format; statfs."""

import errno
import os
import stat
from typing import Callable

import pytest

from tests.fs.fslib import CRED, ROOT, USER, Cred, Driver, refused, ticking
from tmpfsd.tmpfs import setid, vnops

YEAR = 31_556_952 * 10 ** 9
HIGHEST = (1 << 79) - 1


@pytest.mark.parametrize("ns", [0, -1, -70 * YEAR, 292 * YEAR + 1, 476 * YEAR, 600 * YEAR, 10 ** 6 * YEAR,
                                (1 << 64) - 1, 1 << 64, -(1 << 64), HIGHEST, -HIGHEST])
def test_times_are_kept(fs: Driver, ns: int) -> None:
    ino = fs.create(ROOT, b"a")
    fs.setattr(ino, atime_ns=ns, mtime_ns=-ns)
    assert fs.getattr(ino)[7:9] == (ns, -ns)
    fs.setattr(ino, mtime_ns=5)
    assert fs.getattr(ino)[7:9] == (ns, 5)


def test_times_beyond_are_clamped(fs: Driver) -> None:
    ino = fs.create(ROOT, b"a")
    fs.setattr(ino, atime_ns=1 << 90, mtime_ns=-(1 << 90))
    assert fs.getattr(ino)[7:9] == (HIGHEST, -HIGHEST)


def test_a_touched_node_forgets_its_far_time(fs: Driver) -> None:
    ino = fs.create(ROOT, b"a")
    fs.setattr(ino, mtime_ns=1 << 70)
    fs.mp.now = lambda: 10 ** 18
    fs.write(ino, 0, b"x")
    assert fs.getattr(ino)[8:10] == (10 ** 18,) * 2


@pytest.mark.parametrize("ns", [0, -1, 1 << 62, 1 << 64])
def test_ctime_may_be_given(fs: Driver, ns: int) -> None:
    ino = fs.create(ROOT, b"a")
    fs.setattr(ino, ctime_ns=ns)
    assert fs.getattr(ino).ctime_ns == min(ns, (1 << 63) - 1)


def test_mode_keeps_the_type(fs: Driver) -> None:
    for i, ino in enumerate((fs.create(ROOT, b"f"), fs.mkdir(ROOT, b"d"), fs.symlink(ROOT, b"s", b"t"))):
        before = fs.getattr(ino)
        fs.mp.now = lambda i=i: (i + 2) * 10 ** 18
        fs.setattr(ino, mode=0o7321)
        after = fs.getattr(ino)
        assert after.mode == stat.S_IFMT(before.mode) | 0o7321
        assert after._replace(mode=before.mode, ctime_ns=before.ctime_ns) == before
        assert after.ctime_ns == (i + 2) * 10 ** 18


def test_owner(fs: Driver) -> None:
    ino = fs.create(ROOT, b"a")
    fs.setattr(ino, uid=(1 << 32) - 2)
    assert fs.getattr(ino)[2:4] == ((1 << 32) - 2, 0)
    fs.setattr(ino, gid=(1 << 32) - 2)
    assert fs.getattr(ino)[2:4] == ((1 << 32) - 2,) * 2


def test_size_and_times_at_once(fs: Driver) -> None:
    ino = fs.create(ROOT, b"a")
    fs.setattr(ino, size=10_000, mtime_ns=5, mode=0o600)
    st = fs.getattr(ino)
    assert (st.size, st.mtime_ns, stat.S_IMODE(st.mode)) == (10_000, 5, 0o600)


def test_truncate_of_nothing_to_nothing(fs: Driver) -> None:
    """As on tmpfs: truncate(2) changes no time then; ftruncate(2) does, and so does another size, even the same."""
    fs.mp.now = ticking()
    ino = fs.create(ROOT, b"a")
    fs.setattr(ino, mtime_ns=5)
    before = fs.getattr(ino)
    fs.setattr(ino, size=0, by_path=True)
    assert fs.getattr(ino) == before
    fs.setattr(ino, size=0, mode=0o600, by_path=True)
    assert fs.getattr(ino).mtime_ns == 5 and fs.getattr(ino).ctime_ns > before.ctime_ns
    for size, by_path in ((7, True), (7, True), (0, True), (0, False)):
        fs.setattr(ino, size=size, by_path=by_path)
        assert fs.getattr(ino).mtime_ns > 5
        fs.setattr(ino, mtime_ns=5)


def test_relatime(fs: Driver) -> None:
    day = vnops.DAY
    fs.mp.now = lambda: 100 * day
    ino = fs.create(ROOT, b"a")
    fs.write(ino, 0, b"x")

    def atime_after(now: int, **times: int) -> int:
        fs.setattr(ino, ctime_ns=50 * day, **times)
        fs.mp.now = lambda: now
        fs.read(ino, 0, 1)
        return fs.getattr(ino).atime_ns

    assert atime_after(100 * day + 5, atime_ns=60 * day, mtime_ns=60 * day) == 100 * day + 5
    assert atime_after(100 * day, atime_ns=100 * day - 9, mtime_ns=60 * day) == 100 * day - 9
    assert atime_after(100 * day, atime_ns=99 * day, mtime_ns=60 * day) == 100 * day
    fs.mp.noatime = True
    assert atime_after(500 * day, atime_ns=1, mtime_ns=60 * day) == 1


def test_blocks(fs: Driver) -> None:
    ino = fs.create(ROOT, b"a")
    for size, blocks in ((0, 0), (1, 1), (512, 1), (513, 2), (2048, 4)):
        fs.truncate(ino, 0)
        fs.write(ino, 0, b"x" * size)
        assert fs.getattr(ino).blocks == blocks
    fs.write(ino, 0, b"x" * 5000)
    assert fs.getattr(ino).blocks == 16


def test_statfs(fs: Driver) -> None:
    bsize, blocks, bfree, bavail, files, ffree, favail, namemax = fs.statfs()
    assert (bsize, blocks, namemax) == (4096, (256 << 20) >> 12, 255)
    assert bfree == bavail == blocks - fs.mp.vm.npages and ffree == favail == files - 1
    ino = fs.create(ROOT, b"a")
    fs.write(ino, 0, b"x" * 40_960)
    after = fs.statfs()
    assert after[2] <= bfree - 10 and after[5] == ffree - 1


SET_ID = stat.S_ISUID | stat.S_ISGID


def test_a_call_that_brings_the_ctime_alone_takes_set_id_bits(fs: Driver) -> None:
    """chown(-1, -1) with writeback: the kernel keeps the ctime then, and sends it along."""
    ino = fs.create(ROOT, b"a", 0o6755)
    fs.setattr(ino, ctime_ns=5)
    assert stat.S_IMODE(fs.getattr(ino).mode) == 0o755
    fs.setattr(ino, mode=0o6755)
    fs.setattr(ino, mtime_ns=5, ctime_ns=5)
    assert stat.S_IMODE(fs.getattr(ino).mode) == 0o6755


@pytest.mark.parametrize("mode, user, left", [
    (0o6777, USER, 0o777), (0o6777, CRED, 0o777), (0o6766, USER, 0o766), (0o6766, CRED, 0o2766),
    (0o6766, USER._replace(gid=7), 0o2766), (0o644, USER, 0o644)])
def test_a_call_that_changes_nothing_takes_set_id_bits(fs: Driver, mode: int, user: Cred, left: int) -> None:
    """The kernel's way to say that they must go: before a write, and at chown(-1, -1)."""
    ino = fs.create(ROOT, b"f", mode)
    fs.setattr(ino, gid=7)
    fs.setattr(ino, mode=mode)
    fs.setattr(ino, user)
    assert stat.S_IMODE(fs.getattr(ino).mode) == left


@pytest.mark.parametrize("mode, gid, later", [
    (0o6755, 7, 0o755), (0o2755, 7, 0o755), (0o2775, 7, 0o775), (0o2775, USER.gid, None), (0o2757, 7, None),
    (0o755, 7, 0o755), (0o2744, USER.gid, 0o2744)])
def test_set_id_bits_are_not_taken_by_who_may_not_write(fs: Driver, mode: int, gid: int, later: int | None) -> None:
    """A chown(-1, -1) of another's file takes nothing; a write does, which one may still make who opened it before."""
    ino = fs.create(ROOT, b"f")
    fs.setattr(ino, gid=gid)
    fs.setattr(ino, mode=mode)
    fs.setattr(ino, USER)
    assert stat.S_IMODE(fs.getattr(ino).mode) == (mode if later is not None else mode & 0o777)
    assert fs.mp.marks.keys() == ({ino} if later is not None and later != mode else set())
    if fs.mp.marks:
        assert fs.do(setid.cleared, ino) and not fs.mp.marks
        assert stat.S_IMODE(fs.getattr(ino).mode) == later


def test_a_mark_for_a_node_that_is_gone_takes_nothing(fs: Driver) -> None:
    ino = fs.create(ROOT, b"f", 0o2755)
    fs.setattr(ino, USER)
    fs.unlink(ROOT, b"f")
    fs.forget(ino)
    assert fs.create(ROOT, b"g", 0o2755) == ino
    assert not fs.do(setid.cleared, ino)
    assert stat.S_IMODE(fs.getattr(ino).mode) == 0o2755 and not fs.mp.marks


def test_marks_are_bounded(fs: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setid, "MARKS_MAX", 2)
    inos = [fs.create(ROOT, b"f%d" % number, 0o2755) for number in range(3)]
    for ino in (inos[0], inos[1], inos[0]):
        fs.setattr(ino, USER)
    with refused(errno.EPERM):
        fs.setattr(inos[2], USER)


def test_a_write_that_clears_by_itself_needs_no_mark(fs: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setid, "MARKS_MAX", 0)
    ino = fs.create(ROOT, b"f", 0o2755)
    assert not fs.do(setid.cleared, ino)
    assert fs.do(setid.cleared, ino, USER) and stat.S_IMODE(fs.getattr(ino).mode) == 0o755
    assert not fs.do(setid.cleared, ino, USER) and not fs.mp.marks


def test_set_id_bits_and_what_leaves_them(fs: Driver) -> None:
    ino = fs.create(ROOT, b"f", 0o6777)
    fs.setattr(ino, USER, atime_ns=1, mtime_ns=2)
    fs.setattr(ino, CRED, size=3)
    assert fs.getattr(ino).mode & SET_ID == SET_ID
    fs.setattr(ino, USER, size=2)
    assert not fs.getattr(ino).mode & SET_ID
    fs.setattr(ino, mode=0o6777)
    fs.setattr(ino, CRED, uid=5)
    assert not fs.getattr(ino).mode & SET_ID
    fs.setattr(ino, CRED, uid=6, mode=0o4711)
    assert stat.S_IMODE(fs.getattr(ino).mode) == 0o4711
    dino = fs.mkdir(ROOT, b"d", 0o2755)
    fs.setattr(dino, CRED, uid=5)
    fs.setattr(dino, USER)
    assert stat.S_IMODE(fs.getattr(dino).mode) == 0o2755


def test_dirty_pages_are_those_that_were_changed(make_fs: Callable[..., Driver]) -> None:
    fs = make_fs("starving")
    ino = fs.create(ROOT, b"a")
    fs.mp.breathe()
    fs.mp.vm.daemon.evict_all()
    before = fs.mp.status()["dirty_bytes"]
    fs.mp.mem.node(ino)
    assert fs.mp.status()["dirty_bytes"] == before
    fs.mp.mem.node_w(ino)
    assert fs.mp.status()["dirty_bytes"] == before + 4096
    fs.mp.mem.node_w(ino)
    assert fs.mp.status()["dirty_bytes"] == before + 4096


@pytest.mark.parametrize("cred, before, after", [
    (USER, 0o6777, 0o777), (CRED, 0o6777, 0o6777), (USER, 0o6766, 0o766), (USER._replace(gid=0), 0o6766, 0o2766),
    (USER, 0o1777, 0o1777)])
def test_set_id_bits_go_when_someone_else_truncates_at_open(fs: Driver, cred: Cred, before: int, after: int) -> None:
    """The kernel leaves it to the server: open(O_TRUNC) comes over whole.  To the group, locks by setgid stay."""
    ino = fs.create(ROOT, b"a", before)
    fs.write(ino, 0, b"x" * 5000)
    fs.open(ino, os.O_WRONLY, cred)
    assert (fs.getattr(ino).size, stat.S_IMODE(fs.getattr(ino).mode)) == (5000, before)
    fs.open(ino, os.O_WRONLY | os.O_TRUNC, cred)
    assert (fs.getattr(ino).size, stat.S_IMODE(fs.getattr(ino).mode)) == (0, after)


@pytest.mark.parametrize("change", ({"uid": 1 << 32}, {"gid": -1}, {"uid": -1, "size": 0}))
def test_ids_that_do_not_fit_change_nothing(fs: Driver, change: dict[str, int]) -> None:
    ino = fs.create(ROOT, b"a")
    fs.write(ino, 0, b"x" * 100)
    before = fs.dump()
    with refused(errno.EINVAL):
        fs.setattr(ino, **change)
    with refused(errno.EINVAL):
        fs.mknod(ROOT, b"dev", 0o020600, 1 << 32)
    assert fs.dump() == before
