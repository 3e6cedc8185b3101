"""tmpfs/walk.py: whole trees, looked at from inside: paths, a walk, du, prefetch.

The server walks in slices: everything long here is a generator.  When it yields None, other operations may run and
change anything.  Between two of these points a walk is one operation like any other.

Picture     for entry in Walk(mp, top):   an Entry, whose offset is good until the next breath
                                          None: others may run
            The way down is kept as (inode number, generation, next key) for each level.  The generation shows that a
            directory was removed or replaced meanwhile.  Entries that came or went are seen or not, as with find(1).

Breathing   A walk breathes before each entry; its caller may too.

Limits      Changes of others between two slices are seen or not; an attribute may be met twice.
            MAX_DEPTH levels (a path has at most half as many): deeper directories are counted in `skipped`.
            A directory that moves while it is walked is walked where it is.
"""

from __future__ import annotations

import errno
import stat
from array import array
from itertools import islice
from typing import TYPE_CHECKING, Any, Iterator, NamedTuple

from tmpfsd.pool.table import WORD
from tmpfsd.tmpfs import layout, xattr
from tmpfsd.tmpfs.btwalk import nodes_from
from tmpfsd.tmpfs.fserror import FsError
from tmpfsd.tmpfs.layout import EXTERNAL, KIND_STRING, KIND_TREE, ROOT_INO, unpack_extent
from tmpfsd.tmpfs.mem import NODE_SIZE
from tmpfsd.tmpfs.permission import MAY_READ, MAY_SEARCH, demand_access, demand_removal
from tmpfsd.uvm import pte
from tmpfsd.uvm.errors import SwapIOError
from tmpfsd.uvm.param import PAGE_SHIFT
from tmpfsd.uvm.unwritten import is_unwritten

if TYPE_CHECKING:
    from tmpfsd.tmpfs.filesystem import Mount

MAX_DEPTH = 4096
BATCH = 64                  # entries, or pages of data, between two points where others may run
RUN = 16                    # pages of data touched in one breath
RUN_MOST = 16384            # pages of data looked at between two points: a millisecond
ATTRIBUTES = 128            # likewise
COPY = 1 << 18              # page table entries copied between two points


# --- paths ---

class Place(NamedTuple):
    """Where a path leads: the directory, the name there, and the node; for the root, the root itself and no name."""

    dino: int
    name: bytes
    ino: int


def find(mp: Mount, path: bytes, cred: Any) -> Place:
    """Look a path up from the root, as `cred` may.  Takes no kernel reference; follows no symlink.  => Breathes.

    => FsError ENOENT, ENOTDIR, EACCES, ELOOP (a symlink on the way), ENAMETOOLONG; SwapIOError.
    """
    dino, name, ino = ROOT_INO, b"", ROOT_INO
    for name in [part for part in path.split(b"/") if part]:
        mp.breathe()
        dino, at = ino, mp.mem.node(ino)
        if stat.S_ISLNK(layout.tn_mode(mp.arena, at)):
            raise FsError(errno.ELOOP)
        if not stat.S_ISDIR(layout.tn_mode(mp.arena, at)):
            raise FsError(errno.ENOTDIR)
        if len(name) > layout.NAME_MAX:
            raise FsError(errno.ENAMETOOLONG)
        demand_access(mp, ino, cred, MAY_SEARCH)
        found = mp.dirs.find(mp.mem.node(ino), name)
        if found is None:
            raise FsError(errno.ENOENT)
        ino = found[2]
    return Place(dino, name, ino)


def may_discard(mp: Mount, place: Place, cred: Any) -> Iterator[None]:
    """Refuse a tree that `rm -rf` of this caller could not remove whole.  => FsError EACCES, EPERM.  => Breathes."""
    demand_removal(mp, place.dino, place.ino, cred)
    if cred.uid == 0:
        return
    walk = Walk(mp, place.ino)
    for entry in walk:
        if entry is None:
            yield
        elif entry.dino:
            demand_access(mp, entry.dino, cred, MAY_READ)
            demand_removal(mp, entry.dino, entry.ino, cred)
    if walk.skipped or walk.unreadable:
        raise FsError(errno.EACCES)


# --- walking ---

class Entry(NamedTuple):
    """A node met by a walk: its directory, its number and offset, and its value there (for the top: 0 and 0)."""

    dino: int
    ino: int
    at: int
    value: int


