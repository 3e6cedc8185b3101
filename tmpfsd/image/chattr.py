"""image/chattr.py: the flags of chattr(1), on files of other file systems (FS_IOC_GETFLAGS, ioctl_iflags(2)).

Limits      The numbers are those of 64-bit x86 and ARM.  On a file system without flags a file has none.
"""

from __future__ import annotations

import errno
import fcntl
import os
from struct import Struct

from tmpfsd.tmpfs.fileattr import SETTABLE

GETFLAGS, SETFLAGS = 0x80086601, 0x40086602
FLAGS = Struct("=i4x")      # an int is read and written, though the request numbers say long
UNKNOWN = (errno.ENOTTY, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)


def of_open(fd: int) -> int:
    """Return those flags of an open file that tmpfs has, too.  => OSError."""
    try:
        return int(FLAGS.unpack(fcntl.ioctl(fd, GETFLAGS, bytes(FLAGS.size)))[0]) & SETTABLE
    except OSError as error:
        if error.errno in UNKNOWN:
            return 0
        raise


def of(path: bytes | int) -> int:
    """Return those flags of a regular file or a directory, which may be open.  => OSError."""
    if isinstance(path, int):
        return of_open(path)
    fd = _open(path)
    try:
        return of_open(fd)
    finally:
        os.close(fd)


def put(path: bytes, flags: int) -> None:
    """Give a file flags, if its file system has them.  => PermissionError: without CAP_LINUX_IMMUTABLE; OSError."""
    fd = _open(path)
    try:
        old = FLAGS.unpack(fcntl.ioctl(fd, GETFLAGS, bytes(FLAGS.size)))[0]
        fcntl.ioctl(fd, SETFLAGS, FLAGS.pack(old & ~SETTABLE | flags))
    except OSError as error:
        if error.errno not in UNKNOWN:
            raise
    finally:
        os.close(fd)


def _open(path: bytes) -> int:
    return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
