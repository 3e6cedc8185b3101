"""tmpfs/fileattr.py: flags of chattr(1): append-only, immutable, nodump, noatime; who may set them, what they forbid.

Regular files and directories have them, as tn_flags, with the numbers of FS_IOC_GETFLAGS.  A new node takes nodump and
noatime from its directory.  FUSE does not tell the kernel of these flags.  So what the VFS forbids on tmpfs is
forbidden here: EPERM, whoever asks.  Most mounts never see any flag: `mp.flagged` tells whether this one has.

Picture     vnops, if mp.flagged: demand_addable(), demand_removable(), demand_settable(), demand_writable() --> EPERM

Breathing   Nothing here breathes.
Limits      What the VFS forbids at open(2) is forbidden at the first write here, because no open is sent.  So a file
            that was open when it became immutable cannot be written either, and access(2) does not know.
            A user who may not write a directory gets EACCES from the kernel, where tmpfs gives EPERM.
            `tmpfsctl discard` looks at the top of a tree only.
"""

from __future__ import annotations

import errno
import stat
from typing import TYPE_CHECKING, Any

from tmpfsd.tmpfs.caller import CAP_FOWNER, CAP_LINUX_IMMUTABLE
from tmpfsd.tmpfs.fserror import FsError
from tmpfsd.tmpfs.layout import (
    FL_APPEND, FL_IMMUTABLE, FL_NOATIME, FL_NODUMP, set_tn_ctime, set_tn_flags, tn_access, tn_flags, tn_mode, tn_size
)

if TYPE_CHECKING:
    from tmpfsd.tmpfs.filesystem import Mount

FIXED = FL_IMMUTABLE | FL_APPEND
SETTABLE = FIXED | FL_NODUMP | FL_NOATIME
INHERITED = FL_NODUMP | FL_NOATIME


def has_flags(mode: int) -> bool:
    """Whether nodes of a type have flags."""
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode)


def flags_at(mp: Mount, at: int) -> int:
    """The flags of the node at an offset."""
    return tn_flags(mp.arena, at) & SETTABLE if has_flags(tn_mode(mp.arena, at)) else 0


def get(mp: Mount, ino: int) -> int:
    """The flags of a node, 0 if its type has none.  => SwapIOError."""
    return flags_at(mp, mp.mem.node(ino))


def put(mp: Mount, ino: int, flags: int, cred: Any) -> None:
    """Set the flags.  => FsError ENOTTY, EOPNOTSUPP (others than tmpfs has), EPERM; SwapIOError."""
    at = mp.mem.node_w(ino)
    mode, uid, _gid = tn_access(mp.arena, at)
    if not has_flags(mode):
        raise FsError(errno.ENOTTY)
    if cred.uid != uid and not cred.capable(CAP_FOWNER):
        raise FsError(errno.EPERM)
    old = tn_flags(mp.arena, at)
    if (old ^ flags) & FIXED and not cred.capable(CAP_LINUX_IMMUTABLE):
        raise FsError(errno.EPERM)
    if flags & ~SETTABLE:
        raise FsError(errno.EOPNOTSUPP)
    set_tn_flags(mp.arena, at, old & ~SETTABLE | flags)
    set_tn_ctime(mp.arena, at, mp.now())
    mp.flagged = mp.flagged or flags != 0


def inherited(mp: Mount, dat: int, mode: int) -> int:
    """The flags that a new node of a type takes from its directory."""
    return tn_flags(mp.arena, dat) & INHERITED if mp.flagged and has_flags(mode) else 0


# --- what they forbid; called if mp.flagged ---

def demand_addable(mp: Mount, dat: int) -> None:
    """See that a directory may take an entry.  => FsError EPERM."""
    if tn_flags(mp.arena, dat) & FL_IMMUTABLE:
        raise FsError(errno.EPERM)


def demand_removable(mp: Mount, dat: int, at: int) -> None:
    """See that an entry of a directory may go, or lead to another node.  => FsError EPERM."""
    if (tn_flags(mp.arena, dat) | flags_at(mp, at)) & FIXED:
        raise FsError(errno.EPERM)


def demand_loose(mp: Mount, ino: int) -> None:
    """See that a node's attributes may change, and that it may get another name.  => FsError EPERM; SwapIOError."""
    if get(mp, ino) & FIXED:
        raise FsError(errno.EPERM)


def demand_settable(mp: Mount, ino: int, changed: bool, touched: bool) -> None:
    """See that setattr() may do its changes; `touched`: times are set to now.  => FsError EPERM; SwapIOError."""
    flags = get(mp, ino)
    if changed and flags & FIXED or touched and flags & FL_IMMUTABLE:
        raise FsError(errno.EPERM)


def demand_writable(mp: Mount, ino: int, offset: int, appends: bool) -> None:
    """See that bytes may be written from offset on.  => FsError EPERM; SwapIOError."""
    flags = get(mp, ino)
    if flags & FL_IMMUTABLE or flags & FL_APPEND and (not appends or offset < tn_size(mp.arena, mp.mem.node(ino))):
        raise FsError(errno.EPERM)
