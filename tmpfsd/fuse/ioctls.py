"""fuse/ioctls.py: the handler of ioctl(2): the flags of files, which chattr(1) and lsattr(1) ask for.

The kernel sends FS_IOC_GETFLAGS and SETFLAGS (four bytes, whatever <linux/fs.h> says), or FS_IOC_FSGETXATTR and
FSSETXATTR (struct fsxattr), as its caller did.  All others are ENOTTY, as on tmpfs.
"""

from __future__ import annotations

import errno
from struct import Struct
from typing import TYPE_CHECKING

from tmpfsd.fuse import abi, notify, replies
from tmpfsd.fuse.abi import BODY
from tmpfsd.tmpfs import fileattr, layout
from tmpfsd.tmpfs.fserror import FsError
from tmpfsd.tmpfs.layout import FL_APPEND, FL_IMMUTABLE, FL_NOATIME, FL_NODUMP

if TYPE_CHECKING:
    from tmpfsd.fuse.session import Session

FS_IOC_GETFLAGS, FS_IOC_SETFLAGS = 0x80086601, 0x40086602           # <linux/fs.h>
FS_IOC_FSGETXATTR, FS_IOC_FSSETXATTR = 0x801C581F, 0x401C5820
FLAGS = Struct("=I")
FSXATTR = Struct("=IIIII8x")            # fsx_xflags, fsx_extsize, fsx_nextents, fsx_projid, fsx_cowextsize
# FS_XFLAG_* that have a flag, and the one each has.
XFLAGS = ((0x08, FL_IMMUTABLE), (0x10, FL_APPEND), (0x40, FL_NOATIME), (0x80, FL_NODUMP))
DATA = BODY + abi.IOCTL_IN.size


def ioctl(s: Session, ino: int, data: bytes) -> bytes:
    """IOCTL: fuse_ioctl_in, the caller's data."""
    _flags, command, _argument, _in_size, out_size = abi.IOCTL_IN.unpack(data, BODY)
    if command not in (FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, FS_IOC_FSGETXATTR, FS_IOC_FSSETXATTR):
        raise FsError(errno.ENOTTY)
    if not fileattr.has_flags(layout.tn_mode(s.mount.arena, s.mount.mem.node(ino))):
        raise FsError(errno.ENOTTY)
    if command == FS_IOC_GETFLAGS:
        answer = FLAGS.pack(fileattr.get(s.mount, ino))
    elif command == FS_IOC_FSGETXATTR:
        flags = fileattr.get(s.mount, ino)
        answer = FSXATTR.pack(sum(xflag for xflag, flag in XFLAGS if flags & flag), 0, 0, 0, 0)
    else:
        fileattr.put(s.mount, ino, _flags_of(command, data), s.caller)
        s.notices.append(notify.inval_inode(ino))       # for its ctime: to the kernel an IOCTL makes nothing stale
        answer = b""
    answer = answer[:out_size]          # never more: kernels before 5.10 offer 8 bytes for flags, and lsattr has 4
    return replies.header(s, abi.IOCTL_OUT.size + len(answer)) + abi.IOCTL_OUT.pack(0, 0, 0, 0) + answer


def _flags_of(command: int, data: bytes) -> int:
    """The flags to set.  => FsError EINVAL, EOPNOTSUPP."""
    record = FLAGS if command == FS_IOC_SETFLAGS else FSXATTR
    if len(data) < DATA + record.size:
        raise FsError(errno.EINVAL)
    if record is FLAGS:
        return int(FLAGS.unpack_from(data, DATA)[0])
    xflags, extsize, _nextents, projid, cowextsize = FSXATTR.unpack_from(data, DATA)
    if xflags & ~sum(xflag for xflag, _flag in XFLAGS) or extsize or projid or cowextsize:
        raise FsError(errno.EOPNOTSUPP)
    return sum(flag for xflag, flag in XFLAGS if xflags & xflag)
