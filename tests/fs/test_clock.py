"""A clock that jumps back: stamps are what the clock says, and nothing waits for it."""

import ast
import time
from pathlib import Path

import pytest

import tmpfsd
from tests.fs.fslib import ROOT, Driver
from tmpfsd.tmpfs.clock import CLOCK_REALTIME_COARSE, MOMENT, Clock

HOUR = 3600 * 10**9
DAY = 24 * HOUR
CLOCKS = ("time", "time_ns", "now", "utcnow", "clock_gettime", "clock_gettime_ns")


def test_stamps_follow_the_clock(fs: Driver) -> None:
    now = [100 * DAY]
    fs.mp.now = lambda: now[0]
    ino = fs.create(ROOT, b"a")
    now[0] = 50 * DAY
    fs.write(ino, 0, b"x" * 9000)
    assert fs.getattr(ino)[7:10] == (100 * DAY, 50 * DAY, 50 * DAY)
    fs.rename(ROOT, b"a", ROOT, b"b")
    assert fs.getattr(ROOT).mtime_ns == 50 * DAY
    now[0] = 1
    fs.setxattr(ino, b"user.x", b"y")
    assert fs.getattr(ino).ctime_ns == 1
    assert fs.read(ino, 0, 9000) == b"x" * 9000
    fs.truncate(ino, 5)
    fs.create(ROOT, b"c")
    fs.unlink(ROOT, b"b")
    fs.mp.idle()
    fs.check()


@pytest.mark.parametrize("now", (-1, -DAY, -(1 << 62), 1 << 62))
def test_a_clock_before_1970_or_far_after(fs: Driver, now: int) -> None:
    """Every operation is done whole, with the clock's stamps."""
    ino = fs.create(ROOT, b"old")
    for when in (now, 5 * DAY, now):
        fs.mp.now = lambda when=when: when
        made = fs.create(ROOT, b"a")
        assert fs.getattr(made)[7:10] == (when,) * 3
        fs.mkdir(ROOT, b"d")
        fs.symlink(ROOT, b"s", b"t" * 200)
        fs.link(ino, ROOT, b"link")
        fs.rename(ROOT, b"link", ROOT, b"a")
        fs.rename(ROOT, b"d", ROOT, b"w", 4)
        fs.write(ino, 0, b"x" * 9000)
        fs.read(ino, 0, 9000)
        fs.readdir_some(ROOT, 0, 100)
        fs.setxattr(ino, b"user.a", b"v")
        fs.setattr(ino, mode=0o600)
        assert fs.getattr(ino)[8:10] == (when,) * 2 and fs.getattr(ROOT)[8:10] == (when,) * 2
        fs.check()
        for name in (b"a", b"s", b"d"):
            fs.unlink(ROOT, name)
        fs.rmdir(ROOT, b"w")
    fs.check()


def test_atime_comes_back_with_the_clock(fs: Driver) -> None:
    """A stamp of the future stays until something is changed; then relatime goes on as ever."""
    now = [100 * DAY]
    fs.mp.now = lambda: now[0]
    ino = fs.create(ROOT, b"a")
    fs.write(ino, 0, b"x")
    now[0] += HOUR
    fs.read(ino, 0, 1)
    assert fs.getattr(ino).atime_ns == now[0]
    now[0] = 10 * DAY
    fs.read(ino, 0, 1)
    assert fs.getattr(ino).atime_ns == 100 * DAY + HOUR
    now[0] = 102 * DAY
    fs.read(ino, 0, 1)
    assert fs.getattr(ino).atime_ns == 102 * DAY


def test_the_clock_that_jumps_is_asked_for_stamps_only() -> None:
    """Timers take the monotonic one."""
    asked = {}
    for path in Path(tmpfsd.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            name = getattr(node, "attr", "") if isinstance(node, ast.Attribute) else ""
            if name in CLOCKS and getattr(node.value, "id", "") in ("time", "datetime"):
                asked[path.name] = name
    # Of nodes; of the lines of `trace` and of `events`; of when a snapshot was made.
    assert asked == {"clock.py": "clock_gettime_ns", "trees.py": "time", "journal.py": "time", "saving.py": "time"}


def test_stamps_are_not_behind_what_the_kernel_said(fs: Driver) -> None:
    """utime(now) may be a moment ahead of the coarse clock; a later write does not get an older time."""
    ino = fs.create(ROOT, b"a")
    ahead = time.clock_gettime_ns(CLOCK_REALTIME_COARSE) + MOMENT // 2
    fs.setattr(ino, mtime_ns=ahead)
    assert fs.getattr(ino).mtime_ns == ahead <= fs.getattr(ino).ctime_ns
    fs.write(ino, 0, b"x")
    assert fs.getattr(ino).mtime_ns >= ahead


def test_a_time_of_the_future_moves_no_clock() -> None:
    clock = Clock()
    for ns in (time.time_ns() + HOUR, 0, 5, -HOUR):
        clock.heard(ns)
        assert not clock.floor
    clock.floor = time.time_ns() + HOUR         # the clock was set back
    assert clock.now() <= time.time_ns()


def test_stamps_are_of_the_kernels_coarse_clock(fs: Driver) -> None:
    """It ticks some hundred times a second, and is not ahead of the kernel's stamps of the same moment."""
    ticks = set()
    for _ in range(1000):
        before = time.clock_gettime_ns(CLOCK_REALTIME_COARSE)
        now = fs.mp.now()
        assert before <= now <= time.clock_gettime_ns(CLOCK_REALTIME_COARSE)
        ticks.add(now)
    assert len(ticks) < 900
