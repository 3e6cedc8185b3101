"""tmpfs/caller.py: who makes a request: what FUSE hands over, and what it does not: other groups and capabilities.

FUSE says user and group as they are for files (setfsuid(2)), and the number of the thread.  All else is in /proc, and
is looked up only where it decides something, each time: a thread that waits for its answer is there.

Invariants  W1 Of a caller that cannot be seen (in no process-ID namespace of ours, ended, hidden by hidepid) nothing is
               assumed but what its user ID says: it is in no other group, and privileged if it is root.
            W2 /proc is believed only where it shows our process-ID namespace, in which FUSE counts: in another's the
               number would be a stranger's.
            W3 A capability counts in our user namespace only: whoever makes one of his own has all of them there.
"""

from __future__ import annotations

import os
from functools import lru_cache
from typing import NamedTuple

# <linux/capability.h>
CAP_FOWNER, CAP_FSETID, CAP_LINUX_IMMUTABLE, CAP_SYS_ADMIN, CAP_SYS_RESOURCE = 3, 4, 9, 21, 24


class Seen(NamedTuple):
    """What /proc says of a thread."""

    groups: frozenset[int]
    capabilities: int           # the effective ones, in our user namespace
    known: bool


NOBODY = Seen(frozenset(), 0, False)


class Caller:
    """Who makes a request; `uid` and `gid` are those for files.  May be one object, filled anew for each."""

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
    """Somebody who has every capability, whoever it was."""

    def capable(self, capability: int) -> bool:
        """Yes."""
        return True


def look(pid: int) -> Seen:
    """Return what is to be known of a thread."""
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
    """Return what tells our user namespace from those below it.  => OSError."""
    return _read("/proc/self/uid_map")


@lru_cache(maxsize=1)
def is_our_proc() -> bool:
    """Tell whether /proc shows our process-ID namespace: we have one number in it then, the one that we know."""
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
