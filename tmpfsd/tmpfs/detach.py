"""tmpfs/detach.py: a whole tree removed: its name at once, its nodes in slices.

detach() takes the name of the top away: from then on nobody finds the tree.  The reaper (reap.py) frees its contents, a
few entries at a time, between requests: empty_some().  A directory that is being emptied is doomed (doomed.py): it has
no link, as after rmdir, so nothing can be made in it.  A directory found in a doomed one goes to the front of the list
with all its contents.  So there is no stack, and nothing here grows with the files or the depth.

Picture     linked --detach, or met by empty_some--> doomed (links 0, ORPHAN, one reference of ours) --empty--> forget
            a file: --met--> destroyed or doomed; ORPHAN if the kernel knows it; linked if it has other names

Breathing   empty_some() breathes.  It first touches all that it will change: at most CHUNK nodes, lookup words and
            names.

Limits      A node that cannot be read back is left where it is and counted in lost_nodes: its pages stay allocated.
"""

from __future__ import annotations

import errno
import logging
from typing import TYPE_CHECKING, NamedTuple

from tmpfsd.tmpfs import doomed, fileattr, layout, node
from tmpfsd.tmpfs.btree import Path
from tmpfsd.tmpfs.directory import DIRENT_SIZE
from tmpfsd.tmpfs.fserror import FsError
from tmpfsd.tmpfs.layout import EXTERNAL, NLOOKUP_MAX, ORPHAN, S_IFDIR, S_IFMT, set_tn_ctime, set_tn_links, tn_links
from tmpfsd.uvm.errors import SwapIOError

if TYPE_CHECKING:
    from tmpfsd.tmpfs.filesystem import Mount

log = logging.getLogger(__name__)

CHUNK = 12                  # entries between two breaths: three pages each, and those of the directory's tree


class _Entry(NamedTuple):
    """An entry whose pages are in: where its name is, its node, and its lookup word."""

    value: int
    ino: int
    at: int
    word: int


class StaleName(NamedTuple):
    """A name that was taken from a node that lives on and that the kernel knows."""

    dino: int
    name: bytes
    ino: int
    is_dir: bool


def detach(mp: Mount, dino: int, name: bytes) -> int:
    """Take the name of a directory away, with all below it; the inode number.  Never needs memory.

    => FsError ENOENT, ENOTDIR, EPERM; SwapIOError; nothing has changed.  => The reaper does the rest.
    """
    mem, arena, dirs = mp.mem, mp.arena, mp.dirs
    dat = mem.node_w(dino)
    found = dirs.find(dat, name) if tn_links(arena, dat) else None
    if found is None:
        raise FsError(errno.ENOENT)
    key, value, ino, path = found
    at = mem.node_w(ino)
    if layout.tn_mode(arena, at) & S_IFMT != S_IFDIR:
        raise FsError(errno.ENOTDIR)
    if mp.flagged:
        fileattr.demand_removable(mp, dat, at)
    entry = _Entry(value, ino, at, mem.nlookup_word(ino))
    now = mp.now()
    dirs.remove(dat, key, path)
    layout.touch(arena, dat, now)
    set_tn_links(arena, dat, tn_links(arena, dat) - 1)
    _unbind(mp, entry)
    _doom(mp, entry, now)
    return ino


def _unbind(mp: Mount, entry: _Entry) -> None:
    """Free the entry's name."""
    if entry.value & EXTERNAL:
        mp.mem.strings.put(entry.value ^ EXTERNAL)
    else:
        layout.set_tn_name(mp.arena, entry.at, b"")


def _doom(mp: Mount, entry: _Entry, now: int) -> None:
    """Put a directory whose name is gone at the front of the list."""
    mem, arena, at = mp.mem, mp.arena, entry.at
    set_tn_links(arena, at, 0)
    set_tn_ctime(arena, at, now)
    count = min((mem.u32[entry.word] & NLOOKUP_MAX) + 1, NLOOKUP_MAX)
    mem.u32[entry.word] = ORPHAN | count
    mem.norphans += 1
    if mp.quota is not None:
        mp.quota.add_at(arena, at, 0, -1)
        mp.quota.ntrees += 1
    doomed.push(mp, entry.ino, at)


