"""tmpfs/fallocate.py: reserves room for the bytes of a file: fallocate(2), except for punching holes (cut.py).

It puts unwritten pages (uvm/unwritten.py) in the file's extents.  They are charged at once and read as zeroes.  A later
write finds them like any page of the file, so it needs only a frame from the reserve and cannot be refused.  Two other
ways were considered.  Pages of zeroes: 3.3 us each, and all of them go through memory and to the swap file.  An extent
without page numbers: a write in its middle would have to split it, and could need memory for the tree.

Picture     extents [aaa]....[bb]....  --reserve--> [aaa????][bb????]       ? unwritten

Breathing   Breathes at every slice.
Limits      A long one may fail because others take room while it runs: it is undone then.
            The added pages are kept in a list until the end, an entry for each hole that was filled.
"""

from __future__ import annotations

import errno
import logging
from typing import TYPE_CHECKING

from tmpfsd.tmpfs import fileattr
from tmpfsd.tmpfs.cut import STEP_PAGES, pages_between, take_off
from tmpfsd.tmpfs.fserror import FsError
from tmpfsd.tmpfs.layout import (
    BLOCKS_PER_PAGE, KIND_TREE, pack_extent, set_tn_size, tn_blocks, tn_kind, tn_pages, tn_size, touch, unpack_extent
)
from tmpfsd.tmpfs.regfile import EXTENT_MAX, MAX_SIZE, add_pages, extent_at, unpack
from tmpfsd.uvm import unwritten
from tmpfsd.uvm.errors import NoMemory, SwapIOError, VmError
from tmpfsd.uvm.param import PAGE_MASK, PAGE_SHIFT

if TYPE_CHECKING:
    from tmpfsd.tmpfs.filesystem import Mount

log = logging.getLogger(__name__)

SLICE = 8192                # pages reserved in a step: half a millisecond
FEW = 8                     # extents and holes that are looked at in a step
Run = tuple[int, int]       # page index in the file, how many


class Reservation:
    """Pages for [offset, offset + length) of a regular file, step by step; the file is made as long, or keeps its size.

    => NoMemory, SwapIOError, FsError EFBIG, EPERM: nothing has changed.  O(extents of the range) to begin with, 0.05 us
    each.  => Breathes.
    """

    __slots__ = ("mp", "ino", "page", "last", "end", "keep_size", "added", "failure", "exempt")

    def __init__(self, mp: Mount, ino: int, offset: int, length: int, keep_size: bool) -> None:
        if mp.flagged:
            fileattr.demand_writable(mp, ino, tn_size(mp.arena, mp.mem.node(ino)), appends=True)
        self.mp, self.ino, self.end, self.keep_size = mp, ino, offset + length, keep_size
        if self.end > MAX_SIZE:
            raise FsError(errno.EFBIG)
        self.page, self.last = offset >> PAGE_SHIFT, self.end + PAGE_MASK >> PAGE_SHIFT
        self.added: list[Run] = []
        self.failure: VmError | None = None         # why all added pages are taken away again
        self.exempt = mp.quota is not None and mp.quota.exempt()    # asked now: later steps have no caller
        at = mp.mem.node(ino)
        unwritten.demand_room(mp.vm, self.last - self.page - tn_pages(mp.arena, at))
        if tn_kind(mp.arena, at) == KIND_TREE:
            missing = self.last - self.page - pages_between(mp, ino, self.page, self.last)
            unwritten.demand_room(mp.vm, missing)
            self._demand_quota(missing * BLOCKS_PER_PAGE)
        else:
            self._demand_quota((self.last - self.page) * BLOCKS_PER_PAGE - tn_blocks(mp.arena, at))
            unpack(mp, mp.mem.node_w(ino))

    def _demand_quota(self, blocks: int) -> None:
        """=> OverQuota: at the start, not after pages were reserved and must be given back."""
        quota = self.mp.quota
        if quota is not None and not self.exempt:
            quota.demand_at(self.mp.arena, self.mp.mem.node(self.ino), blocks)

    def step(self) -> bool:
        """Do some of it; whether there is more.  O(SLICE), or O(STEP_PAGES) to undo.  => Errors as above, at the end.

        => The caller breathes before each step.
        """
        if self.failure is None:
            try:
                if not self._fill_some():
                    self._commit()
                    return False
            except NoMemory as shortage:
                if not self.mp.make_room(shortage):
                    self.failure = shortage
            except SwapIOError as error:
                self.failure = error
            return True
        if self._undo_some():
            return True
        raise self.failure

    def _fill_some(self) -> bool:
        """Fill the holes among the next few extents; whether there is more.  => Nothing half done."""
        mp = self.mp
        at, most = mp.mem.node_w(self.ino), self.page + SLICE
        for _ in range(FEW):
            if self.page >= min(self.last, most):
                break
            vpn, count, before = extent_at(mp, at, self.page)
            count = min(count, self.last - self.page)
            if not vpn:
                count = _fill_hole(mp, at, self.page, self._allowed(at, min(count, SLICE)), before)
                self.added.append((self.page, count))
            self.page += count
        return self.page < self.last

    def _allowed(self, at: int, npages: int) -> int:
        """How many of npages the file's owner may have.  => OverQuota: not one."""
        quota = self.mp.quota
        return npages if quota is None else quota.room_at(self.mp.arena, at, npages, self.exempt)

    def _commit(self) -> None:
        """=> SwapIOError."""
        arena, at = self.mp.arena, self.mp.mem.node_w(self.ino)
        if not self.keep_size and self.end > tn_size(arena, at):
            set_tn_size(arena, at, self.end)
        touch(arena, at, self.mp.now())

    def _undo_some(self) -> bool:
        """Take away some of the added pages, the last first; whether there is more.

        Pages that were written meanwhile, through a mapping, stay.
        """
        if not self.added:
            return False
        first, count = self.added.pop()
        low = max(first, first + count - STEP_PAGES)
        if low > first:
            self.added.append((first, low - first))
        try:
            self._take_off_unwritten(low, first + count)
        except VmError as error:        # it cannot be read: the rest stays reserved, and harms nobody
            log.error("inode %d: what was reserved stays so: %s", self.ino, error)
            self.added.clear()
        return True

    def _take_off_unwritten(self, page: int, end: int) -> None:
        mp = self.mp
        while page < end:
            vpn, count, _before = extent_at(mp, mp.mem.node(self.ino), page)
            promised, n = unwritten.run(mp.vm, vpn, min(count, end - page)) if vpn else (False, min(count, end - page))
            if promised:
                take_off(mp, self.ino, page, page + n)
            page += n
            mp.breathe()


def reserve(mp: Mount, ino: int, offset: int, length: int, keep_size: bool) -> None:
    """A whole Reservation at once.  => Breathes."""
    reservation = Reservation(mp, ino, offset, length, keep_size)
    mp.breathe()
    while reservation.step():
        mp.breathe()


def _fill_hole(mp: Mount, at: int, page: int, count: int, before: tuple[int, int] | None) -> int:
    """Reserve up to count pages of a hole behind the extent `before`; how many.

    => NoMemory, SwapIOError; nothing has changed.
    """
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
    add_pages(mp, at, count)
    return count
