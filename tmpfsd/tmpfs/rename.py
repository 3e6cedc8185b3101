"""tmpfs/rename.py: rename, with NOREPLACE, EXCHANGE and WHITEOUT (rename(2); after tmpfs_rename.c).

The kernel has locked the directories and checked whether one is below the other.  This is checked again here, because a
mistake would cut a tree off.  That walk may be long and breathes; the rest is one breath.

Memory      A rename is not refused for `size`, as with the kernel's tmpfs.  It may take `used` above `size` by a name's
            dirent and its place in an index: less than 450 bytes for each name there is.  For the case that all of ram
            and swap, or of a fixed submap, is in use, Vm.spare pages are kept back for it.  It takes no memory within a
            leaf of a directory (so up to 340 names), or if the name of the replaced entry is in a dirent.  A long name
            gets the dirent of the old one if that is as large, or if there is no other.
            RENAME_WHITEOUT makes a node, and is refused as mknod is.
"""

from __future__ import annotations

import errno
import stat
from typing import TYPE_CHECKING, Any

from tmpfsd.tmpfs import fileattr, layout, node
from tmpfsd.tmpfs.fserror import FsError
from tmpfsd.tmpfs.layout import (
    NAME_INLINE_MAX, NAME_MAX, ROOT_INO, set_tn_ctime, set_tn_links, set_tn_parent, tn_links, tn_mode, tn_name,
    tn_parent, touch
)
from tmpfsd.uvm.errors import NoMemory, VmError

if TYPE_CHECKING:
    from tmpfsd.tmpfs.filesystem import Mount

RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT = 1, 2, 4       # <linux/fs.h>


class End:
    """One end of a rename: a directory, a name, and the entry there with its node (ino 0 when there is none)."""

    __slots__ = ("mp", "dino", "name", "dat", "key", "value", "ino", "path", "at")

    def __init__(self, mp: Mount, dino: int, name: bytes) -> None:
        self.mp, self.dino, self.name = mp, dino, name
        self.dat = mp.mem.node_w(dino)
        if not stat.S_ISDIR(tn_mode(mp.arena, self.dat)):
            raise FsError(errno.ENOTDIR)
        # The path is good until one of the ends changes a tree.
        self.key, self.value, self.ino, self.path = mp.dirs.find(self.dat, name) or (0, 0, 0, [])
        self.at = 0
        if self.ino:
            self.at = mp.mem.node_w(self.ino)
            mp.mem.nlookup_word(self.ino)

    @property
    def is_dir(self) -> bool:
        """Whether the entry is a directory."""
        return self.ino != 0 and stat.S_ISDIR(tn_mode(self.mp.arena, self.at))

    def new_value(self, ino: int, at: int, gone: int) -> int:
        """A value for `name` here that leads to node ino; this operation takes away that node's entry `gone`."""
        free = not tn_name(self.mp.arena, at) or not gone & layout.EXTERNAL
        return self.mp.dirs.new_value(ino, self.name, free)

    def count_subdirs(self, n: int) -> None:
        """Count n more directories in this one."""
        if n:
            set_tn_links(self.mp.arena, self.dat, tn_links(self.mp.arena, self.dat) + n)


def rename(mp: Mount, dino: int, name: bytes, ndino: int, nname: bytes, flags: int, cred: Any) -> None:
    """Rename.  => FsError as rename(2).  => Breathes."""
    if flags & ~7 or (flags & RENAME_EXCHANGE and flags & (RENAME_NOREPLACE | RENAME_WHITEOUT)):
        raise FsError(errno.EINVAL)
    if len(name) > NAME_MAX or len(nname) > NAME_MAX:
        raise FsError(errno.ENAMETOOLONG)
    _refuse_loops(mp, dino, name, ndino, nname, flags)
    source, target = End(mp, dino, name), End(mp, ndino, nname)
    if not source.ino or not tn_links(mp.arena, source.dat):        # without links: it is being discarded (detach.py)
        raise FsError(errno.ENOENT)
    if flags & RENAME_NOREPLACE and target.ino:
        raise FsError(errno.EEXIST)
    if not tn_links(mp.arena, target.dat):
        raise FsError(errno.ENOENT)
    if source.ino == target.ino:
        return
    if mp.flagged:
        _refuse_fixed(mp, source, target)
    if flags & RENAME_EXCHANGE:
        if not target.ino:
            raise FsError(errno.ENOENT)
        _exchange(mp, source, target)
        return
    _refuse_target(mp, source, target)
    ended = _move(mp, source, target, cred if flags & RENAME_WHITEOUT else None)
    if ended:
        node.destroy(mp, ended)


