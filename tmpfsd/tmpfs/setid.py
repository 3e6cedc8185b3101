"""tmpfs/setid.py: setuid and setgid bits that must go when somebody changes a file: what decides it, and does it.

Without us the kernel would ask for security.capability before each write(2), so both edges agree on
FUSE_HANDLE_KILLPRIV_V2 (fuse/init.py, server/negotiate.py): these bits are the server's matter then.

    chown, truncate     the call says who makes it: of_setattr(), truncated()
    an ACL that is set  of_acl()
    write(2)            edge=native: the request has a flag, and says who writes
                        edge=pyfuse3: the kernel sends a SETATTR of nothing first.  chown(-1, -1) is the same request

So a SETATTR of nothing by somebody who may not write the file is either.  It cannot be refused: that would fail a write
of who opened the file when he still might.  It cannot be obeyed: anybody could take the bits with a chown.  So the file
is marked, and its next write takes the bits (cleared()).

Picture     --of_setattr(): may write--> cleared
            --of_setattr(): may not--> MARKED --cleared(), before the next write--> cleared
                                              --the node is gone--> the mark is nobody's: its generation is another's
Invariants  I1 There are at most MARKS_MAX marks.
Breathing   Nothing here breathes.
"""

from __future__ import annotations

import errno
import stat
from typing import TYPE_CHECKING, Any, Final

from tmpfsd.tmpfs import layout
from tmpfsd.tmpfs.caller import CAP_FSETID
from tmpfsd.tmpfs.fserror import FsError

if TYPE_CHECKING:
    from tmpfsd.tmpfs.filesystem import Mount

SET_ID: Final = stat.S_ISUID | stat.S_ISGID
MARKS_MAX = 1000
MARKED: Final = -1           # of_setattr(): not a mode


def without(mode: int, gid: int, cred: Any) -> int:
    """A mode as it is after a write or chown (setattr_should_drop_suidgid() of Linux fs/attr.c).

    Setgid without the group's x marks mandatory locking, and is left to members of the group and to CAP_FSETID.
    """
    if stat.S_ISDIR(mode):
        return mode
    drop = stat.S_ISUID
    if mode & stat.S_IXGRP or not cred.in_group(gid) and not cred.capable(CAP_FSETID):
        drop |= stat.S_ISGID
    return mode & ~drop


def of_acl(mode: int, gid: int, cred: Any) -> int:
    """A mode as it is after an ACL was set (posix_acl_update_mode(); CVE-2016-7097)."""
    keeps = not mode & stat.S_ISGID or cred is None or cred.in_group(gid) or cred.capable(CAP_FSETID)
    return mode if keeps else mode & ~stat.S_ISGID


def of_setattr(mp: Mount, ino: int, at: int, cred: Any, owner: bool, size: bool, times: bool) -> int:
    """The mode that a setattr() leaves that sets none, but owner, size or times; or MARKED: nothing may change now.

    => FsError EPERM: too many are marked.
    """
    mode, _uid, gid = layout.tn_access(mp.arena, at)
    if not mode & SET_ID or not owner and (cred.capable(CAP_FSETID) if size else times):
        return mode
    left = without(mode, gid, cred)
    if left != mode and not owner and not size and not _may_write(mp, at, cred):
        _mark(mp, ino, at, left)
        return MARKED
    return left


def _may_write(mp: Mount, at: int, cred: Any) -> bool:
    """Whether cred owns a node or may write it.  Of an ACL the mask is all that is looked at."""
    mode, uid, gid = layout.tn_access(mp.arena, at)
    return bool(cred.uid in (0, uid) or mode & stat.S_IWOTH
                or mode & stat.S_IWGRP and (mp.acl or cred.in_group(gid)))


def _mark(mp: Mount, ino: int, at: int, left: int) -> None:
    """Have the next write of a node leave this mode."""
    if len(mp.marks) >= MARKS_MAX and ino not in mp.marks:
        raise FsError(errno.EPERM)
    mp.marks[ino] = layout.tn_gen(mp.arena, at), left


def truncated(mp: Mount, at: int, cred: Any) -> None:
    """Clear what somebody's O_TRUNC clears; `at` must be writable."""
    mode, _uid, gid = layout.tn_access(mp.arena, at)
    if mode & SET_ID and not cred.capable(CAP_FSETID):
        layout.set_tn_mode(mp.arena, at, without(mode, gid, cred))


def cleared(mp: Mount, ino: int, writer: Any = None) -> bool:
    """Before the bytes of a node change: clear what goes with that; whether the mode has changed.  => SwapIOError.

    => writer: who writes without CAP_FSETID, where the request says so.  The kernel holds the mode from before.
    """
    at = mp.mem.node_w(ino)
    generation, left = mp.marks.pop(ino, (0, 0))
    mode, _uid, gid = layout.tn_access(mp.arena, at)
    if not mode & SET_ID:
        return False
    new: int = mode if writer is None else without(mode, gid, writer)
    if layout.tn_gen(mp.arena, at) == generation:
        new &= left | ~SET_ID
    layout.set_tn_mode(mp.arena, at, new)
    return new != mode
