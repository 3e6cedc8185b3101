"""tmpfs/filesystem.py: one mounted file system: its machine, its pools, its directories (after tmpfs_vfsops.c).

The server makes a Mount from a Config, calls breathe() before each operation of vnops.py, and idle() when there is
nothing else to do.
"""

from __future__ import annotations

from typing import Any, Callable, Protocol

from tmpfsd.options import Config
from tmpfsd.swapplaces import remote
from tmpfsd.tmpfs import fsck, node, reap, vnops
from tmpfsd.tmpfs.accounts import Quota
from tmpfsd.tmpfs.btree import BTree
from tmpfsd.tmpfs.clock import Clock
from tmpfsd.tmpfs.detach import StaleName
from tmpfsd.tmpfs.directory import Directories
from tmpfsd.tmpfs.gate import Gate
from tmpfsd.tmpfs.mem import OWNER_DATA, Mem
from tmpfsd.uvm.backing import Backing
from tmpfsd.uvm.codec import Zstd
from tmpfsd.uvm.errors import NoMemory, NoSwap
from tmpfsd.uvm.pagekind import UNWRITTEN
from tmpfsd.uvm.param import atop, ptoa
from tmpfsd.uvm.seal import make_seal
from tmpfsd.uvm.store import Store, open_store
from tmpfsd.uvm.swap import Swap
from tmpfsd.uvm.swapset import OWN_WIDTH, RING_BASE, RING_WIDTH, SwapSet, free_base
from tmpfsd.uvm.tier import compress_in
from tmpfsd.uvm.vm import SPARE, Vm
from tmpfsd.uvm.zlog import ZLog

NO_ZRAM = {"size_bytes": 0, "used_bytes": 0, "stored_bytes": 0, "ratio": 0.0, "hits": 0, "writebacks": 0}
NO_IMAGE: dict[str, object] = {"path": "", "pages": 0, "pages_read": 0, "hot_pages": 0, "state": "ok"}
STORE_KEYS = ("kind", "path", "priority", "size_bytes", "used_bytes", "state", "encrypted")


class Saved(Protocol):
    """A file system that was saved (image/thaw.py)."""

    @property
    def slots(self) -> Backing:
        """Where its pages are."""

    def restore(self, mp: Mount) -> None:
        """Restore the saved state into an empty mount.  => VmError, OSError."""


