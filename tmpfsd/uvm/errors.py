"""uvm/errors.py: what memory can refuse, each with the errno that a caller of the file system sees.  All O(1)."""

import errno
from typing import ClassVar


class VmError(Exception):
    """Memory refused; `errno` is what the system call should return."""

    errno: ClassVar[int] = errno.EIO


class NoMemory(VmError):
    """No page or item can be had within the limits; nothing has changed."""

    errno: ClassVar[int] = errno.ENOSPC


class NoSwap(VmError):
    """No free swap slot; nothing has changed."""

    errno: ClassVar[int] = errno.ENOSPC


class SwapIOError(VmError):
    """A page could not be read back: the device failed or the checksum is wrong."""

    errno: ClassVar[int] = errno.EIO


class WrongPage(SwapIOError):
    """A store answered with something else than the page: it was changed there, or is another page."""

    errno: ClassVar[int] = errno.EIO


class Unanswered(SwapIOError):
    """A store does not answer for any page: nothing is known of this page."""

    errno: ClassVar[int] = errno.EIO


class Inconsistent(VmError):
    """An invariant does not hold: its number, what was seen, and the state around it."""

    errno: ClassVar[int] = errno.EIO

    def __init__(self, invariant: str, seen: str, dump: str = "") -> None:
        super().__init__(f"{invariant}: {seen}")
        self.invariant = invariant
        self.dump = dump


def demand(condition: object, invariant: str, seen: str) -> None:
    """Raise Inconsistent(invariant, seen) unless condition holds; for check() functions."""
    if not condition:
        raise Inconsistent(invariant, seen)
