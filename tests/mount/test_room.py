"""tests/mount/test_room.py: a removal or truncation makes room at once, and nobody waits while pages are freed."""

import os
import time
from pathlib import Path
from threading import Event, Thread
from typing import Callable

import pytest
from mountlib import Mounted, eventually

MIB = 1 << 20
SIZE = 24 * MIB
OPTIONS = ["size=24m", "size=24m,nr_inodes=5"]


def write_file(path: Path, nbytes: int) -> None:
    """Write a file of so many bytes; each byte must be taken."""
    with open(path, "wb", buffering=0) as file:
        for _ in range(0, nbytes, 64 << 10):
            assert file.write(bytes(64 << 10)) == 64 << 10


def free_bytes(mnt: Path) -> int:
    """What df says."""
    answer = os.statvfs(mnt)
    return answer.f_bavail * answer.f_frsize


@pytest.mark.parametrize("options", OPTIONS)
def test_removed_and_made_anew(make_fs: Callable[..., Mounted], options: str) -> None:
    mnt = make_fs(options).mnt
    for name in ("one", "two"):
        (mnt / name).touch()
    for i in range(12):
        path = mnt / f"large-{i}"
        write_file(path, SIZE - 2 * MIB)
        path.unlink()
        assert eventually(lambda: free_bytes(mnt) >= SIZE - 2 * MIB)       # the kernel forgets the file a moment later


def test_truncated_and_written_anew(make_fs: Callable[..., Mounted]) -> None:
    mnt = make_fs("size=24m").mnt
    path = mnt / "file"
    for _ in range(6):
        write_file(path, SIZE - 2 * MIB)
        os.truncate(path, MIB + 5)
        assert free_bytes(mnt) >= SIZE - 4 * MIB
        write_file(mnt / "other", SIZE - 6 * MIB)
        assert path.read_bytes() == bytes(MIB + 5)
        os.truncate(path, 8 * MIB // 2)
        assert path.read_bytes() == bytes(4 * MIB)
        (mnt / "other").unlink()


def scattered(path: Path, npages: int) -> None:
    """A file of one-page extents."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    for i in range(npages):
        os.pwrite(fd, b"x" * 4096, i * 8192)
    os.close(fd)


@pytest.mark.parametrize("take", [lambda path: path.unlink(), lambda path: os.truncate(path, 8192 * 6000 + 5),
                                  lambda path: os.truncate(path, 0)], ids=["unlink", "truncate", "empty"])
def test_nobody_waits(tmpfsd: Callable[..., Mounted], take: Callable[[Path], None]) -> None:
    """Freed at once, 12,000 extents took half a second and more."""
    mounted = tmpfsd("size=1g,ram=16m")
    path, probe, ended = mounted.mnt / "file", mounted.mnt / "probe", Event()
    scattered(path, 12_000)
    probe.touch()
    waits: list[float] = []

    def look() -> None:
        while not ended.is_set():
            start = time.perf_counter()
            os.close(os.open(probe, os.O_RDONLY))
            waits.append(time.perf_counter() - start)

    thread = Thread(target=look)
    thread.start()
    try:
        time.sleep(0.1)
        take(path)
        assert eventually(lambda: mounted.status()["doomed_bytes"] == 0)
    finally:
        ended.set()
        thread.join()
    assert max(waits) < 1
