"""tmpfsctl check on a real mount: a frozen copy is checked while requests are served."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from mountlib import Mounted, ctl, eventually, is_mounted, touch

from tmpfsd.cli import client

Make = Callable[..., Mounted]


def children(pid: int) -> list[int]:
    words = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(word) for word in words]


def fill(mnt: Path, n: int) -> None:
    for i in range(n):
        if i % 500 == 0:
            (mnt / f"d{i // 500}").mkdir()
        touch(mnt / f"d{i // 500}" / f"file-{i}", b"x" * (i % 90))


@pytest.mark.parametrize("options", ["ram=64m", "ram=1m,swap_size=64m", "ram=2m,backend=aobj", "ram=64m,swap=none"])
def test_it_is_consistent_whatever_changes_meanwhile(tmpfsd: Make, options: str) -> None:
    fs = tmpfsd(options)
    fill(fs.mnt, 1000)
    stop, done = threading.Event(), [0]

    def change() -> None:
        while not stop.is_set():
            top = fs.mnt / f"new{done[0]}"
            top.mkdir()
            for i in range(20):
                touch(top / f"{i}", b"y" * 5000)
            os.rename(fs.mnt / f"d{done[0] % 2}", fs.mnt / "other")
            os.rename(fs.mnt / "other", fs.mnt / f"d{done[0] % 2}")
            for i in range(20):
                os.unlink(top / f"{i}")
            top.rmdir()
            done[0] += 1

    worker = threading.Thread(target=change)
    worker.start()
    try:
        for _ in range(2):
            before = done[0]
            assert ctl("check", str(fs.mnt)).stdout == f"{fs.mnt}: consistent\n"
            assert eventually(lambda: done[0] > before)     # pylint: disable=cell-var-from-loop
    finally:
        stop.set()
        worker.join()
    assert eventually(lambda: not children(fs.pid))


class Asking:
    """A running check; it takes as long as a file exists."""

    SCRIPT = """\
import os, sys, time
from tmpfsd.server import daemon, process
from tmpfsd.tmpfs import fsck
from tmpfsd import options
real = fsck.check
def slow(mount, tell=lambda done, of: None):
    while os.path.exists(sys.argv[2]):
        time.sleep(0.01)
    real(mount, tell)
fsck.check = slow
process.start_log(sys.argv[1], True, False)
daemon.run(options.parse("ram=4m,size=64m"), sys.argv[1], lambda: None)
"""

    def __init__(self, mnt: Path, flag: Path, log: Path) -> None:
        self.mnt, self.flag = mnt, flag
        flag.touch()
        with open(log, "wb") as file:
            self.daemon = subprocess.Popen([sys.executable, "-c", self.SCRIPT, mnt, flag], stdout=file, stderr=file,
                                           env={**os.environ, "TMPFSD_PURE": "1"})    # it is patched
        assert eventually(lambda: is_mounted(mnt)), log.read_text()
        assert eventually(lambda: ctl("status", str(mnt), check=False).returncode == 0)
        self.asking = subprocess.Popen([sys.executable, "-m", "tmpfsd.cli.ctl", "check", str(mnt)], text=True,
                                       stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert eventually(lambda: bool(children(self.daemon.pid)))

    def close(self) -> None:
        self.asking.kill()
        self.asking.communicate()
        self.daemon.terminate()
        self.daemon.wait(10)


@pytest.fixture
def asking(tmp_path: Path):
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("no /dev/fuse that can be opened")
    mnt = tmp_path / "mnt"
    mnt.mkdir()
    made = Asking(mnt, tmp_path / "flag", tmp_path / "log")
    yield made
    made.close()


def test_requests_are_served_while_it_takes_long(asking: Asking) -> None:
    for i in range(50):
        touch(asking.mnt / f"{i}", b"x" * 3000)
    assert len(os.listdir(asking.mnt)) == 50 and asking.asking.poll() is None
    refused = ctl("check", str(asking.mnt), check=False)
    assert refused.returncode == 1 and "a check is under way" in refused.stderr
    asking.flag.unlink()
    out, _ = asking.asking.communicate(timeout=20)
    assert out == f"{asking.mnt}: consistent\n"


def test_the_client_hears_that_it_is_alive(asking: Asking) -> None:
    asking.asking.kill()
    assert eventually(lambda: not children(asking.daemon.pid))      # the copy ends with its client
    words, times = client.follow(client.find(str(asking.mnt)), "check"), []
    for _ in range(4):
        assert "progress" in next(words)
        times.append(time.monotonic())
    words.close()
    assert max(b - a for a, b in zip(times, times[1:])) < 2


def test_the_copy_holds_nothing_of_the_mount(asking: Asking) -> None:
    child, = children(asking.daemon.pid)
    held: list[str] = []

    def closed() -> bool:           # it has what the daemon had when it begins
        try:
            held[:] = [os.readlink(f"/proc/{child}/fd/{fd}") for fd in os.listdir(f"/proc/{child}/fd")]
        except FileNotFoundError:   # it closes them just now
            return False
        return all("/dev/fuse" not in name for name in held) and len(held) <= 3

    assert eventually(closed), held
    asking.daemon.kill()
    asking.daemon.wait(10)
    stat = Path(f"/proc/{child}/stat")
    assert eventually(lambda: not stat.exists() or b") Z " in stat.read_bytes())
    subprocess.run(["umount", "-l", asking.mnt], check=False)


def test_a_copy_that_is_killed_is_no_verdict(asking: Asking) -> None:
    child, = children(asking.daemon.pid)
    os.kill(child, 9)
    _, error = asking.asking.communicate(timeout=20)
    assert asking.asking.returncode == 1 and "not checked: the checking process was killed" in error
    touch(asking.mnt / "a", b"b")
