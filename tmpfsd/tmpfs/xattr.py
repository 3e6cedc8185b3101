"""tmpfs/xattr.py: extended attributes, a tree of items for each node that has any.

An attribute is one item with its name, and its value if both fit in 2 KiB.  A longer value is in items of a page each.
Their handles follow the name, so freeing an attribute reads only its first item.

The tree is a digital one: each step down goes left or right by the next bit of the name's hash, and each item on the
way is an attribute.  So it needs no balancing, and no order of setting and removing makes it deep: 64 steps for names
whose hashes differ, about 16 with thousands.  When an attribute goes, any leaf below it can take its place, because the
way to that leaf begins with the same bits; the others stay where they are.

Picture     tn_xattr -> A            the first bit of B's and D's names is 0, of C's is 1
                       / \\
                      B   C
                       \\
                        D           A goes: D takes its place

Invariants
    X1  Each attribute is on the way that its name's hash goes, and no two of a node have one name.
    X2  tx_listed of the topmost is the sum of the lengths of all names, with a NUL each.

Breathing   All functions breathe on the way down, and then work within one breath: at most 17 pages of the new value,
            its attribute, the old one, those above it, the leaf that takes its place and the one above that, and the
            node.

Limits      The names of a node have LISTED_MAX bytes together, as listxattr(2) returns no more.
"""

from __future__ import annotations

import errno
from struct import Struct
from typing import TYPE_CHECKING, Callable, Final, Iterator, NamedTuple

from tmpfsd.tmpfs.fserror import FsError
from tmpfsd.tmpfs.layout import (
    TX_NAME, init_xattr, set_tn_ctime, set_tn_xattr, set_tx_below, set_tx_listed, tn_xattr, tx_below, tx_head,
    tx_listed, tx_name
)
from tmpfsd.uvm.errors import NoMemory, SwapIOError
from tmpfsd.uvm.param import PAGE_SIZE

if TYPE_CHECKING:
    from tmpfsd.tmpfs.filesystem import Mount

XATTR_CREATE: Final = 1
XATTR_REPLACE: Final = 2
XATTR_SIZE_MAX = 65536                  # <linux/limits.h>
XATTR_NAME_MAX = 255
LISTED_MAX = 65535
SLICE = 16                              # attributes between two breaths of a walk
LABEL = b"security.selinux"
INLINE_VALUE_MAX = 2048                 # attribute, name and value in one item
_HANDLE = Struct("<I")


class Spot(NamedTuple):
    """The place of an attribute (handle 0: where it would be): the one above it (0: the node), and on which side."""

    handle: int
    above: int
    side: int


def walk(mp: Mount, ino: int) -> Iterator[tuple[int, bytes]]:
    """(handle, name) of each attribute of a node, in no order.  => SwapIOError.  => Breathes."""
    yield from _walk(mp, tn_xattr(mp.arena, mp.mem.node(ino)))


def _walk(mp: Mount, top: int) -> Iterator[tuple[int, bytes]]:
    todo = [top] if top else []         # at most one for each step down: 65
    n = 0
    while todo:
        if not n % SLICE:
            mp.breathe()
        n += 1
        handle = todo.pop()
        at = mp.mem.string(handle)
        todo.extend(filter(None, tx_below(mp.arena, at)))
        yield handle, tx_name(mp.arena, at)


def seek(mp: Mount, top: int, name: bytes) -> Spot:
    """Where the attribute of that name is, or would be, below the topmost.  O(log n).  => SwapIOError.  => Breathes."""
    mem, arena, bits = mp.mem, mp.arena, mp.dirs.bits(name)
    handle, above, side = top, 0, 0
    while handle:
        mp.breathe()
        at = mem.string(handle)
        if tx_name(arena, at) == name:
            break
        above, side = handle, bits & 1
        bits >>= 1
        handle = tx_below(arena, at)[side]
    return Spot(handle, above, side)


def find(mp: Mount, ino: int, name: bytes) -> int | None:
    """The handle of the attribute of that name.  O(log n).  => SwapIOError.  => Breathes."""
    return seek(mp, tn_xattr(mp.arena, mp.mem.node(ino)), name).handle or None


