"""mounts/placelock.py: who comes second waits, but not for ever."""

import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tmpfsd.mounts import mountinfo, placelock
from tmpfsd.mounts.placelock import locked


def test_the_second_waits_for_the_first(tmp_path: Path) -> None:
    script = ("import sys, time\nfrom tmpfsd.mounts.placelock import locked\n"
              "with locked(sys.argv[1]) as taken:\n    print(taken, flush=True)\n    time.sleep(0.3)\n")
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE) as first:
        assert first.stdout is not None and first.stdout.readline() == b"False\n"
        start = time.monotonic()
        with locked(str(tmp_path)) as taken:
            assert not taken and first.wait(10) == 0 and time.monotonic() - start < 5


def test_whoever_keeps_the_lock_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placelock, "SECONDS", 0.05)
    holder = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(holder, fcntl.LOCK_EX)
        with locked(str(tmp_path)) as taken:
            assert not taken
    finally:
        os.close(holder)


def test_what_cannot_be_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    for path in (tmp_path, tmp_path / "missing"):
        before = len(os.listdir("/proc/self/fd"))
        with locked(str(path)) as taken:
            assert not taken
        assert len(os.listdir("/proc/self/fd")) == before


def test_a_tmpfsd_that_came_before_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may hang, and the lock of its root would keep nobody out of the directory below."""
    def refuse(*_args: object, **_named: object) -> int:
        raise AssertionError("opened")

    here = mountinfo.MountPoint(0, 99, str(tmp_path), mountinfo.FSTYPE, 0, id=7)
    monkeypatch.setattr(mountinfo, "table", lambda *_file: [here])
    monkeypatch.setattr(placelock, "id_of", lambda _path: 7)
    monkeypatch.setattr(os, "open", refuse)
    with locked(str(tmp_path)) as taken:
        assert taken
    monkeypatch.undo()
    monkeypatch.setattr(mountinfo, "table", lambda *_file: [here._replace(path="/elsewhere")])
    monkeypatch.setattr(placelock, "id_of", lambda _path: 7)        # a directory inside another tmpfsd
    with locked(str(tmp_path)) as taken:
        assert not taken
