"""fuse/timing.py: samples of how long something took: their number, their sum, and a histogram.

Picture     sample  | count | ns together | bucket 0 | bucket 1 | ... |     four buckets for each doubling: within 25 %
"""

from __future__ import annotations

from collections.abc import Sequence

HEAD = 2                    # count, ns together
NBUCKETS = 4 * 36           # up to 2^36 ns: a minute


def blank() -> list[int]:
    """A sample of nothing yet."""
    return [0] * (HEAD + NBUCKETS)


def note(sample: list[int], ns: int) -> None:
    """Add one.  O(1)."""
    sample[0] += 1
    sample[1] += ns
    sample[HEAD + bucket_of(ns)] += 1


def bucket_of(ns: int) -> int:
    """The bucket of a time.  O(1)."""
    shift = max(ns.bit_length() - 3, 0)
    return min(4 * shift + (ns >> shift), NBUCKETS - 1)


def least_of(bucket: int) -> int:
    """The shortest time of a bucket, in ns.  O(1)."""
    shift = max(bucket // 4 - 1, 0)
    return bucket - 4 * shift << shift


def quantile(sample: Sequence[int], before: Sequence[int], share: float) -> float | None:
    """A quantile, in ns, of the times noted since `before`; None if there were none.

    O(NBUCKETS).  Both may end with the last bucket that is not 0.
    """
    old = [*before, *([0] * max(len(sample) - len(before), 0))]
    counts = [count - was for count, was in zip(sample[HEAD:], old[HEAD:])]
    left = share * sum(counts)
    for bucket, count in enumerate(counts):
        left -= count
        if count and left <= 0:
            return float(least_of(bucket + 1))
    return None
