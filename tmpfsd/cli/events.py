"""events.py: tmpfsctl events: what happens to a mount, as it happens: changes of its health, and lines of its log."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from typing import Any

from tmpfsd.cli.client import ClientError, follow, place_of
from tmpfsd.cli.trace import count
from tmpfsd.mounts.printable import printable

EPILOG = """\
example:
  tmpfsctl events /scratch
  tmpfsctl events --past --json /scratch | jq -r 'select(.event == "health") | .state'

The first event says how the mount is now.  With --past it is the oldest of the 256 that are kept.

exit status:
  0  printed --count events   1  refused, or the mount is gone: one line on stderr says why"""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Describe the command line of events."""
    command.add_argument("mountpoint", metavar="MOUNTPOINT")
    command.add_argument("--past", action="store_true", help="begin with the earlier events that are kept")
    command.add_argument("--count", type=count, metavar="N", help="end after N events")
    command.add_argument("--json", action="store_true", help="print one JSON object a line, for scripts")


def events(answers: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Return the events one by one; {"lost": n} if n were too many to be sent."""
    for answer in answers:
        if answer["progress"]["lost"]:
            yield {"lost": answer["progress"]["lost"]}
        yield from answer["progress"]["events"]


def text_of(event: dict[str, Any]) -> str:
    """Write an event for people."""
    if "lost" in event:
        return f"({event['lost']:,} events are missing: they came too fast)"
    moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event["time"]))
    if event["event"] == "health":
        why = f": {'; '.join(event['reasons'])}" if event["reasons"] else ""
        was = f" (was {event['before']})" if event["before"] else ""
        return f"{moment}  {'health':<9}{event['state']}{was}{why}"
    return f"{moment}  {event['level']:<9}{event['text']}"


def run(args: argparse.Namespace) -> None:
    """tmpfsctl events."""
    mount, inside = place_of(args.mountpoint)
    if inside:
        raise ClientError(f"{args.mountpoint}: not a mount point")
    told = 0
    for event in events(follow(mount, "events", past=args.past)):
        print(json.dumps(event) if args.json else printable(text_of(event)))
        sys.stdout.flush()
        told += "event" in event
        if told == args.count:
            break
