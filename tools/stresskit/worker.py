"""stresskit/worker.py: what a worker process does in a phase.

A worker has every procs-th directory and does one file after the other, as fast as it can: the loops below
do little beside the calls that are measured.  It ends when its share is done, when somebody sets the stop
word, or at the first error, which it sends to the tool as a Failure, and which stops the others.

Invariants  I1 A file is complete or does not exist: the stop word is read between files, and a file that
               could not be finished is removed.  (A worker that is killed may leave one.)
            I2 Verified is what created[] says exists, also after a create phase that ended early.
Limits      Entries and attributes that the kernel caches are verified from its cache, unless the plan says cold.
"""

from __future__ import annotations

import errno
import gc
import os
import stat
import time
from bisect import bisect_right
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import accumulate
from multiprocessing.connection import Connection
from typing import Callable, Iterator

from .board import END, FILES, START, Board
from .plan import Plan, scattered

CREATE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL
DIRECTORY_FLAGS = os.O_PATH | os.O_DIRECTORY   # O_PATH: no OPENDIR request to a FUSE server
CREATE_MODE = 0o644
DIRECTORY_MODE = 0o755

clock = time.perf_counter_ns


@dataclass(frozen=True)
class Failure:
    """What ended a phase, and at which file."""

    phase: str
    error: str      # the errno's name, or MISMATCH, or DIED
    file: str
    message: str

    def __str__(self) -> str:
        return f"{self.phase}: {self.error} at {self.file}: {self.message}"


class Mismatch(Exception):
    """A file, or a directory, is not what was written."""


class Stopped(Exception):
    """The stop word was set in the middle of a file."""


class Worker:
    """A worker's share, and its position in it."""

    __slots__ = ("plan", "board", "meter", "base", "base_fd", "directories", "directory", "name")

    def __init__(self, plan: Plan, board: Board, base: str, number: int) -> None:
        self.plan = plan
        self.board = board
        self.meter = board.meters[number]
        self.base = base
        self.base_fd = os.open(base, DIRECTORY_FLAGS)
        self.directories = range(number, plan.dirs, plan.procs)
        self.directory = 0
        self.name = ""

    @property
    def place(self) -> str:
        """The path of the file that is being worked on."""
        return os.path.join(self.base, self.plan.directory_name(self.directory), self.name)

    def enter_each(self) -> Iterator[int]:
        """Go through the share; self.directory and self.name say where an error happened."""
        for self.directory in self.directories:
            self.name = ""
            if self.board.stop[0]:
                return
            yield self.directory

    @contextmanager
    def opened(self, directory: int) -> Iterator[int]:
        """A descriptor to which the names of the directory's files are relative."""
        dir_fd = os.open(self.plan.directory_name(directory), DIRECTORY_FLAGS, dir_fd=self.base_fd)
        try:
            yield dir_fd
        finally:
            os.close(dir_fd)


def write_content(worker: Worker, fd: int, number: int) -> None:
    """Write all bytes of a file; after a short write the next one fails and says why."""
    for piece in worker.plan.content(number):
        if worker.board.stop[0]:
            raise Stopped
        written = os.write(fd, piece)
        while written < len(piece):
            written += os.write(fd, piece[written:])


def create_file(worker: Worker, dir_fd: int, name: str, number: int) -> None:
    """Create a file with its content, or nothing."""
    fd = os.open(name, CREATE_FLAGS, CREATE_MODE, dir_fd=dir_fd)
    try:
        try:
            if worker.plan.size:
                write_content(worker, fd, number)
        finally:
            os.close(fd)
    except (OSError, Stopped):
        with suppress(OSError):
            os.unlink(name, dir_fd=dir_fd)
        raise


def create(worker: Worker) -> None:
    """Make the directories of the share and all files in them."""
    plan, board, meter = worker.plan, worker.board, worker.meter
    stop, created, name_format = board.stop, board.created, plan.name_format
    for directory in worker.enter_each():
        os.mkdir(plan.directory_name(directory), DIRECTORY_MODE, dir_fd=worker.base_fd)
        with worker.opened(directory) as dir_fd:
            first = plan.first(directory)
            for index in range(plan.files_in(directory)):
                if stop[0]:
                    return
                worker.name = name = name_format % index
                started = clock()
                create_file(worker, dir_fd, name, first + index)
                meter.lap(clock() - started, plan.size)
                created[directory] = index + 1


def verify_file(worker: Worker, dir_fd: int, path: str, number: int) -> None:
    """Stat a file and read all of it back."""
    plan, found = worker.plan, os.stat(path, dir_fd=dir_fd, follow_symlinks=False)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1 or found.st_size != plan.size:
        raise Mismatch(f"not a regular file of {plan.size} bytes with one link: mode {found.st_mode:o}, "
                       f"{found.st_size} bytes, {found.st_nlink} links")
    fd = os.open(path, os.O_RDONLY, dir_fd=dir_fd)
    try:
        if plan.size:   # clean pages leave the kernel's cache, so that the file system itself is asked
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            compare(worker, fd, number)
        elif os.read(fd, 1):
            raise Mismatch("an empty file has bytes")
    finally:
        os.close(fd)


