"""experiments/drive.py: numbered files on a Mount without FUSE, and what that costs a process.

Operations are those of vnops.py, each after a breath and followed by the FORGET that the kernel would send some time
later.  So the file system is measured and not the kernel's cache.

Limits      No background work: during operations without a pause the server has no idle time for it either.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import time
from array import array
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from tmpfsd.options import Config
from tmpfsd.swapplaces import default_swap
from tmpfsd.tmpfs import vnops
from tmpfsd.tmpfs.filesystem import Mount
from tmpfsd.uvm.errors import VmError
from tmpfsd.uvm.param import PAGE_SIZE

MIB = 1 << 20
PER_DIR = 1000
SIZE = 8 << 30
KEY = 0                     # of the hash of names
ROOT = vnops.ROOT_INO
Tick = Callable[[float], None]


class Cred(NamedTuple):
    """Who asks."""

    uid: int = 0
    gid: int = 0
    umask: int = 0o022


CRED = Cred()


def mount(**options: Any) -> Mount:
    """A file system without a mount point, with the same hash of names each time.

    Chance decides where leaves split, which costs or saves a page or two: that is not to be compared.
    """
    mp = Mount(Config(**{"swap": default_swap(), "size_bytes": SIZE, **options}))
    mp.dirs.key = KEY
    return mp


def rss() -> int:
    """Resident bytes of this process."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * PAGE_SIZE


class Timer:
    """Wall and CPU seconds of a block; n is the number of its operations."""

    def __enter__(self) -> Timer:
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_why: object) -> None:
        self.wall = max(time.perf_counter() - self._wall, 1e-9)
        self.cpu = time.process_time() - self._cpu

    def result(self, n: int) -> dict[str, float]:
        """For the results."""
        return {"n": n, "seconds": self.wall, "cpu": self.cpu, "rate": n / self.wall}


class Files:
    """Empty files, a fixed number to a directory.  Only one word for each directory grows with them here."""

    __slots__ = ("mp", "per_dir", "dirs", "count", "ended")

    def __init__(self, mp: Mount, per_dir: int = PER_DIR) -> None:
        self.mp = mp
        self.per_dir = per_dir
        self.dirs = array("Q")
        self.count = 0
        self.ended = ""

    @staticmethod
    def name(number: int) -> bytes:
        """Thirteen characters."""
        return b"file%09d" % number

    def create(self) -> None:
        """Make the next file; and its directory if needed."""
        mp, number = self.mp, self.count
        if number == len(self.dirs) * self.per_dir:
            mp.breathe()
            self.dirs.append(vnops.mkdir(mp, ROOT, b"dir%09d" % number, 0o755, CRED))
        mp.breathe()
        ino = vnops.create(mp, self.dirs[-1], self.name(number), 0o644, CRED)
        vnops.forget(mp, ino, 1)
        self.count += 1

    def create_to(self, most: int, tick: Tick | None = None, each: int = 1000) -> bool:
        """Make files until there are `most`; False if an error ended it, which is in `ended`."""
        try:
            while self.count < most:
                for _ in range(min(each, most - self.count)):
                    self.create()
                if tick is not None:
                    tick(self.count / most)
        except VmError as error:
            self.ended = f"{errno.errorcode[error.errno]}: {error}"
            return False
        return True

    def stat(self, numbers: Iterable[int]) -> None:
        """Look up and get attributes."""
        mp = self.mp
        for number in numbers:
            mp.breathe()
            ino = vnops.lookup(mp, self.dirs[number // self.per_dir], self.name(number))
            mp.breathe()
            vnops.getattr(mp, ino)
            vnops.forget(mp, ino, 1)

    def list_all(self) -> int:
        """List every entry of every directory, with its attributes; return how many files there were."""
        return sum(list_directory(self.mp, ino) for ino in self.dirs)

    def remove(self, numbers: Iterable[int]) -> None:
        """Unlink."""
        mp = self.mp
        for number in numbers:
            mp.breathe()
            vnops.unlink(mp, self.dirs[number // self.per_dir], self.name(number))


def list_directory(mp: Mount, dino: int) -> int:
    """Read all of a directory; return how many entries it has."""
    seen = 0

    def emit(name: bytes, ino: int, _attributes: tuple, _cookie: int) -> bool:
        nonlocal seen
        if name not in (b".", b".."):
            seen += 1
            inos.append(ino)
        return True

    inos = array("Q")
    mp.breathe()
    vnops.readdir(mp, dino, 0, emit)
    for ino in inos:
        mp.breathe()
        vnops.forget(mp, ino, 1)
    return seen


def memory(mp: Mount) -> dict[str, int]:
    """The present figures."""
    vm = mp.vm
    return {"resident": vm.phys.nused * PAGE_SIZE, "wired": vm.nwired * PAGE_SIZE,
            "swapped": (vm.swap.nheld if vm.swap else 0) * PAGE_SIZE, "metadata": vm.npages * PAGE_SIZE, "rss": rss()}


def cached_swap(mp: Mount) -> int:
    """Bytes of the swap file that the host's page cache holds, which it may reclaim at any time."""
    if mp.vm.swap is None:
        return 0
    length = os.fstat(mp.vm.swap.store.fd).st_size // PAGE_SIZE * PAGE_SIZE
    if not length:
        return 0
    libc = ctypes.CDLL(None, use_errno=True)
    npages = length // PAGE_SIZE
    with mmap.mmap(mp.vm.swap.store.fd, length) as view:
        first = ctypes.c_char.from_buffer(view)
        flags = (ctypes.c_ubyte * npages)()
        failed = libc.mincore(ctypes.c_void_p(ctypes.addressof(first)), ctypes.c_size_t(length), flags)
        del first
    return 0 if failed else sum(flag & 1 for flag in flags) * PAGE_SIZE
