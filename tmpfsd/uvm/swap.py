"""uvm/swap.py: a swap file and its slots.

A slot holds one page.  Slots are taken in runs, so that pages that leave together
are written in one call and can come back in one.  The page daemon decides what is
written; this file knows slots, bytes and checksums, and nothing of pages but their
number, which seeds the checksum: a slot that answers with another page's bytes is
found out as surely as one with a flipped bit.

Slot numbers of all the swap files of a machine are one space (swapset.py): those of this file begin at `base`.

Picture     FREE --alloc--> HELD --free--> FREE (its disk blocks stay until trim)
                            HELD --retire--> BAD (a write failed, or a page was lost; never again)
                            HELD --free while there is a hold--> PARKED --unpark--> FREE

Invariants
    S1  Slot 0 is never handed out (0 means "none" in the page table).
    S2  The map says what each slot is: nheld are held by one page each, nbad are bad, nparked are given back and kept
        for a hold (frozen.py), the rest are free.
    S3  sums has the checksum of what was written to a held slot.

Limits      A file system without hole punching keeps its blocks.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import logging
import mmap
import os
import stat
import time
from array import array
from typing import Any, Callable, Sequence
from zlib import crc32

from tmpfsd.native import mypyc_attr
from tmpfsd.uvm import failpoint
from tmpfsd.uvm.errors import NoSwap, SwapIOError, demand
from tmpfsd.uvm.lost import seldom
from tmpfsd.uvm.param import PAGE_SHIFT, PAGE_SIZE, ptoa
from tmpfsd.uvm.vmem import BAD, HELD, PARKED, Vmem

log = logging.getLogger(__name__)

FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE = 1, 2        # <linux/falloc.h>; the os module has no names for them
FULL_SECONDS = 0.5                      # between two looks at a disk that was full
PUNCH_TRIES = 100
GROW = 16384                            # checksums by which there come to be more: 64 KiB
UNPARK = 4096                           # slots unparked at once
HOLE = 4096                             # slots of a hole that is punched in one call
SYS_OPENAT2 = 437                       # <asm-generic/unistd.h>, the same on all machines but Alpha
RESOLVE_NO_SYMLINKS = 4                 # <linux/openat2.h>
AT_FDCWD = -100
_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.restype = ctypes.c_long
_fallocate = ctypes.CDLL(None, use_errno=True).fallocate64
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def open_swap(path: str, direct: bool = False) -> tuple[int, int]:
    """Open a directory (an unlinked file in it), a file or a block device: (fd, size limit in bytes or 0).  O(1).

    => a file that does not exist is made.  OSError names what the system refused; EBUSY for a file or device that
    another mount pages to, EPERM for a file that others can reach, ELOOP for a symbolic link anywhere in the path
    (options.py follows those that the user names).
    """
    fd = open_place(path, os.O_DIRECT if direct else 0)
    try:
        return fd, own(fd, path)
    except OSError:
        os.close(fd)
        raise


def open_place(path: str, flags: int = 0) -> int:
    """The first half of it, for who has the right to open it; nothing is changed yet, but a missing file is made.

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
    """As os.open(), without following any symbolic link: one may be put in the way after the path was looked at.

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
    """The second half: lock a file or device; empty a file, which must be ours alone.  A device's size, 0 of a file.

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


