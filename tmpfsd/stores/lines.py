"""stores/lines.py: connections to a swap server, with a time limit for answers and a name check for certificates.

The client library waits for the next bytes, not for an answer, and keeps whatever comes.  A server that sends byte by
byte would block the request loop for ever, and one that never ends an answer would take all memory.  And the library's
cluster client forgets to check the name in a certificate.  So we have our own sockets and connection pools.

Picture     Pool --makes--> Plain, or Tls: a connection of the library's, over a Line
            Line: begin() --send, recv: from then on within socket_timeout and MOST_ANSWER--> an answer, or an error

Limits      Looking up a server's name takes as long as the system's resolver takes: addresses are safer.
"""

from __future__ import annotations

import socket
import time
from typing import Any

from valkey.connection import Connection, ConnectionPool, SSLConnection

MOST_ANSWER = 4 << 20       # of an answer: the pages of a cluster, or the nodes of a large one


class Line:
    """A socket with a limit on waiting; everything else is the socket's."""

    def __init__(self, sock: Any, seconds: float) -> None:
        self._sock = sock
        self._seconds = seconds             # of a round trip
        self._most: float | None = seconds  # and of one call
        self.begin()

    def begin(self) -> None:
        """A round trip begins."""
        self._until, self._left = time.monotonic() + self._seconds, MOST_ANSWER

    def _wait(self) -> None:
        """Wait no longer than the time that is left.  => TimeoutError."""
        left = self._until - time.monotonic()
        if left <= 0:
            raise socket.timeout("no whole answer")
        self._sock.settimeout(left if self._most is None else min(left, self._most))

    def settimeout(self, seconds: float | None) -> None:
        """Set how long one call may wait; 0: it does not wait, and no round trip is in progress."""
        self._most = seconds
        self._sock.settimeout(seconds)

    def recv(self, nbytes: int) -> bytes:
        """See socket.recv().  => TimeoutError, OSError."""
        if self._most != 0:
            self._wait()
        if not self._left:
            raise OSError(f"an answer of more than {MOST_ANSWER} bytes")
        data: bytes = self._sock.recv(min(nbytes, self._left))
        self._left -= len(data)
        return data

    def recv_into(self, view: Any) -> int:
        """See socket.recv_into().  => TimeoutError, OSError."""
        data = self.recv(len(view))
        view[:len(data)] = data
        return len(data)

    def sendall(self, data: Any) -> None:
        """See socket.sendall().  => TimeoutError, OSError."""
        with memoryview(data) as view:
            done = 0
            while done < len(view):
                self._wait()
                done += self._sock.send(view[done:])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


class _Bounded(Connection):
    """A connection over a Line."""

    def _connect(self) -> Any:
        assert self.socket_timeout is not None
        return Line(super()._connect(), self.socket_timeout)

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        """See Connection: a round trip begins."""
        if isinstance(self._sock, Line):
            self._sock.begin()
        super().send_packed_command(command, check_health)


class Plain(_Bounded):
    """Over TCP."""


class Tls(_Bounded, SSLConnection):
    """Over TLS; the server's name must be in the certificate."""

    def __init__(self, **how: Any) -> None:
        super().__init__(**{**how, "ssl_check_hostname": True, "ssl_cert_reqs": "required"})


class Lines(ConnectionPool):
    """The connections to one server, or to one node of a cluster."""

    def __init__(self, connection_class: Any = Connection, **how: Any) -> None:
        super().__init__(Tls if issubclass(connection_class, SSLConnection) else Plain, **how)
