"""tools/files_chart.py: the two bars of README.md: how many files fit into 128 MiB, from the results of E1.

    python -m tools.files_chart
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tools.experiments import figures

RESULTS = Path(__file__).parent / "experiments" / "results.json"
PICTURE = Path(__file__).parent / "files.png"
BARS = {"kernel-cgroup": ("the kernel's tmpfs,\nthen killed", "black"),
        "tmpfsd-cgroup": ("tmpfsd,\nstill serving", "tab:blue")}
ROOM = 1.16                 # to the right of the longest bar, for its number


def counts(results: Path) -> dict[str, int]:
    """How many files there were at the end, by job."""
    jobs = json.loads(results.read_text(encoding="utf-8"))["E1"]["jobs"]
    return {name: jobs[name].get("found", jobs[name]["created"]) for name in BARS}      # found: after it was killed


def draw(found: dict[str, int], path: Path) -> None:
    """Draw a bar for each, from zero."""
    figure, axes = figures.pyplot().subplots(layout="constrained", figsize=(8, 1.9))
    names = [BARS[name][0] for name in found]
    drawn = axes.barh(names, list(found.values()), color=[BARS[name][1] for name in found], height=0.6)
    axes.bar_label(drawn, [f"{count:,}" for count in found.values()], padding=5, fontsize=13)
    axes.tick_params(axis="y", labelsize=12, length=0)
    axes.set_title("Empty files in a memory cgroup of 128 MiB", fontsize=13)
    axes.set_xlim(0, max(found.values()) * ROOM)
    axes.set_xticks([])
    axes.invert_yaxis()
    for side in ("top", "right", "bottom"):
        axes.spines[side].set_visible(False)
    figures.save(figure, path)


def main() -> None:
    """Draw it from the committed results."""
    parser = argparse.ArgumentParser(prog="python -m tools.files_chart", description="Draw the chart of README.md.")
    parser.add_argument("--out", type=Path, default=PICTURE, metavar="FILE.png")
    draw(counts(RESULTS), parser.parse_args().out)


if __name__ == "__main__":
    main()