def compare(worker: Worker, fd: int, number: int) -> None:
    """Compare each byte of an open file with what was written."""
    offset = 0
    for piece in worker.plan.content(number):
        if worker.board.stop[0]:
            raise Stopped
        data = os.read(fd, len(piece))
        while len(data) < len(piece):
            more = os.read(fd, len(piece) - len(data))
            if not more:
                raise Mismatch(f"ends at byte {offset + len(data)} of {worker.plan.size}")
            data += more
        if data != piece:
            at = next(i for i, (got, want) in enumerate(zip(data, piece)) if got != want)
            raise Mismatch(f"byte {offset + at} is {data[at]:#04x} and not {piece[at]:#04x}")
        offset += len(piece)


def verify(worker: Worker) -> None:
    """Stat and read all files of the share, in the order in which they were created."""
    plan, board, meter = worker.plan, worker.board, worker.meter
    for directory in worker.enter_each():
        if not board.created[directory]:
            continue
        with worker.opened(directory) as dir_fd:
            first = plan.first(directory)
            for index in range(board.created[directory]):
                if board.stop[0]:
                    return
                worker.name = name = plan.name_format % index
                started = clock()
                verify_file(worker, dir_fd, name, first + index)
                meter.lap(clock() - started, plan.size)


def sampled(files: int, percent: float) -> int:
    """How many of this many files are verified at random."""
    return -(-files * round(percent * 1000) // 100_000)


def verify_random(worker: Worker) -> None:
    """Stat and read the sample of the share, in an order without locality."""
    plan, board, meter = worker.plan, worker.board, worker.meter
    ends = list(accumulate(board.created[directory] for directory in worker.directories))
    files = ends[-1]
    order = scattered(files, plan.seed)
    for _ in range(sampled(files, plan.sample)):
        if board.stop[0]:
            return
        position = next(order)
        nth = bisect_right(ends, position)
        worker.directory = directory = worker.directories[nth]
        index = position - (ends[nth - 1] if nth else 0)
        worker.name = name = plan.name_format % index
        path = f"{plan.directory_name(directory)}/{name}"
        started = clock()
        verify_file(worker, worker.base_fd, path, plan.first(directory) + index)
        meter.lap(clock() - started, plan.size)


def list_directory(worker: Worker, directory: int, names: os._ScandirIterator[str]) -> None:
    """Each name that was created must come exactly once, and no other."""
    plan, words, stop = worker.plan, worker.meter.words, worker.board.stop
    expected = worker.board.created[directory]
    seen = bytearray(expected)
    for entry in names:
        if stop[0]:
            raise Stopped
        worker.name = name = entry.name
        index = int(name) if name.isdigit() and len(name) == plan.name_length else expected
        if index >= expected:
            raise Mismatch("nobody created this name")
        if seen[index]:
            raise Mismatch("listed twice")
        seen[index] = 1
        words[FILES] += 1
    missed = seen.find(0)
    if missed >= 0:
        worker.name = plan.name_format % missed
        raise Mismatch(f"not listed, as {seen.count(0)} of {expected} names")


def list_all(worker: Worker) -> None:
    """List each directory of the share; a latency is that of a whole directory."""
    for directory in worker.enter_each():
        if not worker.board.created[directory]:
            continue
        started = clock()
        fd = os.open(worker.plan.directory_name(directory), os.O_DIRECTORY, dir_fd=worker.base_fd)
        try:
            with os.scandir(fd) as names:
                list_directory(worker, directory, names)
        finally:
            os.close(fd)
        worker.meter.observe(clock() - started)


def unlink(worker: Worker) -> None:
    """Remove all files of the share, and their directories."""
    plan, board, meter = worker.plan, worker.board, worker.meter
    for directory in worker.enter_each():
        if not board.created[directory]:    # perhaps there is not even a directory
            with suppress(FileNotFoundError):
                os.rmdir(plan.directory_name(directory), dir_fd=worker.base_fd)
            continue
        with worker.opened(directory) as dir_fd:
            for index in range(board.created[directory]):
                if board.stop[0]:
                    return
                worker.name = name = plan.name_format % index
                started = clock()
                os.unlink(name, dir_fd=dir_fd)
                meter.lap(clock() - started, 0)
        worker.name = ""
        os.rmdir(plan.directory_name(directory), dir_fd=worker.base_fd)


PHASES: dict[str, Callable[[Worker], None]] = {
    "create": create,
    "verify": verify,
    "verify-random": verify_random,
    "list": list_all,
    "unlink": unlink,
}


def run(phase: str, plan: Plan, board: Board, base: str, number: int, failures: Connection) -> None:
    """The whole life of a worker process; errors go to the tool, and stop the other workers."""
    gc.disable()    # the loops make no cycles
    words = board.meters[number].words
    words[START] = clock()
    place = base
    worker = None
    try:
        worker = Worker(plan, board, base, number)
        PHASES[phase](worker)
    except Stopped:
        pass
    except (OSError, Mismatch) as error:
        board.stop[0] = 1
        place = worker.place if worker else base
        failures.send(failure_of(phase, error, place))
    finally:
        words[END] = clock()


def failure_of(phase: str, error: OSError | Mismatch, place: str) -> Failure:
    """An error as the tool reports it."""
    if isinstance(error, OSError):
        number = error.errno or 0
        return Failure(phase, errno.errorcode.get(number, f"errno {number}"), place, os.strerror(number))
    return Failure(phase, "MISMATCH", place, str(error))
