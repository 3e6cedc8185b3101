"""tmpfs/cut.py: takes pages off a regular file: its tail, a range, all of them.

truncate() returns at once, however much it cuts.  A tail of few pages and extents is freed immediately.  A long tail
goes to a node of its own, with its part of the extents' tree (btsplit.py), and that node goes on the list of the doomed
(doomed.py).  So the file may grow again meanwhile, and has only holes there.

Picture     extents [........|........]  --truncate-->  file [........]   doomed node [........] --free_some()--> [..]
                         size

Invariants  Those of regfile.py.  Until the reaper has been there a doomed file has all its pages (R2).

Breathing   truncate() and punch() breathe; release() and free_some() do not.

Limits      The pages of a long tail that is not the whole file are counted first: 0.05 us an extent of the side that
            has fewer of them, 5 ms with 200,000 extents, and twice that if the tree is out.
            If there is no memory for the doomed node, and nothing doomed could give some, a tail is cut in place,
            STEP_PAGES at a time.  punch() always frees in place.
"""

from __future__ import annotations

import errno
import stat
from bisect import bisect_left
from typing import TYPE_CHECKING

from tmpfsd.tmpfs import doomed, layout
from tmpfsd.tmpfs.btsplit import split
from tmpfsd.tmpfs.fserror import FsError
from tmpfsd.tmpfs.layout import (
    KIND_INLINE, KIND_TREE, clear_spec, directory_spec, pack_extent, set_tn_kind, set_tn_pages, set_tn_size, tn_kind,
    tn_pages, tn_size, touch, unpack_extent
)
from tmpfsd.tmpfs.regfile import (
    MAX_SIZE, PACKED_MAX, add_pages, extent_at, free_packed, make_packed, packed_w, resize_packed, unpack
)
from tmpfsd.uvm.errors import NoMemory
from tmpfsd.uvm.param import PAGE_MASK, PAGE_SHIFT, PAGE_SIZE
from tmpfsd.uvm.unwritten import is_unwritten

if TYPE_CHECKING:
    from tmpfsd.tmpfs.filesystem import Mount

FEW_EXTENTS, FEW_PAGES = 16, 512        # a tail that is freed at once: a few tenths of a millisecond
STEP_EXTENTS, STEP_PAGES = 32, 1024     # what the reaper frees in one step: half a millisecond
LAST = (1 << 64) - 1                    # a key after all extents

Run = tuple[int, int, int]              # page index in the file, first page, how many


# --- truncation ---

def truncate(mp: Mount, ino: int, size: int) -> None:
    """Make a file `size` bytes long.  O(log n) and the tail, if that is short (Limits).  => Breathes.

    => NoMemory, SwapIOError, FsError EFBIG: nothing has changed.  Or, if there was no memory and a page could not be
    read, the file is shorter by whole pages, and its size is right.
    """
    if size > MAX_SIZE:
        raise FsError(errno.EFBIG)
    at = mp.mem.node_w(ino)
    if tn_kind(mp.arena, at) != KIND_TREE:
        _truncate_packed(mp, at, size)
        return
    if size <= tn_size(mp.arena, at):           # at the same size it gives back pages reserved behind the end
        _shrink(mp, ino, size)
        at = mp.mem.node_w(ino)
    set_tn_size(mp.arena, at, size)
    if not size:
        clear_spec(mp.arena, at)
        set_tn_kind(mp.arena, at, KIND_INLINE)
    touch(mp.arena, at, mp.now())


def _truncate_packed(mp: Mount, at: int, size: int) -> None:
    arena, old = mp.arena, tn_size(mp.arena, at)
    if size > PACKED_MAX:
        unpack(mp, at)
        set_tn_size(arena, at, size)
        touch(arena, at, mp.now())
        return
    if size > old:
        make_packed(mp, at, size)
    elif not size:
        free_packed(mp, at)
        set_tn_kind(arena, at, KIND_INLINE)
    elif size < old:
        start = packed_w(mp, at)
        arena[start + size:start + old] = bytes(old - size)
    resize_packed(mp, at, size)
    touch(arena, at, mp.now())


def _shrink(mp: Mount, ino: int, size: int) -> None:
    """Take the pages behind `size` away and zero the bytes behind it; the caller sets the size, in the same breath."""
    while not _cut_short(mp, mp.mem.node_w(ino), size):
        try:
            _part(mp, ino, size)
            return
        except NoMemory:
            _cut_in_place(mp, mp.mem.node_w(ino), size)
            mp.breathe()


