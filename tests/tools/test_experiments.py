"""The experiments: a quick run of all of them, and the parts that a quick run does not reach."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rich")
pytest.importorskip("matplotlib")

from tmpfsd.swapplaces import default_swap  # noqa: E402
from tmpfsd.tmpfs.forecast import estimate  # noqa: E402
from tools.experiments import __main__ as experiments  # noqa: E402
from tools.experiments import cgroup, child, e1, e4, e6, e11, report, trees  # noqa: E402
from tools.experiments.scale import Scale  # noqa: E402

needs_swap = pytest.mark.skipif(default_swap() is None, reason="no directory for swap that is not in memory")


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A quick run of everything: where it went, and its exit status."""
    out = tmp_path_factory.mktemp("experiments")
    return out, experiments.main(["--quick", "--out", str(out)])


@needs_swap
@pytest.mark.slow
def test_quick_run(quick: tuple[Path, int]) -> None:
    out, status = quick
    results = json.loads((out / "results.json").read_text())
    assert status == 0 and not [part["failed"] for part in results.values() if part["failed"]]
    assert set(results) == set(experiments.EXPERIMENTS)
    text = (out / "README.md").read_text()
    for name, module in experiments.EXPERIMENTS.items():
        part = text.partition(f"## {name}: ")[2].partition("\n## ")[0]
        assert part.startswith(module.TITLE) and "Machine: " in part and "Limits: " in part
        assert len(part.partition("**Answer.**")[2].split()) > 10
    for line in text.splitlines():
        if line.startswith("!["):
            assert (out / line.partition("(")[2].rstrip(")")).read_bytes().startswith(b"\x89PNG")
    # The claims that do not hang on how fast the machine is.
    for name in ("E4", "E6"):
        part = text.partition(f"## {name}: ")[2].partition("\n## ")[0]
        assert "Not borne out" not in part.partition("**Answer.**")[2], part
    assert "as computed" in text and "**not as computed**" not in text


@needs_swap
@pytest.mark.slow
def test_nothing_of_the_machine_in_the_report(quick: tuple[Path, int]) -> None:
    out, _status = quick
    for name in ("README.md", "results.json"):
        text = (out / name).read_text()
        assert str(out) not in text and os.uname().nodename not in text and str(default_swap()) not in text


@needs_swap
@pytest.mark.slow
def test_parts_are_merged(quick: tuple[Path, int], tmp_path: Path) -> None:
    results = json.loads((quick[0] / "results.json").read_text())
    (tmp_path / "results.json").write_text(json.dumps({"E6": results["E6"]}))
    assert experiments.main(["--render", "--out", str(tmp_path)]) == 0
    text = (tmp_path / "README.md").read_text()
    assert "Not run yet." in text and "pageable-flag stops" in text
    again = {**results["E6"], "failed": {"wired/0": "it broke"}, "jobs": {}}
    (tmp_path / "results.json").write_text(json.dumps({"E6": again}))
    assert experiments.main(["--render", "--out", str(tmp_path)]) == 0
    assert "**wired/0 failed**" in (tmp_path / "README.md").read_text()


def test_only() -> None:
    assert experiments.chosen("e3,E1") == ["E1", "E3"]
    with pytest.raises(SystemExit, match="no such experiment: E12"):
        experiments.chosen("E1,E12")


def test_every_job_has_its_own_key() -> None:
    for module in experiments.EXPERIMENTS.values():
        for quick in (True, False):
            keys = [job.key for job in module.jobs(Scale(quick=quick))]
            assert len(keys) == len(set(keys)) and keys


def test_a_job_that_fails_is_told() -> None:
    with pytest.raises(child.JobError, match="exit status 1"):
        child.run(child.Job("x", "e1.nothing_of_that_name", {}), lambda part: None)


def test_claims() -> None:
    assert str(report.Claim(True, "It is so.", "it is not.")) == "It is so."
    assert str(report.Claim(False, "It is so.", "it is not.")).endswith("it is not.")
    assert "**missed**" in report.goal(0.5, 0.6, "x") and "met" in report.goal(0.6, 0.6, "x")
    assert report.middle({"a": {"x": 1}, "b": {"x": 3}, "c": {}}, "abcd", "x") == 2
    assert report.table(("a", "b"), [(1, "x|y")])[2] == "| 1 | x\\|y |"


