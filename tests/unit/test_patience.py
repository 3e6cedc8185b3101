"""How long a stranger's server is waited for, with a clock of the test's."""

from collections.abc import Iterable, Mapping

import pytest

from tmpfsd.cli import patience
from tmpfsd.cli.patience import MOST_MARKS, STALLED, Patience

HOUR = 3600.0


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which the test sets."""
    time = [0.0]
    monkeypatch.setattr(patience, "clock", lambda: time[0])
    return time


def lasts(now: list[float], words: Iterable[Mapping[str, int]], every: float, endless: bool = False) -> float | None:
    """Return how long the server is waited for that says these words, one each so many seconds; None: to its end."""
    waits = Patience(endless)
    for word in words:
        now[0] += every
        if waits.is_over():
            return now[0]
        waits.heed(word)
    return None


def test_what_the_daemon_says_is_waited_for(now: list[float]) -> None:
    """A check: nothing at first, then for hours a per cent in nine minutes, repeated twice a second."""
    begins = [{"done": 0, "of": 0}] * 1000
    goes_on = [{"done": i, "of": 100_000} for i in range(100_000)]
    assert lasts(now, begins + goes_on, 0.5) is None
    assert lasts(now, [{"done": i // 1080, "of": 100} for i in range(108_000)], 0.5) is None
    assert now[0] > 14 * HOUR


def test_each_part_of_a_change_begins_at_0(now: list[float]) -> None:
    """set zram= ram=, and swapoff zram."""
    parts = [{"done": done, "of": of} for of in (70, 9, 80, 60) for done in range(of + 1)]
    assert lasts(now, parts, STALLED) is None and now[0] > 30 * HOUR


@pytest.mark.parametrize("rate", (1, 1000))
def test_counts_without_a_whole(now: list[float], rate: int) -> None:
    """du, discard, prefetch."""
    assert lasts(now, [{"names": i * rate} for i in range(10_000)], 5.0) is None
    assert lasts(now, [{"names": 0, "bytes": i * rate} for i in range(10_000)], 5.0) is None


def test_who_does_not_get_further_is_given_up(now: list[float]) -> None:
    assert lasts(now, [{"done": 1, "of": 2}] * 10_000, 1.0) == pytest.approx(STALLED, abs=3)
    now[0] = 0.0
    assert lasts(now, [{}] * 10_000, 1.0) == pytest.approx(STALLED, abs=3)
    assert lasts(now, [{"done": 1, "of": 2}] * 10_000, 1.0, endless=True) is None


def test_it_has_an_end_whatever_is_said(now: list[float]) -> None:
    """Always a little further, always another part, back and forth, beyond the whole."""
    for word in (lambda i: {"done": i, "of": 1 << 60}, lambda i: {"done": i, "of": i}, lambda i: {"done": i, "of": 1},
                 lambda i: {"done": i % 3, "of": 2}, lambda i: {f"name{i}": i}, lambda i: {"done": i % 7, "of": i % 7}):
        now[0] = 0.0
        assert lasts(now, map(word, range(100_000)), 1.0) is not None
        assert now[0] < (MOST_MARKS + 1) * 100 * STALLED
