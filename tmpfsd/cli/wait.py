"""wait.py: tmpfsctl wait: wait until a mount is as full as asked for; for scripts."""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from typing import NamedTuple

from tmpfsd.cli.client import SILENCE, ClientError, status
from tmpfsd.mounts.printable import printable
from tmpfsd.server.pressure import DISK_FULL, shares

EPILOG = """\
example:
  tmpfsctl wait /mnt/x --used 90% --timeout 3600 && echo nearly full

Waits until one of the limits that you name is as full as you say, or fuller.  With < before the number ("<50%") it
waits until it is less full.  If the disk under the swap file becomes full meanwhile, a warning on stderr says so.

exit status:
  0  reached               1  error: no such mount, it was unmounted, no such limit
  2  not reached within --timeout"""
LEAST_INTERVAL = 0.05   # seconds between two looks
LEAST = 1.0             # that a mount gets to answer, even if less of --timeout is left
LIMITS = {"used": "size", "ram": "ram", "swap": "swap", "inodes": "nr_inodes"}


class Wanted(NamedTuple):
    """What to wait for: at least this share of a limit, or less than it."""

    percent: float
    below: bool = False

    def reached(self, found: float) -> bool:
        """Tell whether it is reached."""
        return found < self.percent if self.below else found >= self.percent


def percent(text: str) -> Wanted:
    """Read "90%" or "<90%"."""
    match = re.fullmatch(r"(<?)([0-9]{1,3}(?:\.[0-9]{1,3})?)%", text, re.ASCII)
    if not match or float(match[2]) > 100:
        raise argparse.ArgumentTypeError(f'{text}: must be a percentage from 0% to 100%, or one with "<" before it')
    if match[1] and not float(match[2]):
        raise argparse.ArgumentTypeError(f"{text}: nothing can be below 0%")
    return Wanted(float(match[2]), bool(match[1]))


def seconds(text: str) -> float:
    """Read a number of seconds."""
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,6})?", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text}: must be a number of seconds")
    return float(text)


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Describe the command line of wait."""
    command.add_argument("mountpoint", metavar="MOUNTPOINT")
    for name, text in LIMITS.items():
        command.add_argument(f"--{name}", type=percent, metavar="[<]N%",
                             help=f"how much of {text} is used")
    command.add_argument("--timeout", type=seconds, metavar="SECONDS", help="give up after SECONDS (default: never)")
    command.add_argument("--interval", type=seconds, default=0.5, metavar="SECONDS",
                         help="time between two looks (default: 0.5)")
    command.add_argument("--json", action="store_true", help="print JSON, for scripts")


def run(args: argparse.Namespace) -> int:
    """Look until it is reached."""
    wanted: dict[str, Wanted] = {name: getattr(args, name) for name in LIMITS if getattr(args, name) is not None}
    if not wanted:
        raise ClientError("wait for what? give one or more of " + ", ".join(f"--{name}" for name in LIMITS))
    deadline = None if args.timeout is None else time.monotonic() + args.timeout
    interval, told = max(args.interval, LEAST_INTERVAL), False
    while True:
        patience = SILENCE if deadline is None else min(SILENCE, max(deadline - time.monotonic(), LEAST))
        state = status(args.mountpoint, patience)
        found = dict(shares(state))
        for name in wanted:
            if name not in found:
                raise ClientError(f"{args.mountpoint}: --{name}: the mount has no limit of {LIMITS[name]}")
        reached = [name for name in wanted if wanted[name].reached(found[name].percent)]
        left = interval if deadline is None else deadline - time.monotonic()
        if reached or left <= 0:
            break
        if state["swap"].get("disk_full") and not told:
            print(printable(f"tmpfsctl: warning: {args.mountpoint}: {DISK_FULL}"), file=sys.stderr, flush=True)
            told = True
        time.sleep(min(interval, left))
    if args.json:
        print(json.dumps({name: found[name].percent for name in wanted}, indent=2))
    else:
        for name in reached or wanted:
            print(f"{printable(args.mountpoint)}: {name} {found[name].percent:.0f}%: {found[name]}")
    return 0 if reached else 2
