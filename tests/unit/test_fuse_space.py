"""fuse/space.py and fuse/ioctls.py, driven by bytes: room, holes, and chattr."""

import errno
import os
from typing import Any

import pytest

from tests import failpoints
from tests.fs.wirelib import Wire, refused
from tmpfsd.fuse import abi, ioctls
from tmpfsd.tmpfs import holes, reap
from tmpfsd.tmpfs.cut import STEP_PAGES
from tmpfsd.uvm.errors import NoMemory
from tmpfsd.uvm.param import PAGE_SIZE

ROOT = abi.ROOT_ID
BASIC = ("FUSE_NO_OPEN_SUPPORT", "FUSE_NO_OPENDIR_SUPPORT", "FUSE_MAX_PAGES", "FUSE_BIG_WRITES")


class TestSpace:
    def test_punch(self, wire: Wire) -> None:
        ino = wire.mknod(ROOT, b"a")
        wire.write(ino, 0, b"x" * (4 * PAGE_SIZE))
        assert wire.ask(abi.FALLOCATE, ino, abi.FALLOCATE_IN.pack(PAGE_SIZE, PAGE_SIZE + 5, 3)) == b""
        assert wire.read(ino, 0, 1 << 20) == b"x" * PAGE_SIZE + bytes(PAGE_SIZE + 5) + b"x" * (2 * PAGE_SIZE - 5)
        for mode in (2, 8, 0x10, 0x11, 0x20, 0x40, 1 << 31):
            with refused(errno.EOPNOTSUPP):
                wire.ask(abi.FALLOCATE, ino, abi.FALLOCATE_IN.pack(0, 1, mode))
        for offset, length, code in ((0, 0, errno.EINVAL), ((1 << 64) - 1, 1, errno.EFBIG),
                                     (1, (1 << 63) - 1, errno.EFBIG)):
            with refused(code):
                wire.ask(abi.FALLOCATE, ino, abi.FALLOCATE_IN.pack(offset, length, 3))
        for mode in (0, 1, 3):
            with refused(errno.EISDIR):
                wire.ask(abi.FALLOCATE, ROOT, abi.FALLOCATE_IN.pack(0, 1, mode))

    def test_a_long_range_is_punched_later(self, wire: Wire) -> None:
        """60,000 extents took 0.9 s, in which nobody else was served."""
        ino = wire.mknod(ROOT, b"a")
        for page in range(0, 400, 2):
            wire.write(ino, page * PAGE_SIZE, b"x" * PAGE_SIZE)
        body = abi.FALLOCATE_IN.pack(PAGE_SIZE + 7, 398 * PAGE_SIZE, 3)
        assert wire.raw(wire.request(abi.FALLOCATE, ino, body)) is None and len(wire.session.later) == 1
        before = wire.getattr(ino).blocks               # others are served meanwhile
        assert wire.session.go_on() is None and wire.getattr(ino).blocks >= before - 8 * STEP_PAGES
        wire.unique -= 4                                # two were asked since
        reply = None
        while reply is None:
            reply = wire.session.go_on()
        assert abi.OUT_HEADER.unpack(reply) == (abi.OUT_HEADER.size, 0, wire.unique) and not wire.session.later
        assert wire.read(ino, 0, 64 * PAGE_SIZE) == b"x" * PAGE_SIZE + bytes(63 * PAGE_SIZE)
        assert wire.getattr(ino).blocks == 8
        wire.mp.check()

    def test_a_file_that_is_gone_is_punched_no_more(self, wire: Wire) -> None:
        ino = wire.mknod(ROOT, b"a")
        for page in range(0, 100, 2):
            wire.write(ino, page * PAGE_SIZE, b"x" * PAGE_SIZE)
        assert wire.raw(wire.request(abi.FALLOCATE, ino, abi.FALLOCATE_IN.pack(0, 100 * PAGE_SIZE, 3))) is None
        wire.session.later[0].ino = 77                  # an unmount or a kernel that lies
        assert wire.session.go_on() is not None and not wire.session.later

    def test_nothing_goes_on_once_an_invariant_broke(self, wire: Wire) -> None:
        ino = wire.mknod(ROOT, b"a")
        for page in range(0, 100, 2):
            wire.write(ino, page * PAGE_SIZE, b"x" * PAGE_SIZE)
        assert wire.raw(wire.request(abi.FALLOCATE, ino, abi.FALLOCATE_IN.pack(0, 100 * PAGE_SIZE, 3))) is None
        wire.rules.broken, blocks = True, wire.getattr(ino).blocks
        assert abi.OUT_HEADER.unpack(wire.session.go_on())[1] == -errno.EROFS
        assert wire.getattr(ino).blocks == blocks
        wire.rules.broken = False

    def test_reserve(self, wire: Wire) -> None:
        ino = wire.mknod(ROOT, b"a")
        wire.ask(abi.FALLOCATE, ino, abi.FALLOCATE_IN.pack(10, 5 * PAGE_SIZE, 1))
        assert (wire.getattr(ino).size, wire.getattr(ino).blocks) == (0, 48)
        wire.ask(abi.FALLOCATE, ino, abi.FALLOCATE_IN.pack(10, 5 * PAGE_SIZE, 0))
        assert (wire.getattr(ino).size, wire.getattr(ino).blocks) == (5 * PAGE_SIZE + 10, 48)
        with refused(errno.ENOSPC):
            wire.ask(abi.FALLOCATE, ino, abi.FALLOCATE_IN.pack(0, 1 << 50, 0))
        assert wire.read(ino, 0, 1 << 20) == bytes(5 * PAGE_SIZE + 10)

    def test_seek(self, wire: Wire) -> None:
        def seek(offset: int, whence: int) -> int:
            return abi.LSEEK_OUT.unpack(wire.ask(abi.LSEEK, ino, abi.LSEEK_IN.pack(offset, whence)))[0]

        ino = wire.mknod(ROOT, b"a")
        wire.write(ino, 2 * PAGE_SIZE, b"x" * PAGE_SIZE)
        wire.setattr(ino, abi.FATTR_SIZE, size=5 * PAGE_SIZE)
        assert seek(0, os.SEEK_DATA) == 2 * PAGE_SIZE == seek(2 * PAGE_SIZE, os.SEEK_DATA)
        assert (seek(0, os.SEEK_HOLE), seek(2 * PAGE_SIZE + 1, os.SEEK_HOLE)) == (0, 3 * PAGE_SIZE)
        for offset, whence, code in ((3 * PAGE_SIZE, os.SEEK_DATA, errno.ENXIO), (0, os.SEEK_SET, errno.EINVAL),
                                     (5 * PAGE_SIZE, os.SEEK_HOLE, errno.ENXIO), ((1 << 64) - 1, 3, errno.ENXIO)):
            with refused(code):
                seek(offset, whence)
        with refused(errno.EISDIR):
            wire.ask(abi.LSEEK, ROOT, abi.LSEEK_IN.pack(0, os.SEEK_DATA))

    def test_a_hole_is_told_when_it_was_written_back(self, wire: Wire) -> None:
        asked: list[tuple[int, ...]] = []
        wire.session.flush = lambda *what: asked.append(what)
        ino = wire.mknod(ROOT, b"a")
        wire.setattr(ino, abi.FATTR_SIZE, size=9 * PAGE_SIZE)
        wire.write(ino, 5 * PAGE_SIZE, b"x" * PAGE_SIZE)

        def begin(offset: int, whence: int) -> int:
            assert wire.raw(wire.request(abi.LSEEK, ino, abi.LSEEK_IN.pack(offset, whence))) is None
            return wire.unique

        def written_back(unique: int) -> tuple[int, ...] | None:
            reply = wire.raw(abi.IN_HEADER.pack(abi.BODY, abi.NOTIFY_REPLY, unique, ino, 0, 0, 0))
            if reply is None:
                return None
            _length, error, answered = abi.OUT_HEADER.unpack(reply)
            assert answered == unique
            return (error,) if error else abi.LSEEK_OUT.unpack(reply, abi.OUT_HEADER.size)

        first, second, third = begin(10, os.SEEK_DATA), begin(0, os.SEEK_HOLE), begin(6 * PAGE_SIZE, os.SEEK_DATA)
        assert asked == [(first, ino, 10, 5 * PAGE_SIZE - 10), (second, ino, 0, 5 * PAGE_SIZE),
                         (third, ino, 6 * PAGE_SIZE, 3 * PAGE_SIZE)]
        wire.write(ino, 0, b"x" * 2 * PAGE_SIZE)
        assert written_back(first) == (10,) and written_back(third) == (-errno.ENXIO,)
        wire.write(ino, 2 * PAGE_SIZE, b"x" * 4 * PAGE_SIZE)
        assert written_back(second) is None, "another hole, which nobody has asked about"
        assert asked[3:] == [(second, ino, 6 * PAGE_SIZE, 3 * PAGE_SIZE)] and written_back(second) == (6 * PAGE_SIZE,)
        assert [written_back(unique) for unique in (first, second, third, 77)] == [None] * 4 and not wire.session.seeks

    def test_where_no_hole_is_told_nothing_is_written_back(self, wire: Wire) -> None:
        asked: list[tuple[int, ...]] = []
        wire.session.flush = lambda *what: asked.append(what)
        ino = wire.mknod(ROOT, b"a")
        wire.write(ino, 0, b"x" * 2 * PAGE_SIZE)
        for offset, whence, found in ((5, os.SEEK_DATA, 5), (5, os.SEEK_HOLE, 2 * PAGE_SIZE)):
            body = abi.LSEEK_IN.pack(offset, whence)
            assert abi.LSEEK_OUT.unpack(wire.ask(abi.LSEEK, ino, body)) == (found,)
        for offset, whence, code in ((2 * PAGE_SIZE, os.SEEK_DATA, errno.ENXIO), (0, os.SEEK_SET, errno.EINVAL),
                                     (2 * PAGE_SIZE, os.SEEK_HOLE, errno.ENXIO), ((1 << 64) - 1, 3, errno.ENXIO)):
            with refused(code):
                wire.ask(abi.LSEEK, ino, abi.LSEEK_IN.pack(offset, whence))
        assert not asked and not wire.session.seeks

    def test_no_seek_where_data_may_be_in_the_kernel_only(self) -> None:
        wire = Wire(writeback=True)
        with refused(errno.ENOSYS):
            wire.ask(abi.LSEEK, wire.mknod(ROOT, b"a"), abi.LSEEK_IN.pack(0, os.SEEK_DATA))
        wire.close()


