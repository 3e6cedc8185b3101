"""pool/table.py: a small word for each item of a pool, in dense pages of its own.

For data that must be reached without paging the item in: a page has a thousand words, but only two dozen items.  A page
of words exists while it has an entered word.

Invariants
    T1  uses[i] is the number of words entered in page i; a page exists exactly where it is not 0.
"""

from array import array
from typing import Final

from tmpfsd.pool.backends import Backend
from tmpfsd.uvm.errors import demand
from tmpfsd.uvm.param import PAGE_SHIFT, PAGE_SIZE
from tmpfsd.uvm.vm import Vm

WORD: Final = 4
WORDS_PER_PAGE: Final = PAGE_SIZE // WORD


class Table:
    """32-bit words by index."""

    __slots__ = ("vm", "backend", "name", "owner", "pages", "npages", "_uses")

    def __init__(self, vm: Vm, backend: Backend, name: str, owner: int) -> None:
        self.vm = vm
        self.backend = backend
        self.name = name
        self.owner = owner
        self.npages = 0
        self.pages = array("I")
        self._uses = array("H")
        backend.introduce(owner, name)
        vm.owners[owner] = f"pool {name}"

    def enter(self, i: int) -> None:
        """Make word i exist.  It has the bits it had when it was last removed, or 0.  => NoMemory.

        O(1); O(i / WORDS_PER_PAGE) if i is far behind the last; and the cost of a page from the backend.
        """
        page = i // WORDS_PER_PAGE
        while page >= len(self.pages):
            self.pages.append(0)
            self._uses.append(0)
        if not self._uses[page]:
            self.pages[page] = self.backend.alloc_page(self.owner)
            self.npages += 1
        self._uses[page] += 1

    def remove(self, i: int) -> None:
        """Word i need not exist any more.  O(1), amortized.  => Cannot fail; faults nothing in."""
        page = i // WORDS_PER_PAGE
        self._uses[page] -= 1
        if not self._uses[page]:
            self.backend.free_page(self.pages[page], self.owner)
            self.pages[page] = 0
            self.npages -= 1
            while self.pages and not self.pages[-1]:
                self.pages.pop()
                self._uses.pop()

    def save(self) -> tuple[bytes, bytes]:
        """Its tables, for restore(): pages and uses.  O(pages)."""
        return self.pages.tobytes(), self._uses.tobytes()

    def restore(self, pages: bytes, uses: bytes) -> None:
        """Get the state that save() returned.  O(pages).  => ValueError."""
        if len(pages) != 2 * len(uses):
            raise ValueError(f"pool {self.name}: its tables do not belong together")
        self.pages.frombytes(pages)
        self._uses.frombytes(uses)
        self.npages = len(self.pages) - self.pages.count(0)
        self.backend.adopt(self.owner, self.npages)

    def va(self, i: int) -> int:
        """Where word i is.  O(1)."""
        return (self.pages[i // WORDS_PER_PAGE] << PAGE_SHIFT) + i % WORDS_PER_PAGE * WORD

    def stats(self) -> dict[str, int | str]:
        """An element of `pools` of the status.  O(pages)."""
        resident = self.vm.resident(self.owner)
        return {"name": self.name, "item_size": WORD, "items": sum(self._uses), "pages": self.npages,
                "resident_pages": resident, "swapped_pages": self.npages - resident}

    def check(self) -> None:
        """Raise Inconsistent where T1 does not hold.  O(pages)."""
        npages = 0
        demand(len(self.pages) == len(self._uses), "T1", f"{self.name}: uses of {len(self._uses)} pages")
        for page, vpn in enumerate(self.pages):
            demand(bool(vpn) == bool(self._uses[page]), "T1", f"{self.name}: page {page}, {self._uses[page]} uses")
            npages += bool(vpn)
        demand(npages == self.npages == self.vm.pages_of[self.owner], "T1", f"{self.name}: {npages} pages")
