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
    """What a store has answered with is not the page: it was changed there, or it is another's."""

    errno: ClassVar[int] = errno.EIO


class Unanswered(SwapIOError):
    """A store does not answer at all, whatever page is asked for: nothing is known of the page."""

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
