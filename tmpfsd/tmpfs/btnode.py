"""tmpfs/btnode.py: operations within one node of a B+tree, or between two: put entries in, take them out, move them.

A node is a head, then its keys, then its values (layout.py).  `shift` is the logarithm of a value's size:
that of the tree in a leaf, 2 in an inner node.

Breathing   Nothing here breathes or looks a page up: nodes are given by offset, and are in memory.
"""

from tmpfsd.tmpfs.layout import (
    BT_KEY, add_bt_count, bt_cap, bt_count, bt_counts, bt_head, bt_keys, bt_values, set_bt_head
)
from tmpfsd.tmpfs.mem import Mem


class Nodes:
    """Nodes of the trees whose leaves have values of `value_size` bytes."""

    __slots__ = ("mem", "value_size", "_shift", "_values")

    def __init__(self, mem: Mem, value_size: int) -> None:
        self.mem = mem
        self.value_size = value_size
        self._shift = {4: 2, 8: 3}[value_size]
        self._values = mem.u32 if value_size == 4 else mem.u64

    def _child(self, node: int, i: int) -> int:
        u32 = self.mem.u32
        return u32[(bt_values(node, bt_cap(u32, node)) >> 2) + i]

    def _entry(self, node: int, i: int) -> tuple[int, int]:
        cap = bt_cap(self.mem.u32, node)
        return (self.mem.u64[bt_keys(node, i) >> 3],
                self._values[(bt_values(node, cap) >> self._shift) + i])

    def _entries(self, node: int, i: int) -> list[tuple[int, int]]:
        n, cap = bt_counts(self.mem.u32, node)
        keys, values = bt_keys(node) >> 3, bt_values(node, cap) >> self._shift
        return list(zip(self.mem.u64[keys + i:keys + n], self._values[values + i:values + n]))

    def _open(self, node: int, i: int, key: int, value: int, shift: int) -> None:
        """Put an entry at place i of a node that has room."""
        mem = self.mem
        arena = mem.arena
        n, cap = bt_counts(mem.u32, node)
        keys = bt_keys(node, i)
        values = bt_values(node, cap) + (i << shift)
        if i < n:
            arena.move(keys + BT_KEY, keys, BT_KEY * (n - i))
            arena.move(values + (1 << shift), values, n - i << shift)
        mem.u64[keys >> 3] = key
        (mem.u32 if shift == 2 else mem.u64)[values >> shift] = value
        add_bt_count(mem.u32, node, 1)
        mem.vm.phys.dirty[node >> 12] = 1

    def _close(self, node: int, i: int, shift: int) -> int:
        """Take entry i out of a node; how many are left."""
        mem = self.mem
        arena = mem.arena
        n, cap = bt_counts(mem.u32, node)
        keys = bt_keys(node, i)
        values = bt_values(node, cap) + (i << shift)
        arena.move(keys, keys + BT_KEY, BT_KEY * (n - i - 1))
        arena.move(values, values + (1 << shift), n - i - 1 << shift)
        add_bt_count(mem.u32, node, -1)
        mem.vm.phys.dirty[node >> 12] = 1
        return n - 1

    def _even_out(self, left: int, right: int) -> None:
        """Move entries between two leaves, so that both have as many; the caller sets the separator."""
        mem = self.mem
        move = mem.arena.move
        n, cap, _level = bt_head(mem.arena, left)
        m = bt_count(mem.u32, right)
        more = (n + m >> 1) - n
        for base, shift in ((bt_keys(0), 3), (bt_values(0, cap), self._shift)):
            end, start = left + base + (n << shift), right + base
            if more > 0:
                move(end, start, more << shift)
                move(start, start + (more << shift), m - more << shift)
            else:
                move(start + (-more << shift), start, m << shift)
                move(start, end - (-more << shift), -more << shift)
        add_bt_count(mem.u32, left, more)
        add_bt_count(mem.u32, right, -more)
        mem.vm.phys.dirty[left >> 12] = mem.vm.phys.dirty[right >> 12] = 1

    def _split_node(self, node: int, to: int, i: int, key: int, value: int, level: int, shift: int) -> int:
        """Move the upper part of a full node to the new one and put the entry in; the new node's lowest key."""
        mem = self.mem
        arena = mem.arena
        n, cap, _level = bt_head(arena, node)
        # Appending (extents of a growing file) leaves full nodes behind.
        keep = n if i == n else n >> 1
        set_bt_head(arena, to, n - keep, cap, level)
        arena.move(bt_keys(to), bt_keys(node, keep), BT_KEY * (n - keep))
        arena.move(bt_values(to, cap), bt_values(node, cap) + (keep << shift), n - keep << shift)
        set_bt_head(arena, node, keep, cap, level)
        mem.vm.phys.dirty[node >> 12] = 1
        if i < keep or (i == keep and keep < n):
            self._open(node, i, key, value, shift)
        else:
            self._open(to, i - keep, key, value, shift)
        return mem.u64[bt_keys(to) >> 3]