class Walk:
    """The nodes from `top` down, each directory before its entries, a node with two names twice."""

    __slots__ = ("mp", "skipped", "unreadable", "others_ran", "_inos", "_gens", "_keys")

    def __init__(self, mp: Mount, top: int) -> None:
        self.mp = mp
        self.others_ran = False                     # set by a user that lets others run while it has an entry
        self.skipped = self.unreadable = 0          # directories too deep; nodes and directories that cannot be read
        self._inos, self._gens, self._keys = array("I", [top]), array("Q", [0]), array("Q", [0])

    def __iter__(self) -> Iterator[Entry | None]:
        """Walk.  => SwapIOError: the top cannot be read."""
        mp = self.mp
        mp.breathe()
        at = mp.mem.node(self._inos[0])
        self._gens[0] = layout.tn_gen(mp.arena, at)
        is_dir = stat.S_ISDIR(layout.tn_mode(mp.arena, at))
        yield Entry(0, self._inos[0], at, 0)
        while is_dir and self._inos:
            yield None
            try:
                batch = self._batch()
            except SwapIOError:
                self.unreadable += 1
                batch = []
            if not batch:
                for levels in (self._inos, self._gens, self._keys):
                    levels.pop()
            yield from self._entries(batch)

    def _batch(self) -> list[tuple[int, int]]:
        """The next entries of the directory where the walk is; none if that is gone."""
        mp, ino = self.mp, self._inos[-1]
        mp.breathe()
        if not mp.mem.nodes.is_held(ino - 1):
            return []
        at = mp.mem.node(ino)
        if layout.tn_gen(mp.arena, at) != self._gens[-1]:
            return []
        return mp.dirs.tree.batch_from(at, self._keys[-1])[:BATCH]

    def _entries(self, batch: list[tuple[int, int]]) -> Iterator[Entry]:
        """The entries of a batch up to the first directory, which is entered."""
        mp = self.mp
        for key, value in batch:
            dino = self._inos[-1]
            self._keys[-1] = key + 1
            try:
                mp.breathe()
                ino, _name = mp.dirs.read_value(value)
                at = mp.mem.node(ino)
            except SwapIOError:
                self.unreadable += 1
                continue
            is_dir, generation = stat.S_ISDIR(layout.tn_mode(mp.arena, at)), layout.tn_gen(mp.arena, at)
            self.others_ran = False
            yield Entry(dino, ino, at, value)
            if is_dir and len(self._inos) < MAX_DEPTH:
                self._inos.append(ino)
                self._gens.append(generation)
                self._keys.append(0)
                return
            self.skipped += is_dir
            if self.others_ran:
                return                  # the rest of the batch may be gone, and its names overwritten


# --- items and pages of a node ---

def is_same(mp: Mount, ino: int, generation: int) -> bool:
    """Whether a node is still there after others ran.  => SwapIOError.  => Breathes."""
    mp.breathe()
    return mp.mem.nodes.is_held(ino - 1) and layout.tn_gen(mp.arena, mp.mem.node(ino)) == generation


def tree_nodes(mp: Mount, ino: int, generation: int) -> Iterator[list[int]]:
    """The nodes of a directory's or file's B+tree, as handles, some hundred at a time; others may run between.

    => SwapIOError.  => Breathes.
    """
    key: int | None = 0
    while key is not None and is_same(mp, ino, generation):
        at = mp.mem.node(ino)
        if layout.tn_kind(mp.arena, at) != KIND_TREE:
            return
        handles, key = nodes_from(mp.dirs.tree, at, key)
        yield handles


def attribute_items(mp: Mount, ino: int, generation: int) -> Iterator[list[int]]:
    """The items of a node's attributes, some hundred attributes at a time; others may run between.

    A walk remembers how many it has met: attributes that others change meanwhile may be missed, or met twice.
    => SwapIOError.  => Breathes.
    """
    met, some = 0, ATTRIBUTES
    while some == ATTRIBUTES and is_same(mp, ino, generation) and layout.tn_xattr(mp.arena, mp.mem.node(ino)):
        handles = [handle for handle, _name in islice(xattr.walk(mp, ino), met, met + ATTRIBUTES)]
        met, some = met + len(handles), len(handles)
        out = []
        for handle in handles:
            mp.breathe()
            out += xattr.items(mp, handle)
        yield out


