"""bench/others.py: how busy the machine was with other work: figures of a busy machine are not worth much.

Limits      Only ended processes count as the benchmark's own: at the end of a part all its servers and clients have
            ended.  Work of the kernel's own threads counts as that of others.
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
    """Processor time of all processors together, from the first line of /proc/stat."""
    fields = text.split("\n", 1)[0].split()[1:]
    return sum(int(fields[i]) for i in WORK if i < len(fields)) / TICKS


def own_seconds() -> float:
    """Processor time of this process and of its ended children."""
    return sum(it.ru_utime + it.ru_stime for it in (resource.getrusage(resource.RUSAGE_SELF),
                                                    resource.getrusage(resource.RUSAGE_CHILDREN)))


class Others:
    """A stopwatch for the processor time of others."""

    __slots__ = ("_start", "_busy", "_own")

    def __init__(self) -> None:
        self._start, self._busy, self._own = time.monotonic(), busy_seconds(STAT.read_text()), own_seconds()

    def percent(self) -> float:
        """The share of the machine that others have used since then."""
        busy = busy_seconds(STAT.read_text()) - self._busy
        seconds = max(time.monotonic() - self._start, 1e-9) * (os.cpu_count() or 1)
        return min(max(0.0, 100 * (busy - (own_seconds() - self._own)) / seconds), 100.0)
