"""experiments/__main__.py: the command: run what is asked for, keep the results, write the report."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tmpfsd.swapplaces import default_swap
from tools.experiments import e1, e2, e3, e4, e5, e6, e7, e8, e9, e10, e11, machine
from tools.experiments.child import Job, JobError, run
from tools.experiments.report import section
from tools.experiments.scale import FILES_CGROUP, FILES_IMAGE, QUICK_FILES_CGROUP, Scale
from tools.results import keep, load

EXPERIMENTS: dict[str, Any] = {"E1": e1, "E2": e2, "E3": e3, "E4": e4, "E5": e5, "E6": e6, "E7": e7,
                               "E8": e8, "E9": e9, "E10": e10, "E11": e11}
RESULTS, REPORT = "results.json", "README.md"
QUICK_OUT = Path("build/experiments")           # never over the figures of a full run
HEAD = """# Experiments

In 2006 three ways to make the metadata of tmpfs pageable were tried in NetBSD: an anonymous object seen through a
window, the PAGEABLE flag in the main kernel map, and a pageable submap of it. One worked, and three questions were
asked: what size must a submap have (E4), should each pool have its own (E5), and does the flag do anything in the main
map (E6). `make experiments` measures them again on every backend and writes this report: each figure below was measured
in the run that is named with it, and each sentence about a result was checked against the result by the program that
wrote it.

    make experiments                                          # everything, half an hour and more
    python -m tools.experiments --only E3,E7                  # parts; the others keep their last results
    python -m tools.experiments --quick --out DIR             # small sizes: shows that it works, not how well
    python -m tools.experiments --render                      # the report again from results.json
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    it = argparse.ArgumentParser(prog="python -m tools.experiments", description="Measure the questions of 2006.")
    it.add_argument("--quick", action="store_true", help="small sizes, in about half a minute")
    it.add_argument("--only", default=",".join(EXPERIMENTS), help="some of them, as E1,E3")
    it.add_argument("--out", type=Path, help=f"where report and results go (beside the program; quick: {QUICK_OUT})")
    it.add_argument("--render", action="store_true", help="measure nothing, write the report from the results")
    it.add_argument("--files-cgroup", type=int, metavar="N",
                    help=f"files on the mount in a cgroup of 128 MiB ({FILES_CGROUP:,}; 0: leave it out)")
    it.add_argument("--files-image", type=int, metavar="N", default=FILES_IMAGE,
                    help=f"files of the tree of E11 ({FILES_IMAGE:,})")
    return it


def chosen(text: str) -> list[str]:
    """The experiments asked for, in order.  => SystemExit."""
    names = {name.strip().upper() for name in text.split(",")}
    if names - set(EXPERIMENTS):
        raise SystemExit(f"no such experiment: {', '.join(sorted(names - set(EXPERIMENTS)))}")
    return [name for name in EXPERIMENTS if name in names]


def advance(progress: Any, bar: Any, done: float, weight: float, part: float) -> None:
    """Move the bar within a job."""
    progress.update(bar, completed=done + part * weight)


def measure(name: str, scale: Scale, progress: Any) -> dict[str, Any]:
    """Run an experiment's jobs one after the other."""
    jobs: list[Job] = EXPERIMENTS[name].jobs(scale)
    bar = progress.add_task(f"{name} {EXPERIMENTS[name].TITLE}", total=sum(job.weight for job in jobs), job="")
    found: dict[str, Any] = {}
    failed: dict[str, str] = {}
    done = 0.0
    for job in jobs:
        progress.update(bar, job=job.key)
        try:
            found[job.key] = run(job, partial(advance, progress, bar, done, job.weight))
        except JobError as error:
            failed[job.key] = str(error).strip().splitlines()[-1]
            progress.console.print(str(error), style="red", markup=False)
        done += job.weight
        progress.update(bar, completed=done)
    return {"machine": machine.describe(), "quick": scale.quick, "jobs": found, "failed": failed}


def write_report(results: dict[str, Any], out: Path) -> None:
    """README.md and its figures."""
    lines = [HEAD]
    for name, module in EXPERIMENTS.items():
        if name not in results:
            lines += [f"## {name}: {module.TITLE}", "", "Not run yet.", ""]
            continue
        part = results[name]
        try:
            body, answer = module.render(part["jobs"], out)
        except (KeyError, StopIteration, TypeError, ValueError, ZeroDivisionError) as error:
            if not part["failed"]:
                raise
            body, answer = [f"Not enough of it was measured ({type(error).__name__}).", ""], []
        quick = " **A quick run: sizes are too small to mean much.**" if part["quick"] else ""
        body = [*body, *(f"- **{key} failed**, and is left out." for key in part["failed"]), ""]
        lines += section(name, module.TITLE, module.QUESTION, machine.sentence(part["machine"]),
                         module.LIMITS + quick, body, answer)
    text = "\n".join(lines)
    while "\n\n\n" in text:
        text = text.replace("\n\n\n", "\n\n")
    (out / REPORT).write_text(text.rstrip() + "\n", encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; 1 if a job failed."""
    args = parser().parse_args(argv)
    names = chosen(args.only)
    args.out = args.out or (QUICK_OUT if args.quick else Path(__file__).parent)
    args.out.mkdir(parents=True, exist_ok=True)
    results = load(args.out / RESULTS)
    failed = False
    if not args.render:
        if default_swap() is None:
            raise SystemExit("nothing can be paged out: no directory for swap that is not in memory")
        most = args.files_cgroup
        if most is None:
            most = QUICK_FILES_CGROUP if args.quick else FILES_CGROUP
        failed = run_all(names, Scale(args.quick, most, args.files_image), results, args.out)
    write_report(results, args.out)
    return int(failed)


def run_all(names: list[str], scale: Scale, results: dict[str, Any], out: Path) -> bool:
    """Measure and keep, one experiment after the other; return whether a job failed."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
    columns = (TextColumn("{task.description:<45}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"),
               TimeElapsedColumn(), TextColumn("{task.fields[job]}"))
    with Progress(*columns) as progress:
        for name in names:
            results[name] = measure(name, scale, progress)
            keep(out / RESULTS, results)
    return any(results[name]["failed"] for name in names)


if __name__ == "__main__":
    sys.exit(main())
