"""stress/allowed.py: where tmpfsd may differ from the kernel's tmpfs, and why: one table.

A difference that no row explains is a bug.  Rows under NOT_PLAYED are left out of scripts.py, because after them the
two file systems would differ in everything.
"""

from __future__ import annotations

import stat
from typing import Any, Callable, NamedTuple

from tests.stress.scripts import Operation

Answer = dict[str, Any]
MISSING = "nothing"
PACKED, PAGE = 2048, 4096


class Row(NamedTuple):
    """A difference: the field of the answers, why, and which values of (the kernel's, tmpfsd's) it explains."""

    field: str
    why: str
    fits: Callable[[Operation, Answer, Answer, str], bool]


def _type(kernel: Answer, field: str) -> int:
    """The type of the node that a field tells of."""
    mode = kernel.get(field.rpartition(".")[0] + ".mode" if "." in field else "mode", "0")
    return stat.S_IFMT(int(mode, 8))


ALLOWED = (
    Row("blocks", "up to 2 KiB are packed: they have no page of their own, and no holes",
        lambda op, kernel, ours, field: kernel[field[:-6] + "size"] <= PACKED),
    Row("blocks", "reading a hole through mmap gives tmpfs a page there; what was packed gets one as it grows",
        lambda op, kernel, ours, field: ours[field] <= kernel[field] + PAGE // 512),
    Row("atime", "a read that the kernel serves from its cache does not reach the server (fuse/LIMITS.md)",
        lambda op, kernel, ours, field: _type(kernel, field) in (stat.S_IFREG, stat.S_IFLNK)),
    Row("atime", "likewise a listing, which the kernel caches with edge=native",
        lambda op, kernel, ours, field: _type(kernel, field) == stat.S_IFDIR and kernel[field] == "now"),
    Row("atime", "what goes through a FIFO does not reach the server",
        lambda op, kernel, ours, field: _type(kernel, field) == stat.S_IFIFO),
    Row("mtime", "likewise",
        lambda op, kernel, ours, field: _type(kernel, field) == stat.S_IFIFO and kernel[field] == "now"),
    Row("attempt", "what is wrong with an attempt beside what chattr(1) forbids is seen by the VFS first (fileattr.py)",
        lambda op, kernel, ours, field: kernel[field] == "EPERM" and ours[field] in ("ENOTDIR", "EISDIR", "EACCES")),
)

NOT_PLAYED = {
    "O_TMPFILE, fallocate, SEEK_HOLE, SEEK_DATA, ioctl with edge=pyfuse3": "it does not pass them on (fuse/LIMITS.md)",
    "XATTR_CREATE with XATTR_REPLACE with edge=pyfuse3": "it takes both as CREATE (fuse/LIMITS.md)",
    "where holes are": "reading one through mmap gives tmpfs data there, and what is packed has none: compared is that "
                       "what is called a hole reads as zeroes (test_native_space.py compares the rest)",
    "SEEK_DATA in the last page that a file can have": "there tmpfs finds no data where there is some",
    "fallocate that is refused (ENOSPC, ZERO_RANGE)": "FUSE takes set-id bits away before it asks (LIMITS.md)",
    "opening what is immutable or append-only": "refused at the first write, as no open is sent (fileattr.py): such "
                                                "nodes are so for one attempt only",
    "whiteouts beside default ACLs": "tmpfs gives them one that says nothing (fuse/LIMITS.md)",
    "ACLs without the option acl": "the kernel's tmpfs has no such option",
    "times after a store through mmap": "mtime changes when the page is written back, on tmpfs never (README, "
                                        "Limits): the player sets the times itself",
    "O_NOATIME": "the binding does not say through which open a directory is read",
    "cookies and the order of entries": "each file system's own; that a cookie leads back is compared",
    "inode numbers": "each file system's own; which names are of one node is compared",
    "security.selinux where no file has one": "not supported, so that ls asks once (fuse/LIMITS.md)",
    "chown(-1, -1)": "the kernel asks as before a write: it takes another's set-id bits for who may "
                     "write, and says nothing to others (tmpfs/setid.py; test_posix_perm.py)",
    "the time of day": "two clocks; that a time moved is compared",
}


def unexplained(op: Operation, kernel: Answer, ours: Answer) -> list[str]:
    """The differences between two answers that no row explains."""
    if kernel == ours:
        return []
    found = []
    for field in {**kernel, **ours}:
        one, other = kernel.get(field, MISSING), ours.get(field, MISSING)
        if one == other:
            continue
        last = field.rpartition(".")[2]
        if not any(row.field == last and MISSING not in (one, other) and row.fits(op, kernel, ours, field)
                   for row in ALLOWED):
            found.append(f"{field}: {shorten(one)} on the kernel's tmpfs, {shorten(other)} on tmpfsd")
    return found


def shorten(value: Any) -> str:
    """A value that may be long."""
    text = repr(value)
    return text if len(text) < 300 else text[:300] + "..."
