"""set.py: tmpfsctl set: change limits of a live mount."""

from __future__ import annotations

import argparse
import json

from tmpfsd.cli.bar import ask_with_bar
from tmpfsd.cli.units import human
from tmpfsd.mounts.printable import printable

EPILOG = """\
example:
  tmpfsctl set /mnt/x ram=16m size=4g

  size=SIZE       limit of data and metadata together
  nr_inodes=N     limit of inodes; 0 for no limit of its own
  ram=SIZE        resident budget; a smaller one gives memory back to the system at once
  spin=auto|US    how long to poll for the next request
  zram=SIZE       memory for compressed pages, a part of ram; also N% of ram, or 0 for none
  swap_size=SIZE  limit of the swap file that was given at the mount

Values are written as in mount options.  A limit may be below what is used: then the mount is full, nothing is lost,
and what is new gets ENOSPC.  ram cannot be below what cannot be paged out: wired metadata, or all if swap is full.
A larger size takes swap_size along, unless that was given.
All values are applied, or none, even if the command is interrupted.

exit status:
  0  changed          1  refused, and nothing was changed"""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Describe the command line of set."""
    command.add_argument("mountpoint", metavar="MOUNTPOINT")
    command.add_argument("values", nargs="+", metavar="KEY=VALUE", help="size, nr_inodes, ram, zram, spin, swap_size")
    command.add_argument("--json", action="store_true", help="print the old and new values as JSON, for scripts")


def text(name: str, value: int | str) -> str:
    """Write a value as a user would."""
    return human(value) if isinstance(value, int) and name in ("size", "ram", "zram", "swap_size") else str(value)


def run(args: argparse.Namespace) -> None:
    """Print what was changed."""
    answer = ask_with_bar(args.mountpoint, "set", "ram", values=args.values)
    if args.json:
        print(json.dumps(answer, indent=2))
        return
    for name, each in answer.items():
        print(printable(f"{args.mountpoint}: {name}={text(name, each['is'])} (was {text(name, each['was'])})"))
