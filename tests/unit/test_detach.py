"""Daemon.detach(): what is ours goes, also from below another tmpfsd that goes too."""

import time
from typing import Any

import pytest

pyfuse3 = pytest.importorskip("pyfuse3")

from tmpfsd.mounts import mountinfo  # noqa: E402  (needs pyfuse3)
from tmpfsd.mounts.mountinfo import FSTYPE, MountPoint  # noqa: E402
from tmpfsd.server import daemon  # noqa: E402

OURS = MountPoint(0, 50, "/mnt", FSTYPE, 0, id=2, parent=1)
ABOVE = MountPoint(0, 51, "/mnt", FSTYPE, 0, id=3, parent=2)
ROOT = MountPoint(8, 1, "/", "ext4", 0, id=1)


def detach(monkeypatch: pytest.MonkeyPatch, table: list[MountPoint], goes: int) -> int:
    """Detach OURS from a table, whose top mount goes after so many looks; how often was slept."""
    slept = []

    def sleep(_seconds: float) -> None:
        slept.append(1)
        if len(slept) == goes:
            table.pop()

    def take_away(place: MountPoint, lazy: bool = False) -> str | None:
        if table[-1] != place:
            return "another mount is there now"
        table.pop()
        return None

    monkeypatch.setattr(pyfuse3, "close", lambda unmount: None)
    monkeypatch.setattr(mountinfo, "table", lambda *_file: list(table))
    monkeypatch.setattr(daemon, "take_away", take_away)
    monkeypatch.setattr(daemon, "UNCOVERED_SECONDS", 0.2)
    monkeypatch.setattr(time, "sleep", sleep)
    it: Any = object.__new__(daemon.Daemon)
    it.place, it.mounts = OURS, None
    it.detach()
    return len(slept)


def test_what_nothing_covers_goes_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    table = [ROOT, OURS]
    assert detach(monkeypatch, table, 0) == 0 and table == [ROOT]


def test_it_waits_for_one_above_that_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    table = [ROOT, OURS, ABOVE]
    assert detach(monkeypatch, table, 3) == 3 and table == [ROOT]


def test_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    table = [ROOT, OURS, ABOVE]
    assert detach(monkeypatch, table, -1) > 0 and table == [ROOT, OURS, ABOVE]


def test_nor_for_what_is_no_tmpfsd(monkeypatch: pytest.MonkeyPatch) -> None:
    table = [ROOT, OURS, ABOVE._replace(fstype="ext4")]
    assert detach(monkeypatch, table, -1) == 0
