"""The benchmark of latency, small."""

import json
import os
import sys
from pathlib import Path

import pytest

from tools.bench import latency


@pytest.mark.slow
@pytest.mark.skipif(not os.access("/dev/fuse", os.R_OK | os.W_OK), reason="no /dev/fuse that can be opened")
def test_each_work_is_done_and_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys) -> None:
    monkeypatch.setattr(latency, "IDLE_SECONDS", 0.2)
    row = {"asked": 1, "p50": 1, "p99": 1, "worst": 1, "seconds": 1}
    monkeypatch.setattr(latency, "breaths", lambda ram: row)
    out = tmp_path / "out.json"
    monkeypatch.setattr(sys, "argv", ["latency", "--ram", "16m", "--files", "200", "--extents", "50", "--big", "20",
                                      "--json", str(out)])
    latency.main()
    rows = json.loads(out.read_text())["16m"]
    assert len(rows) == 14 and all(row["p50"] <= row["p99"] <= row["worst"] for row in rows.values())
    assert all(row["asked"] > 0 for row in rows.values())
    shown = capsys.readouterr().out
    assert all(name in shown for name in rows)


@pytest.mark.slow
def test_breaths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "SWAP", 1 << 30)
    made = latency.breaths(2 << 20)
    assert 0 < made["p50"] <= made["p99"] <= made["worst"]
