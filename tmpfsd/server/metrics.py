"""metrics.py: a mount's figures for Prometheus, where metrics= says.

The figures are those of the status, turned into text by prometheus_client.  That is done in the loop that serves
requests, between two of them: 0.4 ms a scrape, measured with 4 pools.  A thread would need the interpreter for as
long, and take it in the middle of a request.  Between scrapes it costs nothing.

Invariants  M1 Input is bounded: MAX_REQUEST bytes, SECONDS for all of it, MAX_CLIENTS at once.
Limits      Only as much HTTP as a scrape needs: one GET a connection, /metrics and nothing else.
            No encryption and no password: loopback only unless a HOST is given.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import stat
from collections.abc import Callable, Iterator
from typing import Any

import trio

from tmpfsd.mounts.printable import printable
from tmpfsd.server import control, health
from tmpfsd.server.refused import MountError

log = logging.getLogger(__name__)

MAX_REQUEST = 8 << 10
MAX_CLIENTS = 16
SECONDS = 5.0
GAUGES = {"size_bytes": "limit of data and metadata", "used_bytes": "data and metadata", "inodes": "inodes",
          "inodes_max": "limit of inodes, 0 for none of its own", "ram_bytes": "budget of resident memory",
          "resident_bytes": "resident memory", "wired_bytes": "memory that never pages out",
          "orphans": "inodes without a name, open still or known to the kernel",
          "doomed_bytes": "data that were removed and are not free yet",
          "unowned_bytes": "pageable memory on no queue (backend=pageable-flag)",
          "dirty_bytes": "resident memory that must be written before it can leave"}
# From the status: a flag is 0 or 1.
STATES = {"broken": "whether an invariant broke and changes are refused",
          "detached": "whether it is mounted nowhere any more, and in use still",
          "ram_auto": "whether ram follows the pressure on memory (ram=auto)"}
SWAP_GAUGES = {"size_bytes": "limit of swap", "used_bytes": "in use of swap", "bad_slots": "slots of swap given up",
               "disk_full": "whether the disk under the swap file is full"}
PAGING_GAUGES = {"lost_pages": "pages that cannot be read back now"}       # everything else counted there only grows
ZRAM_GAUGES = {"size_bytes": "memory for compressed pages", "used_bytes": "what compressed pages take",
               "stored_bytes": "what they were before", "ratio": "stored to used, 0 where there are none"}
ZRAM_COUNTERS = {"hits": "pages read from the compressed ones", "writebacks": "compressed pages written on to swap"}
COUNTERS = {"lost_writes": "writes of the page cache that failed",
            "lost_inodes": "removed inodes that keep their pages"}
IO_COUNTERS = {"read_bytes": "bytes that requests have read", "written_bytes": "bytes that they have written"}
POOL_GAUGES = ("items", "pages", "resident_pages", "swapped_pages")
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def demand_client() -> None:
    """=> MountError when prometheus_client is not installed."""
    try:
        import prometheus_client  # noqa: F401
    except ImportError:
        raise MountError("metrics= needs the package prometheus_client: pip install prometheus_client") from None


def listen(where: str) -> socket.socket:
    """Bind the socket that metrics= names.  => MountError."""
    demand_client()
    try:
        return listen_unix(where) if where.startswith("/") else listen_tcp(where)
    except OSError as error:
        raise MountError(f"metrics={where}: {error.strerror or error}") from None


def listen_unix(path: str) -> socket.socket:
    """Bind a socket of mode 0600; it replaces one that nobody serves any more."""
    if os.path.lexists(path) and not (stat.S_ISSOCK(os.lstat(path).st_mode) and is_stale(path)):
        raise MountError(f"metrics={path}: exists")
    return control.listen(path)


def is_stale(path: str) -> bool:
    """Tell whether nobody answers at a socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        return probe.connect_ex(path) == errno.ECONNREFUSED     # EAGAIN: its queue is full


