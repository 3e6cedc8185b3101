"""flusher.py: has the kernel write back what a mapping has changed, before a hole is told (fuse/space.py, LSEEK).

To invalidate pages (NOTIFY_INVAL_INODE) writes back those that are dirty, and returns when that is done.  The WRITEs
come to us, so a thread gives that notice, and the loop serves.  What follows wakes the loop through the device itself,
whichever way it waits: NOTIFY_RETRIEVE of nothing takes no lock, and the kernel answers it with a request.

Picture     LSEEK -> ask() -> thread: INVAL_INODE -> WRITE, WRITE, ...
                              thread: RETRIEVE    -> NOTIFY_REPLY -> the answer to LSEEK
Ending      settled() while the loop serves; where the loop has failed, close() refuses what the thread waits for.
Limits      One after the other.
            A daemon that is killed (SIGKILL) while pages are being written back waits in the kernel for itself: the
            mount hangs until its connection is aborted (umount -f does that).  Killing who asked does no harm.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import queue
import threading
import time
from collections.abc import Callable

import trio

from tmpfsd.fuse import abi, notify

log = logging.getLogger(__name__)

LOOK = 0.01             # seconds between two looks whether it is done
GRACE = 1.0             # seconds that its end is waited for


class Flusher:
    """A thread that gives notices; it begins with the first.  => The descriptor is open until close()."""

    def __init__(self, fd: int, failed: Callable[[int], object]) -> None:
        self.fd, self.failed = fd, failed       # failed: what is told in the thread when no NOTIFY_REPLY comes
        self._asked: queue.SimpleQueue[tuple[int, int, int, int] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._begun = self._done = 0

    def ask(self, unique: int, ino: int, offset: int, length: int) -> None:
        """Write back a range of a file; then comes a NOTIFY_REPLY of this `unique`."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="flusher", daemon=True)
            self._thread.start()
        self._begun += 1
        self._asked.put((unique, ino, offset, length))

    async def settled(self) -> None:
        """Wait until all that was asked is done; requests must be served meanwhile."""
        while self._begun != self._done:
            await trio.sleep(LOOK)

    def close(self, refuse: Callable[[], object]) -> None:
        """End the thread; the descriptor may be closed then.  Nobody serves: refuse() is for what it waits for."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._asked.put(None)
        end = time.monotonic() + GRACE
        while thread.is_alive() and time.monotonic() < end:
            refuse()
            thread.join(LOOK)

    def _work(self) -> None:
        while (asked := self._asked.get()) is not None:
            self._flush(*asked)
            self._done += 1

    def _flush(self, unique: int, ino: int, offset: int, length: int) -> None:
        """Give both notices; where the kernel refuses, the caller of LSEEK must not wait for ever."""
        try:
            os.write(self.fd, notify.inval_range(ino, offset, length))
            os.write(self.fd, notify.retrieve_nothing(ino, unique))
        except OSError as error:
            log.debug("a notice was not taken: %s", error)
            self.failed(unique)
            with contextlib.suppress(OSError):          # ENOENT: nobody waits any more
                os.write(self.fd, abi.OUT_HEADER.pack(abi.OUT_HEADER.size, -errno.EIO, unique))