def _refuse_loops(mp: Mount, dino: int, name: bytes, ndino: int, nname: bytes, flags: int) -> None:
    """=> FsError EINVAL if a directory would lie below itself, ENOTEMPTY if it would replace its parent."""
    if dino == ndino:
        return
    source, target = End(mp, dino, name), End(mp, ndino, nname)
    if not source.ino:
        raise FsError(errno.ENOENT)
    moved = source.ino if source.is_dir else 0
    replaced = target.ino if target.is_dir else 0
    if moved and _is_below(mp, ndino, moved):
        raise FsError(errno.EINVAL)
    if replaced and _is_below(mp, dino, replaced):
        raise FsError(errno.EINVAL if flags & RENAME_EXCHANGE else errno.ENOTEMPTY)
    mp.breathe()


def _is_below(mp: Mount, dino: int, ancestor: int) -> bool:
    """Whether a directory is `ancestor` or below it.  => Breathes."""
    while dino != ancestor:
        at = mp.mem.node(dino)
        if dino == ROOT_INO or not tn_links(mp.arena, at):
            return False            # at the top, or in a directory that was removed
        dino = tn_parent(mp.arena, at)
        mp.breathe()
    return True


def _refuse_fixed(mp: Mount, source: End, target: End) -> None:
    """=> FsError EPERM if flags of chattr(1) forbid it."""
    fileattr.demand_removable(mp, source.dat, source.at)
    if target.ino:
        fileattr.demand_removable(mp, target.dat, target.at)
    else:
        fileattr.demand_addable(mp, target.dat)


def _refuse_target(mp: Mount, source: End, target: End) -> None:
    if not target.ino:
        return
    if source.is_dir and not target.is_dir:
        raise FsError(errno.ENOTDIR)
    if target.is_dir and not source.is_dir:
        raise FsError(errno.EISDIR)
    if target.is_dir and not mp.dirs.is_empty(target.at):
        raise FsError(errno.ENOTEMPTY)


def _move(mp: Mount, source: End, target: End, whiteout_cred: Any) -> int:
    """Give the source's node the target's name; the inode number of a node to destroy, or 0.

    If the name of a replaced entry is in a dirent, that dirent is kept: no memory is needed then.
    """
    dirs = mp.dirs
    white = white_value = value = 0
    kept, leaves = target.value & layout.EXTERNAL, whiteout_cred is None
    try:
        if not leaves:
            if mp.quota is not None:
                mp.quota.demand(_whiteout_owner(mp, source, whiteout_cred), 0, 1)
            white = mp.mem.get_node(0)
            white_value = dirs.new_value(white, source.name, slot_free=True)
        with mp.vm.overdraft:
            if not kept:
                value = _value_for(source, target, leaves)
            if not target.ino:
                leaves = _enter(source, target, value, leaves)
    except VmError:
        if value != source.value:
            dirs.drop_value(value)
        dirs.drop_value(white_value)
        if white:
            mp.mem.put_node(white)
        raise
    now, moved_dir, ended = mp.now(), int(source.is_dir), 0
    if target.ino:
        replaced_dir = target.is_dir
        if kept:
            dirs.redirect(target.value, source.ino)
        else:
            dirs.set(target.dat, target.key, value)
            dirs.unbind(target.value)
        target.count_subdirs(-replaced_dir)
        if node.drop_links(mp, target.at, target.ino, 2 if replaced_dir else 1, now):
            ended = target.ino
    if white:
        _leave_whiteout(mp, source, white, white_value, whiteout_cred, now)
    elif leaves:
        dirs.remove(source.dat, source.key)
    if value == source.value and value & layout.EXTERNAL:
        dirs.rewrite(value, target.name)
    else:
        dirs.unbind(source.value)
        if not kept:
            dirs.bind(value, target.name)
    _moved(mp, source, target, moved_dir, now)
    return ended


