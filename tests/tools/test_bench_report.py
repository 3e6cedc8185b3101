"""The arithmetic of the benchmark, and its report on results made by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rich")
pytest.importorskip("matplotlib")

from tools.bench import __main__ as bench  # noqa: E402
from tools.bench import chart, goals, idle, pressure, render, servers  # noqa: E402
from tools.bench.scale import Scale  # noqa: E402
from tools.bench.sheet import FREE, RATE, SAME, Measure  # noqa: E402

CREATE = Measure("create")


def cells_of(measure: Measure, **samples: list[float] | str) -> dict[str, Any]:
    """Cells of one measure."""
    return {measure.key: {name: {"why": it} if isinstance(it, str) else {"samples": it}
                          for name, it in samples.items()}}


def test_medians_and_spread() -> None:
    cells = cells_of(CREATE, tmpfsd=[5.0, 1.0, 3.0, 2.0, 4.0], one=[7.0], none="too slow")
    assert goals.middle(cells, CREATE, "tmpfsd") == 3 and goals.middle(cells, CREATE, "one") == 7
    assert goals.middle(cells, CREATE, "none") is None and goals.middle(cells, CREATE, "absent") is None
    assert goals.spread(cells, CREATE, "tmpfsd") == pytest.approx(1 / 3)
    assert goals.spread(cells, CREATE, "one") is None
    assert goals.why_not(cells, CREATE, "none") == "too slow"


@pytest.mark.parametrize("one, other, unit, times", [
    (20.0, 30.0, "us", 1.5), (2.0, 1.0, "s", 0.5), (300.0, 200.0, RATE, 1.5), (None, 1.0, "us", None),
    (1.0, None, RATE, None), (1.0, 0.0, "us", None)])
def test_times_as_fast(one: float | None, other: float | None, unit: str, times: float | None) -> None:
    assert goals.times_as_fast(one, other, unit) == times


@pytest.mark.parametrize("own, other, goal, verdict", [
    (20.0, 30.0, goals.Goal(CREATE, "other", 1.5), ("1.50", "met")),
    (20.2, 30.0, goals.Goal(CREATE, "other", 1.5), ("1.49", "**missed**")),
    (20.0, 20.0, goals.Goal(CREATE, "other", 1.0, above=True), ("1.00", "**missed**")),
    (19.0, 20.0, goals.Goal(CREATE, "other", 1.0, above=True), ("1.05", "met")),
    (12.0, 1.0, goals.Goal(CREATE, "", 12.0), ("12.00", "met")),
    (12.5, 1.0, goals.Goal(CREATE, "", 12.0), ("12.50", "**missed**"))])
def test_met_and_missed(own: float, other: float, goal: goals.Goal, verdict: tuple[str, str]) -> None:
    assert goal.verdict(cells_of(CREATE, tmpfsd=[own], other=[other])) == verdict


def test_goals_that_were_not_measured() -> None:
    goal = goals.Goal(CREATE, "other", 1.5)
    assert goal.verdict({}) == ("-", "not measured: tmpfsd: not in this run")
    assert goal.verdict(cells_of(CREATE, tmpfsd=[1.0], other="needs root")) == (
        "-", "not measured: other: needs root")


def test_every_goal_is_of_something_that_is_measured() -> None:
    measured = {measure for part in render.PARTS.values() for measure in part.measures(Scale())}
    assert {goal.measure for goal in goals.GOALS} <= measured
    keys = [measure.key for measure in sorted(measured)]
    assert len(set(keys)) == len(keys)
    assert {goal.measure.placement for goal in goals.GOALS} == {FREE, SAME}
    assert {goal.server for goal in goals.GOALS} == {servers.TMPFSD, servers.NOPERM, pressure.TIGHT_NAME}


def test_figures_are_as_precise_as_they_are() -> None:
    figures = ((3.14159, "us"), (314.159, "us"), (1234.5, RATE), (0.01234, "s"), (1.234, "s"), (0.0, "%"))
    assert [goals.number(*it) for it in figures] == ["3.1", "314", "1,234", "0.012", "1.23", "0.00"]


MACHINE = {"cores": 2, "cpu": "a cpu", "ram_mib": 100, "kernel": "6", "python": "3", "swap": "ext4"}


def part_of(cells: dict[str, Any], *names: str) -> dict[str, Any]:
    """The results of a part."""
    return {"machine": MACHINE, "quick": False, "rounds": 5, "others": 3.0, "failed": {}, "cells": cells,
            "servers": [[name, f"{name} {{mnt}}"] for name in names]}


def test_report_of_results_made_by_hand(tmp_path: Path) -> None:
    cells = {**cells_of(CREATE, tmpfsd=[40.0, 44.0, 60.0], nullfs=[22.0], memfs_ll=[88.0]),
             **cells_of(Measure("rename"), tmpfsd=[30.0], nullfs="Function not implemented", memfs_ll=[15.0])}
    cells[CREATE.key][servers.NOPERM] = {"samples": [22.0]}
    cells[Measure("rename").key][servers.NOPERM] = {"samples": [60.0]}
    cells[CREATE.key]["tmpfsd"]["cpu"] = [20.0, 30.0, 25.0]
    cells[CREATE.key]["tmpfsd"]["requests"] = {"create": 2000, "lookup": 2001, "mkdir": 1}
    (tmp_path / bench.RESULTS).write_text(json.dumps({"metadata": part_of(cells, "tmpfsd", "nullfs", "memfs_ll")}))
    assert bench.main(["--render", "--out", str(tmp_path)]) == 0
    text = (tmp_path / "README.md").read_text()
    assert "| create | free | 1 | us | 44.0 | 22.0 | 88.0 | 0.50 |  | 11 % |" in text
    assert "| rename | free | 1 | us | 30.0 | Function not implemented | 15.0 |  |  |  |" in text
    assert "| tmpfsd, noperm: create, free: at least 1.25 times memfs_ll | 4.00 | met |" in text
    assert "| tmpfsd, noperm: rename, free: at least 1.2 times memfs_ll | 0.25 | **missed** |" in text
    assert "| create, free: at least 1.25 times memfs_ll, default_permissions | - | not measured: " in text
    assert "placement free, slower are tmpfsd, noperm than memfs_ll's rename (0.25)." in text
    assert "| create | create 1.00, lookup 1.00 |" in text
    assert "| create | free | 25.0 |  |  |" in text
    assert "Not run yet: list, data, trees, pressure, idle." in text
    assert "The machine was quiet: all others together used 3 % (metadata)" in text


def test_parts_keep_their_last_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = part_of(cells_of(CREATE, tmpfsd=[40.0]), "tmpfsd")
    (tmp_path / bench.RESULTS).write_text(json.dumps({"metadata": kept}))
    monkeypatch.setattr(idle, "measure", lambda run: run.sheet.add(Measure("idle", unit="%"), "tmpfsd", 0.0))
    assert bench.main(["--only", "idle", "--out", str(tmp_path)]) == 0
    results = json.loads((tmp_path / bench.RESULTS).read_text())
    assert results["metadata"] == kept and results["idle"]["cells"]["idle/free/1"]["tmpfsd"]["samples"] == [0.0]
    assert "| idle: at most 0 % | 0.00 | met |" in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize("others, peer", [
    (["nullfs", "memfs_ll", "memfs_ll, default_permissions", "pyfuse3 example"], "memfs_ll, default_permissions"),
    (["nullfs", "memfs_ll"], "memfs_ll"), (["nullfs", "pyfuse3 example"], "nullfs")])
def test_a_chart_has_one_peer(others: list[str], peer: str) -> None:
    """The default, the kernel and one more; the other backends are in a chart of their own."""
    names = ["tmpfsd", "kernel tmpfs", *others, "tmpfsd, wired", "tmpfsd, noperm"]
    assert chart.peers(names) == ["tmpfsd", "kernel tmpfs", peer]
    assert chart.backends(names) == ["tmpfsd", "tmpfsd, wired"]
