"""fuse/caller.py: who makes a request.

The kernel hands over uid, gid and pid; what groups the caller is in besides is looked up when an operation asks.
"""

from __future__ import annotations


def groups_of(pid: int) -> frozenset[int]:
    """The supplementary groups of a process.  => OSError where it is gone; none where /proc says nothing."""
    with open(f"/proc/{pid}/status", "rb") as file:
        for line in file:
            if line.startswith(b"Groups:"):
                return frozenset(int(word) for word in line.split()[1:])
    return frozenset()


class Caller:
    """Who makes the request that is being served: one object, filled anew for each."""

    __slots__ = ("uid", "gid", "pid", "umask")

    def __init__(self, uid: int = 0, gid: int = 0, pid: int = 0, umask: int = 0) -> None:
        self.uid, self.gid, self.pid, self.umask = uid, gid, pid, umask

    def in_group(self, gid: int) -> bool:
        """Tell whether the caller is in a group.  One that is gone, or not seen from here, has its own only."""
        if gid == self.gid:
            return True
        try:
            return gid in groups_of(self.pid)
        except (OSError, ValueError):
            return False


class Stranger(Caller):
    """Somebody without rights."""

    def in_group(self, gid: int) -> bool:
        """No."""
        return False


STRANGER = Stranger(0xFFFFFFFE, 0xFFFFFFFE)
