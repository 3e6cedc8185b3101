"""Words by index."""

import random

import pytest

from tmpfsd.pool import PageableSubmap, Table
from tmpfsd.pool.table import WORDS_PER_PAGE
from tmpfsd.uvm.errors import Inconsistent, NoMemory


@pytest.fixture
def make_table(make_vm):
    """Make tables, checked at the end unless they are to be broken."""
    made = []

    def make(check: bool = True, **machine) -> Table:
        vm = make_vm(check=check, **machine)
        made.append((Table(vm, PageableSubmap(vm), "words", 5), check))
        return made[-1][0]

    yield make
    for table, check in made:
        if check:
            table.check()
            table.backend.check()


def test_words_by_index(make_table) -> None:
    table = make_table(nframes=48)
    vm, rng = table.vm, random.Random(4)
    words: dict[int, int] = {}
    for _ in range(3000):
        vm.breathe()
        i = rng.randrange(60) * 997
        if i not in words:
            table.enter(i)
        elif rng.random() < 0.5:
            assert vm.phys.u32[vm.read(table.va(i)) >> 2] == words.pop(i)
            table.remove(i)
            continue
        words[i] = rng.getrandbits(32)
        vm.phys.u32[vm.write(table.va(i)) >> 2] = words[i]
    pages = {i // WORDS_PER_PAGE for i in words}
    assert table.npages == vm.npages == len(pages)
    assert table.stats()["items"] == len(words)
    for i in words:
        table.remove(i)
    assert (table.npages, len(table.pages), vm.npages) == (0, 0, 0)


def test_a_new_page_is_zero(make_table) -> None:
    table = make_table()
    table.enter(3)
    assert table.vm.phys.u32[table.vm.read(table.va(3)) >> 2] == 0


def test_remove_faults_nothing_in(make_table) -> None:
    table = make_table()
    for i in range(2000):
        table.enter(i)
    table.vm.daemon.evict_all()
    for i in range(2000):
        table.remove(i)
    assert table.vm.faults == 0 and table.npages == 0


def test_no_page_to_be_had_changes_nothing(make_table) -> None:
    table = make_table(limit=1)
    table.enter(0)
    with pytest.raises(NoMemory):
        table.enter(5 * WORDS_PER_PAGE)
    table.check()
    assert table.npages == 1
    table.remove(0)
    assert table.npages == len(table.pages) == 0


def broken(table: Table) -> None:
    with pytest.raises(Inconsistent) as caught:
        table.check()
    assert caught.value.invariant == "T1"


def test_t1_uses_without_a_page(make_table) -> None:
    table = make_table(check=False)
    table.enter(5000)
    table._uses[0] = 1
    broken(table)


def test_t1_a_page_without_uses(make_table) -> None:
    table = make_table(check=False)
    table.enter(0)
    table._uses[0] = 0
    broken(table)


def test_t1_uses_of_pages_that_are_gone(make_table) -> None:
    table = make_table(check=False)
    table.enter(5000)
    table._uses.append(0)
    broken(table)


def test_t1_npages(make_table) -> None:
    table = make_table(check=False)
    table.enter(0)
    table.npages = 2
    broken(table)
