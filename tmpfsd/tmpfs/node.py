"""tmpfs/node.py: the life of a node (after tmpfs_alloc_node() and tmpfs_free_node() of tmpfs_subr.c).

A node lives while it has a link or while the kernel knows it (nlookup).  The kernel's references are counted in dense
pages beside the nodes, with a mark (ORPHAN) for nodes whose last link is gone.  So a FORGET touches a node only when it
ends it; the kernel sends a hundred thousand of them when its memory is short.

Picture     get_node --attach--> linked --last link--> ORPHAN --last forget--> destroyed: free, or doomed (doomed.py)

Invariants
    N1  ORPHAN is set in a node's lookup word exactly when tn_links is 0.
    N2  A node that is not linked has a lookup count above 0.
    N3  norphans counts the nodes that are marked.

A node that cannot be freed, because a page of it cannot be read or no frame can be had, is given up.  It stays whole
and allocated, and is tried again while there are no requests (free_again()): the fault may have passed.

Limits      A lookup count that reaches 2^31 - 1 stays there: such a node is freed at unmount only.
            At most GIVEN_UP_MOST nodes are tried again.  The others, and nodes whose count cannot be read when the
            kernel gives references back, go only at unmount.
"""

from __future__ import annotations

import logging
import stat
import time
from typing import TYPE_CHECKING

from tmpfsd.seldom import seldom
from tmpfsd.tmpfs import cut, doomed, layout, xattr
from tmpfsd.tmpfs.layout import KIND_INLINE, KIND_STRING, KIND_TREE, NLOOKUP_MAX, ORPHAN
from tmpfsd.uvm.errors import SwapIOError

if TYPE_CHECKING:
    from tmpfsd.tmpfs.filesystem import Mount

log = logging.getLogger(__name__)

GIVEN_UP_MOST = 64
AGAIN_SECONDS = 5.0         # after a node could not be freed again


def hold(mp: Mount, ino: int, n: int = 1) -> None:
    """Count n more references of the kernel to a node.  => SwapIOError; cannot fail once its word was touched."""
    word = mp.mem.nlookup_word(ino)
    value = mp.mem.u32[word]
    count = min((value & NLOOKUP_MAX) + n, NLOOKUP_MAX)
    mp.mem.u32[word] = value & ORPHAN | count


def forget(mp: Mount, ino: int, n: int) -> None:
    """The kernel gives n references back.  Raises Inconsistent only.  => Breathes when that ends the node."""
    try:
        word = mp.mem.nlookup_word(ino)
        value = mp.mem.u32[word]
        count = value & NLOOKUP_MAX
        if count == NLOOKUP_MAX:
            return
        count = max(count - n, 0)
        mp.mem.u32[word] = value & ORPHAN | count
        if value & ORPHAN and not count:
            destroy(mp, ino)
    except SwapIOError:
        mp.lost_nodes += 1


def is_known(mp: Mount, ino: int) -> bool:
    """Whether the kernel has references to a node.  => SwapIOError."""
    return bool(mp.mem.u32[mp.mem.nlookup_word(ino)] & NLOOKUP_MAX)


def drop_links(mp: Mount, at: int, ino: int, n: int, now: int) -> bool:
    """Take n links away; whether the caller must destroy the node, as its last act, because that breathes."""
    links = layout.tn_links(mp.arena, at) - n
    layout.set_tn_links(mp.arena, at, links)
    layout.set_tn_ctime(mp.arena, at, now)
    if links:
        return False
    word = mp.mem.nlookup_word(ino)
    mp.mem.u32[word] |= ORPHAN
    mp.mem.norphans += 1
    if mp.quota is not None:
        mp.quota.add_at(mp.arena, at, 0, -1)
    return mp.mem.u32[word] == ORPHAN


def is_bare(mp: Mount, at: int) -> bool:
    """Whether nothing outside a node must be freed with it."""
    return layout.tn_kind(mp.arena, at) == KIND_INLINE and not layout.tn_xattr(mp.arena, at)


def destroy(mp: Mount, ino: int) -> None:
    """Free a node and all it has: at once if that is little, else it is doomed.  O(log n).  => Breathes.

    A node that cannot be freed is given up.
    """
    mem, arena = mp.mem, mp.arena
    try:
        mode, kind, attributes = layout.tn_holdings(arena, mem.node(ino))
        if kind == KIND_TREE and stat.S_ISREG(mode) and not cut.release(mp, mem.node_w(ino)):
            _doom(mp, ino)
            return
        if attributes and xattr.remove_some(mp, ino, doomed.FEW_ATTRIBUTES):
            _doom(mp, ino)
            return
        # From here on nothing can fail: a node that is given up before has its string, and is whole.
        at = mem.node(ino)
        if mp.quota is not None:
            mp.quota.forget_at(arena, at)
        if kind == KIND_STRING:
            _put_string(mp, at)
    except SwapIOError as error:
        give_up(mp, ino, error)
        return
    mem.put_orphan(ino)


def _put_string(mp: Mount, at: int) -> None:
    """Give back the string of a node: the bytes of a regular file, or the target of a symlink.  => Cannot fail."""
    handle = layout.tn_string(mp.arena, at)
    if stat.S_ISREG(layout.tn_mode(mp.arena, at)):
        mp.mem.put_data_string(handle)
    else:
        mp.mem.strings.put(handle)


def give_up(mp: Mount, ino: int, error: SwapIOError) -> None:
    """A node stays allocated, and is counted in lost_nodes until it is freed after all.  O(1)."""
    mp.lost_nodes += 1
    mp.ngiven_up += 1
    if len(mp.given_up) < GIVEN_UP_MOST:
        mp.given_up.append(ino)
    if seldom(mp.ngiven_up):
        log.error("inode %d: cannot be freed, its pages stay allocated (%d such inodes): %s", ino, mp.lost_nodes,
                  error)


def free_again(mp: Mount) -> bool:
    """Try once more to free a node that was given up; whether one was tried.  O(log n).  => Breathes."""
    now = time.monotonic()
    if not mp.given_up or now < mp.again_at:
        return False
    ino, before = mp.given_up.pop(0), mp.ngiven_up
    mp.lost_nodes -= 1
    mp.breathe()
    try:
        doomed_before = mp.mem.u32[mp.mem.nlookup_word(ino)] & NLOOKUP_MAX
        if doomed_before:
            doomed.push(mp, ino, mp.mem.node_w(ino))
        else:
            destroy(mp, ino)
    except SwapIOError as error:
        give_up(mp, ino, error)
        doomed_before = 0
    if doomed_before or mp.ngiven_up > before:      # the reaper may give it up again
        mp.again_at = now + AGAIN_SECONDS
    return True


def _doom(mp: Mount, ino: int) -> None:
    """Have the reaper free the node; it looks like a regular file with a tree from then on.  => SwapIOError."""
    mem, arena = mp.mem, mp.arena
    word, at = mem.nlookup_word(ino), mem.node_w(ino)
    if mp.quota is not None:
        mp.quota.forget_at(arena, at)
    kind = layout.tn_kind(arena, at)
    if kind != KIND_TREE:
        if kind == KIND_STRING:
            _put_string(mp, at)
        layout.clear_spec(arena, at)
        layout.set_tn_kind(arena, at, KIND_TREE)
    layout.set_tn_mode(arena, at, stat.S_IFREG)
    mem.u32[word] = ORPHAN | 1
    doomed.push(mp, ino, at)
