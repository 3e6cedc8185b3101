"""tmpfs/regfile.py: the data of regular files.

Small files are packed: up to 48 bytes in the node, up to 2 KiB in a string class.  Larger ones have
pages of kernel_map, found through extents (page index in the file -> first page and count) in a B+tree.
Holes have no pages.  A file that was once in pages stays there until it is empty.

Picture     KIND_INLINE --grows--> KIND_STRING --grows--> KIND_TREE --truncate to 0--> KIND_INLINE

Invariants
    R1  Packed bytes beyond tn_size are zero, and so are those of the last page.
    R2  tn_pages counts the pages of all extents.  Extents do not overlap.  Pages beyond round_page(tn_size) were
        reserved there (fallocate.py) and are zero.
    R3  A data page belongs to one extent of one file.
    R4  However an operation ends, each byte is the old one or the one written, never one that was left in its frame.
        After a write that fails, the bytes up to some place are the new ones.
    R5  Mem.data_items counts, by string class, the items that have the bytes of regular files, unless the mount began
        with an image that did not say (data_counted).  In the status they are data, all other items metadata.

Breathing   read() and write() breathe at every chunk.  cut.py takes pages off a file again.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import TYPE_CHECKING

from tmpfsd.tmpfs import layout
from tmpfsd.tmpfs.fserror import FsError
from tmpfsd.tmpfs.layout import (
    BLOCKS_PER_PAGE, INLINE_MAX, KIND_INLINE, KIND_STRING, KIND_TREE, SPEC, clear_spec, pack_extent, packed_blocks,
    set_tn_kind, set_tn_pages, set_tn_size, set_tn_string, tn_kind, tn_pages, tn_size, tn_string, unpack_extent
)
from tmpfsd.uvm import room
from tmpfsd.uvm.errors import NoMemory, SwapIOError
from tmpfsd.uvm.param import PAGE_MASK, PAGE_SHIFT, PAGE_SIZE
from tmpfsd.uvm.physmem import ZERO_PAGE

if TYPE_CHECKING:
    from tmpfsd.tmpfs.filesystem import Mount

PACKED_MAX = 2048
MAX_SIZE = (1 << 63) - 1
CHUNK = 16                          # pages that may be handled between two breaths when frames are short
CHUNK_MAX = 64                      # and when they are not: a request's 256 KiB
EXTENT_MAX = (1 << layout.EXTENT_COUNT_BITS) - 1


# --- reading ---

def read(mp: Mount, ino: int, offset: int, length: int) -> bytes | bytearray:
    """Up to length bytes from offset on; fewer at the end of the file.  => SwapIOError.  => Breathes."""
    mem = mp.mem
    at = mem.node(ino)
    size = tn_size(mp.arena, at)
    length = min(length, size - offset)
    if length <= 0:
        return b""
    if tn_kind(mp.arena, at) != KIND_TREE:
        start = _packed(mp, at) + offset
        return mp.arena[start:start + length]
    start = offset & PAGE_MASK
    if start <= PAGE_SIZE - length:
        vpn = resident_page(mp, at, offset >> PAGE_SHIFT)
        if vpn:
            start += mp.mem.resident(vpn)
            return mp.arena[start:start + length]
    out: list[bytes | bytearray] = []
    done = 0
    while done < length:
        mp.breathe()
        n = min(length - done, _chunk(mp, offset + done))
        out.append(_read_chunk(mp, mem.node(ino), offset + done, n))
        done += n
    return out[0] if len(out) == 1 else b"".join(out)


def _chunk(mp: Mount, offset: int) -> int:
    """How many bytes from offset on may be handled in this breath: CHUNK pages, and one more for each spare frame."""
    npages = min(CHUNK + max(len(mp.vm.phys.free_frames) - mp.vm.low, 0), CHUNK_MAX)
    return (npages << PAGE_SHIFT) - (offset & PAGE_MASK)


def _read_chunk(mp: Mount, at: int, offset: int, length: int) -> bytes | bytearray:
    """The bytes of at most a chunk; holes are zeroes."""
    arena, source = mp.arena, mp.vm.phys.mem
    end = offset + length
    last = end - 1 >> PAGE_SHIFT
    parts: list[bytes | memoryview] = []
    while offset < end:
        page, start = offset >> PAGE_SHIFT, offset & PAGE_MASK
        vpn, count, _before = extent_at(mp, at, page)
        count = min(count, last - page + 1)
        if not vpn:
            parts.append(bytes(min((count << PAGE_SHIFT) - start, end - offset)))
            offset += len(parts[-1])
            continue
        for data, nbytes in mp.mem.data_runs(vpn, count):
            n = min(nbytes - start, end - offset)
            if data < 0:
                parts.append(bytes(n))
                offset += n
                start = 0
                continue
            if n == length:
                return arena[data + start:data + start + n]
            parts.append(source[data + start:data + start + n])
            offset += n
            start = 0
    return b"".join(parts)


def _packed(mp: Mount, at: int) -> int:
    """The offset of a packed file's bytes, to read."""
    if tn_kind(mp.arena, at) == KIND_STRING:
        return mp.mem.string(tn_string(mp.arena, at))
    return at + SPEC


