"""image/links.py: remembers the files with several names that a walk of a tree has met.

Nothing says when the last name of such a file comes, and all files of a tree may have several: a dict would grow with
them.  So this is a temporary database, which keeps some in memory (SQLite's cache, 2 MB) and the rest in a file without
a name.  Pages of the file system that is built were rejected: what is put there and removed before the freeze moves the
rest, and the order depends on the tree's inode numbers, so the same tree would not give the same bytes.

Limits      100 bytes a file in /var/tmp, or TMPDIR.
"""

from __future__ import annotations

import errno
import sqlite3
from struct import Struct

KEY = Struct(">QQ")


class Links:
    """Maps two numbers of a file to some bytes.  => OSError: the disk is full, or fails."""

    def __init__(self) -> None:
        self._base = sqlite3.connect("", isolation_level=None)
        for words in ("PRAGMA journal_mode = OFF", "PRAGMA synchronous = OFF",
                      "CREATE TABLE links (file BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID", "BEGIN"):
            self._base.execute(words)

    def put(self, device: int, ino: int, value: bytes) -> None:
        """Remember a file.  O(log n)."""
        try:
            self._base.execute("INSERT INTO links VALUES (?, ?)", (KEY.pack(device, ino), value))
        except sqlite3.OperationalError as error:
            raise OSError(errno.ENOSPC, f"names of files with several links: {error}") from None

    def get(self, device: int, ino: int) -> bytes | None:
        """Return what was put, or None.  O(log n)."""
        try:
            found = self._base.execute("SELECT value FROM links WHERE file = ?", (KEY.pack(device, ino),)).fetchone()
        except sqlite3.OperationalError as error:
            raise OSError(errno.EIO, f"names of files with several links: {error}") from None
        return found[0] if found else None

    def close(self) -> None:
        """Forget everything."""
        self._base.close()
