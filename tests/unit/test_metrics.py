"""metrics=: the content of a scrape, and that a scraper cannot disturb."""

import fcntl
import os
import socket
import stat
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio

from tmpfsd import options
from tmpfsd.server import control, metrics
from tmpfsd.server.refused import MountError

pytest.importorskip("prometheus_client")
STATE: dict[str, Any] = {
    **dict.fromkeys(metrics.GAUGES, 4096), "mountpoint": '/mnt/a "b"',
    "health": {"state": "full"}, "broken": True, "detached": False, "lost_writes": 6, "lost_inodes": 0,
    "swap": {"size_bytes": 8192, "used_bytes": 0, "bad_slots": 2, "disk_full": True},
    "zram": {"size_bytes": 8192, "used_bytes": 4000, "stored_bytes": 12_000, "ratio": 3.0, "hits": 7, "writebacks": 1},
    "io": {"read_bytes": 5, "written_bytes": 7}, "daemon": {"cpu_seconds": 1.5, "rss_bytes": 4096},
    "paging": {"faults": 3, "pageins": 2, "lost_pages": 5},
    "requests": {"lookup": 17, "getattr": 4}, "refused": {"size is used up": 1},
    "pools": [{"name": "node", "item_size": 160, "items": 5, "pages": 2, "resident_pages": 1, "swapped_pages": 1},
              {"name": "string-64", "item_size": 64, "items": 70, "pages": 2, "resident_pages": 2, "swapped_pages": 0,
               "data_items": 30}],
    "data": {"pages": 9, "resident_pages": 4, "swapped_pages": 5}}


def test_a_page_is_as_prometheus_reads_it() -> None:
    from prometheus_client.parser import text_string_to_metric_families
    samples = {(sample.name, *sorted(sample.labels.values())): sample.value
               for family in text_string_to_metric_families(metrics.page(STATE).decode()) for sample in family.samples}
    place = STATE["mountpoint"]
    assert samples["tmpfsd_used_bytes", place] == 4096
    assert samples["tmpfsd_faults_total", place] == 3
    assert samples["tmpfsd_requests_total", place, "lookup"] == 17
    assert samples["tmpfsd_pool_items", place, "node"] == 5 and samples["tmpfsd_pool_pages", place, "data"] == 9
    assert samples["tmpfsd_pool_data_items", place, "string-64"] == 30
    assert ("tmpfsd_pool_data_items", place, "node") not in samples
    # What may fall again is no counter, or rate() would take it for a restart.
    assert samples["tmpfsd_lost_pages", place] == 5 and ("tmpfsd_lost_pages_total", place) not in samples
    assert samples["tmpfsd_broken", place] == samples["tmpfsd_swap_disk_full", place] == 1
    assert samples["tmpfsd_swap_bad_slots", place] == 2 and samples["tmpfsd_lost_writes_total", place] == 6
    assert samples["tmpfsd_zram_ratio", place] == 3 and samples["tmpfsd_zram_stored_bytes", place] == 12_000
    assert samples["tmpfsd_zram_hits_total", place] == 7 and samples["tmpfsd_zram_writebacks_total", place] == 1
    assert samples["tmpfsd_refused_total", place, "size is used up"] == 1
    assert samples["tmpfsd_io_written_bytes_total", place] == 7
    assert samples["tmpfsd_daemon_cpu_seconds_total", place] == 1.5
    assert samples["tmpfsd_health", place, "full"] == 1 and samples["tmpfsd_health", place, "ok"] == 0


def serve(listener: socket.socket, client: Callable[[], Awaitable[None]]) -> None:
    """Run a server and a client of it."""
    async def main() -> None:
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(metrics.MetricsServer(lambda _request: STATE).serve, listener)
                await client()
                nursery.cancel_scope.cancel()
    trio.run(main)


async def ask(family: int, address: Any, data: bytes) -> bytes:
    """Send bytes and return the answer."""
    answer = b""
    with trio.socket.socket(family) as sock:
        await sock.connect(address)
        await sock.send(data)
        while part := await sock.recv(65536):
            answer += part
    return answer


