"""tmpfs/permission.py: what a caller may do, if the kernel does not check it.

With default_permissions the kernel checks every request, and this module is not used.  Two cases are left to us:
access(2) on a mount with `noperm`, and commands of the control socket that go over a tree (walk.py): there a user asks,
not the kernel.

Breathing   demand_access() and demand_removal() breathe if there are ACLs.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Any

from tmpfsd.tmpfs import layout, xattr
from tmpfsd.tmpfs.fserror import FsError

if TYPE_CHECKING:
    from tmpfsd.tmpfs.filesystem import Mount

MAY_READ, MAY_WRITE, MAY_SEARCH = 4, 2, 1


def access(mp: Mount, ino: int, how: int) -> bool:
    """access(2) with noperm, as for root: all is allowed, except to execute what nobody may.  => SwapIOError."""
    mode = layout.tn_mode(mp.arena, mp.mem.node(ino))
    return not how & os.X_OK or stat.S_ISDIR(mode) or bool(mode & 0o111)


def demand_access(mp: Mount, ino: int, cred: Any, want: int) -> None:
    """Refuse what `cred` (uid, groups) may not do with a node: FsError EACCES.  => Breathes with acl.

    A directory of another user that has an ACL is refused: the ACL may allow less than the mode.
    """
    if cred.uid == 0:
        return
    mode, uid, gid = layout.tn_access(mp.arena, mp.mem.node(ino))
    bits = mode >> 6 if uid == cred.uid else mode >> 3 if gid in cred.groups else mode
    if bits & want != want:
        raise FsError(errno.EACCES)
    if mp.acl and uid != cred.uid and xattr.find(mp, ino, xattr.ACL_NAMES[0]) is not None:
        raise FsError(errno.EACCES)


def demand_removal(mp: Mount, dino: int, ino: int, cred: Any) -> None:
    """Refuse to take a node's name out of a directory: FsError EACCES, or EPERM if the sticky bit forbids it."""
    demand_access(mp, dino, cred, MAY_WRITE | MAY_SEARCH)
    mode, uid, _gid = layout.tn_access(mp.arena, mp.mem.node(dino))
    if mode & stat.S_ISVTX and cred.uid not in (0, uid, layout.tn_access(mp.arena, mp.mem.node(ino))[1]):
        raise FsError(errno.EPERM)
