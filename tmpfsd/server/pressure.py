"""pressure.py: logs once when something fills up.

A task looks at the status once a second while there is traffic, never within a request.

Picture     share of a limit:  quiet --passes 80 %--> logged --passes 95 %--> logged again
                                 ^---- 5 points below what was logged ----- | (and may be logged again)

Limits      `ram` fills up and stays full in normal use: what is beyond it is paged out.  If a limit is reached for
            less than a second, that may not be seen.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:                       # the commands use this module, and need not wait for pyfuse3 and trio
    from tmpfsd.server.loop import Loop

log = logging.getLogger(__name__)

SECONDS = 1.0
THRESHOLDS = (95, 80)       # percent, the highest first
HYSTERESIS = 5
DISK_FULL = "the disk under the swap file is full: writes and creates get ENOSPC"


class Share(NamedTuple):
    """How much of a limit is used."""

    used: int
    limit: int
    unit: str

    @property
    def percent(self) -> float:
        """The used part in percent."""
        return 100 * self.used / self.limit

    def __str__(self) -> str:
        if self.unit == "bytes":
            return f"{self.used / (1 << 20):.0f} of {self.limit / (1 << 20):.0f} MiB"
        return f"{self.used:,} of {self.limit:,} {self.unit}"


def shares(status: dict[str, Any]) -> Iterator[tuple[str, Share]]:
    """Return how full a mount is, by name, for each limit that it has."""
    swap = status["swap"]
    found = (("used", status["used_bytes"], status["size_bytes"], "bytes"),
             ("ram", status["resident_bytes"], status["ram_bytes"], "bytes"),
             ("swap", swap["used_bytes"], swap["size_bytes"], "bytes"),
             ("inodes", status["inodes"], status["inodes_max"], "inodes"))
    for name, used, limit, unit in found:
        if limit:
            yield name, Share(used, limit, unit)


class Pressure:
    """What was logged about one mount."""

    def __init__(self, status: Callable[[], dict[str, Any]],
                 tell: Callable[[dict[str, Any]], object] = lambda _status: None) -> None:
        self.status = status
        self.tell = tell                    # who else wants to see each status
        self.said: dict[str, int] = {}      # the threshold by name
        self.disk_full = False

    def look(self) -> None:
        """Log which limits passed a threshold since the last look."""
        status = self.status()
        self.tell(status)
        self.look_at_disk(bool(status["swap"].get("disk_full")))
        for name, share in shares(status):
            said = self.said.get(name, 0)
            level = next((threshold for threshold in THRESHOLDS if share.percent >= threshold), 0)
            if level > said:
                more = "; what is beyond it is paged out" if name == "ram" and status["swap"]["size_bytes"] else ""
                log.warning("%s is %.0f%% full: %s%s", "size" if name == "used" else name, share.percent, share, more)
            if level > said or share.percent < said - HYSTERESIS:
                self.said[name] = level

    def look_at_disk(self, full: bool) -> None:
        """Log that the disk under the swap file became full, or has room again."""
        if full != self.disk_full:
            if full:
                log.warning("%s", DISK_FULL)
            else:
                log.info("the disk under the swap file has room again")
        self.disk_full = full

    async def watch(self, traffic: Loop | None) -> None:
        """Look while there is traffic, until cancelled."""
        import trio
        while True:
            try:
                self.look()
            except Exception:
                log.exception("pressure")
            if traffic is not None and traffic.quiet:
                await traffic.wait_traffic()
            await trio.sleep(SECONDS)