def listen_tcp(where: str) -> socket.socket:
    """Bind HOST:PORT, where HOST may be [IPv6]."""
    host, _, port = where.rpartition(":")
    found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _name, address = found[0]
    listener = socket.socket(family, kind | socket.SOCK_NONBLOCK, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(MAX_CLIENTS)
    except OSError:
        listener.close()
        raise
    return listener


class Figures:
    """A status as prometheus_client collects it."""

    def __init__(self, state: dict[str, Any]) -> None:
        self.state = state

    def collect(self) -> Iterator[Any]:
        """Every metric."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
        state = self.state
        place = printable(state["mountpoint"])

        def family(kind: Any, name: str, text: str, label: str, values: dict[str, float]) -> Any:
            made = kind(f"tmpfsd_{name}", text, labels=["mountpoint", *([label] if label else [])])
            for key, value in values.items():
                made.add_metric([place, *([key] if label else [])], value)
            return made

        for name, text in GAUGES.items():
            yield family(GaugeMetricFamily, name, text, "", {"": state[name]})
        yield family(GaugeMetricFamily, "health", "1 for the state that it is in", "state",
                     {each: each == state["health"]["state"] for each in health.STATES})
        for name, text in STATES.items():
            yield family(GaugeMetricFamily, name, text, "", {"": bool(state.get(name))})
        for name, text in SWAP_GAUGES.items():
            yield family(GaugeMetricFamily, f"swap_{name}", text, "", {"": state["swap"][name]})
        for name, text in ZRAM_GAUGES.items():
            yield family(GaugeMetricFamily, f"zram_{name}", text, "", {"": state["zram"][name]})
        for name, text in ZRAM_COUNTERS.items():
            yield family(CounterMetricFamily, f"zram_{name}", text, "", {"": state["zram"][name]})
        for name, text in COUNTERS.items():
            yield family(CounterMetricFamily, name, text, "", {"": state[name]})
        for name, text in IO_COUNTERS.items():
            yield family(CounterMetricFamily, f"io_{name}", text, "", {"": state["io"][name]})
        yield family(CounterMetricFamily, "daemon_cpu_seconds", "processor time of the daemon", "",
                     {"": state["daemon"]["cpu_seconds"]})
        yield family(GaugeMetricFamily, "daemon_rss_bytes", "memory of the daemon, `ram` included", "",
                     {"": state["daemon"]["rss_bytes"]})
        for name, count in state["paging"].items():
            kind = GaugeMetricFamily if name in PAGING_GAUGES else CounterMetricFamily
            yield family(kind, name, PAGING_GAUGES.get(name, "of the page daemon"), "", {"": count})
        pools = [*state["pools"], {"name": "data", "items": state["data"]["pages"], **state["data"]}]
        for name in POOL_GAUGES:
            yield family(GaugeMetricFamily, f"pool_{name}", "of a pool, or of data", "pool",
                         {pool["name"]: pool[name] for pool in pools})
        yield family(GaugeMetricFamily, "pool_data_items", "of a pool: items with bytes of small files", "pool",
                     {pool["name"]: pool["data_items"] for pool in pools if "data_items" in pool})
        yield family(CounterMetricFamily, "requests", "requests of the kernel", "kind", state["requests"])
        yield family(CounterMetricFamily, "refused", "requests answered with ENOSPC, by what was full", "reason",
                     state.get("refused", {}))


def page(state: dict[str, Any]) -> bytes:
    """The text of a scrape."""
    from prometheus_client import CollectorRegistry, generate_latest
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Figures(state))
    return generate_latest(registry)


class MetricsServer:
    """Answers scrapes of one mount."""

    def __init__(self, status: Callable[[Any], dict[str, Any]]) -> None:
        self.status = status
        self.nclients = 0

    async def serve(self, listener: socket.socket) -> None:
        """Accept clients until cancelled; closes the listener."""
        with trio.socket.from_stdlib_socket(listener) as sock:
            async with trio.open_nursery() as nursery:
                while True:
                    try:
                        client, _ = await sock.accept()
                    except OSError as error:
                        log.warning("metrics: %s", error)
                        await trio.sleep(0.1)
                        continue
                    nursery.start_soon(self._client, client)

    async def _client(self, client: Any) -> None:
        self.nclients += 1
        try:
            with client, contextlib.suppress(OSError), trio.move_on_after(SECONDS):
                if self.nclients <= MAX_CLIENTS:
                    await self._answer(trio.SocketStream(client))
        except trio.BrokenResourceError:
            pass
        except Exception:
            log.exception("metrics")
        finally:
            self.nclients -= 1

    async def _answer(self, stream: trio.SocketStream) -> None:
        request = b""
        while b"\r\n\r\n" not in request and len(request) < MAX_REQUEST:
            part = await stream.receive_some(4096)
            if not part:
                break
            request += part
        words = request.split(b" ", 2)
        found = words[0] == b"GET" and words[1:2] == [b"/metrics"]
        status, body = ("200 OK", page(self.status(None))) if found else ("404 Not Found", b"only GET /metrics\n")
        head = (f"HTTP/1.1 {status}\r\nContent-Type: {CONTENT_TYPE}\r\nContent-Length: {len(body)}\r\n"
                "Connection: close\r\n\r\n")
        await stream.send_all(head.encode() + body)
        await stream.send_eof()
