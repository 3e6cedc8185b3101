"""bench/others.py: how busy others kept the machine meanwhile: figures of a busy machine are not worth much.

Limits      Only what has ended counts as the benchmark's own: all servers and clients of a part have, at its end.  What
            the kernel does in threads of its own is taken for that of others.
"""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path

STAT = Path("/proc/stat")
WORK = (0, 1, 2, 5, 6, 7)       # user, nice, system, irq, softirq, steal: all but idle and iowait
TICKS = os.sysconf("SC_CLK_TCK")


def busy_seconds(text: str) -> float:
    """What all processors together have worked, from the first line of /proc/stat."""
    fields = text.split("\n", 1)[0].split()[1:]
    return sum(int(fields[i]) for i in WORK if i < len(fields)) / TICKS


def own_seconds() -> float:
    """What this process and all that it has seen the end of have used."""
    return sum(it.ru_utime + it.ru_stime for it in (resource.getrusage(resource.RUSAGE_SELF),
                                                    resource.getrusage(resource.RUSAGE_CHILDREN)))


class Others:
    """A stopwatch for the processor time of others."""

    __slots__ = ("_start", "_busy", "_own")

    def __init__(self) -> None:
        self._start, self._busy, self._own = time.monotonic(), busy_seconds(STAT.read_text()), own_seconds()

    def percent(self) -> float:
        """The share of the machine that others have used since."""
        busy = busy_seconds(STAT.read_text()) - self._busy
        seconds = max(time.monotonic() - self._start, 1e-9) * (os.cpu_count() or 1)
        return min(max(0.0, 100 * (busy - (own_seconds() - self._own)) / seconds), 100.0)
