"""image/source.py: where the bytes of an image are: in a local file, or on a server (remote.py).

Picture     open_source(path) --> LocalFile        a path: preadv(2)
                              --> RemoteFile       SCHEME://...: anything that fsspec reads by range
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from typing import Protocol

from tmpfsd.image.format import ImageError
from tmpfsd.swapplaces import is_url

CHUNK = 1 << 20


class Source(Protocol):
    """The bytes of an image."""

    size: int

    def read(self, offset: int, nbytes: int) -> bytes:
        """Return bytes, fewer at the end; for data that is read once: it may take long.  => OSError."""

    def read_into(self, offset: int, views: Sequence[memoryview]) -> int:
        """Fill views for a request, which waits; return how many bytes.  => OSError, soon."""

    def bring(self, offset: int, nbytes: int) -> None:
        """Bring bytes where read_into() finds them at once; for a thread that may wait.  => OSError."""

    def wrong(self, offset: int, nbytes: int) -> bool:
        """Drop these bytes, which were wrong; return whether another read may give others.  O(1)."""

    def state(self) -> str:
        """"ok", or why it cannot be read now.  O(1)."""

    def descriptors(self) -> list[int]:
        """The open files that a frozen copy must keep.  O(1)."""

    def close(self) -> None:
        """Close it."""


class LocalFile:
    """A regular file.  => ImageError, OSError."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
        state = os.fstat(self._fd)
        if not stat.S_ISREG(state.st_mode):
            self.close()
            raise ImageError("not a regular file")
        self.size = state.st_size

    def read(self, offset: int, nbytes: int) -> bytes:
        """See Source."""
        data = bytearray(nbytes)
        done = 0
        with memoryview(data) as view:
            while done < nbytes and (got := os.preadv(self._fd, [view[done:]], offset + done)):
                done += got
        return bytes(data[:done]) if done < nbytes else bytes(data)

    def read_into(self, offset: int, views: Sequence[memoryview]) -> int:
        """See Source."""
        return os.preadv(self._fd, views, offset)

    def bring(self, offset: int, nbytes: int) -> None:
        """See Source: into the host's page cache."""
        for at in range(offset, offset + nbytes, CHUNK):
            os.pread(self._fd, min(CHUNK, offset + nbytes - at), at)

    def wrong(self, offset: int, nbytes: int) -> bool:
        """See Source."""
        return False

    def state(self) -> str:
        """See Source."""
        return "ok"

    def descriptors(self) -> list[int]:
        """See Source."""
        return [self._fd]

    def close(self) -> None:
        """See Source."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1


def open_source(path: str, cache_bytes: int, directory: str | None) -> Source:
    """Open what image= names; directory is for the cache if it is on a server.  => ImageError, OSError."""
    if not is_url(path):
        return LocalFile(path)
    from tmpfsd.image.remote import RemoteFile  # here: others do not wait for it
    return RemoteFile(path, cache_bytes, directory)
