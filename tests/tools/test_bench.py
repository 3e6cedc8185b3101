"""The benchmark: a quick run, servers that do not answer, clients, rounds, and the calls of fio."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("rich")
pytest.importorskip("matplotlib")

from tmpfsd.mounts import mountinfo  # noqa: E402
from tmpfsd.options import Config  # noqa: E402
from tmpfsd.server.edge import is_native  # noqa: E402
from tools import mounts  # noqa: E402
from tools.bench import __main__ as bench  # noqa: E402
from tools.bench import (  # noqa: E402
    client, clients, data, goals, listing, metadata, others, render, servers, sheet, trees
)
from tools.bench.scale import QUICK, Scale  # noqa: E402
from tools.bench.sheet import FREE, RATE, Measure, Refused, Run  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
needs_fuse = pytest.mark.skipif(not os.access("/dev/fuse", os.R_OK | os.W_OK), reason="no /dev/fuse that can be opened")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a tmpfs is mounted, and caches are dropped")
CREATE = Measure("create")


def left_over(place: Path) -> list[str]:
    """The contents of a directory for temporary files, and the mounts there."""
    return [mount.path for mount in mountinfo.table() if mount.path.startswith(str(place))] + os.listdir(place)


def commands() -> list[bytes]:
    """The command lines of all that runs."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):                 # it may end as we look
            found.append(path.read_bytes())
    return found


# A quick run of everything.

@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, list[str]]:
    """Where it went, its exit status, and what was left."""
    out, temporary = tmp_path_factory.mktemp("bench"), tmp_path_factory.mktemp("temporary")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(temporary))
        status = bench.main(["--quick", "--out", str(out), "--peer", "broken=false {mnt}"])
    return out, status, left_over(temporary)


@needs_fuse
@needs_root
@pytest.mark.slow
def test_quick_run(quick: tuple[Path, int, list[str]]) -> None:
    out, status, _left = quick
    results = json.loads((out / bench.RESULTS).read_text())
    assert status == 0 and set(results) == set(render.PARTS)
    for name, part in results.items():
        for measure in render.PARTS[name].measures(QUICK):
            for server, cell in part["cells"][measure.key].items():
                assert ("why" in cell) == (server == "broken" or (server, name) == ("kernel tmpfs", "idle")
                                           or cell.get("why") == "fio is missing"), (measure, server, cell)
    text = (out / "README.md").read_text()
    for part in ("metadata", "list", "data", "trees", "idle"):
        for measure in render.PARTS[part].measures(QUICK):
            assert f"| {measure.operation} | {measure.placement} | {measure.clients} |" in text
    assert (out / render.CHART).read_bytes().startswith(b"\x89PNG")
    assert text.count("| met |") + text.count("**missed**") >= 2 and "not measured: memfs_ll" in text


@needs_fuse
@needs_root
@pytest.mark.slow
def test_cold_is_cold(quick: tuple[Path, int, list[str]]) -> None:
    results = json.loads((quick[0] / bench.RESULTS).read_text())
    cells = results["metadata"]["cells"]
    asked = {operation: cells[Measure(operation).key]["tmpfsd"]["requests"] for operation in metadata.OPERATIONS}
    used = [cells[Measure(operation).key]["tmpfsd"]["cpu"] for operation in metadata.OPERATIONS]
    assert all(len(samples) == bench.QUICK_ROUNDS for samples in used)
    native = is_native(Config().edge)
    assert asked["create"]["mknod" if native else "create"] == asked["unlink"]["unlink"] == QUICK.files
    assert asked[metadata.COLD]["lookup"] >= QUICK.files, "each name was asked for again"
    assert "lookup" not in asked["open-close"] and asked["open-close"].get("open", 0) == (0 if native else QUICK.files)
    if "requests" in results["data"]["cells"][Measure(data.READ).key]["tmpfsd"]:
        reads = results["data"]["cells"][Measure(data.READ).key]["tmpfsd"]["requests"]["read"]
        assert reads >= QUICK.data_mib, "the server was asked for the data"


@needs_fuse
@needs_root
@pytest.mark.slow
def test_a_peer_that_does_not_start(quick: tuple[Path, int, list[str]]) -> None:
    text = (quick[0] / "README.md").read_text()
    assert "**broken was not measured**: did not mount: exit status 1" in text


@needs_fuse
@needs_root
@pytest.mark.slow
def test_nothing_is_left_and_nothing_is_said_of_places(quick: tuple[Path, int, list[str]]) -> None:
    out, _status, left = quick
    assert left == []
    for name in ("README.md", bench.RESULTS):
        text = (out / name).read_text()
        for place in (str(out), sys.executable, "/tmpfsd-bench-", str(ROOT)):
            assert place not in text
        assert os.uname().nodename not in text.replace(str(sheet.DROP_CACHES), "").split()


