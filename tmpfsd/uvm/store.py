"""uvm/store.py: stores keep pages that left memory: the protocol, and the store that is a file or a block device.

A store keeps pages at places, numbered from 1.  It knows nothing of slots (swap.py), of checksums and encryption
(seal.py), or which page is where.  A new kind of store changes no other module of uvm/.

Picture     open_place, own --> FileStore --write, read, discard--> ... --close--> an unlinked file is gone, one with
            a name is emptied, a device keeps what it has

Breathing   Nothing here breathes.

Limits      A file system without hole punching keeps its blocks.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import logging
import os
import stat
from typing import Callable, Protocol, Sequence

from tmpfsd.native import mypyc_attr
from tmpfsd.seldom import seldom
from tmpfsd.uvm.param import PAGE_SHIFT, PAGE_SIZE

log = logging.getLogger(__name__)

FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE = 1, 2        # <linux/falloc.h>; the os module has no names for them
PUNCH_TRIES = 100
SYS_OPENAT2 = 437                       # <asm-generic/unistd.h>, the same on all machines but Alpha
RESOLVE_NO_SYMLINKS = 4                 # <linux/openat2.h>
AT_FDCWD = -100
_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.restype = ctypes.c_long
_fallocate = ctypes.CDLL(None, use_errno=True).fallocate64
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
Transfer = Callable[[int, Sequence[memoryview], int], int]


class Store(Protocol):
    """The part of a store that swap.py needs."""

    @property
    def kind(self) -> str:
        """Its name in the status.  O(1)."""

    @property
    def path(self) -> str:
        """Where it is, as the user gave it.  O(1)."""

    @property
    def most(self) -> int:
        """How many pages it can have; 0: any number.  O(1)."""

    @property
    def can_discard(self) -> bool:
        """Whether discard() is of any use.  O(1)."""

    def read(self, place: int, pages: Sequence[memoryview]) -> None:
        """Fill pages from the places from `place` on.  O(pages).  => OSError, and any of them may hold anything."""

    def write(self, place: int, pages: Sequence[memoryview]) -> None:
        """Keep pages at the places from `place` on.  O(pages).  => OSError, and any of the places may hold anything."""

    def discard(self, place: int, n: int) -> bool:
        """Nobody needs the content of n places any more; whether the store used that.  O(1).  Raises nothing."""

    def state(self) -> str:
        """`ok`, or what is wrong, in a word or two; "" if only reads and writes show it.  O(1); asks nobody."""

    def descriptors(self) -> list[int]:
        """The open files that a frozen copy (frozen.py) must keep to read from the store.  O(1)."""

    def close(self) -> None:
        """Let go, however the store is.  O(1)."""


@mypyc_attr(allow_interpreted_subclasses=True)         # tests have devices that fail
class FileStore:
    """A file or a block device; `most` is 0 for a file."""

    __slots__ = ("fd", "path", "kind", "most", "can_discard", "_punch_errors")

    def __init__(self, fd: int, path: str = "", size_bytes: int = 0) -> None:
        self.fd = fd
        self.path = path
        self.most = max((size_bytes >> PAGE_SHIFT) - 1, 0)      # the first page of a file is not used
        found = os.fstat(fd)
        self.kind = "device" if stat.S_ISBLK(found.st_mode) else "file" if found.st_nlink else "unlinked"
        self.can_discard = True
        self._punch_errors = 0

    def read(self, place: int, pages: Sequence[memoryview]) -> None:
        """See Store.  O(pages)."""
        self._transfer(os.preadv, place, pages)

    def write(self, place: int, pages: Sequence[memoryview]) -> None:
        """See Store.  O(pages)."""
        self._transfer(os.pwritev, place, pages)

    def _transfer(self, call: Transfer, place: int, pages: Sequence[memoryview]) -> None:
        offset = place << PAGE_SHIFT
        done = call(self.fd, pages, offset)
        while done < len(pages) * PAGE_SIZE:
            # A short transfer goes on at the page where it stopped; one that moves nothing has failed.
            i = done >> PAGE_SHIFT
            more = call(self.fd, pages[i:], offset + (i << PAGE_SHIFT))
            if more <= done - (i << PAGE_SHIFT):
                raise OSError(errno.EIO, "short transfer")
            done = (i << PAGE_SHIFT) + more

    def discard(self, place: int, n: int) -> bool:
        """See Store: punch a hole.  O(1) here; the file system may walk all that is punched."""
        if not self.can_discard:
            return False
        mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
        error = 0
        for _ in range(PUNCH_TRIES):
            done = _fallocate(self.fd, mode, place << PAGE_SHIFT, n << PAGE_SHIFT) == 0
            error = 0 if done else ctypes.get_errno()
            if error != errno.EINTR:        # the server's timer ticks while there is traffic
                break
        if error:
            self.can_discard = error not in (errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODEV)
            self._punch_errors += 1
            if seldom(self._punch_errors):
                log.info("swap %s: a hole was not punched, %d times so far: %s", self.path, self._punch_errors,
                         os.strerror(error))
        return not error

    def state(self) -> str:
        """See Store.  O(1)."""
        return ""

    def descriptors(self) -> list[int]:
        """See Store.  O(1)."""
        return [self.fd]

    def close(self) -> None:
        """See Store.  O(1)."""
        with contextlib.suppress(OSError):              # the device under it may be dead
            if stat.S_ISREG(os.fstat(self.fd).st_mode):
                os.ftruncate(self.fd, 0)
        with contextlib.suppress(OSError):
            os.close(self.fd)


def open_store(path: str, direct: bool = False) -> FileStore:
    """Open a directory (an unlinked file in it), a file or a block device, as a store.  O(1).

    => A file that does not exist is made.  OSError tells what the system refused: EBUSY for a file or device that
    another mount pages to, EPERM for a file that others can reach, ELOOP for a symbolic link anywhere in the path
    (swapplaces.py follows the links that the user names).
    """
    fd = open_place(path, os.O_DIRECT if direct else 0)
    try:
        return FileStore(fd, path, own(fd, path))
    except OSError:
        os.close(fd)
        raise


def open_place(path: str, flags: int = 0) -> int:
    """The first half of open_store(), for a process that may open the path.  Only a missing file is made.

    O(1).
    """
    flags |= os.O_RDWR | os.O_CLOEXEC | os.O_NOCTTY
    if os.path.isdir(path):
        # Never reachable by name, gone with the daemon however it ends.
        return open_straight(path, flags | os.O_TMPFILE | os.O_EXCL, 0o600)
    try:
        return open_straight(path, flags | os.O_EXCL)       # a block device is claimed: mkfs on it fails from now on
    except FileNotFoundError:
        fd = open_straight(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
        os.fchmod(fd, 0o600)                                # whatever the umask
        return fd


def open_straight(path: str, flags: int, mode: int = 0) -> int:
    """As os.open(), without following any symbolic link: one may be put there after the path was checked.

    O(1).
    """
    how = (ctypes.c_uint64 * 3)(flags, mode, RESOLVE_NO_SYMLINKS)
    fd = int(_syscall(SYS_OPENAT2, AT_FDCWD, os.fsencode(path), ctypes.byref(how), ctypes.sizeof(how)))
    if fd >= 0:
        return fd
    error = ctypes.get_errno()
    if error in (errno.ENOSYS, errno.EPERM):                # a kernel before 5.6, a container's filter of system calls
        return os.open(path, flags | os.O_NOFOLLOW, mode)
    raise OSError(error, os.strerror(error), path)


def demand_private(fd: int, path: str) -> None:
    """Refuse a regular file that another user owns, may open, or has a second name for.  O(1).  => OSError EPERM."""
    state = os.fstat(fd)
    alone = state.st_uid in (0, os.geteuid()) and state.st_nlink <= 1 and not state.st_mode & 0o077
    if stat.S_ISREG(state.st_mode) and not alone:
        raise OSError(errno.EPERM, "must belong to you alone, mode 0600: it will hold everybody's data", path)


def own(fd: int, path: str) -> int:
    """The second half: lock a file or device; empty a file, which must be ours alone.  The device's size; 0 for a file.

    O(1) here; the system walks what it empties.
    """
    demand_private(fd, path)
    mode = os.fstat(fd).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
        raise OSError(errno.EINVAL, "must be a directory, a file or a block device", path)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OSError(errno.EBUSY, "another mount pages to it", path) from None
    if stat.S_ISBLK(mode):
        return os.lseek(fd, 0, os.SEEK_END)
    os.ftruncate(fd, 0)
    return 0
