"""bench/sheet.py: what is measured, its figures, and the rounds in which they are taken.

Picture     round -1 (warm-up, shows what a server cannot do; not counted), 0, 1, ...
            a round: each measure; a measure: one server after the other, beginning with another one in each round
Invariants  S1 A cell has samples, or a reason why not: a server that refuses an operation once is not asked again.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from tmpfsd.cli import client
from tools.bench.scale import Scale
from tools.bench.servers import TMPFSD, Server, Spec, without_places

FREE, SAME = "free", "same core"
MICROS, RATE, SECONDS, PERCENT = "us", "MiB/s", "s", "%"
DROP_CACHES = Path("/proc/sys/vm/drop_caches")
SLAB, ALL = "2", "3"
Cell = dict[str, Any]


class Refused(Exception):
    """A figure that cannot be measured; the text says why."""


class Measure(NamedTuple):
    """An operation, and how it is done."""

    operation: str
    placement: str = FREE
    clients: int = 1
    unit: str = MICROS

    @property
    def key(self) -> str:
        """Its name in the results."""
        return f"{self.operation}/{self.placement}/{self.clients}"


def processors(placement: str) -> set[int]:
    """The processors that server and clients may use."""
    allowed = os.sched_getaffinity(0)
    return allowed if placement == FREE else {min(allowed)}


class Sheet:
    """The figures of a part."""

    __slots__ = ("cells",)

    def __init__(self) -> None:
        self.cells: dict[str, dict[str, Cell]] = {}

    def add(self, measure: Measure, server: str, value: float) -> None:
        """One more figure."""
        self._cell(measure, server).setdefault("samples", []).append(value)

    def spend(self, measure: Measure, server: str, value: float) -> None:
        """Add what the server's process used for one more figure."""
        self._cell(measure, server).setdefault("cpu", []).append(value)

    def count(self, measure: Measure, server: str, requests: dict[str, int]) -> None:
        """Note the requests that the server got in one round."""
        self._cell(measure, server)["requests"] = {name: n for name, n in requests.items() if n}

    def refuse(self, measure: Measure, server: str, why: str) -> None:
        """Note that there is no figure, or no more."""
        self.cells.setdefault(measure.key, {})[server] = {"why": without_places(why)}

    def refused(self, measure: Measure, server: str) -> bool:
        """Whether it was refused."""
        return "why" in self._cell(measure, server)

    def _cell(self, measure: Measure, server: str) -> Cell:
        return self.cells.setdefault(measure.key, {}).setdefault(server, {})


@dataclass
class Run:
    """What a part is told, and what it fills."""

    scale: Scale
    rounds: int
    specs: list[Spec]
    place: Path
    tick: Callable[[float, str], None]              # the share that is done, and what is being done
    sheet: Sheet = field(default_factory=Sheet)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def full(self) -> list[Spec]:
        """The servers that everything is measured on."""
        return [spec for spec in self.specs if spec.full]


def interleave(run: Run, measures: Sequence[Measure], servers: Sequence[Server],
               step: Callable[[int, Measure, Server], float], before: Callable[[Measure], None] = lambda _measure: None,
               span: tuple[float, float] = (0.0, 1.0)) -> None:
    """Take the figures, round after round; span is the share of the part that this is."""
    sheet, done, steps = run.sheet, 0, (run.rounds + 1) * len(measures)
    for number in range(-1, run.rounds):
        for measure in measures:
            run.tick(span[0] + (span[1] - span[0]) * done / steps, measure.key)
            done += 1
            able = [server for server in rotated(servers, number) if not sheet.refused(measure, server.name)]
            for server, value in _taken(sheet, measure, able, partial(_step, sheet, step, number, measure), before):
                if number >= 0:
                    sheet.add(measure, server.name, value)


def _step(sheet: Sheet, step: Callable[[int, Measure, Server], float], number: int, measure: Measure,
          server: Server) -> float:
    """A figure; the warm-up round has the time to count tmpfsd's requests."""
    if number >= 0 or server.name != TMPFSD:
        return step(number, measure, server)
    before = client.status(server.mnt)["requests"]
    value = step(number, measure, server)
    after = client.status(server.mnt)["requests"]
    sheet.count(measure, server.name, {name: n - before.get(name, 0) for name, n in after.items()})
    return value


def _taken(sheet: Sheet, measure: Measure, servers: Sequence[Server], step: Callable[[Server], float],
           before: Callable[[Measure], None]) -> Iterable[tuple[Server, float]]:
    try:
        before(measure)
    except Refused as why:
        for server in servers:
            sheet.refuse(measure, server.name, str(why))
        return
    for server in servers:
        try:
            yield server, step(server)
        except Refused as why:
            sheet.refuse(measure, server.name, str(why))


def rotated(servers: Sequence[Server], number: int) -> list[Server]:
    """Begin with another server in each round, so that not always the same one follows a busy one."""
    at = number % len(servers) if servers else 0
    return [*servers[at:], *servers[:at]]


def drop_caches(what: str, *programs: str) -> None:
    """Have the kernel forget names and inodes (and pages); the programs are read in again.  => Refused."""
    try:
        DROP_CACHES.write_text(what, encoding="ascii")
    except OSError:
        raise Refused("needs root: the kernel's caches cannot be dropped") from None
    for program in programs:
        subprocess.run([program, "--version"], stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=60)
