"""tmpfs/fsck.py: the whole-file-system check.

It recomputes every counter and bitmap from the pages (after tx_check.go of bbolt: freed twice, used twice, reachable
but free, neither reachable nor free), and demands the invariants of every layer by number.  It repairs nothing.  It
walks every node, so it takes a while on a large mount: a frozen copy of the server does it (server/checker.py), so that
requests are served meanwhile.

Breathing   Breathes at every node and every node of a tree.

Limits      Needs memory for its counts: this is the one place where the Python heap grows with the files.  It is the
            heap of a process that ends with the check.
"""

from __future__ import annotations

import stat
from collections.abc import Callable
from typing import TYPE_CHECKING

from tmpfsd.pool.strings import INDEX_BITS
from tmpfsd.tmpfs import layout, xattr
from tmpfsd.tmpfs.accounts import Charges
from tmpfsd.tmpfs.directory import COOKIE_SHIFT, DIR_SIZE, DIRENT_SIZE, HASH_MASK
from tmpfsd.tmpfs.layout import (
    EXTERNAL, INLINE_MAX, KIND_INLINE, KIND_STRING, KIND_TREE, NLOOKUP_MAX, ORPHAN, ROOT_INO, SPEC, unpack_extent
)
from tmpfsd.tmpfs.mem import OWNER_DATA
from tmpfsd.uvm.errors import SwapIOError, demand
from tmpfsd.uvm.pagekind import UNWRITTEN
from tmpfsd.uvm.param import PAGE_MASK, PAGE_SHIFT, PAGE_SIZE
from tmpfsd.uvm.physmem import ZERO_PAGE
from tmpfsd.uvm.unwritten import is_unwritten

if TYPE_CHECKING:
    from tmpfsd.tmpfs.filesystem import Mount


Tell = Callable[[int, int], None]
DATA_OWNERS = (OWNER_DATA, UNWRITTEN)
TELL = 256                  # nodes between two reports of progress


class _Seen:
    """All that the walk has met."""

    def __init__(self) -> None:
        self.strings: set[int] = set()
        self.pages: set[int] = set()
        self.links: dict[int, int] = {}
        self.inner_names: set[int] = set()
        self.parents: dict[int, int] = {ROOT_INO: ROOT_INO}
        self.subdirs: dict[int, int] = {}
        self.doomed: set[int] = set()
        self.ends = {ROOT_INO}      # a way up may end here: the root, and directories whose name is gone
        self.norphans = 0
        self.data_items: dict[int, int] = {}        # by string class
        self.charges: Charges = [{}, {}]

    def charge(self, mp: Mount, ino: int) -> None:
        """Count a node for the quotas of its owner."""
        at = mp.mem.node(ino)
        blocks = layout.tn_blocks(mp.arena, at) if ino not in self.doomed else 0
        for table, number in zip(self.charges, layout.tn_owner(mp.arena, at)):
            charge = table.setdefault(number, [0, 0])
            charge[0] += blocks
            charge[1] += layout.tn_links(mp.arena, at) > 0

    def use_string(self, mp: Mount, handle: int, what: str) -> None:
        """Note the only user of an item, and demand that it is handed out."""
        demand(handle not in self.strings, "P4", f"string {handle:#x} is used twice, last by {what}")
        demand(mp.mem.strings.is_held(handle), "P4", f"string {handle:#x} is used by {what} and free")
        self.strings.add(handle)


