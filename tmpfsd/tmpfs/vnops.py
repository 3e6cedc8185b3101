"""tmpfs/vnops.py: the operations, one function each (after tmpfs_vnops.c).

Every operation has three parts.  Look: read all it needs, and refuse; a failed page-in is EIO here, and nothing has
changed.  Acquire: take what may be refused (nodes, names, room in a directory); undone in reverse.  Commit: cannot
fail.  Operations are plain functions that run to completion, so they are atomic with respect to each other.

`mp` is the Mount, `cred` a Caller (caller.py), names are bytes without '/' and NUL.  Operations marked (+1) leave the
returned node with one more kernel reference.  The kernel checks permissions (server/daemon.py).
Errors: FsError, and VmError from below.

Breathing   The caller breathes before each operation.  rename, read, write, readdir, xattrs and all that end a node
            breathe inside.
"""

from __future__ import annotations

import errno
import os
import stat
from stat import S_ISGID, S_ISREG
from typing import TYPE_CHECKING, Any

from tmpfsd.sizes import UNLIMITED
from tmpfsd.tmpfs import acl, cut, fileattr, layout, listing, node, permission, regfile, setid, tmpfile, xattr
from tmpfsd.tmpfs.btree import Path
from tmpfsd.tmpfs.caller import CAP_SYS_ADMIN
from tmpfsd.tmpfs.directory import DIR_SIZE
from tmpfsd.tmpfs.fserror import FsError
from tmpfsd.tmpfs.layout import (
    EXTERNAL, INLINE_MAX, KIND_INLINE, KIND_STRING, KIND_TREE, NAME_MAX, ROOT_INO, S_IFDIR, S_IFMT, SPEC,
    directory_spec, init_node, set_tn_ctime, set_tn_links, string_spec, tn_access, tn_kind, tn_links, tn_mode,
    tn_parent, tn_size, tn_stat, tn_string, touch
)
from tmpfsd.tmpfs.listing import Emit, EmitName
from tmpfsd.tmpfs.mem import DIRECTORIES, OTHERS
from tmpfsd.tmpfs.node import hold
from tmpfsd.tmpfs.rename import rename
from tmpfsd.uvm import room
from tmpfsd.uvm.errors import VmError
from tmpfsd.uvm.param import PAGE_SIZE, atop

if TYPE_CHECKING:
    from tmpfsd.tmpfs.filesystem import Mount

LINK_MAX, PATH_MAX = (1 << 31) - 1, 4096
DAY, CTIME_MAX = 86_400_000_000_000, (1 << 63) - 1      # ns; only the writeback cache ever sets a ctime
__all__ = ["NAME_MAX", "PATH_MAX", "ROOT_INO", "access", "create", "forget", "getattr", "getxattr", "link",
           "list_names", "listxattr", "lookup", "make_root", "mkdir", "mknod", "open", "punch", "read", "readdir",
           "readlink", "removexattr", "rename", "rmdir", "setattr", "setxattr", "statfs", "symlink",
           "truncate", "unlink", "write"]

access, forget = permission.access, node.forget


# --- looking ---

def directory(mp: Mount, dino: int) -> int:
    """The offset of a directory's node, to change.  => FsError ENOTDIR."""
    dat = mp.mem.node_w(dino)
    if tn_mode(mp.arena, dat) & S_IFMT != S_IFDIR:
        raise FsError(errno.ENOTDIR)
    return dat


def lookup(mp: Mount, dino: int, name: bytes) -> int:
    """The inode number of a name, or 0 (+1).  Handles "." and ".." for file handles that come back."""
    if len(name) > NAME_MAX:
        raise FsError(errno.ENAMETOOLONG)
    if name == b"." or name == b"..":
        ino = _dot(mp, dino, name)
    else:
        dat = mp.mem.node(dino)
        if tn_mode(mp.arena, dat) & S_IFMT != S_IFDIR:
            raise FsError(errno.ENOTDIR)
        found = mp.dirs.find(dat, name)
        if found is None:
            return 0
        ino = found[2]
    mp.mem.node(ino)
    hold(mp, ino)
    return ino


