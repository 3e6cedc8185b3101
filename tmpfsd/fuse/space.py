"""fuse/space.py: the handlers of requests about holes: punching them, and finding them.

Limits      fallocate(2) punches holes; to reserve pages (mode 0) is EOPNOTSUPP, so posix_fallocate(3) writes zeroes.
            SEEK_DATA does not see what is dirty in the kernel only: pages of a live mapping that lie in a hole.  With
            `writeback` all that is written may be there, so LSEEK is ENOSYS then, and a file is all data.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from tmpfsd.fuse import abi, replies
from tmpfsd.fuse.abi import BODY
from tmpfsd.fuse.data import demand_regular
from tmpfsd.tmpfs import holes, regfile, vnops
from tmpfsd.tmpfs.errors import FsError

if TYPE_CHECKING:
    from tmpfsd.fuse.session import Session

KEEP_SIZE, PUNCH_HOLE = 1, 2                # <linux/falloc.h>
_LSEEK = abi.LSEEK_OUT.reply()


def fallocate(s: Session, ino: int, data: bytes) -> bytes:
    """FALLOCATE: fuse_fallocate_in."""
    offset, length, mode = abi.FALLOCATE_IN.unpack(data, BODY)
    if mode != KEEP_SIZE | PUNCH_HOLE:
        raise FsError(errno.EOPNOTSUPP)
    if not length or offset + length > regfile.MAX_SIZE:
        raise FsError(errno.EFBIG if length else errno.EINVAL)
    vnops.punch(s.mount, ino, offset, length)
    return replies.done(s)


def lseek(s: Session, ino: int, data: bytes) -> bytes:
    """LSEEK: fuse_lseek_in."""
    if s.agreed.has("FUSE_WRITEBACK_CACHE"):
        raise FsError(errno.ENOSYS)
    offset, whence = abi.LSEEK_IN.unpack(data, BODY)
    demand_regular(s, ino)
    return _LSEEK.pack(_LSEEK.size, 0, s.unique, holes.seek(s.mount, ino, offset, whence))
