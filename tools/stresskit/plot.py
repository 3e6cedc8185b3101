"""stresskit/plot.py: the picture of a run: rate, and on a tmpfsd mount memory, over files created."""

from __future__ import annotations

from typing import Sequence

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot  # noqa: E402  (the backend comes first)
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.ticker import EngFormatter, MaxNLocator  # noqa: E402

from .report import Report  # noqa: E402
from .runner import Phase, Sample  # noqa: E402

MEBI = 1 << 20


def rates(samples: Sequence[Sample]) -> tuple[list[int], list[float]]:
    """Files created, and files a second since the sample before; samples without progress are left out."""
    files, rate, last = [], [], None
    for sample in samples:
        if last is not None and sample.files > last.files and sample.seconds > last.seconds:
            files.append(sample.files)
            rate.append((sample.files - last.files) / (sample.seconds - last.seconds))
        elif last is not None:
            continue
        last = sample
    return files, rate


def draw_rate(axes: Axes, phase: Phase) -> None:
    """Files a second, and their mean."""
    files, rate = rates(phase.samples)
    axes.plot(files, rate, color="tab:blue", linewidth=1, label="rate",
              marker="." if len(files) < 50 else None)
    axes.axhline(phase.rate, color="tab:blue", linestyle=":", linewidth=1, label=f"mean {phase.rate:,.0f}/s")
    axes.set_ylabel("files created a second")
    axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_ylim(bottom=0)
    axes.legend(loc="lower right", fontsize="small")
    axes.grid(alpha=0.3)


def draw_memory(axes: Axes, samples: Sequence[Sample]) -> None:
    """Resident and swapped bytes."""
    known = [(sample.files, sample.memory) for sample in samples if sample.memory]
    files = [number for number, _ in known]
    resident = [memory.resident_bytes / MEBI for _, memory in known]
    swapped = [memory.swapped_bytes / MEBI for _, memory in known]
    axes.plot(files, resident, color="tab:green", label="resident")
    axes.plot(files, swapped, color="tab:red", label="swapped")
    axes.set_ylabel("MiB")
    axes.set_ylim(bottom=0)
    axes.legend(loc="upper left", fontsize="small")
    axes.grid(alpha=0.3)


def write_plot(report: Report, path: str) -> None:
    """The picture, in the format that the name of the file says."""
    phase = report.phases[0]
    has_memory = any(sample.memory for sample in phase.samples)
    figure, grid = pyplot.subplots(2 if has_memory else 1, 1, sharex=True, squeeze=False,
                                   layout="constrained", figsize=(9, 7 if has_memory else 4.5))
    axes = [row[0] for row in grid]
    draw_rate(axes[0], phase)
    if has_memory:
        draw_memory(axes[1], phase.samples)
    axes[-1].set_xlabel("files created")
    axes[-1].xaxis.set_major_formatter(EngFormatter(sep=""))
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[-1].set_xlim(left=0)
    ended = "" if phase.result == "ok" else f", ended by {phase.result}"
    axes[0].set_title(f"{report.target} ({report.mounted.fstype}): {phase.files:,} files of "
                      f"{report.plan.size:,} bytes{ended}", fontsize="medium")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
