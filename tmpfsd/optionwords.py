"""optionwords.py: parsers of option values that are words or numbers without %.  A ValueError says what is allowed."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import NamedTuple

UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50, "e": 1 << 60}
MAX_INODES = (1 << 31) - 1
MAX_WINDOWS = 65_536
MIN_WINDOWS = 64            # uvm.vm.RESERVE: what an operation may touch between two breaths
MOST_LIMIT = (1 << 63) - 1          # SHMEM_QUOTA_MAX_SPC_LIMIT of Linux


def number(least: int, most: int, *words: str) -> Callable[[str, int], str | int]:
    """Make a parser of a plain number in a range, or one of the words."""
    def parser(text: str, _physical: int) -> str | int:
        if text in words:
            return text
        if not re.fullmatch(r"[0-9]{1,12}", text, re.ASCII) or not least <= int(text) <= most:
            raise ValueError("must be " + " or ".join((*words, f"a number from {least} to {most}")))
        return int(text)
    return parser


def parse_inodes(text: str, _physical: int) -> int:
    """Read nr_inodes=; k, m and g as the kernel's tmpfs takes them."""
    match = re.fullmatch(r"([0-9]{1,12})([kmg]?)", text, re.IGNORECASE | re.ASCII)
    if not match:
        raise ValueError("must be a whole number with k, m or g, or 0 for no limit of its own")
    inodes = int(match[1]) * UNITS[match[2].lower()]
    if inodes > MAX_INODES:
        raise ValueError(f"too many: at most {MAX_INODES}")
    return inodes


def parse_limit(text: str, _physical: int) -> int:
    """Read a limit of a quota, bytes or inodes, as the kernel's tmpfs does."""
    match = re.fullmatch(r"([0-9]{1,20})([kmgtpe]?)", text, re.IGNORECASE | re.ASCII)
    if not match or not int(match[1]):
        raise ValueError("must be a whole number above 0 with k, m, g, t, p or e")
    limit = int(match[1]) * UNITS[match[2].lower()]
    if limit > MOST_LIMIT:
        raise ValueError("too large: less than 8e")
    return limit


def parse_windows(text: str, physical: int) -> int:
    """Read windows=; fewer than an operation can need are refused."""
    windows = int(number(1, MAX_WINDOWS)(text, physical))
    if windows < MIN_WINDOWS:
        raise ValueError(f"an operation holds two records at once and up to {MIN_WINDOWS} pages (its reserve): "
                         f"at least {MIN_WINDOWS}")
    return windows


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
    """Read metrics=: the path of a socket as it is, a port as one on the loopback address."""
    if text.startswith("/"):
        if len(os.fsencode(text)) > 107:        # sun_path of <sys/un.h>
            raise ValueError("too long for the path of a socket: at most 107 bytes")
        return text
    host, _colon, port = text.rpartition(":")
    if not re.fullmatch(r"[0-9]{1,5}", port, re.ASCII) or not 0 < int(port) < 65536:
        raise ValueError("must be the absolute path of a socket, a port, or HOST:PORT")
    return f"{host or '127.0.0.1'}:{port}"


class Auto(NamedTuple):
    """ram=auto: it follows the memory pressure, between these two numbers of bytes."""

    low: int
    high: int
