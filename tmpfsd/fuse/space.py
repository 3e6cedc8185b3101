"""fuse/space.py: the handlers of requests about room and holes: reserving, punching, finding.

fallocate(2) does what tmpfs does: reserve, with and without KEEP_SIZE, and punch.  ZERO_RANGE and all else are
EOPNOTSUPP on tmpfs too.

Limits      What is reserved behind the end of a file (KEEP_SIZE) does not heed RLIMIT_FSIZE, as it does on tmpfs: FUSE
            does not look, and does not say.
            With `writeback` all that is written may be in the kernel only, so LSEEK is ENOSYS then, and a file is all
            data.  Without it only pages of a live mapping may be dirty there: before a hole is told, the kernel writes
            back what it has there (Session.flush), and the answer comes with its NOTIFY_REPLY.
"""

from __future__ import annotations

import errno
import os
from functools import partial
from typing import TYPE_CHECKING

from tmpfsd.fuse import abi, replies
from tmpfsd.fuse.abi import BODY
from tmpfsd.fuse.data import clear_set_id, demand_regular
from tmpfsd.fuse.later import Later
from tmpfsd.tmpfs import cut, fileattr, holes, layout, regfile
from tmpfsd.tmpfs.fallocate import Reservation
from tmpfsd.tmpfs.fserror import FsError
from tmpfsd.uvm.errors import NoMemory

if TYPE_CHECKING:
    from tmpfsd.fuse.session import Session

KEEP_SIZE, PUNCH_HOLE = 1, 2                # <linux/falloc.h>
FEW_STEPS = 4                               # of cut.take_off_some(): a millisecond
_LSEEK = abi.LSEEK_OUT.reply()


def fallocate(s: Session, ino: int, data: bytes) -> bytes | None:
    """FALLOCATE: fuse_fallocate_in.  What takes long is done later."""
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
    """Reserve what takes few steps at once, and the rest of it later."""
    reservation = Reservation(s.mount, ino, offset, length, keep_size)
    for _ in range(FEW_STEPS):
        s.mount.breathe()
        if not reservation.step():
            return replies.done(s)
    s.later.append(Later(s.unique, ino, "fallocate", reservation.step))
    return None


def _punch(s: Session, ino: int, offset: int, length: int) -> bytes | None:
    """Punch what takes few steps at once, and the rest of it later."""
    mount = s.mount
    first, last = cut.punch_ends(mount, ino, offset, length)
    for _ in range(FEW_STEPS):
        if not cut.take_off_some(mount, ino, first, last):
            return replies.done(s)
        mount.breathe()
    s.later.append(Later(s.unique, ino, "fallocate", partial(cut.take_off_some, mount, ino, first, last)))
    return None


def lseek(s: Session, ino: int, data: bytes) -> bytes | None:
    """LSEEK: fuse_lseek_in."""
    if s.agreed.has("FUSE_WRITEBACK_CACHE"):
        raise FsError(errno.ENOSYS)
    offset, whence = abi.LSEEK_IN.unpack(data, BODY)
    demand_regular(s, ino)
    return _seek(s, ino, offset, whence, 0)


def notify_reply(s: Session, ino: int, _data: bytes) -> bytes | None:
    """NOTIFY_REPLY: what an LSEEK waits for was written back; `unique` is that of the LSEEK."""
    sought = s.seeks.pop(s.unique, None)
    if sought is None:
        return None
    try:
        return _seek(s, ino, *sought)
    except NoMemory:            # handle() tries again
        s.seeks[s.unique] = sought
        raise


def _seek(s: Session, ino: int, offset: int, whence: int, known: int) -> bytes | None:
    """Tell a hole only where all is known: up to `known` it is."""
    mount, flush = s.mount, s.flush
    if flush is not None:
        hole = offset if whence == os.SEEK_DATA else holes.seek(mount, ino, offset, whence)
        end = _hole_end(s, ino, hole)
        if known <= hole < end:
            s.seeks[s.unique] = offset, whence, end
            flush(s.unique, ino, hole, end - hole)
            return None
    return _LSEEK.pack(_LSEEK.size, 0, s.unique, holes.seek(mount, ino, offset, whence))


def _hole_end(s: Session, ino: int, offset: int) -> int:
    """Where the hole ends that is here, or may be: the next data, or the end of the file."""
    try:
        return holes.seek(s.mount, ino, offset, os.SEEK_DATA)
    except FsError as error:
        if error.errno != errno.ENXIO:
            raise
        return layout.tn_size(s.mount.arena, s.mount.mem.node(ino))
