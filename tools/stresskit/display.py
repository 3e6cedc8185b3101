"""stresskit/display.py: what is shown while a run goes on.

A bar on a terminal, plain lines at intervals elsewhere.  Both are drawn by the tool's own loop: rich's
refresh thread stays off, because the tool forks.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from .probe import Memory
from .runner import Phase

WINDOW = 1.0        # seconds over which the rate is taken
LINE_EVERY = 2.0    # seconds between plain lines
MIN_BAR, MAX_BAR = 10, 50
BESIDE_BAR = 60     # columns of everything else, and room for the ^C of a terminal, which would wrap a full line


def human_bytes(number: float) -> str:
    """1536 -> 1.5 KiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(number) < 1024:
            return f"{number:.0f} B" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"


def human_time(nanoseconds: float) -> str:
    """12345 -> 12.3us; short, for tables."""
    for unit in ("ns", "us", "ms"):
        if nanoseconds < 1000:
            return f"{nanoseconds:.3g}{unit}"
        nanoseconds /= 1000
    return f"{nanoseconds:.3g}s"


def recent_rate(phase: Phase) -> float:
    """Files a second over the last second or so."""
    if not phase.samples:
        return 0.0
    last = phase.samples[-1]
    for sample in reversed(phase.samples[:-1]):
        if last.seconds - sample.seconds >= WINDOW:
            return (last.files - sample.files) / (last.seconds - sample.seconds)
    return phase.rate


def memory_line(memory: Memory | None) -> str:
    """Resident, swapped, faults; nothing on other file systems."""
    if memory is None:
        return ""
    return (f"resident {human_bytes(memory.resident_bytes)}  swapped {human_bytes(memory.swapped_bytes)}  "
            f"faults {memory.faults:,}  in {memory.pageins:,}  out {memory.pageouts:,}")


class Display(Protocol):
    """Shows the progress of a phase."""

    def __enter__(self) -> Display: ...

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None: ...

    def show(self, phase: Phase) -> None:
        """Called at each sample and at the end of each phase."""


class Bars:
    """A bar for each phase, and the memory under them."""

    def __init__(self, console: Console) -> None:
        bar = BarColumn(bar_width=max(MIN_BAR, min(console.width - BESIDE_BAR, MAX_BAR)))
        self.progress = Progress(
            TextColumn("{task.description:<13}"), bar, MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:>9,.0f}/s"), TimeElapsedColumn(),
            console=console, auto_refresh=False)
        self.live = Live(console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
        self.tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Bars:
        self.live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.live.stop()

    def show(self, phase: Phase) -> None:
        """Redraw."""
        if phase.name not in self.tasks:
            self.tasks[phase.name] = self.progress.add_task(phase.name, total=phase.expected, rate=0.0)
        self.progress.update(self.tasks[phase.name], completed=phase.files,
                             rate=phase.rate if phase.ended else recent_rate(phase))
        if phase.ended:
            self.progress.stop_task(self.tasks[phase.name])
        memory = memory_line(phase.samples[-1].memory)
        self.live.update(Group(self.progress, Text(memory)) if memory else self.progress, refresh=True)


class Lines:
    """A line every few seconds and at the end of each phase."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.next = 0.0

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        pass

    def show(self, phase: Phase) -> None:
        """Print a line when it is time for one."""
        if not phase.ended and time.monotonic() < self.next:
            return
        self.next = time.monotonic() + LINE_EVERY
        rate = phase.rate if phase.ended else recent_rate(phase)
        line = (f"{phase.name:<13} {phase.files:>10,} of {phase.expected:,}  {rate:>9,.0f}/s  "
                f"{phase.seconds:7.1f} s   {memory_line(phase.samples[-1].memory)}")
        self.console.print(line.rstrip(), soft_wrap=True, highlight=False, markup=False)


def display_on(console: Console) -> Display:
    """The display that fits the console."""
    return Bars(console) if console.is_terminal else Lines(console)
