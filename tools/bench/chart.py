"""bench/chart.py: the picture: a panel for each operation of one client, a bar for each server."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tools.bench import data, listing, metadata, trees
from tools.bench.goals import Cells, middle, number
from tools.bench.scale import Scale
from tools.bench.servers import EXAMPLE, KERNEL, NULLFS, TMPFSD
from tools.bench.sheet import FREE, RATE, SAME, Measure
from tools.experiments import figures

COLUMNS = 4
COLORS = {TMPFSD: "tab:blue", KERNEL: "black", NULLFS: "tab:gray", EXAMPLE: "tab:orange"}
OTHER, OTHER_BACKEND = "tab:green", "tab:cyan"
THICK = 0.4


def color(name: str) -> str:
    """A server's color."""
    return COLORS.get(name, OTHER_BACKEND if name.startswith(TMPFSD) else OTHER)


def panels() -> list[Measure]:
    """What is drawn: everything of one client, free; the same core is drawn beside it where there is such a figure."""
    return [it for part in (metadata, listing, data, trees) for it in part.measures(Scale())
            if it.clients == 1 and it.placement == FREE]


def draw(results: Mapping[str, Any], cells: Cells, path: Path) -> bool:
    """Draw it; False when there is nothing to draw."""
    names = list(dict(server for part in results.values() for server in part["servers"]))
    drawn = [it for it in panels() if any(middle(cells, it, name) is not None for name in names)]
    if not drawn:
        return False
    rows = -(-len(drawn) // COLUMNS)
    figure, grid = figures.pyplot().subplots(rows, COLUMNS, squeeze=False, layout="constrained",
                                             figsize=(4.2 * COLUMNS, 2.6 * rows + 0.5))
    axes = [cell for row in grid for cell in row]
    for spare in axes[len(drawn):]:
        spare.set_visible(False)
    for cell, it in zip(axes, drawn):
        panel(cell, it, cells, [name for name in names if middle(cells, it, name) is not None])
    figure.suptitle(f"one client; solid: {FREE}, pale: {SAME}", fontsize="medium")
    figures.save(figure, path)
    return True


def panel(axes: Any, measure: Measure, cells: Cells, names: list[str]) -> None:
    """An operation."""
    other = measure._replace(placement=SAME)
    for at, name in enumerate(names):
        for offset, it, alpha in ((0.0, measure, 1.0), (THICK, other, 0.4)):
            value = middle(cells, it, name)
            if value is not None:
                bar = axes.barh(at + offset, value, THICK, color=color(name), alpha=alpha)
                axes.bar_label(bar, [number(value, it.unit)], padding=2, fontsize="x-small")
    axes.set_yticks(range(len(names)), names, fontsize="x-small")
    axes.invert_yaxis()
    axes.margins(x=0.2)
    better = "more is better" if measure.unit == RATE else "less is better"
    axes.set_title(measure.operation, fontsize="small")
    axes.set_xlabel(f"{measure.unit}, {better}", fontsize="x-small")
