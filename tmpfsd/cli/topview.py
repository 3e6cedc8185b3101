"""topview.py: what `tmpfsctl top` shows: two looks at a mount, and what happened in between.

Picture     Look, Look --Interval--> rates and means --screen()--> a rich renderable, as wide as the terminal
                                                     --line()----> a line, for top MOUNTPOINT SECONDS
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from rich.bar import Bar
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tmpfsd.cli.advise import FEW
from tmpfsd.cli.packed import percent_of, split
from tmpfsd.cli.units import human
from tmpfsd.fuse.timing import quantile
from tmpfsd.mounts.printable import printable, printable_all
from tmpfsd.server.health import health
from tmpfsd.server.pressure import THRESHOLDS, shares
from tmpfsd.uvm.param import PAGE_SIZE

LEAST_FOR_TROUBLE = 14      # lines of a terminal that has one to spare for what is wrong
LEAST_FOR_HISTORY = 20      # and for the history
NARROW = 70                 # columns: below that, less important things are left out
KEPT, FEW_KEPT = 40, 12     # intervals of history
BLOCKS = " ▁▂▃▄▅▆▇█"
P99 = 0.99
PAGING = (("faults", "faults"), ("pageins", "in"), ("pageouts", "out"), ("reclaims", "evicted"), ("scans", "scans"),
          ("stalls", "stalls"))
HELP = """\
q        quit                    space    pause and go on
s, d     change the delay        h, ?     this help
r  sort requests by rate         t  by total
l  by latency, its mean          p  by latency, p99
n  by name

PAGES are all pages, RESIDENT those in memory, OUT those in swap.
string-N holds names, links, attributes, and files of up to 2 KiB: DATA is
the part of such files.  It counts as data, the rest as metadata.
paging/s: in and out are bytes, the others are counts.
LATENCY is the time that sampled requests took in the daemon, with their
page-ins: the mean of the last interval.  P99 is the time that 99 of 100
requests did not exceed since top began."""
HEADING = "    time  req/s   read/s  write/s     in/s    out/s  used   ram  swap   cpu   p99 us  health"


class Look(NamedTuple):
    """What a mount said at one moment."""

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
    p99: float | None = None        # us


SORTS = {"r": ("rate", lambda each: (-each.rate, -each.total)), "t": ("total", lambda each: -each.total),
         "l": ("latency", lambda each: -(each.latency or 0)), "p": ("p99", lambda each: -(each.p99 or 0)),
         "n": ("name", lambda each: each.name)}


@dataclass
class Settings:
    """What the user has chosen, and what was seen."""

    delay: float = 2.0
    sort: str = "r"
    paused: bool = False
    help: bool = False
    typed: str | None = None        # of a new delay
    stale: str = ""                 # why the figures are old, if they are
    live: bool = False              # keys are read
    history: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=KEPT))     # requests, bytes in/s
    first: Look | None = None       # since when p99 counts


class Interval:
    """What happened between two looks; p99 is since `first`."""

    def __init__(self, before: Look, after: Look, first: Look | None = None) -> None:
        self.before, self.after = before, after
        self.first = before if first is None else first
        self.seconds = max(after.time - before.time, 1e-9)

    def paging(self) -> dict[str, float]:
        """Return events a second, by the names of the status."""
        one, two = self.before.status["paging"], self.after.status["paging"]
        return {name: max(two[name] - one[name], 0) / self.seconds for name, _ in PAGING}

    def rate_of(self, room: str, name: str) -> float | None:
        """Return the change of a figure of the status a second; None if there is no such figure."""
        one, two = (look.status.get(room, {}).get(name) for look in (self.before, self.after))
        return None if one is None or two is None else max(two - one, 0) / self.seconds

    def zram(self) -> dict[str, float]:
        """Return the compressed pages: the figures of the status, and their events a second; {} for none."""
        one, two = (look.status.get("zram") or {} for look in (self.before, self.after))
        if not two.get("size_bytes"):
            return {}
        # A tier that was released and made anew meanwhile counts from 0.
        return {**two, **{f"{name}_per_second": max(two[name] - one.get(name, 0), 0) / self.seconds
                          for name in ("hits", "writebacks")}}

    def requests(self) -> Iterator[Request]:
        """Return each kind of request that has occurred."""
        before = self.before.status["requests"]
        for name, total in self.after.status["requests"].items():
            yield Request(name, max(total - before.get(name, 0), 0) / self.seconds, total, self._latency(name),
                          self._p99([name]))

    def all_requests(self) -> float:
        """Return all requests a second."""
        return sum(each.rate for each in self.requests())

    def p99(self) -> float | None:
        """Return the latency that 99 of 100 sampled requests did not exceed, in us."""
        return self._p99(list(self.after.latency))

    def _latency(self, name: str) -> float | None:
        """Return the mean of the interval's samples, or of all samples if it has none."""
        count, nanoseconds = self.after.latency.get(name, (0, 0))[:2]
        old_count, old_nanoseconds = self.before.latency.get(name, (0, 0))[:2]
        if count > old_count:
            return (nanoseconds - old_nanoseconds) / (count - old_count) / 1000
        return nanoseconds / count / 1000 if count else None

    def _p99(self, names: list[str]) -> float | None:
        now, then = (together([look.latency.get(name, []) for name in names]) for look in (self.after, self.first))
        found = quantile(now, then, P99) or quantile(now, [], P99)
        return None if found is None else found / 1000

    def as_json(self) -> dict[str, Any]:
        """Return it for scripts."""
        status = self.after.status
        pools = [{key: pool[key] for key in ("name", "pages", "resident_pages", "swapped_pages")} for pool in
                 (*status["pools"], {"name": "data", **status["data"]})]
        return {"mountpoint": status["mountpoint"], "seconds": self.seconds, "health": health(status).state,
                "requests_per_second": self.all_requests(), "p99_us": self.p99(),
                "io_per_second": {name: self.rate_of("io", name) for name in ("read_bytes", "written_bytes")},
                "daemon": {"cpu_percent": self.cpu(), "rss_bytes": status.get("daemon", {}).get("rss_bytes")},
                "paging_per_second": self.paging(), "zram": self.zram(), "advice": self.after.advice, "pools": pools,
                "disk_full": bool(status["swap"].get("disk_full")),
                "percent": {name: share.percent for name, share in shares(status)},
                "requests": {each.name: {"per_second": each.rate, "total": each.total, "latency_us": each.latency,
                                         "p99_us": each.p99}
                             for each in self.requests()}}

    def cpu(self) -> float | None:
        """Return how much of a core the daemon takes, in per cent."""
        rate = self.rate_of("daemon", "cpu_seconds")
        return None if rate is None else 100 * rate


