"""server/journal.py: what happens to a mount, for `tmpfsctl events`.

Two kinds: each line of the log (a limit passes 80 %, a disk is full, a store is away or back), and each change of the
state of health.  The last KEPT are kept, so that a client that comes later can read the earlier ones.

Picture     log, any thread --emit()--> ring of KEPT <--look()-- health, once a second
                                          |
            a client of `events`: take(after its last number), each PAUSE

Invariants  E1 Events are numbered without a gap.  A client that was too slow is told how many it missed.
Limits      A state that lasts for less than a second may not be seen.  Text is cut at MOST_TEXT; the log has all of it.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from typing import Any

import trio

from tmpfsd.server import health
from tmpfsd.server.refused import ControlError

KEPT = 256
MOST_TEXT = 1000            # characters of a line
AT_ONCE = 32                # events in one answer
PAUSE = 0.1                 # seconds between two looks at the ring
HEARTBEAT = 1.0             # without events, write to a client this often: is it gone?


class Journal(logging.Handler):
    """The last events of one mount."""

    def __init__(self, status: Callable[[], dict[str, Any]]) -> None:
        super().__init__(logging.INFO)
        self.status = status
        self.state = ""                     # of health, as last reported
        self._ring: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self._last = 0                      # number

    def emit(self, record: logging.LogRecord) -> None:
        """Note a line of the log."""
        try:
            self.note("log", level=record.levelname.lower(), source=record.name.rpartition(".")[2],
                      text=record.getMessage().partition("\n")[0][:MOST_TEXT])
        except Exception:
            self.handleError(record)

    def look(self, status: dict[str, Any]) -> None:
        """Note a change of the state of health."""
        found = health.summary(status)
        if found["state"] != self.state:
            before, self.state = self.state, found["state"]
            self.note("health", before=before, **found)

    def note(self, event: str, **more: Any) -> None:
        """Put an event into the ring.  O(1)."""
        with self._locked():
            self._last += 1
            self._ring.append({"number": self._last, "time": time.time(), "event": event, **more})

    def take(self, after: int) -> tuple[list[dict[str, Any]], int]:
        """Return the next events after that number, and how many were lost before them."""
        with self._locked():
            first = self._last - len(self._ring)        # the number before the oldest
            start = max(after, first)
            return list(itertools.islice(self._ring, start - first, start - first + AT_ONCE)), start - after

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock of the handler: threads of stores log, too.  A copy of the daemon gets a new one (logging)."""
        self.acquire()
        try:
            yield
        finally:
            self.release()

    async def ask(self, request: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """Report the present state, and what happens from now on; with "past" the kept earlier events first."""
        past = request.get("past", False)
        if not isinstance(past, bool):
            raise ControlError('"past" must be true or false')
        self.look(self.status())
        last = 0 if past else self._last
        yield {"progress": {"events": [] if past else [self.now()], "lost": 0}}
        quiet = 0.0
        while True:
            events, lost = self.take(last)
            if events or quiet >= HEARTBEAT:
                quiet = 0.0
                last += lost + len(events)
                yield {"progress": {"events": events, "lost": 0 if past else lost}}
                past = False
                if events:
                    continue
            await trio.sleep(PAUSE)
            quiet += PAUSE
            if quiet >= HEARTBEAT:
                self.look(self.status())

    def now(self) -> dict[str, Any]:
        """The present state of health, as an event."""
        return {"number": self._last, "time": time.time(), "event": "health", "before": "",
                **health.summary(self.status())}
