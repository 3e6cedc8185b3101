"""stores/valkey.py: pages kept by a Valkey or Redis server, or a cluster of them, through its client library.

A store as in uvm/store.py.  CHUNK places are in one hash, so a run of pages is one command, and only one key for each
1 MiB must be renewed.  Keys have a unique name, whatever the prefix, and a lifetime: what a killed daemon leaves is
gone after LIFETIME.  What a server sees is sealed (uvm/seal.py).

Nobody waits for long: an operation gives up after SECONDS.  After that all are refused at once, until the keeper finds
the server answering again.  The keeper is a thread: it asks every PROBE while the server is away, and renews the
lifetimes while it is there.  Whatever a server answers is a page, or an error (lines.py).  A frozen copy
(uvm/frozen.py) has no keeper, and connects again after SECONDS.

Picture     UP --an operation gets no answer--> AWAY --the keeper gets one--> UP
            place --> key PREFIX:RUN:{place / CHUNK}, field place % CHUNK

Invariants  P1  _chunks has 1 for each chunk that may have a key.
            P2  Only the process that opened the store renews and removes keys; a frozen copy only reads.

Measured on loopback at 7 times `ram`, CPU of the core against a swap file in the page cache, same run, shared machine:
create 0.95, lookup in order 0.77, lookup at random 0.24: a round trip takes 0.1 ms there.

Limits      A server that evicts keys would lose pages: a server set up to do so is refused at the mount, not later.
            If a cluster has lost a part, all of it counts as away until that part is served again.
            A page that the server has lost is EIO to its reader, and can be read again if it comes back.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import itertools
import logging
import os
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from tmpfsd.mounts.printable import short_line
from tmpfsd.privileges import give_up
from tmpfsd.swapplaces import TLS, Remote, remote
from tmpfsd.uvm.param import PAGE_SIZE

log = logging.getLogger(__name__)

CHUNK_SHIFT = 8
CHUNK = 1 << CHUNK_SHIFT
SECONDS = 1.0               # an operation, and a connection, may take; in a cluster twice that if a node was lost
PROBE = 0.5                 # between two looks at a server that was away
LIFETIME = 3600             # of a key
RENEW = LIFETIME / 4
RENEWED_AT_ONCE = 64
MOST_AUTHORITY = 32 << 10   # bytes of certificates: it must fit into a line of the control socket
CLOSING = 2.0               # seconds that removing keys may take
ATTEMPTS = 1                # of a cluster's client after a node has moved


class ValkeyStore:
    """Pages at a server.  => open_remote() makes one."""

    __slots__ = ("path", "most", "can_discard", "missing", "_where", "_password", "_authority", "_library",
                 "_client", "_pid", "_here", "_run", "_chunks", "_away", "_again", "_full", "_told",
                 "_wake", "_ended", "_keeper")
    kind = "valkey"

    def __init__(self, path: str, where: Remote, password: bytes, authority: str) -> None:
        self.path = path
        self.most = 0
        self.can_discard = True
        self.missing = 0                    # pages that the server no longer had
        self._where, self._password, self._authority = where, password, authority
        self._library = library()
        self._pid = self._here = os.getpid()
        self._run = os.urandom(8).hex()
        self._chunks = bytearray()
        self._away, self._full, self._told = "", False, False
        self._again = 0.0                   # when a frozen copy may connect again
        self._client: Any = self._connect()
        self._wake, self._ended = threading.Event(), False
        self._keeper = threading.Thread(target=self._keep, name="valkey", daemon=True)
        self._keeper.start()

    # --- the connection ---

    def _connect(self) -> Any:
        """Return a client of a server that answers.  => OSError says why not."""
        try:
            client = self._make()
            demand_lasting(client)
            return client
        except OSError:
            raise
        except Exception as error:          # the library trusts what a server says
            raise OSError(errno.ECONNREFUSED, text_of(error), self.path) from None

    def _make(self) -> Any:
        where, library = self._where, self._library
        pool, tls = importlib.import_module("tmpfsd.stores.lines").Lines, where.scheme in TLS
        retry = importlib.import_module("valkey.retry").Retry(importlib.import_module("valkey.backoff").NoBackoff(), 0)
        how: dict[str, Any] = {"socket_timeout": SECONDS, "socket_connect_timeout": SECONDS, "retry": retry,
                               "password": self._password or None}
        if tls and self._authority:
            how["ssl_ca_data"] = self._authority
        if len(where.hosts) == 1:
            connection = importlib.import_module("valkey.connection")
            client = library.Valkey.from_pool(pool(connection.SSLConnection if tls else connection.Connection,
                                                   host=where.hosts[0][0], port=where.hosts[0][1], **how))
            if not client.info("cluster").get("cluster_enabled"):
                return client
            client.close()
        cluster = importlib.import_module("valkey.cluster")
        urls = [f"{'valkeys' if tls else 'valkey'}://{f'[{host}]' if ':' in host else host}:{port}"
                for host, port in where.hosts]
        return cluster.ValkeyCluster(url=urls[0], connection_pool_class=pool, require_full_coverage=True,
                                     startup_nodes=[cluster.ClusterNode(*host) for host in where.hosts[1:]],
                                     cluster_error_retry_attempts=ATTEMPTS, **how)

    @contextlib.contextmanager
    def _asking(self) -> Iterator[Any]:
        """Give the client; what it raises becomes an OSError.  => EIO at once while the server is away."""
        if self._pid != os.getpid():
            self._connect_copy()
        elif self._away:
            raise OSError(errno.EIO, self._away)
        try:
            yield self._client
        except self._library.exceptions.OutOfMemoryError as error:
            self._say_full()
            raise OSError(errno.ENOSPC, text_of(error)) from None
        except Exception as error:          # of any kind, if a server answers what no server should
            self._say_away(text_of(error))
            raise OSError(errno.EIO, text_of(error)) from None

    def _connect_copy(self) -> None:
        """Make a client in a frozen copy, as the connection is its parent's (P2).  => OSError; at once, for a while."""
        if self._here == os.getpid() and not self._away:
            return
        if self._here == os.getpid() and time.monotonic() < self._again:
            raise OSError(errno.EIO, self._away)
        self._here, self._away = os.getpid(), ""
        try:
            self._client = self._connect()
        except OSError as error:
            self._say_away(error.strerror or "")
            raise

    def _say_full(self) -> None:
        if not self._full:
            log.warning("swap %s: the server's memory is full (maxmemory)", self.path)
        self._full = True

    def _say_away(self, why: str) -> None:
        if not self._away and not self._ended:
            log.error("swap %s: %s", self.path, why)
            self._away = why or "no answer"
            self._again = time.monotonic() + SECONDS
            if self._pid == os.getpid():    # a copy has no keeper, and the lock of its event may be held for ever
                self._wake.set()

    # --- what swap.py wants ---

    def _key(self, chunk: int) -> str:
        return f"{self._where.prefix}:{self._run}:{{{chunk:x}}}"

    def _pieces(self, place: int, n: int) -> Iterator[tuple[int, int, int]]:
        """The chunks of a row of places: (chunk, first field, how many)."""
        while n > 0:
            field = place & CHUNK - 1
            count = min(CHUNK - field, n)
            yield place >> CHUNK_SHIFT, field, count
            place, n = place + count, n - count

    def read(self, place: int, pages: Sequence[memoryview]) -> None:
        """See Store: all pages in one round trip.  O(pages)."""
        with self._asking() as client:
            pipe = client.pipeline(transaction=False)
            for chunk, field, count in self._pieces(place, len(pages)):
                pipe.hmget(self._key(chunk), list(range(field, field + count)))
            found = list(zip(itertools.chain(*pipe.execute()), pages, strict=True))
        for value, page in found:
            if not isinstance(value, bytes) or len(value) != PAGE_SIZE:
                self._say_missing(len(pages))
                raise OSError(errno.EIO, "the server does not have it any more")
            page[:] = value

    def _say_missing(self, asked: int) -> None:
        if not self._told:
            log.error("swap %s: the server has lost pages: it was restarted, or evicts keys", self.path)
        self._told = True
        self.missing += asked == 1          # with several, each is asked for again

    def write(self, place: int, pages: Sequence[memoryview]) -> None:
        """See Store: all pages in one round trip.  O(pages)."""
        pieces = list(self._pieces(place, len(pages)))
        with self._asking() as client:
            pipe, done = client.pipeline(transaction=False), 0
            for chunk, field, count in pieces:
                fields = {field + i: bytes(pages[done + i]) for i in range(count)}
                pipe.hset(self._key(chunk), mapping=fields)
                pipe.expire(self._key(chunk), LIFETIME)     # always: the server may have been restarted empty
                done += count
            for chunk, _field, _count in pieces:        # before it is known to have arrived
                self._mark(chunk)
            pipe.execute()
        self._full = False

    def _has(self, chunk: int) -> bool:
        return chunk < len(self._chunks) and self._chunks[chunk] > 0

    def _mark(self, chunk: int) -> None:
        if chunk >= len(self._chunks):
            self._chunks.extend(bytes(chunk + 1 - len(self._chunks)))
        self._chunks[chunk] = 1

    def discard(self, place: int, n: int) -> bool:
        """See Store.  O(n)."""
        with contextlib.suppress(OSError), self._asking() as client:
            pipe, gone = client.pipeline(transaction=False), []
            for chunk, field, count in self._pieces(place, n):
                if count == CHUNK:
                    gone.append(chunk)
                    pipe.unlink(self._key(chunk))
                elif self._has(chunk):
                    pipe.hdel(self._key(chunk), *range(field, field + count))
            pipe.execute()
            for chunk in gone:
                if chunk < len(self._chunks):
                    self._chunks[chunk] = 0
            return True
        return False

    def state(self) -> str:
        """See Store.  O(1)."""
        if self._away:
            return "unreachable"
        if self._full:
            return "full"
        return f"{self.missing} pages lost" if self.missing else "ok"

    def descriptors(self) -> list[int]:
        """See Store: a copy connects anew.  O(1)."""
        return []

    def close(self) -> None:
        """See Store: removes the keys within CLOSING; the rest expires."""
        if self._pid != os.getpid() or self._ended:
            return
        self._ended = True
        self._wake.set()
        self._keeper.join(2 * SECONDS)
        if not self._away:
            with contextlib.suppress(Exception):
                self._each("unlink", time.monotonic() + CLOSING)
        with contextlib.suppress(Exception):
            shut(self._client)

    # --- the keeper ---

    def _keep(self) -> None:
        """Renew the keys, and look for a server that is away."""
        give_up()
        while not self._ended:
            self._wake.wait(PROBE if self._away else RENEW)
            self._wake.clear()
            if self._ended:
                return
            with contextlib.suppress(Exception):    # it must not end: only the keeper finds a server again
                if self._away:
                    client, before = self._connect(), self._client
                    self._client = client
                    shut(before)
                self._each("expire", time.monotonic() + RENEW, LIFETIME)
                if self._away:
                    log.warning("swap %s: the server answers again", self.path)
                self._away = ""

    def _each(self, command: str, until: float, *more: int) -> None:
        """Do something to each key, RENEWED_AT_ONCE in a round trip."""
        chunk = self._chunks.find(1)
        while chunk >= 0 and time.monotonic() < until:
            pipe, n = self._client.pipeline(transaction=False), 0
            while chunk >= 0 and n < RENEWED_AT_ONCE:
                getattr(pipe, command)(self._key(chunk), *more)
                chunk, n = self._chunks.find(1, chunk + 1), n + 1
            pipe.execute()


