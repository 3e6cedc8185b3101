"""tmpfs/gate.py: the one place that decides whether a mount may change, and that turns what went wrong into an errno.

Whoever works on a mount asks here: the handlers of requests, the reaper of discarded trees, idle work, the commands of
the control socket.  An invariant that does not hold is a bug of ours, and what the books say is not to be trusted:
from then on nothing is changed by them, and what is whole can be read and copied away.

Picture     OPEN --an invariant does not hold--> BROKEN, for as long as the mount lives
Invariants  G1 Once broken, no operation, command or background work that changes the mount begins, nor its next slice.
            G2 errno_of() and broke() raise nothing, whatever state the mount is in: an exception would end the server.
Limits      Pages are still paged out where a read needs their frames, and the kernel's references are still counted
            up: without that nothing could be read.  A mount that is `ro` is the kernel's matter.
"""

from __future__ import annotations

import errno
import json
import logging
import traceback
from collections.abc import Callable
from typing import Any

from tmpfsd.seldom import seldom
from tmpfsd.tmpfs.accounts import OverQuota
from tmpfsd.tmpfs.fserror import FsError
from tmpfsd.uvm.errors import Inconsistent, NoMemory, VmError

log = logging.getLogger(__name__)

MOST_REASONS = 32               # what can be full: size, ram, swap, nr_inodes, a map for each pool


class Gate:
    """The gate of one mount; status() is what is logged when an invariant breaks."""

    __slots__ = ("broken", "nbroken", "refused", "lost_writes", "_status")

    def __init__(self, status: Callable[[], dict[str, Any]]) -> None:
        self.broken = False
        self.nbroken = 0
        self.refused: dict[str, int] = {}       # ENOSPC, by what was full: at most MOST_REASONS
        self.lost_writes = 0                    # writes of the kernel's page cache that failed (writeback.py)
        self._status = status

    def demand_writable(self) -> None:
        """=> FsError EROFS once an invariant broke."""
        if self.broken:
            raise FsError(errno.EROFS)

    def errno_of(self, error: Exception, what: str) -> int:
        """Turn whatever left an operation into an errno; log what should not be, and close the gate where it must."""
        if isinstance(error, AssertionError):
            error = Inconsistent("assert", str(error), "".join(traceback.format_exception(error)))
        if isinstance(error, Inconsistent):
            self.broke(error, what)
        elif isinstance(error, OverQuota):
            log.debug("%s: %s", what, error)        # one user's matter: the mount is not full
        elif isinstance(error, NoMemory):
            self.count_refusal(str(error))
        elif not isinstance(error, (FsError, VmError)):
            log.error("%s: unexpected", what, exc_info=error)
            return errno.EIO
        elif error.errno == errno.EIO:
            log.debug("%s: %s", what, error)        # uvm/ has logged it, once
        return error.errno

    def broke(self, error: Inconsistent, what: str) -> None:
        """An invariant does not hold: log it with all there is to know, and refuse changes from now on."""
        self.nbroken += 1
        self.broken = True
        if seldom(self.nbroken):
            log.critical("%s: %s; changes are refused from now on (seen %d times)\n%s\n%s", what, error, self.nbroken,
                         error.dump, self._state())

    def _state(self) -> str:
        """The status as one line; of a broken mount even that may fail (G2)."""
        try:
            return json.dumps(self._status())
        except Exception as error:
            return f"no status: {error!r}"

    def lost_write(self, ino: int, offset: int, nbytes: int, error: Exception) -> None:
        """What was written through a mapping could not be kept; maybe only who reads log or status hears of it."""
        self.lost_writes += 1
        if seldom(self.lost_writes):
            log.error("inode %d: %d bytes from %d on could not be kept; lost, if they came through a mapping: %s "
                      "(seen %d times)", ino, nbytes, offset, error, self.lost_writes)

    def count_refusal(self, reason: str) -> None:
        """Count an ENOSPC by what is full; the first of each kind is logged."""
        if reason not in self.refused and len(self.refused) < MOST_REASONS:
            self.refused[reason] = 0
            log.warning("ENOSPC: %s", reason)
        if reason in self.refused:
            self.refused[reason] += 1
