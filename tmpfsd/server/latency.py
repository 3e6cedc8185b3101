"""latency.py: how long requests take in the daemon, by kind, for `tmpfsctl top`.

Timing each request would cost it 0.2 us.  So they are sampled, and only while somebody asks.  Every PERIOD a timer is
wrapped around each handler of the Operations.  The next request of that kind passes through the timer and removes it.
The timer is an attribute of the instance, the handler one of the class: pyfuse3 looks the handler up at each request.
With edge=native the Session does the same with its table (fuse/session.py).

Picture     OFF --asked--> handler --every PERIOD--> timed --a request--> handler --nobody asked for LINGER--> OFF

Limits      It measures the work in the daemon, page-ins included; not the kernel's part, and not the waiting.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter_ns
from typing import Any

import trio

from tmpfsd.fuse import timing
from tmpfsd.fuse.session import Session
from tmpfsd.server.operations import KINDS, Operations

PERIOD = 0.02
LINGER = 15.0               # seconds after the last question


class Latency:
    """The samples of one mount's requests."""

    def __init__(self, operations: Operations, session: Session | None = None) -> None:
        self.operations, self.session = operations, session
        self.samples: dict[str, list[int]] = {name: timing.blank() for name in KINDS}
        self._asked = trio.Event()
        self._until = 0.0

    def ask(self, _request: Any) -> dict[str, list[int]]:
        """Return the samples so far (timing.py), up to the last bucket that has one, and go on sampling for a while."""
        self._until = trio.current_time() + LINGER
        self._asked.set()
        return {name: trimmed(sample) for name, sample in self.samples.items() if sample[0]}

    async def run(self) -> None:
        """Sample while somebody asks, until cancelled."""
        while True:
            await self._asked.wait()
            try:
                while trio.current_time() < self._until:
                    self.arm()
                    await trio.sleep(PERIOD)
            finally:
                self.disarm()
            self._asked = trio.Event()

    def arm(self) -> None:
        """Time the next request of each kind."""
        if self.session is not None:
            self.session.time_next(self.samples, perf_counter_ns)
            return
        for name in KINDS:
            if name not in vars(self.operations):
                setattr(self.operations, name, self._timed(name))

    def disarm(self) -> None:
        """Stop timing."""
        if self.session is not None:
            self.session.time_no_more()
            return
        for name in KINDS:
            vars(self.operations).pop(name, None)

    def _timed(self, name: str) -> Callable[..., Any]:
        operations, sample = self.operations, self.samples[name]

        async def timed(*args: Any) -> Any:
            vars(operations).pop(name, None)
            start = perf_counter_ns()
            try:
                return await getattr(operations, name)(*args)
            finally:
                timing.note(sample, perf_counter_ns() - start)
        return timed


def trimmed(sample: list[int]) -> list[int]:
    """A sample without the zeros at its end."""
    n = len(sample)
    while n > 0 and not sample[n - 1]:
        n -= 1
    return sample[:n]
