"""tmpfs/directory.py: directories: names to nodes.

A directory is a B+tree in pool pages.  The key is a keyed hash of the name; the value tells where the name is.  A node
keeps one of its names in itself (up to 32 bytes), so a lookup needs only pages of the index and of the node.  Further
links and long names have a dirent in a string class.

The readdir cookie is the upper part of the key: 31 bits, as the C library of a 32-bit program takes no more.  An entry
keeps it as long as it lives, and no other entry of the directory has it meanwhile, so iteration is right while entries
come and go.  Names of one bucket have different counters in their cookies.  The rest of the hash stands behind the
cookie, so that a lookup compares only the right name: with 5 million names a bucket is shared by 0.07 others.

Picture     key = bucket (26 bits of the hash, never 0) << 37 | counter << 32 | rest (32 bits more of the hash)
            cookie = bucket << 5 | counter = key >> 32
            value = inode number (the name is in the node), or EXTERNAL | handle of a dirent

Invariants
    E1  tn_size is DIR_SIZE + DIRENT_SIZE for each entry.
    E2  An entry's key has the hash of its name; no two entries of a directory have one name, nor one cookie.
    E3  A node's name is used by exactly one entry; without one, tn_namelen is 0.
    E4  A dirent is used by exactly one entry and names a linked node.

Limits      COUNTERS names in a bucket; the next one is refused (ENOSPC).  In a directory of 500 million names the
            chance that this happens is 1 in 1,000.
"""

import os
from _imp import source_hash
from struct import Struct
from typing import Final

from tmpfsd.tmpfs import layout
from tmpfsd.tmpfs.btree import BTree, Path
from tmpfsd.tmpfs.layout import EXTERNAL, NAME_INLINE_MAX, TD_NAME, tn_name
from tmpfsd.tmpfs.mem import Mem
from tmpfsd.uvm.errors import NoMemory

COOKIE_SHIFT: Final = 32        # bits of a key behind its cookie
COUNTER_BITS: Final = 5
COUNTERS: Final = 1 << COUNTER_BITS
BUCKET_SHIFT: Final = COOKIE_SHIFT + COUNTER_BITS
REST_MASK: Final = (1 << COOKIE_SHIFT) - 1
HASH_MASK: Final = (1 << 63) - 1 ^ (COUNTERS - 1) << COOKIE_SHIFT
BUCKET_MASK: Final = (1 << BUCKET_SHIFT) - 1
FIRST_KEY: Final = 1 << BUCKET_SHIFT   # bucket 0 is not used: its cookies are those of the dots
DIR_SIZE: Final = 40            # st_size of an empty directory and of each entry: the kernel's BOGO_DIRENT_SIZE
DIRENT_SIZE: Final = 20
COOKIE_DOT: Final = 1
COOKIE_DOTDOT: Final = 2


KEY_BITS: Final = 63            # of the key of the hash: source_hash() takes so many
_hash_of: Final = Struct("<Q").unpack

# An entry that was found: its key, its value, the node it names, and the way there until the tree changes.  A plain
# tuple: a named one costs 0.25 us of a look-up's 5.
Entry = tuple[int, int, int, Path]


