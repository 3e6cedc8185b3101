"""tmpfs/holes.py: where a file has data and where it has none (lseek(2) with SEEK_DATA and SEEK_HOLE).

Extents are data, except for pages that were reserved and never written.  Those pages, and the ranges between extents
and behind the last, are holes, in whole pages, as on tmpfs; the end of the file is a hole.  A packed file is data from
its first byte to its end.

Breathing   Breathes before each leaf of the tree.
Limits      A packed file that was made longer by truncate(2) alone is all data here; in the kernel's tmpfs it is a
            hole.  SEEK_HOLE walks over extents that follow each other: O(their number), 0.2 us each.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Iterator

from tmpfsd.tmpfs.fserror import FsError
from tmpfsd.tmpfs.layout import KIND_TREE, tn_kind, tn_size, unpack_extent
from tmpfsd.uvm import unwritten
from tmpfsd.uvm.param import PAGE_SHIFT

if TYPE_CHECKING:
    from tmpfsd.tmpfs.filesystem import Mount


def seek(mp: Mount, ino: int, offset: int, whence: int) -> int:
    """The first byte of data, or of a hole, from offset on.  => FsError ENXIO, EINVAL; SwapIOError.  => Breathes."""
    if whence not in (os.SEEK_DATA, os.SEEK_HOLE):
        raise FsError(errno.EINVAL)
    at = mp.mem.node(ino)
    size = tn_size(mp.arena, at)
    if offset >= size:
        raise FsError(errno.ENXIO)
    if tn_kind(mp.arena, at) != KIND_TREE:
        return offset if whence == os.SEEK_DATA else size
    end = offset                        # up to here there is data without a gap
    for first, last in _extents(mp, ino, offset >> PAGE_SHIFT):
        start, after = first << PAGE_SHIFT, last << PAGE_SHIFT
        if whence == os.SEEK_DATA:
            return _within(max(start, offset), size)
        if start > end:
            break
        end = after
    else:
        if whence == os.SEEK_DATA:
            raise FsError(errno.ENXIO)
    return min(end, size)


def _within(offset: int, size: int) -> int:
    """=> FsError ENXIO behind the end."""
    if offset >= size:
        raise FsError(errno.ENXIO)
    return offset


def _extents(mp: Mount, ino: int, page: int) -> Iterator[tuple[int, int]]:
    """(first page, page behind the last) of data that reaches to `page` or lies behind it.  => Breathes."""
    for first, vpn, count in _all_extents(mp, ino, page):
        done = max(page - first, 0)
        while done < count:
            promised, n = unwritten.run(mp.vm, vpn + done, count - done)
            if not promised:
                yield first + done, first + done + n
            done += n


def _all_extents(mp: Mount, ino: int, page: int) -> Iterator[tuple[int, int, int]]:
    """(first page in the file, first page, how many) of the extents that reach to `page` or lie behind it."""
    mp.breathe()
    before = mp.extents.last_to(mp.mem.node(ino), page)
    if before is not None:
        vpn, count = unpack_extent(before[1])
        if before[0] + count > page:
            yield before[0], vpn, count
    while True:
        mp.breathe()
        batch = mp.extents.batch_from(mp.mem.node(ino), page + 1)
        if not batch:
            return
        for first, value in batch:
            yield first, *unpack_extent(value)
        page = batch[-1][0]
