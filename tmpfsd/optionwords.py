"""optionwords.py: parsers of option values that are words or plain numbers.  A ValueError says what is allowed."""

from __future__ import annotations

import os
import re
from collections.abc import Callable


def number(least: int, most: int, *words: str) -> Callable[[str, int], str | int]:
    """Make a parser of a plain number in a range, or one of the words."""
    def parser(text: str, _physical: int) -> str | int:
        if text in words:
            return text
        if not re.fullmatch(r"[0-9]{1,12}", text, re.ASCII) or not least <= int(text) <= most:
            raise ValueError("must be " + " or ".join((*words, f"a number from {least} to {most}")))
        return int(text)
    return parser


def one_of(*words: str) -> Callable[[str, int], str]:
    """Make a parser that takes exactly these words."""
    def parser(text: str, _physical: int) -> str:
        if text not in words:
            raise ValueError("must be " + " or ".join(words))
        return text
    return parser


def parse_switch(text: str, _physical: int) -> bool:
    """Read on or off."""
    return one_of("on", "off")(text, 0) == "on"


def parse_file(text: str, _physical: int) -> str:
    """Read the path of a file."""
    if not text.startswith("/"):
        raise ValueError("must be an absolute path")
    return text


def parse_fsname(text: str, _physical: int) -> str:
    """Read fsname=."""
    if not text.isascii() or not text.isprintable():
        raise ValueError("must be plain printable ASCII")
    return text


def parse_metrics(text: str, _physical: int) -> str:
    """Read metrics=: the path of a socket as it is, a port as one of the loopback address."""
    if text.startswith("/"):
        if len(os.fsencode(text)) > 107:        # sun_path of <sys/un.h>
            raise ValueError("too long for the path of a socket: at most 107 bytes")
        return text
    host, _colon, port = text.rpartition(":")
    if not re.fullmatch(r"[0-9]{1,5}", port, re.ASCII) or not 0 < int(port) < 65536:
        raise ValueError("must be the absolute path of a socket, a port, or HOST:PORT")
    return f"{host or '127.0.0.1'}:{port}"
