"""tmpfs/directory.py: directories: names to nodes.

A directory is a B+tree in pool pages, keyed by a keyed hash of the name with a counter for names that
collide; the value says where the name is.  A node keeps one of its names in itself (up to 32 bytes), so
that looking a file up needs no page beside the index and the node; further links and long names have a
dirent in a string class.  The readdir cookie is the key: an entry keeps it as long as it lives, so
iteration is right while entries come and go.

Picture     key = hash of the name (55 bits, never 0) << 8 | collision counter
            value = inode number (the name is in the node), or EXTERNAL | handle of a dirent

Invariants
    E1  tn_size is DIR_SIZE + DIRENT_SIZE for each entry.
    E2  An entry's key has the hash of its name, and no two entries of a directory have one name.
    E3  A node's name is used by exactly one entry; without one, tn_namelen is 0.
    E4  A dirent is used by exactly one entry and names a linked node.

Limits      256 names of one directory with one hash: a chance no key-less attacker has.
"""

import os

from tmpfsd.tmpfs import layout
from tmpfsd.tmpfs.btree import BTree, Path
from tmpfsd.tmpfs.layout import EXTERNAL, NAME_INLINE_MAX, TD_NAME, tn_name
from tmpfsd.tmpfs.mem import Mem
from tmpfsd.uvm.errors import NoMemory

HASH_MASK = (1 << 55) - 1
COUNTER_BITS = 8
COUNTERS = 1 << COUNTER_BITS
DIR_SIZE = 40                   # st_size of an empty directory and of each entry: the kernel's BOGO_DIRENT_SIZE
DIRENT_SIZE = 20
COOKIE_DOT, COOKIE_DOTDOT = 1, 2        # below every key


# An entry that was found: its key, its value, the node it names, and the way there until the tree changes.  A plain
# tuple: a named one costs 0.25 us of a look-up's 5.
Entry = tuple[int, int, int, Path]


