"""fuse/names.py: the handlers of requests about names: lookup, making, linking, renaming, removing, forgetting.

Each decodes, calls one vnop and encodes.  A name is bytes that end with NUL and have no '/' and no other NUL.  The
kernel sends no others; lower layers do not check this.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from tmpfsd.fuse import abi, replies
from tmpfsd.fuse.abi import BODY
from tmpfsd.fuse.later import NOBODY, Later
from tmpfsd.tmpfs import acl, layout, vnops, xattr
from tmpfsd.tmpfs.fserror import FsError
from tmpfsd.tmpfs.tmpfile import make as make_nameless

if TYPE_CHECKING:
    from tmpfsd.fuse.session import Session

_mknod_in, _mkdir_in, _forget_one = abi.MKNOD_IN.unpack, abi.MKDIR_IN.unpack, abi.FORGET_ONE.unpack
FORGETS, FORGET_SIZE = 256, abi.FORGET_ONE.size          # forgotten in a step: half a millisecond
MOST_WAITING = 16
AFTER_MKNOD, AFTER_MKDIR = BODY + abi.MKNOD_IN.size, BODY + abi.MKDIR_IN.size


def name_at(data: bytes, at: int) -> bytes:
    """The name at the end of a request.  => FsError EINVAL."""
    if len(data) <= at:             # compiled, a slice that ends before it begins is a SystemError
        raise FsError(errno.EINVAL)
    name = data[at:-1]
    if not name or data[-1] or b"\0" in name or b"/" in name:
        raise FsError(errno.EINVAL)
    return name


def two_at(data: bytes, at: int) -> tuple[bytes, bytes]:
    """The end of a request: a name, and another name or a target.  => FsError EINVAL."""
    if len(data) <= at:
        raise FsError(errno.EINVAL)
    one, nul, other = data[at:-1].partition(b"\0")
    if not nul or data[-1] or not one or b"/" in one or b"\0" in other:
        raise FsError(errno.EINVAL)
    return one, other


def lookup(s: Session, ino: int, data: bytes) -> bytes:
    """LOOKUP: name."""
    found = vnops.lookup(s.mount, ino, name_at(data, BODY))
    if found and ino in s.lookahead.plain:
        s.lookahead.looks(ino)
    return replies.entry(s, found) if found else replies.no_entry(s)


def masked(s: Session, dino: int, mode: int, umask: int) -> int:
    """A mode less the umask, unless the directory has a default ACL, which replaces the umask."""
    if s.mount.acl and xattr.find(s.mount, dino, acl.DEFAULT) is not None:
        return mode
    return mode & ~(umask & 0o777)


def mknod(s: Session, ino: int, data: bytes) -> bytes:
    """MKNOD: fuse_mknod_in, name.  A regular file too: CREATE is answered ENOSYS."""
    mode, rdev, umask = _mknod_in(data, BODY)
    name = name_at(data, AFTER_MKNOD)
    return replies.entry(s, vnops.mknod(s.mount, ino, name, masked(s, ino, mode, umask), rdev, s.caller))


def mkdir(s: Session, ino: int, data: bytes) -> bytes:
    """MKDIR: fuse_mkdir_in, name."""
    mode, umask = _mkdir_in(data, BODY)
    name = name_at(data, AFTER_MKDIR)
    mode = masked(s, ino, stat.S_IMODE(mode), umask)
    return replies.entry(s, vnops.mkdir(s.mount, ino, name, mode, s.caller))


def symlink(s: Session, ino: int, data: bytes) -> bytes:
    """SYMLINK: name, target."""
    name, target = two_at(data, BODY)
    return replies.entry(s, vnops.symlink(s.mount, ino, name, target, s.caller))


def link(s: Session, ino: int, data: bytes) -> bytes:
    """LINK: fuse_link_in, name."""
    old, = abi.LINK_IN.unpack(data, BODY)
    name = name_at(data, BODY + abi.LINK_IN.size)
    s.demand_known(old)
    return replies.entry(s, vnops.link(s.mount, old, ino, name))


def tmpfile(s: Session, ino: int, data: bytes) -> bytes:
    """TMPFILE: fuse_create_in, and a name that means nothing.  O_EXCL in its flags forbids a name later."""
    flags, mode, umask, _open_flags = abi.CREATE_IN.unpack(data, BODY)
    made = make_nameless(s.mount, ino, masked(s, ino, mode, umask), s.caller, not flags & os.O_EXCL)
    entry = replies.entry(s, made)[replies.HEADER_SIZE:]
    return replies.header(s, len(entry) + abi.OPEN_OUT.size) + entry + abi.OPEN_OUT.pack(0, 0)


def unlink(s: Session, ino: int, data: bytes) -> bytes:
    """UNLINK: name."""
    vnops.unlink(s.mount, ino, name_at(data, BODY))
    return replies.done(s)


def rmdir(s: Session, ino: int, data: bytes) -> bytes:
    """RMDIR: name."""
    vnops.rmdir(s.mount, ino, name_at(data, BODY))
    return replies.done(s)


def rename(s: Session, ino: int, data: bytes) -> bytes:
    """RENAME: fuse_rename_in, two names."""
    newdir, = abi.RENAME_IN.unpack(data, BODY)
    return _rename(s, ino, newdir, 0, data, BODY + abi.RENAME_IN.size)


def rename2(s: Session, ino: int, data: bytes) -> bytes:
    """RENAME2: fuse_rename2_in, two names."""
    newdir, flags = abi.RENAME2_IN.unpack(data, BODY)
    return _rename(s, ino, newdir, flags, data, BODY + abi.RENAME2_IN.size)


def _rename(s: Session, ino: int, newdir: int, flags: int, data: bytes, at: int) -> bytes:
    name, new_name = two_at(data, at)
    if not new_name or b"/" in new_name:
        raise FsError(errno.EINVAL)
    s.demand_known(newdir)
    vnops.rename(s.mount, ino, name, newdir, new_name, flags, s.caller)
    return replies.done(s)


# --- requests without an answer ---

def forget(s: Session, ino: int, data: bytes) -> None:
    """FORGET: fuse_forget_in."""
    s.forget(ino, *abi.FORGET_IN.unpack(data, BODY))


class Batch:
    """The rest of a BATCH_FORGET, done a step at a time (later.py): there may be 65,000 nodes in it."""

    __slots__ = ("session", "data", "at", "end")

    def __init__(self, session: Session, data: bytes, at: int, end: int) -> None:
        self.session, self.data, self.at, self.end = session, data, at, end

    def step(self) -> bool:
        """Forget some; whether there are more.  O(FORGETS)."""
        end = min(self.end, self.at + FORGETS * FORGET_SIZE)
        while self.at < end:
            ino, nlookup = _forget_one(self.data, self.at)
            self.at += FORGET_SIZE
            self.session.forget(ino, nlookup)
        return self.at < self.end


def batch_forget(s: Session, _ino: int, data: bytes) -> None:
    """BATCH_FORGET: fuse_batch_forget_in, and its fuse_forget_one.  A long one is done between other requests.

    => At most MOST_WAITING wait, a mebibyte each; one more is done at once.
    """
    count, = abi.BATCH_FORGET_IN.unpack(data, BODY)
    at = BODY + abi.BATCH_FORGET_IN.size
    batch = Batch(s, data, at, at + min(count, (len(data) - at) // FORGET_SIZE) * FORGET_SIZE)
    while batch.step():
        if len(s.later) >= MOST_WAITING:
            continue
        s.later.append(Later(NOBODY, layout.ROOT_INO, "forget", batch.step))
        return


def interrupt(_s: Session, _ino: int, _data: bytes) -> None:
    """INTERRUPT: operations run to their end, so the request was answered already, or has not been read."""
