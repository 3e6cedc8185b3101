"""tests/mount/test_exhaustion.py: mounts filled to each of their limits, by metadata and by data.

ENOSPC comes at the call that does not fit, and nothing that was there before is lost.  When nothing at all fits any
more, every removal works, and makes room again.
"""

import errno
import os
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
from mountlib import Mounted, eventually, fails_with, inodes_held, touch

pytestmark = pytest.mark.timeout(120)

MOST = 50_000               # things made, by which a mount must be full
BLOCK = 32 << 10
LIMITS = {
    "size": "size=2m,ram=1m", "size below ram": "size=1m,ram=4m", "swap_size": "size=64m,ram=1m,swap_size=1m",
    "ram": "size=64m,ram=1m,swap=none",
}
# The backends whose pages stay, and those whose pages leave: every limit for one of each.
MATRIX = [(backend, limit) for backend in ("wired", "pageable-submap") for limit in LIMITS]
MATRIX += [(backend, limit) for backend in ("pageable-flag", "aobj", "pageable-object")
           for limit in ("size", "swap_size")]


class Filling:
    """All that was made, and must still be there after refusals."""

    def __init__(self, mnt: Path) -> None:
        self.mnt = mnt
        self.made: list[Path] = []
        self.data: dict[Path, int] = {}         # files with data: bytes that were written

    def metadata(self) -> None:
        """Files, directories, symlinks, long names and attributes, until one does not fit."""
        start = len(self.made)
        makers: list[Callable[[Path], Any]] = [
            touch, os.mkdir, lambda path: os.symlink("t" * 300, path), lambda path: os.mkfifo(path)]
        with fails_with(errno.ENOSPC):
            for number in range(start, MOST):
                path = self.mnt / f"m{number}{'-' * (number % 3 * 60)}"
                makers[number % len(makers)](path)
                self.made.append(path)

    def of_kind(self, number: int) -> list[Path]:
        """The files (0) or the directories (1) among what metadata() made."""
        return self.made[number::4]

    def by_data(self) -> None:
        """Blocks, in files of a hundred, until one does not fit; what a short write took is there."""
        with fails_with(errno.ENOSPC):
            for number in range(len(self.data), MOST):
                path = self.mnt / f"data{number}"
                with opened(path, os.O_WRONLY | os.O_CREAT) as fd:
                    self.data[path] = 0
                    for _ in range(20):
                        self.data[path] += os.write(fd, pattern(path, self.data[path], BLOCK))

    def both(self, first: str) -> None:
        """Until neither fits."""
        order = [self.metadata, self.by_data]
        for fill in order if first == "metadata" else order[::-1]:
            fill()

    def compare(self) -> None:
        """All that was made is there and as it was written."""
        assert set(os.listdir(self.mnt)) >= {path.name for path in (*self.made, *self.data)}
        for path, size in self.data.items():
            with opened(path, os.O_RDONLY) as fd:
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                content = b"".join(iter(lambda: os.read(fd, 1 << 20), b""))
            assert content == pattern(path, 0, size), path


@contextmanager
def opened(path: Path, flags: int) -> Iterator[int]:
    """A descriptor."""
    fd = os.open(path, flags)
    try:
        yield fd
    finally:
        os.close(fd)


def pattern(path: Path, offset: int, size: int) -> bytes:
    """The bytes that a file must have there."""
    unit = os.fsencode(path.name).rjust(16, b".")
    return (unit * (size // 16 + 2))[offset % 16:][:size]


def remove_and_make_again(filling: Filling) -> None:
    """Every operation that frees something works, and the same things fit again."""
    for kind, remove, make in ((0, os.unlink, touch), (1, os.rmdir, os.mkdir), (3, os.unlink, os.mkfifo),
                               (2, os.unlink, lambda path: os.symlink("t" * 300, path))):
        for path in filling.of_kind(kind)[1:20:3]:
            remove(path)
            assert fits(make, path), f"{path} was there, is removed, and does not fit"
    for kind in (0, 1):
        for old, new in zip(filling.of_kind(kind)[30:40], filling.of_kind(kind)[42:52]):
            os.rename(old, new)
    data = list(filling.data)
    for path in data[:-1]:
        os.truncate(path, filling.data[path] // 2)
        with opened(path, os.O_WRONLY | os.O_TRUNC):
            pass
        assert fits(lambda path: touch(path, b"x" * BLOCK), path)
    for path in data:
        os.unlink(path)


def fits(make: Callable[[Path], Any], path: Path) -> bool:
    """Whether it can be made, soon: the kernel forgets a removed node, and so the daemon frees it, a moment later."""
    def makes() -> bool:
        try:
            make(path)
        except OSError as failure:
            assert failure.errno == errno.ENOSPC
            return False
        return True

    return eventually(makes, 5)


def empty(filling: Filling) -> None:
    """Remove all that is left."""
    for entry in list(os.scandir(filling.mnt)):
        (os.rmdir if entry.is_dir(follow_symlinks=False) else os.unlink)(entry.path)


def fill_and_remove(mounted: Mounted, first: str) -> None:
    """The whole course: full, nothing lost, everything can be removed, room again, and as much room as before."""
    filling = Filling(mounted.mnt)
    filling.both(first)
    filling.compare()
    remove_and_make_again(filling)
    empty(filling)
    if mounted.kind == "tmpfsd":
        assert eventually(lambda: inodes_held(mounted) == 1), mounted.status()
    again = Filling(mounted.mnt)
    again.both(first)
    assert len(again.made) >= 0.9 * len(filling.made)
    assert sum(again.data.values()) >= 0.9 * sum(filling.data.values()) - BLOCK


@pytest.mark.parametrize("first", ["metadata", "data"])
@pytest.mark.parametrize("backend, limit", MATRIX)
def test_full(tmpfsd: Callable[..., Mounted], backend: str, limit: str, first: str) -> None:
    fill_and_remove(tmpfsd(f"backend={backend},{LIMITS[limit]}"), first)


@pytest.mark.parametrize("first", ["metadata", "data"])
def test_size_as_the_kernels(make_fs: Callable[..., Mounted], first: str) -> None:
    fill_and_remove(make_fs(size="2m"), first)


@pytest.mark.parametrize("first", ["metadata", "data"])
@pytest.mark.parametrize("sharing", ["shared", "per-pool"])
def test_submap(tmpfsd: Callable[..., Mounted], sharing: str, first: str) -> None:
    fill_and_remove(tmpfsd(f"submap=512k,submap_sharing={sharing},size=3m,ram=1m"), first)


def test_nr_inodes(make_fs: Callable[..., Mounted]) -> None:
    """Data has room when inodes have none, and each removal makes room for one inode."""
    mounted = make_fs(nr_inodes="200", size="16m", tmpfsd="ram=1m")
    filling = Filling(mounted.mnt)
    filling.metadata()
    assert len(filling.made) == 199 and os.statvfs(mounted.mnt).f_ffree == 0
    files = filling.of_kind(0)
    for make in (touch, os.mkdir, os.mkfifo, lambda path: os.symlink("x", path)):
        with fails_with(errno.ENOSPC):
            make(mounted.mnt / "new")
    touch(files[0], b"x" * (4 << 20))
    assert files[0].stat().st_size == 4 << 20
    os.rename(files[1], files[2])
    touch(mounted.mnt / "new")
    with fails_with(errno.ENOSPC):
        touch(mounted.mnt / "one more")
    for path in files[3:13]:
        os.unlink(path)
    for number in range(10):
        touch(mounted.mnt / f"new{number}")
    with fails_with(errno.ENOSPC):
        touch(mounted.mnt / "one more")
