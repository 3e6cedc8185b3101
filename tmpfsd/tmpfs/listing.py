"""tmpfs/listing.py: the entries of a directory, one by one.

readdir() gives each entry's attributes and one more kernel reference (READDIRPLUS); list_names() neither (READDIR).

Limits      If entries are added as fast as they are listed, the listing never ends; each call does, at a full reply.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Callable, Iterator

from tmpfsd.tmpfs.btwalk import is_one_leaf
from tmpfsd.tmpfs.directory import COOKIE_DOT, COOKIE_DOTDOT, COOKIE_SHIFT
from tmpfsd.tmpfs.layout import tn_links, tn_mode, tn_parent, tn_stat
from tmpfsd.tmpfs.node import hold
from tmpfsd.uvm.errors import SwapIOError

if TYPE_CHECKING:
    from tmpfsd.tmpfs.filesystem import Mount

Emit = Callable[[bytes, int, tuple, int], bool]          # name, inode number, attributes, cookie
EmitName = Callable[[bytes, int, int, int], bool]        # name, inode number, mode, cookie


def readdir(mp: Mount, ino: int, cookie: int, emit: Emit) -> None:
    """Emit the entries after cookie until emit() says that there is no room: O(log n), and O(1) for each.

    Cookies have 31 bits.  An entry that is there from before the first call to after the last one is emitted exactly
    once.  Each emitted entry except "." and ".." has one more kernel reference.  => SwapIOError, only if nothing was
    emitted yet: else the emitted entries must go out, or the kernel would never give their references back, and the
    call that begins at the unreadable entry raises.  => Breathes.
    """
    emitted = 0
    entries = _entries(mp, ino, cookie)
    while True:
        try:
            entry = next(entries, None)
        except SwapIOError:
            if emitted:
                return
            raise
        if entry is None:
            return
        name, number, cookie = entry
        if not emit(name, number, tn_stat(mp.arena, mp.mem.node(number)), cookie):
            return
        emitted += 1
        if cookie > COOKIE_DOTDOT:
            hold(mp, number)


def list_names(mp: Mount, ino: int, cookie: int, emit: EmitName) -> None:
    """As readdir(), with the mode alone and no reference: O(log n), and O(1) for each.  => Breathes."""
    emitted = False
    entries = _entries(mp, ino, cookie)
    while True:
        try:
            entry = next(entries, None)
        except SwapIOError:
            if emitted:
                return
            raise
        if entry is None:
            return
        name, number, cookie = entry
        if not emit(name, number, tn_mode(mp.arena, mp.mem.node(number)), cookie):
            return
        emitted = True


def _entries(mp: Mount, ino: int, cookie: int) -> Iterator[tuple[bytes, int, int]]:
    """(name, inode number, cookie) of the entries after cookie; node and lookup count of each are in when it is given.

    => SwapIOError.  => Breathes before each.
    """
    if cookie < COOKIE_DOT:
        yield b".", ino, COOKIE_DOT
    if cookie < COOKIE_DOTDOT:
        mp.breathe()
        dat = mp.mem.node(ino)
        parent = tn_parent(mp.arena, dat) if tn_links(mp.arena, dat) else ino
        mp.mem.node(parent)
        yield b"..", parent, COOKIE_DOTDOT
    cookie = max(cookie, COOKIE_DOTDOT)
    while True:
        mp.breathe()
        batch = mp.dirs.tree.batch_from(mp.mem.node(ino), cookie + 1 << COOKIE_SHIFT)
        if not batch:
            return
        for key, value in batch:
            mp.breathe()
            number, name = mp.dirs.read_value(value)
            mp.mem.node(number)
            hold(mp, number, 0)
            cookie = key >> COOKIE_SHIFT
            yield name, number, cookie
        if is_one_leaf(mp.dirs.tree, mp.mem.node(ino)):     # as most directories are: that was all
            return
