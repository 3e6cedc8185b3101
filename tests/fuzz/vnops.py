"""fuzz/vnops.py: bytes as operations of the core: raw names, targets, attributes, modes, offsets, cookies, times.

Requests that the kernel never sends are not sent: names that are empty, "." or "..", or have a '/' or a NUL, inodes
that nobody knows (except a lookup of "." by a file handle).  Each operation is done or refused with an errno, and at
the end the whole file system passes its check.
"""

from __future__ import annotations

import errno
import functools
import tempfile
from typing import Any, Callable

from tests.fs.fslib import ROOT, STARVING_FRAMES, Cred, Driver, make_mount
from tests.fuzz import fuzzlib
from tests.fuzz.fuzzlib import Source
from tmpfsd.tmpfs.fserror import FsError
from tmpfsd.uvm.errors import Inconsistent, VmError
from tmpfsd.uvm.param import PAGE_SIZE

MOST_OPERATIONS = 60
NAMES = (b"a", b"b", b"c", b"n" * 255, b"n" * 256, b"\xff", b"user.a", b"user.b", b"trusted.t", b"security.s",
         b"system.posix_acl_access", b"system.posix_acl_default", b"user.")


class Player:
    """Operations on one file system, each decided by bytes."""

    def __init__(self, fs: Driver, source: Source) -> None:
        self.fs, self.source = fs, source

    def ino(self) -> int:
        """An inode the kernel knows."""
        known = [ROOT, *self.fs.refs]
        return known[self.source.byte() % len(known)]

    def name(self) -> bytes:
        """A name: one of a few, or any."""
        choice = self.source.byte()
        if choice < 200:
            return NAMES[choice % len(NAMES)]
        name = self.source.bytes().replace(b"/", b"_").replace(b"\0", b"0")
        return b"dot" if name in (b"", b".", b"..") else name

    def attribute(self) -> bytes:
        """The name of an attribute: here even an empty one."""
        return self.source.bytes().replace(b"\0", b"0") if self.source.byte() < 40 else self.name()

    def cred(self) -> Cred:
        """Who asks."""
        choice = self.source.byte()
        return Cred(*((0, 0) if choice < 128 else (1000, 1001) if choice < 240 else (0xFFFFFFFF, 0xFFFFFFFE)))

    def step(self) -> None:
        """One operation."""
        OPERATIONS[self.source.byte() % len(OPERATIONS)](self, self.fs, self.source)


def setattr_(p: Player, fs: Driver, s: Source) -> None:
    """Any set of attributes."""
    ino, which, wanted = p.ino(), s.byte(), {}
    for bit, (field, most) in enumerate((("mode", 0xFFFFFFFF), ("uid", -1), ("gid", -1), ("size", -1),
                                         ("atime_ns", -1), ("mtime_ns", -1), ("ctime_ns", -1))):
        if which >> bit & 1:
            wanted[field] = s.number() & most
    if s.byte() & 1:
        wanted.update((field, -10**9 * wanted[field]) for field in ("atime_ns", "ctime_ns") if field in wanted)
    fs.setattr(ino, p.cred(), **wanted)


def clock(_p: Player, fs: Driver, s: Source) -> None:
    """Any time that a clock of 64 bits can tell."""
    now = s.number() * (-1) ** s.byte()
    fs.mp.now = lambda: now


def readdir(p: Player, fs: Driver, s: Source) -> None:
    """From any cookie on."""
    ino = p.ino()
    if fs.getattr(ino).mode & 0o170000 == 0o040000:         # the kernel reads no other
        fs.readdir_some(ino, s.number(), s.byte() + 1)


def forget(p: Player, fs: Driver, s: Source) -> None:
    """Some or all references."""
    ino = p.ino()
    if fs.refs[ino]:
        fs.forget(ino, s.byte() % (fs.refs[ino] + 1))


def regular(fs: Driver, ino: int) -> bool:
    """Whether the kernel would read or write it."""
    return fs.getattr(ino).mode & 0o170000 == 0o100000


