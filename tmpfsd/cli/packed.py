"""packed.py: what of the string pools is data: small files are packed there, among names, targets and attributes.

A page may have items of files beside others, so a pool's pages are divided as its items are.
"""

from __future__ import annotations

from typing import Any

PAGES = ("pages", "resident_pages", "swapped_pages")


def share_of(pool: dict[str, Any]) -> float:
    """Return which part of a pool's items belongs to files, from 0 to 1."""
    return min(pool.get("data_items", 0) / max(pool["items"], 1), 1.0)


def percent_of(pool: dict[str, Any]) -> str:
    """Write that part in per cent; "" for a pool that has no files, or where it is not known."""
    return f"{100 * share_of(pool):.0f}%" if "data_items" in pool else ""


def data_of(pool: dict[str, Any]) -> dict[str, int]:
    """Return that part of a pool's pages."""
    share = share_of(pool)
    pages, resident = (int(pool[name] * share + 0.5) for name in PAGES[:2])
    return {"pages": pages, "resident_pages": resident, "swapped_pages": max(pages - resident, 0)}


def split(status: dict[str, Any]) -> tuple[dict[str, int], dict[str, int]]:
    """Return the pages of data, those of packed files with them, and the pages of metadata."""
    parts = [data_of(pool) for pool in status["pools"]]
    packed = {name: sum(part[name] for part in parts) for name in PAGES}
    return ({name: status["data"][name] + packed[name] for name in PAGES},
            {name: sum(pool[name] for pool in status["pools"]) - packed[name] for name in PAGES})
