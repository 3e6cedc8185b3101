"""The file-creation stress tool, on the file system of pytest's tmp_path and on a small kernel tmpfs."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from io import StringIO
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Iterator

import pytest

pytest.importorskip("rich")

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "create_stress.py"
sys.path.insert(0, str(TOOL.parent))

import create_stress  # noqa: E402
from rich.console import Console  # noqa: E402
from stresskit import board, plan, probe, worker  # noqa: E402
from stresskit.display import Bars, Lines, human_bytes, human_time  # noqa: E402
from stresskit.plan import Plan, PlanError  # noqa: E402
from stresskit.runner import Phase, Runner  # noqa: E402

# a picture loads numpy and its threads; Python 3.12 warns of forks after that (in the tool it comes last)
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")

DEADLINE = 30.0
Captured = pytest.CaptureFixture[str]


def run(*argv: object) -> int:
    """The tool, in this process."""
    return create_stress.main([str(word) for word in argv])


def files_below(path: Path) -> list[Path]:
    """All files of a tree."""
    return [Path(base) / name for base, _, names in os.walk(path) for name in names]


def runner_on(path: Path, **options: Any) -> Runner:
    """A runner without a display."""
    return Runner(Plan(**options), str(path), probe.Probe(probe.mounted_at(str(path))), lambda phase: None)


def wait_for(condition: Any) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.005)


# the plan

@pytest.mark.parametrize("text, size", [("0", 0), ("17", 17), ("4k", 4096), ("1M", 1 << 20), ("2g", 2 << 30)])
def test_parse_size(text: str, size: int) -> None:
    assert plan.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "k", "-1", "1.5k", "1kk", "4x", "0x10", "\u0664"])
def test_parse_size_refuses(text: str) -> None:
    with pytest.raises(PlanError, match="is not a size"):
        plan.parse_size(text)


@pytest.mark.parametrize("given, shared", [
    ((None, None, None), (10_000, 10)), ((100, None, None), (100, 1)), ((2500, None, 1000), (2500, 3)),
    ((100, 7, None), (100, 7)), ((None, 7, 11), (77, 7)), ((77, 7, 11), (77, 7)),
])
def test_share_out(given: tuple[int, int, int], shared: tuple[int, int]) -> None:
    assert plan.share_out(*given) == shared


@pytest.mark.parametrize("files, dirs", [(1, 1), (10, 3), (2500, 3), (77, 77), (1001, 1000)])
def test_every_file_has_one_place(files: int, dirs: int) -> None:
    it = Plan(files=files, dirs=dirs)
    assert it.first(0) == 0 and it.first(dirs) == files
    sizes = {it.files_in(directory) for directory in range(dirs)}
    assert max(sizes) - min(sizes) <= 1 and min(sizes) > 0
    assert len({it.directory_name(directory) for directory in range(dirs)}) == dirs


@pytest.mark.parametrize("size", [1, 4096, plan.CHUNK, plan.CHUNK + 1, 3 * plan.CHUNK - 7])
def test_content(size: int) -> None:
    one, again = Plan(files=1, dirs=1, size=size), Plan(files=1, dirs=1, size=size)
    content = b"".join(one.content(5))
    assert len(content) == size and content == b"".join(again.content(5))
    if size > 8:
        assert len({b"".join(one.content(number)) for number in range(20)}) == 20


@pytest.mark.parametrize("files", [0, 1, 2, 3, 4, 5, 63, 64, 65, 1000, 4097])
def test_scattered_is_a_permutation(files: int) -> None:
    order = list(plan.scattered(files, seed=7))
    assert sorted(order) == list(range(files))
    if files > 60:
        near = sum(abs(a - b) <= 2 for a, b in zip(order, order[1:]))
        assert near < files / 8


# the board

def test_buckets_are_narrow_and_in_order() -> None:
    last = -1
    for nanoseconds in [*range(3000), *(int(1.01 ** n) for n in range(810, 2800))]:
        bucket = board.bucket_of(nanoseconds)
        assert last <= bucket < board.BUCKETS
        if nanoseconds < 1 << 40:
            assert abs(board.middle_of(bucket) - nanoseconds) <= nanoseconds / 16
        last = bucket


def test_latency_over_all_workers() -> None:
    it = board.Board(dirs=1, procs=2)
    for number in range(1, 101):
        it.meters[number % 2].lap(number * 1000, 10)
    latency = it.latency()
    assert latency.p50 == pytest.approx(50_000, rel=0.07) and latency.p99 == pytest.approx(99_000, rel=0.07)
    assert latency.max == 100_000
    assert (it.total(board.FILES), it.total(board.BYTES)) == (100, 1000)
    it.reset()
    assert it.latency() == (0, 0, 0) and it.total(board.FILES) == 0


def test_seconds_of_a_worker_that_never_ended() -> None:
    it = board.Board(dirs=1, procs=2)
    assert it.seconds(now=9) == 0
    it.meters[0].words[board.START], it.meters[0].words[board.END] = 10**9, 2 * 10**9
    it.meters[1].words[board.START] = 15 * 10**8
    assert it.seconds(now=4 * 10**9) == 3


# whole runs

def test_everything(tmp_path: Path, capsys: Captured) -> None:
    pytest.importorskip("matplotlib")
    figures, picture = tmp_path / "run.json", tmp_path / "run.png"
    mount = tmp_path / "mnt"
    mount.mkdir()
    assert run(mount, "--files", 500, "--dirs", 7, "--procs", 3, "--name-length", 20, "--size", "5k",
               "--verify", "--sample", "10%", "--unlink", "--json", figures, "--plot", picture) == 0
    assert list(mount.iterdir()) == []
    told = json.loads(figures.read_text())
    assert [(phase["name"], phase["files"], phase["result"]) for phase in told["phases"]] == [
        ("create", 500, "ok"), ("verify", 500, "ok"), ("verify-random", told["phases"][2]["expected"], "ok"),
        ("list", 500, "ok"), ("unlink", 500, "ok")]
    assert 50 <= told["phases"][2]["files"] <= 53       # rounded up in each share
    assert told["phases"][0]["bytes"] == 500 * 5120
    assert told["left"] is None and told["exit_status"] == 0
    latency = told["phases"][0]["latency_ns"]
    assert 0 < latency["p50"] <= latency["p99"] <= latency["max"]
    assert picture.read_bytes().startswith(b"\x89PNG")
    out = capsys.readouterr().out
    assert "verify-random" in out and "resident" not in out


def test_files_stay_without_unlink(tmp_path: Path, capsys: Captured) -> None:
    assert run(tmp_path, "--files", 25, "--per-dir", 10, "--name-length", 255, "--size", 100) == 0
    assert run(tmp_path, "--files", 1) == 0
    files = files_below(tmp_path / "create_stress.0")
    assert len(files) == 25 and {file.stat().st_size for file in files} == {100}
    assert {len(file.name) for file in files} == {255}
    assert len(files_below(tmp_path / "create_stress.1")) == 1
    assert f"left in {tmp_path}/create_stress.0" in capsys.readouterr().out


@pytest.mark.parametrize("argv, message", [
    (["--files", "0"], "--files"), (["--files", "-3"], "--files"), (["--files", "x"], "--files"),
    (["--files", "10", "--dirs", "3", "--per-dir", "3"], "contradicts"),
    (["--files", "3", "--dirs", "4"], "more directories"),
    (["--procs", "2", "--dirs", "1"], "--procs 2"),
    (["--name-length", "256"], "at most 255"), (["--name-length", "2", "--per-dir", "1000"], "need 3"),
    (["--size", "-1"], "--size"), (["--size", "1q"], "not a size"),
    (["--sample", "10"], "without --verify"), (["--verify", "--sample", "0"], "percentage"),
    (["--verify", "--sample", "nan"], "percentage"), (["--cold"], "--cold has no meaning"),
    (["--json", "/nonexistent/x.json"], "cannot be written"), (["--plot", "x.txt"], "does not end in"),
    (["--fil", "3"], "unrecognized"), (["extra"], "unrecognized"),
])
def test_bad_arguments(tmp_path: Path, argv: list[str], message: str, capsys: Captured) -> None:
    with pytest.raises(SystemExit) as ended:
        run(tmp_path, *argv)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_target_must_be_a_directory(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "file").touch()
    for target in ("missing", "file"):
        with pytest.raises(SystemExit):
            run(tmp_path / target)
        assert f"{target}: not a directory" in capsys.readouterr().err


# verification finds what is wrong

def break_byte(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.seek(4999)
        byte = opened.read(1)
        opened.seek(4999)
        opened.write(bytes([byte[0] ^ 1]))


def swap_with_next(file: Path) -> None:
    other = file.with_name(f"{int(file.name) + 1:013d}")
    content = file.read_bytes()
    file.write_bytes(other.read_bytes())
    other.write_bytes(content)


@pytest.mark.parametrize("damage, error, message", [
    (break_byte, "MISMATCH", "byte 4999 is"),
    (swap_with_next, "MISMATCH", "byte"),
    (lambda file: os.truncate(file, 4998), "MISMATCH", "4998 bytes"),
    (lambda file: os.link(file, file.parent.parent / "link"), "MISMATCH", "2 links"),
    (lambda file: file.unlink(), "ENOENT", "No such file"),
    (lambda file: (file.unlink(), file.mkdir()), "MISMATCH", "not a regular file"),
])
@pytest.mark.parametrize("phase", ["verify", "verify-random"])
def test_verify_finds(tmp_path: Path, damage: Any, error: str, message: str, phase: str) -> None:
    runner = runner_on(tmp_path, files=60, dirs=4, procs=2, size=5000)
    assert runner.run_phase("create").result == "ok"
    assert runner.run_phase(phase).result == "ok"
    damage(tmp_path / "d2" / f"{5:013d}")
    found = runner.run_phase(phase)
    assert found.result == error and message in found.failures[0].message
    assert str(tmp_path / "d2") in found.failures[0].file
    assert found.files < 60


@pytest.mark.parametrize("damage, message", [
    (lambda directory: (directory / "stranger").touch(), "nobody created"),
    (lambda directory: (directory / f"{20:013d}").touch(), "nobody created"),
    (lambda directory: (directory / f"{7:013d}").unlink(), "not listed"),
])
def test_list_finds(tmp_path: Path, damage: Any, message: str) -> None:
    runner = runner_on(tmp_path, files=40, dirs=2)
    runner.run_phase("create")
    assert runner.run_phase("list").result == "ok"
    damage(tmp_path / "d1")
    found = runner.run_phase("list")
    assert found.result == "MISMATCH" and message in found.failures[0].message


def test_list_finds_a_name_listed_twice(tmp_path: Path) -> None:
    it = worker.Worker(Plan(files=3, dirs=1), board.Board(1, 1), str(tmp_path), 0)
    it.board.created[0] = 3
    names: Any = iter([SimpleNamespace(name=f"{number:013d}") for number in (0, 1, 1)])
    with pytest.raises(worker.Mismatch, match="twice"):
        worker.list_directory(it, 0, names)


# trouble

def start(mount: Path, *argv: object) -> subprocess.Popen[str]:
    """The tool as a process of its own; returns when it is creating files."""
    tool = subprocess.Popen([sys.executable, str(TOOL), str(mount), *map(str, argv)], stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True, start_new_session=True)
    wait_for(lambda: len(list(mount.glob("create_stress.0/d*"))) > 3 or tool.poll() is not None)
    return tool


def workers_of(tool: subprocess.Popen[str]) -> list[int]:
    """The processes it forked."""
    return [int(pid) for pid in Path(f"/proc/{tool.pid}/task/{tool.pid}/children").read_text().split()]


def assert_all_ended(tool: subprocess.Popen[str]) -> None:
    """No process of its session is left."""
    with pytest.raises(ProcessLookupError):
        os.killpg(tool.pid, 0)


@pytest.mark.parametrize("signum, to_all", [
    (signal.SIGINT, False), (signal.SIGINT, True), (signal.SIGTERM, False)])
def test_a_signal_leaves_a_correct_summary(tmp_path: Path, signum: int, to_all: bool) -> None:
    pytest.importorskip("matplotlib")
    mount, figures, picture = tmp_path / "mnt", tmp_path / "run.json", tmp_path / "run.png"
    mount.mkdir()
    tool = start(mount, "--files", 10**7, "--per-dir", 100, "--procs", 2, "--size", 100,
                 "--verify", "--unlink", "--json", figures, "--plot", picture)
    (os.killpg if to_all else os.kill)(tool.pid, signum)    # a terminal sends SIGINT to all of them
    out, _ = tool.communicate(timeout=DEADLINE)
    assert tool.returncode == 128 + signum
    assert_all_ended(tool)
    told = json.loads(figures.read_text())
    files = files_below(mount)
    assert [phase["name"] for phase in told["phases"]] == ["create"]
    assert told["phases"][0]["files"] == len(files) > 0
    assert told["phases"][0]["result"] == "interrupted" and told["exit_status"] == 128 + signum
    assert {file.stat().st_size for file in files} == {100}
    assert f"after {len(files):,} of 10,000,000 files" in out and f"left in {mount}" in out
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_signal_in_a_large_file_does_not_wait_for_its_end(tmp_path: Path) -> None:
    tool = subprocess.Popen([sys.executable, str(TOOL), str(tmp_path), "--files", "1", "--size", "1t"],
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_for(lambda: files_below(tmp_path))
    tool.send_signal(signal.SIGINT)
    out, _ = tool.communicate(timeout=DEADLINE)
    assert tool.returncode == 130 and "after 0 of 1 files" in out
    assert files_below(tmp_path) == []     # the unfinished file is gone


def test_a_second_signal_kills_workers_that_hang(tmp_path: Path) -> None:
    tool = start(tmp_path, "--files", 10**7, "--per-dir", 100)
    os.kill(workers_of(tool)[0], signal.SIGSTOP)
    tool.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        tool.wait(timeout=0.3)
    tool.send_signal(signal.SIGINT)
    out, _ = tool.communicate(timeout=DEADLINE)
    assert tool.returncode == 130 and "interrupted in create" in out
    assert_all_ended(tool)


def test_a_worker_that_dies_is_reported(tmp_path: Path) -> None:
    tool = start(tmp_path, "--files", 10**7, "--per-dir", 100)
    os.kill(workers_of(tool)[0], signal.SIGKILL)
    out, _ = tool.communicate(timeout=DEADLINE)
    assert tool.returncode == 1 and "DIED" in out and "status -9" in out
    counted = re.findall(r"^ create +([\d,]+)", out, re.MULTILINE)
    assert len(files_below(tmp_path)) - int(counted[-1].replace(",", "")) in (0, 1)


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Any]:
    """Mounts kernel tmpfs of any options, and unmounts it."""
    if os.geteuid():
        pytest.skip("only root can mount a kernel tmpfs")
    mounted = []
    numbers = count()

    def mount(options: str) -> Path:
        where = tmp_path / f"tmpfs{next(numbers)}"
        where.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(where)],
                              capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no kernel tmpfs here: {done.stderr.strip()}")
        mounted.append(where)
        return where

    yield mount
    for where in mounted:
        subprocess.run(["umount", str(where)], check=True)


def test_out_of_inodes(tmpfs: Any, tmp_path: Path, capsys: Captured) -> None:
    mount, figures = tmpfs("size=8m,nr_inodes=500"), tmp_path / "run.json"
    assert run(mount, "--files", 2000, "--dirs", 20, "--procs", 2, "--verify", "--unlink",
               "--json", figures) == 1
    told = json.loads(figures.read_text())
    create, *others = told["phases"]
    assert create["result"] == "ENOSPC" and 400 < create["files"] < 500
    assert create["failures"][0]["file"].startswith(f"{mount}/create_stress.0/d")
    assert [(phase["files"], phase["result"]) for phase in others] == [(create["files"], "ok")] * 4
    assert list(mount.iterdir()) == []
    assert "create: ENOSPC at" in capsys.readouterr().out


def test_out_of_space(tmpfs: Any, capsys: Captured) -> None:
    mount = tmpfs("size=1m")
    assert run(mount, "--files", 100, "--size", "100000", "--verify") == 1
    files = files_below(mount)
    assert len(files) == 10 and {file.stat().st_size for file in files} == {100_000}    # none half written
    assert f"ENOSPC at {mount}/create_stress.0/d0/{10:013d}" in capsys.readouterr().out


def test_nothing_can_be_created(tmpfs: Any, tmp_path: Path, capsys: Captured) -> None:
    pytest.importorskip("matplotlib")
    mount = tmpfs("size=1m,nr_inodes=2")    # the root, and the run's own directory
    assert run(mount, "--files", 100, "--verify", "--unlink", "--plot", tmp_path / "run.png") == 1
    assert f"create: ENOSPC at {mount}/create_stress.0/d0" in capsys.readouterr().out
    assert list(mount.iterdir()) == []


def test_cold(tmpfs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    dropped = []
    monkeypatch.setattr("stresskit.runner.drop_caches", lambda: dropped.append(1))
    if not os.access("/proc/sys/vm/drop_caches", os.W_OK):
        pytest.skip("/proc/sys/vm/drop_caches cannot be written")
    assert run(tmpfs("size=1m"), "--files", 10, "--verify", "--cold") == 0
    assert len(dropped) == 3


def test_a_file_that_cannot_be_written_at_the_end(tmpfs: Any, capsys: Captured) -> None:
    mount = tmpfs("size=64k")
    assert run(mount, "--files", 30, "--size", "4k", "--json", mount / "run.json") == 1
    out, err = capsys.readouterr()
    assert "ENOSPC at" in out and "--json: " in err


# what is seen

def fake_status() -> Any:
    """The status of a mount that pages more each time it is asked."""
    asked = count(1)

    def status(mountpoint: str) -> dict[str, Any]:
        n = next(asked)
        return {"resident_bytes": 16 << 20, "swap": {"used_bytes": n << 20},
                "paging": {"faults": 1000 * n, "pageins": 10 * n, "pageouts": 100 * n}}
    return status


@pytest.fixture
def like_tmpfsd(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is on a tmpfsd mount."""
    mounted = probe.Mounted("/mnt", probe.TMPFSD, "tmpfsd")
    monkeypatch.setattr(create_stress, "mounted_at", lambda path: mounted)
    monkeypatch.setattr(probe, "best_client", fake_status)


