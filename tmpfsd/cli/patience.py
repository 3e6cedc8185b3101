"""patience.py: how long a command waits for the result of a stranger's server, which may say "nearly done" for ever.

Our own daemon, and root's, are believed: to empty a large swap file on a slow disk, or to check a large mount, takes as
long as it takes, and Ctrl-C ends it.  Of any other user's server we demand that the progress grows by one per cent in
STALLED seconds.

Picture     {"done": N, "of": M}   one mark for each M: N as per cent of it.  A new M is a new part of the work: `set`
                                   with several values has several
            {"names": N, ...}      one mark for each name: N must grow by one per cent of itself
Invariants  P1 It has an end, whatever the server says: there are at most MOST_MARKS marks, and each grows to a limit in
               steps of one per cent.
Limits      Work that needs more than STALLED seconds for one per cent is given up.  That is 16 hours for all of it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from tmpfsd.cli.shapes import MOST_NUMBER

STALLED = 600.0             # seconds; the daemon says nothing new while it sorts out what to check, or syncs an image
MOST_MARKS = 8

clock = time.monotonic


def marks(progress: Mapping[str, Any]) -> Iterator[tuple[tuple[str, int], int]]:
    """Return how far the work is: each figure by its name, and by what it is a part of."""
    if "of" in progress:
        yield ("of", progress["of"]), min(100 * progress["done"] // max(progress["of"], 1), 100)
        return
    for name, value in progress.items():
        if type(value) is int and 0 <= value < MOST_NUMBER:
            yield (name, 0), value


class Patience:
    """What one command knows of its progress."""

    __slots__ = ("best", "endless", "seconds", "since")

    def __init__(self, endless: bool) -> None:
        self.endless, self.seconds = endless, STALLED       # endless: the server is believed
        self.best: dict[tuple[str, int], int] = {}
        self.since = clock()                                # when it last was further than before

    def heed(self, progress: Mapping[str, Any]) -> None:
        """Note how far the work is."""
        for mark, value in marks(progress):
            best = self.best.get(mark)
            if best is None and len(self.best) < MOST_MARKS or best is not None and value >= best + max(best // 100, 1):
                self.best[mark] = value
                self.since = clock()

    def is_over(self) -> bool:
        """Tell whether the server was given time enough."""
        return not self.endless and clock() - self.since > self.seconds
