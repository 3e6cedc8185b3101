"""Runs of integers against a set."""

import random

import pytest

from tmpfsd.uvm.errors import Inconsistent
from tmpfsd.uvm.vmem import Vmem


def test_single_ones_are_the_lowest() -> None:
    arena = Vmem(1, 100)
    assert [arena.alloc(1) for _ in range(10)] == list(range(1, 11))
    for i in (8, 3, 5):
        arena.free(i)
    assert [arena.alloc(1) for _ in range(4)] == [3, 5, 8, 11]


def test_runs_that_do_not_fit_come_shorter() -> None:
    arena = Vmem(1, 100)
    assert arena.alloc(100) == 1
    arena.free(10, 5)
    arena.free(30, 3)
    assert arena.alloc(6) == -1
    runs = [arena.alloc_some(6) for _ in range(8)]
    assert sorted(i for first, n in runs for i in range(first, first + n)) == [10, 11, 12, 13, 14, 30, 31, 32]


def test_the_map_is_as_long_as_what_is_in_use() -> None:
    arena = Vmem(1, 1_000_000)
    assert arena.alloc(50_000) == 1 and arena.top == 50_001
    arena.free(10, 49_991)
    assert arena.top == 10 and len(arena._map) == 9
    arena.check()


def test_retired_is_never_free() -> None:
    arena = Vmem(1, 3)
    assert arena.alloc(3) == 1
    arena.retire(2)
    arena.free(1)
    arena.free(3)
    assert arena.alloc_some(3) == (1, 1) and arena.alloc_some(1) == (3, 1) and arena.alloc(1) == -1
    arena.check()


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


@pytest.mark.parametrize("start, n", [(3, 1), (2, 2), (4, 3), (1, 9)])
def test_freed_twice(start: int, n: int) -> None:
    arena = Vmem(1, 9)
    arena.alloc_at(5, 2)
    with pytest.raises(AssertionError):
        arena.free(start, n)


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
            assert n > 1 or not count or start == min(free)
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


def test_a1_an_unknown_state() -> None:
    broken("A1", lambda arena: arena._map.__setitem__(5, 7))


def test_a1_the_map_ends_with_what_is_free() -> None:
    broken("A1", lambda arena: arena._map.append(0))


def test_a1_the_map_leaves_the_arena() -> None:
    broken("A1", lambda arena: arena._map.extend(b"\1" * 100))


def test_a2_something_is_free_below() -> None:
    def hide(arena: Vmem) -> None:
        arena.free(3)
        arena._low = 5
    broken("A2", hide)


def test_a3_nfree_is_wrong() -> None:
    def miscount(arena: Vmem) -> None:
        arena.nfree += 1
    broken("A3", miscount)


def test_a_smaller_arena_hands_out_nothing_beyond_its_end() -> None:
    arena = Vmem(1, 100)
    arena.alloc(60)
    arena.free(10, 5)
    arena.free(50, 3)
    arena.resize(40)
    arena.check()
    assert arena.nfree == 5
    assert arena.alloc_at(50, 1) == 0 and arena.alloc(6) == -1
    assert arena.alloc_some(8) == (10, 5) and arena.alloc(1) == -1 and arena.alloc_some(1) == (0, 0)
    arena.free(30, 20)                  # partly beyond the end
    arena.check()
    assert arena.nfree == 11
    arena.resize(100)
    arena.check()
    assert arena.nfree == 63 and arena.alloc(23) == 30


def test_resized_at_random() -> None:
    rng = random.Random(7)
    arena, held = Vmem(1, 200), set()
    for _ in range(4000):
        choice = rng.random()
        if choice < 0.5:
            first, n = arena.alloc_some(rng.randint(1, 9))
            taken = set(range(first, first + n)) if n else set()
            assert not taken & held and all(i <= arena.size for i in taken)
            held |= taken
        elif choice < 0.95 and held:
            i = rng.choice(sorted(held))
            held.remove(i)
            arena.free(i)
        else:
            arena.resize(rng.randint(0, 300))
        arena.check()
        assert arena.nfree == sum(i not in held for i in range(1, arena.size + 1))


def test_a_run_at_the_very_start_is_taken_before_the_end_grows() -> None:
    arena = Vmem(1, 1000)
    assert (arena.alloc(60), arena.alloc(40)) == (1, 61)
    arena.free(1, 60)
    assert arena.alloc(60) == 1