def _dot(mp: Mount, dino: int, name: bytes) -> int:
    if not mp.mem.nodes.is_held(dino - 1):
        raise FsError(errno.ESTALE)
    at = mp.mem.node(dino)
    if name == b".":
        # The kernel asks for a node that it does not know (any more).  If it has no link, it may be doomed, and a new
        # user of it would change what is being freed.
        if not tn_links(mp.arena, at):
            raise FsError(errno.ESTALE)
        return dino
    if tn_mode(mp.arena, at) & S_IFMT != S_IFDIR:
        raise FsError(errno.ENOTDIR)
    if not tn_links(mp.arena, at):
        raise FsError(errno.ENOENT)
    return tn_parent(mp.arena, at)


def getattr(mp: Mount, ino: int) -> tuple:
    """(mode, nlink, uid, gid, rdev, size, blocks, atime_ns, mtime_ns, ctime_ns, generation)."""
    return tn_stat(mp.arena, mp.mem.node(ino))


def readlink(mp: Mount, ino: int) -> bytes:
    """The target of a symlink.  => FsError EINVAL."""
    at = mp.mem.node(ino)
    if not stat.S_ISLNK(tn_mode(mp.arena, at)):
        raise FsError(errno.EINVAL)
    _accessed(mp, ino, at)
    size = tn_size(mp.arena, at)
    start = at + SPEC if tn_kind(mp.arena, at) == KIND_INLINE else mp.mem.string(tn_string(mp.arena, at))
    return mp.arena[start:start + size]


def _accessed(mp: Mount, ino: int, at: int) -> None:
    """Update atime, by default as relatime does: when it is not later than mtime or ctime, or a day old (mount(8))."""
    if mp.noatime or mp.gate.broken or room.tight(mp.vm):
        return
    if mp.flagged and fileattr.flags_at(mp, at) & layout.FL_NOATIME:
        return
    now, atime = mp.now(), layout.tn_atime(mp.arena, at)
    if not mp.strictatime and now - atime < DAY and atime > max(layout.tn_mtime(mp.arena, at),
                                                                layout.tn_ctime(mp.arena, at)):
        return
    layout.set_tn_atime(mp.arena, mp.mem.node_w(ino), now)


# --- making ---

def create(mp: Mount, dino: int, name: bytes, mode: int, cred: Any) -> int:
    """A regular file (+1).  => FsError EEXIST, ENOENT (the directory was removed), ENAMETOOLONG."""
    return _make_node(mp, dino, name, stat.S_IFREG | stat.S_IMODE(mode), cred)


def mknod(mp: Mount, dino: int, name: bytes, mode: int, rdev: int, cred: Any) -> int:
    """A file of any type except directory and symlink (+1).  => FsError EINVAL for others; those of create()."""
    kinds = (stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK)
    if rdev >> 32 or mode & ~stat.S_IMODE(mode) not in kinds:
        raise FsError(errno.EINVAL)
    return _make_node(mp, dino, name, mode, cred, rdev if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else 0)


def mkdir(mp: Mount, dino: int, name: bytes, mode: int, cred: Any) -> int:
    """A directory (+1)."""
    return _make_node(mp, dino, name, stat.S_IFDIR | stat.S_IMODE(mode), cred)


def symlink(mp: Mount, dino: int, name: bytes, target: bytes, cred: Any) -> int:
    """A symlink (+1).  => FsError ENAMETOOLONG for a target of PATH_MAX bytes and more, ENOENT for an empty one."""
    if not target:
        raise FsError(errno.ENOENT)
    if len(target) >= PATH_MAX:
        raise FsError(errno.ENAMETOOLONG)
    return _make_node(mp, dino, name, stat.S_IFLNK | 0o777, cred, target=target)


