"""stresskit/board.py: counters in shared memory.

The tool makes one board before it forks its workers.  Each worker writes its own part, after every file, and the tool
reads all parts whenever it likes.  So the work done is known even if a worker was killed.

Picture     words of 64 bits:   stop | created[dirs] | a part for each worker
            a part:             START | END | FILES | BYTES | LONGEST | buckets of latencies
Invariants  I1 A word has one writer (except stop, which is only ever set while a phase runs): no locks.
            I2 created[d] files of directory d are complete: it is counted up after the close.
Limits      Latencies fall into buckets 1/16 of an octave wide: a percentile is exact to 6%.  The longest is
            exact.  A worker that was killed may have done one file that it did not count.
"""

from __future__ import annotations

import mmap
from typing import NamedTuple

START, END, FILES, BYTES, LONGEST, HEADER = range(6)
SUB_BITS = 4
SUB = 1 << SUB_BITS
BUCKETS = 40 * SUB          # up to 2**43 ns, more than two hours
WORD = 8


def bucket_of(nanoseconds: int) -> int:
    """The bucket of a latency: exact below 2 * SUB, then SUB buckets an octave."""
    shift = nanoseconds.bit_length() - SUB_BITS - 1
    if shift <= 0:
        return nanoseconds
    return min((shift << SUB_BITS) + (nanoseconds >> shift), BUCKETS - 1)


def middle_of(bucket: int) -> int:
    """The latency in the middle of a bucket."""
    shift = max(0, (bucket >> SUB_BITS) - 1)
    low = (bucket - (shift << SUB_BITS)) << shift
    return low + ((1 << shift) >> 1)


class Latency(NamedTuple):
    """What is reported about the latencies of a phase, in nanoseconds."""

    p50: int
    p99: int
    max: int


def percentile(buckets: list[int], percent: float, longest: int) -> int:
    """The latency that this percentage of all stay under."""
    wanted = sum(buckets) * percent / 100
    seen = 0
    for bucket, count in enumerate(buckets):
        seen += count
        if count and seen >= wanted:
            return min(middle_of(bucket), longest)
    return 0


class Meter:
    """A worker's own part of the board."""

    __slots__ = ("words", "buckets")

    def __init__(self, words: memoryview) -> None:
        self.words = words
        self.buckets = words[HEADER:]

    def lap(self, nanoseconds: int, nbytes: int) -> None:
        """One file done: count it, its bytes and its latency."""
        words = self.words
        words[FILES] += 1
        if nbytes:
            words[BYTES] += nbytes
        self.observe(nanoseconds)

    def observe(self, nanoseconds: int) -> None:
        """Count a latency."""
        self.buckets[bucket_of(nanoseconds)] += 1
        if nanoseconds > self.words[LONGEST]:
            self.words[LONGEST] = nanoseconds


class Board:
    """All counters of a run."""

    __slots__ = ("stop", "created", "meters")

    def __init__(self, dirs: int, procs: int) -> None:
        part = HEADER + BUCKETS
        words = memoryview(mmap.mmap(-1, (1 + dirs + procs * part) * WORD)).cast("Q")
        self.stop = words[:1]
        self.created = words[1:1 + dirs]
        parts = words[1 + dirs:]
        self.meters = [Meter(parts[part * n:part * (n + 1)]) for n in range(procs)]

    def reset(self) -> None:
        """Clear the workers' parts for the next phase; created[] is kept."""
        for meter in self.meters:
            meter.words[:] = memoryview(bytes(meter.words.nbytes)).cast("Q")

    def total(self, word: int) -> int:
        """The sum of one counter over all workers."""
        return sum(meter.words[word] for meter in self.meters)

    def seconds(self, now: int) -> float:
        """From the first worker's start to the last one's end; a worker without an end counts until now."""
        ran = [meter.words for meter in self.meters if meter.words[START]]
        if not ran:
            return 0.0
        return (max(words[END] or now for words in ran) - min(words[START] for words in ran)) / 1e9

    def latency(self) -> Latency:
        """Percentiles over all workers."""
        buckets = [sum(column) for column in zip(*(meter.buckets for meter in self.meters))]
        longest = max(meter.words[LONGEST] for meter in self.meters)
        return Latency(percentile(buckets, 50, longest), percentile(buckets, 99, longest), longest)
