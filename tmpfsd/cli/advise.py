"""advise.py: tmpfsctl advise: how many page-ins there would be with more or less ram, and how much would be enough."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from typing import Any

from tmpfsd.cli.client import ask
from tmpfsd.cli.units import human
from tmpfsd.mounts.printable import printable

AT_ONCE = 5.0               # between two questions: the daemon goes on sampling for 15 after one
FEW = 200                   # a sample with fewer accesses says little
EPILOG = """\
example:
  tmpfsctl advise /mnt/x --seconds 60

The daemon watches a sample of the accesses meanwhile, to at most 4096 pages.  The longer it watches, the better it can
judge more ram than there is.
WAITING is the share of the time that one user of the mount would spend waiting for page-ins.

exit status:
  0  done      1  error: no such mount, backend=aobj"""


def seconds(text: str) -> float:
    """Read a time."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 86400:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number of seconds above 0, at most 86400")
    return value


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Describe the command line of advise."""
    command.add_argument("mountpoint", metavar="MOUNTPOINT")
    command.add_argument("--seconds", type=seconds, default=10.0, metavar="N", help="how long to watch (default: 10)")
    command.add_argument("--json", action="store_true", help="print JSON, for scripts")


def run(args: argparse.Namespace) -> None:
    """Sample for a while, then print the result; at ^C print what there is."""
    until = time.monotonic() + args.seconds
    ask(args.mountpoint, "advise")
    try:
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(left, AT_ONCE))
            ask(args.mountpoint, "advise")
    except KeyboardInterrupt:
        pass
    found = ask(args.mountpoint, "advise")
    if args.json:
        print(json.dumps(found, indent=2))
    else:
        print(printable(f"{args.mountpoint}: ") + "\n".join(lines(found)))


def lines(found: dict[str, Any]) -> Iterator[str]:
    """Write it for people."""
    yield (f"in {found['seconds']:.0f} s {found['pageins']:,} page-ins, {found['pagein_us']:.0f} us each from swap; a "
           f"sample of {found['sampled_pages']:,} pages and {found['sampled_accesses']:,} accesses")
    if found["sampled_accesses"] < FEW:
        yield "that is too little: use the mount meanwhile, and watch longer (--seconds)"
    yield f"{'RAM':>10} {'PAGE-INS/s':>12} {'WAITING':>10}"
    for each in found["curve"]:
        mark = "  now" if each["ram_bytes"] == found["ram_bytes"] else ""
        yield (f"{human(each['ram_bytes']):>10} {each['pageins_per_second']:>12,.0f} "
               f"{100 * each['waiting']:>8.1f} %{mark}")
    yield advice(found)
    for each in found["zram"]:
        if each["zram_bytes"]:
            yield (f"zram={human(each['zram_bytes'])} as a part of the same ram ({each['ratio']:g} to 1): "
                   f"{each['from_swap_per_second']:,.0f} page-ins/s from swap, {100 * each['waiting']:.1f} % waiting")


def advice(found: dict[str, Any]) -> str:
    """Say in one line how much is enough."""
    if found["enough_bytes"] is None:
        return f"more than {human(found['curve'][-1]['ram_bytes'])} is needed to wait less than 1 % of the time"
    return f"{human(found['enough_bytes'])} is enough to wait less than 1 % of the time"
