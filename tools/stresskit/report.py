"""stresskit/report.py: what remains when a run is done: the summary and the JSON file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from .display import human_bytes, human_time
from .plan import Plan
from .probe import Memory, Mounted
from .runner import Phase, Sample

PIPE_WIDTH = 100    # columns of the summary without a terminal that says how wide it is
TIGHT_WIDTH = 100   # in fewer columns the blanks are dropped, so that the figures stay


@dataclass(frozen=True)
class Report:
    """A whole run, as it is reported."""

    command: list[str]
    started: str
    target: str
    mounted: Mounted
    plan: Plan
    before: Memory | None
    phases: list[Phase]
    left: str | None
    exit_status: int


def counted(number: int, singular: str, plural: str) -> str:
    """1 process, 2 processes."""
    return f"{number:,} {singular if number == 1 else plural}"


def title(report: Report) -> str:
    """What was run, and where."""
    plan = report.plan
    return (f"{report.target} ({report.mounted.fstype}): {counted(plan.files, 'file', 'files')} "
            f"of {human_bytes(plan.size)} in {counted(plan.dirs, 'directory', 'directories')}, "
            f"{counted(plan.procs, 'process', 'processes')}")


def empty_table(width: int, *headings: str) -> Table:
    """A table of figures; its first column is the phase."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, int(width >= TIGHT_WIDTH)))
    table.add_column("phase", no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def speed_table(report: Report, width: int) -> Table:
    """A row for each phase: how much, how fast, how late."""
    plan = report.plan
    throughput = ("MiB/s",) if plan.size else ()
    table = empty_table(width, "files", "seconds", "files/s", *throughput, "p50", "p99", "max", "result")
    for phase in report.phases:
        throughput = (throughput_of(phase),) if plan.size else ()
        latencies = (human_time(latency) if latency else "-" for latency in phase.latency)
        style = None if phase.result == "ok" else "bold red"
        table.add_row(phase.name, f"{phase.files:,}", f"{phase.seconds:.2f}", f"{phase.rate:,.0f}",
                      *throughput, *latencies, phase.result, style=style)
    if any(phase.name == "list" for phase in report.phases):
        table.caption = "list: latencies are those of a whole directory"
        table.caption_justify = "left"
    return table


def throughput_of(phase: Phase) -> str:
    """MiB a second, if a phase moves bytes."""
    return f"{phase.bytes / phase.seconds / 2**20:,.1f}" if phase.bytes and phase.seconds else "-"


def memory_table(report: Report, width: int) -> Table | None:
    """A row for each phase: the mount's memory at its end, and its paging during it."""
    if report.before is None or any(phase.memory is None for phase in report.phases):
        return None
    table = empty_table(width, "resident", "swapped", "faults", "page-ins", "page-outs")
    last = report.before
    table.add_row("(before)", human_bytes(last.resident_bytes), human_bytes(last.swapped_bytes), *"---")
    for phase in report.phases:
        now = phase.memory
        assert now is not None
        table.add_row(phase.name, human_bytes(now.resident_bytes), human_bytes(now.swapped_bytes),
                      f"{now.faults - last.faults:,}", f"{now.pageins - last.pageins:,}",
                      f"{now.pageouts - last.pageouts:,}")
        last = now
    return table


def print_summary(report: Report, console: Console) -> None:
    """Print tables, errors, and what is left behind."""
    if not console.is_terminal:
        console.width = max(console.width, PIPE_WIDTH)
    plain: dict[str, Any] = {"soft_wrap": True, "highlight": False, "markup": False}
    console.print(title(report), style="bold", **plain)
    console.print(speed_table(report, console.width))
    memory = memory_table(report, console.width)
    if memory:
        console.print(memory)
    for phase in report.phases:
        for failure in phase.failures:
            console.print(str(failure), style="red", **plain)
        if phase.interrupted:
            console.print(f"interrupted in {phase.name}, after {phase.files:,} of {phase.expected:,} files",
                          **plain)
    if report.left:
        console.print(f"the files are left in {report.left}", **plain)


def phase_as_dict(phase: Phase) -> dict[str, Any]:
    """A phase for JSON."""
    return {
        "name": phase.name, "expected": phase.expected, "files": phase.files, "bytes": phase.bytes,
        "seconds": phase.seconds, "files_per_second": phase.rate, "result": phase.result,
        "latency_ns": phase.latency._asdict(),
        "memory": phase.memory._asdict() if phase.memory else None,
        "failures": [asdict(failure) for failure in phase.failures],
        "samples": [sample_as_dict(sample) for sample in phase.samples],
    }


def sample_as_dict(sample: Sample) -> dict[str, Any]:
    """A sample for JSON; without a status, without its keys."""
    memory = sample.memory._asdict() if sample.memory else {}
    return {"seconds": sample.seconds, "files": sample.files, "bytes": sample.bytes, **memory}


def write_json(report: Report, path: str) -> None:
    """Write everything that is known of the run."""
    told = {
        "command": report.command, "started": report.started, "target": report.target,
        "mount": asdict(report.mounted), "plan": asdict(report.plan),
        "before": report.before._asdict() if report.before else None,
        "phases": [phase_as_dict(phase) for phase in report.phases],
        "left": report.left, "exit_status": report.exit_status,
    }
    with open(path, "w", encoding="utf-8") as file:
        json.dump(told, file, indent=1)
        file.write("\n")
