"""fuse/lookahead.py: whether a listing should bring attributes along, because names are looked up afterwards.

The kernel sends READDIRPLUS for every listing, and an entry of the reply may leave its node out (nodeid 0).  So the
choice is ours.  FUSE_READDIRPLUS_AUTO would have the kernel choose: it brings attributes with what fits into the first
reply, and with later ones only if somebody has looked at those before.  find, du and rm read a whole directory first:
then each name that was in a later reply costs a LOOKUP.

The first reply of a directory always has attributes: most directories need no other.  Later replies have them if a
quarter of the names that were given without were looked up afterwards.  While they have them, one reply in PROBE has
none, which shows whether that still holds.  (NFS clients choose in a similar way: fs/nfs/dir.c, nfs_use_readdirplus.)

Picture     given: names without attributes;  looked: LOOKUPs of such names, in the last KNOWN directories
            both are halved when given reaches RECENT, so that what counts is the recent past

Breathing   Nothing here breathes.  All O(1).
"""

from __future__ import annotations

from typing import Final

KNOWN: Final = 8            # directories whose LOOKUPs are counted
RECENT: Final = 1024        # names
PROBE: Final = 64           # replies
WANTED: Final = 4           # one of so many names was looked up


class Lookahead:
    """What a session knows of the use of its listings."""

    __slots__ = ("given", "looked", "plain", "_replies")

    def __init__(self) -> None:
        self.given = self.looked = 0
        self.plain: dict[int, int] = {}     # by directory: names without attributes that were not looked up since
        self._replies = 0

    def wants(self, first: bool) -> bool:
        """Whether a reply should have attributes; first: it begins a directory."""
        if first:
            return True
        if self.looked * WANTED < self.given or not self.given:
            return False
        self._replies += 1
        return self._replies % PROBE != 0

    def gave(self, dino: int, names: int) -> None:
        """A reply had so many names without attributes."""
        self.plain[dino] = self.plain.pop(dino, 0) + names
        if len(self.plain) > KNOWN:
            del self.plain[next(iter(self.plain))]
        self.given += names
        if self.given >= RECENT:
            self.given >>= 1
            self.looked >>= 1

    def looks(self, dino: int) -> None:
        """A name of a directory was looked up, and found.  => dino is in `plain`."""
        left = self.plain[dino]
        if left > 0:
            self.plain[dino] = left - 1
            self.looked += 1