def value_of(mp: Mount, handle: int) -> bytes:
    """The value of an attribute.  => SwapIOError."""
    mem, arena = mp.mem, mp.arena
    at = mem.string(handle)
    vlen, nlen, nchunks = tx_head(arena, at)
    start = at + TX_NAME + nlen
    if not nchunks:
        return arena[start:start + vlen]
    chunks = [mem.string(_HANDLE.unpack_from(arena, start + 4 * i)[0]) for i in range(nchunks)]
    return b"".join([arena[chunk:chunk + PAGE_SIZE] for chunk in chunks])[:vlen]


def set_value(mp: Mount, ino: int, name: bytes, value: bytes, flags: int = 0) -> None:
    """Set an attribute.  O(log n).

    => FsError EEXIST, ENODATA by flags, ENOSPC: more names than listxattr(2) can return; NoMemory, SwapIOError.
    Nothing has changed then.  => Breathes.
    """
    spot = seek(mp, tn_xattr(mp.arena, mp.mem.node(ino)), name)
    if not spot.handle and flags & XATTR_REPLACE:
        raise FsError(errno.ENODATA)
    if spot.handle and flags & XATTR_CREATE:
        raise FsError(errno.EEXIST)
    mp.breathe()
    mem, arena = mp.mem, mp.arena
    at = mem.node_w(ino)
    top = tn_xattr(arena, at)
    for touched in filter(None, (top, spot.handle, spot.above)):
        mem.string_w(touched)
    listed = tx_listed(arena, mem.string(top)) if top else 0
    if not spot.handle:
        listed += len(name) + 1
        if listed > LISTED_MAX:
            raise FsError(errno.ENOSPC)
    handle = _new(mp, name, value)
    set_tn_ctime(arena, at, mp.now())
    if spot.handle:
        set_tx_below(arena, mem.string_w(handle), *tx_below(arena, mem.string(spot.handle)))
        _free(mp, spot.handle)
    _hang(mp, at, spot, handle)
    set_tx_listed(arena, mem.string_w(tn_xattr(arena, at)), listed)


def remove(mp: Mount, ino: int, name: bytes) -> None:
    """Remove an attribute.  O(log n).  => FsError ENODATA; SwapIOError; nothing has changed.  => Breathes."""
    spot = seek(mp, tn_xattr(mp.arena, mp.mem.node(ino)), name)
    if not spot.handle:
        raise FsError(errno.ENODATA)
    _take(mp, ino, spot)
    set_tn_ctime(mp.arena, mp.mem.node_w(ino), mp.now())


def remove_some(mp: Mount, ino: int, most: int) -> bool:
    """Remove up to `most` attributes of a node that goes, each in O(1); whether there are more.

    => SwapIOError: the others stay.  => Breathes.
    """
    top = tn_xattr(mp.arena, mp.mem.node(ino))
    way = [Spot(top, 0, 0)] if top else []      # the way down to the next one: at most 65
    while way and most:
        spot = way[-1]
        mp.breathe()
        left, right = tx_below(mp.arena, mp.mem.string(spot.handle))
        if left or right:
            way.append(Spot(left or right, spot.handle, int(not left)))
            continue
        _take(mp, ino, way.pop())
        most -= 1
    return bool(way)


def _leaf_below(mp: Mount, spot: Spot) -> Spot:
    """A leaf at or below a spot: an attribute with none below it.  => SwapIOError.  => Breathes."""
    handle, above, side = spot
    while True:
        mp.breathe()
        left, right = tx_below(mp.arena, mp.mem.string(handle))
        if not left and not right:
            return Spot(handle, above, side)
        handle, above, side = left or right, handle, int(not left)


def _take(mp: Mount, ino: int, spot: Spot) -> None:
    """Take the attribute at a spot out and free it; a leaf takes its place.

    => SwapIOError; nothing has changed.  => Breathes before it changes anything.
    """
    mem, arena = mp.mem, mp.arena
    leaf = _leaf_below(mp, spot)
    mp.breathe()
    at = mem.node_w(ino)
    top = tn_xattr(arena, at)
    for touched in filter(None, (top, *spot[:2], *leaf[:2])):
        mem.string_w(touched)
    gone = mem.string(spot.handle)
    listed = tx_listed(arena, mem.string(top)) - tx_head(arena, gone)[1] - 1
    _hang(mp, at, leaf, 0)
    if leaf.handle != spot.handle:
        set_tx_below(arena, mem.string_w(leaf.handle), *tx_below(arena, gone))
        _hang(mp, at, spot, leaf.handle)
    _free(mp, spot.handle)
    top = tn_xattr(arena, at)
    if top:
        set_tx_listed(arena, mem.string_w(top), listed)


