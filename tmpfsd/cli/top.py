"""top.py: tmpfsctl top: watch a live mount.

The mount is asked, never touched; asking costs it some 0.2 ms a look.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import sys
import termios
import time
import tty
from collections.abc import Iterator

from rich.console import Console
from rich.live import Live

from tmpfsd.cli import client
from tmpfsd.cli.client import ClientError
from tmpfsd.cli.topview import SORTS, Interval, Look, Settings, screen
from tmpfsd.cli.wait import seconds

EPILOG = """\
example:
  tmpfsctl top /mnt/x
  tmpfsctl top /mnt/x --once --delay 10 > report

Rates are those of the last delay.  Keys: q quits, space pauses, s or d changes the delay, r, t, l and n sort
requests by rate, total, latency or name, h shows help.

exit status:
  0  it was ended by q, or --once      1  error: no such mount, it was unmounted, no terminal"""
LEAST, MOST = 0.1, 3600.0       # seconds of delay
ESCAPE, BACKSPACE = "\x1b", "\x7f"


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Describe the command line of top."""
    command.add_argument("mountpoint", metavar="MOUNTPOINT")
    command.add_argument("--delay", type=seconds, default=2.0, metavar="SECONDS",
                         help="between two looks (default: 2)")
    command.add_argument("--once", action="store_true", help="show one interval and end, for scripts")
    command.add_argument("--json", action="store_true", help="as JSON; with --once")


def console() -> Console:
    """A terminal that takes what a server says as it is: no [markup] and no :emoji: in it."""
    return Console(markup=False, emoji=False, highlight=False)


def look(path: str) -> Look:
    """Ask the mount."""
    latency, advice = client.ask(path, "latency"), {}
    with contextlib.suppress(client.ClientError):       # of a mount that cannot tell, or of an older daemon
        advice = client.ask(path, "advise")
    return Look(time.monotonic(), client.status(path), latency, advice)


def press(settings: Settings, key: str) -> bool:
    """Do what a key says; whether it ends top."""
    if settings.typed is not None:
        type_delay(settings, key)
    elif settings.help:
        settings.help = False
        return key == "q"
    elif key in SORTS:
        settings.sort = key
    elif key == " ":
        settings.paused = not settings.paused
    elif key in ("s", "d"):
        settings.typed = ""
    elif key in ("h", "?"):
        settings.help = True
    return key == "q" and settings.typed is None


def type_delay(settings: Settings, key: str) -> None:
    """Take a key of a new delay."""
    typed = settings.typed or ""
    if key in ("\r", "\n"):
        with contextlib.suppress(ValueError):
            settings.delay = min(max(float(typed), LEAST), MOST)
        settings.typed = None
    elif key == ESCAPE:
        settings.typed = None
    elif key in (BACKSPACE, "\b"):
        settings.typed = typed[:-1]
    elif key in "0123456789." and len(typed) < 8:
        settings.typed = typed + key


@contextlib.contextmanager
def keys() -> Iterator[int]:
    """Have single keys come on stdin; its descriptor."""
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        yield descriptor
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def watch(path: str, settings: Settings, console: Console) -> None:
    """Show the mount until q."""
    interval, asked = Interval(look(path), look(path)), time.monotonic()
    with keys() as descriptor, Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            live.update(screen(interval, settings, console.height), refresh=True)
            due = asked + settings.delay
            left = None if settings.paused else max(due - time.monotonic(), 0)
            if select.select([descriptor], [], [], left)[0]:
                text = os.read(descriptor, 64).decode(errors="replace")
                if not text or any([press(settings, key) for key in text]):
                    return
            elif not settings.paused:
                interval, asked = look_again(path, interval, settings), time.monotonic()


def look_again(path: str, interval: Interval, settings: Settings) -> Interval:
    """Return the next interval; the old one, and why, where the server says nothing now."""
    try:
        now = look(path)
    except client.Hung as error:
        settings.stale = str(error)
        return interval
    settings.stale = ""
    return Interval(interval.after, now)


def once(path: str, settings: Settings, as_json: bool) -> None:
    """Show one interval."""
    before = look(path)
    time.sleep(settings.delay)
    interval = Interval(before, look(path))
    if as_json:
        print(json.dumps(interval.as_json(), indent=2))
    else:
        console().print(screen(interval, settings))


def run(args: argparse.Namespace) -> None:
    """tmpfsctl top."""
    settings = Settings(delay=min(max(args.delay, LEAST), MOST))
    if args.json and not args.once:
        raise ClientError("--json: give --once too")
    if args.once:
        once(args.mountpoint, settings, args.json)
    elif sys.stdin.isatty() and sys.stdout.isatty():
        watch(args.mountpoint, settings, console())
    else:
        raise ClientError("top needs a terminal; give --once for one look")
