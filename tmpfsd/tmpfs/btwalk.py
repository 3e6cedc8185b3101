"""tmpfs/btwalk.py: the nodes of a B+tree from a key on, a few hundred at a time.

For walks that let other operations run in between: they remember a key, which stays valid when the tree changes.

Breathing   Nothing here breathes.
"""

from __future__ import annotations

from tmpfsd.tmpfs.btree import BTree
from tmpfsd.tmpfs.layout import bt_count, bt_counts, bt_keys, bt_values, tn_tree


def is_one_leaf(tree: BTree, at: int) -> bool:
    """Whether the tree of the owner at an offset is one leaf, or empty.  O(1)."""
    return tn_tree(tree.mem.arena, at)[1] == 0


def nodes_from(tree: BTree, at: int, key: int) -> tuple[list[int], int | None]:
    """Handles of the leaves from key on that are children of one inner node, and of the inner nodes that begin there.

    => And a key of the next leaf, or None.  Only the first leaf is read.  O(log n + their number).  => SwapIOError.
    """
    path, u32, u64 = tree.seek(at, key), tree.mem.u32, tree.mem.u64
    if len(path) < 2:
        return [handle for handle, _node, _i in path], None
    _handle, node, i = path[-2]
    n, cap = bt_counts(u32, node)
    children = bt_values(node, cap) >> 2
    handles = u32[children + i:children + n].tolist()
    for handle, _node, place in reversed(path[:-1]):
        if place:
            break
        handles.append(handle)
    for _handle, node, place in reversed(path[:-2]):
        if place + 1 < bt_count(u32, node):
            return handles, u64[bt_keys(node, place + 1) >> 3]
    return handles, None
