"""fuse/space.py and fuse/ioctls.py, driven by bytes: room, and chattr."""

import errno
import os

from tests.fs.wirelib import Wire, refused
from tmpfsd.fuse import abi, ioctls
from tmpfsd.tmpfs.cut import STEP_PAGES
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


class TestFlags:
    def ioctl(self, wire: Wire, ino: int, command: int, data: bytes = b"", room: int = 0) -> bytes:
        reply = wire.ask(abi.IOCTL, ino, abi.IOCTL_IN.pack(0, command, 0, len(data), room) + data)
        assert reply[:abi.IOCTL_OUT.size] == bytes(abi.IOCTL_OUT.size)
        return reply[abi.IOCTL_OUT.size:]

    def test_flags(self, wire: Wire) -> None:
        ino = wire.mknod(ROOT, b"a")
        assert self.ioctl(wire, ino, ioctls.FS_IOC_SETFLAGS, b"\x60\0\0\0") == b""
        assert self.ioctl(wire, ino, ioctls.FS_IOC_GETFLAGS, room=4) == b"\x60\0\0\0"
        assert self.ioctl(wire, ino, ioctls.FS_IOC_GETFLAGS, room=8) == b"\x60\0\0\0"
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
