"""du.py: tmpfsctl du: what a tree takes, counted inside the daemon."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import Any

from tmpfsd.cli.client import follow, place_of
from tmpfsd.cli.progress import watch
from tmpfsd.cli.several import each
from tmpfsd.cli.units import human
from tmpfsd.mounts.printable import printable

EPILOG = """\
example:
  tmpfsctl du /scratch/src /scratch/build

exit status:
  0  done             1  refused or failed: one line on stderr says why"""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Describe the command line of du."""
    command.add_argument("path", metavar="PATH", nargs="+", help="a directory or file on a tmpfsd mount")
    command.add_argument("--json", action="store_true", help="print JSON, for scripts")


def lines(total: dict[str, Any]) -> Iterator[str]:
    """Return the lines of the answer."""
    yield f"{'':<13}{'bytes':>9}{'resident':>12}{'swapped':>12}"
    both = [total["metadata"], total["data"]]
    for name, part in (("metadata", both[:1]), ("data", both[1:]), ("together", both)):
        cells = [human(sum(each[key] for each in part)) for key in ("bytes", "resident_bytes", "swapped_bytes")]
        yield f"{name:<13}{cells[0]:>9}{cells[1]:>12}{cells[2]:>12}"
    yield ""
    yield f"{'names':<13}{total['names']:>9,}"
    for key in ("directories", "files", "others"):
        yield f"{key:<13}{total[key]:>9,}"
    for key, text in (("skipped", "directories are too deep and were not counted"),
                      ("unreadable", "could not be read")):
        if total[key]:
            yield f"warning: {total[key]:,} {text}"


def run(args: argparse.Namespace) -> None:
    """tmpfsctl du."""
    found: list[dict[str, Any]] = []

    def work(path: str) -> None:
        mount, inside = place_of(path)
        total = watch(follow(mount, "du", path=inside), lambda progress: f"{path}: {progress['names']:,} names")
        found.append({"path": path, **total} if len(args.path) > 1 else total)
        if not args.json:
            head = [f"{printable(path)}:"] if len(args.path) > 1 else []
            print("\n".join([""] * (len(found) > 1) + head + list(lines(total))))

    try:
        each(args.path, work)
    finally:
        if args.json and found:
            print(json.dumps(found if len(args.path) > 1 else found[0], indent=2))