def packed_w(mp: Mount, at: int) -> int:
    """The offset of a packed file's bytes, to change; `at` must be writable."""
    if tn_kind(mp.arena, at) == KIND_STRING:
        return mp.mem.string_w(tn_string(mp.arena, at))
    return at + SPEC


# The run at a page index: the first page (0 for a hole), how many there are from here on, and for a hole the entry of
# the extent before it.  A plain tuple: a named one costs 0.25 us of a write's 5.
Extent = tuple[int, int, tuple[int, int] | None]


def extent_at(mp: Mount, at: int, page: int) -> Extent:
    """The extent or the hole at a page index, from there on.  => SwapIOError."""
    before, after = mp.extents.around(at, page)
    if before is not None:
        vpn, count = unpack_extent(before[1])
        skip = page - before[0]
        if skip < count:
            return vpn + skip, count - skip, None
    return 0, after - page if after is not None else EXTENT_MAX, before


def resident_page(mp: Mount, at: int, page: int) -> int:
    """The page of memory that a file has at a page index, if it is in a frame; else 0.  => SwapIOError.

    Most reads and writes of one page need no more than this: interpreted, it saves 3 us of 7.
    """
    before = mp.extents.last_to(at, page)
    if before is None:
        return 0
    vpn, count = unpack_extent(before[1])
    skip = page - before[0]
    return vpn + skip if skip < count and mp.mem.resident(vpn + skip) >= 0 else 0


# --- writing ---

def write(mp: Mount, ino: int, offset: int, data: bytes | memoryview) -> int:
    """Bytes written: all, or those before the first that could not be written (NoMemory, SwapIOError if none).

    => Breathes.  FsError EFBIG.
    """
    if not data:
        return 0
    end = offset + len(data)
    if end > MAX_SIZE:
        raise FsError(errno.EFBIG)
    at = mp.mem.node_w(ino)
    if tn_kind(mp.arena, at) != KIND_TREE:
        room.demand(mp.vm)
        need = max(end, tn_size(mp.arena, at))
        if need <= PACKED_MAX:
            start = make_packed(mp, at, need) + offset
            mp.arena[start:start + len(data)] = data
            resize_packed(mp, at, need)
            return len(data)
        unpack(mp, at)
    elif (offset & PAGE_MASK) <= PAGE_SIZE - len(data) and offset < tn_size(mp.arena, at) and _overwrite(
            mp, at, offset, data):
        return len(data)
    return _write_pages(mp, ino, offset, memoryview(data))


def _overwrite(mp: Mount, at: int, offset: int, data: bytes | memoryview) -> bool:
    """Write within one page that is there and in a frame: most writes do, and need nothing else.

    => False: it is not, or may not be changed.
    """
    vpn = resident_page(mp, at, offset >> PAGE_SHIFT)
    if not vpn or room.tight(mp.vm):
        return False
    to, end = mp.mem.data_w(vpn) + (offset & PAGE_MASK), offset + len(data)
    mp.arena[to:to + len(data)] = data
    if end > tn_size(mp.arena, at):
        set_tn_size(mp.arena, at, end)
    return True


