"""stresskit/runner.py: runs the phases.

One process for each share and phase, forked, so that a phase ends when its processes have ended and nothing
is left over for the next.  While they work the tool only sleeps, takes samples and shows them.

Picture     signal 1: the stop word is set, workers end after their file.   signal 2: workers are killed.
            signal 3: the tool itself ends, without a summary.
Invariants  I1 When run_phase() returns, no worker is left, however the phase ended.
            I2 A signal ends the run; an error ends its phase, and the phases after it go on with the files
               that exist.
Limits      The time between samples doubles in long phases, so that none has more than MAX_SAMPLES of them.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from types import FrameType
from typing import Any, Callable, Iterable

from . import worker
from .board import BYTES, FILES, Board, Latency
from .plan import Plan
from .probe import Memory, Probe
from .worker import Failure

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
INTERVAL = 0.1              # seconds between samples, at first
MAX_INTERVAL = 10.0
SAMPLING_SHARE = 0.05       # at most this share of the time is spent on asking for the status and showing it
MAX_SAMPLES = 2000
DROP_CACHES = "/proc/sys/vm/drop_caches"

fork = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class Sample:
    """A moment of a phase."""

    seconds: float
    files: int
    bytes: int
    memory: Memory | None


@dataclass
class Phase:
    """A phase and its results."""

    name: str
    expected: int
    files: int = 0
    bytes: int = 0
    seconds: float = 0.0
    latency: Latency = Latency(0, 0, 0)
    memory: Memory | None = None
    failures: list[Failure] = field(default_factory=list)
    interrupted: bool = False
    ended: bool = False
    samples: list[Sample] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Files a second."""
        return self.files / self.seconds if self.seconds else 0.0

    @property
    def result(self) -> str:
        """The result in a word or two, for the summary."""
        if self.failures:
            return self.failures[0].error
        return "interrupted" if self.interrupted else "ok"


Show = Callable[[Phase], None]


class Signals:
    """Counts the signals that ask the run to end, and passes them on to the workers.

    Entered by the tool until its last output, so that a late signal does not cost the summary.
    """

    def __init__(self, board: Board) -> None:
        self.board = board
        self.pid = os.getpid()
        self.count = 0
        self.signum = 0
        self.processes: list[ForkProcess] = []
        self.before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        for signum in SIGNALS:
            if signum == signal.SIGHUP and signal.getsignal(signum) == signal.SIG_IGN:
                continue    # nohup(1)
            self.before[signum] = signal.signal(signum, self.handle)
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self.before.items():
            signal.signal(signum, handler)

    def handle(self, signum: int, _frame: FrameType | None) -> None:
        """Workers inherit this handler: there it only sets the stop word."""
        self.board.stop[0] = 1
        if os.getpid() != self.pid:
            return
        self.count += 1
        self.signum = self.signum or signum
        if self.count > 1:
            kill(self.processes)
            signal.signal(signum, signal.SIG_DFL)


def kill(processes: Iterable[ForkProcess]) -> None:
    """End workers that do not end by themselves."""
    for process in processes:
        if process.is_alive():
            process.kill()


def drop_caches() -> None:
    """Make the kernel forget all clean pages, entries and attributes, of all mounts."""
    os.sync()
    with open(DROP_CACHES, "w", encoding="ascii") as file:
        file.write("3\n")


class Runner:
    """Runs phases on one tree; signals end it only if somebody has entered self.signals."""

    def __init__(self, plan: Plan, base: str, probe: Probe, show: Show) -> None:
        self.plan = plan
        self.base = base
        self.probe = probe
        self.show = show
        self.board = Board(plan.dirs, plan.procs)
        self.signals = Signals(self.board)

    def run(self) -> list[Phase]:
        """All phases of the plan, up to a signal."""
        assert self.plan.pool is not None   # made here, before the fork
        phases = []
        for name in self.plan.phases:
            if self.signals.count:
                break
            if self.plan.cold and name != "create":
                drop_caches()
            phases.append(self.run_phase(name))
        return phases

    @property
    def existing(self) -> int:
        """How many files the create phase made."""
        return sum(self.board.created)

    def expected(self, name: str) -> int:
        """How many files a phase is to process."""
        if name == "create":
            return self.plan.files
        if name == "verify-random":
            shares = (sum(self.board.created[n::self.plan.procs]) for n in range(self.plan.procs))
            return sum(worker.sampled(share, self.plan.sample) for share in shares)
        return self.existing

    def run_phase(self, name: str) -> Phase:
        """Start the workers, watch them, and add up what they did."""
        phase = Phase(name, self.expected(name))
        self.board.reset()
        self.board.stop[0] = 0
        if self.signals.count:      # it came between the last check and the line above
            self.board.stop[0] = 1
        pipes = [fork.Pipe(duplex=False) for _ in range(self.plan.procs)]
        processes = [
            fork.Process(target=worker.run, daemon=True,
                         args=(name, self.plan, self.board, self.base, number, writer))
            for number, (_, writer) in enumerate(pipes)
        ]
        self.signals.processes = processes
        try:
            for process in processes:
                process.start()
            self.watch(phase, processes)
        finally:
            self.end(processes)
        phase.failures = self.failures(name, processes, [reader for reader, _ in pipes])
        phase.interrupted = bool(self.signals.count)
        for end in (end for pipe in pipes for end in pipe):
            end.close()
        self.take_sample(phase)
        phase.latency = self.board.latency()
        phase.memory = phase.samples[-1].memory
        phase.ended = True
        self.show(phase)
        return phase

    def watch(self, phase: Phase, processes: list[ForkProcess]) -> None:
        """Take samples until all workers have ended."""
        interval = INTERVAL
        running = processes
        while running:
            started = time.monotonic()
            self.take_sample(phase)
            self.show(phase)
            interval = min(max(interval, (time.monotonic() - started) / SAMPLING_SHARE), MAX_INTERVAL)
            if len(phase.samples) >= MAX_SAMPLES:
                del phase.samples[1::2]
                interval *= 2
            deadline = started + interval
            while running and (left := deadline - time.monotonic()) > 0:
                wait([process.sentinel for process in running], left)
                running = [process for process in running if process.is_alive()]

    def take_sample(self, phase: Phase) -> None:
        """Update the phase."""
        phase.files, phase.bytes = self.board.total(FILES), self.board.total(BYTES)
        phase.seconds = self.board.seconds(worker.clock())
        memory = self.probe.read()
        phase.samples.append(Sample(phase.seconds, phase.files, phase.bytes, memory))

    def end(self, processes: list[ForkProcess]) -> None:
        """No worker outlives its phase; those still there remain because the tool failed."""
        kill([process for process in processes if process.pid])
        for process in processes:
            if process.pid:
                process.join()

    def failures(self, name: str, processes: list[ForkProcess], readers: list[Connection]) -> list[Failure]:
        """What the workers sent, and what happened to those that could not send."""
        failures = []
        for number, (process, reader) in enumerate(zip(processes, readers)):
            if reader.poll():
                failures.append(reader.recv())
            elif process.exitcode and not self.signals.count:
                failures.append(Failure(name, "DIED", self.base,
                                        f"worker {number} ended with status {process.exitcode}"))
        return failures
