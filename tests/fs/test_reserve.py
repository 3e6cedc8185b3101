"""No operation takes more frames than the reserve between two breaths, at its worst."""

from typing import Any, Callable, Iterator

import pytest

from tests import failpoints
from tests.fs.fslib import ROOT, STARVING_FRAMES, Driver
from tmpfsd.tmpfs.acl import DEFAULT, GROUP_OBJ, MASK, OTHER, USER, USER_OBJ, encode
from tmpfsd.uvm.vm import RESERVE

LONG = [bytes([97 + i]) * 255 for i in range(20)]
NOBODY = (1 << 32) - 1
ACL = encode([(USER_OBJ, 7, NOBODY), *[(USER, 6, 1000 + i) for i in range(200)], (GROUP_OBJ, 5, NOBODY),
              (MASK, 6, NOBODY), (OTHER, 1, NOBODY)])


class Meter:
    """Counts page-ins asked for and pages made since the last breath; `most` is the most there were."""

    def __init__(self, fs: Driver) -> None:
        self.now = self.most = 0
        self.worst: dict[str, int] = {}
        breathe = fs.mp.breathe

        def breathing() -> None:
            self.now = 0
            breathe()

        fs.mp.breathe = breathing

    def count(self) -> None:
        """A frame is taken."""
        self.now += 1
        self.most = max(self.most, self.now)

    def run(self, what: str, operation: Callable[..., Any], *args: Any) -> Any:
        """Run an operation and note how many frames it took."""
        self.most = 0
        with failpoints.at(("Vm.fault", "Vm.alloc_page", "Vm.forget_content"), self.count):
            result = operation(*args)
        self.worst[what] = max(self.worst.get(what, 0), self.most)
        assert self.most <= RESERVE, f"{what} took {self.most} frames in one breath"
        return result


@pytest.fixture
def deep(make_fs: Callable[..., Driver]) -> Iterator[Driver]:
    """Trees of five levels, everything out at each breath."""
    fs = make_fs("starving", tiny=True, acl=True)
    for i in range(2000):
        fs.forget(fs.create(ROOT, b"%d" % i + b"n" * 100))
    other = fs.mkdir(ROOT, b"other")
    for i in range(500):
        fs.forget(fs.create(other, b"%d" % i))
    fs.mp.vm.thrash = True
    yield fs
    fs.mp.vm.thrash = False


def test_names(deep: Driver) -> None:
    fs, meter = deep, Meter(deep)
    other = fs.lookup(ROOT, b"other")
    fs.setxattr(other, DEFAULT, ACL)
    for i, name in enumerate(LONG):
        ino = meter.run("create", fs.create, ROOT, name)
        meter.run("create under an ACL", fs.create, other, name)
        meter.run("mkdir under an ACL", fs.mkdir, other, b"1" + name[:-1])
        meter.run("symlink", fs.symlink, other, b"2" + name[:-1], b"t" * 4095)
        meter.run("lookup", fs.lookup, ROOT, name)
        meter.run("link", fs.link, ino, other, b"3" + name[:-1])
        meter.run("exchange", fs.rename, ROOT, name, other, b"1" + name[:-1], 2)
        meter.run("whiteout", fs.rename, ROOT, b"%d" % i + b"n" * 100, other, b"4" + name[:-1], 4)
        meter.run("rename over", fs.rename, ROOT, b"%d" % (i + 100) + b"n" * 100, other, b"%d" % (i + 200))
    for i in range(400, 1900):
        meter.run("unlink", fs.unlink, ROOT, b"%d" % i + b"n" * 100)
    for name in LONG:
        meter.run("rmdir", fs.rmdir, ROOT, name)
    meter.run("readdir", fs.entries, ROOT)
    assert max(meter.worst.values()) >= 8, meter.worst


def test_attributes(deep: Driver) -> None:
    fs, meter = deep, Meter(deep)
    ino = fs.lookup(ROOT, b"7" + b"n" * 100)
    for i in range(10):
        name = b"user.%d" % i + b"x" * 200
        meter.run("setxattr", fs.setxattr, ino, name, b"v" * 65536)
        meter.run("replace", fs.setxattr, ino, name, b"w" * 65536)
        meter.run("getxattr", fs.getxattr, ino, name)
    meter.run("listxattr", fs.listxattr, ino)
    meter.run("removexattr", fs.removexattr, ino, b"user.5" + b"x" * 200)
    fs.unlink(ROOT, b"7" + b"n" * 100)
    meter.run("forget", fs.forget, ino)
    assert 17 <= max(meter.worst.values())


def test_data(deep: Driver) -> None:
    fs, meter = deep, Meter(deep)
    ino = fs.create(ROOT, b"data")
    for i in range(120):
        meter.run("write", fs.write, ino, (i * 37 % 120) * 2 << 12, b"x" * 5000)
    meter.run("write over all", fs.write, ino, 100, b"y" * (240 << 12))
    meter.run("read", fs.read, ino, 0, 240 << 12)
    for i in range(0, 240, 3):
        meter.run("punch", fs.punch, ino, (i << 12) + 100, 9000)
    meter.run("truncate", fs.truncate, ino, 12345)
    fs.unlink(ROOT, b"data")
    meter.run("forget", fs.forget, ino)
    assert meter.worst["write over all"] >= 16


def test_the_starving_have_frames_beyond_the_reserve() -> None:
    assert STARVING_FRAMES > RESERVE
