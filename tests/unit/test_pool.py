"""Pools of equal-size items."""

import ast
import doctest
import random
from pathlib import Path

import pytest

import tmpfsd
import tmpfsd.pool as pool_package
from tmpfsd.pool import PageableSubmap, Pool, make_backend
from tmpfsd.pool import pool as pool_module
from tmpfsd.uvm.errors import Inconsistent, NoMemory


@pytest.fixture
def make_pool(make_vm):
    """Make pools over a machine of their own; those not to be broken are checked at the end."""
    made: list[Pool] = []

    def make(item_size: int = 160, check: bool = True, max_items: int = 1 << 31, **machine) -> Pool:
        vm = make_vm(check=check, **machine)
        pool = Pool(vm, PageableSubmap(vm), "item", 3, item_size, max_items)
        if check:
            made.append(pool)
        return pool

    yield make
    for pool in made:
        pool.check()
        pool.backend.check()


SIZES = (4096, 2048, 1360, 160, 64, 32)


@pytest.mark.parametrize("item_size", SIZES)
def test_against_a_set(make_pool, item_size: int) -> None:
    pool = make_pool(item_size, nframes=48, nslots=4000)
    rng = random.Random(item_size)
    held: dict[int, int] = {}
    most = 100 + 300 * (item_size < 1024)
    for step in range(2500):
        pool.vm.breathe()
        if held and rng.random() < len(held) / most * (0.7 if step < 1500 else 1.4):
            i = rng.choice(list(held))
            assert pool.vm.phys.u32[pool.vm.read(pool.va(i)) >> 2] == held.pop(i)
            pool.put(i)
        else:
            i = pool.get()
            assert i not in held
            held[i] = rng.getrandbits(32)
            pool.vm.phys.u32[pool.vm.write(pool.va(i)) >> 2] = held[i]
        if step % 100 == 0:
            pool.check()
            assert list(pool.held()) == sorted(held)
    assert pool.nitems == len(held)
    for i in held:
        pool.put(i)
    assert (pool.npages, len(pool.pages), pool.vm.npages, pool.vm.kernel_map.nused) == (0, 0, 0, 0)


@pytest.mark.parametrize("item_size", SIZES)
def test_lowest_first(make_pool, item_size: int) -> None:
    pool = make_pool(item_size)
    n = min(2 * pool.items_per_page + 1, 80)
    assert [pool.get() for _ in range(n)] == list(range(n))
    keep = 0 if pool.items_per_page == 1 else 1
    for i in (n - 1, keep + 1, keep):
        pool.put(i)
    assert [pool.get() for _ in range(3)] == [keep, keep + 1, n - 1]


