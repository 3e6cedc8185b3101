"""loop.py: how a request loop waits: the common part of the loops of both edges (dispatch.py, nativeloop.py).

Picture     SPIN -nothing for a while-> BLOCK -quiet for LINGER-> SLEEP (trio, in which idle work is done)
            spin=auto grows the spin when a request came just after it ended, and halves it when none came for long, as
            the kernel's haltpoll governor does.  In SLEEP it is 0: an idle mount costs no CPU.  With one core there
            is no spin: it would delay the client.  While the spin pays, the client's core is kept awake (awake.py).
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from time import perf_counter_ns
from typing import Any

import trio

from tmpfsd.server.awake import Awake

MICROSECOND, MILLISECOND = 1_000, 1_000_000
FIRST_SPIN = 10 * MICROSECOND
MOST_SPIN = 50 * MICROSECOND            # more catches no more requests: it covers waking a core
LINGER = 4 * MILLISECOND
TURN = 4 * MILLISECOND                  # between two turns of the other tasks, while there is traffic
NANO = 1e-9                             # seconds


def tick(nanoseconds: int) -> None:
    """Have SIGALRM come at this interval from now on; 0: never."""
    signal.setitimer(signal.ITIMER_REAL, nanoseconds * NANO, nanoseconds * NANO)


def one_core() -> bool:
    """Tell whether this process has only one core, which its clients then need to send a request."""
    return len(os.sched_getaffinity(0)) == 1


class Loop:
    """Waits for the requests of a mount; idle work and the commands know no more of it."""

    def __init__(self, spin: str | int = "auto", clock: Callable[[], int] = perf_counter_ns) -> None:
        self.adaptive = spin == "auto"
        self.spin = 0 if self.adaptive else int(spin) * MICROSECOND
        self.closed = False
        self.awake = Awake()
        self.background = 0                 # how many tasks have work for the time between requests (turns.py)
        self._clock = clock
        self._alone = one_core()            # spinning would keep the client from running
        self._poll: Callable[[float], Any] = lambda _timeout: []
        self._quiet, self._traffic = trio.Event(), trio.Event()

    @property
    def quiet(self) -> bool:
        """Whether the loop sleeps in trio, with no request in sight."""
        return self._quiet.is_set()

    def waits(self) -> bool:
        """Whether a request waits."""
        return bool(self._poll(0))

    async def wait_quiet(self) -> None:
        """Wait until there is no traffic."""
        await self._quiet.wait()

    async def wait_traffic(self) -> None:
        """Wait until there is traffic again."""
        await self._traffic.wait()

    def _adapt(self, waited: int) -> None:
        """Size the spin by how long the request took to come."""
        if not self.adaptive:
            return
        if waited <= 2 * MOST_SPIN and not self._alone:
            self.spin = min(max(FIRST_SPIN, 2 * self.spin), MOST_SPIN)
            self.awake.hold()
        else:
            self.spin = self.spin >> 1 if self.spin > FIRST_SPIN else 0
            if not self.spin:
                self.awake.release()

    async def _sleep(self, fd: int) -> None:
        """Wait in trio; idle work is done meanwhile."""
        if self.adaptive:
            self.spin = 0
        self.awake.release()
        self._traffic = trio.Event()
        self._quiet.set()
        try:
            await trio.lowlevel.wait_readable(fd)
        finally:
            self._alone = one_core()
            self._quiet = trio.Event()
            self._traffic.set()
