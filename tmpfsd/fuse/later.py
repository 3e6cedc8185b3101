"""fuse/later.py: a request that takes long, and is answered when its work is done.

Its handler does the part that must be done at once, puts a Later into Session.later and returns None.  The loop does
steps of it between other requests, so that only the caller waits; Session.go_on() gives the answer.  A read that comes
meanwhile sees the work half done.  Changes of the same file wait in the kernel, which holds the inode's lock.

Picture     handler --Later--> session.later --go_on(), a step at a time--> the answer
Limits      They are done in order, one to its end before the next.  An unmount drops the rest: nobody waits for it
            then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

NOBODY: Final = 0        # as unique: nobody waits for it (FORGET)


class Later:
    """The rest of a request on an inode: step() does some of it, and tells whether there is more.

    => A step takes less than a millisecond.  It may raise the errors of a vnop.  The caller breathes before each.
    """

    __slots__ = ("unique", "ino", "name", "step")

    def __init__(self, unique: int, ino: int, name: str, step: Callable[[], bool]) -> None:
        self.unique, self.ino, self.name, self.step = unique, ino, name, step
