"""tmpfs/readv.py: the bytes of a file as views of the frames that hold them, for a reader that copies them itself.

A read that fits into one breath is not copied: the pages are faulted in, and the result is views of their frames.
Holes are views of one page of zeroes.  A read of more breaths is done by regfile.read(), which copies.

Picture     extents --data_runs--> frames in a row --> one view each; a hole --> ZERO_PAGE, again and again

Invariants  W1 The page of a view cannot leave: views are good until the next breath, and all are made in one breath.
Breathing   read() breathes before it looks, never after.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tmpfsd.tmpfs import regfile, vnops
from tmpfsd.tmpfs.layout import KIND_TREE, tn_kind, tn_size
from tmpfsd.uvm.param import PAGE_MASK, PAGE_SHIFT, PAGE_SIZE
from tmpfsd.uvm.physmem import ZERO_PAGE

if TYPE_CHECKING:
    from tmpfsd.tmpfs.filesystem import Mount

View = bytes | bytearray | memoryview
ZEROES = memoryview(ZERO_PAGE)


def read(mp: Mount, ino: int, offset: int, size: int) -> list[View]:
    """Up to size bytes from offset on, to be used before the next breath.  => SwapIOError.  => Breathes."""
    at = mp.mem.node(ino)
    length = min(size, tn_size(mp.arena, at) - offset)
    if length <= 0 or tn_kind(mp.arena, at) != KIND_TREE:
        return [vnops.read(mp, ino, offset, size)]      # up to 2 KiB, with other files' bytes around
    mp.breathe()
    if length > regfile._chunk(mp, offset):
        return [vnops.read(mp, ino, offset, size)]
    at = mp.mem.node(ino)
    vnops._accessed(mp, ino, at)
    start = offset & PAGE_MASK
    if start <= PAGE_SIZE - length:
        vpn = regfile.resident_page(mp, at, offset >> PAGE_SHIFT)
        if vpn:
            start += mp.mem.resident(vpn)
            return [mp.vm.phys.mem[start:start + length]]
    return _views(mp, at, offset, length)


def may_have_holes(views: list[View]) -> bool:
    """Whether the result of read() has a page of a hole, or a page that looks like one.  O(pages)."""
    for view in views:
        if isinstance(view, memoryview):
            if view.obj is ZERO_PAGE:
                return True
        elif len(view) > regfile.PACKED_MAX and _has_zero_page(view):
            return True
    return False


def _has_zero_page(data: bytes | bytearray) -> bool:
    """Whether a page of copied data is all zeroes; the last one may be short."""
    for at in range(0, len(data), PAGE_SIZE):
        if data[at:at + PAGE_SIZE] == ZERO_PAGE[:len(data) - at]:
            return True
    return False


def _views(mp: Mount, at: int, offset: int, length: int) -> list[View]:
    """The bytes of a range that lies within the file.  => W1."""
    frames, end = mp.vm.phys.mem, offset + length
    last = end - 1 >> PAGE_SHIFT
    out: list[View] = []
    while offset < end:
        page, start = offset >> PAGE_SHIFT, offset & PAGE_MASK
        vpn, count, _before = regfile.extent_at(mp, at, page)
        count = min(count, last - page + 1)
        if not vpn:
            _zeroes(out, start, min((count << PAGE_SHIFT) - start, end - offset))
            offset += (count << PAGE_SHIFT) - start
            continue
        for data, nbytes in mp.mem.data_runs(vpn, count):
            n = min(nbytes - start, end - offset)
            if data < 0:
                _zeroes(out, start, n)
                offset += n
                start = 0
                continue
            out.append(frames[data + start:data + start + n])
            offset += n
            start = 0
    return out


def _zeroes(out: list[View], start: int, nbytes: int) -> None:
    """Views of n bytes of zeroes, from `start` within a page on."""
    while nbytes > 0:
        n = min(PAGE_SIZE - start, nbytes)
        out.append(ZEROES[start:start + n])
        nbytes -= n
        start = 0