def runs(mp: Mount, ino: int, generation: int) -> Iterator[tuple[int, int] | None]:
    """(first page, how many, at most RUN_MOST) of the data of a regular file; None: others may run.

    => SwapIOError.  => Breathes.
    """
    start = 0
    while is_same(mp, ino, generation):
        at = mp.mem.node(ino)
        if layout.tn_kind(mp.arena, at) != KIND_TREE or not stat.S_ISREG(layout.tn_mode(mp.arena, at)):
            return
        before = mp.extents.last_to(at, start)
        skip = before is not None and start < before[0] + unpack_extent(before[1])[1]
        firsts, values = mp.extents.leaf_from(at, before[0] if before is not None and skip else start)
        if not firsts:
            return
        room = RUN_MOST
        for first, value in zip(firsts, values):
            vpn, count = unpack_extent(value)
            done = max(start - first, 0)
            n = min(count - done, room)
            yield vpn + done, n
            start, room = first + done + n, room - n
            if not room:
                break
        yield None


# --- how much it takes ---

class Usage:
    """The counts of du(): names, nodes by kind, and bytes of metadata and data by where they are.

    A node with several names counts for each by its share, 1 / links.  So the whole tree is counted once without a
    table of nodes seen, and a tree that shares files with another has its part of them.  Metadata are the bytes of
    items (nodes, lookup counts, names, indexes, small files, attributes), without free items of their pages.
    Resident means resident when the count began: the walk itself pages in what it reads.
    """

    __slots__ = ("mp", "names", "directories", "files", "others", "bytes_of", "table", "walk")

    def __init__(self, mp: Mount, top: int) -> None:
        self.mp = mp
        self.names = 0
        self.directories = self.files = self.others = 0.0
        self.bytes_of = {"metadata": [0.0, 0.0], "data": [0.0, 0.0]}       # swapped, resident
        self.table = mp.vm.pte[:0]                  # a copy: 4 bytes a page, until the count ends
        self.walk = Walk(mp, top)

    def count(self) -> Iterator[None]:
        """Count, in slices.  O(names, pages and items).  => SwapIOError: the top cannot be read."""
        table = self.mp.vm.pte
        for start in range(0, len(table), COPY):
            self.table.extend(table[start:start + COPY])
            yield
        for entry in self.walk:
            if entry is None:
                yield
                continue
            try:
                for _ in self._count(entry):
                    self.walk.others_ran = True
                    yield
            except SwapIOError:
                self.walk.unreadable += 1

    def _count(self, entry: Entry) -> Iterator[None]:
        """Count what an entry has, in slices."""
        mp, mem, ino = self.mp, self.mp.mem, entry.ino
        mode, kind, _namelen, links = layout.tn_life(mp.arena, entry.at)
        generation, has_attributes = layout.tn_gen(mp.arena, entry.at), layout.tn_xattr(mp.arena, entry.at)
        is_dir = stat.S_ISDIR(mode)
        share = 1.0 if is_dir else 1 / max(links, 1)
        self.names += bool(entry.dino)
        if is_dir:
            self.directories += 1
        elif stat.S_ISREG(mode):
            self.files += share
        else:
            self.others += share
        self._item(mem.nodes.va(ino - 1), NODE_SIZE * share)
        self._item(mem.nlookup.va(ino - 1), WORD * share)
        if entry.value & EXTERNAL:
            self._items([entry.value ^ EXTERNAL], 1)
        if kind == KIND_STRING:
            self._items([layout.tn_string(mp.arena, entry.at)], share)
        if kind == KIND_TREE:
            yield from self._count_tree(ino, generation, share)
        if has_attributes:
            for handles in attribute_items(mp, ino, generation):
                self._items(handles, share)
                if len(handles) >= ATTRIBUTES:
                    yield

    def _count_tree(self, ino: int, generation: int, share: float) -> Iterator[None]:
        for handles in tree_nodes(self.mp, ino, generation):
            self._items(handles, share)
            if len(handles) >= BATCH:
                yield
        for run in runs(self.mp, ino, generation):
            if run is None:
                yield
            else:
                self._data(*run, share)

    def _data(self, vpn: int, npages: int, share: float) -> None:
        """Count pages in a row: 5 ns each where they are many.  Data is never seen through windows."""
        if npages == 1:
            swapped = int(not self._is_resident(vpn))
        else:
            swapped = pte.count_frameless(self.table, vpn, npages)
        self._add("data", True, (npages - swapped) * share * 4096)
        self._add("data", False, swapped * share * 4096)

    def _items(self, handles: list[int], share: float) -> None:
        mem = self.mp.mem
        for handle in handles:
            self._item(mem.string_va(handle), mem.strings.size(handle) * share)

    def _is_resident(self, vpn: int) -> bool:
        """Whether a page was resident when the count began; newer pages count as resident."""
        return vpn >= len(self.table) or pte.pfn(self.table[vpn]) >= 0

    def _item(self, va: int, nbytes: float) -> None:
        self._add("metadata", self._is_resident(va >> PAGE_SHIFT), nbytes)

    def _add(self, what: str, resident: bool, nbytes: float) -> None:
        self.bytes_of[what][resident] += nbytes

    def totals(self) -> dict[str, Any]:
        """The keys of `tmpfsctl du --json`."""
        out: dict[str, Any] = {"names": self.names, "directories": round(self.directories),
                               "files": round(self.files), "others": round(self.others)}
        for what, (swapped, resident) in self.bytes_of.items():
            out[what] = {"bytes": round(swapped + resident), "resident_bytes": round(resident),
                         "swapped_bytes": round(swapped)}
        return {**out, "skipped": self.walk.skipped, "unreadable": self.walk.unreadable}