def _cut_short(mp: Mount, at: int, size: int) -> bool:
    """Free the pages behind `size` if they are few; whether they were.  => SwapIOError; nothing has changed."""
    keep = size + PAGE_MASK >> PAGE_SHIFT
    path = mp.extents.seek(at, LAST)
    runs = [(first, *unpack_extent(value)) for first, value in mp.extents.last(path, FEW_EXTENTS + 1)]
    behind = [run for run in runs if run[0] + run[2] > keep]
    if len(behind) > FEW_EXTENTS or sum(count for _first, _vpn, count in behind) > FEW_PAGES:
        return False
    if len(behind) == len(runs) > 0 and len(path) > 1:
        return False                    # there may be more in the leaf before
    tail = _tail(mp, at, size)
    if tail:
        mp.arena[tail:tail + PAGE_SIZE - (size & PAGE_MASK)] = bytes(PAGE_SIZE - (size & PAGE_MASK))
    whole = 0
    for first, vpn, count in behind:
        left = max(keep - first, 0)
        if left:
            mp.extents.set(at, first, pack_extent(vpn, left))
        whole += not left
        _free(mp, at, vpn + left, count - left)
    mp.extents.remove_last(at, path, whole)
    return True


def _tail(mp: Mount, at: int, size: int) -> int:
    """Where the bytes behind `size` begin in its page, which is in then; 0 if there are none.  => SwapIOError."""
    vpn = extent_at(mp, at, size >> PAGE_SHIFT)[0] if size & PAGE_MASK else 0
    return mp.mem.data_w(vpn) + (size & PAGE_MASK) if vpn and not is_unwritten(mp.vm, vpn) else 0


def _free(mp: Mount, at: int, vpn: int, npages: int) -> None:
    """Give pages of a file back."""
    mp.mem.free_data(vpn, npages)
    add_pages(mp, at, -npages)


def _part(mp: Mount, ino: int, size: int) -> None:
    """Give the pages behind `size` to a doomed node.  => NoMemory, SwapIOError; nothing has changed.  => Breathes."""
    mem, arena, keep = mp.mem, mp.arena, size + PAGE_MASK >> PAGE_SHIFT
    npages = _pages_from(mp, ino, keep)
    at = mem.node_w(ino)
    tail, other = _tail(mp, at, size), mem.get_orphan()
    try:
        to = mem.node_w(other)
        mp.generation += 1
        layout.init_node(arena, to, stat.S_IFREG, KIND_TREE, 0, 0, 0, tn_size(arena, at) + PAGE_MASK & ~PAGE_MASK,
                         mp.generation, mp.now(), spec=directory_spec(0))
        _divide_extent(mp, at, keep)
        split(mp.extents, at, keep, to)
    except BaseException:
        mem.put_orphan(other)
        raise
    add_pages(mp, at, -npages)
    set_tn_pages(arena, to, npages)
    if tail:
        arena[tail:tail + PAGE_SIZE - (size & PAGE_MASK)] = bytes(PAGE_SIZE - (size & PAGE_MASK))
    doomed.push(mp, other, to)


def _divide_extent(mp: Mount, at: int, page: int) -> None:
    """Divide the extent that reaches over a page index, if one does.  => NoMemory, SwapIOError; nothing has changed."""
    found = mp.extents.last_to(at, page)
    if found is not None:
        first, (vpn, count) = found[0], unpack_extent(found[1])
        if first < page < first + count:
            mp.extents.insert(at, page, pack_extent(vpn + page - first, first + count - page))
            mp.extents.set(at, first, pack_extent(vpn, page - first))


def _pages_from(mp: Mount, ino: int, page: int) -> int:
    """How many pages a file has from a page index on.  O(extents on the shorter side).  => SwapIOError.  => Breathes.
    """
    at = mp.mem.node(ino)
    total, over = tn_pages(mp.arena, at), 0
    before = mp.extents.last_to(at, page - 1) if page else None
    if before is None:
        return total
    over = max(before[0] + unpack_extent(before[1])[1] - page, 0)       # of the extent that reaches over it
    if mp.extents.is_in_upper_half(mp.extents.seek(at, page)):
        return over + _count(mp, ino, page, LAST)
    return total - _count(mp, ino, 0, page) + over


def _count(mp: Mount, ino: int, start: int, end: int) -> int:
    """The pages of the extents that begin in [start, end).  O(extents).  => SwapIOError.  => Breathes."""
    mask, total = (1 << layout.EXTENT_COUNT_BITS) - 1, 0
    while True:
        mp.breathe()
        keys, values = mp.extents.leaf_from(mp.mem.node(ino), start)
        n = bisect_left(keys, end)
        total += sum([mask & value for value in values[:n]])
        if n < len(keys) or not n:
            return total
        start = keys[n - 1] + 1


def pages_between(mp: Mount, ino: int, first: int, last: int) -> int:
    """How many pages a file with extents has in [first, last).  O(their extents).  => SwapIOError.  => Breathes."""
    total = _count(mp, ino, first, last)
    mp.breathe()
    at = mp.mem.node(ino)
    before = mp.extents.last_to(at, first - 1) if first else None
    if before is not None:
        total += min(max(before[0] + unpack_extent(before[1])[1] - first, 0), last - first)
    final = mp.extents.last_to(at, last - 1)
    if final is not None and final[0] >= first:
        total -= max(final[0] + unpack_extent(final[1])[1] - last, 0)
    return total


