"""bench/goals.py: ratios, and the goals.

A ratio says how many times as fast: microseconds and seconds are divided the other way round than MiB a second.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median, quantiles
from typing import Any, NamedTuple

from tools.bench import data, idle, listing, metadata, pressure, trees
from tools.bench.servers import EXAMPLE, NOPERM, NULLFS, TMPFSD
from tools.bench.sheet import FREE, PERCENT, RATE, SAME, SECONDS, Measure
from tools.experiments.report import GOAL_MET, GOAL_MISSED

# The names that goals use for libfuse's example (--peer memfs_ll=...), without and with the kernel's permission check.
# Each is compared with the tmpfsd that does the same.
MEMFS = "memfs_ll"
MEMFS_CHECKED = "memfs_ll, default_permissions"
Cells = Mapping[str, Mapping[str, Mapping[str, Any]]]


def number(value: float, unit: str) -> str:
    """A figure, with the digits that its precision allows."""
    if unit in (SECONDS, PERCENT):
        return f"{value:.2f}" if value >= 0.1 or not value else f"{value:.3f}"
    return f"{value:,.0f}" if unit == RATE or value >= 100 else f"{value:.1f}"


def middle(cells: Cells, measure: Measure, server: str) -> float | None:
    """The median of a cell; None if it was not measured."""
    cell = cells.get(measure.key, {}).get(server, {})
    return median(cell["samples"]) if cell.get("samples") and "why" not in cell else None


def spread(cells: Cells, measure: Measure, server: str) -> float | None:
    """Half the interquartile range, as a share of the median."""
    samples = cells.get(measure.key, {}).get(server, {}).get("samples", [])
    if len(samples) < 2 or not median(samples):
        return None
    first, _, third = quantiles(samples, n=4, method="inclusive")
    return (third - first) / 2 / median(samples)


def why_not(cells: Cells, measure: Measure, server: str) -> str:
    """Why a cell was not measured."""
    why: str = cells.get(measure.key, {}).get(server, {}).get("why", "")
    return why or "not in this run"


def times_as_fast(one: float | None, other: float | None, unit: str) -> float | None:
    """How many times as fast `one` is."""
    if not one or not other:
        return None
    return one / other if unit == RATE else other / one


class Goal(NamedTuple):
    """A goal: a ratio against another server, or a figure of tmpfsd's own (against is empty)."""

    measure: Measure
    against: str
    bound: float
    above: bool = False         # equal to the bound is not enough
    server: str = TMPFSD

    @property
    def text(self) -> str:
        """The goal in words."""
        what = self.measure.operation
        if self.measure.unit != PERCENT and what != pressure.CREATE:
            what += f", {self.measure.placement}"
        if self.server == NOPERM:
            what = f"{NOPERM}: {what}"
        if not self.against:
            return f"{what}: at most {self.bound:g} {self.measure.unit}"
        return f"{what}: {'more than' if self.above else 'at least'} {self.bound:g} times {self.against}"

    def figure(self, cells: Cells) -> float | None:
        """What was measured."""
        own = middle(cells, self.measure, self.server)
        if not self.against:
            return own
        return times_as_fast(own, middle(cells, self.measure, self.against), self.measure.unit)

    def reached(self, figure: float) -> bool:
        """Whether the goal is reached."""
        if not self.against:
            return figure <= self.bound
        return figure > self.bound if self.above else figure >= self.bound

    def verdict(self, cells: Cells) -> tuple[str, str]:
        """The figure, and the verdict on it."""
        figure = self.figure(cells)
        if figure is not None:
            return f"{figure:.2f}", GOAL_MET if self.reached(figure) else GOAL_MISSED
        lacking = next((name for name in (self.server, self.against)
                        if name and middle(cells, self.measure, name) is None), self.server)
        return "-", f"not measured: {lacking}: {why_not(cells, self.measure, lacking)}"


def _free(operation: str) -> Measure:
    return Measure(operation, FREE)


def _tree(operation: str) -> Measure:
    return Measure(operation, FREE, unit=SECONDS)


GOALS = (
    *(Goal(measure, against, bound, server=server)
      for against, server in ((MEMFS_CHECKED, TMPFSD), (MEMFS, NOPERM))
      for measure, bound in ((_free("create"), 1.25), (Measure("create", SAME), 1.1), (_free("open-close"), 8.0),
                             (_free(metadata.COLD), 2.0), (_free("unlink"), 1.5), (_free("rename"), 1.2),
                             (_free("mkdir"), 1.2), (_tree(trees.UNPACK), 1.5), (_tree(trees.COPY), 1.5),
                             (_tree(trees.REMOVE), 1.5), (_tree(trees.FIND), 2.0), (_tree(trees.GREP), 4.0))),
    Goal(_free("create"), EXAMPLE, 3.5),
    Goal(_free("create"), NULLFS, 1.0, above=True),
    Goal(Measure("create", SAME), NULLFS, 1.05),
    Goal(Measure("create", SAME), NULLFS, 1.05, server=NOPERM),
    Goal(Measure(listing.LONG), "", 12.0),
    Goal(Measure(data.WRITE, unit=RATE), NULLFS, 0.6),
    Goal(Measure(data.READ, unit=RATE), NULLFS, 0.5),
    Goal(Measure(data.RANDOM_WRITE, unit=RATE), NULLFS, 0.85),
    Goal(Measure(data.RANDOM_READ, unit=RATE), NULLFS, 0.85),
    Goal(Measure(pressure.CREATE), pressure.RESIDENT_NAME, 0.6, server=pressure.TIGHT_NAME),
    Goal(Measure(idle.IDLE, unit=PERCENT), "", 0.0),
)