@mypyc_attr(allow_interpreted_subclasses=True)         # tests have devices that fail
class Swap:
    """Slots of one swap file.

    `space` is false for a while after a write found the disk full, or until a slot is freed: meanwhile
    only slots that have their disk blocks are written.  While it drains no slot is given out.
    `full` is for people: the last write that needed room on the disk found none.
    """

    __slots__ = ("fd", "path", "nslots", "base", "width", "draining", "full", "nheld", "nbad", "nparked",
                 "untrimmed", "sums", "hold", "read_only", "_arena", "_trim_at", "_can_punch", "_full_until")

    def __init__(self, fd: int, nslots: int, path: str = "", base: int = 1, width: int = 0) -> None:
        self.fd = fd
        self.path = path
        self.nslots = nslots                    # may change, up to `width`
        self.base = base
        self.width = max(width, nslots)
        self.draining = self.full = False
        self.nheld = self.nbad = self.nparked = 0
        self.hold: Callable[[], None] | None = None     # what ends a hold (frozen.py) when a slot is needed
        self.read_only = False                  # of a frozen copy
        self._full_until = 0.0
        self.untrimmed = 0                      # slots freed since the last trim began
        self.sums = array("I", [0])             # by place in the file; place 0 is not used
        self._arena = Vmem(base, nslots)        # S1
        self._trim_at = 0
        self._can_punch = True

    @property
    def files(self) -> list[Swap]:
        """As SwapSet has it.  O(1)."""
        return [self]

    @property
    def nfree(self) -> int:
        """Slots that alloc() can give, those parked among them.  O(1)."""
        if self.draining or self.read_only:
            return 0
        return max(min(self._arena.nfree + self.nparked, self.nslots - self.nheld - self.nbad), 0)

    @property
    def space(self) -> bool:
        """Whether the disk under the swap file may have room for more.  O(1)."""
        return not self._full_until or time.monotonic() >= self._full_until

    def owns(self, slot: int) -> bool:
        """Whether a slot is of this file.  O(1)."""
        return self.base <= slot < self.base + self.width

    def resize(self, nslots: int) -> None:
        """Have nslots; fewer than are held means full.  O(top / CHUNK), see vmem.py."""
        assert nslots <= self.width
        self.nslots = nslots
        self._arena.resize(nslots)

    def disk_full(self, _slot: int = 0) -> None:
        """A write found no room on the disk.  O(1)."""
        self._full_until = time.monotonic() + FULL_SECONDS
        self.full = True

    def alloc(self, n: int, at: int = 0) -> tuple[int, int]:
        """Hold up to n slots in a row, from `at` on if that one is free: (first, count).  => NoSwap: there is none.

        O(log n) times Vmem.alloc(): 2 us, seldom 100.
        """
        if failpoint.hook:
            failpoint.hook("Swap.alloc")
        if not self.space:
            raise NoSwap("the disk under the swap file is full")
        n = min(n, self.nfree)
        if n and not self._arena.nfree:
            self.end_hold()
            while self.nparked and not self._arena.nfree:
                self._unpark()
        if n and at and self._arena.alloc_at(at, 1):
            slot, count = at, 1
        else:
            slot, count = self._arena.alloc_some(n)
        if not count:
            raise NoSwap("the swap file is full")
        self.nheld += count
        missing = self._place(slot) + count - len(self.sums)
        if missing > 0:
            self.sums.frombytes(bytes(4 * (missing + min(len(self.sums) >> 3, GROW))))
        return slot, count

    def _place(self, slot: int) -> int:
        """Where a slot stands in the file, in pages; the first page is not used."""
        return slot - self.base + 1

    def free(self, slot: int, n: int = 1) -> None:
        """Give slots back; their disk blocks go at the next trim().  O(n)."""
        if failpoint.hook:
            failpoint.hook("Swap.free")
        if self.hold is not None:
            self._arena.park(slot, n)
            self.nparked += n
        else:
            self._arena.free(slot, n)
        self.nheld -= n
        self.untrimmed += n
        self._full_until = 0.0
        if not self.nheld:
            self.full = False

    def end_hold(self) -> None:
        """Slots are needed, or written over: whoever holds them back must do without.  O(files)."""
        if self.hold is not None:
            self.hold()

    def _unpark(self) -> bool:
        """Make some parked slots free; whether there may be more."""
        n = self._arena.unpark(UNPARK)
        self.nparked -= max(n, 0)
        self.untrimmed += max(n, 0)
        return n != 0

    def retire(self, slot: int) -> None:
        """Never use a held slot again: the device refused it.  O(1)."""
        self._arena.retire(slot)
        self.nheld -= 1
        self.nbad += 1
        if seldom(self.nbad):
            log.warning("swap %s: slot %d failed and is retired (%d so far)", self.path, slot, self.nbad)

    def write_cluster(self, slot: int, pages: Sequence[memoryview], vpns: Sequence[int]) -> None:
        """Write pages to the slots from slot on.  O(pages).  => OSError, and any of them may hold anything."""
        if failpoint.hook:
            failpoint.hook("Swap.write_cluster")
        sums, place = self.sums, self._place(slot)
        for i, page in enumerate(pages):
            sums[place + i] = crc32(page, vpns[i])
        self._transfer(os.pwritev, slot, pages)
        if self.full and self.space:
            self.full = False

    def read_cluster(self, slot: int, pages: Sequence[memoryview], vpns: Sequence[int]) -> int:
        """Read slots from slot on into pages: how many are whole and right, counted from the first.

        O(pages).  => SwapIOError when the first is not.
        """
        if failpoint.hook:
            failpoint.hook("Swap.read_cluster")
        try:
            self._transfer(os.preadv, slot, pages)
        except OSError as error:
            if len(pages) > 1:
                return self.read_cluster(slot, pages[:1], vpns)
            raise SwapIOError(f"slot {slot}, page {vpns[0]}: {error.strerror}") from error
        sums, place = self.sums, self._place(slot)
        for i, page in enumerate(pages):
            if crc32(page, vpns[i]) != sums[place + i]:
                if i:
                    return i
                raise SwapIOError(f"slot {slot}, page {vpns[0]}: wrong checksum")
        return len(pages)

    def _transfer(self, call, slot: int, pages: Sequence[memoryview]) -> None:
        offset = self._place(slot) << PAGE_SHIFT
        done = call(self.fd, pages, offset)
        while done < len(pages) * PAGE_SIZE:
            # A short transfer goes on at the page it broke off in; one that moves nothing has failed.
            i = done >> PAGE_SHIFT
            more = call(self.fd, pages[i:], offset + (i << PAGE_SHIFT))
            if more <= done - (i << PAGE_SHIFT):
                raise OSError(errno.EIO, "short transfer")
            done = (i << PAGE_SHIFT) + more

    def trim(self, budget: int = 32) -> bool:
        """Punch holes where slots are free, at most `budget` runs; whether there is more to do.  O(budget) holes.

        A hole has at most HOLE slots: the file system may walk all that is punched.
        """
        if self.hold is not None:
            return False
        if self.nparked and self._unpark():
            return True
        if not self._can_punch or not (self.untrimmed or self._trim_at):
            return False
        if not self._trim_at:
            self.untrimmed = 0          # what is freed from here on, perhaps behind us, is the next pass's
        for slot, n in self._arena.runs(self._trim_at):
            if not budget:
                return True
            self._punch(slot, n)
            self._trim_at = slot + n
            budget -= 1
        while (n := min(len(self.sums) - self._place(self._arena.top), HOLE)) > 0:     # behind the last in use
            if not budget:
                self._trim_at = self._arena.top
                return True
            start = len(self.sums) - n
            if not self._punch(start + self.base - 1, n):
                break
            del self.sums[start:]
            budget -= 1
        self._trim_at = 0
        return self.untrimmed > 0

    def _punch(self, slot: int, n: int) -> bool:
        if not self._can_punch:
            return False
        mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
        for _ in range(PUNCH_TRIES):
            done = _fallocate(self.fd, mode, self._place(slot) << PAGE_SHIFT, n << PAGE_SHIFT) == 0
            error = 0 if done else ctypes.get_errno()
            if error != errno.EINTR:        # the server's timer ticks while there is traffic
                break
        if error:
            self._can_punch = error not in (errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODEV)
            log.info("swap %s: a hole was not punched: %s", self.path, os.strerror(error))
        return not error

    def stats(self) -> dict[str, Any]:
        """What the status tells of a swap file.  O(1)."""
        return {"path": self.path, "size_bytes": ptoa(self.nslots), "used_bytes": ptoa(self.nheld),
                "bad_slots": self.nbad, "disk_full": self.full, "draining": self.draining}

    def close(self) -> None:
        """Close the file; an unlinked one is gone, one with a name is emptied, a device keeps what it has.  O(1)."""
        self.end_hold()
        with contextlib.suppress(OSError):              # the device under it may be dead
            if stat.S_ISREG(os.fstat(self.fd).st_mode):
                os.ftruncate(self.fd, 0)
        with contextlib.suppress(OSError):
            os.close(self.fd)

    def check(self, held: set[int] | None = None) -> None:
        """Raise Inconsistent where S1-S3 do not hold; held is the set of slots that pages name.  O(slots)."""
        self._arena.check()
        demand(not self._arena.is_free(0), "S1", "slot 0 is free")
        nheld, nbad = self._arena.count(HELD), self._arena.count(BAD)
        demand((nheld, nbad) == (self.nheld, self.nbad), "S2",
               f"{nheld} slots are held and {nbad} bad, counted {self.nheld} and {self.nbad}")
        nparked = self._arena.count(PARKED)
        demand(nparked == self.nparked, "S2", f"{nparked} slots are parked, counted {self.nparked}")
        if held is None:
            return
        demand(len(held) == self.nheld, "S2", f"{self.nheld} held, pages name {len(held)}")
        for slot in held:
            demand(not self._arena.is_free(slot), "S2", f"slot {slot} is held and free")

    def verify(self, slot: int, vpn: int) -> bool:
        """Whether a held slot answers with its page (S3); reads it without changing anything.  O(1)."""
        page = memoryview(_scratch)
        try:
            self.read_cluster(slot, [page], [vpn])
        except SwapIOError:
            return False
        return True


# Page aligned, as O_DIRECT demands; private, as a check of a frozen copy (freeze.py) has its own.
_scratch = mmap.mmap(-1, PAGE_SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
