"""bench/chart.py: two pictures, with a panel for each operation of one client: default, kernel and a peer; backends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tools.bench import data, listing, metadata, trees
from tools.bench.goals import Cells, middle, number
from tools.bench.scale import Scale
from tools.bench.servers import EXAMPLE, KERNEL, NOPERM, NULLFS, TMPFSD, counterpart
from tools.bench.sheet import FREE, RATE, SAME, Measure
from tools.experiments import figures

COLUMNS = 2
COLORS = {TMPFSD: "tab:blue", KERNEL: "black"}
OTHER, OTHER_BACKEND = "tab:green", "tab:cyan"
THICK = 0.4


def color(name: str) -> str:
    """A server's color."""
    return COLORS.get(name, OTHER_BACKEND if name.startswith(TMPFSD) else OTHER)


def peers(names: Sequence[str]) -> list[str]:
    """tmpfsd as it comes, the kernel's tmpfs, and one other server: a whole one before an example or the floor."""
    others = [name for name in names if not name.startswith(TMPFSD) and name != KERNEL]
    like = [name for name in others if counterpart(name, name) == TMPFSD and name != EXAMPLE]
    whole = [name for name in others if name not in (EXAMPLE, NULLFS)]
    chosen = (like or whole or others)[:1]
    return [name for name in names if name in (TMPFSD, KERNEL, *chosen)]


def backends(names: Sequence[str]) -> list[str]:
    """tmpfsd as it comes, and with the other backends."""
    return [name for name in names if name.startswith(TMPFSD) and name != NOPERM]


def panels() -> list[Measure]:
    """What is drawn: all of one client with free placement; beside it the same core, if that figure exists."""
    return [it for part in (metadata, listing, data, trees) for it in part.measures(Scale())
            if it.clients == 1 and it.placement == FREE]


def servers(results: Mapping[str, Any]) -> list[str]:
    """All that were measured, in order."""
    return list(dict(server for part in results.values() for server in part["servers"]))


def draw(names: Sequence[str], cells: Cells, path: Path) -> bool:
    """Draw these servers; False where no two of them can be compared."""
    drawn = [it for it in panels() if sum(middle(cells, it, name) is not None for name in names) > 1]
    if not drawn:
        return False
    rows = -(-len(drawn) // COLUMNS)
    figure, grid = figures.pyplot().subplots(rows, COLUMNS, squeeze=False, layout="constrained",
                                             figsize=(8, (0.35 * len(names) + 0.8) * rows + 0.5))
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
                axes.bar_label(bar, [number(value, it.unit)], padding=2, fontsize="small")
    beside = any(middle(cells, other, name) is not None for name in names)
    axes.set_yticks([at + beside * THICK / 2 for at in range(len(names))], names, fontsize="small")
    axes.invert_yaxis()
    axes.margins(x=0.25)
    axes.tick_params(axis="x", labelsize="small")
    better = "more is better" if measure.unit == RATE else "less is better"
    axes.set_title(measure.operation, fontsize="medium")
    axes.set_xlabel(f"{measure.unit}, {better}", fontsize="small")
