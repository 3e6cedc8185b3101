"""prefetch.py: tmpfsctl prefetch: page a tree in before it is needed."""

from __future__ import annotations

import argparse
import json
from typing import Any

from tmpfsd.cli.client import follow, place_of
from tmpfsd.cli.progress import watch
from tmpfsd.cli.several import each
from tmpfsd.cli.units import human
from tmpfsd.mounts.printable import printable

EPILOG = """\
example:
  tmpfsctl prefetch /scratch/src

exit status:
  0  done             1  refused or failed: one line on stderr says why"""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Describe the command line of prefetch."""
    command.add_argument("path", metavar="PATH", nargs="+", help="a directory or file on a tmpfsd mount")
    command.add_argument("--metadata", action="store_true", help="only metadata: what find(1) needs")
    command.add_argument("--json", action="store_true", help="print JSON, for scripts")


def line(total: dict[str, Any]) -> str:
    """Say how far it got."""
    text = f"{total['names']:,} names, {human(total['bytes'])} paged in"
    if total["unreadable"]:
        text += f", {total['unreadable']:,} could not be read"
    return text + ("; stopped there: ram is full" if total["full"] else "")


def run(args: argparse.Namespace) -> None:
    """tmpfsctl prefetch."""
    found: list[dict[str, Any]] = []

    def work(path: str) -> None:
        mount, inside = place_of(path)
        total = watch(follow(mount, "prefetch", path=inside, metadata=args.metadata),
                      lambda progress: f"{path}: {line(progress)}")
        found.append({"path": path, **total} if len(args.path) > 1 else total)
        if not args.json:
            print(printable(f"{path}: {line(total)}"))

    try:
        each(args.path, work)
    finally:
        if args.json and found:
            print(json.dumps(found if len(args.path) > 1 else found[0], indent=2))