def test_items_do_not_overlap_or_cross_pages(make_pool) -> None:
    pool = make_pool(1360)
    vas = [pool.va(pool.get()) for _ in range(20)]
    assert all(va & 4095 <= 4096 - 1360 for va in vas)
    assert len({va // 4096 for va in vas}) == 7 == pool.npages
    assert all(b - a >= 1360 for a, b in zip(sorted(vas), sorted(vas)[1:]))


def test_an_empty_page_goes_back_and_its_place_is_used_again(make_pool) -> None:
    pool = make_pool(1024)
    for _ in range(12):
        pool.get()
    for i in range(4, 8):
        pool.put(i)
    assert (pool.npages, list(pool._holes), pool.vm.npages) == (2, [1], 2)
    pool.check()
    assert [pool.get() for _ in range(5)] == [4, 5, 6, 7, 12]
    for i in range(13):
        pool.put(i)


def test_groups_share_no_page(make_pool) -> None:
    pool = make_pool(160, nframes=48, nslots=4000)
    rng = random.Random(1)
    held: dict[int, int] = {}
    for step in range(3000):
        pool.vm.breathe()
        if held and rng.random() < len(held) / 600 * (0.7 if step < 2000 else 1.4):
            i = rng.choice(list(held))
            del held[i]
            pool.put(i)
        else:
            group = int(rng.random() < 0.1)
            held[pool.get(group)] = group
        if step % 100 == 0:
            pool.check()
    groups: dict[int, set[int]] = {}
    for i, group in held.items():
        groups.setdefault(i // pool.items_per_page, set()).add(group)
    assert sorted(map(len, groups.values())) == [1] * len(groups)
    for i in held:
        pool.put(i)


def test_where_no_page_is_to_be_had_another_groups_items_are(make_pool) -> None:
    pool = make_pool(1024, max_items=8)
    first = [pool.get() for _ in range(8)]
    with pytest.raises(NoMemory):
        pool.get(1)
    for i in (2, 5):
        pool.put(i)
    assert [pool.get(1), pool.get(1)] == [2, 5]
    pool.check()
    with pytest.raises(NoMemory):
        pool.get(0)
    for i in first:
        pool.put(i)


@pytest.mark.parametrize("n", (
    pytest.param(1, id="only"),
    pytest.param(3, id="same-page"), pytest.param(9, id="other-page")))
def test_put_twice(make_pool, n: int) -> None:
    pool = make_pool(1024)
    for _ in range(n):
        pool.get()
    pool.put(0)
    with pytest.raises(Inconsistent) as caught:
        pool.put(0)
    assert caught.value.invariant == "P4"
    assert not pool.is_held(0) and not pool.is_held(-1) and not pool.is_held(10_000)


def test_get_and_put_touch_no_page(make_pool) -> None:
    pool = make_pool(64)
    for _ in range(1000):
        pool.vm.breathe()
        pool.get()
    pool.vm.daemon.evict_all()
    before = pool.vm.faults
    for i in range(0, 1000, 3):
        pool.put(i)
    for _ in range(0, 1000, 3):
        pool.get()
    for i in range(640, 1000):                  # whole pages go back without being seen again
        pool.put(i)
    assert pool.vm.faults == before == 0
    assert pool.vm.resident_of[pool.owner] == 0
    assert pool.stats() == {"name": "item", "item_size": 64, "items": 640, "pages": 10,
                            "resident_pages": 0, "swapped_pages": 10}


def test_a_page_out_of_reach_can_be_given_back(make_pool) -> None:
    pool = make_pool(4096)
    i = pool.get()
    pool.vm.daemon.evict_all()
    pool.vm.swap.flip(pool.vm.slot_of[pool.pages[0]])
    pool.put(i)
    assert pool.vm.npages == 0


def test_freed_items_are_poisoned_where_they_are_resident(make_pool) -> None:
    pool = make_pool(64)
    a, b = pool.get(), pool.get()
    at = pool.vm.write(pool.va(a))
    pool.vm.phys.arena[at:at + 128] = b"x" * 128
    pool.put(a)
    assert pool.vm.phys.arena[at:at + 128] == b"\xdb" * 64 + b"x" * 64
    pool.put(b)
    pool.vm.check_level = 0
    a, b = pool.get(), pool.get()
    at = pool.vm.write(pool.va(a))
    pool.vm.phys.arena[at:at + 64] = b"y" * 64
    pool.put(a)
    assert pool.vm.phys.arena[at:at + 64] == b"y" * 64


def test_as_many_items_as_it_can_number(make_pool) -> None:
    pool = make_pool(1024, max_items=11)
    for _ in range(8):
        pool.get()
    with pytest.raises(NoMemory, match="number"):
        pool.get()
    assert pool.nitems == 8


@pytest.mark.parametrize("item_size", (4096, 160))
def test_no_page_to_be_had_changes_nothing(make_pool, item_size: int) -> None:
    pool = make_pool(item_size, limit=2)
    n = 0
    with pytest.raises(NoMemory):
        while True:
            pool.get()
            n += 1
    assert n == 2 * pool.items_per_page == pool.nitems
    pool.check()
    pool.backend.check()
    pool.put(0)
    assert pool.get() == 0


def test_wired_pools(make_vm) -> None:
    vm = make_vm()
    pool = Pool(vm, make_backend("wired", vm), "item", 3, 160)
    for _ in range(60):
        pool.get()
    vm.daemon.evict_all()
    assert pool.stats()["resident_pages"] == vm.nwired == 3
    for i in range(60):
        pool.put(i)
    assert vm.nwired == vm.kernel_map.nused == 0
    pool.check()


def test_the_example() -> None:
    tree = ast.parse(Path(tmpfsd.__file__).with_name("pool").joinpath("pool.py").read_text())
    text = next(ast.get_docstring(node) for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Pool")
    example = doctest.DocTestParser().get_doctest(text or "", dict(vars(pool_module)), "Pool", None, None)
    result = doctest.DocTestRunner().run(example)
    assert result.attempted >= 9 and not result.failed


# --- invariants ---

@pytest.fixture
def pool(make_pool) -> Pool:
    """Page 0 partly filled, no page 1, page 2 full; to be broken."""
    pool = make_pool(1024, check=False)
    for _ in range(12):
        pool.get()
    for i in (2, 4, 5, 6, 7):
        pool.put(i)
    pool.check()
    return pool


def broken(pool: Pool, invariant: str) -> None:
    with pytest.raises(Inconsistent) as caught:
        pool.check()
    assert caught.value.invariant == invariant


def test_p1_nfree_is_wrong(pool: Pool) -> None:
    pool._nfree[0] = 2
    broken(pool, "P1")


def test_p1_a_bit_is_wrong(pool: Pool) -> None:
    pool._bitmap[2] |= 1
    broken(pool, "P1")


def test_p1_a_place_without_a_page_has_an_item(pool: Pool) -> None:
    pool._bitmap[1] ^= 1
    pool._nfree[1] -= 1
    broken(pool, "P1")


def test_p1_an_empty_page_was_kept(pool: Pool) -> None:
    pool._bitmap[2], pool._nfree[2] = 0xF, 4
    broken(pool, "P1")


def test_p1_a_page_is_anothers(pool: Pool) -> None:
    pool.vm.flags[pool.pages[0]] = 4
    broken(pool, "P1")


def test_p2_partial_pages(pool: Pool) -> None:
    pool._partial[0].clear()
    broken(pool, "P2")


def test_p3_holes(pool: Pool) -> None:
    pool._holes.clear()
    broken(pool, "P3")


def test_p3_the_last_place_has_no_page(pool: Pool) -> None:
    pool.pages.append(0)
    pool._nfree.append(4)
    pool._bitmap.append(0xF)
    pool._holes.add(3)
    broken(pool, "P3")


@pytest.mark.parametrize("counter", ("nitems", "npages"))
def test_p4_counts(pool: Pool, counter: str) -> None:
    setattr(pool, counter, getattr(pool, counter) + 1)
    broken(pool, "P4")


def test_a_million_records_in_8_mib() -> None:
    result = doctest.testmod(pool_package)
    assert result.attempted and not result.failed
