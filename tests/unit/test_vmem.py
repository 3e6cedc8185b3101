"""Runs of integers against a set."""

import random

import pytest

from tmpfsd.uvm import vmem
from tmpfsd.uvm.errors import Inconsistent
from tmpfsd.uvm.vmem import CHUNK, LOOKS, Vmem


@pytest.fixture(params=(12, 4, 3), ids="chunks of 2^{}".format)
def chunks(request, monkeypatch) -> None:
    """Chunks so small that runs cross many."""
    monkeypatch.setattr(vmem, "CHUNK_SHIFT", request.param)
    monkeypatch.setattr(vmem, "CHUNK", 1 << request.param)
    monkeypatch.setattr(vmem, "LOOKS", 1000)


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


def runs_of(arena: Vmem, start: int = 0) -> list[int]:
    return [i for first, n in arena.runs(start) for i in range(first, first + n)]


@pytest.mark.parametrize("start, n", [(3, 1), (2, 2), (4, 3), (1, 9)])
def test_freed_twice(start: int, n: int) -> None:
    arena = Vmem(1, 9)
    arena.alloc_at(5, 2)
    with pytest.raises(AssertionError):
        arena.free(start, n)


@pytest.mark.usefixtures("chunks")
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
        assert set(runs_of(arena)) == {i for i in free if i < arena.top}
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


def test_a4_a_chunk_is_miscounted() -> None:
    broken("A4", lambda arena: arena._chunk_free.__setitem__(0, 1))


def test_a4_a_longer_run_is_unknown() -> None:
    def hide(arena: Vmem) -> None:
        arena.free(3, 4)
        arena._longest[0] = 3
    broken("A4", hide)


def test_a4_a_longer_run_than_the_best() -> None:
    def hide(arena: Vmem) -> None:
        arena.free(3, 4)
        arena._best = 3
    broken("A4", hide)


def test_a4_nothing_is_free_and_it_says_so_not() -> None:
    broken("A4", lambda arena: arena._longest.__setitem__(0, 1))


def test_a4_a_chunk_too_many() -> None:
    broken("A4", lambda arena: arena._longest.append(0))


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


@pytest.mark.usefixtures("chunks")
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


# --- what is parked ---

@pytest.mark.usefixtures("chunks")
def test_parked_is_nobodys_until_it_is_unparked() -> None:
    arena, rng = Vmem(1, 300), random.Random(3)
    assert arena.alloc(300) == 1
    parked = rng.sample(range(1, 301), 100)
    for i in parked:
        arena.park(i)
        arena.check()
    assert arena.nfree == 0 and arena.alloc(1) == -1 and arena.count(vmem.PARKED) == 100
    assert not arena.is_free(parked[0])
    with pytest.raises(AssertionError):
        arena.free(parked[0])
    with pytest.raises(AssertionError):
        arena.park(parked[0])
    back = 0
    while (n := arena.unpark(7)) != 0:
        assert n == -1 or 1 <= n <= 7
        back += max(n, 0)
        arena.check()
    assert back == 100 == arena.nfree
    assert [arena.alloc(1) for _ in range(100)] == sorted(parked)
    arena.check()


def test_what_is_parked_behind_what_was_unparked_is_found() -> None:
    arena = Vmem(1, 10)
    arena.alloc(10)
    arena.park(8)
    assert arena.unpark(5) == 1 and arena.unpark(5) == 0
    arena.park(2, 3)
    assert arena.unpark(2) == 2 and arena.unpark(2) == 1 and arena.unpark(2) == 0
    arena.check()


# --- nothing reads the whole map ---

class Seen(bytearray):
    """A map that counts the bytes that are looked at."""

    looked_at = 0

    def find(self, part, start=0, end=None):
        at = super().find(part, start, len(self) if end is None else end)
        Seen.looked_at += (at if at >= 0 else min(len(self) if end is None else end, len(self))) - start
        return at


MANY = 1 << 20
BOUND = 5 * LOOKS * (CHUNK + 16)            # for runs of 16, 8, 4, 2 and 1


def three_quarters_full(kind: str) -> Vmem:
    arena, rng = Vmem(1, MANY), random.Random(6)
    while arena.alloc_some(256)[1]:
        pass
    if kind == "singles":
        for i in rng.sample(range(1, MANY), MANY // 4):
            arena.free(i)
    elif kind == "runs of 15":
        for i in range(1, MANY, 60):
            arena.free(i, 15)
    else:
        arena.free(MANY - MANY // 4, MANY // 4)
    return arena


@pytest.mark.slow
@pytest.mark.parametrize("kind", ("singles", "runs of 15", "at the end"))
def test_a_run_is_found_without_reading_the_map(kind: str) -> None:
    """With 64 GiB of swap three quarters full, each cluster that left took 22 ms to find 16 slots in a row."""
    arena = three_quarters_full(kind)
    arena._map = Seen(arena._map)
    rng, held = random.Random(7), []
    for step in range(3000):
        Seen.looked_at = 0
        first, n = arena.alloc_some(16)
        assert n and Seen.looked_at <= BOUND, step
        held.append((first, n))
        if rng.random() < 0.4:
            arena.free(*held.pop(rng.randrange(len(held))))
        if step % 5 == 0:
            Seen.looked_at = 0
            held.append((arena.alloc(1), 1))
            assert Seen.looked_at <= CHUNK, step
    arena.check()


def test_runs_are_found_without_reading_the_map() -> None:
    arena = Vmem(1, MANY)
    while arena.alloc_some(256)[1]:
        pass
    arena.free(MANY - 100, 16)
    assert list(arena.runs()) == [(MANY - 100, 16)]
    arena.free(CHUNK - 3, 8)                    # chunk ends are where they are cut
    assert list(arena.runs()) == [(CHUNK - 3, 4), (CHUNK + 1, 4), (MANY - 100, 16)]
    assert list(arena.runs(CHUNK + 2)) == [(CHUNK + 2, 3), (MANY - 100, 16)]


def test_the_end_that_becomes_free_is_cut_chunk_by_chunk() -> None:
    arena = Vmem(1, MANY)
    while arena.alloc_some(256)[1]:
        pass
    arena.free(11, MANY - 11)
    assert arena.top == MANY + 1
    arena.free(MANY)
    assert arena.top == 11 and len(arena._longest) == 1
    arena.check()
    assert arena.alloc(16) == 11


def test_a_fixed_range_longer_than_chunks_is_found_among_others() -> None:
    arena = Vmem(1, 10 * CHUNK)
    assert arena.alloc(10 * CHUNK) == 1
    arena.free(CHUNK + 5, 3 * CHUNK)
    arena.free(6 * CHUNK, 2 * CHUNK)
    assert arena.alloc(2 * CHUNK + 7) == CHUNK + 5
    arena.check()
