"""image/freeze.py: writes a mount into an image.

Nobody else uses the mount meanwhile: it was built for this, or is a frozen copy of a daemon (server/saving.py).
Open files without a name are freed first; the kernel's references are not saved; free items of pools are zeroed, so
that removed data are not in the image.

Breathing   Breathes at every page.

Limits      Bytes after the end of a symlink or of a long name may be those of an earlier one in the same place.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable

from tmpfsd.image.format import CLUSTER, FLAGGED, LABELS, ImageError, Writer
from tmpfsd.pool import Pool
from tmpfsd.pool.table import WORDS_PER_PAGE
from tmpfsd.tmpfs import node, reap
from tmpfsd.tmpfs.filesystem import Mount
from tmpfsd.tmpfs.layout import ORPHAN, ROOT_INO
from tmpfsd.tmpfs.mem import OWNER_NLOOKUP
from tmpfsd.uvm.pagekind import UNWRITTEN
from tmpfsd.uvm.param import PAGE_SHIFT, PAGE_SIZE
from tmpfsd.uvm.physmem import ZERO_PAGE
from tmpfsd.uvm.vm import OWNER_MASK

Tell = Callable[[int, int], None]
TELL = 1024                 # pages between two reports of progress
WIDTHS = (4, 2, 8, 1)       # of Pool.save()
_TO_OWNER = bytes(flags & OWNER_MASK for flags in range(256))


def freeze(mp: Mount, writer: Writer, tell: Tell = lambda _done, _of: None, made: int = 0,
           hot: array[int] | None = None) -> int:
    """Write all of a mount; return the bytes of the file.  O(pages).  => ImageError, VmError, OSError.

    => hot: pages that a mount of the image reads first, if they are in it.
    """
    _drop_orphans(mp)
    flags = bytes(mp.vm.flags).rstrip(b"\0").translate(_TO_OWNER)
    places = array("I", bytes(4 * len(flags)))
    _write_pages(mp, writer, flags, places, tell)
    header = writer.header
    header.nvpns, header.npages, header.ninodes = len(flags), mp.vm.npages, mp.mem.ninodes()
    header.made, header.key, header.generation = made, mp.dirs.key, mp.generation
    header.state = FLAGGED * mp.flagged | LABELS * mp.labels
    tables = {"owner": (flags, 1), "place": (places.tobytes(), 4)}
    for pool in _pools(mp):
        names = ("pages", "nfree", "bits", "group")
        tables.update((table_name(pool.name, name), (data, width))
                      for name, data, width in zip(names, pool.save(), WIDTHS))
    pages, uses = mp.mem.nlookup.save()
    tables.update({"nlookup.pages": (pages, 4), "nlookup.uses": (uses, 2)})
    if mp.mem.data_counted:
        counted = array("I")
        for pool, nitems in zip(mp.mem.strings.pools, mp.mem.data_items):
            counted.extend((pool.owner, nitems) if nitems else ())
        tables["packed"] = (counted.tobytes(), 4)
    if hot is not None:
        named = array("I", (vpn for vpn in hot if vpn < len(places) and places[vpn]))
        tables["hot"] = (named.tobytes(), 4)
    return writer.finish(tables)


def table_name(pool: str, part: str) -> str:
    """The name of a pool's table: 16 bytes at most."""
    return f"{pool.replace('string-', 's')}.{part}"


def _pools(mp: Mount) -> list[Pool]:
    return [mp.mem.nodes, *mp.mem.strings.pools]


def _drop_orphans(mp: Mount) -> None:
    """Free what has no name.  => ImageError: some of it cannot be read back."""
    _reap(mp)
    if mp.mem.norphans:
        for page in range(len(mp.mem.nlookup.pages)):
            for ino in _orphans(mp, page):
                mp.breathe()
                mp.mem.u32[mp.mem.nlookup_word(ino)] = ORPHAN
                node.destroy(mp, ino)
                _reap(mp)
    if mp.lost_nodes or mp.mem.norphans:
        raise ImageError("some of what was removed cannot be freed: pages of it cannot be read back")


def _reap(mp: Mount) -> None:
    while mp.doomed:
        reap.reap(mp)


def _orphans(mp: Mount, page: int) -> list[int]:
    """The inodes without a name, of one page of lookup counts."""
    vpn = mp.mem.nlookup.pages[page]
    if not vpn:
        return []
    mp.breathe()
    at, first = mp.vm.read(vpn << PAGE_SHIFT), page * WORDS_PER_PAGE
    return [first + k + 1 for k, word in enumerate(array("I", mp.arena[at:at + PAGE_SIZE]))
            if word & ORPHAN and mp.mem.nodes.is_held(first + k)]


def _write_pages(mp: Mount, writer: Writer, flags: bytes, places: array[int], tell: Tell) -> None:
    """Write every page that has content, in the order of their numbers."""
    partial = _partial(mp, len(flags))
    pools = {pool.owner: pool for pool in _pools(mp)}
    root = mp.mem.nlookup.va(ROOT_INO - 1)
    vpn, n = 0, len(flags)
    while vpn < n:
        if not vpn & TELL - 1:
            tell(vpn, n)
        if flags[vpn] in (0, UNWRITTEN):
            vpn += 1
            continue
        got = 1
        if flags[vpn] == OWNER_NLOOKUP:
            page = writer.room(1)[0]
            page[:] = ZERO_PAGE
            if vpn == root >> PAGE_SHIFT:
                page[root & PAGE_SIZE - 1] = 1
        else:
            got = _copy(mp, writer, vpn, flags)
        if any(partial[vpn:vpn + got]):
            for i, page in enumerate(writer.room(got)):
                if partial[vpn + i]:
                    _clear(page, pools[flags[vpn + i]], partial[vpn + i] - 1)
        first = writer.filled(got)
        places[vpn:vpn + got] = array("I", range(first, first + got))
        vpn += got
    tell(n, n)


def _copy(mp: Mount, writer: Writer, vpn: int, flags: bytes) -> int:
    """Put pages from vpn on into the writer's room; return how many.  => SwapIOError."""
    vm = mp.vm
    room, n = writer.room(CLUSTER), 1
    del room[len(flags) - vpn:]
    pfn, slot = vm.pfn_of(vpn), vm.slot_of[vpn]
    if pfn >= 0:
        while n < len(room) and vm.pfn_of(vpn + n) == pfn + n and flags[vpn + n] != OWNER_NLOOKUP:
            n += 1
        writer.copy(vm.phys.mem[pfn << PAGE_SHIFT:(pfn + n) << PAGE_SHIFT])
        return n
    while (n < len(room) and flags[vpn + n] not in (0, UNWRITTEN, OWNER_NLOOKUP)
           and vm.slot_of[vpn + n] == slot + n and vm.pfn_of(vpn + n) < 0):
        n += 1
    assert vm.swap is not None
    return vm.swap.read_cluster(slot, room[:n], range(vpn, vpn + n))


def _partial(mp: Mount, nvpns: int) -> array[int]:
    """By page number: its index in its pool, plus 1, if it has free items; else 0."""
    partial = array("I", bytes(4 * nvpns))
    for pool in _pools(mp):
        for page, vpn in enumerate(pool.pages):
            if vpn and pool.free_items(page):
                partial[vpn] = page + 1
    return partial


def _clear(page: memoryview, pool: Pool, which: int) -> None:
    """Zero the free items of a page of a pool."""
    size = pool.item_size
    for k in pool.free_items(which):
        page[k * size:(k + 1) * size] = bytes(size)
    page[pool.items_per_page * size:] = bytes(PAGE_SIZE - pool.items_per_page * size)
