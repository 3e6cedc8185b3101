"""tmpfs/tmpfile.py: files that are made without a name (O_TMPFILE), and may get one.

Such a file is an orphan from the start (node.py): the kernel's reference keeps it, its last FORGET ends it.  The flag
LINKABLE tells it from a file that lost its name, which cannot get one again.

Picture     make() --> orphan, LINKABLE --vnops.link(): adopt()--> an ordinary file
                       orphan (O_EXCL)  --last forget--> destroyed
Breathing   make() breathes if ACLs are inherited; adopt() does not.
"""

from __future__ import annotations

import errno
import stat
from typing import TYPE_CHECKING, Any

from tmpfsd.tmpfs import acl, fileattr, layout, xattr
from tmpfsd.tmpfs.fserror import FsError
from tmpfsd.tmpfs.layout import KIND_INLINE, LINKABLE, NLOOKUP_MAX
from tmpfsd.uvm.errors import VmError

if TYPE_CHECKING:
    from tmpfsd.tmpfs.filesystem import Mount


def make(mp: Mount, dino: int, mode: int, cred: Any, linkable: bool) -> int:
    """A regular file without a name (+1).  => FsError ENOTDIR; NoMemory."""
    mode, attributes = stat.S_IFREG | stat.S_IMODE(mode), 0
    if mp.acl:
        mode, attributes = acl.inherit(mp, dino, mode, cred.umask)
    try:
        gid, flags = _taken_over(mp, dino, mode, cred)
        mp.mem.demand_inodes()
        if mp.quota is not None:
            mp.quota.demand((cred.uid, gid), 0, 1)
        ino = mp.mem.get_orphan()
    except (FsError, VmError):
        xattr.free_tree(mp, attributes)
        raise
    mp.generation += 1
    layout.init_node(mp.arena, mp.mem.node_w(ino), mode, KIND_INLINE, 0, cred.uid, gid, 0, mp.generation, mp.now(),
                     attributes, flags | (LINKABLE if linkable else 0))
    return ino


def _taken_over(mp: Mount, dino: int, mode: int, cred: Any) -> tuple[int, int]:
    """Group and flags of a file made in a directory, even in a removed one, as on tmpfs.  => FsError ENOTDIR, EPERM."""
    dat = mp.mem.node(dino)
    dmode, _uid, gid = layout.tn_access(mp.arena, dat)
    if not stat.S_ISDIR(dmode):
        raise FsError(errno.ENOTDIR)
    if mp.flagged:
        fileattr.demand_addable(mp, dat)
    return gid if dmode & stat.S_ISGID else cred.gid, fileattr.inherited(mp, dat, mode)


def demand_linkable(mp: Mount, at: int) -> None:
    """See that a node without a link may have one.  => FsError ENOENT; NoMemory: nr_inodes or a quota are used up."""
    if not stat.S_ISREG(layout.tn_mode(mp.arena, at)) or not layout.tn_flags(mp.arena, at) & LINKABLE:
        raise FsError(errno.ENOENT)
    mp.mem.demand_inodes()
    if mp.quota is not None:
        mp.quota.demand(layout.tn_owner(mp.arena, at), 0, 1)


def adopt(mp: Mount, at: int, ino: int) -> None:
    """Note that it gets its first name: it is no orphan any more.  => Cannot fail: its lookup word was touched."""
    layout.set_tn_flags(mp.arena, at, layout.tn_flags(mp.arena, at) & ~LINKABLE)
    mp.mem.u32[mp.mem.nlookup_word(ino)] &= NLOOKUP_MAX
    mp.mem.norphans -= 1
    if mp.quota is not None:
        mp.quota.add_at(mp.arena, at, 0, 1)
