"""pool/pool.py: a pool of equal-size items (after pool(9)).

An item is known by its index; get() gives the lowest free one, so indexes are dense.  va() tells where the item is.
The free bitmaps are not in the pages, but in the wired arrays below (PR_NOTOUCH of subr_pool.c).  So get() and put()
touch no page, and fault nothing in when the item's page is out.  A page that becomes empty goes back to the backend at
once.

There are GROUPS of items, which share no page as long as the backend gives pages.  So items that are often used do not
share pages with others, and stay in with few frames.

Picture     page i:  | item 0 | item 1 | ... | item n-1 | slack |     index = i * items_per_page + k
            page     NONE --get--> PARTIAL --get--> FULL
                          <-put--          <-put--

Invariants
    P1  nfree[i] is the number of 1 bits in page i's bitmap, and items_per_page where there is no page.
    P2  A group's partial list holds exactly its pages with 0 < nfree < items_per_page that are not avoided, in order.
    P3  The holes are exactly the i below len(pages) without a page, and the last one has a page.
    P4  nitems counts the 0 bits of pages that exist.

Limits      2^31 items.  For each page 4 bytes, two for nfree, one for its group, and 8 for each 64 items of the bitmap.
"""

from array import array
from operator import add

from sortedcontainers import SortedList

from tmpfsd.pool.backends import Backend
from tmpfsd.uvm import failpoint, room
from tmpfsd.uvm.errors import Inconsistent, NoMemory, demand
from tmpfsd.uvm.pagekind import OWNER_MASK
from tmpfsd.uvm.param import PAGE_SHIFT, PAGE_SIZE
from tmpfsd.uvm.vm import Vm

GROUPS = 2
POISON = b"\xdb"            # TMPFSD_CHECK: fills items that are free


