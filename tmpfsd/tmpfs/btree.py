"""tmpfs/btree.py: B+trees in pool items: 64-bit keys, values of 4 bytes (directories) or 8 (extents).

The root and the height stand in the tree's owner, a tmpfs_node.  A tree without entries has no item.  A small tree is a
single leaf, which grows and shrinks through the string classes.  When it is a full page, leaves split, but share with a
neighbour first (as B*-trees do): they are 0.86 full, while splits alone leave 0.69.  The root above them begins small,
too, and grows through the classes: a page for the five children of a directory of 1,000 would be a fifth of its index.
All other nodes are pages.  The keys of a node stand together, so the search in it is one bisect over the arena seen as
64-bit words.

    an inner node's key i is not above any key of its child i; its key 0 is never looked at

Invariants
    B1  Keys ascend within a node, and lie between the separators above it.
    B2  Every leaf is `height` levels below the root; count <= cap; only the root has an item smaller than a page;
        no node is empty.
    B3  An inner root has at least two children.

Breathing   Nothing here breathes: all offsets taken in a call belong to one breath.  A call touches at most two nodes a
            level and three leaves, and makes one node a level: with 340 entries a page, under 20 pages.
"""

from bisect import bisect_left, bisect_right
from typing import Final

from tmpfsd.pool.strings import TREE_HANDLES
from tmpfsd.tmpfs.btnode import Nodes
from tmpfsd.tmpfs.layout import (
    BT_KEY, add_bt_count, bt_cap, bt_capacity, bt_count, bt_counts, bt_head, bt_keys, bt_values, set_bt_head,
    set_tn_tree, tn_tree
)
from tmpfsd.tmpfs.mem import Mem
from tmpfsd.uvm.errors import NoMemory, SwapIOError, demand
from tmpfsd.uvm.param import PAGE_SIZE

LEAF_CLASSES = (64, 128, 256, 512, 1024, 2048, PAGE_SIZE)
SHARE_SHIFT: Final = 4              # a neighbour takes entries if more than a sixteenth of its places is free
CHILD: Final = 4                    # bytes of an inner node's value, a handle


# The nodes from root to leaf: the handle, the offset, and the index of the child taken (in the leaf: where the key is
# or would go).  Plain tuples, as a named one costs 0.25 us a level.  Good until the tree changes or the next breath.
Path = list[tuple[int, int, int]]


CAPACITIES: dict[int, int] = {}


def capacity(nbytes: int, value_size: int) -> int:
    """Entries that a node of nbytes has room for; a test may set a smaller number."""
    return CAPACITIES.get(nbytes) or bt_capacity(nbytes, value_size)


def has_room(count: int, cap: int) -> bool:
    """Whether a leaf may take entries of a full neighbour, so that both have room then."""
    return cap - count > 1 + (cap >> SHARE_SHIFT)


INNER_CAP = capacity(PAGE_SIZE, CHILD)