# --- paging in ---

class Prefetch:
    """Pages a tree in until all of it is in, or memory is full of the pages it brought in."""

    __slots__ = ("mp", "walk", "data", "names", "room", "start", "full")

    def __init__(self, mp: Mount, top: int, data: bool) -> None:
        vm = mp.vm
        self.mp, self.walk, self.data = mp, Walk(mp, top), data
        self.names = 0
        # More would push out what came first.
        self.room = max(vm.phys.nframes - vm.low - vm.daemon.batch - vm.nwired - vm.nunowned, 0)
        self.start = vm.pageins
        self.full = False

    def run(self) -> Iterator[None]:
        """Page in, in slices.  => SwapIOError: the top cannot be read."""
        for entry in self.walk:
            if entry is None:
                yield
                continue
            self.names += bool(entry.dino)
            ino, generation = entry.ino, layout.tn_gen(self.mp.arena, entry.at)
            try:
                for _ in self._touch_metadata(ino, generation):
                    self.walk.others_ran = True
                    yield
                if not is_same(self.mp, ino, generation):
                    continue
                if self.data and stat.S_ISREG(layout.tn_mode(self.mp.arena, self.mp.mem.node(ino))):
                    for _ in self._touch_data(ino, generation):
                        self.walk.others_ran = True
                        yield
            except SwapIOError:
                self.walk.unreadable += 1
            self.full = self.pageins() >= self.room
            if self.full:
                return

    def _touch_metadata(self, ino: int, generation: int) -> Iterator[None]:
        """The items of a node, in slices."""
        mp, mem = self.mp, self.mp.mem
        mem.read(mem.nlookup.va(ino - 1))
        at = mem.node(ino)
        if layout.tn_kind(mp.arena, at) == KIND_STRING:
            mem.string(layout.tn_string(mp.arena, at))
        for batches in (tree_nodes(mp, ino, generation), attribute_items(mp, ino, generation)):
            for handles in batches:
                for handle in handles:
                    mp.breathe()
                    mem.string(handle)
                if len(handles) >= BATCH:
                    yield

    def _touch_data(self, ino: int, generation: int) -> Iterator[None]:
        """The pages of a regular file, as long as it is there."""
        mp, page, touched = self.mp, 0, 0
        while self.pageins() < self.room:
            mp.breathe()
            if not mp.mem.nodes.is_held(ino - 1):
                return
            at = mp.mem.node(ino)
            if layout.tn_gen(mp.arena, at) != generation or layout.tn_kind(mp.arena, at) != KIND_TREE:
                return
            page, vpn, npages = self._run_at(at, page)
            for i in range(npages):
                if not is_unwritten(mp.vm, vpn + i):
                    mp.mem.data(vpn + i)
            page, touched = page + npages, touched + npages
            if not npages:
                return
            if touched >= BATCH:
                touched = 0
                yield

    def _run_at(self, at: int, page: int) -> tuple[int, int, int]:
        """The first pages of a file from a page index on: (index, page number, how many, 0 for none)."""
        tree = self.mp.extents
        for found in (tree.last_to(at, page), tree.first_from(at, page)):
            if found is not None:
                vpn, count = unpack_extent(found[1])
                skip = max(page - found[0], 0)
                if skip < count:
                    return found[0] + skip, vpn + skip, min(count - skip, RUN)
        return page, 0, 0

    def pageins(self) -> int:
        """Pages that came in since it began, for any user."""
        return self.mp.vm.pageins - self.start

    def totals(self) -> dict[str, Any]:
        """The keys of `tmpfsctl prefetch --json`."""
        return {"names": self.names, "pageins": self.pageins(), "bytes": self.pageins() << PAGE_SHIFT,
                "full": self.full, "skipped": self.walk.skipped, "unreadable": self.walk.unreadable}
