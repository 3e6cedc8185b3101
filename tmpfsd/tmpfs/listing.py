"""tmpfs/listing.py: a directory's names without the attributes, for a listing that takes no references.

vnops.readdir() gives each entry's attributes and one more kernel reference; a plain READDIR wants neither.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Callable

from tmpfsd.tmpfs import vnops
from tmpfsd.tmpfs.layout import tn_mode
from tmpfsd.uvm.errors import SwapIOError

if TYPE_CHECKING:
    from tmpfsd.tmpfs.mount import Mount

Emit = Callable[[bytes, int, int, int], bool]       # name, inode number, mode, cookie


def list_names(mp: Mount, ino: int, cookie: int, emit: Emit) -> None:
    """Emit the entries after cookie until emit() says that there is no room.  => As vnops.readdir().  => Breathes."""
    emitted = False
    entries = vnops._entries(mp, ino, cookie)
    while True:
        try:
            entry = next(entries, None)
        except SwapIOError:
            if emitted:
                return
            raise
        if entry is None:
            return
        name, number, key = entry
        if not emit(name, number, tn_mode(mp.arena, mp.mem.node(number)), key):
            return
        emitted = True
