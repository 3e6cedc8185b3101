"""fuse/init.py: the handshake: the agreement with the kernel, and the reasons.

The kernel's first request tells the protocol it speaks and its abilities (flags).  The answer tells which of them are
wanted, and the limits.  Only flags that the kernel has offered are asked for.

WANTED is the one list of decisions.  A flag that is not in it is not asked for; if that is a decision of its own,
REFUSED tells why.  There is no flag for operations that shall not be sent again: the first OPEN, OPENDIR, CREATE, FLUSH
and FSYNC are answered with ENOSYS (session.py), and kernels that offer NO_OPEN_SUPPORT and NO_OPENDIR_SUPPORT remember
that.

Picture     the kernel's INIT --answer()--> Agreement and the reply
            major above 7: the reply is 7, and the kernel asks again; below, or a minor below 31: Refusal
"""

from __future__ import annotations

import errno
from typing import ClassVar, NamedTuple

from tmpfsd.fuse import abi
from tmpfsd.fuse.abi import BODY, INIT_FLAGS, INIT_IN, INIT_IN_HEAD, INIT_OUT
from tmpfsd.options import Config

MAX_WRITE = 256 << 10               # the most bytes of one WRITE, and of one READ: others wait until it is done
MAX_PAGES = MAX_WRITE >> 12
MAX_READAHEAD = 1 << 20             # the kernel takes the lower of this and its own
MAX_BACKGROUND = 64                 # read-ahead and write-back requests at a time: enough that we never wait for more
CONGESTION = MAX_BACKGROUND * 3 // 4
TIME_GRAN = 1                       # nanoseconds
BUFFER = MAX_WRITE + 4096           # a read of the device that is shorter than the largest request is EINVAL

WANTED = {
    "FUSE_ASYNC_READ": "reads of one file may be under way together: read-ahead goes on while one is answered",
    "FUSE_EXPORT_SUPPORT": "LOOKUP of . and .. is answered: file handles (NFS, open_by_handle_at) survive a forget",
    "FUSE_BIG_WRITES": "a WRITE may have more than a page",
    "FUSE_DONT_MASK": "the umask is applied here: a default ACL makes it void, which the kernel does not know",
    "FUSE_DO_READDIRPLUS": "a listing may bring attributes along; lookahead.py chooses, not FUSE_READDIRPLUS_AUTO",
    "FUSE_PARALLEL_DIROPS": "look-ups in one directory need not wait for each other in the kernel",
    "FUSE_MAX_PAGES": "requests of 256 KiB instead of 128",
    "FUSE_CACHE_SYMLINKS": "the target of a symbolic link never changes: it is asked for once",
    "FUSE_NO_OPEN_SUPPORT": "(nothing is answered to it) OPEN may be ENOSYS",
    "FUSE_NO_OPENDIR_SUPPORT": "(likewise) OPENDIR may be ENOSYS, and listings are cached",
    "FUSE_HANDLE_KILLPRIV_V2": "set-id bits are cleared here (setid.py): no GETXATTR of capabilities at each write",
    "FUSE_SETXATTR_EXT": "SETXATTR says whether an ACL takes the setgid bit, which the kernel knows better",
    "FUSE_INIT_EXT": "flags from 32 on",
}
BY_OPTION = {
    "FUSE_POSIX_ACL": ("acl", "the kernel evaluates ACLs"),
    "FUSE_WRITEBACK_CACHE": ("writeback", "written pages stay in the kernel for a while"),
}
REFUSED = {
    "FUSE_ATOMIC_O_TRUNC": "O_TRUNC would come with OPEN, which is not sent: a truncation would be lost",
    "FUSE_ASYNC_DIO": "an asynchronous direct write leaves stale pages in the cache",
    "FUSE_AUTO_INVAL_DATA": "every change comes through this kernel: its pages are never stale by another mtime",
    "FUSE_EXPLICIT_INVAL_DATA": "a size that is not what the kernel thinks (a truncation that failed) must drop pages",
    "FUSE_HANDLE_KILLPRIV": "version 2 says who writes",
    "FUSE_POSIX_LOCKS": "one kernel: its own locks are all there is", "FUSE_FLOCK_LOCKS": "likewise",
    "FUSE_ALLOW_IDMAP": "the kernel then hides the caller's uid, which setattr() needs for set-id bits",
    "FUSE_PASSTHROUGH": "there is no file below", "FUSE_OVER_IO_URING": "one queue a core, and Python has one thread",
    "FUSE_REQUEST_TIMEOUT": "a page-in may wait for a slow disk: a timeout would end the mount",
    "FUSE_ABORT_ERROR": "an aborted connection and an unmount end the loop alike",
}
REQUIRED = ("FUSE_NO_OPEN_SUPPORT", "FUSE_NO_OPENDIR_SUPPORT", "FUSE_MAX_PAGES", "FUSE_BIG_WRITES")


class Refusal(Exception):
    """This edge cannot serve the kernel; the text tells why in one line."""

    errno: ClassVar = errno.EPROTO


class Agreement(NamedTuple):
    """The result of the handshake; a minor of 0 means that the kernel must ask again."""

    minor: int
    flags: int

    def has(self, name: str) -> bool:
        """Whether a flag was agreed on."""
        return bool(self.flags & INIT_FLAGS[name])


def wanted(config: Config) -> int:
    """The flags to ask for."""
    names = [*WANTED, *(name for name, (option, _why) in BY_OPTION.items() if getattr(config, option))]
    return sum(INIT_FLAGS[name] for name in names)


def answer(request: bytes, config: Config) -> tuple[Agreement, bytes]:
    """The agreement, and the body of the reply.  => Refusal; a request has at least INIT_IN_HEAD."""
    offered = request[BODY:BODY + INIT_IN.size].ljust(INIT_IN.size, b"\0")
    major, minor, readahead, low, high = INIT_IN.unpack(offered)
    if major > abi.MAJOR:
        return Agreement(0, 0), INIT_OUT.pack(abi.MAJOR, abi.MINOR, 0, 0, 0, 0, 0, 0, 0, 0)
    if (major, minor) < (abi.MAJOR, abi.OLDEST_MINOR):
        raise Refusal(f"the kernel speaks FUSE {major}.{minor}, edge=native needs {abi.MAJOR}.{abi.OLDEST_MINOR} "
                      "(Linux 5.4): give edge=pyfuse3")
    flags = low | (high << 32 if low & INIT_FLAGS["FUSE_INIT_EXT"] and len(request) > BODY + INIT_IN_HEAD else 0)
    missing = [name for name in REQUIRED if not flags & INIT_FLAGS[name]]
    if missing:
        raise Refusal(f"the kernel offers no {', '.join(missing)}: give edge=pyfuse3")
    minor, flags = min(minor, abi.MINOR), flags & wanted(config)
    body = INIT_OUT.pack(abi.MAJOR, minor, min(readahead, MAX_READAHEAD), flags & 0xFFFFFFFF, MAX_BACKGROUND,
                         CONGESTION, MAX_WRITE, TIME_GRAN, MAX_PAGES, flags >> 32)
    return Agreement(minor, flags), body


assert not set(WANTED) & set(REFUSED) and {*WANTED, *REFUSED, *BY_OPTION} <= set(INIT_FLAGS)
