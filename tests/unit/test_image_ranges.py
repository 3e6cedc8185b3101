"""Servers of images that misbehave: endless answers, slow ones, wrong parts, redirections."""

import os
import resource
import ssl
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hostileserver import asked, head, ranged, serving
from tests.imageservers import S3_KEYS, set_environment
from tests.servers import Certificates
from tmpfsd.image import ranges
from tmpfsd.image.ranges import Ranges

MB = 1 << 20
SIZE = 1 << 30
pytest.importorskip("aiohttp")
pytest.importorskip("fsspec")


class Misbehaving:
    """Right up to the mount, then as a test wants it."""

    def __init__(self) -> None:
        self.then = self.right

    def __call__(self, method: str, path: str, heads: dict[str, str]) -> Iterator[bytes]:
        if method == "HEAD":
            yield head(200, f"Content-Length: {SIZE}", "Last-Modified: Thu, 01 Jan 1970 00:00:00 GMT")
        else:
            yield from self.then(*asked(heads))

    def right(self, first: int, last: int) -> Iterator[bytes]:
        yield ranged(first, last, SIZE, f"Content-Length: {last + 1 - first}")
        yield bytes(last + 1 - first)

    def endless(self, first: int, last: int) -> Iterator[bytes]:
        yield ranged(first, last, SIZE, "Transfer-Encoding: chunked")
        while True:
            yield b"100000\r\n" + bytes(MB) + b"\r\n"

    def longer(self, first: int, last: int) -> Iterator[bytes]:
        yield ranged(first, last, SIZE, f"Content-Length: {SIZE}")
        while True:
            yield bytes(MB)

    def shorter(self, first: int, last: int) -> Iterator[bytes]:
        yield ranged(first, last, SIZE, f"Content-Length: {last - first}")
        yield bytes(last - first)

    def broken_off(self, first: int, last: int) -> Iterator[bytes]:
        yield ranged(first, last, SIZE, f"Content-Length: {last + 1 - first}")
        yield bytes(last - first)

    def bomb(self, first: int, last: int) -> Iterator[bytes]:
        packer = zlib.compressobj(9, wbits=31)
        body = b"".join([packer.compress(bytes(MB)) for _ in range(64)]) + packer.flush()
        yield ranged(first, last, SIZE, f"Content-Length: {len(body)}", "Content-Encoding: gzip")
        yield body

    def whole(self, _first: int, _last: int) -> Iterator[bytes]:
        yield head(200, f"Content-Length: {SIZE}")
        while True:
            yield bytes(MB)

    def drip(self, first: int, last: int) -> Iterator[bytes]:
        yield ranged(first, last, SIZE, f"Content-Length: {last + 1 - first}")
        while True:
            yield b"x"
            time.sleep(0.05)

    def failing(self, _first: int, _last: int) -> Iterator[bytes]:
        yield head(503, "Transfer-Encoding: chunked")
        while True:
            yield b"100000\r\n" + bytes(MB) + b"\r\n"


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


@pytest.mark.parametrize("how, said", (
    ("endless", "more came"), ("longer", "more came"), ("shorter", "4095 bytes came"), ("broken_off", "."),
    ("bomb", "more came"), ("whole", "does not give parts"), ("failing", "status 503")))
def test_no_more_is_read_than_was_asked_for(how: str, said: str) -> None:
    server = Misbehaving()
    with serving(server) as port:
        file = Ranges(f"http://127.0.0.1:{port}/x?secret=1")
        assert file.size == SIZE and file.read(7, 4103) == bytes(4096)
        before, start, server.then = peak(), time.monotonic(), getattr(server, how)
        with pytest.raises(OSError, match=said) as error:
            file.read(0, 4096)
        assert peak() - before < 32 * MB and time.monotonic() - start < 5
        assert "secret" not in str(error.value)
        server.then = server.right                      # it was so once
        assert file.read(0, 4096) == bytes(4096)


def test_a_slow_drip_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "READ_SECONDS", 0.5)
    server = Misbehaving()
    with serving(server) as port:
        file = Ranges(f"http://127.0.0.1:{port}/x")
        server.then = server.drip
        start = time.monotonic()
        with pytest.raises(OSError, match="no answer|imeout"):
            file.read(0, 4096)
        assert time.monotonic() - start < 4


@pytest.mark.parametrize("how, said", (("endless", "more came"), ("longer", "more came"), ("drip", "no answer")))
def test_s3(how: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("s3fs")
    monkeypatch.setattr(ranges, "READ_SECONDS", 1.0)
    server = Misbehaving()
    with serving(server) as port:
        set_environment(monkeypatch, {**S3_KEYS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"})
        file = Ranges("s3://images/x")
        assert file.size == SIZE and file.read(7, 4103) == bytes(4096)
        before, start, server.then = peak(), time.monotonic(), getattr(server, how)
        with pytest.raises(OSError, match=said):
            file.read(0, 4096)
        assert peak() - before < 32 * MB and time.monotonic() - start < 5


@pytest.mark.parametrize("size", ("-5", "0", "x", str(1 << 63), "9" * 30))
def test_a_size_that_cannot_be(size: str) -> None:
    def answer(_method: str, _path: str, _heads: dict[str, str]) -> Iterator[bytes]:
        yield head(200, f"Content-Length: {size}")

    with serving(answer) as port, pytest.raises(OSError):
        Ranges(f"http://127.0.0.1:{port}/x")


@pytest.mark.parametrize("where", ("file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://127.0.0.1/", "/x", "http://["))
def test_it_is_not_led_to_what_is_no_server(where: str) -> None:
    def answer(_method: str, _path: str, _heads: dict[str, str]) -> Iterator[bytes]:
        yield head(302, f"Location: {where}", "Content-Length: 0")

    with serving(answer) as port, pytest.raises(OSError) as error:
        Ranges(f"http://127.0.0.1:{port}/x")
    assert "root:" not in str(error.value)


def test_it_is_not_led_out_of_tls(tmp_path: Path) -> None:
    """A request by https:// is answered by https:// only; a redirection does not change that."""
    certificates, server = Certificates(tmp_path / "tls"), Misbehaving()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.certificate, certificates.key)

    def led(_method: str, path: str, _heads: dict[str, str]) -> Iterator[bytes]:
        yield head(302, f"Location: {places[path]}", "Content-Length: 0")

    ask = ("import sys; from tmpfsd.image import ranges; ranges.CONNECT_SECONDS = ranges.READ_SECONDS = 30; "
           "print(len(ranges.Ranges(sys.argv[1]).read(0, 99)))")

    def found(path: str) -> str:
        done = subprocess.run([sys.executable, "-c", ask, f"https://127.0.0.1:{port}{path}"], capture_output=True,
                              env={**os.environ, "SSL_CERT_FILE": str(certificates.authority)}, timeout=60)
        return (done.stdout + done.stderr).decode()

    with serving(server) as plain, serving(server, context) as safe, serving(led, context) as port:
        places = {"/safe": f"https://127.0.0.1:{safe}/x", "/plain": f"http://127.0.0.1:{plain}/x",
                  "/back": f"http://127.0.0.1:{port}/x"}
        assert found("/safe") == "99\n"
        assert "leads to a place without TLS" in found("/plain")
        assert "Error" in found("/back")
