"""tests/mount/test_load.py: several processes at once, and an unmount while they work.

Each worker keeps a model of its own directory in memory, compares as it goes, and compares all of it at the end
(tests/stress/worker.py).
"""

import os
import subprocess
import time
from functools import partial
from pathlib import Path

import pytest
from mountlib import eventually, inodes_held, is_mounted, needs_root, reap, spawn, touch

from tests.stress.worker import work


class TestTogether:
    """Several processes, each with a model of what it made."""

    def test_workers(self, make_fs):
        fs = make_fs(size="256m", tmpfsd="ram=1m")
        before = fs.status() if fs.kind == "tmpfsd" else {}
        workers = [spawn(partial(work, fs.mnt / f"worker{seed}", seed, 2)) for seed in range(4)]
        if fs.kind == "tmpfsd":
            self.watch(fs, 1.7)
        reap(*workers)
        if fs.kind == "tmpfsd":
            assert fs.status()["paging"]["pageouts"] > 0
            assert eventually(lambda: fs.status()["used_bytes"] == before["used_bytes"]), fs.status()
            assert inodes_held(fs) == before["inodes"] + before["orphans"]

    @staticmethod
    def watch(fs, seconds: float) -> None:
        """Ask for the status all the time; the budget holds in every answer."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            status = fs.status()
            assert status["resident_bytes"] <= status["ram_bytes"], status

    def test_one_directory_for_all(self, make_fs):
        mnt = make_fs(size="256m", tmpfsd="ram=1m").mnt

        def body(worker: int) -> None:
            for number in range(1500):
                name = mnt / f"{worker}-{number}"
                touch(name, b"%d" % number)
                if number % 3 == 0:
                    os.unlink(name)
                elif number % 3 == 1:
                    os.rename(name, mnt / f"{worker}-moved-{number}")

        reap(*[spawn(partial(body, worker)) for worker in range(4)])
        expected = {f"{worker}-{number}" for worker in range(4) for number in range(2, 1500, 3)}
        expected |= {f"{worker}-moved-{number}" for worker in range(4) for number in range(1, 1500, 3)}
        assert set(os.listdir(mnt)) == expected
        assert all((mnt / name).read_bytes() == name.split("-")[-1].encode() for name in expected)

    def test_race_for_one_name(self, d):
        def body() -> None:
            for number in range(300):
                try:
                    os.close(os.open(d / f"name{number}", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
                    os.close(os.open(d / "won", os.O_CREAT | os.O_WRONLY | os.O_APPEND))
                    touch(d / f"winner-{number}-{os.getpid()}")
                except FileExistsError:
                    pass

        reap(*[spawn(body) for _ in range(3)])
        winners = [name for name in os.listdir(d) if name.startswith("winner")]
        assert len(winners) == len({name.split("-")[1] for name in winners}) == 300


@needs_root
class TestBusy:
    """umount of a busy mount is refused, and all goes on."""

    @staticmethod
    def refused(mnt: Path) -> None:
        """umount fails and the mount stays."""
        result = subprocess.run(["umount", str(mnt)], capture_output=True, text=True, timeout=30)
        assert result.returncode != 0 and "busy" in result.stderr
        assert is_mounted(mnt)

    def test_open_file(self, make_fs):
        fs = make_fs(size="16m")
        touch(fs.mnt / "x", b"before")
        fd = os.open(fs.mnt / "x", os.O_RDWR)
        self.refused(fs.mnt)
        os.pwrite(fd, b"after!", 0)
        assert os.pread(fd, 10, 0) == b"after!"
        touch(fs.mnt / "y", b"new files too")
        os.close(fd)
        assert (fs.mnt / "x").read_bytes() == b"after!"

    def test_working_directory(self, make_fs, monkeypatch):
        fs = make_fs(size="16m")
        os.mkdir(fs.mnt / "sub")
        monkeypatch.chdir(fs.mnt / "sub")
        self.refused(fs.mnt)
        touch("x", b"content")
        assert (fs.mnt / "sub" / "x").read_bytes() == b"content"
        monkeypatch.undo()

    def test_while_a_process_writes(self, make_fs):
        fs = make_fs(size="64m", tmpfsd="ram=1m")
        writer = spawn(lambda: work(fs.mnt / "worker", 1, 2))
        assert eventually(lambda: os.path.exists(fs.mnt / "worker"))
        fd = os.open(fs.mnt, os.O_RDONLY)
        for _ in range(5):
            self.refused(fs.mnt)
            time.sleep(0.1)
        reap(writer)
        os.close(fd)


@pytest.mark.parametrize("count", [20])
def test_mount_and_unmount_again(make_fs, count):
    """A fresh mount knows nothing of the one before it."""
    mnt = make_fs(size="16m").mnt
    for number in range(count):
        touch(mnt / str(number))
    assert len(os.listdir(mnt)) == count
    assert os.listdir(make_fs(size="16m").mnt) == []
