"""progress.py: one line on a terminal that shows the progress of a command; nothing if nobody watches."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any

from tmpfsd.mounts.printable import printable

CLEAR = "\r\033[K"


def watch(answers: Iterable[dict[str, Any]], text: Callable[[dict[str, Any]], str]) -> Any:
    """Go through the answers of a command and return its result; text() makes a line from a progress."""
    shown, result = sys.stderr.isatty(), None
    try:
        for answer in answers:
            if shown and "progress" in answer:
                print(CLEAR + printable(text(answer["progress"])), end="", file=sys.stderr, flush=True)
            result = answer.get("result", result)
    finally:
        if shown:
            print(CLEAR, end="", file=sys.stderr, flush=True)
    return result