def _vacancy(mp: Mount, dino: int, name: bytes) -> tuple[int, tuple[int, Path]]:
    """The offset of a directory that may take a new name, and the place for the name."""
    if len(name) > NAME_MAX:
        raise FsError(errno.ENAMETOOLONG)
    dat = directory(mp, dino)
    if not tn_links(mp.arena, dat):
        raise FsError(errno.ENOENT)
    vacancy = mp.dirs.vacancy(dat, name)
    if vacancy is None:
        raise FsError(errno.EEXIST)
    if mp.flagged:
        fileattr.demand_addable(mp, dat)
    return dat, vacancy


def _make_node(mp: Mount, dino: int, name: bytes, mode: int, cred: Any, rdev: int = 0, target: bytes = b"") -> int:
    mode, attributes = acl.inherit(mp, dino, mode, cred.umask) if mp.acl else (mode, 0)
    try:
        return _make_with(mp, dino, name, mode, cred, rdev, target, attributes)
    except (FsError, VmError):
        xattr.free_tree(mp, attributes)
        raise


def _make_with(mp: Mount, dino: int, name: bytes, mode: int, cred: Any, rdev: int, target: bytes,
               attributes: int) -> int:
    """A new node with a tree of attributes, under a free name."""
    mem, arena, dirs = mp.mem, mp.arena, mp.dirs
    dat, vacancy = _vacancy(mp, dino, name)
    is_dir = mode & S_IFMT == S_IFDIR
    dmode, _uid, gid = tn_access(arena, dat)
    if not dmode & S_ISGID:
        gid = cred.gid
    elif is_dir:
        mode |= S_ISGID
    if mp.quota is not None:
        mp.quota.demand((cred.uid, gid), 0, 1)
    ino = mem.get_node(1, DIRECTORIES if is_dir else OTHERS)
    value = handle = 0
    try:
        value = dirs.new_value(ino, name, slot_free=True)
        if len(target) > INLINE_MAX:
            handle = mem.new_string(len(target))
        dirs.insert(dat, vacancy, value)
    except VmError:
        if handle:
            mem.strings.put(handle)
        dirs.drop_value(value)
        mem.put_node(ino)
        raise
    kind, links, size, spec = KIND_INLINE, 1, len(target), target
    if is_dir:
        kind, links, size, spec = KIND_TREE, 2, DIR_SIZE, directory_spec(dino)
        set_tn_links(arena, dat, tn_links(arena, dat) + 1)
    elif handle:
        kind, spec = KIND_STRING, string_spec(handle)
        start = mem.string_w(handle)
        arena[start:start + size] = target
    now = mp.now()
    mp.generation += 1
    init_node(arena, mem.node_w(ino), mode, kind, links, cred.uid, gid, size, mp.generation, now, attributes,
              rdev or fileattr.inherited(mp, dat, mode), spec, b"" if value & EXTERNAL else name)
    touch(arena, dat, now)
    if mp.quota is not None:
        mp.quota.add((cred.uid, gid), 0, 1)
    return ino


def make_root(mp: Mount, mode: int, uid: int, gid: int) -> None:
    """The first node of a file system: its own parent, never forgotten."""
    ino = mp.mem.get_node(1, DIRECTORIES)
    assert ino == ROOT_INO
    mp.generation += 1
    init_node(mp.arena, mp.mem.node_w(ino), S_IFDIR | mode, KIND_TREE, 2, uid, gid, DIR_SIZE, mp.generation, mp.now(),
              0, 0, directory_spec(ino))
    if mp.quota is not None:
        mp.quota.add((uid, gid), 0, 1)


# --- links ---

