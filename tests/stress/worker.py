"""stress/worker.py: random operations on the files of one directory, and a model of what must be there after them."""

import os
import random
import time
from array import array
from pathlib import Path
from typing import Callable


def touch(path: Path, mode: int) -> None:
    """Create (or empty) a file."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode))


class File:
    """The content of a file of the model; shared by all its names."""

    def __init__(self) -> None:
        self.data, self.mode = bytearray(), 0o600
        self.attributes: dict[str, bytes] = {}


class Worker:
    """Random operations on the files of one directory, and what must be there after them."""

    def __init__(self, directory: Path, seed: int, many: int = 100) -> None:
        self.many = many
        self.directory, self.rng, self.seed, self.steps = directory, random.Random(seed), seed, 0
        self.files: dict[str, File] = {}
        self.latencies = array("d")             # seconds each action took
        self.actions: list[Callable[[], None]] = [
            self.create, self.create, self.write, self.write, self.write, self.truncate, self.read, self.read,
            self.rename, self.link, self.unlink, self.chmod, self.setxattr, self.list]

    def run(self, seconds: float) -> None:
        """Work for this long, then compare everything and remove it."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.steps += 1
            action = self.rng.choice(self.actions) if self.files else self.create
            started = time.perf_counter()
            action()
            self.latencies.append(time.perf_counter() - started)
        assert self.steps > 50, "hardly anything was done"
        for name in self.files:
            self.compare(name)
        self.list()
        for name in self.files:
            os.unlink(self.directory / name)
        os.rmdir(self.directory)

    def hold(self, nbytes: int) -> None:
        """Files of 64 KiB that stay beside the others until the end, so many bytes of them."""
        for number in range(nbytes >> 16):
            name, data = f"held-{number}", random.Random(number ^ self.seed << 20).randbytes(1 << 16)
            fd = os.open(self.directory / name, os.O_WRONLY | os.O_CREAT, 0o600)
            assert os.write(fd, data) == 1 << 16
            os.close(fd)
            self.files[name] = file = File()
            file.data += data

    def pick(self) -> str:
        """One of the names."""
        return self.rng.choice(list(self.files))

    def free_name(self) -> str:
        """A name that is not taken."""
        return f"{self.steps}-{'n' * self.rng.choice((0, 5, 30, 200))}"

    def create(self) -> None:
        """A new empty file."""
        name = self.free_name()
        touch(self.directory / name, 0o600)
        self.files[name] = File()

    def write(self) -> None:
        """Some bytes somewhere."""
        name = self.pick()
        file, offset = self.files[name], self.rng.choice((0, 10, 47, 2040, 4090, 60_000))
        data = self.rng.randbytes(self.rng.choice((1, 10, 100, 3000, 20_000)))
        fd = os.open(self.directory / name, os.O_WRONLY)
        done = os.pwrite(fd, data, offset)
        if done < len(data):                # cut short: what is left says why
            assert os.pwrite(fd, data[done:], offset + done) == len(data) - done
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
        for _ in range(1 + len(self.files) // self.many):
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
    """The work of each child."""
    os.mkdir(directory)
    Worker(directory, seed).run(seconds)
