"""Failures on every kind of place for pages: stores.py has them.

The sweeps of test_failures.py and test_swap_failures.py, for some operations of each kind: create, overwrite, grow,
read and remove.  Then each place is filled to its end.
"""

import errno
import itertools
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path

import pytest

from tests.fs.fslib import ROOT, Driver, refused
from tests.fs.stores import STORES, Stores, server
from tests.fs.test_failures import nothing_has_changed
from tests.fs.test_swap_failures import RING_POINTS, nothing_or_all
from tmpfsd.stores import valkey
from tmpfsd.tmpfs import copyrange, fallocate
from tmpfsd.tmpfs.fserror import FsError
from tmpfsd.uvm.errors import NoMemory, VmError

PAGE = 4096
READS = ("write-over", "rename-over-long", "removexattr-middle", "acl-create")
CASES = ("create-long", "write-to-pages", "rename-over-long", "unlink-long")
WRITES = ("slot", "write", "dead device", "full disk")
# A place without a ring has no point for one, the ring alone none for a store.
SWEEPS = [(case, point, store) for case, store in itertools.product(CASES, STORES) for point in WRITES + RING_POINTS
          if (point in RING_POINTS) <= store.startswith("ring") and (point in WRITES) <= (store != "ring")]
MOST = 4000
SECONDS = 30.0              # a server on a busy machine may be slow, which is no fault that these tests are about


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable]:
    """One server for all, started for the first that needs it."""
    with ExitStack() as stack:
        yield cache(lambda: server(stack, tmp_path_factory.mktemp("server")))


@pytest.fixture
def stores(tmp_path: Path, shared: Callable, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stores]:
    """Places for one test; asked for before make_fs, they are there until its mounts are closed."""
    monkeypatch.setattr(valkey, "SECONDS", SECONDS)
    with ExitStack() as stack:
        yield Stores(tmp_path, stack, shared)


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("case", READS)
def test_a_page_that_cannot_be_read(stores: Stores, make_fs: Callable[..., Driver], case: str, store: str) -> None:
    nothing_has_changed(lambda: make_fs(tiny=True, noatime=True, acl=True, **stores.options(store)), case, "pagein")


@pytest.mark.parametrize("case, point, store", SWEEPS)
def test_a_page_that_cannot_leave(stores: Stores, make_fs: Callable[..., Driver], case: str, point: str,
                                  store: str) -> None:
    nothing_or_all(lambda: make_fs("starving", tiny=True, noatime=True, acl=True, **stores.options(store)), case, point)


class Filling:
    """Files of some pages, which shrink as much as one says, until nothing fits."""

    def __init__(self, fs: Driver, chance: int) -> None:
        self.fs, self.chance = fs, chance
        self.made: dict[int, int] = {}          # by file, pages
        self.over: set[tuple[int, int]] = set()     # pages that were written over

    def page(self, ino: int, page: int) -> bytes:
        """The content of a page of a file; some bytes are random."""
        return random.Random(ino << 16 | page).randbytes(self.chance).ljust(PAGE, b"%d" % (page % 10))

    def fill(self) -> int:
        """How many pages there are now; files without data are made when there is no room for data any more."""
        with refused(errno.ENOSPC):
            for number in range(MOST):
                ino = self.fs.create(ROOT, b"f%d" % number)
                self.made[ino] = 0
                for page in range(16):
                    assert self.fs.write(ino, page * PAGE, self.page(ino, page)) == PAGE
                    self.made[ino] += 1
        with refused(errno.ENOSPC):
            for number in range(100 * MOST):
                self.made[self.fs.create(ROOT, b"%d" % number + b"-" * 200)] = 0
        return sum(self.made.values())

    def compare(self) -> None:
        """All is there."""
        for ino, npages in self.made.items():
            assert self.fs.getattr(ino).size == npages * PAGE
            for page in range(npages):
                what = self.other if (ino, page) in self.over else self.page
                assert self.fs.read(ino, page * PAGE, PAGE) == what(ino, page)

    def write_over(self) -> int:
        """Write chance bytes, which do not shrink, over all that is there: how many pages were written, not refused."""
        for ino, npages in self.made.items():
            for page in range(npages):
                try:
                    assert self.fs.write(ino, page * PAGE, self.other(ino, page)) == PAGE
                except (FsError, VmError) as error:
                    assert error.errno == errno.ENOSPC
                else:
                    self.over.add((ino, page))
        return len(self.over)

    @staticmethod
    def other(ino: int, page: int) -> bytes:
        """The content of a page that was overwritten."""
        return random.Random(page << 16 | ino).randbytes(PAGE)


@pytest.mark.parametrize("chance", [1000, PAGE], ids=["shrinks", "does not"])
@pytest.mark.parametrize("store", STORES)
def test_full(stores: Stores, make_fs: Callable[..., Driver], store: str, chance: int) -> None:
    """Writes that do not fit are refused, and nothing else changes.  As much fits again when all is removed."""
    fs = make_fs("starving", noatime=True, **stores.options(store, small=True))
    filling = Filling(fs, chance)
    npages = filling.fill()
    fs.check()
    vm = fs.mp.vm
    tier = vm.tier
    assert not (vm.swap.nfree if tier is None else tier.stores_have_room()), "the stores are full"
    assert tier is None or tier.stats()["full"], "and so is the ring"
    filling.compare()
    written = filling.write_over()
    assert written == npages or tier is not None and chance < PAGE, "changes that shrink no less are not refused"
    filling.compare()
    fs.check()
    fs.empty()
    again = Filling(fs, chance)
    assert again.fill() >= npages * 9 // 10
    again.compare()


@pytest.mark.parametrize("store", STORES)
def test_full_and_copied_over(stores: Stores, make_fs: Callable[..., Driver], store: str) -> None:
    """copy_file_range() over pages that shrink, from one that does not, is refused as a write is, before frames end."""
    fs = make_fs("starving", noatime=True, **stores.options(store, small=True))
    source = fs.create(ROOT, b"source")
    fs.write(source, 0, random.Random(5).randbytes(16 * PAGE))
    filling = Filling(fs, 100)
    filling.fill()
    for ino, npages in filling.made.items():
        with suppress(NoMemory):
            copied = fs.do(copyrange.copy, source, 0, ino, 0, npages * PAGE)
            filling.made[ino] = 0 if copied else npages
            assert fs.read(ino, 0, copied) == fs.read(source, 0, copied)
    for ino in [ino for ino, npages in filling.made.items() if not npages]:
        del filling.made[ino]
    filling.compare()
    fs.check()


@pytest.mark.parametrize("store", STORES)
def test_what_is_reserved_is_not_refused(stores: Stores, make_fs: Callable[..., Driver], store: str) -> None:
    """However full it is, and however little the pages shrink."""
    fs = make_fs("starving", noatime=True, **stores.options(store, small=True))
    reserved = [fs.create(ROOT, b"reserved%d" % number) for number in range(8)]
    for ino in reserved:
        with suppress(NoMemory):        # the ring alone takes no promises: only ram does
            fs.do(fallocate.reserve, ino, 0, 4 * PAGE, False)
    whole = [ino for ino in reserved if fs.getattr(ino).size]
    assert whole
    filling = Filling(fs, 100)
    filling.fill()
    filling.write_over()
    data = random.Random(6).randbytes(4 * PAGE)
    for ino in whole:
        for page in (2, 0, 3, 1):
            assert fs.write(ino, page * PAGE, data[page * PAGE:(page + 1) * PAGE]) == PAGE
    for ino in whole:
        assert fs.read(ino, 0, 4 * PAGE) == data
    filling.compare()
    fs.check()
