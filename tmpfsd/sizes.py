"""sizes.py: parsers of option values that are sizes.  A ValueError says what is allowed."""

from __future__ import annotations

import re

from tmpfsd.machine import OWN_MEMORY
from tmpfsd.optionwords import UNITS, Auto

PAGE_SIZE = 4096
MIN_RAM = 1 << 20
MIN_SIZE = 64 << 10
MAX_SPACE = 16 << 40        # of a submap: its page table, 16 bytes a page, is wired: 64 GiB then
MAX_SIZE = (1 << 64) - PAGE_SIZE        # as the kernel's tmpfs; ram and swap are the real limit
UNLIMITED = MAX_SIZE                    # of size=0
MOST_SWAP = 8 << 40         # of one place: there cannot be more pages (uvm.swapset.OWN_WIDTH)
MIN_CACHE = 4 << 20
MIN_ZRAM, MOST_ZRAM = 1 << 20, 16 << 30         # a place in uvm/area.py has 31 bits
DEFAULT_RAM = 128 << 20

SIZE = re.compile(r"([0-9]{1,20})([kmgtpe%]?)", re.IGNORECASE | re.ASCII)
LIMITS = "a number above 0 with k, m, g, t, p or e"
SIZES = "a whole number of bytes with k, m, g, t, p, e, or % of memory"


def round_up(nbytes: int) -> int:
    """Round to whole pages, upwards."""
    return -(-nbytes // PAGE_SIZE) * PAGE_SIZE


def default_ram(limit: int) -> int:
    """Return the default of ram=: half of the limit minus the daemon's own memory, at most DEFAULT_RAM.

    The other half is for what serving takes elsewhere: the page cache of the swap file, the kernel's inodes and
    pages of files, and whatever else runs under that limit.
    """
    return max(min(DEFAULT_RAM, (limit - OWN_MEMORY) // 2 // PAGE_SIZE * PAGE_SIZE), MIN_RAM)


def parse_size(text: str, physical: int) -> int:
    """Read a size; ValueError when it is none."""
    match = SIZE.fullmatch(text)
    if not match:
        raise ValueError(f"negative, but must be {SIZES}" if text.startswith("-") else f"not {SIZES}")
    number, unit = int(match[1]), match[2].lower()
    return number * physical // 100 if unit == "%" else number * UNITS[unit]


def parse_space(text: str, physical: int, most: int = MAX_SPACE) -> int:
    """Read the size of a submap, in whole pages."""
    nbytes = parse_size(text, physical)
    if nbytes > most:
        raise ValueError(f"too large: at most {most >> 40}t")
    return round_up(nbytes)


def parse_swap_size(text: str, physical: int) -> int:
    """Read the size of a place of swap, in whole pages."""
    return parse_space(text, physical, MOST_SWAP)


def parse_total(text: str, physical: int) -> int:
    """Read size=; 0 is no limit."""
    nbytes = round_up(parse_size(text, physical))
    if nbytes > MAX_SIZE:
        raise ValueError("too large: less than 16e")
    if 0 < nbytes < MIN_SIZE:
        raise ValueError("too small: at least 64k, or 0 for no limit")
    return nbytes or UNLIMITED


def parse_blocks(text: str, _physical: int) -> int:
    """Read nr_blocks=, size= in pages."""
    match = re.fullmatch(r"([0-9]{1,20})([kmgtpe]?)", text, re.IGNORECASE | re.ASCII)
    if not match:
        raise ValueError("must be a whole number of blocks of 4096 bytes with k, m, g, t, p or e, or 0 for no limit")
    nbytes = int(match[1]) * UNITS[match[2].lower()] * PAGE_SIZE
    if nbytes > MAX_SIZE:
        raise ValueError("too many: less than 4p")
    if 0 < nbytes < MIN_SIZE:
        raise ValueError("too few: at least 16, or 0 for no limit")
    return nbytes or UNLIMITED


def parse_ram(text: str, physical: int) -> int | Auto:
    """Read ram=; rounded down, because it is a promise not to use more."""
    if text == "auto":
        return Auto(max(default_ram(physical) // 4 & -PAGE_SIZE, MIN_RAM), max(physical // 2 & -PAGE_SIZE, MIN_RAM))
    if text.startswith("auto:"):
        low, dash, high = text[5:].partition("-")
        bounds = Auto(parse_bytes(low, physical), parse_bytes(high, physical)) if dash else Auto(1, 0)
        if bounds.low > bounds.high:
            raise ValueError("must be auto, or auto:MIN-MAX")
        return bounds
    return parse_bytes(text, physical)


def parse_bytes(text: str, physical: int) -> int:
    """Read an amount of ram."""
    nbytes = parse_size(text, physical)
    if nbytes < MIN_RAM:
        raise ValueError("too small: at least 1m")
    return nbytes // PAGE_SIZE * PAGE_SIZE


def parse_submap(text: str, physical: int) -> str | int:
    """Read submap=."""
    if text == "auto":
        return text
    nbytes = parse_space(text, physical)
    if nbytes < MIN_SIZE:
        raise ValueError("too small: auto, or a size of at least 64k")
    return nbytes


def parse_zram(text: str, _physical: int) -> int:
    """Read zram=: bytes, or per cent of ram= as a negative number."""
    nbytes = parse_size(text, 100)
    if text.endswith("%"):
        if not 0 <= nbytes < 100:
            raise ValueError("must be less than 100% of ram")
        return -nbytes
    if 0 < nbytes < MIN_ZRAM:
        raise ValueError("too small: 0, or at least 1m")
    if nbytes > MOST_ZRAM:
        raise ValueError("too large: at most 16g")
    return nbytes


def parse_cache(text: str, physical: int) -> int:
    """Read image_cache=."""
    nbytes = parse_size(text, physical)
    if nbytes < MIN_CACHE:
        raise ValueError("too small: at least 4m")
    return nbytes