def together(samples: list[list[int]]) -> list[int]:
    """Add up the samples of several kinds."""
    total = [0] * max(map(len, samples), default=0)
    for sample in samples:
        for i, count in enumerate(sample):
            total[i] += count
    return total


def colour(percent: float) -> str:
    """Return the colour of a share: red and yellow at the levels that the log warns of."""
    return "red" if percent >= THRESHOLDS[0] else "yellow" if percent >= THRESHOLDS[1] else "green"


def mark(percent: float) -> str:
    """Return the same as a mark, for those who see no colours."""
    return "!!" if percent >= THRESHOLDS[0] else "! " if percent >= THRESHOLDS[1] else "  "


def short(count: int) -> str:
    """Write a number in a few characters."""
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return str(count)


def limits(status: dict[str, Any], narrow: bool = False) -> Table:
    """Show how full each limit is."""
    table = Table.grid(padding=(0, 1), expand=True)
    table.add_column(width=7)
    table.add_column(ratio=1)
    table.add_column(justify="right", no_wrap=True)
    for name, share in shares(status):
        is_ram = name == "ram"                  # full ram is normal
        style = "green" if is_ram else colour(share.percent)
        text = f"{human(share.used)} of {human(share.limit)}" if share.unit == "bytes" else \
            f"{short(share.used)} of {short(share.limit)}" if narrow else f"{share.used:,} of {share.limit:,}"
        table.add_row(name, Bar(share.limit, 0, min(share.used, share.limit), color=style, bgcolor="bright_black"),
                      f"{text} {share.percent:3.0f}%{'  ' if is_ram else mark(share.percent)}")
    return table


def per_second(nbytes: float | None) -> str:
    """Write a rate of bytes."""
    return "-" if nbytes is None else human(int(nbytes))


