"""fuse/attributes.py: the handlers of requests about nodes and about the whole file system.

Limits      open(O_TRUNC) and truncate(2) to size 0 are the same request, as there is no OPEN.  It is taken for the
            former, so that `: > stamp` sets the times of an empty file.  truncate(2) then sets them, too; the kernel's
            tmpfs does not.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from tmpfsd.fuse import abi, replies
from tmpfsd.fuse.abi import (
    BODY, FATTR_ATIME, FATTR_ATIME_NOW, FATTR_CTIME, FATTR_GID, FATTR_MODE, FATTR_MTIME, FATTR_MTIME_NOW, FATTR_SIZE,
    FATTR_UID
)
from tmpfsd.fuse.replies import BLOCK_SIZE, FOREVER, SECOND
from tmpfsd.tmpfs import fileattr, vnops
from tmpfsd.tmpfs.fserror import FsError
from tmpfsd.tmpfs.layout import FL_APPEND, FL_IMMUTABLE, FL_NODUMP, tn_btime

if TYPE_CHECKING:
    from tmpfsd.fuse.session import Session

_STATFS, _STATX = abi.STATFS_OUT.reply(), abi.STATX_OUT.reply()
STATX_BASIC_STATS, STATX_BTIME = 0x7FF, 0x800       # <linux/stat.h>
STATX_FLAGS = FL_IMMUTABLE | FL_APPEND | FL_NODUMP  # STATX_ATTR_*: the same bits
MINOR_LOW, MINOR_HIGH, MAJOR_MASK = 0xFF, 0xFFF00, 0xFFF        # new_encode_dev(): mmmM MMmm


def getattr_(s: Session, ino: int, _data: bytes) -> bytes:
    """GETATTR: fuse_getattr_in, which is not needed."""
    return replies.attributes(s, ino)


def setattr_(s: Session, ino: int, data: bytes) -> bytes:
    """SETATTR: fuse_setattr_in."""
    (valid, size, atime, mtime, ctime, atimensec, mtimensec, ctimensec, mode, uid,
     gid) = abi.SETATTR_IN.unpack(data, BODY)
    mount = s.mount
    now = mount.now() if valid & (FATTR_ATIME_NOW | FATTR_MTIME_NOW) else 0
    vnops.setattr(
        mount, ino, s.caller,
        mode=stat.S_IMODE(mode) if valid & FATTR_MODE else None,
        uid=uid if valid & FATTR_UID else None,
        gid=gid if valid & FATTR_GID else None,
        size=size if valid & FATTR_SIZE else None,
        atime_ns=_time(valid & FATTR_ATIME, valid & FATTR_ATIME_NOW, atime, atimensec, now),
        mtime_ns=_time(valid & FATTR_MTIME, valid & FATTR_MTIME_NOW, mtime, mtimensec, now),
        ctime_ns=_time(valid & FATTR_CTIME, 0, ctime, ctimensec, now),
        # With `writeback` the kernel keeps mtime and ctime itself: of a touch(1) it sends both, and no FATTR_MTIME_NOW.
        touched=not (valid & FATTR_ATIME and not valid & FATTR_ATIME_NOW
                     or valid & FATTR_MTIME and not valid & FATTR_MTIME_NOW
                     and not (valid & FATTR_CTIME and (mtime, mtimensec) == (ctime, ctimensec))))
    return replies.attributes(s, ino)


def _time(wanted: int, is_now: int, seconds: int, nanoseconds: int, now: int) -> int | None:
    """A time to set, or None."""
    if not wanted:
        return None
    return now if is_now else seconds * SECOND + min(nanoseconds, SECOND - 1)


def statx(s: Session, ino: int, _data: bytes) -> bytes:
    """STATX: fuse_statx_in.  It answers with all fields, whatever was asked for: that costs nothing."""
    mount = s.mount
    (mode, links, uid, gid, rdev, size, blocks, atime, mtime, ctime, _generation) = vnops.getattr(mount, ino)
    btime = tn_btime(mount.arena, mount.mem.node(ino))
    attributes = fileattr.get(mount, ino) & STATX_FLAGS if mount.flagged else 0
    times = [part for ns in (atime, btime, ctime, mtime) for part in divmod(ns, SECOND)]
    return _STATX.pack(_STATX.size, 0, s.unique, FOREVER, STATX_BASIC_STATS | STATX_BTIME, BLOCK_SIZE, attributes,
                       links, uid, gid, mode, ino, size, blocks, STATX_FLAGS, *times, rdev >> 8 & MAJOR_MASK,
                       rdev & MINOR_LOW | rdev >> 12 & MINOR_HIGH)


def readlink(s: Session, ino: int, _data: bytes) -> bytes:
    """READLINK."""
    target = bytes(vnops.readlink(s.mount, ino))
    return replies.header(s, len(target)) + target


def access(s: Session, ino: int, data: bytes) -> bytes:
    """ACCESS: fuse_access_in.  Sent if the kernel does not check permissions itself."""
    mask, = abi.ACCESS_IN.unpack(data, BODY)
    if not vnops.access(s.mount, ino, mask & (os.R_OK | os.W_OK | os.X_OK)):
        raise FsError(errno.EACCES)
    return replies.done(s)


def statfs(s: Session, _ino: int, _data: bytes) -> bytes:
    """STATFS."""
    bsize, blocks, bfree, bavail, files, ffree, _favail, namemax = vnops.statfs(s.mount)
    return _STATFS.pack(_STATFS.size, 0, s.unique, blocks, bfree, bavail, files, ffree, bsize, namemax, bsize)