def check(mp: Mount, tell: Tell = lambda _done, _of: None) -> None:
    """Raise Inconsistent at the first invariant that does not hold.  O(pages + items + names).

    => tell(done, of) is called now and then.
    """
    npages, nnodes = len(mp.vm.flags), mp.mem.nodes.nitems
    of = npages + 2 * nnodes
    mp.vm.check(tell=lambda vpn: tell(vpn, of))
    mp.mem.check()
    seen = _Seen()
    _check_doomed(mp, seen)
    for i, ino in enumerate(_inodes(mp)):
        if not i & TELL - 1:
            tell(npages + i, of)
        _check_node(mp, ino, seen)
        if mp.quota is not None:
            seen.charge(mp, ino)
    for i, ino in enumerate(_inodes(mp)):
        if not i & TELL - 1:
            tell(npages + nnodes + i, of)
        _check_links(mp, ino, seen)
    _check_reachable(mp, seen)
    demand(seen.norphans == mp.mem.norphans, "N3", f"{seen.norphans} orphans, counted {mp.mem.norphans}")
    if mp.mem.data_counted:
        for i, counted in enumerate(mp.mem.data_items):
            found = seen.data_items.get(i, 0)
            demand(found == counted, "R5", f"{mp.mem.strings.pools[i].name}: {found} items of files, counted {counted}")
    if mp.quota is not None and not mp.lost_nodes:
        mp.quota.check(seen.charges)
    _check_leaks(mp, seen)
    mp.vm.check(deep=False)


def _inodes(mp: Mount):
    for i in mp.mem.nodes.held():
        mp.breathe()
        yield i + 1


def _lookup_word(mp: Mount, ino: int) -> int:
    """The lookup count of a node; its page stays clean, so that a frozen copy can drop it."""
    return mp.mem.u32[mp.mem.read(mp.mem.nlookup.va(ino - 1)) >> 2]


def _check_doomed(mp: Mount, seen: _Seen) -> None:
    """The list of doomed.py: nodes without a link and with a reference."""
    ino, npages = mp.doomed, 0
    while ino:
        mp.breathe()
        demand(mp.mem.nodes.is_held(ino - 1) and ino not in seen.doomed, "K1", f"inode {ino} on the list of the doomed")
        seen.doomed.add(ino)
        at = mp.mem.node(ino)
        links, kind, mode = layout.tn_links(mp.arena, at), layout.tn_kind(mp.arena, at), layout.tn_mode(mp.arena, at)
        has_tree = kind == KIND_TREE and (stat.S_ISDIR(mode) or stat.S_ISREG(mode))
        demand(has_tree and not links, "K1", f"doomed inode {ino}: mode {mode:o}, kind {kind}, {links} links")
        npages += layout.tn_pages(mp.arena, at)
        demand(_lookup_word(mp, ino) & NLOOKUP_MAX, "K1", f"doomed inode {ino} has no reference")
        ino = layout.tn_parent(mp.arena, at)
    demand(npages == mp.doomed_pages, "K3", f"{npages} doomed pages, counted {mp.doomed_pages}")


def _check_node(mp: Mount, ino: int, seen: _Seen) -> None:
    arena = mp.arena
    at = mp.mem.node(ino)
    mode, kind, size = layout.tn_mode(arena, at), layout.tn_kind(arena, at), layout.tn_size(arena, at)
    if stat.S_ISDIR(mode):
        _check_directory(mp, ino, size, seen)
    elif stat.S_ISREG(mode) and kind == KIND_TREE:
        _check_extents(mp, ino, size, seen)
    elif stat.S_ISREG(mode) or stat.S_ISLNK(mode):
        _check_packed(mp, ino, at, kind, size, seen)
    else:
        demand(size == 0, "R2", f"inode {ino}: a special file of {size} bytes")
    _check_attributes(mp, ino, seen)


def _check_attributes(mp: Mount, ino: int, seen: _Seen) -> None:
    listed = 0
    for handle, name in xattr.walk(mp, ino):
        for item in xattr.items(mp, handle):
            seen.use_string(mp, item, f"an attribute of inode {ino}")
        demand(xattr.find(mp, ino, name) == handle, "X1", f"inode {ino}: {name!r} is not where it is looked for")
        listed += len(name) + 1
    if listed:
        said = layout.tx_listed(mp.arena, mp.mem.string(layout.tn_xattr(mp.arena, mp.mem.node(ino))))
        demand(listed == said, "X2", f"inode {ino}: names of {listed} bytes, says {said}")


