"""seldom.py: what happens thousands of times is logged only now and then."""


def seldom(n: int) -> bool:
    """Whether the n-th of many like events deserves a line in the log: the first, and then each doubling.  O(1)."""
    return n & (n - 1) == 0
