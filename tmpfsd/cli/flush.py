"""flush.py: tmpfsctl flush: page out everything that may leave memory."""

from __future__ import annotations

import argparse
import json

from tmpfsd.cli.bar import ask_with_bar
from tmpfsd.cli.units import human
from tmpfsd.mounts.printable import printable

EPILOG = """\
example:
  tmpfsctl flush /mnt/x

What is paged out comes back when it is used.  To give memory back to the system for good, use tmpfsctl set ram=.

exit status:
  0  everything that may leave is out      1  error
  2  some pages stay: swap is full or fails"""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Describe the command line of flush."""
    command.add_argument("mountpoint", metavar="MOUNTPOINT")
    command.add_argument("--json", action="store_true", help="print JSON, for scripts")


def run(args: argparse.Namespace) -> int:
    """Say what went and what stayed."""
    answer = ask_with_bar(args.mountpoint, "flush", "paging out")
    if args.json:
        print(json.dumps(answer, indent=2))
    else:
        stayed = f", {human(answer['stayed_bytes'])} for which swap has no room" if answer["stayed_bytes"] else ""
        print(printable(f"{args.mountpoint}: {human(answer['evicted_bytes'])} paged out; "
                        f"{human(answer['resident_bytes'])} resident: {human(answer['wired_bytes'])} that never "
                        f"leaves{stayed}"))
    return 2 if answer["stayed_bytes"] else 0