def test_a_tmpfsd_mount_shows_its_memory(tmp_path: Path, like_tmpfsd: None, capsys: Captured) -> None:
    pytest.importorskip("matplotlib")
    figures, picture = tmp_path / "run.json", tmp_path / "run.png"
    assert run(tmp_path, "--files", 3000, "--unlink", "--json", figures, "--plot", picture) == 0
    told = json.loads(figures.read_text())
    assert told["before"]["faults"] == 1000
    assert told["phases"][0]["samples"][-1]["resident_bytes"] == 16 << 20
    assert picture.read_bytes().startswith(b"\x89PNG")
    out, err = capsys.readouterr()
    assert "page-outs" in out and "16.0 MiB" in out
    assert "resident 16.0 MiB  swapped" in err


@pytest.mark.parametrize("display, terminal", [(Bars, True), (Lines, False)])
def test_display(tmp_path: Path, display: Any, terminal: bool) -> None:
    shown = StringIO()
    with display(Console(file=shown, force_terminal=terminal, width=90)) as it:
        runner = Runner(Plan(files=200, dirs=2), str(tmp_path),
                        probe.Probe(probe.Mounted("/mnt", "x", "x"), fake_status()), it.show)
        runner.run()
    assert "create" in shown.getvalue() and "200" in shown.getvalue() and "swapped" in shown.getvalue()


def test_samples_stay_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stresskit.runner.MAX_SAMPLES", 4)
    monkeypatch.setattr("stresskit.runner.INTERVAL", 0.001)
    phase: Phase = runner_on(tmp_path, files=3000, dirs=3).run_phase("create")
    assert len(phase.samples) <= 5 and phase.samples[-1].files == 3000
    assert [sample.files for sample in phase.samples] == sorted(sample.files for sample in phase.samples)


def test_human() -> None:
    assert [human_bytes(n) for n in (0, 1023, 1536, 5 << 30, 5 << 50)] == [
        "0 B", "1023 B", "1.5 KiB", "5.0 GiB", "5120.0 TiB"]
    assert [human_time(n) for n in (999, 12_345, 4.5e6, 7.2e9)] == ["999ns", "12.3us", "4.5ms", "7.2s"]
