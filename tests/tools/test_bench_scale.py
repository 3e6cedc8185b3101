"""Benchmarks that stand alone: operations without FUSE, waits for swap, creates while the number of files doubles."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from tools.bench import core, doubling, faults

needs_fuse = pytest.mark.skipif(not os.access("/dev/fuse", os.R_OK | os.W_OK), reason="no /dev/fuse that can be opened")


def test_every_operation_is_measured() -> None:
    found = core.one_round(500)
    assert set(core.GOALS) < set(found) and all(value > 0 for value in found.values())


def test_core_as_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["core", "--files", "300", "--rounds", "1", "--json"])
    core.main()
    assert set(core.GOALS) < set(json.loads(capsys.readouterr().out))


def test_core_in_columns(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["core", "--files", "300", "--rounds", "1"])
    core.main()
    head, *lines = capsys.readouterr().out.splitlines()
    assert "interpreted" in head and ("compiled  " in head or "Nothing is compiled" in lines.pop())
    assert {line[:30].strip() for line in lines} > set(core.GOALS)


def test_steps_double() -> None:
    assert doubling.steps(50_000) == [10_000, 20_000, 40_000, 50_000]
    assert doubling.steps(10_000) == doubling.steps(10_000)[:1] and doubling.steps(3) == [3]


@pytest.mark.parametrize("times", (0.5, 4))
def test_faults(monkeypatch: pytest.MonkeyPatch, times: float) -> None:
    monkeypatch.setattr(faults, "SAMPLES", 800)
    monkeypatch.setattr(faults, "PROBE", 1000)
    found = faults.measure(1 << 20, times, 200, "pageable-submap")
    parts = found.pop("parts of ram")
    assert set(found) == {"create", "stat in order", "stat at random", "readdirplus entry", "unlink at random"}
    if times < 1:
        assert not any(each["faults"] for each in found.values())       # all stays in
    else:
        assert 0.5 < found["stat at random"]["faults"] < 3 and 10 * found["stat in order"]["faults"] < 1
        assert parts["node"] > 3 * parts["tree"] > 0


@needs_fuse
@pytest.mark.slow
@pytest.mark.parametrize("layout", ("many", "one"))
def test_doubling(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, layout: str) -> None:
    monkeypatch.setattr(doubling, "FIRST", 500)
    monkeypatch.setattr(doubling, "WINDOW", 700)
    out = tmp_path / "out.json"
    monkeypatch.setattr(sys, "argv", ["doubling", "--files", "1500", "--ram", "1m", "--size", "64m", "--layout", layout,
                                      "--json", str(out)])
    doubling.main()
    result = json.loads(out.read_text())
    assert [row["files"] for row in result["rows"]] == [500, 1000, 1500] and result["ratio"] > 0
    assert all(100 < row["bytes_a_file"] < 400 for row in result["rows"])
