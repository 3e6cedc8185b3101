"""uvm/zresize.py: a ring of compressed pages that is made larger or smaller while the machine runs.

New records go to a second area, and the oldest are carried there (zlog.py).  If not all fit into a smaller area, the
oldest are written to the stores first.  Meanwhile the ring takes no more than it loses, so an operation that comes
between waits only for its own pages.  Memory of the old area is given back as it becomes free, before records are
carried, so both areas together keep no more than the larger of them.

Picture     most_live --lower--> live records fit --tidy--> some pages are free --move_to--> two areas
                --Tier.move--> the old one is empty, and given back to the system

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

    O(bytes that live), in steps of up to 1 ms and the time of a store.
    => NoSwap: its records fit neither there nor into the stores.  Then, or if the generator is closed before it moves,
    the ring is as it was, without the records written to stores.  If closed later, it goes on moving (Tier.idle()).
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
    """See that a ring of nbytes can hold what this one holds, or stores the rest.  O(files).  => NoSwap."""
    ring = tier.ring
    if not nbytes or ring.live_bytes + tier.keep_bytes > most_live_of(nbytes) and not tier.stores_have_room():
        raise NoSwap(f"it holds {ring.live_bytes >> 10}k and must keep {tier.keep_bytes >> 10}k free; no swap file "
                     "takes what is too much")
