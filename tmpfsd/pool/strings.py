"""pool/strings.py: items of any size up to a page: one pool for each size class.

For data without a fixed size: long names, symlink targets, small files, attributes, and the small roots of the B+trees,
which grow through the classes.  An item is known by a handle of 31 bits, so that a holder has one bit for itself: the
class is in the upper bits, the index in its pool in the lower ones.

The whole pages of the B+trees are a class of their own, the last.  A page of a tree leads to hundreds of nodes and is
worth more than a page of bytes.  The page daemon knows this by the owner of a page (keep_index()), so these pages need
an owner of their own.

Picture     handle = class << 27 | index        0 is no item: classes count from 1

Limits      2^27 items of a class.
"""

from bisect import bisect_left
from typing import Final

from tmpfsd.pool.backends import Backend
from tmpfsd.pool.pool import Pool
from tmpfsd.uvm import failpoint
from tmpfsd.uvm.param import PAGE_SHIFT, PAGE_SIZE
from tmpfsd.uvm.vm import Vm

CLASSES = (32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1360, 2048, PAGE_SIZE)
INDEX_BITS: Final = 27
INDEX_MASK: Final = (1 << INDEX_BITS) - 1
MAX_SIZE = CLASSES[-1]
POOLS = (*(f"string-{size}" for size in CLASSES), "tree")
SIZES = (*CLASSES, PAGE_SIZE)           # of the items of each pool
TREE: Final = 13                        # the pool of the trees' pages
assert TREE == len(CLASSES)
TREE_HANDLES: Final = (TREE + 1) << INDEX_BITS  # handles from here on are those of trees' pages


class Strings:
    """The pools of the classes, with the owners from first_owner on."""

    __slots__ = ("vm", "pools", "_places")

    def __init__(self, vm: Vm, backend: Backend, first_owner: int) -> None:
        self.vm = vm
        self.pools = [Pool(vm, backend, name, first_owner + i, size, 1 << INDEX_BITS)
                      for i, (name, size) in enumerate(zip(POOLS, SIZES))]
        # The part of each class that va() needs: a call of Pool.va() costs 0.15 us more.
        self._places = [(pool.pages, pool.items_per_page, pool.item_size) for pool in self.pools]

    def get(self, nbytes: int) -> int:
        """The handle of an item of at least nbytes; its bytes may be anything.  O(log n), see Pool.  => NoMemory."""
        if failpoint.hook:
            failpoint.hook("Strings.get")
        i = bisect_left(CLASSES, nbytes)
        return (i + 1) << INDEX_BITS | self.pools[i].get()

    def get_tree_page(self) -> int:
        """The handle of a page for a node of a tree.  O(log n), see Pool.  => NoMemory."""
        if failpoint.hook:
            failpoint.hook("Strings.get_tree_page")
        return TREE_HANDLES | self.pools[TREE].get()

    def put(self, handle: int) -> None:
        """Give an item back.  O(log n), see Pool.  => Cannot fail; faults nothing in."""
        self.pools[(handle >> INDEX_BITS) - 1].put(handle & INDEX_MASK)

    def avoid(self, handle: int) -> None:
        """Put an item back whose page cannot be read (see Pool.avoid()).  O(log n)."""
        self.pools[(handle >> INDEX_BITS) - 1].avoid(handle & INDEX_MASK)

    def va(self, handle: int) -> int:
        """Where an item is.  O(1)."""
        pages, per_page, size = self._places[(handle >> INDEX_BITS) - 1]
        i = handle & INDEX_MASK
        return (pages[i // per_page] << PAGE_SHIFT) + i % per_page * size

    def size(self, handle: int) -> int:
        """How many bytes an item has room for.  O(1)."""
        return SIZES[(handle >> INDEX_BITS) - 1]

    def size_for(self, nbytes: int) -> int:
        """The size of the item that get(nbytes) would give.  O(1)."""
        return CLASSES[bisect_left(CLASSES, nbytes)]

    def is_held(self, handle: int) -> bool:
        """Whether handle names an item that is handed out.  O(1)."""
        i = (handle >> INDEX_BITS) - 1
        return 0 <= i < len(self.pools) and self.pools[i].is_held(handle & INDEX_MASK)

    def handles(self):
        """All handles handed out.  O(pages) up to the first, and O(1) for each."""
        for i, pool in enumerate(self.pools):
            for index in pool.held():
                yield (i + 1) << INDEX_BITS | index

    def check(self) -> None:
        """Check every class.  O(pages)."""
        for pool in self.pools:
            pool.check()
