"""top.py: tmpfsctl top: watch a live mount.

The mount itself is never touched; each look costs its daemon some 0.2 ms.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from tmpfsd.cli import client, topall
from tmpfsd.cli.client import ClientError
from tmpfsd.cli.topview import HEADING, SORTS, Interval, Look, Settings, line, screen
from tmpfsd.cli.trace import count
from tmpfsd.cli.wait import seconds
from tmpfsd.uvm.param import PAGE_SIZE

EPILOG = """\
example:
  tmpfsctl top /mnt/x
  tmpfsctl top                        # all mounts, one a line
  tmpfsctl top /mnt/x 2 30            # as iostat does: a line every 2 seconds, 30 lines
  tmpfsctl top 2                      # all mounts, every 2 seconds
  tmpfsctl top /mnt/x --once --delay 10 > report

Rates are those of the last interval.  Keys: q quits, space pauses, s or d changes the delay, r, t, l, p and n sort
requests by rate, total, latency, p99 or name, h shows help.

exit status:
  0  ended by q, --once or COUNT             1  error: no such mount, it was unmounted, no terminal"""
LEAST, MOST = 0.1, 3600.0       # seconds of delay
ESCAPE, BACKSPACE = "\x1b", "\x7f"
LINES = 20                      # between two headings
NUMBER = r"[0-9]+(\.[0-9]+)?"
ALL_HELP = """\
q        quit                    space    pause and go on
s, d     change the delay        h, ?     this help

`tmpfsctl top MOUNTPOINT` shows one of them."""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Describe the command line of top."""
    command.add_argument("mountpoint", metavar="MOUNTPOINT", nargs="?", help="without one: all mounts")
    command.add_argument("seconds", metavar="SECONDS", nargs="?", type=seconds,
                         help="print a line every SECONDS, instead of a screen")
    command.add_argument("count", metavar="COUNT", nargs="?", type=count, help="end after COUNT lines")
    command.add_argument("--delay", type=seconds, default=2.0, metavar="SECONDS",
                         help="time between two updates (default: 2)")
    command.add_argument("--once", action="store_true", help="show one interval and end, for scripts")
    command.add_argument("--json", action="store_true",
                         help="print JSON: one object with --once, one a line with SECONDS")


def console() -> Console:
    """A terminal that shows a server's text as it is: no [markup] and no :emoji: in it."""
    return Console(markup=False, emoji=False, highlight=False)


def look(path: str) -> Look:
    """Ask the mount."""
    latency, advice = client.ask(path, "latency"), {}
    with contextlib.suppress(client.ClientError):       # from a mount that cannot tell, or an older daemon
        advice = client.ask(path, "advise")
    return Look(time.monotonic(), client.status(path), latency, advice)


def press(settings: Settings, key: str) -> bool:
    """Act on a key; return whether it ends top."""
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
    """Take one key of a new delay."""
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
    """Have stdin give single keys; yields its descriptor."""
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        yield descriptor
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def watch(settings: Settings, console: Console, show: Callable[[], RenderableType], again: Callable[[], None]) -> None:
    """Show what show() returns until q; again() looks once more."""
    settings.live, asked = True, time.monotonic()
    with keys() as descriptor, Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            live.update(show(), refresh=True)
            due = asked + settings.delay
            left = None if settings.paused else max(due - time.monotonic(), 0)
            if select.select([descriptor], [], [], left)[0]:
                text = os.read(descriptor, 64).decode(errors="replace")
                if not text or any([press(settings, key) for key in text]):
                    return
            elif not settings.paused:
                again()
                asked = time.monotonic()


def watch_one(path: str, settings: Settings, console: Console) -> None:
    """Show a mount until q."""
    first = look(path)
    intervals = [Interval(first, look(path), first)]

    def again() -> None:
        intervals[0] = look_again(path, intervals[0], settings)

    watch(settings, console, lambda: screen(intervals[0], settings, console.height, console.width), again)


