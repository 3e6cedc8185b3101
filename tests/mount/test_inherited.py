"""The daemon does not keep descriptors, limits and signals of its caller; and what signals do to it."""

import contextlib
import fcntl
import json
import os
import pty
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mountlib import REPOSITORY, Mounted, ctl, eventually, is_mounted, needs_root, unmount

from tmpfsd.options import Config
from tmpfsd.server import control, inherited, metrics
from tmpfsd.server.refused import MountError

pytestmark = pytest.mark.skipif(not os.access("/dev/fuse", os.R_OK | os.W_OK), reason="no /dev/fuse")
OPTIONS = "ram=1m,size=8m"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A mount point; it is unmounted at the end."""
    tmp_path.chmod(0o755)
    mnt = tmp_path / "mnt"
    mnt.mkdir()
    yield mnt
    unmount(mnt)


def start(mnt: Path, options: str = OPTIONS, script: str = "", **keywords: Any) -> "subprocess.CompletedProcess[str]":
    """Mount in the background, from a shell that has said something before."""
    command = f'{script}{"" if "exec" in script else " exec"} "$0" -m tmpfsd "$1" -o "$2"'
    # Under ulimit -f Python would leave compiled files that end in the middle, for all others to find.
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(["sh", "-c", command, sys.executable, str(mnt), options], capture_output=True, text=True,
                          timeout=60, env=environment, **keywords)


def pid_of(mnt: Path) -> int:
    """The daemon."""
    return int(json.loads(ctl("status", str(mnt), "--json").stdout)["pid"])


def test_a_lock_of_the_caller_is_free_and_a_pipe_ends(place: Path, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    lock = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    done = start(place, pass_fds=(writer, lock))
    assert done.returncode == 0, done.stderr
    os.close(writer)
    os.close(lock)
    os.set_blocking(reader, False)
    assert os.read(reader, 1) == b""                    # BlockingIOError where somebody holds the other end
    again = os.open(tmp_path / "lock", os.O_RDWR)
    fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(again)
    os.close(reader)


def test_in_the_foreground_too_but_for_what_systemd_hands_over(place: Path) -> None:
    reader, writer = os.pipe()
    other, theirs = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(other, False)
    script = 'export LISTEN_PID=$$ LISTEN_FDS=1; exec "$0" -m tmpfsd -f "$1" -o "$2" 3<&"$3" 8<&"$4"'
    command = ["bash", "-c", script, sys.executable, str(place), OPTIONS, str(theirs), str(writer)]
    process = subprocess.Popen(command, pass_fds=(theirs, writer), stderr=subprocess.DEVNULL,
                               env={**os.environ, "PYTHONPATH": str(REPOSITORY)})
    os.close(writer)
    os.close(theirs)
    try:
        assert eventually(lambda: is_mounted(place), 40)
        assert os.read(reader, 1) == b""
        with pytest.raises(BlockingIOError):
            os.read(other, 1)                           # it is kept
        assert os.readlink(f"/proc/{process.pid}/cwd") == "/"
    finally:
        process.terminate()
        process.wait(20)
        os.close(reader)
        os.close(other)


def test_signals_that_the_caller_had_blocked_or_ignored(place: Path) -> None:
    """A blocked SIGALRM would stop the ticks, an ignored SIGCHLD makes fusermount3's end unknown."""
    code = ("import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN);"
            "signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 64));"
            "os.execv(sys.executable, [sys.executable, '-m', 'tmpfsd', *sys.argv[1:]])")
    done = subprocess.run([sys.executable, "-c", code, str(place), "-o", OPTIONS], capture_output=True, text=True,
                          timeout=60, env={**os.environ, "PYTHONPATH": str(REPOSITORY)})
    assert done.returncode == 0, done.stderr
    status = Path(f"/proc/{pid_of(place)}/status").read_text()
    assert "SigBlk:\t0000000000000000" in status
    os.kill(pid_of(place), signal.SIGTERM)
    assert eventually(lambda: not is_mounted(place), 30)


# --- limits ---

def may_raise() -> bool:
    """Has this user CAP_SYS_RESOURCE?"""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff"))
    return bool(int(line.split()[1], 16) & 1 << 24)


@pytest.mark.parametrize("kind", ["-S", pytest.param("-H -S", marks=pytest.mark.skipif(
    not may_raise(), reason="no CAP_SYS_RESOURCE"))])
def test_limits_are_raised(place: Path, kind: str) -> None:
    """A write beyond RLIMIT_FSIZE was EIO, a descriptor beyond RLIMIT_NOFILE an internal error."""
    limits = [("f", 100), ("n", 20), ("v", 4000000), ("d", 400000), ("t", 3600)]
    done = start(place, script=" ".join(f"ulimit {kind} -{name} {value};" for name, value in limits))
    assert done.returncode == 0, done.stderr
    (place / "file").write_bytes(b"x" * (6 << 20))
    assert (place / "file").read_bytes() == b"x" * (6 << 20)
    found = Path(f"/proc/{pid_of(place)}/limits").read_text()
    for name in ("Max file size", "Max cpu time", "Max address space", "Max data size"):
        line = next(line for line in found.splitlines() if line.startswith(name))
        assert "unlimited" in line, line


