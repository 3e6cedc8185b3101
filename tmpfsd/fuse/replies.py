"""fuse/replies.py: replies that several handlers make: each is one struct.pack of header and structure.

Everything is valid FOREVER: a change comes through the kernel that caches it.  For changes that do not (tmpfsctl
discard, set-id bits cleared by a write) the kernel gets a notice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tmpfsd.fuse import abi
from tmpfsd.tmpfs import vnops

if TYPE_CHECKING:
    from tmpfsd.fuse.session import Session

FOREVER = 1_000_000_000             # seconds
SECOND = 1_000_000_000              # nanoseconds
BLOCK_SIZE = 4096                   # st_blksize

HEADER_SIZE = abi.OUT_HEADER.size
_pack_header = abi.OUT_HEADER.pack
_ENTRY, _ATTR = abi.ENTRY_OUT.reply(), abi.ATTR_OUT.reply()
_pack_entry, _ENTRY_SIZE = _ENTRY.pack, _ENTRY.size
_pack_attr, _ATTR_SIZE = _ATTR.pack, _ATTR.size


def entry(s: Session, ino: int) -> bytes:
    """A name and its node.  => The kernel has one more reference, which the vnop has counted."""
    (mode, links, uid, gid, rdev, size, blocks, atime, mtime, ctime, generation) = vnops.getattr(s.mount, ino)
    asec, ansec = divmod(atime, SECOND)
    msec, mnsec = divmod(mtime, SECOND)
    csec, cnsec = divmod(ctime, SECOND)
    return _pack_entry(_ENTRY_SIZE, 0, s.unique, ino, generation, FOREVER, FOREVER, ino, size, blocks, asec, msec, csec,
                       ansec, mnsec, cnsec, mode, links, uid, gid, rdev, BLOCK_SIZE)


def no_entry(s: Session) -> bytes:
    """There is no such name, and the kernel may remember that."""
    return _pack_entry(_ENTRY_SIZE, 0, s.unique, 0, 0, FOREVER, FOREVER, *(0,) * 15)


def attributes(s: Session, ino: int) -> bytes:
    """The attributes of a node."""
    (mode, links, uid, gid, rdev, size, blocks, atime, mtime, ctime, _generation) = vnops.getattr(s.mount, ino)
    asec, ansec = divmod(atime, SECOND)
    msec, mnsec = divmod(mtime, SECOND)
    csec, cnsec = divmod(ctime, SECOND)
    return _pack_attr(_ATTR_SIZE, 0, s.unique, FOREVER, ino, size, blocks, asec, msec, csec, ansec, mnsec, cnsec, mode,
                      links, uid, gid, rdev, BLOCK_SIZE)


def done(s: Session) -> bytes:
    """The header alone: success."""
    return _pack_header(HEADER_SIZE, 0, s.unique)


def refused(unique: int, code: int) -> bytes:
    """An errno."""
    return _pack_header(HEADER_SIZE, -code, unique)


def header(s: Session, nbytes: int) -> bytes:
    """The header of a reply with nbytes after it."""
    return _pack_header(HEADER_SIZE + nbytes, 0, s.unique)