def watch_all(settings: Settings, console: Console) -> None:
    """Show all mounts until q."""
    looks = [topall.look_at_all(), topall.look_at_all()]

    def again() -> None:
        looks[:] = [looks[1], topall.look_at_all()]

    def show() -> RenderableType:
        if settings.help:
            return Group(ALL_HELP)
        return topall.table(looks[0], looks[1], console.width, lambda: note_of(settings, len(looks[1])))

    watch(settings, console, show, again)


def note_of(settings: Settings, mounts: int) -> Text:
    """Write the line above all mounts: what is shown."""
    if settings.typed is not None:
        return Text(f"delay in seconds: {settings.typed}_  (Enter to change, Esc to keep it)")
    return Text(f"{'paused' if settings.paused else f'every {settings.delay:g} s'}  {mounts} mounts  h: keys, q: quit")


def look_again(path: str, interval: Interval, settings: Settings) -> Interval:
    """Return the next interval; or the old one, with the reason, if the server does not answer now."""
    try:
        now = look(path)
    except client.Hung as error:
        settings.stale = str(error)
        return interval
    settings.stale = ""
    following = Interval(interval.after, now, interval.first)
    settings.history.append((following.all_requests(), following.paging()["pageins"] * PAGE_SIZE))
    return following


def once(path: str, settings: Settings, as_json: bool) -> None:
    """Show one interval."""
    before = look(path)
    time.sleep(settings.delay)
    interval = Interval(before, look(path))
    if as_json:
        print(json.dumps(interval.as_json(), indent=2))
    else:
        out = console()
        out.print(screen(interval, settings, width=out.width))


def once_all(settings: Settings, as_json: bool) -> None:
    """Show one interval of all mounts."""
    before = topall.look_at_all()
    time.sleep(settings.delay)
    after = topall.look_at_all()
    if as_json:
        print(json.dumps(topall.as_json(before, after), indent=2))
    else:
        out = console()
        out.print(topall.table(before, after, out.width))


def lines(path: str, delay: float, most: int | None, as_json: bool) -> None:
    """Print a line at each interval, as iostat(1) does."""
    first = before = look(path)
    told = 0
    while most is None or told < most:
        if not told % LINES and not as_json:
            print(HEADING)
        sys.stdout.flush()
        time.sleep(delay)
        now = look(path)
        interval = Interval(before, now, first)
        print(json.dumps(interval.as_json()) if as_json else line(interval))
        before, told = now, told + 1
    sys.stdout.flush()


def lines_of_all(delay: float, most: int | None, as_json: bool) -> None:
    """Print all mounts at each interval."""
    before, told = topall.look_at_all(), 0
    while most is None or told < most:
        time.sleep(delay)
        now = topall.look_at_all()
        if as_json:
            print(json.dumps(topall.as_json(before, now)))
        else:
            out = console()
            out.print(time.strftime("%H:%M:%S"), topall.table(before, now, out.width), sep="\n")
        sys.stdout.flush()
        before, told = now, told + 1


def run(args: argparse.Namespace) -> None:
    """tmpfsctl top."""
    path, every, most = args.mountpoint, args.seconds, args.count
    if path is not None and re.fullmatch(NUMBER, path) and not os.path.lexists(path):       # top 2 30
        every, most = float(path), None if every is None else max(int(every), 1)
        path = None
    settings = Settings(delay=min(max(args.delay, LEAST), MOST))
    if args.json and not args.once and every is None:
        raise ClientError("--json: give --once too, or SECONDS")
    if every is not None:
        if args.once:
            raise ClientError("--once and SECONDS: give one of them")
        every = min(max(every, LEAST), MOST)
        lines(path, every, most, args.json) if path is not None else lines_of_all(every, most, args.json)
    elif args.once:
        once(path, settings, args.json) if path is not None else once_all(settings, args.json)
    elif not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise ClientError("top needs a terminal; give --once for one interval, or SECONDS for lines")
    elif path is not None:
        watch_one(path, settings, console())
    else:
        watch_all(settings, console())