def shut(client: Any) -> None:
    """Close all connections of a client.  => What the library raises."""
    if hasattr(client, "disconnect_connection_pools"):
        client.disconnect_connection_pools()
    client.close()


def text_of(error: Exception) -> str:
    """One short line of what the server or the library says, without the command, in which there are pages."""
    return short_line(error, str(error).rpartition("of pipeline caused error: ")[2])


def library() -> Any:
    """The client library.  => OSError if it is not installed."""
    try:
        return importlib.import_module("valkey")
    except ImportError:
        raise OSError(errno.ENOPKG, "needs the package valkey: pip install valkey") from None


def demand_lasting(client: Any) -> None:
    """Refuse a server that evicts keys when its memory is full.  => OSError."""
    for found in infos(client):
        if found.get("maxmemory") and found.get("maxmemory_policy", "noeviction") != "noeviction":
            raise OSError(errno.EINVAL, f"the server evicts keys (maxmemory-policy {found['maxmemory_policy']}): pages "
                          "would be lost; set it to noeviction")


def infos(client: Any) -> list[dict[str, Any]]:
    """INFO memory of the server, or of each primary of a cluster."""
    if not hasattr(client, "get_primaries"):
        return [client.info("memory")]
    answer = client.info("memory", target_nodes=client.get_primaries())
    return [answer] if "maxmemory" in answer else list(answer.values())


