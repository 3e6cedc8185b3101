"""tmpfs/fallocate.py: room reserved for the bytes of a file: fallocate(2), but for punching holes, which is cut.py's.

What is reserved is unwritten pages (uvm/unwritten.py) in the file's extents: charged at once, read as zeroes, and found
by a later write as any page of the file, which so needs no memory but a frame from the reserve and cannot be refused.
Pages of zeroes were tried on paper: 3.3 us each, and all of them go through memory and to the swap file.  So was an
extent without page numbers, which each write in its middle would have to split: a write could need memory for the tree.

Picture     extents [aaa]....[bb]....  --reserve--> [aaa????][bb????]       ? unwritten

Breathing   Breathes at every slice.
Limits      A request has one answer, so nobody is served meanwhile: 0.1 us a page, so 25 ms for a GiB.
            What was added is kept in a list until the end, an entry for each hole that was filled.
"""

from __future__ import annotations

import errno
import logging
from typing import TYPE_CHECKING

from tmpfsd.tmpfs import fileattr
from tmpfsd.tmpfs.cut import take_off
from tmpfsd.tmpfs.errors import FsError
from tmpfsd.tmpfs.layout import (
    KIND_TREE, pack_extent, set_tn_pages, set_tn_size, tn_kind, tn_pages, tn_size, touch, unpack_extent
)
from tmpfsd.tmpfs.regfile import EXTENT_MAX, MAX_SIZE, extent_at, unpack
from tmpfsd.uvm import unwritten
from tmpfsd.uvm.errors import VmError
from tmpfsd.uvm.param import PAGE_MASK, PAGE_SHIFT

if TYPE_CHECKING:
    from tmpfsd.tmpfs.mount import Mount

log = logging.getLogger(__name__)

SLICE = 16_384              # pages reserved between two breaths: a millisecond
Run = tuple[int, int]       # page index in the file, how many


def reserve(mp: Mount, ino: int, offset: int, length: int, keep_size: bool) -> None:
    """Have pages for [offset, offset + length) of a regular file; it is made as long, unless its size is to be kept.

    => NoMemory, SwapIOError, FsError EFBIG, EPERM: nothing has changed.  => O(pages that are missing).  => Breathes.
    """
    if mp.flagged:
        fileattr.demand_writable(mp, ino, tn_size(mp.arena, mp.mem.node(ino)), appends=True)
    end = offset + length
    if end > MAX_SIZE:
        raise FsError(errno.EFBIG)
    first, last = offset >> PAGE_SHIFT, end + PAGE_MASK >> PAGE_SHIFT
    unwritten.demand_room(mp.vm, last - first - tn_pages(mp.arena, mp.mem.node(ino)))      # or it counts for ever
    unwritten.demand_room(mp.vm, _missing(mp, ino, first, last))
    at = mp.mem.node_w(ino)
    if tn_kind(mp.arena, at) != KIND_TREE:
        unpack(mp, at)
    added: list[Run] = []
    try:
        _fill(mp, ino, first, last, added)
    except VmError:
        _undo(mp, ino, added)
        raise
    at = mp.mem.node_w(ino)
    if not keep_size and end > tn_size(mp.arena, at):
        set_tn_size(mp.arena, at, end)
    touch(mp.arena, at, mp.now())


def _undo(mp: Mount, ino: int, added: list[Run]) -> None:
    """Give back what was added, the last first, which needs no memory.  => Breathes."""
    try:
        for page, count in reversed(added):
            take_off(mp, ino, page, page + count)
    except VmError as error:        # the tree cannot be read: what is left stays reserved, and harms nobody
        log.error("inode %d: what was reserved stays so: %s", ino, error)


def _missing(mp: Mount, ino: int, first: int, last: int) -> int:
    """How many pages of [first, last) a file has not.  => SwapIOError.  => Breathes."""
    at = mp.mem.node(ino)
    if tn_kind(mp.arena, at) != KIND_TREE:
        return last - first
    missing, page, n = 0, first, 0
    while page < last:
        vpn, count, _before = extent_at(mp, at, page)
        count = min(count, last - page)
        if not vpn:
            missing += count
        page += count
        n += 1
        if not n & 31:
            mp.breathe()
            at = mp.mem.node(ino)
    mp.breathe()
    return missing


def _fill(mp: Mount, ino: int, page: int, last: int, added: list[Run]) -> None:
    """Reserve what is missing of [page, last).  => NoMemory, SwapIOError: `added` says what was.  => Breathes."""
    while page < last:
        mp.breathe()
        at = mp.mem.node_w(ino)
        vpn, count, before = extent_at(mp, at, page)
        count = min(count, last - page)
        if not vpn:
            count = _fill_hole(mp, at, page, min(count, SLICE), before)
            added.append((page, count))
        page += count
    mp.breathe()
    mp.mem.node_w(ino)


def _fill_hole(mp: Mount, at: int, page: int, count: int, before: tuple[int, int] | None) -> int:
    """Reserve up to count pages of a hole, behind the extent `before`; how many.  => As _fill(), nothing changed."""
    follows, length = 0, 0
    if before is not None:
        vpn, length = unpack_extent(before[1])
        if before[0] + length == page and length + count <= EXTENT_MAX:
            follows = vpn + length
    first, count = mp.mem.promise_data(count, follows)
    try:
        if before is not None and first == follows:
            mp.extents.set(at, before[0], pack_extent(follows - length, length + count))
        else:
            mp.extents.insert(at, page, pack_extent(first, count))
    except BaseException:
        mp.mem.free_data(first, count)
        raise
    set_tn_pages(mp.arena, at, tn_pages(mp.arena, at) + count)
    return count
