"""uvm/pte.py: page table entries: what one number of 32 bits says of a page.

vm.pte[vpn] is the entry of page vpn.  Only this module knows what a negative one means.  read(), write() and the like
test `< 0` and no more: an entry from 0 on is a frame that may be used at once, all others go to fault().

A hidden page is in a frame, and its next access goes to fault() all the same, as with a present bit that a kernel takes
away to see who uses a page.  There are two reasons to hide one: no window shows it (windows.py), or a sample of the
accesses is taken (sampler.py).  A page that is out has in its entry how many pages had left before it: the page
daemon's clock, 30 bits of it.  So its refault distance can be told when it comes back, as by the shadow entries of
Linux (mm/workingset.c).

Picture     -2^31                -2^30 - 2 | -2^30 - 1                  -2 |  -1  | 0                     2^31 - 1
            hidden(pfn), pfn from 0 <----- | out(clock), clock from 0 <--- | NONE | ---> pfn: a frame in view

            NONE --alloc_page--> pfn --hide--> hidden --fault--> pfn
                                  |              |
                                  +----drop------+--> out --fault--> pfn, or hidden        (free_page: NONE, from any)

            NONE is the entry of a page without an owner, and of an unwritten one (unwritten.py).

Breathing   Nothing here breathes.  All O(1), except row() and count_frameless().

Limits      2^30 - 1 frames: 4 TiB of ram.
            The clock wraps.  A page that was out for 2^30 evictions, 4 TiB, looks as if it had just left.
"""

from __future__ import annotations

from array import array
from typing import Final

from tmpfsd.native import i64

NONE: Final = -1                            # no frame, and not out
CLOCK: Final = (1 << 30) - 1                # the bits of the clock that an entry has
JUST_OUT: Final = -2                        # out(0)
HIDDEN: Final = JUST_OUT - CLOCK - 1        # hidden(0)
LONG_OUT: Final = JUST_OUT - (1 << 29)      # of a page that left before the clock began: half a round ago
FRAMELESS = bytes(192) + b"\1" * 64         # by the highest byte of an entry; out(CLOCK) alone is not told


def pfn(entry: i64) -> i64:
    """The frame of a page, in view or hidden; negative, and not a frame, if it is in none."""
    return HIDDEN - entry if entry <= HIDDEN else entry


def hidden(frame: i64) -> i64:
    """The entry of a page in a frame, the next access to which shall come to fault()."""
    return HIDDEN - frame


def is_hidden(entry: i64) -> bool:
    """Whether a page is in a frame, but not in view."""
    return entry <= HIDDEN


def out(clock: i64) -> i64:
    """The entry of a page that leaves now."""
    return JUST_OUT - (clock & CLOCK)


def is_out(entry: i64) -> bool:
    """Whether a page is out."""
    return HIDDEN < entry < NONE


def distance(entry: i64, clock: i64) -> i64:
    """The refault distance of a page that is out: how many have left since, itself included.  => entry is out."""
    return (clock + entry - JUST_OUT) & CLOCK


def row(entry: int, n: int) -> array[int]:
    """n entries that are all the same, in a row.  O(n), at the speed of memory."""
    return array("i", (entry,)) * n


def count_frameless(entries: array[int], first: int, n: int) -> int:
    """How many pages of n in a row are in no frame; those past the end are not counted.  O(n), 5 ns each."""
    some = memoryview(entries)[first:first + n].cast("B")
    return some[3::4].tobytes().translate(FRAMELESS).count(1)
