"""fuse/space.py: the handler of FALLOCATE: reserving room, punching holes.

fallocate(2) does what tmpfs does: reserve, with and without KEEP_SIZE, and punch.  ZERO_RANGE and all others are
EOPNOTSUPP on tmpfs too.

Limits      RLIMIT_FSIZE does not limit room reserved behind the end of a file (KEEP_SIZE), as it does on tmpfs: FUSE
            neither checks it nor sends it.
"""

from __future__ import annotations

import errno
from functools import partial
from typing import TYPE_CHECKING

from tmpfsd.fuse import abi, replies
from tmpfsd.fuse.abi import BODY
from tmpfsd.fuse.data import clear_set_id, demand_regular
from tmpfsd.fuse.later import Later
from tmpfsd.tmpfs import cut, fileattr, regfile
from tmpfsd.tmpfs.fallocate import Reservation
from tmpfsd.tmpfs.fserror import FsError

if TYPE_CHECKING:
    from tmpfsd.fuse.session import Session

KEEP_SIZE, PUNCH_HOLE = 1, 2                # <linux/falloc.h>
FEW_STEPS = 4                               # of cut.take_off_some(): a millisecond


def fallocate(s: Session, ino: int, data: bytes) -> bytes | None:
    """FALLOCATE: fuse_fallocate_in.  Long work is done later."""
    offset, length, mode = abi.FALLOCATE_IN.unpack(data, BODY)
    if mode not in (0, KEEP_SIZE, KEEP_SIZE | PUNCH_HOLE):
        raise FsError(errno.EOPNOTSUPP)
    if not length or offset + length > regfile.MAX_SIZE:
        raise FsError(errno.EFBIG if length else errno.EINVAL)
    demand_regular(s, ino)
    if s.mount.marks:
        clear_set_id(s, ino)
    if mode & PUNCH_HOLE:
        if s.mount.flagged:
            fileattr.demand_loose(s.mount, ino)
        return _punch(s, ino, offset, length)
    return _reserve(s, ino, offset, length, bool(mode & KEEP_SIZE))


def _reserve(s: Session, ino: int, offset: int, length: int, keep_size: bool) -> bytes | None:
    """Reserve a few steps at once, and the rest later."""
    reservation = Reservation(s.mount, ino, offset, length, keep_size)
    for _ in range(FEW_STEPS):
        s.mount.breathe()
        if not reservation.step():
            return replies.done(s)
    s.later.append(Later(s.unique, ino, "fallocate", reservation.step))
    return None


def _punch(s: Session, ino: int, offset: int, length: int) -> bytes | None:
    """Punch a few steps at once, and the rest later."""
    mount = s.mount
    first, last = cut.punch_ends(mount, ino, offset, length)
    for _ in range(FEW_STEPS):
        if not cut.take_off_some(mount, ino, first, last):
            return replies.done(s)
        mount.breathe()
    s.later.append(Later(s.unique, ino, "fallocate", partial(cut.take_off_some, mount, ino, first, last)))
    return None
