"""uvm/lost.py: the pages that could not be read back: each is logged once, with its owner.

A page is lost while its slot answers with an error or with wrong bytes.  vm.fault() enters it here.  Each operation
that needs it gets SwapIOError, but the log has one line.  A device that works again gives its pages back.

A check finds such pages too (vmcheck.py), and lost pages that can be read again.  It looks at a copy of the machine, so
its finding counts only if the page still has the same slot.  If the page of a bad slot is resident, it is written anew,
and is not lost.

Picture     OUT --fault fails--> LOST --fault goes well, or all of it is written over--> RESIDENT
                                      --free--> nothing, and its slot is retired: it does not lose another page

Invariants
    L1  A page in the list is out.

Limits      At most MOST pages are in the list.  Those beyond are logged in one line, and their slots are used again.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Sequence

from tmpfsd.uvm.errors import SwapIOError

if TYPE_CHECKING:
    from tmpfsd.uvm.vm import Vm

log = logging.getLogger(__name__)

MOST = 1024


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
        """Page vpn is not lost any more, as it is in or gone; whether it was lost.  O(1)."""
        if vpn not in self.pages:
            return False
        self.pages.remove(vpn)
        self._told = self._told and bool(self.pages)
        return True


class Unreadable:
    """Findings of a check in the slots of one machine: how many pages are lost, and which slots are bad."""

    __slots__ = ("pages", "healed", "_found", "_unseen")

    def __init__(self, vm: Vm) -> None:
        self.pages: list[tuple[int, int]] = []      # with their slots, resident ones too; at most MOST
        self.healed: list[tuple[int, int]] = []     # lost before, and answer again
        self._found = 0
        self._unseen = set(vm.lost.pages)           # lost before, and not read again yet

    @property
    def nlost(self) -> int:
        """How many pages are lost.  O(1)."""
        return self._found + len(self._unseen)

    def add(self, vpn: int, slot: int, resident: bool) -> None:
        """The slot of page vpn does not answer with it.  O(1)."""
        self._unseen.discard(vpn)
        self._found += not resident
        if len(self.pages) < MOST:
            self.pages.append((vpn, slot))

    def answered(self, vpn: int, slot: int) -> None:
        """The slot of page vpn answers with it.  O(1)."""
        if vpn in self._unseen:
            self._unseen.remove(vpn)
            self.healed.append((vpn, slot))


def heed(vm: Vm, pages: Sequence[Sequence[int]], healed: Sequence[Sequence[int]] = ()) -> None:
    """Act on what the check of a copy found, as (page, slot): bad slots, and lost pages that answer.  O(pages)."""
    for vpn, slot in healed:
        if vpn in vm.lost.pages and vm.slot_of[vpn] == slot:
            vm.lost.remove(vpn)
    anew = 0
    for vpn, slot in pages:
        if not slot or vpn >= len(vm.slot_of) or vm.slot_of[vpn] != slot:
            continue
        pfn = vm.pfn_of(vpn)
        if pfn >= 0:
            vm.phys.dirty[pfn] = 1
            anew += 1
        else:
            vm.lost.add(vpn, vm.owner_of(vpn), SwapIOError(f"slot {slot}, page {vpn}: a check could not read it"))
    if anew:
        log.warning("%d pages are written anew: they are in memory, and their slots cannot be read", anew)