@needs_fuse
@pytest.mark.slow
def test_a_signal_ends_a_run_cleanly(tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    command = [sys.executable, "-m", "tools.bench", "--quick", "--rounds", "500", "--only", "metadata"]
    run = subprocess.Popen([*command, "--out", str(tmp_path)], cwd=ROOT, stdout=subprocess.DEVNULL,
                           env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(temporary)},
                           stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while not list(temporary.glob("*/metadata/mnt2.log")):      # the third server has been started
            assert run.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        run.send_signal(signal.SIGTERM)
        assert run.wait(30) == 128 + signal.SIGTERM
    finally:
        run.kill()
        run.wait()
    assert left_over(temporary) == []


# A server that hangs.

@needs_fuse
@pytest.mark.slow
def test_a_server_that_hangs_costs_a_limit_of_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "GRACE_SECONDS", 0.3)
    failed: dict[str, str] = {}
    cpus = sheet.processors(FREE)
    with servers.running([servers.tmpfsd("it", "ram=1m")], tmp_path, cpus, failed) as (server,), \
            clients.Clients(1, cpus) as asked:
        make = {"make": f"{server.mnt}/d", "n": 3}
        assert asked.on(server, [make])[0]["n"] == 3
        assert server.process is not None
        server.process.send_signal(signal.SIGSTOP)
        with pytest.raises(Refused, match="did not answer in 0.8 s"):
            asked.on(server, [{"make": f"{server.mnt}/other", "n": 3}], 0.5)
        assert not server.alive
        with pytest.raises(Refused, match="the server has ended"):
            asked.on(server, [make])
        kernel: Any = SimpleNamespace(alive=True)            # the clients that took their place answer
        assert asked.on(kernel, [{"make": str(tmp_path / "d"), "n": 2}])[0]["n"] == 2
    assert not mounts.is_mounted(server.mnt) and not failed


HANGS = """
import os, signal, sys, pyfuse3, trio

class Operations(pyfuse3.Operations):
    async def statfs(self, ctx):
        os.kill(os.getpid(), signal.SIGSTOP)

pyfuse3.init(Operations(), sys.argv[1], set(pyfuse3.default_options))
trio.run(pyfuse3.main)
"""


@needs_fuse
@pytest.mark.slow
def test_a_server_that_mounts_and_never_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "ANSWER_SECONDS", 0.5)
    (tmp_path / "hangs.py").write_text(HANGS)
    failed: dict[str, str] = {}
    spec = servers.Spec("hangs", (sys.executable, str(tmp_path / "hangs.py"), "{mnt}"))
    with servers.running([spec], tmp_path, sheet.processors(FREE), failed) as mounted:
        assert not mounted
    assert failed == {"hangs": "mounted, but did not answer in 0.5 s"}
    assert not mounts.is_mounted(str(tmp_path / "mnt0")) and not (tmp_path / "mnt0").exists()


def test_a_server_that_never_mounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "START_SECONDS", 0.1)
    failed: dict[str, str] = {}
    specs = [servers.peer("sleeps=sh -c 'sleep 61.25; true' {mnt}"), servers.peer("absent=/no/such/program {mnt}"),
             servers.Spec("never", missing="cannot be compiled")]
    with servers.running(specs, tmp_path, sheet.processors(FREE), failed) as mounted:
        assert not mounted
    assert failed["sleeps"] == "did not mount in 0.1 s"
    assert failed["absent"].startswith("cannot be started") and failed["never"] == "cannot be compiled"
    assert not list(tmp_path.glob("mnt*[0-9]"))
    assert b"sleep\x0061.25\x00" not in commands(), "what a peer started ends with it"


def test_a_floor_that_does_not_compile(tmp_path: Path) -> None:
    source = tmp_path / "nullfs.c"
    source.write_text("this is not C\n")
    spec = servers.nullfs(str(source), tmp_path)
    assert spec.missing.startswith("cannot be compiled") and str(tmp_path) not in spec.missing


# The client.

@pytest.mark.parametrize("operation", metadata.OPERATIONS)
def test_operations_of_a_client(tmp_path: Path, operation: str) -> None:
    if operation not in ("create", "mkdir", "symlink"):
        assert "error" not in client.answer_to({"operation": "create", "directory": str(tmp_path), "n": 6, "limit": 9})
    answer = client.answer_to({"operation": operation, "directory": str(tmp_path), "n": 6, "limit": 9})
    assert answer["n"] == 6 and answer["start"] < answer["end"]
    left = [] if operation in ("mkdir", "symlink", "unlink") else client.names(6)
    assert sorted(os.listdir(tmp_path)) == left


