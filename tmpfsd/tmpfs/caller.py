"""tmpfs/caller.py: who makes a request: user and group from FUSE, other groups and capabilities from /proc.

FUSE gives user and group as they are for files (setfsuid(2)), and the number of the thread.  All else is in /proc.  It
is looked up only if it decides something, and then each time: a thread that waits for its answer is still there.

Invariants  W1 If a caller cannot be seen (in no process-ID namespace of ours, ended, hidden by hidepid), only its user
               ID counts: it is in no other group, and privileged if it is root.
            W2 /proc is believed only if it shows our process-ID namespace, whose numbers FUSE gives: in another one the
               number would be another thread's.
            W3 A capability counts in our user namespace only: a user who makes a namespace has all of them there.
"""

from __future__ import annotations

import os
from functools import lru_cache
from typing import NamedTuple

# <linux/capability.h>
CAP_FOWNER, CAP_FSETID, CAP_LINUX_IMMUTABLE, CAP_SYS_ADMIN, CAP_SYS_RESOURCE = 3, 4, 9, 21, 24


class Seen(NamedTuple):
    """The facts that /proc gives of a thread."""

    groups: frozenset[int]
    capabilities: int           # the effective ones, in our user namespace
    known: bool


NOBODY = Seen(frozenset(), 0, False)


class Caller:
    """Who makes a request; `uid` and `gid` are those for files.  One object may be filled anew for each request."""

    __slots__ = ("uid", "gid", "pid", "umask")

    def __init__(self, uid: int = 0, gid: int = 0, pid: int = 0, umask: int = 0) -> None:
        self.uid, self.gid, self.pid, self.umask = uid, gid, pid, umask

    def in_group(self, gid: int) -> bool:
        """Tell whether the caller is in a group."""
        return gid == self.gid or gid in look(self.pid).groups

    def capable(self, capability: int) -> bool:
        """Tell whether the caller has a capability."""
        seen = look(self.pid)
        return bool(seen.capabilities >> capability & 1) if seen.known else self.uid == 0


class Privileged(Caller):
    """A caller that has every capability, whoever it is."""

    def capable(self, capability: int) -> bool:
        """Yes."""
        return True


def look(pid: int) -> Seen:
    """Return what /proc tells of a thread."""
    if pid <= 0 or not is_our_proc():
        return NOBODY
    try:
        fields = status_of(str(pid))
        capabilities = int(fields[b"CapEff"], 16)
        if _read(f"/proc/{pid}/uid_map") != our_users():
            capabilities = 0
        return Seen(frozenset(map(int, fields[b"Groups"].split())), capabilities, True)
    except (OSError, KeyError, ValueError):
        return NOBODY


@lru_cache(maxsize=1)
def our_users() -> bytes:
    """Return the ID map of our user namespace, which differs from those below it.  => OSError."""
    return _read("/proc/self/uid_map")


@lru_cache(maxsize=1)
def is_our_proc() -> bool:
    """Tell whether /proc shows our process-ID namespace: then it gives us one number, that of getpid()."""
    try:
        return status_of("self")[b"NSpid"].split() == [b"%d" % os.getpid()]
    except (OSError, KeyError):
        return False


def status_of(pid: str) -> dict[bytes, bytes]:
    """Return the fields of /proc/PID/status.  => OSError."""
    lines = _read(f"/proc/{pid}/status").split(b"\n")
    return {name: value.strip() for name, colon, value in (line.partition(b":") for line in lines) if colon}


def _read(path: str) -> bytes:
    with open(path, "rb", buffering=0) as file:
        return file.read()
