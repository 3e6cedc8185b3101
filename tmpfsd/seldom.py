"""seldom.py: what happens thousands of times is told now and then."""


def seldom(n: int) -> bool:
    """Whether the n-th of many alike is worth a line in the log: the first, and each time they have doubled.  O(1)."""
    return n & (n - 1) == 0
