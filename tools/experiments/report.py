"""experiments/report.py: Markdown, and claims.

A claim is a sentence with the condition that makes it true.  If the figures do not support it, the report says that
instead: every sentence about a result has been checked against the result.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any, NamedTuple

MIB = 1 << 20
GOAL_MET, GOAL_MISSED = "met", "**missed**"


class Claim(NamedTuple):
    """A sentence to print if it holds, and another if it does not."""

    holds: bool
    sentence: str
    otherwise: str

    def __str__(self) -> str:
        return self.sentence if self.holds else f"**Not borne out by this run:** {self.otherwise}"


def table(headings: Sequence[str], rows: Iterable[Sequence[object]], left: int = 1) -> list[str]:
    """Lines of a table; the first `left` columns are text."""
    marks = ["---" if i < left else "---:" for i in range(len(headings))]
    lines = [headings, marks, *rows]
    return ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in lines] + [""]


def mib(nbytes: float) -> str:
    """Bytes as MiB."""
    return f"{nbytes / MIB:,.1f}" if nbytes < 100 * MIB else f"{nbytes / MIB:,.0f}"


def rate(value: float | None) -> str:
    """Operations a second."""
    return "-" if value is None else f"{value:,.0f}"


def ratio(one: float, other: float) -> float:
    """A quotient; 0 if there is nothing to divide by."""
    return one / other if other else 0.0


def middle(results: dict[str, Any], keys: Iterable[str], *path: str) -> float | None:
    """The median of a figure over the jobs of these keys that have it."""
    found = []
    for key in keys:
        value: Any = results.get(key)
        for step in path:
            value = value.get(step) if isinstance(value, dict) else None
        if value is not None:
            found.append(value)
    return median(found) if found else None


def goal(value: float, least: float, what: str) -> str:
    """A line that compares a figure with its goal."""
    return f"- {what}: {value:.2f}, goal at least {least:g}: {GOAL_MET if value >= least else GOAL_MISSED}."


def section(name: str, title: str, question: str, machine: str, limits: str, body: Sequence[str],
            answer: Sequence[Claim]) -> list[str]:
    """An experiment."""
    return [f"## {name}: {title}", "", f"*{question}*", "", f"Machine: {machine}.", "", f"Limits: {limits}", "",
            *body, "**Answer.** " + " ".join(str(claim) for claim in answer), ""]