class TestFlags:
    def ioctl(self, wire: Wire, ino: int, command: int, data: bytes = b"", room: int = 0) -> bytes:
        reply = wire.ask(abi.IOCTL, ino, abi.IOCTL_IN.pack(0, command, 0, len(data), room) + data)
        assert reply[:abi.IOCTL_OUT.size] == bytes(abi.IOCTL_OUT.size)
        return reply[abi.IOCTL_OUT.size:]

    def test_flags(self, wire: Wire) -> None:
        ino = wire.mknod(ROOT, b"a")
        assert self.ioctl(wire, ino, ioctls.FS_IOC_SETFLAGS, b"\x60\0\0\0") == b""
        assert self.ioctl(wire, ino, ioctls.FS_IOC_GETFLAGS, room=4) == b"\x60\0\0\0"
        assert self.ioctl(wire, ino, ioctls.FS_IOC_GETFLAGS, room=8) == b"\x60" + bytes(7)
        assert self.ioctl(wire, ino, ioctls.FS_IOC_FSGETXATTR, room=28) == b"\x90" + bytes(27)
        statx = dict(zip((name for name, code in abi.STATX_OUT.fields if "x" not in code),
                         abi.STATX_OUT.unpack(wire.ask(abi.STATX_OP, ino, bytes(24)))))
        assert (statx["stat.attributes"], statx["stat.attributes_mask"]) == (0x60, 0x70)
        assert wire.getattr(ino).rdev == 0
        wire.write(ino, 0, b"abc", opened=os.O_APPEND)
        for offset, opened in ((0, os.O_APPEND), (3, 0)):
            with refused(errno.EPERM):
                wire.write(ino, offset, b"abc", opened=opened)
        assert wire.read(ino, 0, 100) == b"abc"

    def test_refused(self, wire: Wire) -> None:
        ino, fifo = wire.mknod(ROOT, b"a"), wire.mknod(ROOT, b"f", 0o010644)
        for node, command, data, code in ((ino, 0x5401, b"", errno.ENOTTY),
                                          (fifo, ioctls.FS_IOC_GETFLAGS, b"", errno.ENOTTY),
                                          (ino, ioctls.FS_IOC_SETFLAGS, b"\1\0", errno.EINVAL),
                                          (ino, ioctls.FS_IOC_SETFLAGS, b"\1\0\0\0", errno.EOPNOTSUPP),
                                          (ino, ioctls.FS_IOC_SETFLAGS, b"\0\0\0\x80", errno.EOPNOTSUPP),
                                          (ino, ioctls.FS_IOC_FSSETXATTR, b"\x10" + bytes(20), errno.EINVAL),
                                          (ino, ioctls.FS_IOC_FSSETXATTR, bytes(4) + b"\1" + bytes(23),
                                           errno.EOPNOTSUPP)):
            with refused(code):
                self.ioctl(wire, node, command, data)
        wire.uid, wire.pid = 1000, 0
        with refused(errno.EPERM):
            self.ioctl(wire, ino, ioctls.FS_IOC_SETFLAGS, b"\x40\0\0\0")


def test_memory_is_short_for_an_answer(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    failpoints.interpreted_only()
    wire.session.flush = lambda *_what: None
    ino = wire.mknod(ROOT, b"a")
    wire.setattr(ino, abi.FATTR_SIZE, size=9 * PAGE_SIZE)
    assert wire.raw(wire.request(abi.LSEEK, ino, abi.LSEEK_IN.pack(5, os.SEEK_HOLE))) is None
    seek, refusals = holes.seek, [NoMemory("frames")]

    def short(*args: Any) -> int:
        if refusals:
            raise refusals.pop()
        return seek(*args)

    monkeypatch.setattr(holes, "seek", short)
    monkeypatch.setattr(reap, "make_room", lambda _mount: True)
    reply = wire.raw(abi.IN_HEADER.pack(abi.BODY, abi.NOTIFY_REPLY, wire.unique, ino, 0, 0, 0))
    assert reply == abi.OUT_HEADER.pack(24, 0, wire.unique) + abi.LSEEK_OUT.pack(5) and not wire.session.seeks