class BTree(Nodes):
    """Operations on trees whose leaves have values of `value_size` bytes; `at` is the owner's offset."""

    __slots__ = ("_caps",)

    def __init__(self, mem: Mem, value_size: int) -> None:
        super().__init__(mem, value_size)
        self._caps = [capacity(size, value_size) for size in LEAF_CLASSES]

    # --- looking ---

    def get(self, at: int, key: int) -> int | None:
        """The value of key.  => SwapIOError."""
        found = self.first_from(at, key)
        return found[1] if found is not None and found[0] == key else None

    def first_from(self, at: int, key: int) -> tuple[int, int] | None:
        """The entry with the lowest key >= key.  => SwapIOError."""
        return self.entry(self.seek(at, key))

    def entry(self, path: Path) -> tuple[int, int] | None:
        """The entry at or behind the place that seek() found.  => SwapIOError."""
        if not path:
            return None
        _handle, node, i = path[-1]
        if self.covers(path):
            return self._entry(node, i)
        leaf = self._leaf_beside(path, 1)
        return None if leaf is None else self._entry(leaf, 0)

    def covers(self, path: Path) -> bool:
        """Whether the place that seek() found has an entry (else the next one is in another leaf)."""
        _handle, node, i = path[-1]
        return i < bt_count(self.mem.u32, node)

    def gap(self, path: Path) -> tuple[int, int]:
        """The keys beside a place: (before it in the leaf, or -1; from it on, or -1 at the end).  => SwapIOError."""
        _handle, node, i = path[-1]
        u64, first = self.mem.u64, bt_keys(node) >> 3
        before = u64[first + i - 1] if i else -1
        if i < bt_count(self.mem.u32, node):
            return before, u64[first + i]
        leaf = self._leaf_beside(path, 1)
        return before, -1 if leaf is None else u64[bt_keys(leaf) >> 3]

    def last_to(self, at: int, key: int) -> tuple[int, int] | None:
        """The entry with the highest key <= key, None if there is none.  => SwapIOError."""
        path = self.seek(at, key)
        if not path:
            return None
        _handle, node, i = path[-1]
        if i < bt_count(self.mem.u32, node) and self.mem.u64[(bt_keys(node) >> 3) + i] == key:
            i += 1
        return self._entry(node, i - 1) if i else self._entry_before(path)

    def around(self, at: int, key: int) -> tuple[tuple[int, int] | None, int | None]:
        """(the entry with the highest key <= key, the lowest key above it), or None for each.  => SwapIOError."""
        path = self.seek(at, key)
        if not path:
            return None, None
        _handle, node, i = path[-1]
        n, keys = bt_count(self.mem.u32, node), bt_keys(node) >> 3
        if i < n and self.mem.u64[keys + i] == key:
            i += 1
        low = self._entry(node, i - 1) if i else self._entry_before(path)
        if i < n:
            return low, self.mem.u64[keys + i]
        leaf = self._leaf_beside(path, 1)
        return low, None if leaf is None else self.mem.u64[bt_keys(leaf) >> 3]

    def batch_from(self, at: int, key: int) -> list[tuple[int, int]]:
        """The entries with keys >= key that stand in one leaf, copied; empty only when there are none."""
        path = self.seek(at, key)
        if not path:
            return []
        _handle, node, i = path[-1]
        entries = self._entries(node, i)
        if entries:
            return entries
        leaf = self._leaf_beside(path, 1)
        return [] if leaf is None else self._entries(leaf, 0)

    def leaf_from(self, at: int, key: int) -> tuple[list[int], list[int]]:
        """The keys and the values of batch_from(), in a fifth of the time."""
        path = self.seek(at, key)
        if not path:
            return [], []
        _handle, node, i = path[-1]
        if not self.covers(path):
            beside, i = self._leaf_beside(path, 1), 0
            if beside is None:
                return [], []
            node = beside
        n, cap = bt_counts(self.mem.u32, node)
        keys, values = bt_keys(node) >> 3, bt_values(node, cap) >> self._shift
        return self.mem.u64[keys + i:keys + n].tolist(), self._values[values + i:values + n].tolist()

    def seek(self, at: int, key: int) -> Path:
        """The way to where key is or would go; empty in an empty tree.  => SwapIOError."""
        mem = self.mem
        u32, u64 = mem.u32, mem.u64
        handle, level = tn_tree(mem.arena, at)
        path: Path = []
        if not handle:
            return path
        while level:
            node = mem.page(handle) if handle >= TREE_HANDLES else mem.string(handle)
            first = bt_keys(node) >> 3
            n, cap = bt_counts(u32, node)
            i = bisect_right(u64, key, first + 1, first + n) - first - 1
            path.append((handle, node, i))
            handle = u32[(bt_values(node, cap) >> 2) + i]
            level -= 1
        node = mem.string(handle)
        first = bt_keys(node) >> 3
        path.append((handle, node, bisect_left(u64, key, first, first + bt_count(u32, node)) - first))
        return path

    def run(self, path: Path, most: int) -> list[tuple[int, int]]:
        """Up to `most` entries of the leaf that seek() found, from its place on, copied."""
        _handle, node, i = path[-1]
        n, cap = bt_counts(self.mem.u32, node)
        end = min(i + most, n)
        keys, values = bt_keys(node) >> 3, bt_values(node, cap) >> self._shift
        return list(zip(self.mem.u64[keys + i:keys + end], self._values[values + i:values + end]))

    def last(self, path: Path, most: int) -> list[tuple[int, int]]:
        """Up to `most` last entries of the leaf that seek() found, copied; none in an empty tree."""
        if not path:
            return []
        n = bt_count(self.mem.u32, path[-1][1])
        return self.run([(*path[-1][:2], max(n - most, 0))], most)

    def is_in_upper_half(self, path: Path) -> bool:
        """Whether the place that seek() found has more children of the root before it than behind it."""
        return bool(path) and 2 * path[0][2] >= bt_count(self.mem.u32, path[0][1])

    def _entry_before(self, path: Path) -> tuple[int, int] | None:
        leaf = self._leaf_beside(path, -1)
        return None if leaf is None else self._entry(leaf, bt_count(self.mem.u32, leaf) - 1)

    def _leaf_beside(self, path: Path, step: int) -> int | None:
        mem = self.mem
        for level in range(len(path) - 2, -1, -1):
            _handle, node, i = path[level]
            if 0 <= i + step < bt_count(mem.u32, node):
                node = mem.string(self._child(node, i + step))
                for _ in range(len(path) - 2 - level):
                    last = bt_count(mem.u32, node) - 1
                    node = mem.string(self._child(node, 0 if step > 0 else last))
                return node
        return None

    # --- changing ---

    def set(self, at: int, key: int, value: int) -> None:
        """Change the value of a key that is there.  => SwapIOError; cannot fail once the key was looked up."""
        _handle, node, i = self.seek(at, key)[-1]
        cap = bt_cap(self.mem.u32, node)
        self.mem.vm.phys.dirty[node >> 12] = 1
        self._values[(bt_values(node, cap) >> self._shift) + i] = value

    def insert(self, at: int, key: int, value: int, path: Path | None = None) -> None:
        """Add a key that is not there; `at` must be writable, path is from seek(), if the caller has it.

        => NoMemory, SwapIOError; nothing has changed.
        """
        path = path or self.seek(at, key)
        if not path:
            self._plant(at, key, value)
            return
        handle, node, i = path[-1]
        n, cap = bt_counts(self.mem.u32, node)
        if n < cap:
            self._open(node, i, key, value, self._shift)
        elif cap < self._caps[-1]:
            _handle, node = self._resize(at, handle, node, LEAF_CLASSES[self._caps.index(cap) + 1])
            self._open(node, i, key, value, self._shift)
        else:
            shared = self._share(path)
            if shared is None:
                self._split(at, path, key, value)
            else:
                left, right = shared
                node = left if key < self.mem.u64[bt_keys(right) >> 3] else right
                first = bt_keys(node) >> 3
                i = bisect_left(self.mem.u64, key, first, first + bt_count(self.mem.u32, node)) - first
                self._open(node, i, key, value, self._shift)

    def move(self, path: Path, key: int, to: Path, value: int) -> bool:
        """Give an entry another key and value, if it stays in its leaf then; whether it does.  Needs no memory.

        seek() gave path for the entry, and `to` for its new key, which is not there.  => Cannot fail.
        """
        leaf, node, i = path[-1]
        handle, _node, j = to[-1]
        if handle != leaf:
            return False
        self._close(node, i, self._shift)
        self._open(node, j - (j > i), key, value, self._shift)
        return True

    def _plant(self, at: int, key: int, value: int) -> None:
        """The first entry of a tree."""
        mem = self.mem
        handle = mem.new_tree_node(LEAF_CLASSES[0])
        node = mem.string_w(handle)
        set_bt_head(mem.arena, node, 0, self._caps[0], 0)
        self._open(node, 0, key, value, self._shift)
        set_tn_tree(mem.arena, at, handle, 0)

    def _resize(self, at: int, handle: int, node: int, nbytes: int) -> tuple[int, int]:
        """Move the only leaf of a tree to an item of nbytes.  => NoMemory, SwapIOError; nothing has changed."""
        new = self.mem.new_tree_node(nbytes)
        return new, self._move_root(at, handle, node, new, self._shift)

    def _move_root(self, at: int, handle: int, node: int, new: int, shift: int) -> int:
        """Move a root, a leaf or not, to another item that was acquired; its offset there.  => Cannot fail."""
        mem = self.mem
        arena = mem.arena
        to = mem.string_w(new)
        n, cap, level = bt_head(arena, node)
        new_cap = capacity(mem.strings.size(new), 1 << shift)
        set_bt_head(arena, to, n, new_cap, level)
        arena.move(bt_keys(to), bt_keys(node), BT_KEY * n)
        arena.move(bt_values(to, new_cap), bt_values(node, cap), n << shift)
        set_tn_tree(arena, at, new, level)
        mem.strings.put(handle)
        return to

    def _share(self, path: Path) -> tuple[int, int] | None:
        """Share the entries of a full leaf with a neighbour that has room: (left, right); None if there is none."""
        if len(path) == 1:
            return None
        mem = self.mem
        (_handle, above, place), (_handle, node, _i) = path[-2:]
        last = bt_count(mem.u32, above) - 1
        for other in (place - 1, place + 1):
            if 0 <= other <= last:
                try:
                    beside = mem.string(self._child(above, other))
                except SwapIOError:
                    continue
                if has_room(*bt_counts(mem.u32, beside)):
                    left, right = (beside, node) if other < place else (node, beside)
                    self._even_out(left, right)
                    mem.u64[bt_keys(above, max(place, other)) >> 3] = mem.u64[bt_keys(right) >> 3]
                    mem.vm.phys.dirty[above >> 12] = 1
                    return left, right
        return None

    def _split(self, at: int, path: Path, key: int, value: int) -> None:
        """Insert into a full leaf: acquire an item for each node that splits or grows, then split from the leaf up."""
        mem = self.mem
        full = 1
        while full < len(path) and bt_count(mem.u32, path[-1 - full][1]) == INNER_CAP:
            full += 1
        root = self._root_bytes(path, full)
        taken: list[int] = []
        try:
            for nbytes in [root] * (root > 0) + [PAGE_SIZE] * full:
                taken.append(mem.new_tree_node(nbytes))
        except (NoMemory, SwapIOError):
            for handle in taken:
                mem.strings.put(handle)
            raise
        for level, (handle, node, i) in enumerate(reversed(path)):
            shift = 2 if level else self._shift
            i += level > 0
            if level == full:
                if root:
                    node = self._move_root(at, handle, node, taken.pop(), shift)
                self._open(node, i, key, value, shift)
                return
            right = taken.pop()
            key, value = self._split_node(node, mem.string_w(right), i, key, value, level, shift), right
        self._raise_root(at, path[0], taken.pop(), key, value, len(path))

    def _root_bytes(self, path: Path, full: int) -> int:
        """The size of a new item for the root when the `full` lowest nodes of a path split; 0 if it needs none."""
        n = cap = 1                             # a new root above it, for two children
        if full < len(path):
            n, cap = bt_counts(self.mem.u32, path[-1 - full][1])
        return 0 if n < cap else next(nbytes for nbytes in LEAF_CLASSES if capacity(nbytes, CHILD) > cap)

    def _raise_root(self, at: int, left: tuple[int, int, int], root: int, key: int, right: int, height: int) -> None:
        mem = self.mem
        node = mem.string_w(root)
        set_bt_head(mem.arena, node, 0, capacity(mem.strings.size(root), CHILD), height)
        self._open(node, 0, mem.u64[bt_keys(left[1]) >> 3], left[0], 2)
        self._open(node, 1, key, right, 2)
        set_tn_tree(mem.arena, at, root, height)

    def remove(self, at: int, key: int, path: Path | None = None) -> None:
        """Take out a key that is there; `at` must be writable, path is from seek(), if the caller has it.

        => SwapIOError, nothing has changed; cannot fail when the key was looked up in this breath.  Never needs memory:
        it tries to make nodes smaller or fewer, and leaves them as they are if that fails.
        """
        path = path or self.seek(at, key)
        shift = self._shift
        for level in range(len(path) - 1, -1, -1):
            handle, node, i = path[level]
            left = self._close(node, i, shift)
            if left:
                break
            self.mem.strings.put(handle)
            shift = 2
        else:
            set_tn_tree(self.mem.arena, at, 0, 0)
            return
        if len(path) == 1:
            self._shrink_leaf(at, handle, node, left)
        elif level == 0 or self._merge(path[level - 1], node, left, shift):
            self.lower_root(at)

    def remove_run(self, at: int, path: Path, n: int) -> None:
        """Take out n > 0 entries of a leaf, from the place that seek() found in this breath.  => Cannot fail."""
        mem = self.mem
        _handle, node, i = path[-1]
        count, cap = bt_counts(mem.u32, node)
        more = n - 1
        left, keys = count - i - more, bt_keys(node, i)
        values = bt_values(node, cap) + (i << self._shift)
        mem.arena.move(keys, keys + BT_KEY * more, BT_KEY * left)
        mem.arena.move(values, values + (more << self._shift), left << self._shift)
        add_bt_count(mem.u32, node, -more)
        mem.vm.phys.dirty[node >> 12] = 1
        self.remove(at, mem.u64[keys >> 3], path)

    def remove_last(self, at: int, path: Path, n: int) -> None:
        """Take out the n last entries of the leaf that seek() found in this breath.  => Cannot fail."""
        if n:
            handle, node, _i = path[-1]
            path[-1] = handle, node, bt_count(self.mem.u32, node) - n
            self.remove_run(at, path, n)

    def _shrink_leaf(self, at: int, handle: int, node: int, left: int) -> None:
        """Move an only leaf that is a quarter full to the next smaller class, if there is memory for it."""
        cap = bt_cap(self.mem.u32, node)
        size = self._caps.index(cap)
        if size and left <= cap >> 2:
            try:
                self._resize(at, handle, node, LEAF_CLASSES[size - 1])
            except (NoMemory, SwapIOError):
                pass

    def _merge(self, parent: tuple[int, int, int], node: int, left: int, shift: int) -> bool:
        """Merge a sparse node with its neighbour, if that can be read and has room; whether it was done."""
        mem = self.mem
        _handle, above, place = parent
        cap = bt_cap(mem.u32, node)
        first = place - 1 if place else 0
        if left > cap >> 2 or first + 1 >= bt_count(mem.u32, above):
            return False
        gone = self._child(above, first + 1)
        try:
            into, source = mem.string(self._child(above, first)), mem.string(gone)
        except SwapIOError:
            return False
        n, m = bt_count(mem.u32, into), bt_count(mem.u32, source)
        if n + m > cap * 3 >> 2:
            return False
        arena = mem.arena
        arena.move(bt_keys(into, n), bt_keys(source), BT_KEY * m)
        arena.move(bt_values(into, cap) + (n << shift), bt_values(source, cap), m << shift)
        if shift == 2 and bt_head(arena, into)[2]:
            # The first key of an inner node is never looked at, and may be wrong; here it becomes a separator.
            mem.u64[bt_keys(into, n) >> 3] = mem.u64[bt_keys(above, first + 1) >> 3]
        add_bt_count(mem.u32, into, m)
        mem.vm.phys.dirty[into >> 12] = 1
        self._close(above, first + 1, 2)
        mem.strings.put(gone)
        return True

    def lower_root(self, at: int) -> None:
        """Replace an inner root that has one child by that child.  O(log n).  => Cannot fail."""
        mem = self.mem
        root, height = tn_tree(mem.arena, at)
        while height:
            try:
                node = mem.read(mem.string_va(root))
            except SwapIOError:
                break           # it cannot be read: left to a later remove
            if bt_count(mem.u32, node) > 1:
                break
            child = self._child(node, 0)
            mem.strings.put(root)
            root, height = child, height - 1
        set_tn_tree(mem.arena, at, root, height)

    # --- checks ---

    def walk(self, at: int):
        """Every node as (handle, level, entries), depth first; each node is looked up when it is reached."""
        root, height = tn_tree(self.mem.arena, at)
        if root:
            yield from self._walk(root, height)

    def _walk(self, handle: int, level: int):
        mem = self.mem
        mem.vm.breathe()
        node = mem.string(handle)
        n, cap, seen = bt_head(mem.arena, node)
        size = CHILD if level else self.value_size
        demand(seen == level, "B2", f"node {handle:#x} is at level {level}, says {seen}")
        demand(0 < n <= cap == capacity(mem.strings.size(handle), size), "B2", f"node {handle:#x}: {n} of {cap}")
        if level:
            first = bt_keys(node) >> 3
            entries = [(mem.u64[first + i], self._child(node, i)) for i in range(n)]
        else:
            entries = self._entries(node, 0)
        yield handle, level, entries
        for _key, child in entries if level else ():
            yield from self._walk(child, level - 1)

    def check(self, at: int) -> int:
        """Raise Inconsistent where B1-B3 do not hold; the number of entries.  => Breathes."""
        root, height = tn_tree(self.mem.arena, at)
        total, last = 0, -1
        bounds: dict[int, tuple[int, int]] = {root: (-1, 1 << 64)}      # of the nodes on the way down only
        for handle, level, entries in self.walk(at):
            low, high = bounds.pop(handle)
            keys = [key for key, _value in entries]
            if level:
                demand(handle != root or len(entries) > 1, "B3", "an inner root has one child")
                demand(handle == root or self.mem.strings.size(handle) == PAGE_SIZE, "B2", "a small inner node")
                keys = keys[1:]
                edges = [low, *keys, high]
                bounds.update((child, (edges[i], edges[i + 1])) for i, (_key, child) in enumerate(entries))
            demand(all(a < b for a, b in zip(keys, keys[1:])), "B1", f"node {handle:#x}: keys do not ascend")
            demand(not keys or (keys[0] >= low and keys[-1] < high), "B1", f"node {handle:#x} leaves its bounds")
            if not level:
                demand(keys[0] > last, "B1", f"leaf {handle:#x} overlaps the one before")
                whole = self.mem.strings.size(handle) == PAGE_SIZE
                demand(handle == root or whole, "B2", "a small leaf in a tall tree")
                total, last = total + len(keys), keys[-1]
        return total