def work(interval: Interval) -> Text:
    """Show in one line what is asked of the daemon, and the time that takes."""
    text, cpu = Text(), interval.cpu()
    memory = interval.after.status.get("daemon", {}).get("rss_bytes")
    for label, value in (("requests/s", f"{interval.all_requests():,.0f}"),
                         ("read/s", per_second(interval.rate_of("io", "read_bytes"))),
                         ("written/s", per_second(interval.rate_of("io", "written_bytes"))),
                         ("cpu", "-" if cpu is None else f"{cpu:.0f}%"),
                         ("memory", "-" if memory is None else human(memory))):
        text.append(f"{'  ' if text else ''}{label} ").append(value, "bold")
    return text


def paging(interval: Interval) -> Text:
    """Show the paging of the interval, in one line."""
    rates = interval.paging()
    text = Text("paging/s")
    for name, label in PAGING:
        style = "dim" if not rates[name] else "bold red" if name == "stalls" else "bold"
        rate = human(int(rates[name] * PAGE_SIZE)) if name in ("pageins", "pageouts") else f"{rates[name]:,.0f}"
        text.append(f"  {label} ").append(rate, style)
    return text


def compressed(interval: Interval) -> Iterator[Text]:
    """Show the compressed pages in one line, if there can be any."""
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
    """Show in one line how much memory would be enough, if that is known."""
    found = interval.after.advice
    if not found or found["sampled_accesses"] < FEW:
        return
    rates = [each["pageins_per_second"] for each in found["curve"]]
    text = Text("ram", no_wrap=True, overflow="ellipsis")
    text.append("  enough ").append(human(found["enough_bytes"]) if found["enough_bytes"] else "more", "bold")
    for factor, index in (("half", 2), ("twice", 6)):
        text.append(f"  in/s with {factor} ").append(f"{rates[index]:,.0f}", "bold")
    yield text


def past(settings: Settings, narrow: bool = False) -> Iterator[Text]:
    """Show the history, in a line of blocks each: requests a second, and bytes paged in."""
    seen = list(settings.history)[-FEW_KEPT if narrow else -KEPT:]
    if len(seen) < 2:
        return
    for label, values, most in (("requests/s", [each[0] for each in seen], "{:,.0f}".format),
                                ("paged in/s", [each[1] for each in seen], lambda value: human(int(value)))):
        highest = max(values)
        drawn = "".join(BLOCKS[min(math.ceil(value / highest * 8), 8) if highest >= 1 else 0] for value in values)
        yield Text(f"{label} {drawn} at most {most(highest)}", no_wrap=True, overflow="ellipsis")


def pools(status: dict[str, Any], rows: int, narrow: bool = False) -> Table:
    """Show what is resident of data, of metadata, and of each pool, the largest first."""
    table = Table(box=None, expand=True, padding=(0, 1), header_style="reverse", pad_edge=False)
    table.add_column("PAGES OF", width=13, no_wrap=True)
    table.add_column("RESIDENT", ratio=1)
    columns = 2 if narrow else 4 if any("data_items" in pool for pool in status["pools"]) else 3
    for heading in ("", "PAGES", "OUT", "DATA")[:columns]:
        table.add_column(heading, justify="right", no_wrap=True)
    data, metadata = split(status)
    found = [{**pool, "name": f"  {pool['name']}"} for pool in sorted(status["pools"], key=lambda pool: -pool["pages"])]
    for pool in [{"name": "data", **data}, {"name": "metadata", **metadata}, *found][:rows]:
        pages, resident = pool["pages"], pool["resident_pages"]
        number = short if narrow else "{:,}".format
        cells = (f"{100 * resident / pages:.0f}%" if pages else "-", number(pages), number(pool["swapped_pages"]),
                 percent_of(pool))
        table.add_row(pool["name"], Bar(max(pages, 1), 0, resident, color="cyan", bgcolor="bright_black"),
                      *cells[:columns])
    return table


