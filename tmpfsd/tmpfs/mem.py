"""tmpfs/mem.py: the memory of one mount: its pools, its limits, its accounting (after tmpfs_mem.c).

Nodes, strings and lookup counts come from the backend of the mount.  File data come from ranges of kernel_map and are
always pageable.  `size` limits data and metadata pages together (vm.limit); nr_inodes limits the nodes.

Breathing   Nothing here breathes.  node() and the like return offsets: good until the next breathe().
"""

from collections.abc import Callable, Iterator
from typing import Final

from tmpfsd.native import i64
from tmpfsd.pool import Backend, Pool, Strings, Table, make_backend
from tmpfsd.pool.strings import INDEX_BITS, INDEX_MASK, TREE
from tmpfsd.tmpfs.layout import NODE_SIZE, ORPHAN
from tmpfsd.uvm import unwritten
from tmpfsd.uvm.errors import NoMemory, SwapIOError
from tmpfsd.uvm.param import PAGE_SHIFT, PAGE_SIZE
from tmpfsd.uvm.vm import RESERVE, Vm

NODES_PER_PAGE: Final = PAGE_SIZE // NODE_SIZE
OWNER_DATA, OWNER_NODE, OWNER_NLOOKUP, OWNER_STRINGS = 1, 2, 3, 4
MAX_NODES: Final = (1 << 31) - 1           # an inode number and dirent flag share 32 bits
OTHERS: Final = 0                   # groups of nodes
DIRECTORIES: Final = 1
READ_TRIES: Final = 8               # pages with a free item that are tried when they cannot be read
DATA_RUN: Final = 256               # most pages of data allocated at a time