def _value_for(source: End, target: End, leaves: bool) -> int:
    """The value of the target's entry: the source's own if its dirent can be used again.  => NoMemory, SwapIOError."""
    dirs, long = source.mp.dirs, len(target.name) > NAME_INLINE_MAX
    if leaves and (long or tn_name(source.mp.arena, source.at)) and dirs.fits(source.value, target.name, snugly=True):
        return source.value
    try:
        return target.new_value(source.ino, source.at, source.value)
    except NoMemory:
        if leaves and dirs.fits(source.value, target.name, snugly=False):
            return source.value
        raise


def _enter(source: End, target: End, value: int, leaves: bool) -> bool:
    """Make the target's entry, in place of the source's if possible; whether that one must still be removed.

    => NoMemory, SwapIOError; nothing has changed.
    """
    dirs = source.mp.dirs
    vacancy = dirs.vacancy(target.dat, target.name)
    assert vacancy is not None
    if leaves and source.dino == target.dino and dirs.move(source.path, vacancy, value):
        return False
    dirs.insert(target.dat, vacancy, value)
    return leaves


def _whiteout_owner(mp: Mount, source: End, cred: Any) -> tuple[int, int]:
    """User and group of the whiteout that is left."""
    dmode, _uid, gid = layout.tn_access(mp.arena, source.dat)
    return cred.uid, gid if dmode & stat.S_ISGID else cred.gid


def _leave_whiteout(mp: Mount, source: End, white: int, value: int, cred: Any, now: int) -> None:
    """Make the source's entry lead to the new node `white`."""
    mp.dirs.set(source.dat, source.key, value)
    mp.generation += 1
    uid, gid = _whiteout_owner(mp, source, cred)
    layout.init_node(mp.arena, mp.mem.node_w(white), stat.S_IFCHR, layout.KIND_NONE, 1, uid, gid, 0, mp.generation, now)
    if mp.quota is not None:
        mp.quota.add((uid, gid), 0, 1)
    mp.dirs.bind(value, source.name)


def _moved(mp: Mount, source: End, target: End, is_dir: int, now: int) -> None:
    """Set parent, link counts and times after source's node went to target's directory."""
    arena = mp.arena
    if is_dir and source.dino != target.dino:
        set_tn_parent(arena, source.at, target.dino)
        source.count_subdirs(-1)
        target.count_subdirs(1)
    set_tn_ctime(arena, source.at, now)
    touch(arena, source.dat, now)
    touch(arena, target.dat, now)


def _exchange(mp: Mount, one: End, two: End) -> None:
    """Exchange two entries: a name in a dirent stays there, other names move from node to node."""
    dirs = mp.dirs
    with mp.vm.overdraft:
        value_of_two = one.value if one.value & layout.EXTERNAL else one.new_value(two.ino, two.at, two.value)
        try:
            value_of_one = two.value if two.value & layout.EXTERNAL else two.new_value(one.ino, one.at, one.value)
        except VmError:
            if value_of_two != one.value:
                dirs.drop_value(value_of_two)
            raise
    now, one_is_dir, two_is_dir = mp.now(), int(one.is_dir), int(two.is_dir)
    for end in (one, two):
        if not end.value & layout.EXTERNAL:
            dirs.unbind(end.value)
    for end, other, value in ((one, two, value_of_two), (two, one, value_of_one)):
        if end.value & layout.EXTERNAL:
            dirs.redirect(end.value, other.ino)
        else:
            dirs.set(end.dat, end.key, value)
            dirs.bind(value, end.name)
    _moved(mp, one, two, one_is_dir, now)
    _moved(mp, two, one, two_is_dir, now)
