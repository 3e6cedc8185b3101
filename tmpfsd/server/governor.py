"""governor.py: ram=auto: the budget follows the memory pressure of the machine, or of the cgroup.

Once a second it looks how long tasks have stalled for lack of memory, and how much memory is available.  The first is
PSI: /proc/pressure/memory, and memory.pressure of the cgroup, version 2.  Under pressure, or when little is available,
`ram` shrinks by an eighth, at once.  After CALM seconds without pressure, if memory is idle and the mount pages in, it
grows by an eighth.  It stays between MIN and MAX.  Giving back is cheap: the page daemon evicts cold pages.  Taking
what others need is not.  So it grows slowly, and waits longer each time that was too much.

Picture     KEEPS --pressure, or little available--> shrinks, waits COOL, twice as long if it had grown just before
              |--calm, idle, and pages come in--> grows

Breathing   Its decisions are carried out in steps between requests, as `tmpfsctl set ram=` is (tuning.py).

Limits      Without PSI (a kernel before 4.20, or psi=0) only available memory counts.  PSI knows nothing of
            our own paging.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple

from tmpfsd import machine
from tmpfsd.optionwords import Auto
from tmpfsd.server.refused import ControlError

if TYPE_CHECKING:
    from tmpfsd.server.tuning import Tuning
    from tmpfsd.server.turns import Turns

log = logging.getLogger(__name__)

SECONDS = 1.0
HIGH = 0.01                 # share of a second that tasks stalled: above is pressure
LOW = 0.001                 # and below is calm
CALM = 10.0                 # seconds of calm before it grows
COOL = 30.0                 # seconds without growing after it has shrunk
MOST_COOL = 1200.0
TOO_MUCH = 15.0             # seconds after growing in which pressure means that it was too much
STEP_SHIFT = 3              # an eighth
LEAST_STEP = 1 << 20
LITTLE = 0.05               # of memory: others should have that much
IDLE = 0.15                 # more than that is idle after a step of growth


class Strain(NamedTuple):
    """What a look sees: microseconds that tasks have stalled so far, bytes available, and of how many."""

    stalled_us: int
    free_bytes: int
    all_bytes: int


def look() -> Strain:
    """Look at the machine and at our cgroup; the worse of the two counts."""
    stalled = max([0, *(stalled_in(machine.read(path)) for path in machine.pressure_files())])
    free, most = machine.available_memory()
    return Strain(stalled, free, most)


def stalled_in(text: bytes) -> int:
    """Read a file of PSI: microseconds that some task stalled."""
    found = re.search(rb"^some .*\btotal=([0-9]{1,20})$", text, re.MULTILINE)
    return int(found[1]) if found else 0


class Governor:
    """Decides how much memory a mount should have.  It changes nothing itself."""

    def __init__(self, bounds: Auto, seen: Callable[[], Strain] = look,
                 clock: Callable[[], float] = time.monotonic) -> None:
        self.bounds = bounds
        self.pressure = 0.0                 # share of the time since the last look
        self._seen, self._clock = seen, clock
        self._last, self._at = seen(), clock()
        self._calm_since = self._at
        self._grown_at: float | None = None     # when it grew last, if it has not shrunk since
        self._cool = COOL
        self._cool_until = self._at

    def wanted(self, ram: int, least: int, pages_in: bool) -> int:
        """How many bytes of ram there should be, when there are `ram` now, and not below `least`.

        => pages_in: whether the mount has paged in since the last call.
        """
        now, seen = self._clock(), self._seen()
        elapsed = max(now - self._at, 1e-3)
        self.pressure = max(seen.stalled_us - self._last.stalled_us, 0) / 1e6 / elapsed
        self._last, self._at = seen, now
        low, high = max(self.bounds.low, least), max(self.bounds.high, least)
        step = max(ram >> STEP_SHIFT, LEAST_STEP)
        if self.pressure > LOW:
            self._calm_since = now
        if self.pressure > HIGH or seen.free_bytes < LITTLE * seen.all_bytes:
            if self._grown_at is not None and now - self._grown_at < TOO_MUCH:
                self._cool = min(2 * self._cool, MOST_COOL)
            self._grown_at = None
            self._cool_until, self._calm_since = now + self._cool, now
            return min(max(ram - step, low), high)
        idle = seen.free_bytes - step > IDLE * seen.all_bytes
        if pages_in and idle and now - self._calm_since >= CALM and now >= self._cool_until and ram < high:
            if self._grown_at is not None:                  # the last growth was not too much
                self._cool = max(self._cool / 2, COOL)
            self._grown_at = self._calm_since = now
            return min(max(ram + step, low), high)
        return min(max(ram, low), high)


async def follow(tuning: Tuning, turns: Turns) -> None:
    """Have ram follow what its governor wants, while there is one, until cancelled.

    Errors go to the gate: an exception that left this task would end the mount.
    """
    import trio
    pageins = tuning.mount.vm.pageins
    while True:
        await trio.sleep(SECONDS)
        governor = tuning.governor
        if governor is None or tuning.busy or tuning.mount.gate.broken:
            continue
        came, pageins = tuning.mount.vm.pageins > pageins, tuning.mount.vm.pageins
        wanted = governor.wanted(tuning.ram_bytes, tuning.least_ram(), came)
        if wanted == tuning.ram_bytes:
            continue
        try:
            await carry_out(tuning.have_ram(wanted), turns)
        except ControlError as error:       # for example pages that cannot leave: ram stays as it was
            log.debug("ram=auto: %s", error)
            await trio.sleep(COOL)
        except Exception as error:
            tuning.mount.gate.errno_of(error, "ram=auto")
            await trio.sleep(COOL)


async def carry_out(steps: Iterable[object], turns: Turns) -> None:
    """Go through steps, between requests.  => What they raise."""
    import trio
    with turns.background():
        turns.begin()
        for _ in steps:
            if turns.over():
                await trio.lowlevel.checkpoint()
                turns.begin()
