"""An HTTP server that misbehaves, for tests."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator

Answer = Callable[[str, str, dict[str, str]], "Iterator[bytes]"]     # of a method, a path and a head


@contextlib.contextmanager
def serving(answer: Answer, tls: "ssl.SSLContext | None" = None) -> Iterator[int]:
    """Serve the results of `answer`, one request on a connection; the port."""
    def one(plain: socket.socket) -> None:
        with contextlib.suppress(OSError), tls.wrap_socket(plain, True, False) if tls else plain as client:
            if isinstance(client, ssl.SSLSocket):
                client.do_handshake()
            lines = []
            with client.makefile("rb") as file:
                while line := file.readline().strip():
                    lines.append(line.decode("latin-1"))
            if lines:
                method, path, _version = lines[0].split()
                head = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
                for part in answer(method, path, head):
                    client.sendall(part)

    def all_of_them() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=one, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=all_of_them, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def head(status: int, *lines: str) -> bytes:
    """The head of an answer, after which the connection ends."""
    return "\r\n".join((f"HTTP/1.1 {status} X", *lines, "Connection: close", "", "")).encode("latin-1")


def ranged(first: int, last: int, size: int, *lines: str) -> bytes:
    """The head of part of a file."""
    return head(206, f"Content-Range: bytes {first}-{last}/{size}", *lines)


def asked(heads: dict[str, str]) -> tuple[int, int]:
    """The first and last byte of the range asked for."""
    first, _, last = heads["range"].removeprefix("bytes=").partition("-")
    return int(first), int(last)