def link(mp: Mount, ino: int, dino: int, name: bytes) -> int:
    """Another name for a node (+1).  => FsError EPERM for a directory, ENOENT for a node without a link, EMLINK."""
    mem, arena, dirs = mp.mem, mp.arena, mp.dirs
    dat, vacancy = _vacancy(mp, dino, name)
    at = mem.node_w(ino)
    links = tn_links(arena, at)
    if stat.S_ISDIR(tn_mode(arena, at)):
        raise FsError(errno.EPERM)
    if links >= LINK_MAX:
        raise FsError(errno.EMLINK)
    if mp.flagged:
        fileattr.demand_loose(mp, ino)
    if not links:
        tmpfile.demand_linkable(mp, at)
    hold(mp, ino, 0)
    value = dirs.new_value(ino, name, slot_free=not layout.tn_name(arena, at))
    try:
        dirs.insert(dat, vacancy, value)
    except VmError:
        dirs.drop_value(value)
        raise
    dirs.bind(value, name)
    now = mp.now()
    if not links:
        tmpfile.adopt(mp, at, ino)
    set_tn_links(arena, at, links + 1)
    set_tn_ctime(arena, at, now)
    touch(arena, dat, now)
    hold(mp, ino)
    return ino


def unlink(mp: Mount, dino: int, name: bytes) -> None:
    """Remove a name.  => FsError ENOENT, EISDIR.  Never needs memory.  => Breathes when that ends the node."""
    _remove(mp, dino, name, is_dir=False)


def rmdir(mp: Mount, dino: int, name: bytes) -> None:
    """Remove an empty directory.  => FsError ENOENT, ENOTDIR, ENOTEMPTY.  Never needs memory."""
    _remove(mp, dino, name, is_dir=True)


def _remove(mp: Mount, dino: int, name: bytes, is_dir: bool) -> None:
    if len(name) > NAME_MAX:
        raise FsError(errno.ENAMETOOLONG)
    mem, arena, dirs = mp.mem, mp.arena, mp.dirs
    dat = directory(mp, dino)
    found = dirs.find(dat, name)
    if found is None or is_dir and not tn_links(arena, dat):        # without links: it is being discarded (detach.py)
        raise FsError(errno.ENOENT)
    key, value, ino, path = found
    at = mem.node_w(ino)
    if mp.flagged:
        fileattr.demand_removable(mp, dat, at)
    if (tn_mode(arena, at) & S_IFMT == S_IFDIR) != is_dir:
        raise FsError(errno.ENOTDIR if is_dir else errno.EISDIR)
    if is_dir and not dirs.is_empty(at):
        raise FsError(errno.ENOTEMPTY)
    mem.nlookup_word(ino)
    now = mp.now()
    dirs.remove(dat, key, path)
    dirs.unbind(value)
    touch(arena, dat, now)
    if is_dir:
        set_tn_links(arena, dat, tn_links(arena, dat) - 1)
    if node.drop_links(mp, at, ino, 2 if is_dir else 1, now):
        node.destroy(mp, ino)


# --- attributes ---

