"""fuse/notify.py: notices to the kernel that it did not ask for and would not know otherwise.

    INVAL_INODE     attributes of a node are stale; with its data also its pages, or the cached listing of a directory
    INVAL_ENTRY     a name does not lead to the same node any more
    DELETE          likewise, and the node is gone: nobody may look for anything in it
    RETRIEVE        the kernel sends a NOTIFY_REPLY with the pages of a file that it holds (seek.py)

Functions make the bytes; a Notifier writes them.  Most notices wait for locks (the directory of a name, the pages of a
file), and a process that waits for an answer of ours may hold them.  So a thread writes these notices while requests
are served.  INVAL_INODE of attributes alone takes no lock, and neither does RETRIEVE.

Limits      A notice of a node or name that the kernel does not know is refused with ENOENT, which is no error here.
"""

from __future__ import annotations

import os

from tmpfsd.fuse import abi

ATTRIBUTES_ONLY, FROM_THE_START, TO_THE_END = -1, 0, 0


def _notice(code: int, body: bytes, name: bytes = b"") -> bytes:
    tail = name + b"\0" if name else b""
    return abi.OUT_HEADER.pack(abi.OUT_HEADER.size + len(body) + len(tail), code, 0) + body + tail


def inval_inode(ino: int, attr_only: bool = True) -> bytes:
    """A node's attributes are stale, and with attr_only=False its pages or its cached listing."""
    off = ATTRIBUTES_ONLY if attr_only else FROM_THE_START
    return _notice(abi.NOTIFY_INVAL_INODE, abi.NOTIFY_INVAL_INODE_OUT.pack(ino, off, TO_THE_END))


def retrieve(ino: int, unique: int, offset: int, length: int) -> bytes:
    """Ask the kernel for its pages of a file from `offset` on, up to the first that it does not have."""
    return _notice(abi.NOTIFY_RETRIEVE, abi.NOTIFY_RETRIEVE_OUT.pack(unique, ino, offset, length))


def sought(notice: bytes) -> int:
    """The `unique` of the NOTIFY_REPLY that a notice asks for, or 0 if it asks for none."""
    if abi.OUT_HEADER.unpack(notice)[1] != abi.NOTIFY_RETRIEVE:
        return 0
    return int(abi.NOTIFY_RETRIEVE_OUT.unpack(notice, abi.OUT_HEADER.size)[0])


def inval_entry(dino: int, name: bytes) -> bytes:
    """A name is stale."""
    return _notice(abi.NOTIFY_INVAL_ENTRY, abi.NOTIFY_INVAL_ENTRY_OUT.pack(dino, len(name), 0), name)


def delete(dino: int, name: bytes, ino: int) -> bytes:
    """A name is gone, with its node."""
    return _notice(abi.NOTIFY_DELETE, abi.NOTIFY_DELETE_OUT.pack(dino, ino, len(name)), name)


class Notifier:
    """Writes notices; called as pyfuse3's functions of these names are.  => OSError: the kernel refuses one."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def invalidate_inode(self, ino: int, attr_only: bool = False) -> None:
        """See inval_inode()."""
        os.write(self.fd, inval_inode(ino, attr_only))

    def invalidate_entry(self, dino: int, name: bytes, deleted: int = 0) -> None:
        """See inval_entry(), and delete() for a node that is gone."""
        os.write(self.fd, delete(dino, name, deleted) if deleted else inval_entry(dino, name))
