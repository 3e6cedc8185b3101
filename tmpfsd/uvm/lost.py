"""uvm/lost.py: the pages that could not be read back: each is logged once, with its owner.

A page is lost while its slot answers with an error or with wrong bytes.  vm.fault() enters it here; whoever needs it
gets SwapIOError, each time, but the log has one line.  A device that works again gives its pages back.

Picture     OUT --fault fails--> LOST --fault goes well, or all of it is written over--> RESIDENT
                                      --free--> nothing, and its slot is retired: it does not lose another page

Invariants
    L1  A page in the list is out.
Limits      MOST pages are in the list.  Those beyond are logged in one line, and their slots are used again.
"""

import logging

log = logging.getLogger(__name__)

MOST = 1024


def seldom(n: int) -> bool:
    """Whether the n-th of many alike is worth a line in the log: the first, and each time they have doubled.  O(1)."""
    return n & (n - 1) == 0


class Lost:
    """The list of lost pages of one machine."""

    __slots__ = ("pages", "_told")

    def __init__(self) -> None:
        self.pages: set[int] = set()
        self._told = False

    def add(self, vpn: int, owner: str, error: Exception) -> None:
        """A fault on page vpn failed.  O(1)."""
        if vpn in self.pages:
            return
        if len(self.pages) < MOST:
            self.pages.add(vpn)
            log.error("lost: a page of %s: %s", owner, error)
        elif not self._told:
            self._told = True
            log.error("lost: more than %d pages; no more of them are logged", MOST)

    def remove(self, vpn: int) -> bool:
        """Page vpn is lost no more, as it is in, or gone; whether it was.  O(1)."""
        if vpn not in self.pages:
            return False
        self.pages.remove(vpn)
        self._told = self._told and bool(self.pages)
        return True
