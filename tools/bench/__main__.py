"""bench/__main__.py: the command: run what is asked for, keep the results, write the report."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tools.bench import render, servers
from tools.bench.others import Others
from tools.bench.render import PARTS
from tools.bench.scale import QUICK, Scale
from tools.bench.servers import Spec
from tools.bench.sheet import Run
from tools.experiments import machine
from tools.results import keep, load

RESULTS = "results.json"
QUICK_OUT = Path("build/bench")                 # never over the figures of a full run
ROUNDS, QUICK_ROUNDS = 5, 1


def parser() -> argparse.ArgumentParser:
    """The command line."""
    it = argparse.ArgumentParser(prog="python -m tools.bench", allow_abbrev=False,
                                 description="Measure tmpfsd beside the kernel's tmpfs and other FUSE servers.")
    it.add_argument("--nullfs", metavar="FILE.c", help="source of nullfs, the floor; compiled for the run")
    it.add_argument("--example", metavar="FILE.py", help="pyfuse3's examples/tmpfs.py")
    it.add_argument("--peer", metavar="NAME=COMMAND", action="append", default=[], type=servers.peer,
                    help="a server that stays in the foreground; {mnt} is its mountpoint; may be given again")
    it.add_argument("--only", default=",".join(PARTS), metavar="PARTS", help=f"some of {', '.join(PARTS)}")
    it.add_argument("--rounds", type=int, metavar="N", help=f"rounds that count ({ROUNDS}; quick: {QUICK_ROUNDS})")
    it.add_argument("--quick", action="store_true", help="small sizes, in some seconds")
    it.add_argument("--out", type=Path, help=f"where report and results go (beside the program; quick: {QUICK_OUT})")
    it.add_argument("--render", action="store_true", help="measure nothing, write the report from the results")
    return it


def chosen(text: str) -> list[str]:
    """The parts asked for, in order.  => SystemExit."""
    names = {name.strip().lower() for name in text.split(",")}
    if names - set(PARTS):
        raise SystemExit(f"no such part: {', '.join(sorted(names - set(PARTS)))}")
    return [name for name in PARTS if name in names]


def specs(args: argparse.Namespace, place: Path) -> list[Spec]:
    """The servers, tmpfsd first, its other backends last."""
    found = [servers.tmpfsd(servers.TMPFSD, servers.RESIDENT), servers.kernel(), servers.noperm()]
    if args.nullfs:
        found.append(servers.nullfs(args.nullfs, place))
    if args.example:
        found.append(Spec(servers.EXAMPLE, (sys.executable, str(Path(args.example).resolve()), "{mnt}")))
    found += [*args.peer, *servers.backends(args.quick)]
    names = [spec.name for spec in found]
    if len(set(names)) < len(names):
        raise SystemExit(f"two servers of one name: {', '.join(names)}")
    return found


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end the run as Ctrl-C does: everything is unmounted."""
    def stop(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_part(name: str, run: Run) -> dict[str, Any]:
    """Measure a part; return its results."""
    others = Others()
    PARTS[name].measure(run)
    percent = others.percent()
    for what in PARTS[name].measures(run.scale):
        for server, why in run.failed.items():
            run.sheet.refuse(what, server, why)
    return {"machine": machine.describe(), "quick": run.scale.quick, "rounds": run.rounds, "others": percent,
            "servers": [[spec.name, spec.shown] for spec in run.specs], "failed": run.failed, "cells": run.sheet.cells}


def run_all(names: list[str], args: argparse.Namespace, results: dict[str, Any]) -> None:
    """Measure and keep, one part after the other."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
    scale = QUICK if args.quick else Scale()
    rounds = args.rounds or (QUICK_ROUNDS if args.quick else ROUNDS)
    columns = (TextColumn("{task.description:<34}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"),
               TimeElapsedColumn(), TextColumn("{task.fields[now]}"))
    # The bar is drawn between two measurements and never by its own thread: that would be measured too.
    with tempfile.TemporaryDirectory(prefix="tmpfsd-bench-") as directory, \
            Progress(*columns, auto_refresh=False) as progress:
        known = specs(args, Path(directory))
        for name in names:
            bar = progress.add_task(PARTS[name].TITLE, total=1.0, now="")

            def tick(part: float, now: str) -> None:
                progress.update(bar, completed=part, now=now, refresh=True)

            place = Path(directory, name)
            place.mkdir()
            results[name] = run_part(name, Run(scale, rounds, known, place, tick))
            tick(1.0, "")
            keep(args.out / RESULTS, results)
            for server, why in results[name]["failed"].items():
                progress.console.print(f"{name}: {server}: {why}", style="red", markup=False)


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; a server that cannot be measured is reported, but is no failure."""
    args = parser().parse_args(argv)
    names = chosen(args.only)
    args.out = args.out or (QUICK_OUT if args.quick else Path(__file__).parent)
    args.out.mkdir(parents=True, exist_ok=True)
    results = load(args.out / RESULTS)
    if not args.render:
        with ended_by_signals():
            run_all(names, args, results)
    render.write(results, args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