def _write_pages(mp: Mount, ino: int, offset: int, data: memoryview) -> int:
    done = 0
    try:
        while done < len(data):
            if done:
                mp.breathe()
            n = min(len(data) - done, _chunk(mp, offset + done))
            try:
                for piece in _write_chunk(mp, mp.mem.node_w(ino), offset + done, data[done:done + n]):
                    done += piece
            except NoMemory as shortage:
                if not mp.make_room(shortage):
                    raise
    except (NoMemory, SwapIOError):
        if not done:
            raise
    finally:
        if mp.vm.undefined.pages:
            mp.vm.undefined.restore(mp.vm)      # R4, however it ended
    return done


def _write_chunk(mp: Mount, at: int, offset: int, data: memoryview) -> Iterator[int]:
    """Write at most a chunk, and yield the bytes of each piece that is written; tn_size follows.

    A piece is made ready first: that may fail and changes no byte of the file.  Then it is written: that cannot fail.
    So a failure leaves pieces with the new bytes, and behind them one with the old bytes (R4).
    """
    arena, target, undefined = mp.arena, mp.vm.phys.mem, mp.vm.undefined
    end = offset + len(data)
    last = end - 1 >> PAGE_SHIFT
    done = 0
    while done < len(data):
        page, start = offset + done >> PAGE_SHIFT, offset + done & PAGE_MASK
        vpn, count, before = extent_at(mp, at, page)
        count = min(count, last - page + 1)
        if vpn:
            count = room.changeable(mp.vm, vpn, count)
            count = _make_ready(mp, vpn, count, start, end - (page << PAGE_SHIFT))
        else:
            room.demand(mp.vm)
            vpn, count = _fill_hole(mp, at, before, range(page, page + count), start, end)
        written = 0
        for to, nbytes in mp.mem.data_runs_w(vpn, count):
            n = min(nbytes - start, len(data) - done - written)
            target[to + start:to + start + n] = data[done + written:done + written + n]
            written += n
            start = 0
        if undefined.pages:
            undefined.written(vpn, count)
        done += written
        if offset + done > tn_size(arena, at):
            set_tn_size(arena, at, offset + done)
        yield written


def _make_ready(mp: Mount, vpn: int, count: int, start: int, length: int) -> int:
    """Bring existing pages in for one piece: a part of one page, or whole pages, which need not be read back.

    => How many.  The bytes are [start, length) from the beginning of the first page; whole pages are undefined until
    they are written.  => SwapIOError; nothing has changed.
    """
    if not start and length >= PAGE_SIZE:
        ready = mp.vm.forget_content(vpn, min(count, length >> PAGE_SHIFT))
        if ready:
            return ready
    mp.mem.data_w(vpn)
    return 1


def _fill_hole(mp: Mount, at: int, before: tuple[int, int] | None, pages: range, start: int,
               end: int) -> tuple[int, int]:
    """Give a hole behind the extent `before` pages, as many in a row as possible: (first, count).

    => The caller writes the bytes [`start` of the first page, end) in this breath; those around are zero.
    => NoMemory, SwapIOError; nothing has changed.
    """
    mem, arena = mp.mem, mp.arena
    if mp.quota is not None:
        pages = pages[:mp.quota.room_at(arena, at, len(pages))]
    page, follows, length = pages[0], 0, 0
    if before is not None:
        vpn, length = unpack_extent(before[1])
        if before[0] + length == page and length + len(pages) <= EXTENT_MAX:
            follows = vpn + length
    first, count = mem.alloc_data(len(pages), follows)
    try:
        if start:
            _zero_page(mp, first)
        if end < page + count << PAGE_SHIFT:
            _zero_page(mp, first + count - 1)
        if before is not None and first == follows:
            mp.extents.set(at, before[0], pack_extent(follows - length, length + count))
        else:
            mp.extents.insert(at, page, pack_extent(first, count))
    except BaseException:
        mem.free_data(first, count)
        raise
    add_pages(mp, at, count)
    if tn_size(arena, at) <= page + count - 1 << PAGE_SHIFT:
        # R2: this extent does not lie beyond the size, whatever comes after this.
        set_tn_size(arena, at, (page + count - 1 << PAGE_SHIFT) + 1)
    return first, count


