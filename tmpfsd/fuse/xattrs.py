"""fuse/xattrs.py: the handlers of requests about extended attributes.

GETXATTR and LISTXATTR with a size of 0 ask for the size of the answer; with too small a size they are refused.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from tmpfsd.fuse import abi, replies
from tmpfsd.fuse.abi import BODY
from tmpfsd.fuse.stranger import STRANGER
from tmpfsd.tmpfs import vnops, xattr
from tmpfsd.tmpfs.caller import Caller
from tmpfsd.tmpfs.fserror import FsError

if TYPE_CHECKING:
    from tmpfsd.fuse.session import Session

_SIZE = abi.GETXATTR_OUT.reply()
BOTH = xattr.XATTR_CREATE | xattr.XATTR_REPLACE


def name_in(tail: bytes) -> bytes:
    """The name at the end of a request; it may have a '/'.  => FsError EINVAL."""
    if not tail or tail[-1] or b"\0" in tail[:-1]:
        raise FsError(errno.EINVAL)
    return tail[:-1]


def demand_xattr(s: Session) -> None:
    """Refuse if the mount has none; the kernel makes EOPNOTSUPP of it and never asks again."""
    if not s.mount.xattr:
        raise FsError(errno.ENOSYS)


def _sized(s: Session, value: bytes, size: int) -> bytes:
    """A value, or its length.  => FsError ERANGE."""
    if not size:
        return _SIZE.pack(_SIZE.size, 0, s.unique, len(value))
    if len(value) > size:
        raise FsError(errno.ERANGE)
    return replies.header(s, len(value)) + value


def getxattr(s: Session, ino: int, data: bytes) -> bytes:
    """GETXATTR: fuse_getxattr_in, name."""
    demand_xattr(s)
    size, = abi.GETXATTR_IN.unpack(data, BODY)
    name = name_in(data[BODY + abi.GETXATTR_IN.size:])
    return _sized(s, bytes(vnops.getxattr(s.mount, ino, name)), size)


def listxattr(s: Session, ino: int, data: bytes) -> bytes:
    """LISTXATTR: fuse_getxattr_in."""
    demand_xattr(s)
    size, = abi.GETXATTR_IN.unpack(data, BODY)
    names = vnops.listxattr(s.mount, ino, s.caller)
    return _sized(s, b"".join(name + b"\0" for name in names), size)


def setxattr(s: Session, ino: int, data: bytes) -> bytes:
    """SETXATTR: fuse_setxattr_in (its first half without FUSE_SETXATTR_EXT), name, value."""
    demand_xattr(s)
    extended = s.agreed.has("FUSE_SETXATTR_EXT")
    at = BODY + (abi.SETXATTR_IN.size if extended else abi.SETXATTR_COMPAT)
    size, flags, more = abi.SETXATTR_IN.unpack(data.ljust(BODY + abi.SETXATTR_IN.size, b"\0"), BODY)
    name, nul, value = data[at:].partition(b"\0")
    if not nul or len(value) != size or flags & ~BOTH:
        raise FsError(errno.EINVAL)
    cred: Caller | None = s.caller
    if extended and name in xattr.ACL_NAMES:
        cred = STRANGER if more & abi.SETXATTR_ACL_KILL_SGID else None
    vnops.setxattr(s.mount, ino, name_in(name + nul), value, flags, cred)
    return replies.done(s)


def removexattr(s: Session, ino: int, data: bytes) -> bytes:
    """REMOVEXATTR: name."""
    demand_xattr(s)
    vnops.removexattr(s.mount, ino, name_in(data[BODY:]), s.caller)
    return replies.done(s)
