"""tmpfs/gate.py: the one place that decides whether a mount may change, and that turns exceptions into an errno.

All that work on a mount ask here: the handlers of requests, the reaper of discarded trees, idle work, the commands of
the control socket.  If an invariant does not hold, that is a bug of ours, and the tables cannot be trusted.  From then
on nothing is changed, and what is intact can be read and copied away.

Picture     OPEN --an invariant does not hold--> BROKEN, for as long as the mount lives
Invariants  G1 Once broken, no operation, command or background work that changes the mount begins, nor its next slice.
            G2 errno_of() and broke() raise nothing, in any state of the mount: an exception would end the server.
Limits      Pages are still paged out if a read needs their frames, and the kernel's references are still counted up:
            without that nothing could be read.  For a mount that is `ro` the kernel refuses changes.
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

MOST_REASONS = 32               # kinds of what can be full: size, ram, swap, nr_inodes, a map for each pool


class Gate:
    """The gate of one mount; when an invariant breaks, status() is logged."""

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
        """Turn any exception of an operation into an errno; log unexpected ones, and close the gate if needed."""
        if isinstance(error, AssertionError):
            error = Inconsistent("assert", str(error), "".join(traceback.format_exception(error)))
        if isinstance(error, Inconsistent):
            self.broke(error, what)
        elif isinstance(error, OverQuota):
            log.debug("%s: %s", what, error)        # it concerns one user: the mount is not full
        elif isinstance(error, NoMemory):
            self.count_refusal(str(error))
        elif not isinstance(error, (FsError, VmError)):
            log.error("%s: unexpected", what, exc_info=error)
            return errno.EIO
        elif error.errno == errno.EIO:
            log.debug("%s: %s", what, error)        # uvm/ has logged it, once
        return error.errno

    def broke(self, error: Inconsistent, what: str) -> None:
        """An invariant does not hold: log it with all details, and refuse changes from now on."""
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
        """Bytes written through a mapping could not be kept; perhaps only the log and the status tell of it."""
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