@needs_root
@pytest.mark.skipif(not shutil.which("setpriv"), reason="no setpriv")
@pytest.mark.parametrize("script, name", [("ulimit -f 100;", "RLIMIT_FSIZE"), ("ulimit -n 30;", "RLIMIT_NOFILE"),
                                          ("ulimit -t 3600;", "RLIMIT_CPU"), ("ulimit -v 250000;", "RLIMIT_AS")])
def test_a_limit_that_cannot_be_raised_is_named(place: Path, script: str, name: str) -> None:
    done = start(place, script=f"{script} exec setpriv --bounding-set=-sys_resource")
    assert done.returncode == 1 and name in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
    assert not is_mounted(place)


def test_a_device_needs_no_large_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inherited, "raise_limit", lambda kind, _wanted: 100 if kind == resource.RLIMIT_FSIZE else -1)
    monkeypatch.setattr(resource, "setrlimit", lambda *_args: None)
    inherited.set_limits(Config(swap=None))
    with pytest.raises(MountError, match="RLIMIT_FSIZE"):
        inherited.set_limits(Config(swap="/var/tmp"))
    monkeypatch.setattr(inherited, "is_device", lambda _path: True)
    inherited.set_limits(Config(swap="/dev/sda"))


@pytest.mark.parametrize("before, after", [("0\n", "-500"), ("300\n", "300\n"), ("-900\n", "-900\n")])
def test_the_oom_killer_takes_others_first(tmp_path: Path, before: str, after: str) -> None:
    """A value that somebody else has set stays."""
    file = tmp_path / "oom_score_adj"
    file.write_text(before)
    inherited.spare_me(str(file))
    assert file.read_text().startswith(after)
    inherited.spare_me(str(tmp_path / "missing"))


@pytest.mark.skipif(not may_raise(), reason="no CAP_SYS_RESOURCE")
def test_the_oom_killer_is_told_at_the_mount(place: Path) -> None:
    assert start(place).returncode == 0
    assert Path(f"/proc/{pid_of(place)}/oom_score_adj").read_text().strip() == "-500"


# --- signals ---

@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGPROF, signal.SIGVTALRM,
                                    signal.SIGIO, signal.SIGPWR, signal.SIGRTMIN + 3, signal.SIGALRM, signal.SIGXCPU,
                                    signal.SIGSTKFLT])
def test_what_does_not_end_it(tmpfsd: Callable[..., Mounted], number: int) -> None:
    mounted = tmpfsd(OPTIONS)
    (mounted.mnt / "file").write_text("kept")
    os.kill(mounted.pid, number)
    os.kill(mounted.pid, number)
    time.sleep(0.05)
    assert (mounted.mnt / "file").read_text() == "kept" and mounted.alive()
    if number == signal.SIGUSR1:
        assert eventually(lambda: "status: size 0 of 8 MiB" in mounted.log_text()), mounted.log_text()


def test_quit_unmounts(tmpfsd: Callable[..., Mounted]) -> None:
    mounted = tmpfsd(OPTIONS)
    os.kill(mounted.pid, signal.SIGQUIT)
    assert mounted.daemon.wait(20) == 0 and not is_mounted(mounted.mnt)


def test_whatever_comes_while_it_ends(tmpfsd: Callable[..., Mounted]) -> None:
    """Also behind the watcher, where SIGHUP, SIGQUIT and SIGUSR1 had their default action, and left a dead mount."""
    mounted = tmpfsd(OPTIONS)
    (mounted.mnt / "x").write_bytes(bytes(4 << 20))
    os.kill(mounted.pid, signal.SIGTERM)
    while mounted.daemon.poll() is None:
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR2):
            mounted.daemon.send_signal(number)
        time.sleep(0.001)
    assert mounted.daemon.returncode == 0, mounted.log_text()
    assert not is_mounted(mounted.mnt)


@pytest.mark.parametrize("nohup", [False, True])
def test_in_the_foreground_it_ends_with_its_terminal(place: Path, nohup: bool) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            os.environ["PYTHONPATH"] = str(REPOSITORY)
            signal.signal(signal.SIGHUP, signal.SIG_IGN if nohup else signal.SIG_DFL)   # whatever the tests run under
            os.execv(sys.executable, [sys.executable, "-m", "tmpfsd", "-f", str(place), "-o", OPTIONS])
        os._exit(1)
    reader = threading.Thread(target=drain, args=(terminal,), daemon=True)
    reader.start()
    try:
        assert eventually(lambda: is_mounted(place), 40)
        assert ctl("status", str(place)).returncode == 0
        os.kill(pid, signal.SIGHUP)
        if nohup:
            time.sleep(0.3)
            assert is_mounted(place)
            os.kill(pid, signal.SIGTERM)
        assert eventually(lambda: not is_mounted(place), 30)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL) if is_mounted(place) else None
        os.waitpid(pid, 0)
        reader.join(5)
        os.close(terminal)


def drain(descriptor: int) -> None:
    """Read to the end."""
    with contextlib.suppress(OSError):
        while os.read(descriptor, 4096):
            pass


def test_a_number_of_open_files_is_enough_for_all_clients() -> None:
    assert inherited.LEAST_FILES >= control.MAX_CLIENTS + metrics.MAX_CLIENTS + 16 + 32
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert inherited.raise_limit(resource.RLIMIT_NOFILE, soft) == soft
