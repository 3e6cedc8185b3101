"""tmpfs/doomed.py: the list of nodes that nobody can reach any more; they are freed in slices (reap.py).

On it are directories that are being discarded (detach.py), files that lost their last link and reference and are too
large to be freed at once (node.py), and the tails of files that were cut (cut.py), each in a node of its own.  All are
nodes without a link.  The list is kept in their own bytes, where a directory has its parent, so it takes no memory
outside the pools.  New nodes go to the front.

Picture     --push--> the first of the list (links 0, ORPHAN, one reference of ours) --empty: pop--> node.forget()

Invariants
    K1  A node on the list is a directory or a regular file with a tree, has no link and a reference, and the list
        ends at 0.
    K2  A directory without a link that has entries is on the list, or was given up (lost_nodes).
    K3  doomed_pages counts the pages of data on the list.

Breathing   Nothing here breathes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tmpfsd.tmpfs.layout import set_tn_parent, tn_pages, tn_parent

if TYPE_CHECKING:
    from tmpfsd.tmpfs.filesystem import Mount

FEW_ATTRIBUTES = 4          # of a node that are freed at once, or in a step of the reaper: 17 items each at most


def push(mp: Mount, ino: int, at: int) -> None:
    """Put a node at the front of the list; `at` must be writable, and its reference taken.  O(1).  => Cannot fail."""
    set_tn_parent(mp.arena, at, mp.doomed)
    mp.doomed, mp.doomed_from = ino, 0
    mp.doomed_pages += tn_pages(mp.arena, at)
    mp.on_doomed()


def pop(mp: Mount, at: int) -> None:
    """Take the first node, which is at `at`, off the list.  O(1).  => Cannot fail."""
    mp.doomed, mp.doomed_from = tn_parent(mp.arena, at), 0
    mp.doomed_pages -= tn_pages(mp.arena, at)
