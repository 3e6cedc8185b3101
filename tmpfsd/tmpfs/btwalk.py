"""tmpfs/btwalk.py: the nodes of a B+tree from a key on, a few hundred at a time.

For walks that let others run in between: what they remember is a key, which is good whatever becomes of the tree.

Breathing   Nothing here breathes.
"""

from __future__ import annotations

from tmpfsd.tmpfs.btree import BTree
from tmpfsd.tmpfs.layout import bt_count, bt_counts, bt_keys, bt_values, tn_tree


def is_one_leaf(tree: BTree, at: int) -> bool:
    """Whether all that the owner at an offset has stands in one leaf, or it has nothing.  O(1)."""
    return tn_tree(tree.mem.arena, at)[1] == 0


def nodes_from(tree: BTree, at: int, key: int) -> tuple[list[int], int | None]:
    """The leaves from where key is on that hang on one inner node, with the inner nodes that begin there; as handles.

    => And a key of the next leaf, None where there is none.  No leaf is read but the first.  O(log n + their number).
    => SwapIOError.
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
