"""health.py: whether a mount is well, in a word, and what to do if not.

It is derived from the status alone.  The worst counts: `broken`, `swap failing`, `disk full`, `full`, `under pressure`,
`ok`.

Limits      What was refused or lost in the past is no state: `tmpfsctl status` warns of that below.  A page that could
            not be read back is one, until it is read or removed.  With compress= and no swap nothing is reported until
            ram is full: how much more could be compressed is not known beforehand.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any, NamedTuple

from tmpfsd.server.pressure import THRESHOLDS, shares
from tmpfsd.uvm.param import PAGE_SIZE
from tmpfsd.uvm.vm import RESERVE, SPARE

MORE = {"used": "size", "inodes": "nr_inodes"}      # their names for `tmpfsctl set`
PRESSURE = THRESHOLDS[-1]
FULL = {"ram": 98}          # per cent; if nothing can leave, of what is not kept for faults and renames
KEPT = (RESERVE + SPARE) * PAGE_SIZE


STATES = ("ok", "under pressure", "full", "disk full", "swap failing", "broken")    # the worst last


class Health(NamedTuple):
    """The state in a word, why, and what helps."""

    state: str
    why: str = ""
    what_helps: tuple[str, ...] = ()

    def __str__(self) -> str:
        return ": ".join(filter(None, (self.state, self.why)))


def summary(status: dict[str, Any]) -> dict[str, Any]:
    """What scripts get: the worst state in a word, why it is not well, and what helps, the worst first."""
    found = list(troubles(status))
    return {"state": found[0].state if found else "ok", "reasons": [each.why for each in found],
            "what_helps": list(dict.fromkeys(line for each in found for line in each.what_helps))}


def health(status: dict[str, Any]) -> Health:
    """Return the worst state now."""
    return next(troubles(status), Health("ok"))


def troubles(status: dict[str, Any]) -> Iterator[Health]:
    """Return everything that is wrong, the worst first."""
    swap, place = status["swap"] or {}, shlex.quote(status.get("mountpoint", "MOUNTPOINT"))
    another_place = f"`tmpfsctl swapon {place} PATH` gives another place"
    if status.get("broken"):
        yield Health("broken", "an invariant does not hold, and changes are refused",
                     ("copy what you need, and unmount",))
    image = status.get("image") or {}
    if image.get("state", "ok") != "ok":
        yield Health("swap failing", f"the image cannot be read: {image['state']}",
                     ("it is read again when its server answers",))
    if status["paging"].get("lost_pages"):
        yield Health("swap failing", f"{status['paging']['lost_pages']:,} pages cannot be read back",
                     (f"`tmpfsctl check {place}` reads them again: a fault may have passed",
                      "if it has not: copy what can be read, and mount anew with swap on another disk"))
    if swap.get("bad_slots"):
        yield Health("swap failing", f"{swap['bad_slots']:,} slots did not take what was written",
                     (another_place, "`tmpfsctl swapoff` empties the old one"))
    if swap.get("disk_full"):
        yield Health("disk full", "the disk under the swap file is full", ("free space there", another_place))
    yield from fullness(status, place, another_place)


def fullness(status: dict[str, Any], place: str, another_place: str) -> Iterator[Health]:
    """Return which limits are reached, or nearly.  Full ram is normal if pages can leave."""
    can_leave = bool(status["swap"] and status["swap"]["size_bytes"] or (status.get("zram") or {}).get("size_bytes"))
    if (status.get("zram") or {}).get("full"):
        yield Health("full", "ram and the compressed tier are used up",
                     ("remove files", f"`tmpfsctl set {place} ram=SIZE zram=SIZE` gives more", another_place))
    found = []
    for name, share in shares(status):
        if name == "ram" and can_leave:
            continue
        said = MORE.get(name, name)
        more = f"`tmpfsctl set {place} {said}={'N' if name == 'inodes' else 'SIZE'}` gives more"
        percent = share.percent if name != "ram" else 100 * share.used / max(share.limit - KEPT, 1)
        larger = f"`tmpfsctl set {place} swap_size=SIZE` makes it larger"
        found.append((percent, said, (larger, another_place) if name == "swap" else ("remove files", more)))
    for percent, said, helps in sorted(found, reverse=True):
        if percent >= FULL.get(said, 100):
            yield Health("full", f"{said} is used up", helps)
        elif percent >= PRESSURE:
            yield Health("under pressure", f"{min(int(percent), 99)} % of {said} is used", helps)
