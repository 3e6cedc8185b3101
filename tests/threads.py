"""tests/threads.py: the kernel's data of a thread of this process."""

from __future__ import annotations

from pathlib import Path


def permitted(thread: int) -> int:
    """The capabilities that a thread of this process may have."""
    lines = Path(f"/proc/self/task/{thread}/status").read_text().splitlines()
    return int(dict(line.split(":\t", 1) for line in lines)["CapPrm"], 16)
