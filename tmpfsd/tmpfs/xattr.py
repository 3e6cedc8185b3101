"""tmpfs/xattr.py: extended attributes, a chain of items for each node that has any.

An attribute is one item with its name, and its value if both fit in 2 KiB; a longer value is in items
of a page, whose handles follow the name, so that freeing it reads nothing but the attribute.

Breathing   All breathe while they walk the chain, and then work within one breath: at most 17 pages of
            the new value, its attribute, the old one, the one before and the node.
"""

from __future__ import annotations

import errno
from struct import Struct
from typing import TYPE_CHECKING, Iterator, NamedTuple

from tmpfsd.tmpfs.errors import FsError
from tmpfsd.tmpfs.layout import TX_NAME, set_tn_ctime, set_tn_xattr, set_tx_head, set_tx_next, tn_xattr, tx_head
from tmpfsd.uvm.errors import NoMemory, SwapIOError
from tmpfsd.uvm.param import PAGE_SIZE

if TYPE_CHECKING:
    from tmpfsd.tmpfs.mount import Mount

XATTR_CREATE, XATTR_REPLACE = 1, 2
XATTR_SIZE_MAX = 65536                  # <linux/limits.h>
XATTR_NAME_MAX = 255
XATTR_LIST_MAX = 65536
LABEL = b"security.selinux"
FEW = 4                                 # attributes that are removed at once: 17 items each at most
INLINE_VALUE_MAX = 2048                 # attribute, name and value in one item
_HANDLE = Struct("<I")


class Attribute(NamedTuple):
    """An attribute of a chain: its handle, the one before it (0 for none), its name."""

    handle: int
    before: int
    name: bytes


def chain(mp: Mount, ino: int) -> Iterator[Attribute]:
    """The attributes of a node.  => SwapIOError.  => Breathes before each."""
    before, handle = 0, tn_xattr(mp.arena, mp.mem.node(ino))
    while handle:
        mp.breathe()
        at = mp.mem.string(handle)
        after, _vlen, nlen, _nchunks = tx_head(mp.arena, at)
        yield Attribute(handle, before, mp.arena[at + TX_NAME:at + TX_NAME + nlen])
        before, handle = handle, after


def find(mp: Mount, ino: int, name: bytes) -> Attribute | None:
    """The attribute of that name."""
    return next((attribute for attribute in chain(mp, ino) if attribute.name == name), None)


def value_of(mp: Mount, handle: int) -> bytes:
    """The value of an attribute.  => SwapIOError."""
    mem, arena = mp.mem, mp.arena
    at = mem.string(handle)
    _next, vlen, nlen, nchunks = tx_head(arena, at)
    start = at + TX_NAME + nlen
    if not nchunks:
        return arena[start:start + vlen]
    chunks = (mem.string(_HANDLE.unpack_from(arena, start + 4 * i)[0]) for i in range(nchunks))
    return b"".join(arena[chunk:chunk + PAGE_SIZE] for chunk in chunks)[:vlen]


def set_value(mp: Mount, ino: int, name: bytes, value: bytes, flags: int = 0) -> None:
    """Set an attribute.  => FsError EEXIST, ENODATA by flags, ENOSPC: the names of a node may have 64 KiB together
    (what listxattr(2) can return, and a bound on the walk); NoMemory, SwapIOError.  Nothing has changed then.

    => Breathes.
    """
    old, listed = None, 0
    for attribute in chain(mp, ino):
        listed += len(attribute.name) + 1
        if attribute.name == name:
            old = attribute
            break
    if old is None and listed + len(name) + 1 > XATTR_LIST_MAX:
        raise FsError(errno.ENOSPC)
    if old is None and flags & XATTR_REPLACE:
        raise FsError(errno.ENODATA)
    if old is not None and flags & XATTR_CREATE:
        raise FsError(errno.EEXIST)
    mp.breathe()
    mem, arena = mp.mem, mp.arena
    at = mem.node_w(ino)
    if old is not None:
        mem.string_w(old.handle)
        if old.before:
            mem.string_w(old.before)
    handle = _new(mp, name, value)
    set_tn_ctime(arena, at, mp.now())
    if old is None:
        _link(mp, at, 0, handle, tn_xattr(arena, at))
    else:
        after = tx_head(arena, mem.string(old.handle))[0]
        _link(mp, at, old.before, handle, after)
        _free(mp, old.handle)