def setattr(mp: Mount, ino: int, cred: Any, mode: int | None = None, uid: int | None = None, gid: int | None = None,
            size: int | None = None, atime_ns: int | None = None, mtime_ns: int | None = None,
            ctime_ns: int | None = None, by_path: bool = False, touched: bool = False) -> None:
    """Change attributes; ctime is now unless it is given.  => FsError EISDIR, EINVAL (size, ids).  => Breathes.

    A new owner or size may clear set-id bits, and so may a call that changes nothing (setid.py).
    => touched: the times are set to now, which needs fewer rights than other times (fileattr.py).  So are those that
    the kernel sends after a write, with `writeback`: the mtime and the same ctime.
    => by_path: this is truncate(2), which changes no time if the file was empty and stays empty (as tmpfs has it).
    """
    if (uid or 0) >> 32 or (gid or 0) >> 32:
        raise FsError(errno.EINVAL)
    if mp.flagged:
        times = atime_ns is not None or mtime_ns is not None
        others = any(value is not None for value in (mode, uid, gid, size))
        touched = touched or atime_ns is None and mtime_ns is not None and mtime_ns == ctime_ns
        fileattr.demand_settable(mp, ino, others or times and not touched, times)
    owner = _new_owner(mp, ino, uid, gid) if mp.quota is not None and (uid is not None or gid is not None) else None
    if size is None:
        room.demand(mp.vm)
    if mode is not None and mp.acl:
        acl.chmod(mp, ino, mode)
    stays_empty = by_path and size == 0 and _is_empty(mp, ino)
    if size is not None and not stays_empty:
        truncate(mp, ino, size)
    arena = mp.arena
    at = mp.mem.node_w(ino)
    old_mode, old_uid, old_gid = tn_access(arena, at)
    if mode is not None:
        new_mode = old_mode & S_IFMT | stat.S_IMODE(mode)
    else:
        new_mode = setid.of_setattr(mp, ino, at, cred, owner=uid is not None or gid is not None, size=size is not None,
                                    times=atime_ns is not None or mtime_ns is not None)
        if new_mode == setid.MARKED:
            return
    if stays_empty and mode is uid is gid is atime_ns is mtime_ns is None and new_mode == old_mode:
        return
    mp.clock.heard(max(atime_ns or 0, mtime_ns or 0))
    layout.set_tn_mode(arena, at, new_mode)
    if owner is not None and mp.quota is not None:
        mp.quota.move(arena, at, owner)
    layout.set_tn_owner(arena, at, old_uid if uid is None else uid, old_gid if gid is None else gid)
    if atime_ns is not None:
        layout.set_tn_atime(arena, at, atime_ns)
    if mtime_ns is not None:
        layout.set_tn_mtime(arena, at, mtime_ns)
    set_tn_ctime(arena, at, mp.now() if ctime_ns is None else max(-CTIME_MAX, min(ctime_ns, CTIME_MAX)))


def _new_owner(mp: Mount, ino: int, uid: int | None, gid: int | None) -> tuple[int, int]:
    """The owner of a node after a chown.  => OverQuota."""
    at = mp.mem.node(ino)
    before = layout.tn_owner(mp.arena, at)
    owner = before[0] if uid is None else uid, before[1] if gid is None else gid
    if mp.quota is not None:
        mp.quota.demand_move(mp.arena, at, owner)
    return owner


def _is_empty(mp: Mount, ino: int) -> bool:
    _demand_regular(mp, ino)
    return not tn_size(mp.arena, mp.mem.node(ino))


def _demand_regular(mp: Mount, ino: int) -> None:
    mode = tn_mode(mp.arena, mp.mem.node(ino))
    if stat.S_ISDIR(mode):
        raise FsError(errno.EISDIR)
    if not S_ISREG(mode):
        raise FsError(errno.EINVAL)


def truncate(mp: Mount, ino: int, size: int) -> None:
    """Make a regular file `size` bytes long.  => FsError EISDIR, EINVAL, EFBIG.  => Breathes."""
    _demand_regular(mp, ino)
    cut.truncate(mp, ino, size)


def punch(mp: Mount, ino: int, offset: int, length: int) -> None:
    """Make a range of a regular file a hole.  => FsError EISDIR, EINVAL.  => Breathes."""
    _demand_regular(mp, ino)
    cut.punch(mp, ino, offset, length)


# --- data ---

def open(mp: Mount, ino: int, flags: int, cred: Any = None) -> None:
    """Open a file; no state is kept.  O_TRUNC is done here, and clears set-id bits."""
    if not flags & os.O_TRUNC or not S_ISREG(tn_mode(mp.arena, mp.mem.node(ino))):
        return
    truncate(mp, ino, 0)
    if cred is not None:
        setid.truncated(mp, mp.mem.node_w(ino), cred)


def read(mp: Mount, ino: int, offset: int, size: int) -> bytes | bytearray:
    """Up to size bytes from offset on.  => Breathes."""
    _accessed(mp, ino, mp.mem.node(ino))
    return regfile.read(mp, ino, offset, size)


def write(mp: Mount, ino: int, offset: int, data: bytes | memoryview, appends: bool = False) -> int:
    """Bytes written, fewer than all if memory ran out on the way.  => FsError EFBIG, EPERM.  => Breathes.

    => appends: through a descriptor that may append only; append-only files need that (fileattr.py).
    """
    if mp.flagged:
        fileattr.demand_writable(mp, ino, offset, appends)
    done = regfile.write(mp, ino, offset, data)
    touch(mp.arena, mp.mem.node_w(ino), mp.now())
    return done