class Mount:
    """A file system in memory that pages out.  => OSError: the swap file or device cannot be opened."""

    __slots__ = ("config", "vm", "mem", "dirs", "extents", "arena", "breathe", "clock", "now", "generation",
                 "lost_nodes", "flagged", "gate", "noatime", "nodiratime", "strictatime", "acl", "xattr", "labels",
                 "marks", "nr_inodes", "check_level", "doomed", "doomed_from", "doomed_pages", "on_doomed", "untold",
                 "quota", "nread", "nwritten", "given_up", "ngiven_up", "again_at", "forged")

    def __init__(self, config: Config, saved: Saved | None = None) -> None:
        self.config = config
        swap = _swap_of(config, saved.slots if saved is not None else None)
        self.vm = Vm(config.ram_bytes - config.zram_bytes, swap, atop(config.size_bytes), spare=SPARE)
        self.vm.image = saved.slots if saved is not None else None
        if config.zram_bytes:
            compress_in(self.vm, ZLog(config.zram_bytes, RING_BASE, RING_WIDTH, Zstd()))
        submap = 0 if config.submap == "auto" else int(config.submap)
        self.mem = Mem(self.vm, config.backend, submap, config.submap_sharing == "per-pool", config.nr_inodes,
                       config.windows)
        self.dirs = Directories(self.mem)
        self.extents = BTree(self.mem, 8)
        self.arena = self.vm.phys.arena
        self.breathe = self.vm.breathe
        self.gate = Gate(self.status)
        self.clock = Clock()
        self.now = self.clock.now
        self.generation = 0
        # For node.give_up(): how many nodes could not be freed, which of them are tried again and when, and how often
        # one was given up.
        self.lost_nodes = self.ngiven_up = 0
        self.given_up: list[int] = []
        self.again_at = 0.0
        # For reap.py: the first node on its list, the key at which that directory goes on, pages of data on the list,
        # a callback when something is put there, and names that the kernel must still be told of (UNTOLD_MOST).
        self.doomed = self.doomed_from = self.doomed_pages = 0
        self.on_doomed: Callable[[], None] = lambda: None
        self.untold: list[StaleName] = []
        self.forged: list[int] = []         # files whose pages the kernel must forget (writeback.py)
        self.acl, self.xattr = config.acl, config.xattr
        self.set_atime(config.noatime or config.readonly, config.nodiratime, config.strictatime)
        self.flagged = False                # whether a node was ever given flags (fileattr.py)
        self.labels = False                 # whether a security label was ever set: before, they are not supported
        # Nodes whose next write takes set-id bits: generation and next mode of each; at most setid.MARKS_MAX.
        self.marks: dict[int, tuple[int, int]] = {}
        self.nread = self.nwritten = 0      # bytes that requests have read and written
        self.nr_inodes = config.nr_inodes
        self.quota: Quota | None = Quota(config) if config.user_quota or config.group_quota else None
        self.check_level = self.vm.check_level      # TMPFSD_CHECK; at 2 the server calls check() after each operation
        if saved is not None:
            self._restore(saved)
        else:
            vnops.make_root(self, config.mode, config.uid, config.gid)

    def _restore(self, saved: Saved) -> None:
        try:
            saved.restore(self)
        except BaseException:
            self.vm.close()
            raise

    def set_atime(self, noatime: bool, nodiratime: bool, strictatime: bool) -> None:
        """Set how reading changes atime, as mount(8) has it; if both are given, strictatime wins, as in the kernel."""
        self.noatime, self.nodiratime, self.strictatime = noatime and not strictatime, nodiratime, strictatime

    def idle(self) -> bool:
        """One slice of background work; whether there is more.  None is done once an invariant broke."""
        return not self.gate.broken and (node.free_again(self) or self.vm.idle())

    def make_room(self, shortage: NoMemory | None = None) -> bool:
        """Free some of the doomed pages; whether a refused operation may be tried again.  => Breathes."""
        return bool(self.doomed) and reap.helps(self, shortage) and reap.make_room(self)

    def check(self, tell: fsck.Tell = lambda _done, _of: None) -> None:
        """Raise Inconsistent if an invariant of any layer does not hold.  Changes only which pages are resident."""
        fsck.check(self, tell)

    def close(self) -> None:
        """Give memory and swap back; nothing is walked."""
        self.vm.close()

    def status(self) -> dict[str, Any]:
        """The file system's part of `tmpfsctl status --json`."""
        vm, mem, daemon, swap = self.vm, self.mem, self.vm.daemon, self.vm.swap
        data_resident = vm.resident(OWNER_DATA)
        zram = vm.tier.stats() if vm.tier is not None else NO_ZRAM
        return {
            "backend": mem.backend.name,
            "size_bytes": ptoa(vm.limit),
            "used_bytes": ptoa(vm.npages),
            "doomed_bytes": ptoa(self.doomed_pages),
            "inodes": mem.ninodes(),
            "inodes_max": self.nr_inodes,
            "orphans": mem.norphans,            # inodes without a name that the kernel still knows, or to be freed
            "lost_inodes": self.lost_nodes,
            "ram_bytes": ptoa(vm.phys.nframes) + zram["size_bytes"],
            "resident_bytes": ptoa(vm.phys.nused) + zram["used_bytes"],
            "wired_bytes": ptoa(vm.nwired),
            "unowned_bytes": ptoa(vm.nunowned),
            "dirty_bytes": ptoa(vm.phys.dirty.count(1)),
            "submap": mem.backend.stats(),
            "swap": {"path": swap.path if swap else "none",
                     "size_bytes": ptoa(swap.nslots) if swap else 0,
                     "used_bytes": ptoa(swap.nheld) if swap else 0,
                     "bad_slots": swap.nbad if swap else 0,
                     "disk_full": swap is not None and bool(swap.files) and all(file.full for file in swap.files),
                     "files": [file.stats() for file in swap.files] if swap else []},
            "stores": [{key: value for key, value in file.stats().items() if key in STORE_KEYS}
                       for file in swap.files] if swap else [],
            "zram": zram,
            "image": vm.image.stats() if vm.image is not None else NO_IMAGE,
            "io": {"read_bytes": self.nread, "written_bytes": self.nwritten},
            "paging": {"faults": vm.faults, "pageins": vm.pageins, "pageouts": daemon.pageouts,
                       "scans": daemon.scans, "reclaims": daemon.reclaims, "stalls": daemon.stalls,
                       "read_errors": vm.read_errors, "write_errors": daemon.write_errors,
                       "frame_errors": vm.frame_errors, "lost_pages": len(vm.lost.pages)},
            "pools": mem.stats(),
            "data": {"pages": vm.pages_of[OWNER_DATA] + vm.pages_of[UNWRITTEN],
                     "reserved_pages": vm.pages_of[UNWRITTEN], "resident_pages": data_resident,
                     "swapped_pages": vm.pages_of[OWNER_DATA] - data_resident},
        }


def _open_store(path: str, config: Config) -> Store:
    if remote(path):
        from tmpfsd.stores.valkey import open_remote  # here: others do not wait for it
        return open_remote(path, config.swap_password_file, config.swap_ca_file)
    return open_store(path, config.swap_io == "direct")


def _swap_of(config: Config, image: Backing | None) -> Swap | SwapSet | None:
    files: list[Swap] = []
    try:
        for i, path in enumerate(config.places):
            store = _open_store(path, config)
            nslots = max(atop(config.swap_size_bytes) - 1, 0)
            nslots = min(nslots, store.most or nslots)
            # The first, when a file, may grow (`tmpfsctl set swap_size=`); a device may not.
            width = store.most or (nslots if i else OWN_WIDTH)
            base = free_base(files, width, image)
            files.append(Swap(store, nslots, base, width, make_seal(config.swap_crypt), -1 - i))
    except (OSError, NoSwap):
        for file in files:
            file.close()
        raise
    if image is not None:
        return SwapSet(files, None, image)
    return SwapSet(files) if len(files) > 1 else files[0] if files else None
