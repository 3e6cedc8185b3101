"""Slices of background work: they end where a request waits, and get their share where requests always wait."""

from types import SimpleNamespace
from typing import Any

from tmpfsd.server.turns import DUE, LOOK, MOST, SHARE, Turns

STEP = 10_000


class Machine:
    """A clock that is set by hand, and a request loop."""

    def __init__(self) -> None:
        self.now = 0
        self.loop: Any = SimpleNamespace(background=0, waits=lambda: self.waiting)
        self.waiting = False
        self.turns = Turns(self.loop, lambda: self.now)

    def slice(self) -> int:
        """How long a slice is."""
        self.turns.begin()
        start = self.now
        while True:
            self.now += STEP
            if self.turns.over():
                return self.now - start


def test_nobody_waits() -> None:
    assert Machine().slice() == MOST


def test_a_request_ends_it_at_the_next_look() -> None:
    machine = Machine()
    machine.waiting = True
    assert machine.slice() == LOOK


def test_a_request_that_comes_meanwhile_ends_it() -> None:
    machine = Machine()
    machine.loop.waits = lambda: machine.now > MOST // 2
    assert MOST // 2 < machine.slice() <= MOST // 2 + LOOK + STEP


def test_where_requests_always_wait_it_gets_its_share() -> None:
    machine = Machine()
    machine.waiting, worked = True, 0
    for _ in range(100):
        machine.now += 2_000_000
        worked += machine.slice()
    assert 1 / (SHARE + 2) < worked / machine.now <= 1 / SHARE


def test_the_share_is_not_saved_up() -> None:
    machine = Machine()
    machine.waiting = True
    machine.now += 10 ** 12
    assert machine.slice() == DUE
    assert machine.slice() == LOOK


def test_the_loop_knows_while_there_is_work() -> None:
    machine = Machine()
    with machine.turns.background():
        assert machine.loop.background == 1
    assert machine.loop.background == 0


def test_without_a_loop_slices_are_as_long_as_may_be() -> None:
    machine = Machine()
    machine.turns.loop = None
    assert machine.slice() == MOST
