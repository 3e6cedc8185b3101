"""Calls of the hot layers that tests count or make fail, compiled or not (tmpfsd/uvm/failpoint.py)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tmpfsd import compiled
from tmpfsd.uvm import failpoint


@contextmanager
def at(points: str | tuple[str, ...], call: Callable[[], None]) -> Iterator[None]:
    """Call call() first at some points ("Vm.alloc_page"); the point raises what it raises.  May be nested."""
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
    """Skip a test that patches a function or method of the hot layers: compiled code ignores it (CI runs both)."""
    if compiled.active():
        pytest.skip("patches what compiled code does not look up: runs with TMPFSD_PURE=1")
