"""topall.py: what `tmpfsctl top` shows without a mount point: all mounts that this process sees, one a line."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from rich.table import Table
from rich.text import Text

from tmpfsd.cli.client import ClientError, ask_briefly
from tmpfsd.cli.list import AT_ONCE, SECONDS, STATES
from tmpfsd.cli.topview import NARROW, Interval, Look, per_second, style_of
from tmpfsd.cli.units import human
from tmpfsd.mounts import mountinfo
from tmpfsd.mounts.printable import printable, printable_all
from tmpfsd.server.health import health
from tmpfsd.server.pressure import shares
from tmpfsd.uvm.param import PAGE_SIZE

COLUMNS = ("HEALTH", "REQ/s", "READ/s", "WRITTEN/s", "IN/s", "OUT/s", "USED", "RAM", "SWAP", "CPU", "MEMORY", "MOUNT")
# What fits into fewer columns than that.
FEWER = {NARROW: ("HEALTH", "REQ/s", "USED", "MOUNT"),
         110: ("HEALTH", "REQ/s", "IN/s", "OUT/s", "USED", "RAM", "SWAP", "CPU", "MOUNT")}


class Glance(NamedTuple):
    """One mount: its answer, or why there was none."""

    mount: mountinfo.MountPoint
    look: Look | None
    why: str = ""


def look_at(mount: mountinfo.MountPoint) -> Glance:
    """Ask one mount."""
    try:
        return Glance(mount, Look(time.monotonic(), ask_briefly(mount, SECONDS, "status"), {}))
    except ClientError as error:
        return Glance(mount, None, STATES.get(type(error), "busy"))


def look_at_all() -> dict[tuple[int, int], Glance]:
    """Ask all mounts; return the answers by device."""
    found: dict[tuple[int, int], mountinfo.MountPoint] = {}
    for mount in mountinfo.table():
        if mount.fstype == mountinfo.FSTYPE:
            found.setdefault(mount.device, mount)
    if not found:
        return {}
    with ThreadPoolExecutor(AT_ONCE) as pool:           # one that hangs does not keep the others waiting
        return {seen.mount.device: seen for seen in pool.map(look_at, found.values())}


def rows(before: dict[tuple[int, int], Glance], after: dict[tuple[int, int], Glance]) -> Iterator[tuple[str, ...]]:
    """Return the cells of each mount, the one with the most requests first."""
    found: list[tuple[float, tuple[str, ...]]] = []
    for device, seen in after.items():
        old, path = before.get(device), printable(seen.mount.path)
        if seen.look is None:
            found.append((-1.0, (seen.why, *["-"] * (len(COLUMNS) - 2), path)))
            continue
        since = old.look if old is not None and old.look is not None else seen.look
        interval = Interval(since, seen.look)
        found.append((interval.all_requests(), cells(interval, path)))
    for _, each in sorted(found, key=lambda each: -each[0]):
        yield each


def cells(interval: Interval, path: str) -> tuple[str, ...]:
    """Return the cells of a mount."""
    status, rates, cpu = printable_all(interval.after.status), interval.paging(), interval.cpu()
    percent: dict[str, str] = {name: f"{share.percent:.0f}%" for name, share in shares(status)}
    memory: Any = status.get("daemon", {}).get("rss_bytes")
    return (health(status).state, f"{interval.all_requests():,.0f}",
            *(per_second(interval.rate_of("io", name)) for name in ("read_bytes", "written_bytes")),
            *(human(int(rates[name] * PAGE_SIZE)) for name in ("pageins", "pageouts")),
            *(percent.get(name, "-") for name in ("used", "ram", "swap")),
            "-" if cpu is None else f"{cpu:.0f}%", "-" if memory is None else human(memory), path)


def table(before: dict[tuple[int, int], Glance], after: dict[tuple[int, int], Glance], width: int,
          note: Callable[[], Text] | None = None) -> Table:
    """Show all mounts."""
    chosen = next((names for least, names in FEWER.items() if width < least), COLUMNS)
    found = Table(box=None, expand=True, padding=(0, 1), header_style="reverse", pad_edge=False,
                  title=note() if note is not None else None, title_justify="left")
    for heading in chosen:
        last, first = heading == "MOUNT", heading == "HEALTH"
        found.add_column(heading, justify="left" if last or first else "right", ratio=1 if last else None, no_wrap=True)
    for row in rows(before, after):
        named = dict(zip(COLUMNS, row))
        found.add_row(Text(row[0], style_of(row[0])), *(named[name] for name in chosen[1:]))
    return found


def as_json(before: dict[tuple[int, int], Glance], after: dict[tuple[int, int], Glance]) -> list[dict[str, Any]]:
    """Return all mounts for scripts."""
    found = []
    for device, seen in after.items():
        old = before.get(device)
        if seen.look is None:
            found.append({"mountpoint": seen.mount.path, "health": seen.why})
            continue
        since = old.look if old is not None and old.look is not None else seen.look
        found.append(Interval(since, seen.look).as_json())
    return found
