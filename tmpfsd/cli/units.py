"""units.py: sizes as people read them."""

from __future__ import annotations

UNITS = ("", "K", "M", "G", "T", "P")


def human(nbytes: int) -> str:
    """Write a size with three digits and a unit."""
    value, unit = float(nbytes), 0
    while value >= 999.5 and unit < len(UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.3g}{UNITS[unit]}" if unit else str(int(nbytes))