def _check_packed(mp: Mount, ino: int, at: int, kind: int, size: int, seen: _Seen) -> None:
    demand(kind in (KIND_INLINE, KIND_STRING), "R2", f"inode {ino}: kind {kind}")
    start, room = at + SPEC, INLINE_MAX
    if kind == KIND_STRING:
        handle = layout.tn_string(mp.arena, at)
        seen.use_string(mp, handle, f"inode {ino}")
        if stat.S_ISREG(layout.tn_mode(mp.arena, at)):
            i = (handle >> INDEX_BITS) - 1
            seen.data_items[i] = seen.data_items.get(i, 0) + 1
        start, room = mp.mem.string(handle), mp.mem.strings.size(handle)
    demand(size <= room, "R1", f"inode {ino}: {size} bytes packed in {room}")
    if stat.S_ISREG(layout.tn_mode(mp.arena, at)):
        demand(not any(mp.arena[start + size:start + room]), "R1", f"inode {ino}: bytes behind the end are not zero")


def _check_extents(mp: Mount, ino: int, size: int, seen: _Seen) -> None:
    npages, end = 0, 0
    mp.extents.check(mp.mem.node(ino))
    for handle, level, entries in mp.extents.walk(mp.mem.node(ino)):
        seen.use_string(mp, handle, f"the extents of inode {ino}")
        for first, value in () if level else entries:
            vpn, count = unpack_extent(value)
            demand(count > 0 and first >= end, "R2", f"inode {ino}: extent {first}+{count} after {end}")
            npages, end = npages + count, first + count
            for page in range(vpn, vpn + count):
                demand(page not in seen.pages, "R3", f"page {page} is in two extents, last of inode {ino}")
                demand(page < len(mp.vm.flags) and mp.vm.flags[page] in DATA_OWNERS, "R3", f"page {page} is not data")
                seen.pages.add(page)
    mp.breathe()
    demand(npages == layout.tn_pages(mp.arena, mp.mem.node(ino)), "R2", f"inode {ino}: {npages} pages")
    if end > size + PAGE_MASK >> PAGE_SHIFT:
        _check_beyond(mp, ino, size)
    _check_tail(mp, ino, size)


def _check_beyond(mp: Mount, ino: int, size: int) -> None:
    """Demand that pages reserved behind the end have only zeroes."""
    behind = size + PAGE_MASK >> PAGE_SHIFT
    for _handle, level, entries in mp.extents.walk(mp.mem.node(ino)):
        for first, value in () if level else list(entries):
            vpn, count = unpack_extent(value)
            for i in range(max(behind - first, 0), count):
                if not is_unwritten(mp.vm, vpn + i):
                    mp.breathe()
                    demand(_tail(mp, vpn + i, 0) in (ZERO_PAGE, None), "R2",
                           f"inode {ino}: page {first + i} behind its end, size {size}")


def _tail(mp: Mount, vpn: int, start: int) -> bytes | None:
    """A page of data from start on; None if it is lost, which is no fault of the file system."""
    try:
        at = mp.mem.data(vpn)
    except SwapIOError:
        return None
    return bytes(mp.arena[at + start:at + PAGE_SIZE])


def _check_tail(mp: Mount, ino: int, size: int) -> None:
    last = mp.extents.last_to(mp.mem.node(ino), size >> PAGE_SHIFT)
    if size & PAGE_MASK and last is not None:
        vpn, count = unpack_extent(last[1])
        if last[0] + count > size >> PAGE_SHIFT and not is_unwritten(mp.vm, vpn + (size >> PAGE_SHIFT) - last[0]):
            tail = _tail(mp, vpn + (size >> PAGE_SHIFT) - last[0], size & PAGE_MASK)
            demand(not any(tail or b""), "R1", f"inode {ino}: bytes behind the end are not zero")


