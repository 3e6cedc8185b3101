"""fuse/seek.py: LSEEK: where a file has data, and where it has none.

Changes through a shared mapping may be in the kernel only, which does not write them back before it sends LSEEK.  So
before a hole is reported, NOTIFY_RETRIEVE asks the kernel for those of its pages that it may hold (held.py).  That
neither waits nor locks, whatever else is in progress.  The pages that the kernel holds come as a NOTIFY_REPLY.  A page
of zeroes is a hole; others are data.

Picture     LSEEK -> no page of the hole was ever read: answered
                  -> RETRIEVE of up to MAX_WRITE -> NOTIFY_REPLY -> pages from the first on, as far as they are held
                     -> the answer is among them, or: RETRIEVE of the next ones

Limits      With `writeback` written pages may be in the kernel only: LSEEK is ENOSYS then, and a file is all data.
            A file of which too much was read (held.py: lost) is reported as all data.
            The way before was to have the pages written back (NOTIFY_INVAL_INODE).  That waits for our own WRITEs: a
            daemon that was killed meanwhile could not end, and its mount hung.
            A page that a mapping has written zeroes to is a hole; tmpfs calls it data.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from tmpfsd.fuse import abi, notify
from tmpfsd.fuse.abi import BODY
from tmpfsd.fuse.data import demand_regular
from tmpfsd.fuse.init import MAX_PAGES
from tmpfsd.tmpfs import holes, layout
from tmpfsd.tmpfs.fserror import FsError
from tmpfsd.uvm.errors import NoMemory
from tmpfsd.uvm.param import PAGE_SHIFT, PAGE_SIZE
from tmpfsd.uvm.physmem import ZERO_PAGE

if TYPE_CHECKING:
    from tmpfsd.fuse.session import Session

_LSEEK = abi.LSEEK_OUT.reply()
PAGES = BODY + abi.NOTIFY_RETRIEVE_IN.size      # where the pages of a NOTIFY_REPLY begin
Sought = tuple[int, int, int, int]              # offset, whence; pages the kernel was asked for: first, how many


def lseek(s: Session, ino: int, data: bytes) -> bytes | None:
    """LSEEK: fuse_lseek_in."""
    if s.agreed.has("FUSE_WRITEBACK_CACHE"):
        raise FsError(errno.ENOSYS)
    offset, whence = abi.LSEEK_IN.unpack(data, BODY)
    demand_regular(s, ino)
    return _seek(s, ino, offset, whence)


def notify_reply(s: Session, ino: int, data: bytes) -> bytes | None:
    """NOTIFY_REPLY: fuse_notify_retrieve_in, and pages that an LSEEK has asked for; `unique` is that of the LSEEK."""
    sought = s.seeks.pop(s.unique, None)
    if sought is None:
        return None
    try:
        return _go_on(s, ino, sought, data)
    except NoMemory:            # handle() tries again
        s.seeks[s.unique] = sought
        raise


def _seek(s: Session, ino: int, offset: int, whence: int) -> bytes | None:
    """Answer, or ask the kernel for the pages that decide."""
    mount, held = s.mount, s.held
    found = _known(s, ino, offset, whence)
    size = layout.tn_size(mount.arena, mount.mem.node(ino))
    if held.is_lost(ino):
        return _tell(s, offset if whence == os.SEEK_DATA else size)
    pages = _doubtful(s, ino, offset, found, size, whence)
    if pages is not None:
        first, npages = pages[0], min(pages[1] - pages[0], MAX_PAGES)
        s.seeks[s.unique] = offset, whence, first, npages
        s.notices.append(notify.retrieve(ino, s.unique, first << PAGE_SHIFT, npages << PAGE_SHIFT))
        return None
    if found > size:
        raise FsError(errno.ENXIO)
    return _tell(s, found)


def _doubtful(s: Session, ino: int, offset: int, found: int, size: int, whence: int) -> tuple[int, int] | None:
    """The first range of pages that the kernel may hold, in a hole that would be passed over or reported."""
    hole, behind = offset, min(found, size)
    if whence == os.SEEK_HOLE:
        first = found >> PAGE_SHIFT
        if found >= size or s.held.next_in(ino, first, first + 1) is None:
            return None
        hole, behind = found, min(_known(s, ino, found, os.SEEK_DATA), size)
    return s.held.next_in(ino, hole >> PAGE_SHIFT, behind - 1 + PAGE_SIZE >> PAGE_SHIFT) if hole < behind else None


def _known(s: Session, ino: int, offset: int, whence: int) -> int:
    """holes.seek(), but if there is no data, an offset behind the end."""
    try:
        return holes.seek(s.mount, ino, offset, whence)
    except FsError as error:
        size = layout.tn_size(s.mount.arena, s.mount.mem.node(ino))
        if error.errno != errno.ENXIO or offset >= size:
            raise
        return size + 1


def _go_on(s: Session, ino: int, sought: Sought, data: bytes) -> bytes | None:
    """Look at pages that the kernel holds: they are data unless they are zeroes."""
    offset, whence, first, asked = sought
    size = layout.tn_size(s.mount.arena, s.mount.mem.node(ino))
    zeroes = whence == os.SEEK_HOLE
    at, page = PAGES, first
    while at < len(data) and page < first + asked:
        if (data[at:at + PAGE_SIZE] == ZERO_PAGE[:len(data) - at]) == zeroes:
            return _tell(s, min(max(offset, page << PAGE_SHIFT), size))
        at += PAGE_SIZE
        page += 1
    if page == first:                   # else there may be more: the kernel limits the size of a reply
        s.held.drop(ino, page, page + 1)
        if zeroes:
            return _tell(s, min(max(offset, page << PAGE_SHIFT), size))
        page += 1
    after = max(offset, page << PAGE_SHIFT)
    if zeroes and after >= size:
        return _tell(s, size)
    return _seek(s, ino, after, whence)


def _tell(s: Session, found: int) -> bytes:
    return _LSEEK.pack(_LSEEK.size, 0, s.unique, found)
