"""image/thaw.py: makes a mount from an image: reads its tables, none of its pages.

Picture     Image --Thawed--> Mount(config, saved) --restore()--> all pages are out, in slots of the image
"""

from __future__ import annotations

import dataclasses
from array import array
from stat import S_IFDIR

from tmpfsd.image.file import Image, demand_memory
from tmpfsd.image.format import FLAGGED, LABELS, ImageError
from tmpfsd.image.freeze import table_name
from tmpfsd.options import Config
from tmpfsd.pool.strings import TREE
from tmpfsd.swapplaces import shown
from tmpfsd.tmpfs import layout
from tmpfsd.tmpfs.filesystem import Mount
from tmpfsd.tmpfs.layout import ROOT_INO
from tmpfsd.tmpfs.mem import OWNER_STRINGS
from tmpfsd.uvm import backing
from tmpfsd.uvm.errors import NoMemory
from tmpfsd.uvm.pagekind import UNWRITTEN
from tmpfsd.uvm.param import PAGE_SHIFT
from tmpfsd.uvm.used import Used

OF_PAGE = 16                # bytes of memory for a page number, while it is restored
PARTS = ("pages", "nfree", "bits", "group")


class Thawed:
    """An image, in the form that a Mount takes."""

    def __init__(self, image: Image) -> None:
        self.slots = image

    def restore(self, mp: Mount) -> None:
        """See Saved.  O(pages), at the speed of memory; no page is read.  => ImageError, NoMemory."""
        image, header = self.slots, self.slots.header
        demand_memory(header.nvpns * OF_PAGE)
        owners, places = image.table("owner"), image.table("place")
        self._demand(owners, places)
        if mp.nr_inodes and header.ninodes > mp.nr_inodes:
            raise ImageError(f"nr_inodes={mp.nr_inodes}: the image has {header.ninodes} inodes")
        if header.npages > mp.vm.limit:
            raise ImageError(f"size={mp.vm.limit << PAGE_SHIFT}: the image has {header.npages << PAGE_SHIFT} bytes")
        try:
            backing.restore(mp.vm, owners, places)
            for pool in (mp.mem.nodes, *mp.mem.strings.pools):
                parts = [image.table(table_name(pool.name, part)) for part in PARTS]
                pool.restore(parts[0], parts[1], parts[2], parts[3])
            mp.mem.nlookup.restore(image.table("nlookup.pages"), image.table("nlookup.uses"))
        except ValueError as error:
            raise ImageError(f"corrupted: {error}") from None
        for each in mp.mem.pools():
            if each.npages != mp.vm.pages_of[each.owner] or not has_owner(each.pages, each.owner, owners):
                raise ImageError(f"corrupted: pool {each.name} has other pages than it says")
        if mp.mem.ninodes() != header.ninodes or not mp.mem.nodes.is_held(ROOT_INO - 1):
            raise ImageError("corrupted: it has other inodes than it says")
        self._restore_packed(mp)
        image.hot = self._hot(places)
        mp.vm.used = Used(mp.vm)
        mp.dirs.key, mp.generation = header.key, header.generation
        mp.flagged, mp.labels = bool(header.state & FLAGGED), bool(header.state & LABELS)

    def _demand(self, owners: bytes, places: bytes) -> None:
        """=> ImageError: the page table is impossible."""
        header = self.slots.header
        empty = owners.count(0)
        found = memoryview(places).cast("I")
        if (len(owners) != header.nvpns or len(found) != header.nvpns or len(owners) - empty != header.npages
                or len(found) and max(found) > header.nplaces
                or header.nplaces != header.npages - owners.count(UNWRITTEN)):
            raise ImageError("corrupted: its page table says what cannot be")

    def _restore_packed(self, mp: Mount) -> None:
        """Restore how many items have bytes of files, if the image says so.  O(1).  => ImageError."""
        mem = mp.mem
        if "packed" not in self.slots.header.tables:
            mem.data_counted = False
            return
        table = array("I", self.slots.table("packed", 8))
        for owner, nitems in zip(table[::2], table[1::2]):
            i = owner - OWNER_STRINGS
            if not 0 <= i < TREE or nitems > mem.strings.pools[i].nitems:
                raise ImageError("corrupted: the table packed says what cannot be")
            mem.data_items[i] = nitems

    def _hot(self, places: bytes) -> array[int]:
        """The pages to read first.  O(those).  => ImageError: it names pages that the image does not have."""
        if "hot" not in self.slots.header.tables:
            return array("I")
        hot, found = array("I", self.slots.table("hot", 4)), memoryview(places).cast("I")
        if (len(hot) > self.slots.header.nplaces or len(hot) and max(hot) >= len(found)
                or 0 in map(found.__getitem__, hot)):
            raise ImageError("corrupted: the table hot names pages that the image does not have")
        return hot


def has_owner(pages: array[int], owner: int, owners: bytes) -> bool:
    """Whether all pages that are not 0 belong to an owner, and none is named twice.  O(len(owners))."""
    left = bytearray(owners)
    for vpn in pages:
        if vpn >= len(left) or vpn and left[vpn] != owner:
            return False
        if vpn:
            left[vpn] = 0
    return True


def thaw(config: Config, path: str) -> Mount:
    """Make a mount from an image.  => ImageError, OSError, VmError; nothing is left open then."""
    try:
        image = Image(path, config.image_cache_bytes, config.swap)
    except ImageError as error:
        raise ImageError(f"image={shown(path)}: {error}") from None
    try:
        mp = Mount(fitted(config, image), Thawed(image))
    except (ImageError, NoMemory) as error:
        image.close()
        raise ImageError(f"image={shown(path)}: {error}") from None
    except BaseException:
        image.close()
        raise
    _give_root(mp)
    return mp


def _give_root(mp: Mount) -> None:
    """Set the root's attributes that the user gave.  => SwapIOError: the image cannot be read."""
    config, arena = mp.config, mp.arena
    if config.given & {"mode", "uid", "gid"}:
        at = mp.mem.node_w(ROOT_INO)
        uid, gid = layout.tn_owner(arena, at)
        layout.set_tn_owner(arena, at, config.uid if "uid" in config.given else uid,
                            config.gid if "gid" in config.given else gid)
        if "mode" in config.given:
            layout.set_tn_mode(arena, at, S_IFDIR | config.mode)


def fitted(config: Config, image: Image) -> Config:
    """A Config with room for the image, if the user gave no size."""
    if "size" in config.given:
        return config
    grown = config.size_bytes + (image.header.npages << PAGE_SHIFT)
    swap = config.swap_size_bytes if "swap_size" in config.given else grown + config.ram_bytes
    return dataclasses.replace(config, size_bytes=grown, swap_size_bytes=swap)
