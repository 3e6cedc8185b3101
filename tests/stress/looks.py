"""stress/looks.py: the looks of a player: stat, a directory, bytes, a whole tree, as plain values.

Invariants  No value has numbers that two file systems cannot share: inodes, devices, the time of day (player.py, L1).
"""

from __future__ import annotations

import ctypes
import os
import stat
import time
import zlib
from collections.abc import Iterator
from typing import Any

from tests.mount import mountlib
from tests.stress.scripts import NOW, OMIT

HOUR = 3600 * 10**9
WHOLE = 300_000                 # bytes of a file that are compared at each end of it
Answer = dict[str, Any]


class NoHandle(Exception):
    """The user has no open file at that place."""


def pattern(seed: int, nbytes: int) -> bytes:
    """Bytes that differ from page to page."""
    return (bytes((seed + i) & 255 for i in range(251)) * (nbytes // 251 + 1))[:nbytes]


def digest(data: bytes) -> Any:
    """Short bytes as they are, long ones as length and checksum."""
    return bytes(data) if len(data) <= 64 else (len(data), zlib.crc32(data))


def when(time_ns: int) -> Any:
    """A time that was set, or that it is of these minutes (L1)."""
    return "now" if abs(time.time_ns() - time_ns) < HOUR else time_ns


def checked(result: int) -> None:
    """Raise the error of a call of the C library."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def timespecs(atime: int, mtime: int) -> Any:
    """Two times for utimensat()."""
    return (mountlib.Timespec * 2)(*(mountlib.Timespec(*((0, t) if t in (NOW, OMIT) else divmod(t, 10**9)))
                                     for t in (atime, mtime)))


def fields(status: os.stat_result) -> Answer:
    """The fields of a stat."""
    return {"mode": oct(status.st_mode), "nlink": status.st_nlink, "uid": status.st_uid, "gid": status.st_gid,
            "rdev": status.st_rdev, "size": status.st_size, "blksize": status.st_blksize, "blocks": status.st_blocks,
            "atime": when(status.st_atime_ns), "mtime": when(status.st_mtime_ns), "ctime": when(status.st_ctime_ns)}


def everything(fd: int, size: int) -> list[mountlib.Entry]:
    """The rest of a directory."""
    entries: list[mountlib.Entry] = []
    while part := mountlib.getdents(fd, size):
        entries += part
    return entries


def walk(directory: str | bytes = ".", path: bytes = b".") -> Iterator[tuple[bytes, bytes, os.stat_result]]:
    """(name, path, stat) of all below a directory, deeper ones first; the working directory is that of the name.

    Names are used in their directory, because a path may be longer than the kernel takes.
    """
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        for name in sorted(os.listdir(fd)):
            name = os.fsencode(name)
            os.fchdir(fd)
            if stat.S_ISDIR(os.lstat(name).st_mode):
                yield from walk(name, path + b"/" + name)
                os.fchdir(fd)
            yield name, path + b"/" + name, os.lstat(name)
    finally:
        os.close(fd)
        os.chdir("/")


def content(path: bytes, status: os.stat_result) -> Any:
    """A file's bytes, a symlink's target; of a huge file both ends."""
    if stat.S_ISLNK(status.st_mode):
        return os.readlink(path)
    if not stat.S_ISREG(status.st_mode):
        return None
    fd = os.open(path, os.O_RDONLY | os.O_NOATIME)
    try:
        return digest(os.pread(fd, WHOLE, 0)), digest(os.pread(fd, WHOLE, max(status.st_size - WHOLE, 0)))
    finally:
        os.close(fd)
