"""Calls of the hot floors that tests count or have refused, compiled or not (tmpfsd/uvm/failpoint.py)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tmpfsd import compiled
from tmpfsd.uvm import failpoint


@contextmanager
def at(points: str | tuple[str, ...], call: Callable[[], None]) -> Iterator[None]:
    """Have call() called first at some points ("Vm.alloc_page"); what it raises, the point raises.  May be nested."""
    outer, wanted = failpoint.hook, {points} if isinstance(points, str) else set(points)

    def hook(point: str) -> None:
        if point in wanted:
            call()
        if outer is not None:
            outer(point)

    failpoint.hook = hook
    try:
        yield
    finally:
        failpoint.hook = outer


def interpreted_only() -> None:
    """Skip what patches a function or a method of the hot floors: compiled code would not see it (CI runs both)."""
    if compiled.active():
        pytest.skip("patches what compiled code does not look up: runs with TMPFSD_PURE=1")
