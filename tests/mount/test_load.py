"""tests/mount/test_load.py: several processes at once, and an unmount while they work.

Each worker keeps a model of its own directory in memory, compares as it goes, and compares all of it at the
end.
"""

import os
import random
import subprocess
import time
from functools import partial
from pathlib import Path
from typing import Callable

import pytest
from mountlib import eventually, is_mounted, needs_root, reap, spawn, touch


class File:
    """What a file of the model holds; shared by all its names."""

    def __init__(self) -> None:
        self.data, self.mode = bytearray(), 0o600
        self.attributes: dict[str, bytes] = {}


class Worker:
    """Random operations on the files of one directory, and what must be there after them."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.directory, self.rng, self.seed, self.steps = directory, random.Random(seed), seed, 0
        self.files: dict[str, File] = {}
        self.actions: list[Callable[[], None]] = [
            self.create, self.create, self.write, self.write, self.write, self.truncate, self.read, self.read,
            self.rename, self.link, self.unlink, self.chmod, self.setxattr, self.list]

    def run(self, seconds: float) -> None:
        """Work for this long, then compare everything and remove it."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.steps += 1
            self.rng.choice(self.actions)() if self.files else self.create()
        assert self.steps > 50, "hardly anything was done"
        for name in self.files:
            self.compare(name)
        self.list()
        for name in self.files:
            os.unlink(self.directory / name)
        os.rmdir(self.directory)

    def pick(self) -> str:
        """One of the names."""
        return self.rng.choice(list(self.files))

    def free_name(self) -> str:
        """A name that is not taken."""
        return f"{self.steps}-{'n' * self.rng.choice((0, 5, 30, 200))}"

    def create(self) -> None:
        """A new empty file."""
        name = self.free_name()
        touch(self.directory / name, mode=0o600)
        self.files[name] = File()

    def write(self) -> None:
        """Some bytes somewhere."""
        name = self.pick()
        file, offset = self.files[name], self.rng.choice((0, 10, 47, 2040, 4090, 60_000))
        data = self.rng.randbytes(self.rng.choice((1, 10, 100, 3000, 20_000)))
        fd = os.open(self.directory / name, os.O_WRONLY)
        assert os.pwrite(fd, data, offset) == len(data)
        os.close(fd)
        file.data.extend(bytes(max(0, offset - len(file.data))))
        file.data[offset:offset + len(data)] = data

    def truncate(self) -> None:
        """Shorter or longer."""
        name, size = self.pick(), self.rng.choice((0, 5, 48, 3000, 70_000))
        os.truncate(self.directory / name, size)
        file = self.files[name]
        file.data = file.data[:size] + bytes(max(0, size - len(file.data)))

    def read(self) -> None:
        """Compare one file."""
        self.compare(self.pick())

    def rename(self) -> None:
        """To a free name or over another file."""
        old = self.pick()
        new = self.pick() if self.rng.random() < 0.3 else self.free_name()
        os.rename(self.directory / old, self.directory / new)
        if self.files.get(new) is not self.files[old]:
            self.files[new] = self.files.pop(old)

    def link(self) -> None:
        """One name more."""
        old, new = self.pick(), self.free_name()
        os.link(self.directory / old, self.directory / new)
        self.files[new] = self.files[old]

    def unlink(self) -> None:
        """One name less; more of them while there are many."""
        for _ in range(1 + len(self.files) // 100):
            name = self.pick()
            os.unlink(self.directory / name)
            del self.files[name]

    def chmod(self) -> None:
        """Other permissions."""
        name = self.pick()
        self.files[name].mode = mode = 0o600 | self.rng.randrange(64)
        os.chmod(self.directory / name, mode)

    def setxattr(self) -> None:
        """An attribute is set."""
        name, key = self.pick(), f"user.{self.rng.randrange(3)}"
        self.files[name].attributes[key] = value = self.rng.randbytes(self.rng.choice((0, 10, 500)))
        os.setxattr(self.directory / name, key, value)

    def list(self) -> None:
        """Compare the listing."""
        assert sorted(os.listdir(self.directory)) == sorted(self.files), f"seed {self.seed} step {self.steps}"

    def compare(self, name: str) -> None:
        """Compare all there is to know about one file."""
        file, where = self.files[name], f"seed {self.seed} step {self.steps} {name[:20]}"
        fd = os.open(self.directory / name, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        status, data = os.fstat(fd), os.read(fd, len(file.data) + 1)
        attributes = {key: os.getxattr(fd, key) for key in os.listxattr(fd)}
        os.close(fd)
        assert data == file.data, where
        assert (status.st_size, status.st_mode & 0o7777) == (len(file.data), file.mode), where
        assert status.st_nlink == sum(other is file for other in self.files.values()), where
        assert attributes == file.attributes, where


def work(directory: Path, seed: int, seconds: float) -> None:
    """What each child does."""
    os.mkdir(directory)
    Worker(directory, seed).run(seconds)


class TestTogether:
    """Several processes, each with a model of what it made."""

    def test_workers(self, make_fs):
        fs = make_fs(size="256m", tmpfsd="ram=1m")
        before = fs.status() if fs.kind == "tmpfsd" else {}
        workers = [spawn(partial(work, fs.mnt / f"worker{seed}", seed, 4)) for seed in range(4)]
        if fs.kind == "tmpfsd":
            self.watch(fs, 3.5)
        reap(*workers)
        if fs.kind == "tmpfsd":
            assert fs.status()["paging"]["pageouts"] > 0
            assert eventually(lambda: fs.status()["used_bytes"] == before["used_bytes"]), fs.status()
            assert fs.status()["inodes"] == before["inodes"]

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