def test_what_a_client_cannot_do(tmp_path: Path) -> None:
    assert client.answer_to({"operation": "unlink", "directory": str(tmp_path), "n": 1, "limit": 9}) == {
        "error": "No such file or directory"}
    failing = ["sh", "-c", "echo tar: x: Function not implemented >&2; exit 2"]
    assert client.answer_to({"run": failing, "limit": 9}) == {"error": "Function not implemented"}
    assert client.answer_to({"run": ["sleep", "9"], "limit": 0.05}) == {"error": "more than 0.05 s"}
    assert client.answer_to({"run": ["printf", "a\\nb\\n"], "limit": 9})["lines"] == 2


# The rounds.

def run_of(rounds: int, scale: Scale = QUICK) -> Run:
    """A run without anything to run."""
    return Run(scale, rounds, [], Path("/nowhere"), lambda _part, _now: None)


def fakes(*names: str) -> Any:
    """Servers in name only."""
    return [SimpleNamespace(name=name, mnt="/nowhere") for name in names]


def test_rounds_are_interleaved_and_the_first_is_not_counted() -> None:
    run, done = run_of(2), []
    measures = [Measure("a"), Measure("b")]

    def step(number: int, measure: Measure, server: Any) -> float:
        done.append((number, measure.operation, server.name))
        return float(number)

    sheet.interleave(run, measures, fakes("x", "y"), step)
    assert done == [(number, operation, name) for number in (-1, 0, 1) for operation in "ab"
                    for name in ("xy" if number == 0 else "yx")]
    assert {cell["samples"][0] for found in run.sheet.cells.values() for cell in found.values()} == {0.0}
    assert all(cell["samples"] == [0.0, 1.0] for found in run.sheet.cells.values() for cell in found.values())


def test_who_refuses_is_not_asked_again() -> None:
    run, done = run_of(3), []

    def step(number: int, measure: Measure, server: Any) -> float:
        done.append(server.name)
        if server.name == "x" or (server.name == "y" and number == 1):
            raise Refused("Function not implemented")
        return 1.0

    sheet.interleave(run, [CREATE], fakes("x", "y", "z"), step)
    assert (done.count("x"), done.count("y"), done.count("z")) == (1, 3, 4)
    assert run.sheet.cells[CREATE.key]["x"] == run.sheet.cells[CREATE.key]["y"] == {"why": "Function not implemented"}
    assert goals.middle(run.sheet.cells, CREATE, "y") is None


def test_what_cannot_be_made_ready_is_refused_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(1)
    monkeypatch.setattr(sheet, "DROP_CACHES", Path("/nowhere/drop_caches"))
    sheet.interleave(run, [CREATE], fakes("x", "y"), lambda *_args: 1.0, lambda _measure: sheet.drop_caches("2"))
    assert [cell["why"][:10] for cell in run.sheet.cells[CREATE.key].values()] == ["needs root"] * 2


# The rest.

def test_what_others_use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    stat.write_text("cpu 100 0 100 9999 9999 0 0 0 0 0\ncpu0 1 2 3\n")
    assert others.busy_seconds(stat.read_text()) == 200 / others.TICKS
    monkeypatch.setattr(others, "STAT", stat)
    watch = others.Others()
    assert watch.percent() == 0
    stat.write_text(f"cpu {100 + 10**9} 0 100 9999 9999 0 0 0 0 0\n")
    assert watch.percent() == 100


def test_peers() -> None:
    spec = servers.peer("memfs_ll=/opt/some where/memfs_ll -f {mnt}".replace("some where", "'some where'"))
    assert spec.name == "memfs_ll" and spec.command == ("/opt/some where/memfs_ll", "-f", "{mnt}")
    assert servers.peer("x=/a/b -o c=/d,e=../f/g {mnt}").shown == "b -o c=d,e=g {mnt}"
    for wrong in ("x", "x=program", "={mnt}"):
        with pytest.raises(ValueError, match="is not NAME=COMMAND"):
            servers.peer(wrong)


def test_two_servers_of_one_name(tmp_path: Path) -> None:
    args = bench.parser().parse_args(["--peer", "tmpfsd=x {mnt}"])
    with pytest.raises(SystemExit, match="two servers of one name"):
        bench.specs(args, tmp_path)


def test_texts_without_places() -> None:
    host = os.uname().nodename
    assert servers.without_places(f"/usr/bin/x: cannot open /tmp/a/b.log on {host}") == "x: cannot open b.log on host"
    assert servers.without_places("read/write 1/2") == "read/write 1/2"


def test_only() -> None:
    assert bench.chosen("IDLE, metadata") == ["metadata", "idle"]
    with pytest.raises(SystemExit, match="no such part: speed"):
        bench.chosen("speed")