def _check_directory(mp: Mount, ino: int, size: int, seen: _Seen) -> None:
    tree = mp.dirs.tree
    nentries = tree.check(mp.mem.node(ino))
    demand(size == DIR_SIZE + DIRENT_SIZE * nentries, "E1", f"directory {ino}: {nentries} entries, size {size}")
    dead = not layout.tn_links(mp.arena, mp.mem.node(ino))
    demand(not dead or not nentries or ino in seen.doomed or mp.lost_nodes, "K2",
           f"directory {ino} has no link and {nentries} entries")
    if dead and nentries:
        seen.ends.add(ino)
    names: set[bytes] = set()
    last = 0
    for handle, level, entries in tree.walk(mp.mem.node(ino)):
        seen.use_string(mp, handle, f"directory {ino}")
        for key, value in () if level else entries:
            mp.breathe()
            name = _check_entry(mp, ino, key, value, seen)
            demand(key >> COOKIE_SHIFT > last, "E2", f"directory {ino}: {name!r} has the cookie of another")
            last = key >> COOKIE_SHIFT
            demand(name not in names, "E2", f"directory {ino}: name {name!r} twice")
            names.add(name)


def _check_entry(mp: Mount, dino: int, key: int, value: int, seen: _Seen) -> bytes:
    if value & EXTERNAL:
        seen.use_string(mp, value ^ EXTERNAL, f"a dirent of directory {dino}")
    else:
        demand(value not in seen.inner_names, "E3", f"the name in inode {value} is used twice")
        seen.inner_names.add(value)
        demand(mp.mem.nodes.is_held(value - 1), "E4", f"directory {dino} names inode {value}, which is free")
    ino, name = mp.dirs.read_value(value)
    demand(mp.mem.nodes.is_held(ino - 1), "E4", f"directory {dino} names inode {ino}, which is free")
    hashed = mp.dirs.hash(name)
    demand(name and hashed == key & HASH_MASK, "E2", f"directory {dino}: {name!r} under key {key:#x}")
    seen.links[ino] = seen.links.get(ino, 0) + 1
    if stat.S_ISDIR(layout.tn_mode(mp.arena, mp.mem.node(ino))):
        demand(ino not in seen.parents, "E4", f"directory {ino} has two names")
        seen.parents[ino] = dino
        seen.subdirs[dino] = seen.subdirs.get(dino, 0) + 1
    return name


def _check_links(mp: Mount, ino: int, seen: _Seen) -> None:
    arena = mp.arena
    at = mp.mem.node(ino)
    links, is_dir = layout.tn_links(arena, at), stat.S_ISDIR(layout.tn_mode(arena, at))
    names = seen.links.get(ino, 0)
    expected = names
    if is_dir and ino in seen.parents:
        expected = 2 + seen.subdirs.get(ino, 0)
        demand(layout.tn_parent(arena, at) == seen.parents[ino], "E4", f"directory {ino} has another parent")
    demand(links == expected, "N1", f"inode {ino}: tn_links {links}, {expected} by its names")
    demand(bool(layout.tn_name(arena, at)) == (ino in seen.inner_names), "E3", f"inode {ino} keeps a name nobody uses")
    word = _lookup_word(mp, ino)
    seen.norphans += links == 0
    demand(bool(word & ORPHAN) == (links == 0), "N1", f"inode {ino}: {links} links, lookup word {word:#x}")
    demand(links or word & NLOOKUP_MAX or mp.lost_nodes, "N2", f"inode {ino} has neither link nor reference")


def _check_reachable(mp: Mount, seen: _Seen) -> None:
    """Demand that every directory with a name leads up to the root, or to a directory that was discarded."""
    rooted = set(seen.ends)
    for start in seen.parents:
        ino, way = start, []
        while ino not in rooted:
            way.append(ino)
            demand(len(way) <= len(seen.parents), "E4", f"directory {start} is below itself")
            ino = seen.parents[ino]
            demand(ino in seen.parents or ino in rooted, "E4", f"directory {start} is cut off")
        rooted.update(way)


def _check_leaks(mp: Mount, seen: _Seen) -> None:
    """Demand that everything that is handed out is used."""
    if mp.lost_nodes:
        return
    for handle in mp.mem.strings.handles():
        demand(handle in seen.strings, "P4", f"string {handle:#x} is handed out and used by nobody")
    npages = sum(mp.vm.pages_of[owner] for owner in DATA_OWNERS)
    demand(len(seen.pages) == npages, "R3", f"{npages} data pages, {len(seen.pages)} in extents")