class Directories:
    """All directories of one mount; `dat` is the offset of a directory's node."""

    __slots__ = ("mem", "tree", "_salt")

    def __init__(self, mem: Mem) -> None:
        self.mem = mem
        self.tree = BTree(mem, 4)
        self._salt = os.urandom(16)

    def hash(self, name: bytes) -> int:
        """55 bits that nobody outside can foretell.

        bytes.__hash__ is SipHash; the secret prefix keys it even where PYTHONHASHSEED is fixed.
        """
        return hash(self._salt + name) & HASH_MASK or 1

    # --- looking ---

    def find(self, dat: int, name: bytes) -> Entry | None:
        """The entry of that name.  => SwapIOError."""
        hashed, tree = self.hash(name), self.tree
        path = tree.seek(dat, hashed << COUNTER_BITS)
        found = tree.entry(path)
        while found is not None and found[0] >> COUNTER_BITS == hashed:
            key, value = found
            ino = self._names(value, name)
            if not tree.covers(path):
                path = tree.seek(dat, key)
            if ino:
                return key, value, ino, path
            path = tree.seek(dat, key + 1)
            found = tree.entry(path)
        return None

    def vacancy(self, dat: int, name: bytes) -> tuple[int, Path] | None:
        """The key for a new entry of that name and the way to its place, or None when there is such an entry.

        => SwapIOError; NoMemory when COUNTERS other names have its hash.
        """
        hashed, tree = self.hash(name), self.tree
        path = tree.seek(dat, hashed << COUNTER_BITS)
        found = tree.entry(path)
        if found is None or found[0] >> COUNTER_BITS != hashed:
            return hashed << COUNTER_BITS, path
        if self.find(dat, name) is not None:
            return None
        key = self._free_key(dat, hashed)
        return key, tree.seek(dat, key)

    def _names(self, value: int, name: bytes) -> int:
        """The inode number an entry leads to if it has that name, else 0."""
        mem = self.mem
        if not value & EXTERNAL:
            return value if tn_name(mem.arena, mem.node(value)) == name else 0
        at = mem.string(value ^ EXTERNAL)
        ino, namelen = layout.td_head(mem.arena, at)
        return ino if layout.td_name(mem.arena, at, namelen) == name else 0

    def read_value(self, value: int) -> tuple[int, bytes]:
        """(inode number, name) of an entry.  => SwapIOError."""
        mem = self.mem
        if not value & EXTERNAL:
            return value, tn_name(mem.arena, mem.node(value))
        at = mem.string(value ^ EXTERNAL)
        ino, namelen = layout.td_head(mem.arena, at)
        return ino, layout.td_name(mem.arena, at, namelen)

    def is_empty(self, dat: int) -> bool:
        """Whether a directory has no entries."""
        return layout.tn_size(self.mem.arena, dat) == DIR_SIZE

    # --- values: where a name is kept ---

    def new_value(self, ino: int, name: bytes, slot_free: bool) -> int:
        """A value for an entry `name` of node ino.  => NoMemory, SwapIOError; nothing has changed.

        slot_free says that the node keeps no name, or one that this operation takes away.  The node's
        page must be in.  The value is not used before bind().
        """
        if slot_free and len(name) <= NAME_INLINE_MAX:
            return ino
        mem = self.mem
        handle = mem.new_string(TD_NAME + len(name))
        layout.init_dirent(mem.arena, mem.string_w(handle), ino, name)
        return handle | EXTERNAL

    def drop_value(self, value: int) -> None:
        """Undo new_value()."""
        if value & EXTERNAL:
            self.mem.strings.put(value ^ EXTERNAL)

    def bind(self, value: int, name: bytes) -> None:
        """Write the name of a value kept in its node, which is in."""
        if not value & EXTERNAL:
            layout.set_tn_name(self.mem.arena, self.mem.node_w(value), name)

    def unbind(self, value: int) -> None:
        """An entry's value is used no more; a node that kept the name is in."""
        if value & EXTERNAL:
            self.mem.strings.put(value ^ EXTERNAL)
        else:
            layout.set_tn_name(self.mem.arena, self.mem.node_w(value), b"")

    def redirect(self, value: int, ino: int) -> None:
        """Let an entry that was found in this breath, its name in a dirent, lead to another node.  => Cannot fail."""
        at = self.mem.string_w(value ^ EXTERNAL)
        layout.set_td_head(self.mem.arena, at, ino, layout.td_head(self.mem.arena, at)[1])

    # --- entries ---

    def insert(self, dat: int, vacancy: tuple[int, Path], value: int) -> None:
        """Attach an entry to a writable directory, where vacancy() said.

        => NoMemory, SwapIOError; nothing has changed.
        """
        key, path = vacancy
        self.tree.insert(dat, key, value, path)
        layout.set_tn_size(self.mem.arena, dat, layout.tn_size(self.mem.arena, dat) + DIRENT_SIZE)

    def _free_key(self, dat: int, hashed: int) -> int:
        """The lowest key of a hash that no entry has."""
        key = hashed << COUNTER_BITS
        found = self.tree.first_from(dat, key)
        while found is not None and found[0] == key:
            key += 1
            found = self.tree.first_from(dat, key)
        if key >> COUNTER_BITS != hashed:
            raise NoMemory("too many names with one hash")
        return key

    def remove(self, dat: int, key: int, path: Path | None = None) -> None:
        """Detach an entry that was found in this breath; path as it was found, if the tree has not changed since.

        => Cannot fail; its value is the caller's to unbind.
        """
        self.tree.remove(dat, key, path)
        layout.set_tn_size(self.mem.arena, dat, layout.tn_size(self.mem.arena, dat) - DIRENT_SIZE)

    def set(self, dat: int, key: int, value: int) -> None:
        """Give an entry that was found in this breath another value.  => Cannot fail."""
        self.tree.set(dat, key, value)
