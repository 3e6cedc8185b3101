"""tmpfs/setid.py: clears the setuid and setgid bits of a file when somebody changes it.

The kernel would ask for security.capability before each write(2) to do this itself.  So both edges agree on
FUSE_HANDLE_KILLPRIV_V2 (fuse/init.py, server/negotiate.py): the server clears these bits then.

    chown, truncate     the call tells who makes it: of_setattr(), truncated()
    an ACL that is set  of_acl()
    write(2)            edge=native: the request has a flag, and tells who writes
                        edge=pyfuse3: the kernel sends a SETATTR of nothing first.  chown(-1, -1) is the same request

So a SETATTR of nothing by a user who may not write the file can be either.  It cannot be refused: that would fail a
write of a user who opened the file when that was still allowed.  It cannot be obeyed: any user could clear the bits
with a chown.  So the file is marked, and its next write clears the bits (cleared()).

Picture     --of_setattr(): may write--> cleared
            --of_setattr(): may not--> MARKED --cleared(), before the next write--> cleared
                                              --the node is gone--> the mark is void: the generation differs
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

    Setgid without the group's x marks mandatory locking: it stays for members of the group and with CAP_FSETID.
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
    """The mode after a setattr() of owner, size, times or nothing, without a mode; or MARKED: nothing may change now.

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
    """Whether cred owns a node or may write it.  Of an ACL only the mask counts."""
    mode, uid, gid = layout.tn_access(mp.arena, at)
    return bool(cred.uid in (0, uid) or mode & stat.S_IWOTH
                or mode & stat.S_IWGRP and (mp.acl or cred.in_group(gid)))


def _mark(mp: Mount, ino: int, at: int, left: int) -> None:
    """Note the mode that the next write of a node leaves."""
    if len(mp.marks) >= MARKS_MAX and ino not in mp.marks:
        raise FsError(errno.EPERM)
    mp.marks[ino] = layout.tn_gen(mp.arena, at), left


def truncated(mp: Mount, at: int, cred: Any) -> None:
    """Clear the bits that O_TRUNC clears; `at` must be writable."""
    mode, _uid, gid = layout.tn_access(mp.arena, at)
    if mode & SET_ID and not cred.capable(CAP_FSETID):
        layout.set_tn_mode(mp.arena, at, without(mode, gid, cred))


def cleared(mp: Mount, ino: int, writer: Any = None) -> bool:
    """Clear set-id bits before the bytes of a node change; whether the mode has changed.  => SwapIOError.

    => writer: who writes without CAP_FSETID, if the request tells.  The kernel still has the old mode.
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
