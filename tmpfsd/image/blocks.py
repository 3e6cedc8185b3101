"""image/blocks.py: blocks of a remote image, cached in a file without a name; the least recently used go first.

A reader in the request loop and the threads that fetch share it.  A lock is held for one block, and nobody holds it
while waiting for a server.

Invariants
    C1  A block that is named has its bytes in its slot; at most `nslots` are named.

Limits      What is in the file is not checked here: pages have checksums, and who finds a wrong one drops the block.
"""

from __future__ import annotations

import os
from threading import Lock

BLOCK_SHIFT = 17
BLOCK = 1 << BLOCK_SHIFT    # fetched by one request: 128 KiB
LEAST_BLOCKS = 16


class Blocks:
    """A cache of a bounded size.  => OSError: no file can be made there."""

    def __init__(self, directory: str, nbytes: int) -> None:
        self.nslots = max(nbytes >> BLOCK_SHIFT, LEAST_BLOCKS)
        self._fd = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._slots: dict[int, int] = {}        # by block; at most nslots, the most recently used last
        self._free = list(range(self.nslots))[::-1]
        self._lock = Lock()

    def read(self, block: int, at: int, views: list[memoryview]) -> bool:
        """Fill views from a place in a block on; return whether the block is here.  O(bytes)."""
        with self._lock:
            slot = self._slots.pop(block, None)
            if slot is None or self._fd < 0:
                return False
            self._slots[block] = slot
            try:
                if os.preadv(self._fd, views, (slot << BLOCK_SHIFT) + at) == sum(map(len, views)):
                    return True
            except OSError:
                pass
            self._forget(block)
            return False

    def has(self, block: int) -> bool:
        """Whether a block is here.  O(1)."""
        return block in self._slots

    def write(self, block: int, data: bytes) -> None:
        """Keep a block, replacing another if needed.  O(bytes)."""
        with self._lock:
            if block in self._slots or self._fd < 0:
                return
            if not self._free:
                self._forget(next(iter(self._slots)))
            slot = self._free.pop()
            try:
                kept = os.pwrite(self._fd, data, slot << BLOCK_SHIFT) == len(data)
            except OSError:             # a full disk: it is fetched again
                kept = False
            if kept:
                self._slots[block] = slot
            else:
                self._free.append(slot)

    def drop(self, block: int) -> bool:
        """Forget a block with wrong bytes; return whether it was here.  O(1)."""
        with self._lock:
            known = block in self._slots
            if known:
                self._forget(block)
            return known

    def _forget(self, block: int) -> None:
        self._free.append(self._slots.pop(block))

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
            self._fd = -1
            self._slots.clear()
