"""Servers of swap with wrong answers: garbage, without an end, a byte at a time; and under another server's name."""

import contextlib
import resource
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.servers import Certificates
from tmpfsd.stores.valkey import ValkeyStore, open_remote, open_with
from tmpfsd.uvm.param import PAGE_SIZE

pytest.importorskip("valkey")
MB = 1 << 20
Answer = Callable[[list[bytes]], "Iterator[bytes]"]


def right(command: list[bytes]) -> Iterator[bytes]:
    """The answers of a server that has only pages of zeros."""
    name = command[0].upper()
    if name == b"INFO":
        yield b"$26\r\ncluster_enabled:0\nmaxmem:0\r\n"
    elif name == b"HMGET":
        yield b"*%d\r\n" % len(command[2:]) + (b"$%d\r\n" % PAGE_SIZE + bytes(PAGE_SIZE) + b"\r\n") * len(command[2:])
    elif name in (b"HSET", b"EXPIRE", b"UNLINK", b"HDEL"):
        yield b":1\r\n"
    else:
        yield b"+OK\r\n"


def deep(_command: list[bytes]) -> Iterator[bytes]:
    yield b"*1\r\n" * 100_000


def endless(_command: list[bytes]) -> Iterator[bytes]:
    yield b"*1\r\n$99999999999\r\n"
    while True:
        yield bytes(MB)


def line(_command: list[bytes]) -> Iterator[bytes]:
    yield b"+"
    while True:
        yield b"x" * MB


def drip(_command: list[bytes]) -> Iterator[bytes]:
    yield b"*1\r\n$4096\r\n"
    while True:
        yield b"x"
        time.sleep(0.05)


def said(text: bytes) -> Answer:
    def answer(_command: list[bytes]) -> Iterator[bytes]:
        yield text

    return answer


GARBAGE: dict[str, Answer] = {
    "deep": deep, "endless": endless, "line": line, "drip": drip, "no number": said(b"$abc\r\n"),
    "negative": said(b"*1\r\n$-7\r\n"), "too few": said(b"*0\r\n"), "a number": said(b":4096\r\n"),
    "numbers": said(b"*1\r\n:4096\r\n"), "a list": said(b"*1\r\n*4096\r\n" + b":1\r\n" * 4096), "nil": said(b"*-1\r\n"),
    "an error": said(b"-\xff\xfe \x1b[2J\r\n"), "no word": said(b"\r\n"), "html": said(b"HTTP/1.1 400 Bad\r\n\r\n"),
    "many": said(b"*99999999\r\n" + b":1\r\n" * 99999)}


class Fake:
    """It speaks RESP with the answers of `answer`, and keeps what it was told."""

    def __init__(self, tls: "ssl.SSLContext | None" = None) -> None:
        self.answer: Answer = right
        self.told = bytearray()
        self.tls = tls
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self._one, args=(self.listener.accept()[0],), daemon=True).start()

    def _one(self, plain: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), \
                self.tls.wrap_socket(plain, True, False) if self.tls else plain as client:
            if isinstance(client, ssl.SSLSocket):
                client.do_handshake()
            with client.makefile("rb") as file:
                while head := file.readline():
                    command = []
                    for _ in range(int(head[1:])):
                        command.append(file.read(int(file.readline()[1:]) + 2)[:-2])
                        self.told += command[-1]
                    for part in self.answer(command):
                        client.sendall(part)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


@pytest.fixture
def fake() -> Iterator[Fake]:
    server = Fake()
    yield server
    server.answer = right
    server.close()


def heals(store: ValkeyStore) -> None:
    until = time.monotonic() + 20
    page = memoryview(bytearray(b"x" * PAGE_SIZE))
    while True:
        with contextlib.suppress(OSError):
            store.read(0, [page])
            assert page == bytes(PAGE_SIZE) and store.state() in ("ok", "1 pages lost")
            return
        assert time.monotonic() < until, store.state()
        time.sleep(0.05)


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_is_an_error_and_soon(fake: Fake, name: str) -> None:
    store = open_remote(f"valkey://127.0.0.1:{fake.port}/x", "")
    try:
        before, start = peak(), time.monotonic()
        fake.answer = GARBAGE[name]
        with pytest.raises(OSError):
            store.read(0, [memoryview(bytearray(PAGE_SIZE))])
        assert time.monotonic() - start < 15 and peak() - before < 64 * MB
        time.sleep(0.8)                         # the keeper looks, and is told the same
        assert store._keeper.is_alive()
        fake.answer = right
        heals(store)
    finally:
        fake.answer = right
        store.close()


@pytest.mark.parametrize("name", ("deep", "drip", "no number", "a list", "html", "an error"))
def test_garbage_to_a_write(fake: Fake, name: str) -> None:
    store = open_remote(f"valkey://127.0.0.1:{fake.port}/x", "")
    try:
        start = time.monotonic()
        fake.answer = GARBAGE[name]
        with contextlib.suppress(OSError):      # what is no error may be believed: the page has a checksum
            store.write(0, [memoryview(bytes(PAGE_SIZE))] * 3)
        assert store.discard(0, 600) in (True, False)
        assert time.monotonic() - start < 15
        fake.answer = right
        heals(store)
    finally:
        fake.answer = right
        store.close()


@pytest.mark.parametrize("text", (b"ERR no", b"OOM command not allowed", b"x" * 100_000,
                                  b"ERR \xff\x1b[2J \r of pipeline caused error: "))
def test_an_error_tells_nothing_of_a_page(fake: Fake, text: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """The library repeats the command in its error, with the page that was to be written."""
    store = open_remote(f"valkey://127.0.0.1:{fake.port}/x", "")
    fake.answer = said(b"-" + text + b"\r\n")
    try:
        with pytest.raises(OSError) as refusal:
            store.write(0, [memoryview(bytearray(b"secret" * PAGE_SIZE)[:PAGE_SIZE])] * 3)
        for line in (str(refusal.value), *(record.getMessage() for record in caplog.records)):
            assert line.isprintable() and len(line) < 300 and "secret" not in line and "HSET" not in line
    finally:
        fake.answer = right
        caplog.clear()
        store.close()


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_at_the_mount_is_one_line(fake: Fake, name: str) -> None:
    fake.answer = GARBAGE[name]
    start = time.monotonic()
    with pytest.raises(OSError) as error:
        open_remote(f"valkey://127.0.0.1:{fake.port}/x", "").close()
    assert time.monotonic() - start < 15 and "\n" not in str(error.value)


@pytest.mark.parametrize("hosts", (1, 2))
def test_no_password_for_another_name(tmp_path: Path, hosts: int) -> None:
    """Its certificate is of our authority, but for another name: it may be told nothing, nor may a cluster of such."""
    certificates = Certificates(tmp_path / "tls", "127.0.0.2")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.certificate, certificates.key)
    servers = [Fake(context) for _ in range(hosts)]
    try:
        place = ",".join(f"127.0.0.1:{server.port}" for server in servers)
        with pytest.raises(OSError, match="(?i)certificate|cannot be connected"):
            open_with(f"valkeys://{place}/x", b"a secret", certificates.authority.read_text())
        assert [bytes(server.told) for server in servers] == [b""] * hosts
    finally:
        for server in servers:
            server.close()
