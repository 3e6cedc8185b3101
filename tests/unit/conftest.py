"""Machines of a few frames over swap that can be made to fail."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from btreelib import SMALL, Tree

from tests.fs.wirelib import Wire
from tmpfsd.tmpfs import btree, layout
from tmpfsd.uvm.errors import Unanswered
from tmpfsd.uvm.seal import Seal
from tmpfsd.uvm.store import FileStore, open_store
from tmpfsd.uvm.swap import Swap
from tmpfsd.uvm.vm import Vm


class FaultyStore(FileStore):
    """A file that does what the test of its FaultySwap tells it to."""

    def __init__(self, swap: "FaultySwap", fd: int) -> None:
        super().__init__(fd, "faulty")
        self.swap = swap

    def _transfer(self, call, place, pages) -> None:
        tried = self.swap.writes if call is os.pwritev else self.swap.reads
        slot = place + self.swap.base - 1
        tried.append(range(slot, slot + len(pages)))
        super()._transfer(partial(self.swap.call, call), place, pages)


class FaultySwap(Swap):
    """Swap whose device refuses what a test tells it to."""

    def __init__(self, fd: int, nslots: int, base: int = 1, seal: Seal | None = None) -> None:
        super().__init__(FaultyStore(self, fd), nslots, base, seal=seal)
        self.dead = False                       # refuses all writes
        self.room = -1                          # bytes that it takes before it is full; -1: any
        self.bad_write: set[int] = set()        # slots
        self.bad_read: set[int] = set()
        self.bad_once: set[int] = set()         # as bad_read, for one read each
        self.away = False                       # answers to no read
        self.short = False                      # moves half a page more than a page at a time
        self.writes: list[range] = []           # the slots of each write that was tried
        self.reads: list[range] = []

    def call(self, call, fd, pages, offset) -> int:
        slots = set(range(offset >> 12, (offset >> 12) + len(pages)))
        if call is os.pwritev:
            if self.dead or slots & self.bad_write:
                raise OSError(errno.EIO, "faulty")
            if self.room >= 0 and len(pages) << 12 > self.room:
                raise OSError(errno.ENOSPC, "full")
            if self.room >= 0:
                self.room -= len(pages) << 12
        elif self.away:
            raise Unanswered("no answer")
        elif slots & self.bad_read or slots & self.bad_once:
            self.bad_once -= slots
            raise OSError(errno.EIO, "faulty")
        if self.short:
            pages = [pages[0], pages[1][:2048]] if len(pages) > 1 else pages
        return call(fd, pages, offset)

    def flip(self, slot: int) -> None:
        """Change one bit of a slot behind its back."""
        byte = os.pread(self.store.fd, 1, (slot << 12) + 99)[0]
        os.pwrite(self.store.fd, bytes([byte ^ 4]), (slot << 12) + 99)


@pytest.fixture
def make_swap(tmp_path: Path) -> Iterator[Callable[..., FaultySwap]]:
    """Make swap files that are closed, where the test or its machine did not, at the end."""
    made: list[FaultySwap] = []

    def make(nslots: int = 1024, base: int = 1) -> FaultySwap:
        made.append(FaultySwap(open_store(str(tmp_path)).fd, nslots, base))
        return made[-1]

    yield make
    for swap in made:
        try:
            swap.close()
        except OSError:
            pass


@pytest.fixture
def make_vm(make_swap: Callable[..., FaultySwap]) -> Iterator[Callable[..., Vm]]:
    """Make machines; each is checked at the end unless it was to be broken (check=False)."""
    made: list[tuple[Vm, bool]] = []

    def make(nframes: int = 64, reserve: int = 16, nslots: int = 1024, check: bool = True, **more) -> Vm:
        vm = Vm(nframes << 12, make_swap(nslots) if nslots else None, reserve=reserve, **more)
        vm.check_level = 1
        made.append((vm, check))
        return vm

    yield make
    for vm, check in made:
        if check:
            vm.check()
        with suppress(BufferError):             # a failed test's traceback holds views of the arena
            vm.phys.close()


@pytest.fixture
def fill() -> Callable[..., list[int]]:
    """Give a machine n pages, the number of each at its start, breathing between them."""
    def pages(vm: Vm, n: int, owner: int = 1) -> list[int]:
        vpns = []
        for _ in range(n):
            vm.breathe()
            vpn = vm.kernel_map.alloc()
            try:
                vm.alloc_page(vpn, owner)
            except BaseException:
                vm.kernel_map.free(vpn)
                raise
            vm.phys.u64[vm.write(vpn << 12) >> 3] = vpn
            vpns.append(vpn)
        return vpns
    return pages


@pytest.fixture
def number_in() -> Callable[[Vm, int], int]:
    """Read back what `fill` wrote."""
    return lambda vm, vpn: vm.phys.u64[vm.read(vpn << 12) >> 3]


@pytest.fixture
def make_tree(make_vm, monkeypatch):
    """Make trees; those not to be broken are checked, emptied and checked again at the end.

    A tall one has nodes of at most seven entries, and is four levels high with a few hundred.
    """
    made: list[Tree] = []

    def make(value_size: int = 4, nframes: int = 400, reserve: int = 64, check: bool = True, tall=False) -> Tree:
        if tall:
            for nbytes, cap in SMALL.items():
                monkeypatch.setitem(btree.CAPACITIES, nbytes, cap)
            monkeypatch.setattr(btree, "INNER_CAP", 7)
        tree = Tree(make_vm(nframes, reserve=reserve, nslots=20_000, check=check), value_size)
        if check:
            made.append(tree)
        return tree

    yield make
    for tree in made:
        tree.check()
        for key in list(tree.model):
            tree.remove(key)
        tree.check()
        assert layout.tn_tree(tree.vm.phys.arena, tree.at()) == (0, 0)
        assert tree.vm.npages == 2              # the owner's and its lookup count's


@pytest.fixture
def wire() -> Iterator[Wire]:
    """A session that is driven by bytes."""
    made = Wire()
    yield made
    made.close()
