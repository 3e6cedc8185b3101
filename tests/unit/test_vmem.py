"""Runs of integers against a set."""

import random

import pytest

from tmpfsd.uvm.errors import Inconsistent
from tmpfsd.uvm.vmem import Vmem


def test_best_fit_lowest_first() -> None:
    arena = Vmem(1, 100)
    assert arena.alloc(100) == 1
    arena.free(10, 5)
    arena.free(30, 3)
    arena.free(50, 3)
    assert arena.alloc(3) == 30
    assert arena.alloc(3) == 50
    assert arena.alloc(3) == 10
    assert arena.alloc(3) == -1
    assert arena.alloc_some(3) == (13, 2)
    assert arena.alloc_some(3) == (0, 0)


def test_alloc_at_takes_what_is_free_from_there_on() -> None:
    arena = Vmem(1, 10)
    assert arena.alloc_at(4, 3) == 3
    assert arena.alloc_at(4, 3) == 0
    assert arena.alloc_at(2, 5) == 2
    assert arena.alloc_at(9, 5) == 2
    assert arena.alloc_at(0, 5) == 0
    assert list(arena.runs()) == [(1, 1), (7, 2)]
    assert list(arena.runs(2)) == [(7, 2)]
    arena.check()


def test_neighbours_grow_together() -> None:
    arena = Vmem(0, 9)
    arena.alloc(9)
    for start in (0, 6, 3):
        arena.free(start, 3)
    assert list(arena.runs()) == [(0, 9)]


@pytest.mark.parametrize("start, n", [(3, 1), (2, 2), (4, 3), (1, 9)])
def test_freed_twice(start: int, n: int) -> None:
    arena = Vmem(1, 9)
    arena.alloc_at(5, 2)
    with pytest.raises(AssertionError):
        arena.free(start, n)


def test_extend_and_add() -> None:
    arena = Vmem(1, 0)
    arena.extend(100, 10)
    arena.extend(50, 10)
    arena.add(5)
    arena.check()
    assert list(arena.runs()) == [(50, 10), (100, 15)]


@pytest.mark.parametrize("seed", range(4))
def test_against_a_set(seed: int) -> None:
    rng = random.Random(seed)
    size = 200
    arena, free = Vmem(1, size), set(range(1, size + 1))
    held: list[tuple[int, int]] = []
    for _ in range(1500):
        n = rng.randint(1, 12)
        how = rng.randrange(4)
        if how == 0:
            start = arena.alloc(n)
            count = n if start >= 0 else 0
            assert count or not any(free >= set(range(at, at + n)) for at in free)
        elif how == 1:
            start, count = arena.alloc_some(n)
            assert count or not free
        elif how == 2:
            start = rng.randint(1, size)
            count = arena.alloc_at(start, n)
            assert count == n or start + count not in free
        elif held:
            start, count = held.pop(rng.randrange(len(held)))
            arena.free(start, count)
            free.update(range(start, start + count))
            count = 0
        else:
            continue
        if count:
            taken = set(range(start, start + count))
            assert taken <= free
            free -= taken
            held.append((start, count))
        assert arena.nfree == len(free)
        assert all(arena.is_free(i) == (i in free) for i in range(size + 3))
    arena.check()


def broken(invariant: str, breaker) -> None:
    arena = Vmem(1, 100)
    arena.alloc(10)
    arena.check()
    breaker(arena)
    with pytest.raises(Inconsistent) as caught:
        arena.check()
    assert caught.value.invariant == invariant


def test_a1_runs_overlap() -> None:
    broken("A1", lambda arena: arena._add(20, 5))


def test_a1_runs_touch() -> None:
    def split(arena: Vmem) -> None:
        arena._drop(11, 90)
        arena._add(11, 40)
        arena._add(51, 50)
    broken("A1", split)


def test_a2_a_run_is_in_one_order_only() -> None:
    broken("A2", lambda arena: arena._lengths.clear())


def test_a3_nfree_is_wrong() -> None:
    def miscount(arena: Vmem) -> None:
        arena.nfree += 1
    broken("A3", miscount)