def _hang(mp: Mount, at: int, spot: Spot, handle: int) -> None:
    """Make the item above a spot (or the node) lead to an attribute, or to none; all pages are in."""
    if not spot.above:
        set_tn_xattr(mp.arena, at, handle)
        return
    above = mp.mem.string_w(spot.above)
    left, right = tx_below(mp.arena, above)
    set_tx_below(mp.arena, above, *((left, handle) if spot.side else (handle, right)))


def _new(mp: Mount, name: bytes, value: bytes) -> int:
    """The items of an attribute, filled.  => NoMemory, SwapIOError; nothing has changed."""
    mem, arena = mp.mem, mp.arena
    inline = TX_NAME + len(name) + len(value) <= INLINE_VALUE_MAX
    pieces = [] if inline else [value[i:i + PAGE_SIZE] for i in range(0, len(value), PAGE_SIZE)]
    tail = value if inline else bytes(_HANDLE.size * len(pieces))
    taken: list[int] = []
    try:
        taken.append(mem.new_string(TX_NAME + len(name) + len(tail)))
        for _ in pieces:
            taken.append(mem.new_string(PAGE_SIZE))
    except (NoMemory, SwapIOError):
        for handle in taken:
            mem.strings.put(handle)
        raise
    for handle, piece in zip(taken[1:], pieces):
        chunk = mem.string_w(handle)
        arena[chunk:chunk + len(piece)] = piece
    if pieces:
        tail = b"".join(map(_HANDLE.pack, taken[1:]))
    at = mem.string_w(taken[0])
    init_xattr(arena, at, len(value), len(name), len(pieces))
    arena[at + TX_NAME:at + TX_NAME + len(name) + len(tail)] = name + tail
    return taken[0]


def new_tree(mp: Mount, pairs: list[tuple[bytes, bytes]]) -> int:
    """Make the attributes of a node to be made: the topmost's handle, or 0.  => As set_value().  => Breathes."""
    top = 0
    try:
        for name, value in pairs:
            _handle, above, side = seek(mp, top, name)
            mp.breathe()
            listed = tx_listed(mp.arena, mp.mem.string_w(top)) if top else 0
            handle = _new(mp, name, value)
            if above:
                at = mp.mem.string_w(above)
                left, right = tx_below(mp.arena, at)
                set_tx_below(mp.arena, at, *((left, handle) if side else (handle, right)))
            top = top or handle
            set_tx_listed(mp.arena, mp.mem.string_w(top), listed + len(name) + 1)
    except (NoMemory, SwapIOError):
        free_tree(mp, top)
        raise
    return top


def free_tree(mp: Mount, top: int) -> None:
    """Undo new_tree()."""
    for handle in [handle for handle, _name in _walk(mp, top)]:
        _free(mp, handle)


def items(mp: Mount, handle: int) -> list[int]:
    """The handles of an attribute's items, itself first.  => SwapIOError."""
    at = mp.mem.string(handle)
    _vlen, nlen, nchunks = tx_head(mp.arena, at)
    start = at + TX_NAME + nlen
    return [handle, *[_HANDLE.unpack_from(mp.arena, start + _HANDLE.size * i)[0] for i in range(nchunks)]]


def _free(mp: Mount, handle: int) -> None:
    for item in items(mp, handle):
        mp.mem.strings.put(item)


# --- name spaces ---

def demand_supported(mp: Mount, name: bytes) -> None:
    """=> FsError EOPNOTSUPP, ERANGE, EINVAL as the kernel's tmpfs gives for the name."""
    space, dot, rest = name.partition(b".")
    if len(name) > XATTR_NAME_MAX or not name:
        raise FsError(errno.ERANGE)
    if name in ACL_NAMES and mp.acl:
        return
    if not mp.xattr or not dot or space not in (b"user", b"trusted", b"security"):
        raise FsError(errno.EOPNOTSUPP)
    if not rest:
        raise FsError(errno.EINVAL)


ACL_NAMES: tuple[bytes, bytes] = (b"system.posix_acl_access", b"system.posix_acl_default")


def names(mp: Mount, ino: int, privileged: Callable[[], bool]) -> list[bytes]:
    """The names of a node's attributes, O(n); trusted ones for the privileged only (xattr(7)).  => Breathes."""
    found = [name for _handle, name in walk(mp, ino)]
    shown = [name for name in found if not name.startswith(b"trusted.")]
    return shown if len(shown) == len(found) or not privileged() else found
