"""tmpfs/btsplit.py: a B+tree cut in two, however large it is.

Only the nodes on the way to the cut are touched, one a level.  Entries left of the way stay, and entries right of it
go.  If the way divides a node, its right part is copied to a new one.

Picture             [a b c d]                 way to the cut: b, then f
              [e f] ...       ...
    stays     [a b]    goes   [b' c d]        b' has the entries right of f

Invariants  Those of btree.py, of both trees afterwards.
Breathing   Nothing here breathes.  A split touches a node a level, and makes at most one a level.
"""

from __future__ import annotations

from tmpfsd.tmpfs import btree
from tmpfsd.tmpfs.btree import CHILD, BTree, Path
from tmpfsd.tmpfs.layout import (
    BT_KEY, add_bt_count, bt_count, bt_head, bt_keys, bt_values, set_bt_head, set_tn_tree, tn_tree
)
from tmpfsd.tmpfs.mem import Mem
from tmpfsd.uvm.errors import NoMemory, SwapIOError
from tmpfsd.uvm.param import PAGE_SIZE


def split(tree: BTree, at: int, key: int, to: int) -> None:
    """Move the entries from `key` on to the owner at offset `to`, whose tree is empty.  O(log n).

    => at and to must be writable.  => NoMemory, SwapIOError; nothing has changed.
    """
    mem, path = tree.mem, tree.seek(at, key)
    stays, goes = _sides(mem, path)
    if not any(stays):
        set_tn_tree(mem.arena, to, *tn_tree(mem.arena, at))
        set_tn_tree(mem.arena, at, 0, 0)
        return
    depths = [depth for depth, count in enumerate(goes) if count]
    if not depths:
        return
    top, bottom = depths[0], depths[-1]
    taken = _acquire(mem, path, [depth for depth in range(top, bottom + 1) if stays[depth]])
    right = 0
    for depth in range(bottom, -1, -1):
        handle, node, _i = path[depth]
        if depth >= top and not stays[depth]:
            right = handle                  # all of it goes
            continue
        if depth >= top:
            new = taken.pop()
            _move_right(tree, node, goes[depth], new, right, key)
            right = new
        if stays[depth]:
            add_bt_count(mem.u32, node, stays[depth] - bt_count(mem.u32, node))
            mem.vm.phys.dirty[node >> 12] = 1
        else:
            mem.strings.put(handle)         # its only child went
    set_tn_tree(mem.arena, to, right, len(path) - 1 - top)
    tree.lower_root(to)
    tree.lower_root(at)


def _sides(mem: Mem, path: Path) -> tuple[list[int], list[int]]:
    """For each node on the way, from the root down: how many entries stay, and how many right of the way go.

    An inner node's child on the way stays if something below it stays.
    """
    stays, goes, below = [0] * len(path), [0] * len(path), 0
    for depth in range(len(path) - 1, -1, -1):
        _handle, node, i = path[depth]
        is_inner = depth < len(path) - 1
        below = stays[depth] = i + (is_inner and below > 0)
        goes[depth] = bt_count(mem.u32, node) - i - is_inner
    return stays, goes


def _acquire(mem: Mem, path: Path, depths: list[int]) -> list[int]:
    """An item for each node that is divided, the root's first.  => NoMemory, SwapIOError; nothing has changed."""
    taken: list[int] = []
    try:
        for depth in depths:
            taken.append(mem.new_tree_node(PAGE_SIZE if len(path) > 1 else mem.strings.size(path[depth][0])))
    except (NoMemory, SwapIOError):
        for handle in taken:
            mem.strings.put(handle)
        raise
    return taken


def _move_right(tree: BTree, node: int, moved: int, new: int, first: int, key: int) -> None:
    """Copy the last `moved` entries of a node to a new one, behind the child `first` if there is one."""
    mem = tree.mem
    n, cap, level = bt_head(mem.arena, node)
    size, lead, start = CHILD if level else tree.value_size, int(first > 0), n - moved
    to = mem.string_w(new)
    new_cap = btree.capacity(mem.strings.size(new), size)
    set_bt_head(mem.arena, to, moved + lead, new_cap, level)
    keys, values = bt_keys(to), bt_values(to, new_cap)
    mem.arena.move(keys + BT_KEY * lead, bt_keys(node, start), BT_KEY * moved)
    mem.arena.move(values + size * lead, bt_values(node, cap) + size * start, size * moved)
    if lead:
        mem.u64[keys >> 3] = key
        mem.u32[values >> 2] = first
