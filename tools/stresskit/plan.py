"""stresskit/plan.py: what is to be done.

A plan says how many files go into which directory, what each is called and what bytes it holds.  Everything
follows from the number of the file, so a worker need not remember or be told anything about a file.

Invariants  I1 Directory d holds the files first(d) <= number < first(d + 1); sizes differ by at most one.
            I2 Two files have the same bytes only when their numbers are equal modulo POOL_BYTES (and by
               chance when they are a few bytes long).
Limits      Names are decimal numbers padded with zeroes; names of other shapes are left to the mount tests.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cached_property
from typing import Iterator

NAME_MAX = 255
CHUNK = 128 << 10       # bytes of one write() or read()
POOL_BYTES = 4 << 20    # random bytes from which all content is cut; a power of two
FILE_STEP = 0x9E3779B1  # odd, so that the first POOL_BYTES files start at different places in the pool
CHUNK_STEP = 0x85EBCA6B
DEFAULT_FILES = 10_000
DEFAULT_PER_DIR = 1_000
SUFFIXES = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}


class PlanError(ValueError):
    """An option that makes no sense, or contradicts another one."""


def parse_size(text: str) -> int:
    """Bytes of "4096", "4k", "1m", "2g"."""
    digits = text.rstrip("kmgtKMGT")
    suffix = text[len(digits):].lower()
    if not (digits.isascii() and digits.isdigit()) or suffix not in SUFFIXES:
        raise PlanError(f"{text!r} is not a size: digits with an optional k, m, g or t")
    return int(digits) << SUFFIXES[suffix]


def share_out(files: int | None, dirs: int | None, per_dir: int | None) -> tuple[int, int]:
    """The number of files and of directories, from those of the three that were given."""
    if dirs and per_dir:
        if files not in (None, dirs * per_dir):
            raise PlanError(f"--files {files} contradicts --dirs {dirs} with --per-dir {per_dir}: "
                            f"that is {dirs * per_dir}; leave one of them out")
        return dirs * per_dir, dirs
    files = DEFAULT_FILES if files is None else files
    if dirs is None:
        dirs = -(-files // (per_dir or DEFAULT_PER_DIR))
    if dirs > files:
        raise PlanError(f"--dirs {dirs}: more directories than the {files} files to put there")
    return files, dirs


@dataclass(frozen=True)
class Plan:
    """What one run does; raises an error if it cannot be done."""

    files: int
    dirs: int
    procs: int = 1
    name_length: int = 13
    size: int = 0
    verify: bool = False
    sample: float = 100.0
    unlink: bool = False
    cold: bool = False
    seed: int = 1

    def __post_init__(self) -> None:
        if self.procs > self.dirs:
            raise PlanError(f"--procs {self.procs}: processes share the work by directory, and there "
                            f"{'is' if self.dirs == 1 else 'are'} only {self.dirs}")
        if self.name_length > NAME_MAX:
            raise PlanError(f"--name-length {self.name_length}: a name has at most {NAME_MAX} bytes")
        need = len(str(self.files_in(0) - 1))
        if self.name_length < need:
            raise PlanError(f"--name-length {self.name_length}: {self.files_in(0)} names in a directory "
                            f"need {need}")

    @property
    def phases(self) -> tuple[str, ...]:
        """The phases of the run, in order."""
        verify = ("verify", "verify-random", "list") if self.verify else ()
        return ("create", *verify, *(("unlink",) if self.unlink else ()))

    def first(self, directory: int) -> int:
        """The number of the first file of a directory."""
        each, rest = divmod(self.files, self.dirs)
        return directory * each + min(directory, rest)

    def files_in(self, directory: int) -> int:
        """How many files the directory is to hold."""
        return self.first(directory + 1) - self.first(directory)

    def directory_name(self, directory: int) -> str:
        """The name of a directory."""
        return f"d{directory:0{len(str(self.dirs - 1))}d}"

    @cached_property
    def name_format(self) -> str:
        """A %-format (the fastest way) that makes the name of the n-th file of a directory."""
        return f"%0{self.name_length}d"

    @cached_property
    def pool(self) -> bytes:
        """The bytes that content is cut from; made before the workers start, so that they share it."""
        if not self.size:
            return b""
        pool = random.Random(self.seed).randbytes(POOL_BYTES)
        return pool + pool[:CHUNK]

    def content(self, number: int) -> Iterator[bytes]:
        """The bytes of a file, in pieces of at most CHUNK.

        Slices of bytes and not of a memoryview: bytes compare with memcmp, views item by item.
        """
        left, at = self.size, number * FILE_STEP
        while left > 0:
            start, length = at % POOL_BYTES, min(left, CHUNK)
            yield self.pool[start:start + length]
            left -= length
            at += CHUNK_STEP


def scattered(count: int, seed: int) -> Iterator[int]:
    """Each number below count once, in an order without locality, using no memory.

    A linear congruential generator of full period over the next power of two (Hull and Dobell: multiplier 1
    modulo 4, odd increment), its high bits mixed into the low ones; what falls outside is skipped.
    """
    bits = max(2, (count - 1).bit_length())
    mask, half = (1 << bits) - 1, (bits + 1) // 2
    rng = random.Random(seed)
    state, increment = rng.getrandbits(bits), rng.getrandbits(bits) | 1
    multiplier = (0x5851F42D4C957F2D & mask & ~3) | 1
    for _ in range(mask + 1):
        state = (state * multiplier + increment) & mask
        value = state ^ (state >> half)
        if value < count:
            yield value
