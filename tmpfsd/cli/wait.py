"""wait.py: tmpfsctl wait: wait until a mount is as full as that, for scripts."""

from __future__ import annotations

import argparse
import json
import re
import time

from tmpfsd.cli.client import SILENCE, ClientError, status
from tmpfsd.mounts.printable import printable
from tmpfsd.server.pressure import shares

EPILOG = """\
example:
  tmpfsctl wait /mnt/x --used 90% --timeout 3600 && echo nearly full

Waits until one of the limits that are given is as full as that, or more.

exit status:
  0  it is                 1  error: no such mount, it was unmounted, no such limit
  2  it was not within --timeout"""
LEAST = 1.0             # seconds that a mount has to answer, however little of --timeout is left
LIMITS = {"used": "of size", "ram": "of ram that is resident", "swap": "of swap", "inodes": "of nr_inodes"}


def percent(text: str) -> float:
    """Read "90%"."""
    if not re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,3})?%", text, re.ASCII) or float(text[:-1]) > 100:
        raise argparse.ArgumentTypeError(f"{text}: must be a percentage from 0% to 100%")
    return float(text[:-1])


def seconds(text: str) -> float:
    """Read a number of seconds."""
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,6})?", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text}: must be a number of seconds")
    return float(text)


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Describe the command line of wait."""
    command.add_argument("mountpoint", metavar="MOUNTPOINT")
    for name, text in LIMITS.items():
        command.add_argument(f"--{name}", type=percent, metavar="N%", help=f"percent {text}")
    command.add_argument("--timeout", type=seconds, metavar="SECONDS", help="give up after that (default: never)")
    command.add_argument("--interval", type=seconds, default=0.5, metavar="SECONDS",
                         help="between two looks (default: 0.5)")
    command.add_argument("--json", action="store_true", help="print what was found as JSON")


def run(args: argparse.Namespace) -> int:
    """Look until it is so."""
    wanted = {name: getattr(args, name) for name in LIMITS if getattr(args, name) is not None}
    if not wanted:
        raise ClientError("wait for what? give one or more of " + ", ".join(f"--{name}" for name in LIMITS))
    deadline = None if args.timeout is None else time.monotonic() + args.timeout
    while True:
        patience = SILENCE if deadline is None else min(SILENCE, max(deadline - time.monotonic(), LEAST))
        found = dict(shares(status(args.mountpoint, patience)))
        for name in wanted:
            if name not in found:
                raise ClientError(f"{args.mountpoint}: --{name}: it has no limit {LIMITS[name]}")
        reached = [name for name in wanted if found[name].percent >= wanted[name]]
        left = args.interval if deadline is None else deadline - time.monotonic()
        if reached or left <= 0:
            break
        time.sleep(min(args.interval, left))
    if args.json:
        print(json.dumps({name: found[name].percent for name in wanted}, indent=2))
    else:
        for name in reached or wanted:
            print(f"{printable(args.mountpoint)}: {name} {found[name].percent:.0f}%: {found[name]}")
    return 0 if reached else 2