def test_reports_of_fio() -> None:
    report = {"jobs": [{"error": 0, "write": {"bw_bytes": 3 << 20}, "read": {"bw_bytes": 5 << 20}}]}
    text = "note: something\n" + json.dumps(report)
    assert data.mib_per_second(text, data.WRITE) == 3 and data.mib_per_second(text, data.RANDOM_READ) == 5
    report["jobs"][0]["error"] = 28
    with pytest.raises(Refused, match="fio: error 28"):
        data.mib_per_second(json.dumps(report), data.WRITE)
    with pytest.raises(Refused, match="not understood"):
        data.mib_per_second("", data.WRITE)


@pytest.mark.parametrize("procs", [1, 4])
def test_fio_does_as_much_whatever_the_clients(procs: int) -> None:
    words = dict(word.lstrip("-").partition("=")[::2] for word in
                 data.command(Scale(), Measure(data.RANDOM_WRITE, FREE, procs, RATE), "/mnt"))
    assert int(words["size"][:-1]) * procs == Scale().data_mib << 10
    assert int(words["io_size"][:-1]) * procs == Scale().random_mib << 10 and words["numjobs"] == str(procs)


def test_missing_fio_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "PROGRAM", "no-such-fio")
    run = run_of(1)
    run.specs = [servers.tmpfsd("tmpfsd", "ram=1m")]
    data.measure(run)
    assert all(cell["tmpfsd"] == {"why": "fio is missing"} for cell in run.sheet.cells.values())


def test_the_tree_that_is_unpacked(tmp_path: Path) -> None:
    files = trees.pack(tmp_path / "a.tar", 100)
    trees.pack(tmp_path / "b.tar", 100)
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    subprocess.run(["tar", "-xf", "a.tar"], cwd=tmp_path, check=True)
    found = [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".tar"]
    assert len(found) == files >= 90
    assert sum(trees.NEEDLE.strip() in path.read_bytes() for path in found) == 1


def test_what_is_not_there_is_not_searched(tmp_path: Path) -> None:
    class Asked:
        """A client whose server is too slow to unpack."""

        def __len__(self) -> int:
            return 1

        def on(self, _server: Any, requests: list[Any], _limit: float = 0) -> list[Any]:
            assert "make" in requests[0] or "tar" in requests[0]["run"], "nothing else is tried"
            if "run" in requests[0]:
                raise Refused("more than 30 s")
            return []

    run, archive = run_of(2), tmp_path / "tree.tar"
    trees.pack(archive, 10)
    server: Any = SimpleNamespace(name="slow", mnt="/nowhere", cpu_seconds=lambda: 0.0)
    clients: Any = Asked()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trees, "drop_caches", lambda *_args: None)
        trees.operate(run, clients, [server], archive, 10, (0.0, 1.0))
    assert [cell["slow"]["why"] for cell in run.sheet.cells.values()] == [
        "more than 30 s", *["the tree was not unpacked"] * 4]


def test_a_server_too_slow_to_fill_is_found_out_early() -> None:
    class Slow:
        """A client that takes so long for each chunk."""

        def __init__(self, seconds: float) -> None:
            self.asked, self.seconds = 0, seconds

        def on(self, _server: Any, requests: list[Any], _limit: float = 0) -> list[dict[str, float]]:
            self.asked += "make" in requests[0]
            return [{"start": 0, "end": self.seconds * 1e9, "n": 1}]

    server: Any = SimpleNamespace(mnt="/nowhere")
    slow: Any = Slow(10.0)
    fast: Any = Slow(2.9)
    with pytest.raises(Refused, match="more than 60 s to fill it"):
        listing.fill(slow, server, 20 * listing.CHUNK)
    assert slow.asked == 2
    listing.fill(fast, server, 20 * listing.CHUNK)
    assert fast.asked == 20


def test_a_listing_that_lacks_names_is_no_listing() -> None:
    class Asked:
        """Clients that list too little."""

        def on(self, *_args: object) -> list[dict[str, int]]:
            return [{"start": 0, "end": 10**6, "n": 1, "lines": lines}]

    server: Any = SimpleNamespace(mnt="/nowhere", cpu_seconds=lambda: 0.0)
    asked: Any = Asked()
    for operation, lines, good in ((listing.PLAIN, 102, True), (listing.PLAIN, 100, True), (listing.LONG, 101, True),
                                   (listing.PLAIN, 99, False), (listing.LONG, 100, False)):
        if good:
            assert listing.listed(asked, server, operation, 100) == 10
        else:
            with pytest.raises(Refused, match="lines for 100 entries"):
                listing.listed(asked, server, operation, 100)
