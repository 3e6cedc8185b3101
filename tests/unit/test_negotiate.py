"""The INIT handshake, on a pair of sockets that stands for the kernel's descriptor."""

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tmpfsd.server.negotiate import (
    ASYNC_DIO, CACHE_SYMLINKS, DONT_MASK, HANDLE_KILLPRIV_V2, Negotiation, answer_with, offered
)

FUSE_INIT = 26
IN_HEADER, OUT_HEADER = struct.Struct("=IIQQIII4x"), struct.Struct("=IiQ")
IN_INIT = OUT_INIT = struct.Struct("=IIII")
ALL = HANDLE_KILLPRIV_V2 | CACHE_SYMLINKS
LOOKUP = 1


def request(flags: int, opcode: int = FUSE_INIT, major: int = 7) -> bytes:
    """An INIT as the kernel sends it, with the bytes that newer kernels add."""
    body = IN_INIT.pack(major, 45, 131072, flags) + bytes(48)
    return IN_HEADER.pack(IN_HEADER.size + len(body), opcode, 2, 0, 0, 0, 0) + body


def answer(flags: int, error: int = 0, major: int = 7) -> bytes:
    """The answer of libfuse."""
    body = OUT_INIT.pack(major, 38, 131072, flags) + struct.pack("=HHI", 12, 9, 1 << 20) + bytes(40)
    return OUT_HEADER.pack(OUT_HEADER.size + len(body), error, 2) + body


def flags_of(told: bytes) -> int:
    """The flags of an answer."""
    return OUT_INIT.unpack_from(told, OUT_HEADER.size)[3]


@pytest.fixture
def kernel() -> Iterator[tuple[socket.socket, int]]:
    """The kernel's side, and the session's descriptor."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    fd = theirs.detach()
    with ours:
        yield ours, fd
    with suppress(OSError):
        os.close(fd)


@pytest.mark.parametrize("flags, agreed", [(ALL | 1, ALL), (CACHE_SYMLINKS, CACHE_SYMLINKS), (1, 0)])
def test_asks_for_what_is_offered(kernel: tuple[socket.socket, int], flags: int, agreed: int) -> None:
    ours, fd = kernel
    before = len(os.listdir("/proc/self/fd"))
    negotiation = Negotiation()
    ours.send(request(flags))
    negotiation.ask(fd)
    assert os.read(fd, 1 << 20) == request(flags), "libfuse reads what the kernel sent"
    os.write(fd, answer(1))
    negotiation.tell(fd)
    told = ours.recv(1 << 20)
    assert flags_of(told) == 1 | agreed and len(told) == len(answer(1)) and negotiation.features == agreed
    os.write(fd, b"later")
    assert ours.recv(100) == b"later", "the descriptor is the kernel's again"
    assert len(os.listdir("/proc/self/fd")) == before and not os.get_inheritable(fd)


@pytest.mark.parametrize("dont_mask", [False, True])
def test_the_umask_is_left_to_the_server_with_acls(kernel: tuple[socket.socket, int], dont_mask: bool) -> None:
    ours, fd = kernel
    negotiation = Negotiation(dont_mask)
    ours.send(request(ALL | DONT_MASK))
    negotiation.ask(fd)
    os.read(fd, 1 << 20)
    os.write(fd, answer(1))
    negotiation.tell(fd)
    assert flags_of(ours.recv(1 << 20)) == 1 | ALL | dont_mask * DONT_MASK


def test_asynchronous_direct_writes_are_not_agreed_on() -> None:
    """Whether or not anything else is."""
    for features in (0, ALL):
        assert flags_of(answer_with(answer(1 | ASYNC_DIO), features)) == 1 | features


def limits_of(told: bytes) -> tuple[int, int]:
    """max_write and max_pages of an answer."""
    return struct.unpack_from("=I4xH", told, OUT_HEADER.size + 20)


@pytest.mark.parametrize("asked, pages, told", [(1 << 20, 256, (256 << 10, 64)), (65536, 32, (65536, 32))])
def test_a_write_is_not_longer_than_others_can_wait(asked: int, pages: int, told: tuple[int, int]) -> None:
    said = bytearray(answer(1))
    struct.pack_into("=I4xH", said, OUT_HEADER.size + 20, asked, pages)
    assert limits_of(answer_with(bytes(said), 0)) == told


def test_an_answer_without_limits_keeps_its_length() -> None:
    body = OUT_INIT.pack(7, 38, 131072, 1) + bytes(8)
    said = OUT_HEADER.pack(OUT_HEADER.size + len(body), 0, 2) + body
    assert len(answer_with(said, ALL)) == len(said)


@pytest.mark.parametrize("said", [
    answer(1, error=-71), answer(1, major=6), b"", b"x" * 20, answer(1)[:-1], answer(1 | ASYNC_DIO, error=-5)])
def test_an_answer_that_is_not_understood_goes_on_as_it_is(kernel: tuple[socket.socket, int], said: bytes) -> None:
    ours, fd = kernel
    negotiation = Negotiation()
    ours.send(request(ALL))
    negotiation.ask(fd)
    os.read(fd, 1 << 20)
    if said:
        os.write(fd, said)
    negotiation.tell(fd)
    if said:
        assert ours.recv(1 << 20) == said and negotiation.features == 0


def test_unmounted_before_the_first_request(kernel: tuple[socket.socket, int]) -> None:
    _ours, fd = kernel
    os.close(fd)
    negotiation = Negotiation()
    negotiation.ask(fd)
    negotiation.tell(fd)
    assert negotiation.asked and not negotiation.features


def test_only_init_is_read_for_offers() -> None:
    assert offered(request(ALL), ALL) == ALL
    assert offered(request(ALL, opcode=LOOKUP), ALL) == offered(request(ALL, major=8), ALL) == offered(b"", ALL) == 0
    assert flags_of(answer_with(answer(4), 0)) == 4
