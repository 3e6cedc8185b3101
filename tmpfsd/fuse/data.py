"""fuse/data.py: the handlers of requests about the bytes of files.

A READ is answered with views of the frames that hold the file.  writev(2) hands them to the kernel: no copy is made
here.  A WRITE is copied once, from the buffer of the request into frames.  There are no open files, only nodes.

OPEN and OPENDIR are answered with ENOSYS: the kernel asks once, and later sends neither these nor RELEASE.  With
strictatime each opening must begin with a READ or READDIR that is sent here.  OPEN and OPENDIR are served then, without
FOPEN_KEEP_CACHE and FOPEN_CACHE_DIR.

Invariants  D1 Views of frames are good until the next breath (readv.py): the result of read() must be written at once.
Limits      If strictatime is set after the first OPEN was ENOSYS, only reads that are sent count.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from tmpfsd.fuse import abi, notify, replies
from tmpfsd.fuse.abi import BODY
from tmpfsd.fuse.init import MAX_WRITE
from tmpfsd.tmpfs import copyrange, layout, readv, setid, vnops, writeback
from tmpfsd.tmpfs.fserror import FsError
from tmpfsd.uvm.param import PAGE_SHIFT, PAGE_SIZE

if TYPE_CHECKING:
    from tmpfsd.fuse.session import Reply, Session

DATA = BODY + abi.WRITE_IN.size         # where the bytes of a WRITE begin
_WRITE, _OPEN, _COPIED = abi.WRITE_OUT.reply(), abi.OPEN_OUT.reply(), abi.COPY_FILE_RANGE_OUT.reply()
_read_in, _write_in, _pack_write, _WRITE_SIZE = abi.READ_IN.unpack, abi.WRITE_IN.unpack, _WRITE.pack, _WRITE.size


def demand_regular(s: Session, ino: int) -> None:
    """=> FsError EISDIR, EINVAL for a node that is not a regular file."""
    mode = layout.tn_mode(s.mount.arena, s.mount.mem.node(ino))
    if not stat.S_ISREG(mode):
        raise FsError(errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL)


def open_(s: Session, _ino: int, _data: bytes) -> bytes:
    """OPEN and OPENDIR: fuse_open_in."""
    if not s.mount.strictatime:
        raise FsError(errno.ENOSYS)
    return _OPEN.pack(_OPEN.size, 0, s.unique, 0, 0)


def read(s: Session, ino: int, data: bytes) -> Reply:
    """READ: fuse_read_in.  => D1."""
    offset, size = _read_in(data, BODY)
    demand_regular(s, ino)
    views = readv.read(s.mount, ino, offset, min(size, MAX_WRITE))
    nbytes = sum(map(len, views))
    s.mount.nread += nbytes
    if readv.may_have_holes(views):
        s.held.note(ino, offset >> PAGE_SHIFT, offset + nbytes - 1 + PAGE_SIZE >> PAGE_SHIFT)
    return [replies.header(s, nbytes), *views]


def write(s: Session, ino: int, request: memoryview) -> bytes:
    """WRITE: fuse_write_in, the bytes."""
    offset, size, flags, opened = _write_in(request, BODY)
    if size != len(request) - DATA:
        raise FsError(errno.EINVAL)
    demand_regular(s, ino)
    mount = s.mount
    if flags & abi.WRITE_KILL_SUIDGID or mount.marks:
        clear_set_id(s, ino, flags & abi.WRITE_KILL_SUIDGID != 0)
    do = writeback.write if flags & abi.WRITE_CACHE else vnops.write
    done = do(mount, ino, offset, request[DATA:], opened & os.O_APPEND != 0)
    mount.nwritten += done
    return _pack_write(_WRITE_SIZE, 0, s.unique, done)


def copy_file_range(s: Session, ino: int, data: bytes) -> bytes:
    """COPY_FILE_RANGE: fuse_copy_file_range_in.  It may copy less than was asked for: the caller goes on."""
    done = _copy(s, ino, data)
    return _pack_write(_WRITE_SIZE, 0, s.unique, done)


def copy_file_range_64(s: Session, ino: int, data: bytes) -> bytes:
    """COPY_FILE_RANGE_64: likewise."""
    done = _copy(s, ino, data)
    return _COPIED.pack(_COPIED.size, 0, s.unique, done)


def _copy(s: Session, ino: int, data: bytes) -> int:
    start, target, to, length, flags = abi.COPY_FILE_RANGE_IN.unpack(data, BODY)
    if flags:
        raise FsError(errno.EINVAL)
    s.demand_known(target)
    if s.mount.marks:
        clear_set_id(s, target)
    demand_regular(s, ino)
    demand_regular(s, target)
    done = copyrange.copy(s.mount, ino, start, target, to, length)
    s.mount.nwritten += done
    return done


def clear_set_id(s: Session, ino: int, killing: bool = False) -> None:
    """Clear the set-id bits that go when the bytes of a file change; killing: the kernel demands it."""
    if (killing or ino in s.mount.marks) and setid.cleared(s.mount, ino, s.caller if killing else None):
        s.notices.append(notify.inval_inode(ino))       # the kernel still has the old mode