class Directories:
    """All directories of one mount; `dat` is the offset of a directory's node."""

    __slots__ = ("mem", "tree", "key")

    def __init__(self, mem: Mem) -> None:
        self.mem = mem
        self.tree = BTree(mem, 4)
        self.key = int.from_bytes(os.urandom(8), "little") >> 64 - KEY_BITS

    def hash(self, name: bytes) -> int:
        """58 bits that nobody outside can predict, as the key of a name that is alone in its bucket.

        SipHash-1-3, as the interpreter has it for hash-based .pyc files.  hash() of bytes is the same function, but
        each process has its own key, and another process must find the names of an image.
        """
        hashed = int(_hash_of(source_hash(self.key, name))[0]) & HASH_MASK
        return hashed if hashed >= FIRST_KEY else hashed | FIRST_KEY

    def bits(self, name: bytes) -> int:
        """64 bits that nobody outside can predict."""
        return int(_hash_of(source_hash(self.key, name))[0])

    # --- looking ---

    def find(self, dat: int, name: bytes) -> Entry | None:
        """The entry of that name, in O(log n).  => SwapIOError."""
        hashed, tree = self.hash(name), self.tree
        path = tree.seek(dat, hashed)
        found = tree.entry(path)
        end = hashed | BUCKET_MASK      # all of the bucket is behind this place, except another name with counter 0
        while found is not None and found[0] <= end:
            key, value = found
            ino = self._names(value, name) if key == hashed or not (key ^ hashed) & REST_MASK else 0
            if not tree.covers(path):
                path = tree.seek(dat, key)
            if ino:
                return key, value, ino, path
            path = tree.seek(dat, key + 1)
            found = tree.entry(path)
        return None

    def vacancy(self, dat: int, name: bytes) -> tuple[int, Path] | None:
        """The key for a new entry of that name and the way to its place, or None when there is such an entry.

        In O(log n).  => SwapIOError; NoMemory when COUNTERS other names are in its bucket.
        """
        hashed, tree = self.hash(name), self.tree
        path = tree.seek(dat, hashed)
        if not path:
            return hashed, path
        before, after = tree.gap(path)
        start = hashed & ~REST_MASK
        if before < 0:              # the place is the first of a leaf
            found = tree.first_from(dat, start)
            before = found[0] if found is not None else 0
        if not start <= before < hashed and not hashed <= after <= hashed | BUCKET_MASK:
            return hashed, path
        if self.find(dat, name) is not None:
            return None
        key = self._free_key(dat, hashed)
        return key, tree.seek(dat, key)

    def _names(self, value: int, name: bytes) -> int:
        """The inode number of an entry if it has that name, else 0."""
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

        slot_free: the node keeps no name, or one that this operation takes away.  The node's page must be in.  The
        value is not used before bind().
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
        """Free the name of a value that is not used any more; a node that kept it is in."""
        if value & EXTERNAL:
            self.mem.strings.put(value ^ EXTERNAL)
        else:
            layout.set_tn_name(self.mem.arena, self.mem.node_w(value), b"")

    def fits(self, value: int, name: bytes, snugly: bool) -> bool:
        """Whether a value's dirent has room for another name; snugly: and a new dirent would have the same size."""
        if not value & EXTERNAL:
            return False
        room, need = self.mem.strings.size(value ^ EXTERNAL), self.mem.strings.size_for(TD_NAME + len(name))
        return need == room if snugly else need <= room

    def rewrite(self, value: int, name: bytes) -> None:
        """Give a dirent that was found in this breath, and has room, another name.  => Cannot fail."""
        at = self.mem.string_w(value ^ EXTERNAL)
        layout.init_dirent(self.mem.arena, at, layout.td_head(self.mem.arena, at)[0], name)

    def redirect(self, value: int, ino: int) -> None:
        """Make an entry found in this breath, with its name in a dirent, lead to another node.  => Cannot fail."""
        at = self.mem.string_w(value ^ EXTERNAL)
        layout.set_td_head(self.mem.arena, at, ino, layout.td_head(self.mem.arena, at)[1])

    # --- entries ---

    def insert(self, dat: int, vacancy: tuple[int, Path], value: int) -> None:
        """Attach an entry to a writable directory, at the place from vacancy().

        => NoMemory, SwapIOError; nothing has changed.
        """
        key, path = vacancy
        self.tree.insert(dat, key, value, path)
        layout.set_tn_size(self.mem.arena, dat, layout.tn_size(self.mem.arena, dat) + DIRENT_SIZE)

    def move(self, path: Path, vacancy: tuple[int, Path], value: int) -> bool:
        """Move an entry that was found to the place from vacancy(), if both are in one leaf; whether they are.

        => The tree has not changed since.  Cannot fail, and needs no memory.
        """
        return self.tree.move(path, *vacancy, value)

    def _free_key(self, dat: int, hashed: int) -> int:
        """The key of a hash with the lowest counter, so the lowest cookie, that no entry has."""
        cookie = hashed >> COOKIE_SHIFT
        found = self.tree.first_from(dat, cookie << COOKIE_SHIFT)
        while found is not None and found[0] >> COOKIE_SHIFT == cookie:
            cookie += 1
            found = self.tree.first_from(dat, cookie << COOKIE_SHIFT)
        if cookie >> COUNTER_BITS != hashed >> BUCKET_SHIFT:
            raise NoMemory("too many names with one hash")
        return cookie << COOKIE_SHIFT | hashed & REST_MASK

    def remove(self, dat: int, key: int, path: Path | None = None) -> None:
        """Detach an entry that was found in this breath; path as it was found, if the tree has not changed since.

        => Cannot fail; the caller unbinds its value.
        """
        self.tree.remove(dat, key, path)
        layout.set_tn_size(self.mem.arena, dat, layout.tn_size(self.mem.arena, dat) - DIRENT_SIZE)

    def set(self, dat: int, key: int, value: int) -> None:
        """Give an entry that was found in this breath another value.  => Cannot fail."""
        self.tree.set(dat, key, value)