def _cut_in_place(mp: Mount, at: int, size: int) -> None:
    """Free up to STEP_PAGES of the last pages, if there is no memory for anything else; tn_size follows."""
    keep = size + PAGE_MASK >> PAGE_SHIFT
    found = mp.extents.last_to(at, LAST)
    if found is None:
        return
    first, (vpn, count) = found[0], unpack_extent(found[1])
    left = max(count - STEP_PAGES, keep - first, 0)
    if left == count:
        return
    if left:
        mp.extents.set(at, first, pack_extent(vpn, left))
    else:
        mp.extents.remove(at, first)
    _free(mp, at, vpn + left, count - left)
    set_tn_size(mp.arena, at, min(tn_size(mp.arena, at), max(keep, first + left) << PAGE_SHIFT))


# --- the end of a file ---

def release(mp: Mount, at: int) -> bool:
    """Free all pages of a file that nobody can reach any more, if they are few; whether they were.  => SwapIOError."""
    return _cut_short(mp, at, 0)


def free_some(mp: Mount, at: int) -> int:
    """Free the last pages of a file that nobody can reach any more; how many, 0 if there were none.  O(STEP_PAGES).

    => SwapIOError; nothing has changed.
    """
    path, whole, room = mp.extents.seek(at, LAST), 0, STEP_PAGES
    for first, value in reversed(mp.extents.last(path, STEP_EXTENTS)):
        vpn, count = unpack_extent(value)
        left = max(count - room, 0)
        if left:
            mp.extents.set(at, first, pack_extent(vpn, left))
        whole += not left
        mp.mem.free_data(vpn + left, count - left)          # charged to nobody: it is doomed
        set_tn_pages(mp.arena, at, tn_pages(mp.arena, at) - (count - left))
        room -= count - left
        if not room:
            break
    mp.extents.remove_last(at, path, whole)
    return STEP_PAGES - room


# --- holes ---

def punch(mp: Mount, ino: int, offset: int, length: int) -> None:
    """Make [offset, offset + length) a hole; the size stays.  O(extents of the range).  => Breathes.

    => NoMemory, SwapIOError: a part of the range, in whole pages, may be zero by then.
    """
    take_off(mp, ino, *punch_ends(mp, ino, offset, length))


def punch_ends(mp: Mount, ino: int, offset: int, length: int) -> tuple[int, int]:
    """The first part of punch(); the pages [first, last), which are whole, are still to be freed.  O(log n).

    They may be pages reserved behind the end of the file.  The page in which the range ends stays, as on tmpfs.
    """
    arena = mp.arena
    at = mp.mem.node_w(ino)
    size = tn_size(arena, at)
    end = offset + length
    touch(arena, at, mp.now())
    if tn_kind(arena, at) != KIND_TREE:
        end = min(end, size)
        if offset < end:
            start = packed_w(mp, at)
            arena[start + offset:start + end] = bytes(end - offset)
        return 0, 0
    first, last = offset + PAGE_MASK >> PAGE_SHIFT, end >> PAGE_SHIFT
    parts = [(offset, min(end, first << PAGE_SHIFT)), (max(offset, last << PAGE_SHIFT), end)]
    if last < first:
        parts.pop()
    places = [(_byte(mp, at, start), stop - start) for start, stop in parts if start < stop]
    for place, nbytes in places:
        if place >= 0:
            arena[place:place + nbytes] = bytes(nbytes)
    return first, last


def take_off(mp: Mount, ino: int, first: int, last: int) -> None:
    """Free the pages of [first, last).  O(extents of the range).  => NoMemory, SwapIOError: not all of them.

    => Breathes.
    """
    while take_off_some(mp, ino, first, last):
        mp.breathe()


def _byte(mp: Mount, at: int, offset: int) -> int:
    """Where a byte of a file is, to change; -1 in a hole.  => SwapIOError."""
    vpn = extent_at(mp, at, offset >> PAGE_SHIFT)[0]
    return mp.mem.data_w(vpn) + (offset & PAGE_MASK) if vpn and not is_unwritten(mp.vm, vpn) else -1


def take_off_some(mp: Mount, ino: int, first: int, last: int) -> bool:
    """Free up to STEP_PAGES of the last pages of [first, last); whether there were any.  O(STEP_PAGES + log n)."""
    at = mp.mem.node_w(ino)
    found = mp.extents.last_to(at, last - 1) if last > first else None
    if found is None:
        return False
    start, (vpn, count) = found[0], unpack_extent(found[1])
    high = min(start + count, last)
    low = max(start, first, high - STEP_PAGES)
    if low >= high:
        return False
    if high < start + count:
        mp.extents.insert(at, high, pack_extent(vpn + high - start, start + count - high))
    if low > start:
        mp.extents.set(at, start, pack_extent(vpn, low - start))
    else:
        mp.extents.remove(at, start)
    _free(mp, at, vpn + low - start, high - low)
    return True