def empty_some(mp: Mount, dino: int, dat: int) -> tuple[int, list[StaleName]]:
    """Take some entries out of the first doomed directory: (number of names, those to tell the kernel of).

    => dat and its lookup word are writable.  O(CHUNK).  => Breathes at the end.
    """
    mem, head = mp.mem, mp.doomed_from
    try:
        entries, path = _touch(mp, dat, head)
    except SwapIOError as error:
        log.error("discard: directory %d cannot be read: %s", dino, error)
        _next(mp, dino, dat)
        return 0, []
    if not path:
        _next(mp, dino, dat)
        return 0, []
    if not entries:         # the first cannot be read: it stays, and the directory with it
        mp.doomed_from = mem.u64[layout.bt_keys(path[-1][1], path[-1][2]) >> 3] + 1
        return 0, []
    mp.dirs.tree.remove_run(dat, path, len(entries))
    layout.set_tn_size(mp.arena, dat, layout.tn_size(mp.arena, dat) - DIRENT_SIZE * len(entries))
    return len(entries), _end(mp, dino, entries)


def _touch(mp: Mount, dat: int, key: int) -> tuple[list[_Entry], Path]:
    """The next entries whose pages can all be read, and the way to them; an empty way if there are no more.

    => SwapIOError: the directory's own pages.
    """
    mem, tree = mp.mem, mp.dirs.tree
    path = tree.seek(dat, key)
    if path and not tree.covers(path):
        found = tree.entry(path)
        path = tree.seek(dat, found[0]) if found is not None else []
    entries: list[_Entry] = []
    try:
        for _key, value in tree.run(path, CHUNK) if path else ():
            ino = value
            if value & EXTERNAL:
                ino = layout.td_head(mp.arena, mem.string(value ^ EXTERNAL))[0]
            entries.append(_Entry(value, ino, mem.node_w(ino), mem.nlookup_word(ino)))
    except SwapIOError as error:
        log.error("discard: an entry of directory %d cannot be read: %s", mp.doomed, error)
    return entries, path


def _next(mp: Mount, dino: int, dat: int) -> None:
    """Take the first directory off the list: it is empty, or its other entries cannot be read."""
    doomed.pop(mp, dat)
    if mp.quota is not None:
        mp.quota.ntrees -= 1
    if mp.dirs.is_empty(dat):
        node.forget(mp, dino, 1)
    else:
        mp.lost_nodes += 1
        log.error("discard: what is left in directory %d stays allocated", dino)


def _end(mp: Mount, dino: int, entries: list[_Entry]) -> list[StaleName]:
    """Free, doom or keep nodes that lost a name.  => Breathes at the end."""
    mem, arena, now = mp.mem, mp.arena, mp.now()
    ended: list[int] = []
    known: list[StaleName] = []
    for entry in entries:
        value, ino, at, word = entry
        mode, _kind, _namelen, links = layout.tn_life(arena, at)
        is_dir = mode & S_IFMT == S_IFDIR
        if mem.u32[word] & NLOOKUP_MAX:
            known.append(StaleName(dino, bytes(mp.dirs.read_value(value)[1]), ino, is_dir))
        elif links == 1 and not is_dir and node.is_bare(mp, at):
            if value & EXTERNAL:
                mem.strings.put(value ^ EXTERNAL)
            if mp.quota is not None:
                mp.quota.add_at(arena, at, -layout.tn_blocks(arena, at), -1)
            mem.put_node(ino)
            continue
        _unbind(mp, entry)
        if is_dir:
            _doom(mp, entry, now)
        elif node.drop_links(mp, at, ino, 1, now):
            ended.append(ino)
    for ino in ended:
        node.destroy(mp, ino)
    return known
