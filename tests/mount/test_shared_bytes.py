"""tests/mount/test_shared_bytes.py: one file byte for byte, from two processes that read, write, map and cut it.

The two take turns, each with descriptors and maps of its own that it keeps, and must see the bytes of a bytearray: the
kernel's cache for one process may never hide a change by the other.
"""

import mmap
import os
import random
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from mountlib import PAGE, end, spawn

STEPS = 4000
EDGES = (0, 1, 47, 48, 49, 512, 2047, 2048, 2049, PAGE - 1, PAGE, PAGE + 1, 2 * PAGE, 16 * PAGE,
         16 * PAGE + 1, 40 * PAGE)


class Hand:
    """The work of one process: it keeps a descriptor, and at times a map."""

    def __init__(self, path: Path) -> None:
        self.path, self.fd = path, os.open(path, os.O_RDWR | os.O_CREAT)
        self.map: mmap.mmap | None = None

    def write(self, offset: int, data: bytes) -> int:
        """pwrite(2)"""
        return os.pwrite(self.fd, data, offset)

    def append(self, data: bytes) -> int:
        """write(2) with O_APPEND."""
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        try:
            return os.write(fd, data)
        finally:
            os.close(fd)

    def read(self, offset: int, length: int) -> bytes:
        """pread(2)"""
        return os.pread(self.fd, length, offset)

    def truncate(self, size: int) -> None:
        """ftruncate(2); a map that is kept would reach beyond the end."""
        self.unmap()
        os.ftruncate(self.fd, size)

    def reopen(self, flags: int) -> None:
        """close(2) and open(2)"""
        self.unmap()
        os.close(self.fd)
        self.fd = os.open(self.path, os.O_RDWR | flags)

    def mapped(self) -> mmap.mmap | None:
        """The map of the file as it is, made when needed."""
        size = os.fstat(self.fd).st_size
        if self.map is None or len(self.map) != size:
            self.unmap()
            self.map = mmap.mmap(self.fd, size) if size else None
        return self.map

    def map_read(self, offset: int, length: int) -> bytes:
        """Read through the map."""
        view = self.mapped()
        return view[offset:offset + length] if view is not None else b""

    def map_write(self, offset: int, data: bytes, flush: bool) -> None:
        """Store through the map, within the file."""
        view = self.mapped()
        if view is not None and offset < len(view):
            view[offset:offset + len(data)] = data[:len(view) - offset]
            if flush:
                view.flush()

    def unmap(self) -> None:
        """munmap(2)"""
        if self.map is not None:
            self.map.close()
            self.map = None

    def size(self) -> int:
        """fstat(2)"""
        return os.fstat(self.fd).st_size


def serve(path: Path, connection: Connection) -> None:
    """The other process."""
    hand = Hand(path)
    while True:
        name, arguments = connection.recv()
        connection.send(getattr(hand, name)(*arguments))


class Far:
    """The hand of the other process."""

    def __init__(self, path: Path) -> None:
        self.connection, there = Pipe()
        self.pid = spawn(lambda: serve(path, there))

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> Any:
            self.connection.send((name, arguments))
            assert self.connection.poll(30), f"{name}{arguments} does not return"
            return self.connection.recv()

        return call


class Game:
    """Random steps of two hands, and the bytes that must be there."""

    def __init__(self, seed: int, hands: tuple[Any, Any]) -> None:
        self.rng, self.hands, self.data = random.Random(seed), hands, bytearray()

    def somewhere(self) -> int:
        """Near a boundary, near the end, or anywhere."""
        return max(0, self.rng.choice((self.rng.choice(EDGES), len(self.data), self.rng.randrange(30 * PAGE)))
                   + self.rng.randrange(-2, 3))

    def bytes(self) -> bytes:
        """Few or many."""
        return self.rng.randbytes(self.rng.choice((1, 3, 48, 500, 2048, PAGE, 3 * PAGE + 1, 17 * PAGE)))

    def step(self) -> str:
        """One step of one hand; its name."""
        name = self.rng.choice(("write",) * 4 + ("append", "truncate", "truncate", "map_write", "map_write", "reopen"))
        hand = self.rng.choice(self.hands)
        if name == "truncate" and self.rng.random() < 0.7:          # nobody may hold a map beyond the end
            size = self.somewhere() % (len(self.data) + 3 * PAGE)
            for each in self.hands:
                each.unmap()
            hand.truncate(size)
            self.data[size:] = bytes(max(size - len(self.data), 0))
        elif name == "reopen":
            flags = self.rng.choice((0, 0, os.O_TRUNC))
            if flags:
                for each in self.hands:
                    each.unmap()
                self.data.clear()
            hand.reopen(flags)
        elif name == "append":
            data = self.bytes()
            assert hand.append(data) == len(data)
            self.data += data
        elif name == "write":
            self.write(hand)
        elif name == "map_write":
            offset, data = self.somewhere(), self.bytes()
            hand.map_write(offset, data, self.rng.random() < 0.3)
            room = max(len(self.data) - offset, 0)
            self.data[offset:offset + min(len(data), room)] = data[:room]
        return name

    def write(self, hand: Any) -> None:
        """pwrite(2), perhaps behind the end."""
        offset, data = self.somewhere(), self.bytes()
        assert hand.write(offset, data) == len(data)
        self.data.extend(bytes(max(offset - len(self.data), 0)))
        self.data[offset:offset + len(data)] = data

    def look(self) -> None:
        """A part through one hand, by reading and by its map."""
        hand = self.rng.choice(self.hands)
        offset, length = self.somewhere(), self.rng.choice((1, 100, 5000, 1 << 20))
        assert hand.size() == len(self.data)
        assert hand.read(offset, length) == self.data[offset:offset + length]
        assert hand.map_read(offset, length) == self.data[offset:offset + length]


@pytest.mark.parametrize("seed", range(3))
def test_two_processes(d, seed):
    far = Far(d / "file")
    near = Hand(d / "file")
    game, step, name = Game(seed, (near, far)), 0, ""
    try:
        for step in range(STEPS):
            name = game.step()
            game.look()
        assert (d / "file").read_bytes() == game.data
    except AssertionError as failure:
        raise AssertionError(f"seed {seed}, step {step}, {name}: {failure}"[:500]) from None
    finally:
        near.unmap()
        os.close(near.fd)
        end(far.pid)