def add_pages(mp: Mount, at: int, npages: int) -> None:
    """Count and charge npages more pages of a file, or fewer if negative."""
    set_tn_pages(mp.arena, at, tn_pages(mp.arena, at) + npages)
    if mp.quota is not None:
        mp.quota.add_at(mp.arena, at, npages * BLOCKS_PER_PAGE)


def _zero_page(mp: Mount, vpn: int) -> None:
    data = mp.mem.data_w(vpn)
    mp.arena[data:data + PAGE_SIZE] = ZERO_PAGE


def make_packed(mp: Mount, at: int, need: int) -> int:
    """Room for `need` bytes in a packed file: the offset of its bytes.  => NoMemory, SwapIOError; nothing changed.

    => The caller gives it that size, by resize_packed().
    """
    mem, arena = mp.mem, mp.arena
    if mp.quota is not None:
        mp.quota.demand_at(arena, at, packed_blocks(need) - packed_blocks(tn_size(arena, at)))
    kind = tn_kind(arena, at)
    if kind == KIND_INLINE and need <= INLINE_MAX:
        return at + SPEC
    if kind == KIND_STRING and need <= mem.strings.size(tn_string(arena, at)):
        return mem.string_w(tn_string(arena, at))
    size, source = tn_size(arena, at), _packed(mp, at)
    handle = mem.new_data_string(need)
    to = mem.string_w(handle)
    nbytes = mem.strings.size(handle)
    arena.move(to, source, size)
    arena[to + size:to + nbytes] = bytes(nbytes - size)
    free_packed(mp, at)
    set_tn_kind(arena, at, KIND_STRING)
    set_tn_string(arena, at, handle)
    return to


def resize_packed(mp: Mount, at: int, size: int) -> None:
    """Set and charge the size of a packed file."""
    if mp.quota is not None:
        mp.quota.add_at(mp.arena, at, packed_blocks(size) - packed_blocks(tn_size(mp.arena, at)))
    set_tn_size(mp.arena, at, size)


def free_packed(mp: Mount, at: int) -> None:
    """Forget a packed file's bytes; the type-specific part is zero afterwards."""
    if tn_kind(mp.arena, at) == KIND_STRING:
        mp.mem.put_data_string(tn_string(mp.arena, at))
    clear_spec(mp.arena, at)


def unpack(mp: Mount, at: int) -> None:
    """Move a packed file's bytes to a page.  => NoMemory, SwapIOError; nothing has changed."""
    mem, arena = mp.mem, mp.arena
    size, source = tn_size(arena, at), _packed(mp, at)
    if not size:
        free_packed(mp, at)
        set_tn_kind(arena, at, KIND_TREE)
        return
    more = BLOCKS_PER_PAGE - packed_blocks(size)
    if mp.quota is not None:
        mp.quota.demand_at(arena, at, more)
    kind, spec = tn_kind(arena, at), arena[at + SPEC:at + SPEC + INLINE_MAX]
    vpn, _count = mem.alloc_data(1)
    try:
        _zero_page(mp, vpn)
        arena.move(mem.data_w(vpn), source, size)
        mp.vm.undefined.written(vpn, 1)
        clear_spec(arena, at)
        mp.extents.insert(at, 0, pack_extent(vpn, 1))
    except BaseException:
        mem.free_data(vpn, 1)
        arena[at + SPEC:at + SPEC + INLINE_MAX] = spec
        raise
    if kind == KIND_STRING:
        handle = layout.TN_STRING.field("tn_string")[0](spec, 0)
        mem.put_data_string(handle)
    set_tn_kind(arena, at, KIND_TREE)
    set_tn_pages(arena, at, 1)
    if mp.quota is not None:
        mp.quota.add_at(arena, at, more)
