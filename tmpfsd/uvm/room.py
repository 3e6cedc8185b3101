"""uvm/room.py: whether pages may change, and whether there may be more of them, where swap is nearly used up.

Without a compressed tier and an image this is simple: a page that has a slot is written over in place.  So changes are
never refused, and alloc_page() refuses new pages (V6).  With one of them a page that is changed needs another place,
and may need more of it.  So something is kept back for changes that have begun (tier.py, backing.py), and others are
refused before it is used up: tight().

Breathing   Nothing here breathes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tmpfsd.uvm import backing
from tmpfsd.uvm.errors import NoMemory

if TYPE_CHECKING:
    from tmpfsd.uvm.vm import Vm


def tight(vm: Vm) -> bool:
    """Whether nothing may change except by removals: what is left is kept back.  O(files)."""
    return vm.tier.tight() if vm.tier is not None else backing.tight(vm)


def full(vm: Vm) -> bool:
    """Whether no page that has no slot may get one.  O(files)."""
    return vm.tier.full() if vm.tier is not None else backing.tight(vm)


def demand(vm: Vm) -> None:
    """See that pages may be changed.  O(files).  => NoMemory, except within an overdraft."""
    if not vm.overdrawn and tight(vm):
        raise NoMemory("ram and the compressed tier are full, and no swap space is left" if vm.tier is not None
                       else "no swap space is left but what is kept for changed pages of the image")


def changeable(vm: Vm, vpn: int, n: int) -> int:
    """How many of n pages in a row may be changed: all, or while it is tight those whose place stays theirs.

    These have a slot of a store, as promised pages do (unwritten.py), or none, and count for V6.
    O(files), while it is tight O(n).  => NoMemory: not even the first.
    """
    if vm.overdrawn or not tight(vm):
        return n
    done = 0
    while done < n and _stays(vm, vm.slot_of[vpn + done]):
        done += 1
    if not done:
        demand(vm)
    return done


def _stays(vm: Vm, slot: int) -> bool:
    if vm.tier is not None and vm.tier.ring.owns(slot):
        return False
    return not slot or vm.image is None or not vm.image.owns(slot)
