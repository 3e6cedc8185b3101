"""Page table entries: no number has two meanings, and all that is put in comes out again."""

import pytest

from tmpfsd.uvm import pte

FRAMES = (0, 1, 4711, (1 << 30) - 2)
CLOCKS = (0, 1, 4711, pte.CLOCK)


@pytest.mark.parametrize("frame", FRAMES)
def test_a_frame(frame: int) -> None:
    assert pte.pfn(frame) == frame and not pte.is_hidden(frame) and not pte.is_out(frame)


@pytest.mark.parametrize("frame", FRAMES)
def test_a_hidden_frame(frame: int) -> None:
    entry = pte.hidden(frame)
    assert entry < 0 and pte.is_hidden(entry) and not pte.is_out(entry)
    assert pte.pfn(entry) == frame


@pytest.mark.parametrize("clock", CLOCKS)
def test_a_page_that_is_out(clock: int) -> None:
    entry = pte.out(clock)
    assert entry < 0 and pte.is_out(entry) and not pte.is_hidden(entry)
    assert pte.pfn(entry) < 0
    assert [pte.distance(entry, clock + since) for since in (0, 1, 1000)] == [0, 1, 1000]


def test_the_clock_wraps() -> None:
    assert pte.out(pte.CLOCK + 1) == pte.out(0)
    assert pte.distance(pte.out(pte.CLOCK), pte.CLOCK + 5) == 5
    assert pte.distance(pte.out(7), 7 + pte.CLOCK + 1) == 0


def test_nothing() -> None:
    assert pte.NONE < 0 and not pte.is_hidden(pte.NONE) and not pte.is_out(pte.NONE)
    assert pte.pfn(pte.NONE) < 0


def test_what_was_out_before_the_clock_began_is_far() -> None:
    assert pte.is_out(pte.LONG_OUT)
    assert min(pte.distance(pte.LONG_OUT, clock) for clock in (0, 1, 1 << 28)) >= 1 << 29


def test_every_entry_fits() -> None:
    """In 32 bits, and no two ranges meet."""
    bounds = [pte.hidden(FRAMES[-1]), pte.hidden(0), pte.out(pte.CLOCK), pte.out(0), pte.NONE, 0, (1 << 31) - 1]
    table = pte.row(0, 0)
    table.fromlist(bounds)
    assert list(table) == bounds == sorted(set(bounds))
    assert bounds[0] == -(1 << 31)
    assert pte.out(pte.CLOCK) - pte.hidden(0) == pte.NONE - pte.out(0) == 1


def test_rows() -> None:
    ends = [pte.hidden(0), pte.hidden(FRAMES[-1]), FRAMES[-1], pte.out(0), pte.out(pte.CLOCK - 1)]
    table = pte.row(pte.NONE, 3) + pte.row(5, 4) + pte.row(pte.out(9), 2) + pte.row(pte.LONG_OUT, 1)
    assert list(table) == [pte.NONE] * 3 + [5] * 4 + [pte.out(9)] * 2 + [pte.LONG_OUT]
    for entry in ends:
        table += pte.row(entry, 1)
    for first in range(len(table)):
        for n in range(len(table) + 3):
            assert pte.count_frameless(table, first, n) == sum(pte.pfn(entry) < 0
                                                               for entry in table[first:first + n])