def test_flag_that_did_something_is_not_hidden() -> None:
    run: dict[str, Any] = {"n": 10, "wanted": 20, "pageouts": 0, "after": {
        "scans": 5, "vain": 5, "cpu": 1e-5, "pageouts": 0, "seconds": 1.0}}
    results = {f"{name}/0": dict(run) for name in e6.BACKENDS}
    results["pageable-object/0"] = {"n": 20, "wanted": 20, "pageouts": 9}
    assert all(claim.holds for claim in e6._answer(results))
    results["pageable-flag/0"] = {**run, "pageouts": 3}
    first, second = e6._answer(results)
    assert not first.holds and second.holds and "Not borne out" in str(first)


def test_images_where_nothing_can_be_mounted(tmp_path: Path) -> None:
    gone = {"skipped": "/dev/fuse is missing"}
    made = {"seconds": 1.0, "bytes": 10}
    results = {"ways": {"files": 10, "made": {"tar": made, "image": made, "hot": gone, "squashfs": gone},
                        "ways": dict.fromkeys(e11.WAYS, gone), "together": gone, "empty": gone}, "snapshot": gone}
    body, claims = e11.render(results, tmp_path)
    assert "\n".join(body).count("/dev/fuse is missing") == len(e11.WAYS) + 1
    assert "Nothing could be mounted" in str(claims[0]) and not list(tmp_path.iterdir())
    way = {"first": 0.5, "job": 0.1, "find": 1.0, "memory": 1 << 20, "disk": 1 << 20}
    results["ways"].update(ways={**dict.fromkeys(e11.WAYS, way), e11.TAR: {**way, "first": 60.0, "find": 0.8}},
                           empty={"first": 0.4})
    body, claims = e11.render(results, tmp_path)
    text = "\n".join(body)
    assert "resident mount: 0.80, goal at least 0.7: met" in text and "tmpfsd: 120.00, goal at least 100: met" in text
    assert not claims[0].holds and (tmp_path / "e11.png").exists()


@pytest.mark.parametrize("name", trees.TREES)
def test_trees_are_trees(name: str) -> None:
    entries = list(trees.TREES[name](300))
    paths = [entry.path for entry in entries]
    assert len(paths) == len(set(paths))
    seen = {""}
    for entry in entries:
        assert trees.parent(entry.path) in seen, "a parent comes first"
        assert entry.kind != trees.HARD or entry.target in seen
        seen.add(entry.path)
    assert entries == list(trees.TREES[name](300)), "the same for all who ask"
    shape = trees.shape_of(iter(entries))
    shape.check()
    e4.means(shape).check()


def test_largest() -> None:
    files = e1.largest(1000)
    for n, fits in ((files, True), (files + 1, False)):
        dirs = -(-n // e1.PER_DIR)
        assert (estimate(e1.uniform(n, 13, dirs=dirs)).npages <= 1000) == fits


def test_no_cgroup(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    table.write_text("1 2 3:4 / /proc rw - proc proc rw\n")
    monkeypatch.setattr(cgroup, "MOUNTINFO", str(table))
    with pytest.raises(cgroup.Unavailable, match="no memory cgroup"):
        cgroup.find()
    table.write_text("1 2 3:4 / /cg/memory rw - cgroup cgroup rw,memory\n")
    assert cgroup.find() == (1, Path("/cg/memory"))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(cgroup.Unavailable, match="only root"):
        cgroup.Group(1 << 20)


def test_what_was_skipped_is_told(tmp_path: Path) -> None:
    run = {"n": 100, "ended": "ENOSPC: x", "resident": 1, "swapped": 0, "rss": 1, "used": 1, "ram": 1 << 20}
    results: dict[str, Any] = {name: dict(run) for name in e1.BACKENDS}
    results["kernel"] = results["tmpfsd-cgroup"] = {"skipped": "no memory cgroup is mounted"}
    body, _answer = e1.render(results, tmp_path)
    assert sum("skipped: no memory cgroup is mounted" in line for line in body) == 2
    assert any("skipped: not asked for" in line for line in body)