def test_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "metrics")
    listener = metrics.listen(path)
    assert stat.S_IMODE(os.lstat(path).st_mode) == 0o600

    async def client() -> None:
        good = await ask(socket.AF_UNIX, path, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        assert good.startswith(b"HTTP/1.1 200") and b"tmpfsd_used_bytes" in good
        for bad in (b"GET / HTTP/1.1\r\n\r\n", b"POST /metrics HTTP/1.1\r\n\r\n", b"\r\n\r\n"):
            assert b"404" in (await ask(socket.AF_UNIX, path, bad))[:20]
        with suppress(ConnectionResetError):            # M1: closed with some of ours unread
            await ask(socket.AF_UNIX, path, b"x" * 100_000)
        assert b"200 OK" in await ask(socket.AF_UNIX, path, b"GET /metrics HTTP/1.1\r\n\r\n")
    serve(listener, client)
    metrics.listen(path).close()            # nobody serves it: it makes room


def test_tcp_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    where = options.parse(f"metrics={port},swap=none").metrics
    assert where == f"127.0.0.1:{port}"
    listener = metrics.listen(where)

    async def client() -> None:
        address = ("127.0.0.1", port)
        assert b"200 OK" in await ask(socket.AF_INET, address, b"GET /metrics HTTP/1.0\r\n\r\n")
        assert await ask(socket.AF_INET, address, b"GET") == b""            # says no more: sent away
        with pytest.raises(MountError, match="in use"):
            metrics.listen(where)
    serve(listener, client)


def test_what_is_there_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("precious")
    with pytest.raises(MountError, match="exists"):
        metrics.listen(str(path))
    with control.listen(str(tmp_path / "served")), pytest.raises(MountError, match="exists"):
        metrics.listen(str(tmp_path / "served"))
    with pytest.raises(MountError, match="No such file"):
        metrics.listen(str(tmp_path / "none" / "socket"))
    assert path.read_text() == "precious"


@pytest.mark.parametrize("mode", (0o755, 0o1777))
def test_a_lock_that_somebody_holds_is_not_waited_for(tmp_path: Path, mode: int) -> None:
    """Anybody can open /run, and flock(2) it."""
    tmp_path.chmod(mode)
    holder = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(holder, fcntl.LOCK_EX)
    path = str(tmp_path / "metrics")
    metrics.listen(path).close()
    control.remove(path, control.identity(path))
    assert not os.path.lexists(path)
    fcntl.flock(holder, fcntl.LOCK_UN)
    with control.locked(str(tmp_path)), pytest.raises(BlockingIOError):
        fcntl.flock(holder, fcntl.LOCK_EX | fcntl.LOCK_NB)          # it is taken where it can be had
    os.close(holder)


def test_a_server_whose_line_is_full_is_not_waited_for(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as first:
        busy.bind(str(tmp_path / "busy"))
        busy.listen(0)
        first.connect(str(tmp_path / "busy"))
        with pytest.raises(MountError, match="exists"):
            metrics.listen(str(tmp_path / "busy"))


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(MountError, match="pip install prometheus_client"):
        metrics.listen("/nowhere")


@pytest.mark.parametrize("text", ["x", "0", "65536", "host:", "-1", ":x", "/" + "x" * 120, "8080x"])
def test_refused_by_name(text: str) -> None:
    with pytest.raises(options.OptionError, match="metrics="):
        options.parse(f"metrics={text}")


def test_every_figure_of_a_status_is_exported(tmp_path: Path) -> None:
    """Except names, the submap's (its used bytes are its pools' pages), and those of each store."""
    state = real_status(tmp_path)
    text = metrics.page(state).decode()
    left_out = {"backend", "mountpoint", "edge", "compiled", "stores", "submap", "pid", "swap", "paging", "pools",
                "data", "zram", "image"}
    for name in set(state) - left_out:
        assert f"tmpfsd_{name}" in text, name
    for name in set(state["swap"]) - {"path", "files"}:
        assert f"tmpfsd_swap_{name}" in text, name
    assert 'tmpfsd_health{mountpoint="/mnt",state="ok"} 1.0' in text and text.count("tmpfsd_health{") == 6
    for room in ("io", "daemon"):
        assert all(f"tmpfsd_{room}_{name}" in text for name in state[room])
    for name in state["zram"]:
        assert f"tmpfsd_zram_{name}" in text, name
    for name in state["paging"]:
        assert f"tmpfsd_{name}" in text, name


def real_status(tmp_path: Path) -> dict[str, Any]:
    """The status of a mount that is not mounted."""
    pytest.importorskip("pyfuse3")
    from tmpfsd.server.commands import Commands
    from tmpfsd.server.operations import Operations
    from tmpfsd.server.trees import Trees
    from tmpfsd.tmpfs.filesystem import Mount
    mount = Mount(options.Config(ram_bytes=1 << 20, size_bytes=1 << 20, swap=str(tmp_path)))
    try:
        operations = Operations(mount, mount.config)
        return Commands(mount, operations, lambda: ("/mnt", False), None, Trees(mount, operations)).status(None)
    finally:
        mount.close()