# --- directories ---

def readdir(mp: Mount, ino: int, cookie: int, emit: Emit) -> None:
    """listing.readdir(), which changes atime.  => SwapIOError.  => Breathes."""
    if not mp.nodiratime:
        _accessed(mp, ino, mp.mem.node(ino))
    listing.readdir(mp, ino, cookie, emit)


def list_names(mp: Mount, ino: int, cookie: int, emit: EmitName) -> None:
    """listing.list_names(), which changes atime.  => SwapIOError.  => Breathes."""
    if not mp.nodiratime:
        _accessed(mp, ino, mp.mem.node(ino))
    listing.list_names(mp, ino, cookie, emit)


# --- extended attributes ---

def getxattr(mp: Mount, ino: int, name: bytes) -> bytes:
    """The value of an attribute.  => FsError ENODATA, EOPNOTSUPP (a first label), ERANGE.  => Breathes."""
    xattr.demand_supported(mp, name)
    found = xattr.find(mp, ino, name)
    if found is None:
        # After ENODATA, ls -l asks for the label of the next entry too: 20 of 29 us an entry.
        raise FsError(errno.EOPNOTSUPP if name == xattr.LABEL and not mp.labels else errno.ENODATA)
    mp.breathe()
    return xattr.value_of(mp, found)


def setxattr(mp: Mount, ino: int, name: bytes, value: bytes, flags: int = 0, cred: Any = None) -> None:
    """Set an attribute.  => FsError EEXIST, ENODATA (by flags), E2BIG, EOPNOTSUPP, ERANGE.  => Breathes."""
    xattr.demand_supported(mp, name)
    if len(value) > xattr.XATTR_SIZE_MAX:
        raise FsError(errno.E2BIG)
    if mp.flagged:
        fileattr.demand_loose(mp, ino)
    if name in xattr.ACL_NAMES:
        acl.set_acl(mp, ino, name, value, cred)
    else:
        xattr.set_value(mp, ino, name, value, flags)
        mp.labels = mp.labels or name == xattr.LABEL


def removexattr(mp: Mount, ino: int, name: bytes, cred: Any = None) -> None:
    """Remove an attribute.  => FsError ENODATA (an ACL need not be there), EOPNOTSUPP.  => Breathes."""
    xattr.demand_supported(mp, name)
    if mp.flagged:
        fileattr.demand_loose(mp, ino)
    if name in xattr.ACL_NAMES:
        acl.set_acl(mp, ino, name, acl.encode([]), cred)
    else:
        xattr.remove(mp, ino, name)


def listxattr(mp: Mount, ino: int, cred: Any) -> list[bytes]:
    """The names of a node's attributes that cred may see.  => Breathes."""
    return xattr.names(mp, ino, lambda: cred is None or cred.capable(CAP_SYS_ADMIN))


# --- the file system ---

def statfs(mp: Mount) -> tuple:
    """(bsize, blocks, bfree, bavail, files, ffree, favail, namemax).

    Free is what could be allocated now: doomed pages make room when it is needed (reap.py).
    """
    limit, used = mp.vm.limit, mp.vm.npages - mp.doomed_pages
    files = mp.mem.max_nodes if mp.nr_inodes else min(limit * mp.mem.nodes.items_per_page, mp.mem.max_nodes)
    free = max(limit - used, 0)
    ffree = max(files - mp.mem.ninodes(), 0)
    if limit >= atop(UNLIMITED):
        limit = free = 0        # as the kernel's tmpfs: df shows nothing then
    if not mp.nr_inodes and "nr_inodes" in mp.config.given:
        files = ffree = 0       # the same for nr_inodes=0; by default, as many as there is room for
    return PAGE_SIZE, limit, free, free, files, ffree, ffree, NAME_MAX
