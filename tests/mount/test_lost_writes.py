"""tests/mount/test_lost_writes.py: writes through mappings for which there is no room (tmpfsd only).

FUSE reserves no room when a page is touched: only at write-back it turns out that the page does not fit.
"""

import ctypes
import errno
import mmap
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from mountlib import PAGE, Mounted, ctl, eventually, fails_with, libc

ROOM = 100                  # pages
FAILED = ctypes.c_void_p(-1).value
libc.mmap.restype = ctypes.c_void_p


@pytest.fixture(params=["native", "pyfuse3"])
def full(tmpfsd: Callable[..., Mounted], request: pytest.FixtureRequest) -> Mounted:
    """A mount with room for ROOM pages, with the edge that sees the flag of a write, and with the one that guesses."""
    mounted = tmpfsd(f"ram=8m,size=8m,edge={request.param}")
    fd, size = os.open(mounted.mnt / "filler", os.O_CREAT | os.O_WRONLY), 0
    with fails_with(errno.ENOSPC):
        while True:
            size += os.write(fd, b"x" * 65536)
    os.ftruncate(fd, size - ROOM * PAGE)
    os.close(fd)
    assert mounted.status()["lost_writes"] == 0
    return mounted


class Mapping:
    """A mapped file of holes, all of whose pages have been written; only the descriptor `fd` is open."""

    def __init__(self, path: Path, npages: int) -> None:
        self.fd, self.size = os.open(path, os.O_CREAT | os.O_RDWR), npages * PAGE
        os.ftruncate(self.fd, self.size)
        self.start = libc.mmap(None, ctypes.c_size_t(self.size), mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED,
                               self.fd, ctypes.c_long(0))
        assert self.start != FAILED

    def touch(self) -> None:
        """Write to every page."""
        for offset in range(0, self.size, PAGE):
            ctypes.memset(self.start + offset, 7, 8)

    def sync(self) -> None:
        """msync(2)."""
        if libc.msync(ctypes.c_void_p(self.start), ctypes.c_size_t(self.size), 4):
            raise OSError(ctypes.get_errno(), "msync")

    def unmap(self) -> None:
        """munmap(2)."""
        libc.munmap(ctypes.c_void_p(self.start), ctypes.c_size_t(self.size))


# One request of the kernel's has up to 256 pages: room may end within one, or between two.
SIZES = (ROOM + 50, ROOM + 400)


@pytest.mark.parametrize("npages", SIZES)
@pytest.mark.parametrize("way", ["msync", "fsync", "close"])
def test_who_holds_the_file_hears_it(full: Mounted, way: str, npages: int) -> None:
    mapping = Mapping(full.mnt / "holes", npages)
    mapping.touch()
    with fails_with(errno.ENOSPC):
        {"msync": mapping.sync, "fsync": lambda: os.fsync(mapping.fd), "close": lambda: os.close(mapping.fd)}[way]()
    if way != "close":
        os.close(mapping.fd)
    mapping.unmap()
    assert full.status()["lost_writes"] >= 1 and "could not be kept" in full.log_text()
    assert "through a mapping may be lost" in ctl("status", str(full.mnt)).stdout


@pytest.mark.parametrize("npages", SIZES)
def test_a_closed_descriptor_leaves_log_and_status(full: Mounted, npages: int) -> None:
    mapping = Mapping(full.mnt / "holes", npages)
    os.close(mapping.fd)
    mapping.touch()
    mapping.unmap()
    assert eventually(lambda: full.status()["lost_writes"] >= 1)
    assert "could not be kept" in full.log_text()


def test_what_fits_is_kept(full: Mounted) -> None:
    mapping = Mapping(full.mnt / "holes", ROOM - 5)
    mapping.touch()
    mapping.sync()
    os.close(mapping.fd)
    mapping.unmap()
    assert full.status()["lost_writes"] == 0
    assert (full.mnt / "holes").read_bytes()[:: PAGE] == b"\7" * (ROOM - 5)


def test_a_write_that_makes_a_file_longer_is_cut_short(full: Mounted) -> None:
    """As on tmpfs; nobody could take that for a mapping."""
    fd = os.open(full.mnt / "data", os.O_CREAT | os.O_WRONLY)
    written = os.write(fd, b"x" * (ROOM + 50) * PAGE)
    assert 0 < written < (ROOM + 50) * PAGE
    with fails_with(errno.ENOSPC):
        os.write(fd, b"x" * PAGE * 2)
    os.close(fd)
    assert full.status()["lost_writes"] == 0
