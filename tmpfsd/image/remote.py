"""image/remote.py: an image on a server, read by range, with a cache of blocks on a local disk (blocks.py).

Threads fetch.  A request that needs a block waits for one of them, SECONDS at most, including a second try.  After a
wait without success all are refused at once, until the keeper finds the server answering again with the same image: so
an absent server costs the mount one wait, not one for each request.  What comes late is kept.

Picture     HERE --no answer within SECONDS, or an error twice--> AWAY --the keeper reads the header again--> HERE
            a page --its block is in the cache--> bytes
                   --it is not--> FETCHING, by one of WORKERS threads --> the cache, and whoever waits
            A block that follows the last one fetched brings AHEAD more.

Invariants  T1  At most MOST_FETCHES blocks are on their way, each once, however many want it (`_fetches`).
            T2  A frozen copy has no threads and no cache: it reads by itself, and may wait.  For it, a server that
                once gave no answer stays away to its end.

Limits      Answers are trusted as far as the checksums of the image go.
            A library that hangs for good occupies a thread: for http and s3 READ_SECONDS (ranges.py) ends that.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections.abc import Sequence
from queue import SimpleQueue

from tmpfsd.image.blocks import BLOCK, BLOCK_SHIFT, Blocks
from tmpfsd.image.format import ImageError
from tmpfsd.image.ranges import Ranges, as_oserror, load
from tmpfsd.privileges import give_up
from tmpfsd.swapplaces import default_swap, shown
from tmpfsd.uvm.param import PAGE_SIZE

log = logging.getLogger(__name__)

OPEN_SECONDS = 5.0          # for the first answer: loading the S3 library alone takes one of them on a busy machine
SECONDS = 1.0               # a request waits
PATIENT_SECONDS = 15.0      # other work waits, for each block
PROBE = 0.5                 # between two looks at a server that was away
PAUSE = 0.1                 # before a second try
TRIES = 2
WORKERS = 4
AHEAD = 3                   # blocks
MOST_FETCHES = 32
PIECE = 1 << 20             # of a table, in one request
NO_BLOCK = -1


class Fetch:
    """A block on its way."""

    __slots__ = ("block", "done", "data", "error")

    def __init__(self, block: int) -> None:
        self.block = block
        self.done = threading.Event()
        self.data = b""
        self.error = ""


class RemoteFile:
    """A Source on a server.  => ImageError, OSError."""

    def __init__(self, url: str, cache_bytes: int, directory: str | None) -> None:
        self._url, self._shown = url, shown(url)
        self._away, self._ended = "", False
        self._ranges = self._open()
        self.size = self._ranges.size
        self._pid = self._copied = os.getpid()          # who has threads and a cache; who has made `_ranges`
        self._copy_block = (NO_BLOCK, b"")
        self._lock = threading.Lock()
        self._fetches: dict[int, Fetch] = {}
        self._queue: SimpleQueue[Fetch | None] = SimpleQueue()
        self._last = -1
        self._head = self._ranges.read(0, min(PAGE_SIZE, self.size))
        self._blocks = Blocks(_place(directory), cache_bytes)
        self._threads = [threading.Thread(target=self._work, name="image", daemon=True) for _ in range(WORKERS)]
        for thread in self._threads:
            thread.start()

    def _open(self) -> Ranges:
        """=> OSError: no answer within OPEN_SECONDS, or one that is not a file."""
        load(self._url)
        found: list[Ranges | OSError] = []

        def work() -> None:
            give_up()                   # the library starts its own threads here
            try:
                found.append(Ranges(self._url))
            except OSError as error:
                found.append(error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join(OPEN_SECONDS)
        if not found:
            raise OSError(errno.ETIMEDOUT, f"no answer within {OPEN_SECONDS:.0f} s", self._shown)
        if isinstance(found[0], OSError):
            raise OSError(found[0].errno, found[0].strerror, self._shown)
        return found[0]

    # --- what Image wants ---

    def read(self, offset: int, nbytes: int) -> bytes:
        """See Source: bypasses the cache, in pieces."""
        end = min(offset + nbytes, self.size)
        if offset == 0 and end <= len(self._head):
            return self._head[:end]
        parts = []
        for at in range(offset, end, PIECE):
            parts.append(self._patiently(at, min(at + PIECE, end)))
        return b"".join(parts)

    def _patiently(self, start: int, end: int) -> bytes:
        for left in reversed(range(TRIES)):
            try:
                return self._ranges.read(start, end)
            except OSError as error:
                if not left:
                    raise OSError(error.errno, error.strerror, self._shown) from None
                time.sleep(PAUSE)
        raise AssertionError

    def read_into(self, offset: int, views: Sequence[memoryview]) -> int:
        """See Source."""
        until, at, got = time.monotonic() + SECONDS, 0, 0
        todo = [(view, 0) for view in views]
        while todo:
            where = offset + got
            block, inside = where >> BLOCK_SHIFT, where & BLOCK - 1
            parts, room = [], min(BLOCK - inside, self.size - where)
            while todo and room > 0:
                view, at = todo.pop(0)
                part = view[at:at + room]
                parts.append(part)
                room -= len(part)
                if at + len(part) < len(view):
                    todo.insert(0, (view, at + len(part)))
            if not parts:
                break
            self._fill(block, inside, parts, until)
            got += sum(map(len, parts))
        return got

    def _fill(self, block: int, inside: int, parts: list[memoryview], until: float) -> None:
        """Fill parts from one block.  => OSError."""
        if os.getpid() == self._pid and self._blocks.read(block, inside, parts):
            return
        data = self._demand(block, until)
        for part in parts:
            part[:] = data[inside:inside + len(part)]
            inside += len(part)

    def _demand(self, block: int, until: float) -> bytes:
        """Return the bytes of a block that is not here.  => OSError."""
        if os.getpid() != self._pid:
            return self._of_copy(block)
        if self._away:
            raise OSError(errno.EIO, self._away)
        fetch = self._fetch(block)
        if fetch is None:
            raise OSError(errno.EIO, "too much is on its way")
        if block == self._last + 1:
            for more in range(block + 1, min(block + AHEAD + 1, (self.size - 1 >> BLOCK_SHIFT) + 1)):
                if not self._blocks.has(more):
                    self._fetch(more)
        self._last = block
        if not fetch.done.wait(max(until - time.monotonic(), 0)):
            self._say_away(f"no answer within {SECONDS:.0f} s")
            raise OSError(errno.EIO, self._away)
        if fetch.error:
            self._say_away(fetch.error)
            raise OSError(errno.EIO, fetch.error)
        return fetch.data

    def _of_copy(self, block: int) -> bytes:
        """Read a block in a frozen copy (T2)."""
        if self._copy_block[0] == block:
            return self._copy_block[1]
        if self._away:
            raise OSError(errno.EIO, self._away)
        start = block << BLOCK_SHIFT
        try:
            if self._copied != os.getpid():
                self._ranges, self._copied = Ranges(self._url), os.getpid()
            self._copy_block = block, self._patiently(start, min(start + BLOCK, self.size))
        except OSError as error:
            self._away = error.strerror or "no answer"
            raise
        return self._copy_block[1]

    def bring(self, offset: int, nbytes: int) -> None:
        """See Source."""
        for block in range(offset >> BLOCK_SHIFT, (offset + nbytes - 1 >> BLOCK_SHIFT) + 1):
            if self._blocks.has(block):
                continue
            fetch = self._fetch(block)
            if self._away or fetch is None or not fetch.done.wait(PATIENT_SECONDS) or fetch.error:
                raise OSError(errno.EIO, self._away or "it cannot be had now")

    def wrong(self, offset: int, nbytes: int) -> bool:
        """See Source."""
        blocks = range(offset >> BLOCK_SHIFT, (offset + nbytes - 1 >> BLOCK_SHIFT) + 1)
        if os.getpid() != self._pid:        # the lock of the cache may be held for ever there (T2)
            had, self._copy_block = self._copy_block[0] in blocks, (NO_BLOCK, b"")
            return had
        return any([self._blocks.drop(block) for block in blocks])

    def state(self) -> str:
        """See Source."""
        return self._away or "ok"

    def descriptors(self) -> list[int]:
        """See Source: a copy connects anew."""
        return []

    def close(self) -> None:
        """See Source.  Threads end by themselves."""
        if self._ended or os.getpid() != self._pid:
            return
        self._ended = True
        for _ in self._threads:
            self._queue.put(None)
        self._blocks.close()

    # --- threads ---

    def _fetch(self, block: int) -> Fetch | None:
        """Return the fetch of a block, started if it is not on its way; None if there are too many.  O(1)."""
        with self._lock:
            fetch = self._fetches.get(block)
            if fetch is None and len(self._fetches) < MOST_FETCHES:
                fetch = self._fetches[block] = Fetch(block)
                self._queue.put(fetch)
            return fetch

    def _work(self) -> None:
        give_up()
        while (fetch := self._queue.get()) is not None:
            start = fetch.block << BLOCK_SHIFT
            until = time.monotonic() + SECONDS
            for _ in range(TRIES):
                try:
                    fetch.data, fetch.error = self._ranges.read(start, min(start + BLOCK, self.size)), ""
                    self._blocks.write(fetch.block, fetch.data)
                    break
                except Exception as error:
                    fetch.error = as_oserror(error).strerror or "no answer"
                if time.monotonic() + PAUSE > until or self._ended:
                    break
                time.sleep(PAUSE)
            with self._lock:
                del self._fetches[fetch.block]
            fetch.done.set()

    def _say_away(self, why: str) -> None:
        with self._lock:
            if self._away or self._ended:
                return
            self._away = why or "no answer"
        log.error("image %s: %s", self._shown, why)
        threading.Thread(target=self._keep, name="image keeper", daemon=True).start()

    def _keep(self) -> None:
        """Look for the server until it answers with the same image."""
        give_up()
        told = False
        while not self._ended:
            time.sleep(PROBE)
            try:
                same = self._ranges.read(0, len(self._head)) == self._head
            except Exception:
                continue
            if same:
                log.warning("image %s: the server answers again", self._shown)
                self._away = ""
                return
            if not told:
                log.error("image %s: another file is there now", self._shown)
                told, self._away = True, "another file is there now"


def _place(directory: str | None) -> str:
    """Where the cache is.  => ImageError."""
    place = directory if directory is not None and os.path.isdir(directory) else default_swap()
    if place is None:
        raise ImageError("no directory for its cache (/var/tmp, /tmp) that can be written to and is outside memory")
    return place