def password_in(path: str) -> bytes:
    """The password of a file that nobody else can read.  => OSError."""
    if not path:
        return b""
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_mode & 0o077:
            raise OSError(errno.EPERM, "others may read it: chmod 600", path)
        return file.read(4096).strip(b"\r\n")


def authority_in(path: str) -> str:
    """The certificates in a file, of authorities to trust for a server.  => OSError."""
    if not path:
        return ""
    ssl = importlib.import_module("ssl")        # here: others do not wait for it
    with open(path, "rb") as file:
        text = file.read(MOST_AUTHORITY + 1)
    try:
        if 0 < len(text) <= MOST_AUTHORITY and ssl.create_default_context(cadata=text.decode("ascii")):
            return text.decode("ascii")
    except (ValueError, ssl.SSLError):
        pass
    raise OSError(errno.EINVAL, "is not a file of certificates (PEM)", path)


def open_remote(path: str, password_file: str, authority_file: str = "") -> ValkeyStore:
    """The store of a place whose name swapplaces.remote() can read.  => OSError."""
    return open_with(path, password_in(password_file), authority_in(authority_file))


def open_with(path: str, password: bytes, authority: str) -> ValkeyStore:
    """As open_remote(), with the contents of the files.  => OSError."""
    where = remote(path)
    assert where is not None
    return ValkeyStore(path, where, password, authority)
