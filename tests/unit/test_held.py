"""fuse/held.py against a set of pages."""

import random

import pytest

from tmpfsd.fuse import held
from tmpfsd.fuse.held import Held

PAGES = 60


def ranges(known: Held, ino: int) -> set[int]:
    """The pages that may be held."""
    found, at = set(), 0
    while (each := known.next_in(ino, at, PAGES)) is not None:
        assert at <= each[0] < each[1] <= PAGES
        found |= set(range(*each))
        at = each[1]
    return found


@pytest.mark.parametrize("seed", range(20))
def test_as_a_set_of_pages(seed: int) -> None:
    rng, known, model = random.Random(seed), Held(), {ino: set[int]() for ino in (1, 2, 3)}
    for _ in range(400):
        ino, first = rng.choice(list(model)), rng.randrange(PAGES - 1)
        behind = rng.randrange(first + 1, min(first + 12, PAGES) + 1)
        what = rng.randrange(20)
        if what < 10:
            known.note(ino, first, behind)
            model[ino] |= set(range(first, behind))
        elif what < 19:
            known.drop(ino, first, behind)
            model[ino] -= set(range(first, behind))
        else:
            known.forget(ino)
            model[ino].clear()
        known.check()
        assert ranges(known, ino) == model[ino] and not known.is_lost(ino) and known.has(ino) == bool(model[ino])
        inside = [page for page in sorted(model[ino]) if first <= page < behind]
        found = known.next_in(ino, first, behind)
        assert (found is None) == (not inside) and (found is None or found[0] == inside[0])


def test_a_file_with_too_many_ranges_is_lost_until_it_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held, "RANGES", 8)
    known = Held()
    for page in range(0, 16, 2):
        known.note(1, page, page + 1)
    assert not known.is_lost(1)
    known.note(1, 16, 17)
    assert known.is_lost(1) and not known.is_lost(2)
    known.note(1, 5, 6)
    known.drop(1, 5, 6)
    assert known.is_lost(1)
    known.forget(1)
    known.check()
    assert not known.is_lost(1)


def test_all_files_together_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held, "MOST", 10)
    known = Held()
    for ino in range(3):
        for page in range(0, 8, 2):
            known.note(ino, page, page + 1)
    known.check()
    assert [known.is_lost(ino) for ino in range(3)] == [False, False, True]


def test_the_file_that_was_known_longest_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held, "FILES", 2)
    known = Held()
    for ino in (1, 2, 3):
        known.note(ino, 0, 1)
        known.check()
    assert [known.is_lost(ino) for ino in (1, 2, 3, 4)] == [True, False, False, False]
    known.note(1, 0, 1)
    known.forget(1)
    assert known.is_lost(1), "what was read before is not known"
