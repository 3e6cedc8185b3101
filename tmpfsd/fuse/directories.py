"""fuse/directories.py: the handlers of listings.

READDIRPLUS gives each entry's attributes, and counts as a lookup of each: the kernel has one more reference to all
except "." and "..", and those whose node is left out.  lookahead.py says whether to leave them out: then the listing
counts as one of names.  READDIR gives the type only; a kernel that knows READDIRPLUS sends none.

Picture     dirent: 24 bytes, the name, zeroes up to a multiple of 8     direntplus: fuse_entry_out, then a dirent
            A reply has as many as fit into the size that was asked for; an empty one is the end of the directory.
"""

from __future__ import annotations

import errno
import stat
from typing import TYPE_CHECKING

from tmpfsd.fuse import abi, replies
from tmpfsd.fuse.abi import BODY
from tmpfsd.fuse.replies import BLOCK_SIZE, FOREVER, SECOND
from tmpfsd.tmpfs import layout, vnops
from tmpfsd.tmpfs.fserror import FsError

if TYPE_CHECKING:
    from tmpfsd.fuse.session import Reply, Session

MOST = 1 << 20                  # bytes of one listing, as of a READ
TYPE_SHIFT = 12                 # DT_DIR and the like are these bits of the mode
DOTS = (b".", b"..")
_read_in, _dirent = abi.READ_IN.unpack, abi.DIRENT.pack
_entry_out, ENTRY_SIZE = abi.ENTRY_OUT.pack, abi.ENTRY_OUT.size
PADDING = tuple(bytes(size) for size in range(8))
NO_ENTRY = bytes(ENTRY_SIZE)    # for "." and "..", and a node that is left out: the kernel ignores it


def _asked(s: Session, ino: int, data: bytes) -> tuple[int, int]:
    """(where the listing goes on, how large the reply may be).  => FsError ENOTDIR, EINVAL (not one of our cookies)."""
    offset, size = _read_in(data, BODY)
    if not stat.S_ISDIR(layout.tn_mode(s.mount.arena, s.mount.mem.node(ino))):
        raise FsError(errno.ENOTDIR)
    if offset >> 63:
        raise FsError(errno.EINVAL)
    return offset, min(size, MOST)


def _named(name: bytes, number: int, mode: int, key: int) -> bytes:
    """A dirent."""
    length = len(name)
    return _dirent(number, key, length, mode >> TYPE_SHIFT) + name + PADDING[-length & 7]


def _reply(s: Session, out: list[bytes]) -> Reply:
    """The reply with all entries put out."""
    body = b"".join(out)
    return [replies.header(s, len(body)), body]


def readdir(s: Session, ino: int, data: bytes) -> Reply:
    """READDIR: fuse_read_in."""
    cookie, room = _asked(s, ino, data)
    return _reply(s, _names(s, ino, cookie, room, b""))


def _names(s: Session, ino: int, cookie: int, room: int, head: bytes) -> list[bytes]:
    """The entries that fit, without attributes, each after `head`."""
    out: list[bytes] = []

    def emit(name: bytes, number: int, mode: int, key: int) -> bool:
        nonlocal room
        entry = head + _named(name, number, mode, key)
        room -= len(entry)
        if room < 0:
            return False
        out.append(entry)
        return True

    vnops.list_names(s.mount, ino, cookie, emit)
    return out


def readdirplus(s: Session, ino: int, data: bytes) -> Reply:
    """READDIRPLUS: fuse_read_in."""
    cookie, room = _asked(s, ino, data)
    out: list[bytes] = []
    if not s.lookahead.wants(not cookie):
        out = _names(s, ino, cookie, room, NO_ENTRY)
        if out:
            s.lookahead.gave(ino, len(out))
        return _reply(s, out)

    def emit(name: bytes, number: int, attributes: tuple, key: int) -> bool:
        nonlocal room
        mode, links, uid, gid, rdev, size, blocks, atime, mtime, ctime, generation = attributes
        entry = _named(name, number, mode, key)
        room -= ENTRY_SIZE + len(entry)
        if room < 0:
            return False
        if name in DOTS:
            out.append(NO_ENTRY + entry)
            return True
        asec, ansec = divmod(atime, SECOND)
        msec, mnsec = divmod(mtime, SECOND)
        csec, cnsec = divmod(ctime, SECOND)
        out.append(_entry_out(number, generation, FOREVER, FOREVER, number, size, blocks, asec, msec, csec, ansec,
                              mnsec, cnsec, mode, links, uid, gid, rdev, BLOCK_SIZE) + entry)
        return True

    vnops.readdir(s.mount, ino, cookie, emit)
    return _reply(s, out)
