"""fs/fslib.py: drive vnops as the kernel would, and look for leaks.

Driver breathes before each operation and counts the kernel references that it is given, so that all
can be given back at the end.  Operations have the names and arguments of vnops, without `mp`.

Picture     Driver(make_mount(...)) --operations--> finish(): check, remove all, compare counts, close
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections import Counter
from contextlib import contextmanager
from functools import partial
from itertools import count
from typing import Any, Callable, Iterator, NamedTuple

import pytest

from tests import failpoints
from tmpfsd.options import Config
from tmpfsd.tmpfs import btree, detach, layout, reap, vnops
from tmpfsd.tmpfs.filesystem import Mount
from tmpfsd.tmpfs.fserror import FsError
from tmpfsd.uvm.codec import Zstd
from tmpfsd.uvm.errors import NoMemory, NoSwap, SwapIOError, VmError
from tmpfsd.uvm.param import PAGE_SHIFT, PAGE_SIZE
from tmpfsd.uvm.swapset import RING_BASE, RING_WIDTH
from tmpfsd.uvm.tier import compress_in
from tmpfsd.uvm.vm import RESERVE
from tmpfsd.uvm.zlog import ZLog

ROOT = vnops.ROOT_INO
MODES = ("roomy", "starving", "thrash")
STARVING_FRAMES = RESERVE + 12
BLOCK = 512
# Entries of a tree node by bytes, where trees are to be deep with few entries.
TINY_CAPS = {64: 2, 128: 3, 256: 4, 512: 5, 1024: 6, 2048: 7, PAGE_SIZE: 8}


class Cred(NamedTuple):
    """Who asks."""

    uid: int = 0
    gid: int = 0
    umask: int = 0o022

    def in_group(self, gid: int) -> bool:
        """Whether it is one of the caller's groups."""
        return gid == self.gid

    def capable(self, _capability: int) -> bool:
        """Whether the caller has a capability."""
        return self.uid == 0


CRED = Cred()
USER = Cred(1000, 1001)


def ticking() -> Callable[[], int]:
    """A clock for a Mount that moves at each look, as its own does every few milliseconds only."""
    return count(time.time_ns()).__next__


class Stat(NamedTuple):
    """What getattr answers."""

    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    size: int
    blocks: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    generation: int


def make_mount(swap: str | None, mode: str = "roomy", ring: int = 0, **options: Any) -> Mount:
    """A Mount with debug level 1, roomy, starving or with everything evicted at each breath.

    => ring is how large a compressed tier it has beside its frames.
    """
    frames = STARVING_FRAMES if mode == "starving" else 768
    settings = {"ram_bytes": frames << PAGE_SHIFT, "size_bytes": 256 << 20, "swap": swap, "uid": 0, "gid": 0}
    mp = Mount(Config(**{**settings, **options}))
    if ring:
        compress_in(mp.vm, ZLog(ring, RING_BASE, RING_WIDTH, Zstd()))
    mp.vm.check_level = max(mp.check_level, 1)
    mp.vm.thrash |= mode == "thrash"
    return mp


@contextmanager
def tiny_trees() -> Iterator[None]:
    """Mounts made within have B+trees with nodes of at most 8 entries."""
    inner = TINY_CAPS[PAGE_SIZE]
    with pytest.MonkeyPatch.context() as patch:
        for nbytes, cap in TINY_CAPS.items():
            patch.setitem(btree.CAPACITIES, nbytes, cap)
        patch.setattr(btree, "INNER_CAP", inner)
        yield