def write(p: Player, fs: Driver, s: Source) -> None:
    """Some bytes somewhere."""
    ino = p.ino()
    if regular(fs, ino):
        fs.write(ino, s.number(), s.bytes())


def read(p: Player, fs: Driver, s: Source) -> None:
    """Some bytes from somewhere."""
    ino = p.ino()
    if regular(fs, ino):
        fs.read(ino, s.number(), s.number() & 0xFFFFF)


OPERATIONS: tuple[Callable[[Player, Driver, Source], Any], ...] = (
    lambda p, fs, s: fs.create(p.ino(), p.name(), s.number() & 0xFFFF, p.cred()),
    lambda p, fs, s: fs.mkdir(p.ino(), p.name(), s.number() & 0xFFFF, p.cred()),
    lambda p, fs, s: fs.mknod(p.ino(), p.name(), s.number() & 0xFFFFFFFF, s.number(), p.cred()),
    lambda p, fs, s: fs.symlink(p.ino(), p.name(), s.bytes(), p.cred()),
    lambda p, fs, s: fs.link(p.ino(), p.ino(), p.name()),
    lambda p, fs, s: fs.unlink(p.ino(), p.name()),
    lambda p, fs, s: fs.rmdir(p.ino(), p.name()),
    lambda p, fs, s: fs.rename(p.ino(), p.name(), p.ino(), p.name(), s.byte() & 15, p.cred()),
    lambda p, fs, s: fs.lookup(p.ino(), p.name()),
    lambda p, fs, s: fs.lookup(s.number(), b"."),
    lambda p, fs, s: fs.lookup(p.ino(), b".."),
    lambda p, fs, s: fs.getattr(p.ino()),
    setattr_, readdir, forget, clock,
    lambda p, fs, s: fs.readlink(p.ino()),
    lambda p, fs, s: fs.open(p.ino(), s.number() & 0xFFFFFF, p.cred()),
    read, write,
    lambda p, fs, s: fs.truncate(p.ino(), s.number()),
    lambda p, fs, s: fs.punch(p.ino(), s.number(), s.number()),
    lambda p, fs, s: fs.setxattr(p.ino(), p.attribute(), s.bytes(), s.byte() & 3, p.cred()),
    lambda p, fs, s: fs.getxattr(p.ino(), p.attribute()),
    lambda p, fs, s: fs.removexattr(p.ino(), p.attribute(), p.cred()),
    lambda p, fs, s: fs.listxattr(p.ino(), p.cred()),
    lambda p, fs, s: fs.statfs(),
    lambda p, fs, s: (fs.mp.breathe(), fs.mp.idle()),
)


def one(data: bytes) -> None:
    """Play the bytes as operations, on a new file system."""
    source = Source(data)
    kind = source.byte()
    mode = ("starving", "thrash")[kind & 1]
    # Few frames: a check looks at each, and is most of the time.
    options: dict[str, Any] = {"acl": bool(kind & 64), "size_bytes": 4 << 20, "ram_bytes": STARVING_FRAMES * PAGE_SIZE}
    if kind & 128:
        options["nr_inodes"] = 6
    fs = Driver(make_mount(swap_directory(), mode, **options), mode)
    player = Player(fs, source)
    for _ in range(MOST_OPERATIONS):
        if not source:
            break
        try:
            player.step()
        except Inconsistent:
            raise
        except (FsError, VmError) as error:
            assert error.errno in errno.errorcode
    fs.check()
    if kind & 8:
        fs.finish()             # removing everything takes longer than all the rest
    fs.mp.close()


@functools.cache
def swap_directory() -> str:
    """The directory for the swap files of all runs, which have no names."""
    directory = tempfile.TemporaryDirectory(prefix="tmpfsd-fuzz-")
    KEPT.append(directory)
    return directory.name


KEPT: list[Any] = []            # until the interpreter ends

if __name__ == "__main__":
    fuzzlib.main("tests.fuzz.vnops")
