"""trace.py: tmpfsctl trace: page-ins and page-outs as they happen, for learning.

in: a page was read from swap.  out: it was written there, and stays in memory.  drop: it left memory.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from typing import Any

from tmpfsd.cli.client import SILENCE, ClientError, ask_mount, follow, place_of
from tmpfsd.mounts.printable import printable

EPILOG = """\
example:
  tmpfsctl trace --count 100 /scratch
  tmpfsctl trace --record /scratch      # then run the job, and: tmpfsctl snapshot --hot /scratch FILE

in: a page was read from swap.  out: a page was written to swap, and stays in memory.  drop: a page left memory.

exit status:
  0  done             1  refused or failed: one line on stderr says why"""


def count(text: str) -> int:
    """Read a number above zero."""
    if not (text.isascii() and text.isdigit()) or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above zero")
    return int(text)


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Describe the command line of trace."""
    command.add_argument("mountpoint", metavar="MOUNTPOINT")
    command.add_argument("--count", type=count, metavar="N", help="end after N events")
    command.add_argument("--record", action="store_true",
                         help="record from now on which pages are used, for snapshot --hot; print no events")
    command.add_argument("--json", action="store_true", help="print one JSON object a line, for scripts")


def events(answers: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Return the events one by one; {"lost": n} if n were too many to be sent."""
    for answer in answers:
        if answer["progress"]["lost"]:
            yield {"lost": answer["progress"]["lost"]}
        for seconds, what, page, owner in answer["progress"]["events"]:
            yield {"time": seconds, "event": what, "page": page, "owner": owner}


def text_of(event: dict[str, Any]) -> str:
    """Write an event for people."""
    if "lost" in event:
        return f"({event['lost']:,} events are missing: they came too fast)"
    moment = time.strftime("%H:%M:%S", time.localtime(event["time"])) + f"{event['time'] % 1:.6f}"[1:]
    return f"{moment}  {event['event']:<5}{event['owner']:<14}page {event['page']}"


def run(args: argparse.Namespace) -> None:
    """tmpfsctl trace."""
    mount, inside = place_of(args.mountpoint)
    if inside:
        raise ClientError(f"{args.mountpoint}: not a mount point")
    if args.record:
        if args.count is not None:
            raise ClientError("--count and --record: give one of them")
        pages = ask_mount(mount, args.mountpoint, SILENCE, "record")["pages"]
        print(printable(f"{args.mountpoint}: recording from now on which of {pages:,} pages are used") if not args.json
              else json.dumps({"pages": pages}))
        return
    told = 0
    for event in events(follow(mount, "trace")):
        print(json.dumps(event) if args.json else printable(text_of(event)))
        sys.stdout.flush()
        told += "event" in event
        if told == args.count:
            break
