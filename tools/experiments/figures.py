"""experiments/figures.py: PNG figures, as wide as the page that shows them.  matplotlib is loaded for the first.

Bars begin at zero.  What spans decades is shown as dots.  A line or a dot that is alone needs no legend.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

COLORS = {"wired": "tab:red", "pageable-flag": "tab:orange", "pageable-submap": "tab:blue", "aobj": "tab:green",
          "pageable-object": "tab:purple", "kernel tmpfs": "black"}
STYLES = {"pageable-flag": ":", "aobj": "--", "pageable-object": (0, (1, 3))}       # lines may overlap
Line = tuple[Sequence[float], Sequence[float]]


def pyplot() -> Any:
    """matplotlib without a display."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    return plt


def save(figure: Any, path: Path) -> None:
    """Write it, without anything that differs from one run to the next."""
    figure.savefig(path, dpi=100, metadata={"Software": None})
    pyplot().close(figure)


def bars(path: Path, title: str, label: str, values: Mapping[str, float]) -> None:
    """A bar for each name."""
    figure, axes = pyplot().subplots(layout="constrained", figsize=(8, 0.55 * len(values) + 1.2))
    names = list(values)
    drawn = axes.barh(names, [values[name] for name in names], color=[COLORS.get(name, "tab:gray") for name in names])
    axes.bar_label(drawn, [f"{values[name]:,.0f}" for name in names], padding=3, fontsize="small")
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel(label)
    axes.set_title(title, fontsize="medium")
    save(figure, path)


def dots(path: Path, title: str, label: str, values: Mapping[str, float]) -> None:
    """A dot for each name, on a logarithmic axis, on which the length of a bar would mean nothing."""
    figure, axes = pyplot().subplots(layout="constrained", figsize=(8, 0.45 * len(values) + 1.2))
    names = list(values)
    axes.plot([values[name] for name in names], range(len(names)), "o", color="tab:blue")
    for row, name in enumerate(names):
        axes.annotate(f"{values[name]:,.2f}", (values[name], row), xytext=(8, -4), textcoords="offset points",
                      fontsize="small")
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.margins(x=0.15)
    axes.grid(alpha=0.3, axis="x")
    axes.set_xlabel(label)
    axes.set_title(title, fontsize="medium")
    save(figure, path)


def lines(path: Path, title: str, xlabel: str, panels: Sequence[tuple[str, Mapping[str, Line]]],
          ylabel: str, xlog: bool = False) -> None:
    """Panels side by side, each with a line for each name; a title for each where there are several."""
    plt = pyplot()
    from matplotlib.ticker import EngFormatter, MaxNLocator
    columns = min(len(panels), 2)
    rows = -(-len(panels) // columns)
    figure, grid = plt.subplots(rows, columns, squeeze=False, layout="constrained", figsize=(8, 2.9 * rows + 0.6))
    cells = [cell for row in grid for cell in row]
    for cell in cells[len(panels):]:
        cell.set_visible(False)
    for cell, (name, drawn) in zip(cells, panels):
        for line, (xs, ys) in drawn.items():
            cell.plot(xs, ys, label=line, color=COLORS.get(line), linestyle=STYLES.get(line, "-"), linewidth=1.4,
                      marker="." if len(xs) < 12 else None)
        if xlog:
            cell.set_xscale("log", base=2)
            cell.xaxis.set_major_formatter("{x:g}")
        else:
            cell.xaxis.set_major_locator(MaxNLocator(5))
            cell.xaxis.set_major_formatter(EngFormatter(sep=""))
        if max(max(ys, default=0) for _xs, ys in drawn.values()) >= 1000:
            cell.yaxis.set_major_formatter(EngFormatter(sep=""))
        cell.set_ylim(bottom=0)
        if len(panels) > 1:
            cell.set_title(name, fontsize="medium")
        cell.set_xlabel(xlabel)
        cell.set_ylabel(ylabel)
        cell.grid(alpha=0.3)
    names = cells[0].get_legend_handles_labels()
    if len(names[1]) > 1:
        figure.legend(*names, loc="outside lower center", ncols=3, fontsize="small")
    figure.suptitle(title, fontsize="medium")
    save(figure, path)


def groups(path: Path, title: str, names: Sequence[str], series: Mapping[str, Sequence[float]]) -> None:
    """For each name a dot for each series, and a line where both are equal (1)."""
    plt = pyplot()
    figure, axes = plt.subplots(layout="constrained", figsize=(8, 0.75 * len(names) + 1.6))
    for i, (label, values) in enumerate(series.items()):
        offset = (i - (len(series) - 1) / 2) * 0.12
        axes.plot(values, [row + offset for row in range(len(names))], "os^Dvp*X"[i % 8], label=label)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3, axis="x")
    axes.set_xlabel("ratio of the rates; 1: alike")
    if len(series) > 1:
        figure.legend(loc="outside lower center", ncols=len(series), fontsize="small")
    axes.set_title(title, fontsize="medium")
    save(figure, path)
