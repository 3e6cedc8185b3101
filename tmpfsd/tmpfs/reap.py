"""tmpfs/reap.py: the reaper: frees the nodes on the list of the doomed, a step at a time.

The server calls reap() between requests, as long as mp.doomed is not 0.  An operation that is refused memory calls
make_room() before it fails.  So a removed tree makes room at once, even if it is not freed yet.

Picture     a directory: detach.py empties it, entry by entry
            a file: its last pages, its attributes --nothing left--> off the list, and the node goes (node.forget)

Breathing   All functions breathe.

Limits      A node that cannot be read back is given up (node.py): its pages stay allocated for now.
            If the page of a doomed node itself cannot be read, reap() stops.  The list is intact, and a later call goes
            on when the page can be read again.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Callable

from tmpfsd.tmpfs import cut, detach, doomed, layout, node, xattr
from tmpfsd.tmpfs.accounts import OverQuota
from tmpfsd.tmpfs.detach import StaleName
from tmpfsd.tmpfs.layout import S_IFDIR, S_IFMT
from tmpfsd.uvm.errors import NoMemory, SwapIOError

if TYPE_CHECKING:
    from tmpfsd.tmpfs.filesystem import Mount

log = logging.getLogger(__name__)

ROOM_STEPS = 4              # steps of the reaper before a refused operation is tried again: two milliseconds
UNTOLD_MOST = 4096          # with so many names that the kernel must still be told of, only the server reaps


def reap(mp: Mount) -> tuple[int, list[StaleName]]:
    """Free some of the doomed nodes: (number of names taken away, those that the kernel must be told of).  O(1).

    => mp.doomed is not 0.  => SwapIOError if the list cannot be read: nothing has changed.  => Breathes.
    """
    mp.breathe()
    ino = mp.doomed
    at = mp.mem.node_w(ino)
    mp.mem.nlookup_word(ino)
    if layout.tn_mode(mp.arena, at) & S_IFMT == S_IFDIR:
        return detach.empty_some(mp, ino, at)
    try:
        freed = cut.free_some(mp, at)
        mp.doomed_pages -= freed
        if freed or xattr.remove_some(mp, ino, doomed.FEW_ATTRIBUTES):
            return 0, []
    except SwapIOError as error:
        doomed.pop(mp, mp.mem.node_w(ino))
        node.give_up(mp, ino, error)
        return 0, []
    doomed.pop(mp, mp.mem.node_w(ino))
    node.forget(mp, ino, 1)
    return 0, []


def make_room(mp: Mount) -> bool:
    """Free some of the doomed nodes; whether an operation refused memory may be tried again.  => Breathes."""
    steps = 0
    try:
        while steps < ROOM_STEPS and mp.doomed and not mp.gate.broken and len(mp.untold) < UNTOLD_MOST:
            mp.untold += reap(mp)[1]
            steps += 1
    except SwapIOError as error:
        log.debug("no room is made: %s", error)
    mp.breathe()
    return steps > 0


def helps(mp: Mount, shortage: NoMemory | None) -> bool:
    """Tell whether reaping may help a refused operation.

    A doomed file is charged to nobody; files in a doomed directory are charged until the reaper meets them.
    """
    return not isinstance(shortage, OverQuota) or mp.quota is not None and mp.quota.ntrees > 0


def retry(mp: Mount, refusal: NoMemory, operation: Callable[..., Any], *args: Any) -> Any:
    """Try an operation that was refused memory again, while reaping makes room.  => Its answer, or the refusal.

    => Breathes.
    """
    while helps(mp, refusal) and make_room(mp):
        try:
            return operation(*args)
        except NoMemory as error:
            refusal = error
    raise refusal