def remove(mp: Mount, ino: int, name: bytes) -> None:
    """Remove an attribute.  => FsError ENODATA; SwapIOError; nothing has changed.  => Breathes."""
    old = find(mp, ino, name)
    if old is None:
        raise FsError(errno.ENODATA)
    mp.breathe()
    at = mp.mem.node_w(ino)
    if old.before:
        mp.mem.string_w(old.before)
    after = tx_head(mp.arena, mp.mem.string(old.handle))[0]
    if old.before:
        set_tx_next(mp.arena, mp.mem.string_w(old.before), after)
    else:
        set_tn_xattr(mp.arena, at, after)
    set_tn_ctime(mp.arena, at, mp.now())
    _free(mp, old.handle)


def remove_some(mp: Mount, ino: int, most: int) -> bool:
    """Remove up to `most` attributes of a node; whether there are more.  => SwapIOError: those that are left stay.

    => Breathes.
    """
    handle = tn_xattr(mp.arena, mp.mem.node(ino))
    for _ in range(most):
        if not handle:
            break
        mp.breathe()
        after = tx_head(mp.arena, mp.mem.string(handle))[0]
        set_tn_xattr(mp.arena, mp.mem.node_w(ino), after)
        _free(mp, handle)
        handle = after
    return bool(handle)


def _link(mp: Mount, at: int, before: int, handle: int, after: int) -> None:
    """Put an attribute into the chain; all pages are in."""
    set_tx_next(mp.arena, mp.mem.string_w(handle), after)
    if before:
        set_tx_next(mp.arena, mp.mem.string_w(before), handle)
    else:
        set_tn_xattr(mp.arena, at, handle)


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
    set_tx_head(arena, at, 0, len(value), len(name), len(pieces))
    arena[at + TX_NAME:at + TX_NAME + len(name) + len(tail)] = name + tail
    return taken[0]


def new_chain(mp: Mount, pairs: list[tuple[bytes, bytes]]) -> int:
    """The attributes of a node that is about to be: the first's handle, or 0.  => As set_value(); in one breath."""
    head = 0
    try:
        for name, value in pairs:
            handle = _new(mp, name, value)
            set_tx_next(mp.arena, mp.mem.string_w(handle), head)
            head = handle
    except (NoMemory, SwapIOError):
        free_chain(mp, head)
        raise
    return head


def free_chain(mp: Mount, handle: int) -> None:
    """Undo new_chain()."""
    while handle:
        after = tx_head(mp.arena, mp.mem.string(handle))[0]
        _free(mp, handle)
        handle = after


def items(mp: Mount, handle: int) -> list[int]:
    """The handles of an attribute's items, itself first.  => SwapIOError."""
    at = mp.mem.string(handle)
    _next, _vlen, nlen, nchunks = tx_head(mp.arena, at)
    start = at + TX_NAME + nlen
    return [handle, *(_HANDLE.unpack_from(mp.arena, start + _HANDLE.size * i)[0] for i in range(nchunks))]


def _free(mp: Mount, handle: int) -> None:
    for item in items(mp, handle):
        mp.mem.strings.put(item)


# --- name spaces ---

def demand_supported(mp: Mount, name: bytes) -> None:
    """=> FsError EOPNOTSUPP, ERANGE, EINVAL as the kernel's tmpfs answers for the name."""
    space, dot, rest = name.partition(b".")
    if len(name) > XATTR_NAME_MAX or not name:
        raise FsError(errno.ERANGE)
    if name in ACL_NAMES and mp.acl:
        return
    if not mp.xattr or not dot or space not in (b"user", b"trusted", b"security"):
        raise FsError(errno.EOPNOTSUPP)
    if not rest:
        raise FsError(errno.EINVAL)


ACL_NAMES = (b"system.posix_acl_access", b"system.posix_acl_default")


def names(mp: Mount, ino: int, privileged: bool) -> list[bytes]:
    """The names of a node's attributes; trusted ones for the privileged only (xattr(7)).  => Breathes."""
    found = [attribute.name for attribute in chain(mp, ino)]
    if not privileged:
        found = [name for name in found if not name.startswith(b"trusted.")]
    return found
