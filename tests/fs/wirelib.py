"""fs/wirelib.py: drive a Session as the kernel would: bytes in, bytes out.

Wire makes the requests (header, structure, tail) and takes the replies apart.  It keeps only what a test needs of them,
and counts no references: fslib.Driver checks the tables afterwards.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from struct import Struct
from typing import Any, NamedTuple

from tests.fs.fslib import make_mount
from tmpfsd.fuse import abi, init
from tmpfsd.fuse.abi import Structure
from tmpfsd.fuse.session import Session
from tmpfsd.options import Config
from tmpfsd.tmpfs.filesystem import Mount
from tmpfsd.tmpfs.fserror import FsError
from tmpfsd.uvm.errors import Inconsistent, VmError

ALL_FLAGS = sum(abi.INIT_FLAGS.values())
EVERY = (1 << 32) - 1


class Refused(Exception):
    """A reply with an errno."""

    def __init__(self, code: int) -> None:
        super().__init__(errno.errorcode.get(code, code))
        self.errno = code


@contextmanager
def refused(code: int) -> Iterator[None]:
    """See that a request is refused with this errno."""
    try:
        yield
    except Refused as refusal:
        assert refusal.errno == code, f"{refusal} instead of {errno.errorcode[code]}"
    else:
        raise AssertionError(f"not refused with {errno.errorcode[code]}")


class Rules:
    """The policy of a server that serves nobody."""

    def __init__(self) -> None:
        self.requests: dict[str, int] = {}
        self.broken = False
        self.seen: list[VmError] = []

    def errno_of(self, error: FsError | VmError, _name: str) -> int:
        """The answers of a server; a broken invariant is kept."""
        if isinstance(error, Inconsistent):
            self.broken = True
            self.seen.append(error)
        return error.errno

    def demand_writable(self) -> None:
        """Nothing is changed after that."""
        if self.broken:
            raise FsError(errno.EROFS)


class Attributes(NamedTuple):
    """struct fuse_attr."""

    ino: int
    size: int
    blocks: int
    atime: int
    mtime: int
    ctime: int
    atimensec: int
    mtimensec: int
    ctimensec: int
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    blksize: int


class Dirent(NamedTuple):
    """One of a listing."""

    name: bytes
    ino: int
    cookie: int
    kind: int
    node: int           # of READDIRPLUS: its nodeid


def joined(reply: Any) -> bytes | None:
    """A reply as the kernel sees it."""
    return reply if reply is None or isinstance(reply, bytes) else b"".join(map(bytes, reply))


class Wire:
    """One session that has had its INIT."""

    def __init__(self, mp: Mount | None = None, swap: str | None = None, flags: int = ALL_FLAGS,
                 **options: Any) -> None:
        self.rules = Rules()
        self.mp = mp or make_mount(swap, **options)
        config = Config(**{"swap": None, "uid": 0, "gid": 0, **options})
        self.session = Session(self.mp, config, self.rules)
        self.unique = self.steps = 0        # steps: of what was answered later
        self.uid = self.gid = self.pid = 0
        if flags:
            self.init(flags)

    def raw(self, data: bytes) -> bytes | None:
        """Any bytes."""
        return joined(self.session.handle(memoryview(data)))

    def request(self, opcode: int, ino: int, body: bytes = b"") -> bytes:
        """The bytes of a request."""
        self.unique += 2
        size = abi.BODY + len(body)
        return abi.IN_HEADER.pack(size, opcode, self.unique, ino, self.uid, self.gid, self.pid) + body

    def ask(self, opcode: int, ino: int, body: bytes = b"") -> bytes:
        """The reply to a request, without the header.  => Refused."""
        reply = self.raw(self.request(opcode, ino, body))
        while reply is None and self.session.later:
            self.steps += 1
            reply = joined(self.session.go_on())
        assert reply is not None, f"opcode {opcode}: no reply"
        length, error, unique = abi.OUT_HEADER.unpack(reply)
        assert length == len(reply) and unique == self.unique, f"opcode {opcode}: {reply!r}"
        if error:
            assert length == abi.OUT_HEADER.size and error < 0
            raise Refused(-error)
        return reply[abi.OUT_HEADER.size:]

    def tell(self, opcode: int, ino: int, body: bytes = b"") -> None:
        """A request that has no reply."""
        assert self.raw(self.request(opcode, ino, body)) is None

    # --- the requests that tests make often ---

    def init(self, flags: int = ALL_FLAGS, major: int = 7, minor: int = 45, readahead: int = 131_072) -> tuple:
        """INIT: the answer."""
        body = abi.INIT_IN.pack(major, minor, readahead, flags & EVERY, flags >> 32)
        return abi.INIT_OUT.unpack(self.ask(abi.INIT, 0, body))

    def entry(self, opcode: int, dino: int, body: bytes) -> tuple[int, Attributes]:
        """The node and the attributes of an answer with an entry."""
        node, _generation, valid, attr_valid, *attributes = abi.ENTRY_OUT.unpack(self.ask(opcode, dino, body))
        assert valid and attr_valid
        return node, Attributes(*attributes)

    def lookup(self, dino: int, name: bytes) -> int:
        """LOOKUP: the node, or 0."""
        return self.entry(abi.LOOKUP, dino, name + b"\0")[0]

    def mknod(self, dino: int, name: bytes, mode: int = 0o100644, rdev: int = 0, umask: int = 0) -> int:
        """MKNOD."""
        return self.entry(abi.MKNOD, dino, abi.MKNOD_IN.pack(mode, rdev, umask) + name + b"\0")[0]

    def mkdir(self, dino: int, name: bytes, mode: int = 0o755, umask: int = 0) -> int:
        """MKDIR."""
        return self.entry(abi.MKDIR, dino, abi.MKDIR_IN.pack(mode, umask) + name + b"\0")[0]

    def getattr(self, ino: int) -> Attributes:
        """GETATTR."""
        _valid, *attributes = abi.ATTR_OUT.unpack(self.ask(abi.GETATTR, ino, abi.GETATTR_IN.pack(0, 0)))
        return Attributes(*attributes)

    def setattr(self, ino: int, valid: int, **fields: int) -> Attributes:
        """SETATTR of the fields in `valid`."""
        names = [name for name, code in abi.SETATTR_IN.fields if "x" not in code]
        body = abi.SETATTR_IN.pack(*({**dict.fromkeys(names, 0), "valid": valid, **fields}[name] for name in names))
        _valid, *attributes = abi.ATTR_OUT.unpack(self.ask(abi.SETATTR, ino, body))
        return Attributes(*attributes)

    def read(self, ino: int, offset: int, size: int) -> bytes:
        """READ."""
        return self.ask(abi.READ, ino, abi.READ_IN.pack(offset, size))

    def write(self, ino: int, offset: int, data: bytes, flags: int = 0, opened: int = 0) -> int:
        """WRITE: how much was written."""
        body = abi.WRITE_IN.pack(offset, len(data), flags, opened) + data
        return abi.WRITE_OUT.unpack(self.ask(abi.WRITE, ino, body))[0]

    def listing(self, ino: int, plus: bool = False, cookie: int = 0, size: int = 4096) -> list[Dirent]:
        """One READDIR or READDIRPLUS."""
        data = self.ask(abi.READDIRPLUS if plus else abi.READDIR, ino, abi.READ_IN.pack(cookie, size))
        assert len(data) <= size
        found, at = [], 0
        while at < len(data):
            node = 0
            if plus:
                node = Struct("=Q").unpack_from(data, at)[0]
                at += abi.ENTRY_OUT.size
            number, key, length, kind = abi.DIRENT.unpack(data, at)
            at += abi.DIRENT.size
            found.append(Dirent(data[at:at + length], number, key, kind, node))
            at += length + (-length & 7)
        assert at == len(data)
        return found

    def close(self) -> None:
        """Nothing was found broken, and nothing is now."""
        assert not self.rules.seen, self.rules.seen
        self.mp.breathe()
        self.mp.check()
        self.mp.close()


def structure(name: str) -> Structure:
    """A structure by its name in the header."""
    return next(each for each in abi.STRUCTURES if each.name == name)


MOST_OF_ONE_REQUEST = init.BUFFER
