"""topview.py: what `tmpfsctl top` shows: two looks at a mount, and what happened in between.

Picture     Look, Look --Interval--> rates and means --screen()--> a rich renderable, as wide as the terminal
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tmpfsd.cli.advise import FEW
from tmpfsd.cli.status import human
from tmpfsd.mounts.printable import printable, printable_all
from tmpfsd.server.health import health
from tmpfsd.server.pressure import THRESHOLDS, shares

LEAST_FOR_TROUBLE = 14      # lines of a terminal that has one left to say what is the matter
PAGING = (("faults", "faults"), ("pageins", "in"), ("pageouts", "out"), ("reclaims", "evicted"), ("scans", "scans"),
          ("stalls", "stalls"))
HELP = """\
q        quit                    space    pause and go on
s, d     change the delay        h, ?     this help
r  sort requests by rate         t  by total
l  by latency                    n  by name

PAGES is what a pool has, RESIDENT what of it is in memory, OUT what is in swap.
LATENCY is the mean time of sampled requests in the daemon, page-ins included."""


class Look(NamedTuple):
    """What a mount said at one time."""

    time: float
    status: dict[str, Any]
    latency: dict[str, list[int]]
    advice: dict[str, Any] = {}


class Request(NamedTuple):
    """One kind of request in an interval."""

    name: str
    rate: float
    total: int
    latency: float | None           # us


SORTS = {"r": ("rate", lambda each: (-each.rate, -each.total)), "t": ("total", lambda each: -each.total),
         "l": ("latency", lambda each: -(each.latency or 0)), "n": ("name", lambda each: each.name)}


@dataclass
class Settings:
    """What the user has chosen."""

    delay: float = 2.0
    sort: str = "r"
    paused: bool = False
    help: bool = False
    typed: str | None = None        # of a new delay
    stale: str = ""                 # why the figures are old, where they are


class Interval:
    """What happened between two looks."""

    def __init__(self, before: Look, after: Look) -> None:
        self.before, self.after = before, after
        self.seconds = max(after.time - before.time, 1e-9)

    def paging(self) -> dict[str, float]:
        """Return events a second, by the names of the status."""
        one, two = self.before.status["paging"], self.after.status["paging"]
        return {name: (two[name] - one[name]) / self.seconds for name, _ in PAGING}

    def zram(self) -> dict[str, float]:
        """Return the compressed pages: as the status has them, and what happened to them a second; {} for none."""
        one, two = (look.status.get("zram") or {} for look in (self.before, self.after))
        if not two.get("size_bytes"):
            return {}
        # A tier that was let go and made anew meanwhile counts from 0.
        return {**two, **{f"{name}_per_second": max(two[name] - one.get(name, 0), 0) / self.seconds
                          for name in ("hits", "writebacks")}}

    def requests(self) -> Iterator[Request]:
        """Return each kind of request that there ever was."""
        before = self.before.status["requests"]
        for name, total in self.after.status["requests"].items():
            yield Request(name, (total - before.get(name, 0)) / self.seconds, total, self._latency(name))

    def _latency(self, name: str) -> float | None:
        """Return the mean of the samples of the interval, or of all where it has none."""
        count, nanoseconds = self.after.latency.get(name, (0, 0))
        old_count, old_nanoseconds = self.before.latency.get(name, (0, 0))
        if count > old_count:
            return (nanoseconds - old_nanoseconds) / (count - old_count) / 1000
        return nanoseconds / count / 1000 if count else None

    def as_json(self) -> dict[str, Any]:
        """Return it for scripts."""
        status = self.after.status
        pools = [{key: pool[key] for key in ("name", "pages", "resident_pages", "swapped_pages")} for pool in
                 (*status["pools"], {"name": "data", **status["data"]})]
        return {"mountpoint": status["mountpoint"], "seconds": self.seconds,
                "paging_per_second": self.paging(), "zram": self.zram(), "advice": self.after.advice, "pools": pools,
                "disk_full": bool(status["swap"].get("disk_full")),
                "percent": {name: share.percent for name, share in shares(status)},
                "requests": {each.name: {"per_second": each.rate, "total": each.total, "latency_us": each.latency}
                             for each in self.requests()}}


def colour(percent: float) -> str:
    """Return the colour of a share: red and yellow where the log warns of it."""
    return "red" if percent >= THRESHOLDS[0] else "yellow" if percent >= THRESHOLDS[1] else "green"


def limits(status: dict[str, Any]) -> Table:
    """Show how full each limit is."""
    table = Table.grid(padding=(0, 1), expand=True)
    table.add_column(width=7)
    table.add_column(ratio=1)
    table.add_column(justify="right", no_wrap=True)
    for name, share in shares(status):
        style = "green" if name == "ram" else colour(share.percent)         # full ram is how it is meant to be
        text = (f"{human(share.used)} of {human(share.limit)}" if share.unit == "bytes"
                else f"{share.used:,} of {share.limit:,}")
        table.add_row(name, ProgressBar(share.limit, min(share.used, share.limit), complete_style=style,
                                        finished_style=style), f"{text} {share.percent:3.0f}%")
    return table


def paging(interval: Interval) -> Text:
    """Show the paging of the interval, in one line."""
    rates = interval.paging()
    text = Text("paging/s")
    for name, label in PAGING:
        style = "dim" if not rates[name] else "bold red" if name == "stalls" else "bold"
        text.append(f"  {label} ").append(f"{rates[name]:,.0f}", style)
    return text


def compressed(interval: Interval) -> Iterator[Text]:
    """Show the compressed pages in one line, where there can be any."""
    zram = interval.zram()
    if not zram:
        return
    text = Text("zram", no_wrap=True, overflow="ellipsis")
    text.append(f"  {human(int(zram['used_bytes']))} of {human(int(zram['size_bytes']))}", "bold")
    text.append("  for ").append(human(int(zram["stored_bytes"])), "bold")
    text.append(f", {zram['ratio']:g} to 1")
    for name, label in (("hits", "hits/s"), ("writebacks", "written back/s")):
        rate = zram[f"{name}_per_second"]
        text.append(f"  {label} ").append(f"{rate:,.0f}", "bold" if rate else "dim")
    yield text


def advised(interval: Interval) -> Iterator[Text]:
    """Show in one line how much memory would be enough, where something is known of it."""
    found = interval.after.advice
    if not found or found["sampled_accesses"] < FEW:
        return
    rates = {each["ram_bytes"]: each["pageins_per_second"] for each in found["curve"]}
    text = Text("ram", no_wrap=True, overflow="ellipsis")
    text.append("  enough ").append(human(found["enough_bytes"]) if found["enough_bytes"] else "more", "bold")
    for factor, index in (("half", 2), ("twice", 6)):
        text.append(f"  in/s with {factor} ").append(f"{list(rates.values())[index]:,.0f}", "bold")
    yield text


def pools(status: dict[str, Any], rows: int) -> Table:
    """Show what is resident of each pool, the largest first."""
    table = Table(box=None, expand=True, padding=(0, 1), header_style="reverse", pad_edge=False)
    table.add_column("POOL", width=12, no_wrap=True)
    table.add_column("RESIDENT", ratio=1)
    for heading in ("", "PAGES", "OUT"):
        table.add_column(heading, justify="right", no_wrap=True)
    found = [{"name": "data", **status["data"]}, *status["pools"]]
    for pool in sorted(found, key=lambda pool: -pool["pages"])[:rows]:
        pages, resident = pool["pages"], pool["resident_pages"]
        table.add_row(pool["name"], ProgressBar(max(pages, 1), resident, complete_style="cyan", finished_style="cyan"),
                      f"{100 * resident / pages:.0f}%" if pages else "-", f"{pages:,}", f"{pool['swapped_pages']:,}")
    return table


def requests(interval: Interval, sort: str, rows: int) -> Table:
    """Show the requests, in the order that was chosen."""
    table = Table(box=None, expand=True, padding=(0, 1), header_style="reverse", pad_edge=False)
    name, key = SORTS[sort]
    for heading, width in (("REQUEST", None), ("RATE/s", 12), ("TOTAL", 16), ("LATENCY us", 12)):
        mark = "*" if heading.lower().startswith({"name": "request"}.get(name, name)) else ""
        table.add_column(heading + mark, justify="left" if width is None else "right", width=width,
                         ratio=1 if width is None else None, no_wrap=True)
    for each in sorted(interval.requests(), key=key)[:rows]:
        latency = "-" if each.latency is None else f"{each.latency:,.1f}"
        table.add_row(each.name, f"{each.rate:,.1f}", f"{each.total:,}", latency, style="" if each.rate else "dim")
    return table


def screen(interval: Interval, settings: Settings, height: int = 0) -> RenderableType:
    """Show all of it, in so many lines where height is given."""
    status = printable_all(interval.after.status)
    head = Text(no_wrap=True, overflow="ellipsis")
    head.append("paused" if settings.paused else f"every {settings.delay:g} s", "reverse" if settings.paused else "")
    found = health(status)
    colour = "" if found.state == "ok" else "yellow" if found.state == "under pressure" else "bold red"
    head.append("  ").append(found.state, colour)
    head.append(f"  pid {status['pid']}  {status['backend']}  ").append(status["mountpoint"], "bold")
    if settings.stale:
        age = time.monotonic() - interval.after.time
        head = Text(f"figures are {age:.0f} s old: {printable(settings.stale)}", "bold red", overflow="fold")
    if settings.typed is not None:
        head = Text(f"delay in seconds: {settings.typed}_  (Enter to change, Esc to leave it)")
    if settings.help:
        return Group(head, "", HELP)
    trouble = []
    if found.state != "ok" and not 0 < height < LEAST_FOR_TROUBLE:
        trouble.append(Text("; ".join((str(found), *found.what_helps)), colour, no_wrap=True, overflow="ellipsis"))
    tier = [*compressed(interval), *advised(interval)]
    npools, nrequests = len(status["pools"]) + 1, len(status["requests"])
    if height:
        # Of the lines, without heads and the blank ones.
        left = max(height - len(list(shares(status))) - len(trouble) - len(tier) - 6, 2)
        npools = min(npools, max(left // 2, left - nrequests, 1))
        nrequests = max(left - npools, 1)
    return Group(head, *trouble, limits(status), paging(interval), *tier, "", pools(status, npools), "",
                 requests(interval, settings.sort, nrequests))
