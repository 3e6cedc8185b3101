"""fuzz/wire.py: bytes as requests of the kernel: any opcode, any node, any structure, cut or lengthened anywhere.

vnops.py beside this sends what the kernel could send; here the decoder gets requests that the kernel never sends.  In
all cases each request that has an answer gets one whose length is right, its error is an errno, no invariant breaks,
and at the end the whole file system passes its check.
"""

from __future__ import annotations

import errno
import functools
import tempfile
from typing import Any

from tests.fs.fslib import STARVING_FRAMES, make_mount
from tests.fs.wirelib import ALL_FLAGS, Wire, joined
from tests.fuzz import fuzzlib
from tests.fuzz.fuzzlib import Source
from tmpfsd.fuse import abi
from tmpfsd.fuse.session import NO_ANSWER, OPERATIONS
from tmpfsd.uvm.param import PAGE_SIZE

MOST_REQUESTS = 60
NODES = 12                      # of those that are there, and some that are not
NAMES = (b"a\0", b"b\0", b"c\0", b"n" * 255 + b"\0", b"n" * 256 + b"\0", b".\0", b"..\0", b"a/b\0", b"\0", b"",
         b"user.a\0", b"trusted.t\0", b"system.posix_acl_default\0", b"a\0b\0", b"b\0c\0")
ABSURD = ((1 << 64) - 1, 1 << 63, 1 << 32, (1 << 32) - 1, 1 << 31, 0)
KNOWN = (*OPERATIONS, *NO_ANSWER)
MAKING = (abi.MKNOD, abi.MKDIR, abi.SYMLINK, abi.WRITE, abi.SETATTR, abi.LINK, abi.RENAME2)     # more often than others


def node(source: Source) -> int:
    """Mostly a number that a node may have."""
    choice = source.byte()
    return choice % NODES + 1 if choice < 240 else ABSURD[choice % len(ABSURD)]


def body(source: Source, opcode: int) -> bytes:
    """The structure that the opcode has, of numbers that make sense, or any bytes; then a name, or any bytes."""
    operation = OPERATIONS.get(opcode) or NO_ANSWER.get(opcode)
    least = operation.least if operation else 8
    choice = source.byte()
    if choice < 160:
        words = [source.number() & (1 << 64) - 1 for _ in range(-(-least // 8))]
        head = b"".join(word.to_bytes(8, "little") for word in words)[:least]
        if opcode == abi.WRITE:
            data = source.bytes()
            opened = source.number() & 0xFFFFFFFF
            return abi.WRITE_IN.pack(source.number(), len(data), source.byte() & 7, opened) + data
        if opcode in (abi.MKNOD, abi.MKDIR):
            head = (0o100000 | source.number() & 0o7777).to_bytes(4, "little") + head[4:]
        if opcode in (abi.LINK, abi.RENAME, abi.RENAME2):
            head = node(source).to_bytes(8, "little") + head[8:]
    else:
        head = source.bytes()
    choice = source.byte()
    return head + (NAMES[choice % len(NAMES)] if choice < 220 else source.bytes())


def request(wire: Wire, source: Source) -> tuple[bytes, bool]:
    """One request, and whether it is whole."""
    choice = source.byte()
    if choice < 120:
        opcode = MAKING[choice % len(MAKING)]
    else:
        opcode = KNOWN[choice % len(KNOWN)] if choice < 250 else source.number() & 0xFFFFFFFF
    wire.uid = wire.gid = 0 if source.byte() < 128 else 1000
    data = wire.request(opcode, node(source), body(source, opcode))
    choice = source.byte()
    if choice < 230:
        return data, True
    if choice < 240:
        return data[:choice * len(data) // 256], False              # cut
    if choice < 248:
        return data + source.bytes(), False                         # lengthened
    return source.number().to_bytes(8, "little")[:4] + data[4:], False


def opcode_of(data: bytes) -> int:
    """The opcode, or -1."""
    return int.from_bytes(data[4:8], "little") if len(data) >= abi.BODY else -1


def expects(data: bytes) -> bool:
    """Whether a request has an answer."""
    return opcode_of(data) not in (-1, *NO_ANSWER)


def one(data: bytes) -> None:
    """Play the bytes as requests, on a new session."""
    source = Source(data)
    kind = source.byte()
    options: dict[str, Any] = {"acl": bool(kind & 64), "xattr": True, "writeback": bool(kind & 32)}
    mp = make_mount(swap_directory(), ("starving", "thrash")[kind & 1], size_bytes=4 << 20,
                    ram_bytes=STARVING_FRAMES * PAGE_SIZE, acl=options["acl"])
    wire = Wire(mp, flags=0, **options)
    if kind & 16:
        wire.raw(wire.request(abi.INIT, 0, source.bytes()))
    if not wire.session.agreed.minor:
        wire.init(ALL_FLAGS if not kind & 4 else ALL_FLAGS & ~abi.INIT_FLAGS["FUSE_SETXATTR_EXT"])
    for _ in range(MOST_REQUESTS):
        if not source:
            break
        play(wire, source)
    wire.close()


def play(wire: Wire, source: Source) -> None:
    """One request and its answer."""
    data, whole = request(wire, source)
    reply = joined(wire.session.handle(memoryview(data)))
    if opcode_of(data) != abi.NOTIFY_REPLY:     # refused where it is wrong, and nobody listens
        assert (reply is not None) == expects(data), data
    assert not wire.rules.seen, wire.rules.seen
    if reply is None:
        return
    length, error, unique = abi.OUT_HEADER.unpack(reply)
    assert length == len(reply) and -error in (0, *errno.errorcode)
    assert not error or length == abi.OUT_HEADER.size
    assert not whole or unique == wire.unique


@functools.cache
def swap_directory() -> str:
    """The directory for the swap files of all runs, which have no names."""
    directory = tempfile.TemporaryDirectory(prefix="tmpfsd-fuzz-")
    KEPT.append(directory)
    return directory.name


KEPT: list[Any] = []            # until the interpreter ends

if __name__ == "__main__":
    fuzzlib.main("tests.fuzz.wire")
