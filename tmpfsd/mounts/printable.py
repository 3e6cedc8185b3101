"""printable.py: makes text that others chose safe to show on a terminal, in a log and in a message.

Limits      A backslash stays as it is, so that text may go through twice.  Use --json to tell the six characters
            \\u2028 from the one character.
"""

from __future__ import annotations

import os
from typing import Any

MOST_SAID = 200             # characters of what somebody else says
SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def printable(text: str | bytes) -> str:
    """Return text in one line, without anything that moves the cursor, colours, or cannot be encoded.  O(length)."""
    text = os.fsdecode(text)
    return text if text.isprintable() else "".join(map(_shown, text))


def short_line(error: Exception, said: str | None = None) -> str:
    """Return what a library or a server says (by default all of it), in one short line."""
    text = " ".join((str(error) if said is None else said).split())
    return printable(text if len(text) <= MOST_SAID else text[:MOST_SAID] + "...") or type(error).__name__


def printable_all(answer: Any) -> Any:
    """Return a server's answer, with all text in it made printable.  O(size)."""
    if isinstance(answer, str):
        return printable(answer)
    if isinstance(answer, dict):
        return {printable_all(name): printable_all(value) for name, value in answer.items()}
    return [printable_all(value) for value in answer] if isinstance(answer, list) else answer


def _shown(character: str) -> str:
    if character.isprintable():
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:        # a byte that is not UTF-8, as os.fsdecode() represents it
        return f"\\x{code - 0xDC00:02x}"
    return SHORT.get(character) or (f"\\x{code:02x}" if code < 0x80 else
                                    f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")