class Driver:
    """Operations of one mount, with the kernel's references counted."""

    def __init__(self, mp: Mount, mode: str = "roomy") -> None:
        self.mp = mp
        self.mode = mode
        self.refs: Counter[int] = Counter()
        self.unchecked = 0              # operations since the last check
        self.lost = False               # whether a test had something lost: it stays allocated, and is not counted
        self.start = self.counts()

    @property
    def roomy(self) -> bool:
        """Whether a test may be large."""
        return self.mode == "roomy"

    # --- operations ---

    def __getattr__(self, name: str) -> Callable[..., Any]:
        operation = getattr(vnops, name)
        return lambda *args, **kwargs: self.do(operation, *args, **kwargs)

    def do(self, operation: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Breathe, run an operation to its end and, with TMPFSD_CHECK=2, check everything, also when it was refused.

        Of many nodes not after each operation: a check walks all of them.
        """
        self.mp.breathe()
        try:
            return operation(self.mp, *args, **kwargs)
        except NoMemory as error:
            return reap.retry(self.mp, error, partial(operation, self.mp, **kwargs), *args)
        finally:
            self.unchecked += 1
            if self.mp.check_level >= 2 and not Fuse.burning and self.unchecked > self.mp.mem.nodes.nitems // 64:
                self.check()

    def _hold(self, ino: int) -> int:
        if ino:
            self.refs[ino] += 1
        return ino

    def lookup(self, dino: int, name: bytes) -> int:
        """(+1)"""
        return self._hold(self.do(vnops.lookup, dino, name))

    def create(self, dino: int, name: bytes, mode: int = 0o644, cred: Any = CRED) -> int:
        """(+1)"""
        return self._hold(self.do(vnops.create, dino, name, mode, cred))

    def mknod(self, dino: int, name: bytes, mode: int, rdev: int = 0, cred: Any = CRED) -> int:
        """(+1)"""
        return self._hold(self.do(vnops.mknod, dino, name, mode, rdev, cred))

    def mkdir(self, dino: int, name: bytes, mode: int = 0o755, cred: Any = CRED) -> int:
        """(+1)"""
        return self._hold(self.do(vnops.mkdir, dino, name, mode, cred))

    def symlink(self, dino: int, name: bytes, target: bytes, cred: Any = CRED) -> int:
        """(+1)"""
        return self._hold(self.do(vnops.symlink, dino, name, target, cred))

    def link(self, ino: int, dino: int, name: bytes) -> int:
        """(+1)"""
        return self._hold(self.do(vnops.link, ino, dino, name))

    def rename(self, dino: int, name: bytes, ndino: int, nname: bytes, flags: int = 0, cred: Any = CRED) -> None:
        """rename(2)."""
        self.do(vnops.rename, dino, name, ndino, nname, flags, cred)

    def setattr(self, ino: int, cred: Any = CRED, **changes: Any) -> None:
        """Attributes by name."""
        self.do(vnops.setattr, ino, cred, **changes)

    def getattr(self, ino: int) -> Stat:
        """stat(2)."""
        self.mp.breathe()
        return Stat(*vnops.getattr(self.mp, ino))       # changes nothing, and is called by all that compares

    def listxattr(self, ino: int, cred: Any = CRED) -> list[bytes]:
        """Names, sorted."""
        return sorted(self.do(vnops.listxattr, ino, cred))

    def forget(self, ino: int, n: int = 0) -> None:
        """Give n references back, or all that were taken."""
        n = n or self.refs[ino]
        self.refs[ino] -= n
        if not self.refs[ino]:
            del self.refs[ino]
        self.do(vnops.forget, ino, n)

    def forget_all(self) -> None:
        """Give every reference back."""
        for ino in list(self.refs):
            self.forget(ino)

    def readdir_some(self, ino: int, cookie: int, n: int) -> list[tuple[bytes, int, Stat, int]]:
        """At most n entries after cookie, as one FUSE reply would have them."""
        out: list[tuple[bytes, int, Stat, int]] = []

        def emit(name: bytes, child: int, attributes: tuple, cookie: int) -> bool:
            if len(out) == n:
                return False
            out.append((name, child, Stat(*attributes), cookie))
            if name not in (b".", b".."):
                self._hold(child)
            return True

        self.do(vnops.readdir, ino, cookie, emit)
        return out

    def entries(self, ino: int, step: int = 64) -> dict[bytes, int]:
        """Names and inode numbers of a directory, "." and ".." left out; no reference is kept."""
        found: dict[bytes, int] = {}
        cookie = 0
        while some := self.readdir_some(ino, cookie, step):
            for name, child, attributes, cookie in some:
                assert name not in found, f"{name!r} twice"
                found[name] = child
                if name not in (b".", b".."):
                    assert attributes == self.getattr(child)
                    self.forget(child, 1)
        assert found.pop(b".") == ino
        found.pop(b"..")
        return found

    # --- the whole ---

    def content(self, ino: int) -> bytes:
        """All bytes of a regular file; huge sparse ones by their last page and extents only."""
        size = self.getattr(ino).size
        if size > 1 << 24:
            return bytes(self.read(ino, size - PAGE_SIZE, PAGE_SIZE))
        return bytes(self.read(ino, 0, size))

    def describe(self, ino: int) -> tuple:
        """All that a user can see of a node, but atime."""
        st = self.getattr(ino)
        data: Any = None
        if stat.S_ISREG(st.mode):
            data = self.content(ino)
        elif stat.S_ISLNK(st.mode):
            data = self.readlink(ino)
        attributes = {name: bytes(self.getxattr(ino, name)) for name in self.listxattr(ino)}
        return st._replace(atime_ns=0), data, attributes

    def dump(self) -> dict[int, tuple]:
        """Every node that has a name or a reference of ours."""
        seen: dict[int, tuple] = {}
        todo = [ROOT, *self.refs]
        while todo:
            ino = todo.pop()
            if ino in seen:
                continue
            entries: dict[bytes, int] = {}
            if stat.S_ISDIR(self.getattr(ino).mode):
                entries = self.entries(ino)
                todo.extend(entries.values())
            seen[ino] = (*self.describe(ino), entries)
        return seen

    def counts(self) -> dict[str, Any]:
        """Counts that must be the same again when everything is removed."""
        vm, mem = self.mp.vm, self.mp.mem
        submap_pages = mem.backend.stats()["size_bytes"] >> PAGE_SHIFT      # a fixed one of a pool is made when needed
        return {"pages": vm.npages, "pages_of": vm.pages_of[:20], "nodes": mem.nodes.nitems,
                "strings": [pool.nitems for pool in mem.strings.pools], "data_items": list(mem.data_items),
                "map": vm.kernel_map.nused - submap_pages,
                "slotless": vm.nslotless + (vm.swap.nheld if vm.swap else 0) + (vm.tier.ring.nheld if vm.tier else 0)}

    def reap_all(self, check: bool = False) -> tuple[int, list[detach.StaleName]]:
        """Reap to the end: names taken away, those that the kernel must be told of."""
        total, known = 0, self.mp.untold
        while self.mp.doomed:
            n, some = reap.reap(self.mp)
            total, known = total + n, known + some
            if check:
                self.check()
        self.mp.untold = []
        return total, known

    def check(self) -> None:
        """Every invariant holds."""
        self.unchecked = 0
        self.mp.breathe()
        self.mp.check()

    def remove_all(self, dino: int = ROOT) -> None:
        """Empty a directory."""
        for name, ino in self.entries(dino).items():
            if stat.S_ISDIR(self.getattr(ino).mode):
                self.remove_all(ino)
                self.rmdir(dino, name)
            else:
                self.unlink(dino, name)

    def empty(self) -> None:
        """Remove everything; counts are what they were after mounting, and swap is empty."""
        self.remove_all()
        self.forget_all()
        self.reap_all()
        for name in self.listxattr(ROOT):
            self.removexattr(ROOT, name)
        self.check()
        now = self.counts()
        # A page has a slot, or none, or keeps a slot while it is dirty: only pages are exact.
        assert now.pop("slotless") <= self.start["slotless"] + now["pages"]
        assert now == {key: value for key, value in self.start.items() if key != "slotless"}
        self.settle()

    def settle(self) -> None:
        """Idle until there is nothing to do; the swap file's blocks are those of the pages that are out."""
        for _ in range(10_000):
            self.mp.breathe()
            if not self.mp.idle():
                break
        else:
            raise AssertionError("idle() never ends")
        swap = self.mp.vm.swap
        if swap is not None and swap.files and hasattr(swap.files[0].store, "fd"):     # a server's memory is its own
            blocks = os.fstat(swap.files[0].store.fd).st_blocks * BLOCK >> PAGE_SHIFT
            assert blocks <= swap.nheld + 8, f"{blocks} pages on disk, {swap.nheld} held"

    def finish(self) -> None:
        """The end of every test."""
        self.check()
        if self.lost:
            return
        self.empty()


class Pair:
    """A file and a bytearray."""

    def __init__(self, fs: Driver, name: bytes = b"file") -> None:
        self.fs, self.ino, self.data = fs, fs.create(ROOT, name), bytearray()

    def write(self, offset: int, data: bytes) -> None:
        """write(2)"""
        assert self.fs.write(self.ino, offset, data) == len(data)
        if data:                # nothing written, nothing longer
            self.data.extend(bytes(max(offset - len(self.data), 0)))
        self.data[offset:offset + len(data)] = data

    def truncate(self, size: int) -> None:
        """truncate(2)"""
        self.fs.truncate(self.ino, size)
        self.data[size:] = bytes(max(size - len(self.data), 0))

    def punch(self, offset: int, length: int) -> None:
        """fallocate(2) with FALLOC_FL_PUNCH_HOLE"""
        self.fs.punch(self.ino, offset, length)
        end = min(offset + length, len(self.data))
        if offset < end:
            self.data[offset:end] = bytes(end - offset)

    def compare(self) -> None:
        """All bytes, and the invariants."""
        assert self.fs.getattr(self.ino).size == len(self.data)
        assert self.fs.read(self.ino, 0, len(self.data) + 10) == self.data

    @property
    def kind(self) -> int:
        """How the data is kept."""
        self.fs.mp.breathe()
        return layout.tn_kind(self.fs.mp.arena, self.fs.mp.mem.node(self.ino))

    @property
    def npages(self) -> int:
        """How many pages it has."""
        self.fs.mp.breathe()
        return layout.tn_pages(self.fs.mp.arena, self.fs.mp.mem.node(self.ino))


# --- expecting refusals ---

@contextmanager
def refused(*numbers: int) -> Iterator[None]:
    """What runs within is refused with one of the errno values."""
    with pytest.raises((FsError, VmError)) as info:
        yield
    assert info.value.errno in numbers, info.value


# --- failures ---

class Fuse:
    """Fails the n-th of the calls it is put into, counted from 0, and with `lasting` all that come after it."""

    burning = 0                     # how many are: what looks on then is not to count

    def __init__(self, error: Callable[[], Exception], n: int = -1, lasting: bool = False) -> None:
        self.error, self.n, self.calls, self.lasting = error, n, 0, lasting

    def burn(self) -> None:
        """One call."""
        self.calls += 1
        if self.calls == self.n + 1 or self.lasting and self.calls > self.n:
            raise self.error()


def _no_memory() -> Exception:
    return NoMemory("injected")


def _io_error() -> Exception:
    return SwapIOError("injected")


# What fails: which call (failpoint.py), and how; and whether it fails from the n-th call on or there alone.
Point = tuple[str, Callable[[], Exception], bool]
POINTS: dict[str, Point] = {
    "page": ("Vm.alloc_page", _no_memory, False),
    "data": ("Vm.alloc_data_pages", _no_memory, False),
    "item": ("Pool.get", _no_memory, False),
    "pagein": ("Swap.read_cluster", _io_error, False),
}
SWAP_POINTS: dict[str, Point] = {
    "slot": ("Swap.alloc", lambda: NoSwap("injected"), False),
    "no more slots": ("Swap.alloc", lambda: NoSwap("injected"), True),
    "ring": ("Tier.put", lambda: NoSwap("injected"), False),
    "full ring": ("Tier.put", lambda: NoSwap("injected"), True),
    "write": ("Swap.write_cluster", lambda: OSError(errno.EIO, "injected"), False),
    "dead device": ("Swap.write_cluster", lambda: OSError(errno.EIO, "injected"), True),
    "full disk": ("Swap.write_cluster", lambda: OSError(errno.ENOSPC, "injected"), True),
}
TRIED: Counter[str] = Counter()         # failures that were injected, by point; conftest.py prints them


@contextmanager
def failing(point: str, n: int, lasting: bool = False) -> Iterator[Fuse]:
    """Let the n-th call of a point fail, and with `lasting` all after it."""
    where, error, always = {**POINTS, **SWAP_POINTS}[point]
    fuse = Fuse(error, n, lasting or always)
    Fuse.burning += 1
    try:
        with failpoints.at(where, fuse.burn):
            yield fuse
    finally:
        Fuse.burning -= 1
        TRIED[point] += fuse.calls > n