def requests(interval: Interval, sort: str, rows: int, narrow: bool = False) -> Table:
    """Show the requests, in the chosen order."""
    table = Table(box=None, expand=True, padding=(0, 1), header_style="reverse", pad_edge=False)
    name, key = SORTS[sort]
    columns = [("REQUEST", None), ("RATE/s", 10), ("TOTAL", 15), ("LATENCY us", 12), ("P99 us", 10)]
    if narrow:
        columns = [columns[0], columns[1], columns[3]]
    for heading, width in columns:
        chosen = heading.lower().startswith({"name": "request"}.get(name, name))
        table.add_column(heading + "*" * chosen, justify="left" if width is None else "right", width=width,
                         ratio=1 if width is None else None, no_wrap=True)
    for each in sorted(interval.requests(), key=key)[:rows]:
        times = ("-" if us is None else f"{us:,.1f}" for us in (each.latency, each.p99))
        cells = [f"{each.rate:,.1f}", f"{each.total:,}", *times]
        if narrow:
            cells = cells[0:3:2]
        table.add_row(printable(each.name), *cells, style="" if each.rate else "dim")
    return table


def head_of(interval: Interval, status: dict[str, Any], settings: Settings) -> Text:
    """Show whether it is well, which mount it is, and what can be done."""
    if settings.stale:
        age = time.monotonic() - interval.after.time
        return Text(f"figures are {age:.0f} s old: {printable(settings.stale)}", "bold red", overflow="fold")
    if settings.typed is not None:
        return Text(f"delay in seconds: {settings.typed}_  (Enter to change, Esc to keep it)")
    found, head = health(status), Text(no_wrap=True, overflow="ellipsis")
    head.append("paused" if settings.paused else f"every {settings.delay:g} s", "reverse" if settings.paused else "")
    head.append("  ").append(found.state, style_of(found.state))
    if settings.live:
        head.append("  h: keys, q: quit", "dim")
    head.append(f"  pid {status.get('pid', 0)}  {status['backend']}  ").append(status["mountpoint"], "bold")
    return head


def style_of(state: str) -> str:
    """Return the colour of a state of health."""
    return "" if state == "ok" else "yellow" if state == "under pressure" else "bold red"


def screen(interval: Interval, settings: Settings, height: int = 0, width: int = 80) -> RenderableType:
    """Show all of it, in that many lines if height is given."""
    status = printable_all(interval.after.status)
    head, found, narrow = head_of(interval, status, settings), health(status), width < NARROW
    if settings.help:
        return Group(head, "", HELP)
    trouble = []
    if found.state != "ok" and not 0 < height < LEAST_FOR_TROUBLE:
        trouble.append(Text("; ".join((str(found), *found.what_helps)), style_of(found.state), no_wrap=True,
                            overflow="ellipsis"))
    lines = [] if 0 < height < LEAST_FOR_TROUBLE else [work(interval)]
    lines += [paging(interval), *compressed(interval), *advised(interval)]
    if not 0 < height < LEAST_FOR_HISTORY:
        lines += past(settings, narrow)
    npools, nrequests = len(status["pools"]) + 2, len(status["requests"])
    if height:
        # Lines left, without headings and blank ones; in few columns two rows take two lines each.
        left = max(height - len(list(shares(status))) - len(trouble) - len(lines) - 2 * narrow - 5, 2)
        npools = min(npools, max(left // 2, left - nrequests, 1))
        nrequests = max(left - npools, 1)
    return Group(head, *trouble, limits(status, narrow), *lines, "", pools(status, npools, narrow), "",
                 requests(interval, settings.sort, nrequests, narrow))


def line(interval: Interval) -> str:
    """Write an interval in a line; HEADING names its columns."""
    status, rates = interval.after.status, interval.paging()
    percent = {name: f"{share.percent:.0f}%" for name, share in shares(status)}
    cpu, p99 = interval.cpu(), interval.p99()
    return (f"{time.strftime('%H:%M:%S')} {interval.all_requests():6,.0f} "
            f"{per_second(interval.rate_of('io', 'read_bytes')):>8} "
            f"{per_second(interval.rate_of('io', 'written_bytes')):>8} "
            f"{human(int(rates['pageins'] * PAGE_SIZE)):>8} {human(int(rates['pageouts'] * PAGE_SIZE)):>8} "
            f"{percent.get('used', '-'):>5} {percent.get('ram', '-'):>5} {percent.get('swap', '-'):>5} "
            f"{'-' if cpu is None else f'{cpu:.0f}%':>5} {'-' if p99 is None else f'{p99:,.0f}':>8}  "
            f"{health(status).state}")
