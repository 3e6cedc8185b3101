"""uvm/zresize.py: a ring of compressed pages that is made larger or smaller while the machine runs.

A second area takes what is written from then on, and what is oldest is carried there (zlog.py).  What will not fit into
a smaller one is written to the stores first, the oldest first; the ring takes no more meanwhile than it loses, so an
operation that comes in between waits for no more than its own pages.  Memory of the old area is given back as it
becomes free, before something is carried, so that both keep no more of it than the larger of them.

Picture     most_live --lower--> what lives fits --tidy--> some pages are free --move_to--> two areas
                --Tier.move--> the old one is empty, and the system's

Breathing   A step moves no page and takes no frame; offsets stay good.  It may run where Tier.take() may.
"""

from collections.abc import Generator
from typing import TYPE_CHECKING, Final

from tmpfsd.uvm.errors import NoSwap
from tmpfsd.uvm.tier import Tier
from tmpfsd.uvm.zlog import MARGIN, most_live_of

if TYPE_CHECKING:
    from tmpfsd.uvm.vm import Vm

LOWER_STEPS: Final = 8          # of Tier.step(): up to 16 records each
TIDY_STEPS: Final = 64


def resize_ring(vm: "Vm", nbytes: int) -> Generator[int, None, None]:
    """Have a ring of nbytes, step by step; yields how many bytes are still to be carried.

    O(bytes that live), in steps of up to 1 ms without what a store takes.
    => NoSwap: what it holds fits neither there nor into the stores.  Then, or when it is closed before it moves, the
    ring is as it was, except for what was written on.  Closed later, it goes on moving by itself (Tier.idle()).
    """
    tier = vm.tier
    assert tier is not None
    ring = tier.ring
    while ring.moving:                      # another size was left half way
        tier.move()
        yield ring.used
    goal = most_live_of(nbytes)
    demand_room(tier, nbytes)
    try:
        while ring.live_bytes > goal:
            ring.most_live = ring.live_bytes
            if not _steps(tier, LOWER_STEPS, goal):
                demand_room(tier, 0)
            yield ring.used
        demand_room(tier, nbytes)
        ring.most_live = min(goal, ring.most_live)
        while ring.used > ring.nbytes - 2 * MARGIN:
            tier.step(True)
            yield ring.used
        ring.move_to(nbytes)
    finally:
        ring.most_live = most_live_of(nbytes if ring.moving else ring.nbytes)
    while ring.moving:
        tier.move()
        yield ring.used


def _steps(tier: Tier, n: int, goal: int) -> bool:
    """Go some steps towards the goal; whether anything was done."""
    done = 0
    while done < n and tier.ring.live_bytes > goal and tier.step(False):
        done += 1
    return done > 0


def demand_room(tier: Tier, nbytes: int) -> None:
    """See that a ring of nbytes can have what this one has, or stores what is too much.  O(files).  => NoSwap."""
    ring = tier.ring
    if not nbytes or ring.live_bytes + tier.keep_bytes > most_live_of(nbytes) and not tier.stores_have_room():
        raise NoSwap(f"it holds {ring.live_bytes >> 10}k and must keep {tier.keep_bytes >> 10}k free; no swap file "
                     "takes what is too much")