class Pool:
    """Items of item_size bytes, in pages from a backend.

    A pool of 64-byte records that page out, without a file system around it:

    >>> import struct
    >>> from tmpfsd.uvm.store import open_store
    >>> from tmpfsd.uvm.swap import Swap
    >>> vm = Vm(1 << 20, Swap(open_store("/var/tmp"), 1 << 16))
    >>> from tmpfsd.pool import make_backend
    >>> pool = Pool(vm, make_backend("pageable-submap", vm), "record", 1, 64)
    >>> i = pool.get()
    >>> struct.pack_into("<Q", vm.phys.arena, vm.write(pool.va(i)), 2006)
    >>> vm.breathe()
    >>> struct.unpack_from("<Q", vm.phys.arena, vm.read(pool.va(i)))
    (2006,)
    >>> pool.put(i)
    >>> vm.close()
    """

    __slots__ = ("vm", "backend", "name", "owner", "item_size", "items_per_page", "max_items", "nitems", "npages",
                 "pages", "_nfree", "_bitmap", "_group", "_words", "_empty_page", "_partial", "_holes", "_avoided")

    def __init__(self, vm: Vm, backend: Backend, name: str, owner: int, item_size: int,
                 max_items: int = 1 << 31) -> None:
        self.vm = vm
        self.backend = backend
        self.name = name
        self.owner = owner
        self.item_size = item_size
        self.items_per_page = PAGE_SIZE // item_size
        self.max_items = max_items
        self.nitems = self.npages = 0
        self.pages = array("I")             # page number, 0 where there is none
        self._nfree = array("H")
        self._bitmap = array("Q")           # 1 is free
        self._group = bytearray()           # of each page; means nothing where there is no page
        self._words = (self.items_per_page + 63) >> 6
        ones = (1 << self.items_per_page) - 1
        self._empty_page = array("Q", [ones >> (64 * k) & (1 << 64) - 1 for k in range(self._words)])
        self._partial = [SortedList() for _ in range(GROUPS)]
        self._holes = SortedList()
        self._avoided: set[int] = set()     # pages that could not be read
        backend.introduce(owner, name)
        vm.owners[owner] = f"pool {name}"

    def va(self, i: int) -> int:
        """Where item i is.  O(1)."""
        per_page = self.items_per_page
        return (self.pages[i // per_page] << PAGE_SHIFT) + i % per_page * self.item_size

    def get(self, group: int = 0) -> int:
        """The index of a free item, the lowest of its group; its bytes may be anything.

        O(items of a page / 64), and O(log pages) when a page fills up or is new.  => NoMemory; nothing has changed.
        """
        if failpoint.hook:
            failpoint.hook("Pool.get")
        if self.vm.tier is not None or self.vm.image is not None:
            room.demand(self.vm)
        partial = self._partial[group]
        if partial:
            page = partial[0]
        else:
            page = self._grow(group)
            partial = self._partial[self._group[page]]
        at = page * self._words
        word = self._bitmap[at]
        k = 0
        while not word:
            k += 64
            at += 1
            word = self._bitmap[at]
        self._bitmap[at] = word & (word - 1)
        left = self._nfree[page] = self._nfree[page] - 1
        if not left:
            del partial[0]
        elif left == self.items_per_page - 1:
            partial.add(page)
        self.nitems += 1
        return page * self.items_per_page + k + (word & -word).bit_length() - 1

    def put(self, i: int) -> None:
        """Give item i back.  O(1), or O(log pages) when its page was full or empties.

        => Cannot fail; faults nothing in.
        """
        page, k = i // self.items_per_page, i % self.items_per_page
        at = page * self._words + (k >> 6)
        bit = 1 << (k & 63)
        if page >= len(self.pages) or self._bitmap[at] & bit:
            raise Inconsistent("P4", f"item {i} of pool {self.name} put twice")
        if self.vm.check_level:
            self._poison(i)
        self._bitmap[at] |= bit
        left = self._nfree[page] = self._nfree[page] + 1
        self.nitems -= 1
        if left == self.items_per_page:
            self._shrink(page)
        elif left == 1 and page not in self._avoided:
            self._partial[self._group[page]].add(page)

    def avoid(self, i: int) -> None:
        """Put item i back; its page cannot be read, so give nothing out from it until it is empty.  O(log pages)."""
        page = i // self.items_per_page
        self.put(i)
        if page < len(self.pages) and self.pages[page] and page not in self._avoided:
            self._avoided.add(page)
            self._partial[self._group[page]].discard(page)

    def is_held(self, i: int) -> bool:
        """Whether item i is handed out.  O(1)."""
        page, k = i // self.items_per_page, i % self.items_per_page
        if i < 0 or page >= len(self.pages) or not self.pages[page]:
            return False
        return not self._bitmap[page * self._words + (k >> 6)] >> (k & 63) & 1

    def held(self):
        """The indexes of all items handed out, in order.  O(pages * items of a page) in all."""
        for page, vpn in enumerate(self.pages):
            if vpn:
                for i in range(page * self.items_per_page, (page + 1) * self.items_per_page):
                    if self.is_held(i):
                        yield i

    def save(self) -> tuple[bytes, bytes, bytes, bytes]:
        """Its tables, for restore(): pages, free items of each, bitmaps, groups.  O(pages)."""
        return self.pages.tobytes(), self._nfree.tobytes(), self._bitmap.tobytes(), bytes(self._group)

    def restore(self, pages: bytes, nfree: bytes, bitmap: bytes, group: bytes) -> None:
        """Get the state that save() returned; nothing was taken from this pool yet.  O(pages).

        => ValueError: the tables do not belong together, or P1 or P3 does not hold.
        """
        n = len(group)
        if (len(pages), len(nfree), len(bitmap)) != (4 * n, 2 * n, 8 * n * self._words) or n and max(group) >= GROUPS:
            raise ValueError(f"pool {self.name}: its tables do not belong together")
        assert not self.pages, "something was taken"
        self.pages.frombytes(pages)
        self._nfree.frombytes(nfree)
        self._bitmap.frombytes(bitmap)
        self._group.extend(group)
        self._demand_sound()
        self.nitems = n * self.items_per_page - sum(self._nfree)
        self._holes.update([page for page, vpn in enumerate(self.pages) if not vpn])
        self.npages = n - len(self._holes)
        for which, partial in enumerate(self._partial):
            partial.update([page for page, left in enumerate(self._nfree)
                            if 0 < left < self.items_per_page and group[page] == which])
        self.backend.adopt(self.owner, self.npages)

    def _demand_sound(self) -> None:
        """=> ValueError: P1 or P3 does not hold.  O(pages), at the speed of memory."""
        ones = [0] * len(self.pages)
        for k, most in enumerate(self._empty_page):
            words = self._bitmap[k::self._words]
            if words and max(words) > most:
                raise ValueError(f"pool {self.name}: a page has more items than there is room for")
            ones = list(map(add, ones, map(int.bit_count, words)))
        per_page = self.items_per_page
        if ones != list(self._nfree) or [left == per_page for left in ones] != [not vpn for vpn in self.pages]:
            raise ValueError(f"pool {self.name}: it has other free items than it says")
        if self.pages and not self.pages[-1]:
            raise ValueError(f"pool {self.name}: it ends with a place that has no page")

    def free_items(self, page: int) -> list[int]:
        """Which items of a page are free.  O(items of a page)."""
        words = self._bitmap[page * self._words:(page + 1) * self._words]
        return [k for k in range(self.items_per_page) if words[k >> 6] >> (k & 63) & 1]

    def _grow(self, group: int) -> int:
        """A page with a free item: a new one at the lowest place without a page, else one of another group."""
        page = self._holes[0] if self._holes else len(self.pages)
        try:
            if (page + 1) * self.items_per_page > self.max_items:
                raise NoMemory(f"pool {self.name} has all the items it can number")
            vpn = self.backend.alloc_page(self.owner)
        except NoMemory:
            for partial in self._partial:
                if partial:                 # free items of one group serve the other, too
                    return partial[0]
            raise
        if self._holes:
            del self._holes[0]
            self.pages[page] = vpn
        else:
            self.pages.append(vpn)
            self._nfree.append(self.items_per_page)
            self._group.append(group)
            self._bitmap.extend(self._empty_page)
        self._group[page] = group
        self.npages += 1
        if self.items_per_page == 1:
            self._partial[group].add(page)  # get() takes it off again: it is full at once
        return page

    def _shrink(self, page: int) -> None:
        """Give an empty page back, and forget places without a page at the end."""
        self._partial[self._group[page]].discard(page)
        self._avoided.discard(page)
        self.backend.free_page(self.pages[page], self.owner)
        self.npages -= 1
        self.pages[page] = 0
        self._holes.add(page)
        while self.pages and not self.pages[-1]:
            self._holes.pop()
            self.pages.pop()
            self._nfree.pop()
            self._group.pop()
            del self._bitmap[-self._words:]

    def _poison(self, i: int) -> None:
        """Fill a freed item, so that somebody who still reads it notices; a page that is out is left alone."""
        va = self.va(i)
        if self.vm.pte[va >> PAGE_SHIFT] >= 0:
            at = self.vm.write(va)
            self.vm.phys.arena[at:at + self.item_size] = POISON * self.item_size

    def stats(self) -> dict[str, int | str]:
        """An element of `pools` of the status.  O(1)."""
        resident = self.vm.resident(self.owner)
        return {"name": self.name, "item_size": self.item_size, "items": self.nitems, "pages": self.npages,
                "resident_pages": resident, "swapped_pages": self.npages - resident}

    def check(self) -> None:
        """Raise Inconsistent where P1-P4 do not hold.  O(pages)."""
        partial: list[list[int]] = [[] for _ in range(GROUPS)]
        holes, held = [], 0
        for page, vpn in enumerate(self.pages):
            words = self._bitmap[page * self._words:(page + 1) * self._words]
            ones = sum(word.bit_count() for word in words)
            demand(self._nfree[page] == ones, "P1", f"{self.name}: page {page}: {ones} free, says {self._nfree[page]}")
            if vpn:
                held += self.items_per_page - ones
                demand(ones < self.items_per_page, "P1", f"{self.name}: page {page} is empty")
                demand(self.vm.flags[vpn] & OWNER_MASK == self.owner, "P1", f"{self.name}: page {page} is another's")
            else:
                holes.append(page)
                demand(ones == self.items_per_page, "P1", f"{self.name}: place {page} has items and no page")
            if 0 < ones < self.items_per_page and page not in self._avoided:
                partial[self._group[page]].append(page)
        demand(partial == [list(pages) for pages in self._partial], "P2", f"{self.name}: partial pages")
        demand(holes == list(self._holes) and (not self.pages or self.pages[-1]), "P3", f"{self.name}: holes")
        demand(held == self.nitems, "P4", f"{self.name}: {held} items, counted {self.nitems}")
        npages = len(self.pages) - len(holes)
        demand(npages == self.npages == self.vm.pages_of[self.owner], "P4", f"{self.name}: {npages} pages")
