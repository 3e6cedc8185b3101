"""tools/covering.py: a pytest plugin for mutate.py: records which tests run a line, and runs only those.

    COVERING_RECORD=FILE pytest -p tools.covering ...   writes which test ran which line of tmpfsd/, and its seconds
    COVERING_ONLY=FILE pytest -p tools.covering ...     runs the tests that FILE names, in its order

Limits      What runs while modules are imported belongs to no test.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import coverage
import pytest

RECORD, ONLY = os.environ.get("COVERING_RECORD", ""), os.environ.get("COVERING_ONLY", "")
_coverage = coverage.Coverage(data_file=RECORD + ".lines", source=["tmpfsd"], config_file=False) if RECORD else None
_seconds: dict[str, float] = {}
_failed: set[str] = set()
if _coverage is not None:
    _coverage.start()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Lines belong to the test that is running."""
    if _coverage is not None:
        _coverage.switch_context(item.nodeid)
    yield


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Setup and teardown count; a test that fails without a change is of no use."""
    _seconds[report.nodeid] = _seconds.get(report.nodeid, 0.0) + report.duration
    if not report.passed:
        _failed.add(report.nodeid)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Only the tests that were asked for, in that order."""
    if ONLY:
        order = {name: i for i, name in enumerate(Path(ONLY).read_text().splitlines())}
        items[:] = sorted((item for item in items if item.nodeid in order), key=lambda item: order[item.nodeid])


def pytest_sessionfinish() -> None:
    """Save."""
    if _coverage is not None:
        _coverage.stop()
        _coverage.save()
        Path(RECORD + ".seconds").write_text(json.dumps({name: _seconds[name] for name in _seconds.keys() - _failed}))


class Covering:
    """What was recorded."""

    def __init__(self, records: list[str]) -> None:
        self._data = []
        self._seconds: dict[str, float] = {}
        for record in records:
            data = coverage.CoverageData(record + ".lines")
            data.read()
            self._data.append(data)
            self._seconds.update(json.loads(Path(record + ".seconds").read_text()))

    def __len__(self) -> int:
        """How many tests."""
        return len(self._seconds)

    def tests(self, path: str, first: int, last: int) -> list[str]:
        """The tests that run one of the lines first to last of a file, the quickest first.

        For a line that runs only while the module is imported: the tests that run any line of the file.
        """
        tests: dict[int, set[str]] = {}
        for data in self._data:
            for line, names in data.contexts_by_lineno(path).items():
                tests.setdefault(line, set()).update(self._seconds.keys() & names)
        found = set().union(*(tests.get(line, ()) for line in range(first, last + 1))) or set().union(*tests.values())
        return sorted(found, key=self._seconds.__getitem__)