class Mem:
    """The pools of one mount over one Vm."""

    __slots__ = ("vm", "backend", "nodes", "nlookup", "strings", "arena", "u32", "u64", "max_nodes", "norphans",
                 "data_items", "data_counted", "string_va", "read", "write", "_node_pages", "_page_pages", "_pte",
                 "_referenced", "_dirty")

    def __init__(self, vm: Vm, backend_name: str, submap_bytes: int = 0, per_pool: bool = False,
                 nr_inodes: int = 0, windows: int = RESERVE) -> None:
        self.vm = vm
        self.backend: Backend = make_backend(backend_name, vm, submap_bytes, per_pool, windows)
        self.nodes = Pool(vm, self.backend, "node", OWNER_NODE, NODE_SIZE, MAX_NODES)
        self.nlookup = Table(vm, self.backend, "nlookup", OWNER_NLOOKUP)
        self.strings = Strings(vm, self.backend, OWNER_STRINGS)
        for index in (self.nlookup, self.strings.pools[TREE]):      # a page of them serves many nodes
            vm.daemon.keep_index(index.owner)
        vm.owners[OWNER_DATA], vm.owners[unwritten.UNWRITTEN] = "file data", "reserved file data"
        assert OWNER_DATA == unwritten.DATA
        self.max_nodes = nr_inodes or MAX_NODES
        self.norphans = 0                   # nodes without a link that the kernel still knows
        # R5.  A mount of an image that does not have these counts goes on from 0, and they are not known.
        self.data_items: list[int] = [0] * TREE
        self.data_counted = True
        self.arena, self.u32, self.u64 = vm.phys.arena, vm.phys.u32, vm.phys.u64
        self.string_va = self.strings.va
        self.read, self.write = vm.read, vm.write
        self._node_pages, self._page_pages = self.nodes.pages, self.strings.pools[TREE].pages
        self._pte, self._referenced, self._dirty = vm.pte, vm.phys.referenced, vm.phys.dirty

    # --- where things are ---

    # node(), node_w() and page() are Pool.va() and Vm.read() or Vm.write() in one: 0.35 us instead of 0.65.

    def node(self, ino: int) -> int:
        """The offset of a node, to read.  => SwapIOError."""
        i: i64 = ino - 1
        vpn: i64 = self._node_pages[i // NODES_PER_PAGE]
        pfn: i64 = self._pte[vpn]
        if pfn < 0:
            pfn = self.vm.fault(vpn)
        self._referenced[pfn] = 1
        return (pfn << PAGE_SHIFT) + i % NODES_PER_PAGE * NODE_SIZE

    def node_w(self, ino: int) -> int:
        """The offset of a node, to change.  => SwapIOError."""
        i: i64 = ino - 1
        vpn: i64 = self._node_pages[i // NODES_PER_PAGE]
        pfn: i64 = self._pte[vpn]
        if pfn < 0:
            pfn = self.vm.fault(vpn)
        self._referenced[pfn] = self._dirty[pfn] = 1
        return (pfn << PAGE_SHIFT) + i % NODES_PER_PAGE * NODE_SIZE

    def page(self, handle: int) -> int:
        """The offset of a tree's page, to read.  => SwapIOError."""
        vpn: i64 = self._page_pages[handle & INDEX_MASK]
        pfn: i64 = self._pte[vpn]
        if pfn < 0:
            pfn = self.vm.fault(vpn)
        self._referenced[pfn] = 1
        return pfn << PAGE_SHIFT

    def string(self, handle: int) -> int:
        """The offset of a string item, to read.  => SwapIOError."""
        return self.vm.read(self.strings.va(handle))

    def string_w(self, handle: int) -> int:
        """The offset of a string item, to change.  => SwapIOError."""
        return self.vm.write(self.strings.va(handle))

    # --- nodes ---

    def ninodes(self) -> int:
        """How many inodes there are; nr_inodes, df -i and the status use this count.

        An inode without a name does not count, though a program may have it open (the kernel's tmpfs counts it to the
        last close).  The kernel's FORGET comes some time after a removal, but a removal must make room at once.
        """
        return self.nodes.nitems - self.norphans

    def get_node(self, nlookup: int, group: int = OTHERS) -> int:
        """The inode number of a free node, its page in and its lookup count set.  => NoMemory, SwapIOError.

        Directories have pages of their own: each lookup goes through one.  With 1,000 files in a directory it would be
        the one hot node of its page: 4 bytes of `ram` a file.
        """
        self.demand_inodes()
        return self._take_node(nlookup, group)

    def demand_inodes(self) -> None:
        """=> NoMemory: there are nr_inodes inodes.  O(1)."""
        if self.ninodes() >= self.max_nodes:
            raise NoMemory("nr_inodes is used up")

    def get_orphan(self) -> int:
        """get_node() for a node without a name: marked and counted as an orphan, with one reference.

        It does not count for nr_inodes; removed nodes do not, either.
        """
        ino = self._take_node(ORPHAN | 1, OTHERS)
        self.norphans += 1
        return ino

    def put_orphan(self, ino: int) -> None:
        """Undo get_orphan().  => Cannot fail."""
        self.norphans -= 1
        self.put_node(ino)

    def _take_node(self, nlookup: int, group: int) -> int:
        for _ in range(READ_TRIES):
            i = self.nodes.get(group)
            try:
                return self._enter_node(i, nlookup)
            except SwapIOError as error:
                self.nodes.avoid(i)
                failure = error
            except BaseException:
                self.nodes.put(i)
                raise
        raise failure

    def _enter_node(self, i: int, nlookup: int) -> int:
        self.nlookup.enter(i)
        try:
            self.u32[self.vm.write(self.nlookup.va(i)) >> 2] = nlookup
            self.node_w(i + 1)
        except BaseException:
            self.nlookup.remove(i)
            raise
        return i + 1

    def put_node(self, ino: int) -> None:
        """Give a node back.  => Cannot fail."""
        self.nlookup.remove(ino - 1)
        self.nodes.put(ino - 1)

    def nlookup_word(self, ino: int) -> int:
        """Where the lookup count of a node is, as an index into u32.  => SwapIOError."""
        return self.vm.write(self.nlookup.va(ino - 1)) >> 2

    # --- strings whose pages are in ---

    def new_string(self, nbytes: int) -> int:
        """A string item whose page is in, so that writing it cannot fail.  => NoMemory, SwapIOError."""
        return self._filled(self.strings.get, nbytes)

    def new_data_string(self, nbytes: int) -> int:
        """new_string() for the bytes of a regular file; put_data_string() gives it back.  => NoMemory, SwapIOError."""
        handle = self._filled(self.strings.get, nbytes)
        self._count_data(handle, 1)
        return handle

    def put_data_string(self, handle: int) -> None:
        """Give back what new_data_string() gave.  => Cannot fail; faults nothing in."""
        self.strings.put(handle)
        self._count_data(handle, -1)

    def _count_data(self, handle: int, n: int) -> None:
        i = (handle >> INDEX_BITS) - 1
        if 0 <= i < TREE:               # an image may have put a file's bytes where there are none
            self.data_items[i] += n

    def new_tree_node(self, nbytes: int) -> int:
        """new_string() for a node of a tree: a whole page comes from the trees' pool."""
        if nbytes == PAGE_SIZE:
            return self._filled(self.strings.get_tree_page)
        return self._filled(self.strings.get, nbytes)

    def _filled(self, get: Callable[..., int], *nbytes: int) -> int:
        for _ in range(READ_TRIES):
            handle = get(*nbytes)
            try:
                self.vm.write(self.strings.va(handle))
                return handle
            except SwapIOError as error:
                self.strings.avoid(handle)
                failure = error
        raise failure

    # --- data pages ---

    def alloc_data(self, npages: int, after: int = 0) -> tuple[int, int]:
        """Up to npages data pages in a row, from page `after` on if possible: (first, count >= 1).

        => Their bytes are undefined: all must be written before the next breath, and vm.undefined told.
        => NoMemory when there is not even one.
        """
        vm = self.vm
        first, count = vm.kernel_map.alloc_some(min(npages, DATA_RUN), after)
        try:
            got = vm.alloc_data_pages(first, count, OWNER_DATA)
        except NoMemory:
            vm.kernel_map.free(first, count)
            raise
        if got < count:
            vm.kernel_map.free(first + got, count - got)
        return first, got

    def free_data(self, vpn: int, npages: int) -> None:
        """Give data pages back.  => Cannot fail; faults nothing in."""
        self.vm.free_pages(vpn, npages)
        self.vm.kernel_map.free(vpn, npages)

    def data(self, vpn: int) -> int:
        """The offset of a data page, to read.  => SwapIOError."""
        return self.vm.read(vpn << PAGE_SHIFT)

    def promise_data(self, npages: int, after: int = 0) -> tuple[int, int]:
        """As alloc_data(), but unwritten pages: reserved, without content (unwritten.py).  => NoMemory."""
        vm = self.vm
        first, count = vm.kernel_map.alloc_some(npages, after)
        try:
            unwritten.promise(vm, first, count)
        except NoMemory:
            vm.kernel_map.free(first, count)
            raise
        return first, count

    def resident(self, vpn: int) -> int:
        """The offset of a data page that is in a frame, to read; negative if it is not."""
        pfn: i64 = self._pte[vpn]
        if pfn < 0:
            return -1
        self._referenced[pfn] = 1
        return pfn << PAGE_SHIFT

    def data_w(self, vpn: int) -> int:
        """The offset of a data page, to change.  => SwapIOError."""
        return self.vm.write(vpn << PAGE_SHIFT)

    def data_runs(self, vpn: int, npages: int) -> Iterator[tuple[int, int]]:
        """Pages in a row, as (offset, bytes) of those whose frames follow each other, to read.  => SwapIOError.

        => An offset below 0 means unwritten pages: zeroes.
        """
        if self.vm.pages_of[unwritten.UNWRITTEN]:
            yield from self._mixed_runs(vpn, npages)
            return
        for first, n in self._runs(vpn, npages):
            self._referenced[first:first + n] = b"\1" * n
            yield first << PAGE_SHIFT, n << PAGE_SHIFT

    def _mixed_runs(self, vpn: int, npages: int) -> Iterator[tuple[int, int]]:
        """data_runs(), if some pages may be unwritten."""
        done = 0
        while done < npages:
            promised, count = unwritten.run(self.vm, vpn + done, npages - done)
            if promised:
                yield -1, count << PAGE_SHIFT
            else:
                for first, n in self._runs(vpn + done, count):
                    self._referenced[first:first + n] = b"\1" * n
                    yield first << PAGE_SHIFT, n << PAGE_SHIFT
            done += count

    def data_runs_w(self, vpn: int, npages: int) -> Iterator[tuple[int, int]]:
        """data_runs(), to change."""
        for first, n in self._runs(vpn, npages):
            self._referenced[first:first + n] = self._dirty[first:first + n] = b"\1" * n
            yield first << PAGE_SHIFT, n << PAGE_SHIFT

    def _runs(self, vpn: int, npages: int) -> Iterator[tuple[int, int]]:
        """The frames of pages in a row, as (first, how many) that follow each other; pages that are out are read."""
        table, fault = self._pte, self.vm.fault
        first, n = -1, 0
        for page in range(vpn, vpn + npages):
            pfn = table[page]
            if n and pfn != first + n:
                yield first, n                  # before the fault: resident pages are of use even if that fails
                n = 0
            if not n:
                first = pfn if pfn >= 0 else fault(page)
            n += 1
        if n:
            yield first, n

    def pools(self) -> list[Pool | Table]:
        """All pools, for the status."""
        return [self.nodes, self.nlookup, *self.strings.pools]

    def stats(self) -> list[dict[str, int | str]]:
        """The key `pools` of the status: those that have pages.  O(1)."""
        found = []
        for each in self.pools():
            if each.npages:
                entry, i = each.stats(), each.owner - OWNER_STRINGS
                if 0 <= i < TREE and self.data_counted:
                    if 0 <= self.data_items[i] <= self.strings.pools[i].nitems:
                        entry["data_items"] = self.data_items[i]
                    else:
                        self.data_counted = False       # the image said what was not so (image/thaw.py)
                found.append(entry)
        return found

    def check(self) -> None:
        """Check every pool and the backend."""
        self.nodes.check()
        self.nlookup.check()
        self.strings.check()
        self.backend.check()
