"""uvm/resize.py: more frames, or fewer, while the machine runs.

resize() works in steps, so that requests are not held up: its caller lets operations run between two of them.  No step
is more than STEP_PATIENCE looks of the page daemon, MOVE_STEP pages copied or SIFT_STEP free frames looked at.  Frames
go in lots of an eighth.  For each lot, first enough pages get slots for V6 to hold with the fewer frames.  From then on
frames of the lot that are free, or become free, are set aside and not taken any more.  Then the highest frames go: the
pages that would leave next are evicted wherever they are, and pages left in the highest frames are copied to lower ones
that became free.  Wired pages and pages that swap has no room for stay; they are moved like all others.

Picture     nframes --slots--> V6 holds for fewer --sift--> free frames of the lot are aside
                    --make_free--> enough are free below --move_page--> the highest are aside
                    --shrink--> fewer, and the memory of those that went is the system's again

Breathing   A step makes offsets stale: it may run where breathe() may, between operations.
"""

from collections.abc import Generator, Iterator

from tmpfsd.uvm.errors import NoMemory
from tmpfsd.uvm.pagedaemon import STEP_PATIENCE
from tmpfsd.uvm.param import ptoa
from tmpfsd.uvm.queues import LIVES
from tmpfsd.uvm.vm import Vm

GROW_STEP = 4096            # frames that come in a step: 16 MiB
LOT_SHIFT = 3               # frames that go in a lot: an eighth of all,
MIN_LOT, MAX_LOT = 256, 32768       # at least 1 MiB, at most 128
MOVE_STEP = 32              # frames that go in a step
SIFT_STEP = 2048            # free frames looked at in a step


def resize(vm: Vm, nframes: int) -> Generator[int, None, None]:
    """Have nframes frames, step by step; yields how many there are after each.  O(frames), in steps of 0.5 ms.

    => NoMemory: there cannot be fewer than there are now, which may be fewer than at the start.
    """
    assert nframes > vm.reserve, "no frame beside the reserve"
    if nframes > vm.phys.most:
        raise NoMemory(f"the system gave address space for {ptoa(vm.phys.most) >> 20}m of ram only")
    for file in vm.swap.files if vm.swap is not None else ():
        file.ask_again()                        # who resizes waits for it
    while nframes > vm.phys.nframes:
        vm.phys.grow(min(nframes, vm.phys.nframes + GROW_STEP))
        vm.measure()
        yield vm.phys.nframes
    yield from _Shrink(vm).to(nframes)          # closing this one closes that one, compiled too


class _Shrink:
    """Takes frames away.  Frames that become free in a step are used in that step, as operations want frames too."""

    __slots__ = ("vm", "looks", "tight")

    def __init__(self, vm: Vm) -> None:
        self.vm = vm
        self.looks = 0              # since a page left
        self.tight = False          # no other page can leave: all free frames beyond the reserve may be used

    def to(self, nframes: int) -> Generator[int, None, None]:
        """Have nframes; yields how many there are.  If it is closed half way, frames set aside are given back."""
        vm, phys = self.vm, self.vm.phys
        while nframes < phys.nframes:
            goal = max(nframes, phys.nframes - min(max(MIN_LOT, phys.nframes >> LOT_SHIFT), MAX_LOT))
            if vm.nslotless + vm.reserve > goal:
                self._evict(vm.nslotless + vm.reserve - goal)
                goal = max(goal, vm.nslotless + vm.reserve)
                if goal >= phys.nframes:
                    yield phys.nframes
                    continue
            phys.set_ceiling(goal)
            vm.measure()
            try:
                yield from self._sift(goal)
                yield from self._lower(goal)
            finally:
                phys.lift_ceiling()
                vm.measure()

    def _sift(self, goal: int) -> Iterator[int]:
        """Set aside the free frames from goal on; PhysMem.free() does so with those that become free meanwhile."""
        free, done = self.vm.phys.free_frames, 0
        while done < len(free):
            n, surplus = SIFT_STEP, self._surplus()
            while (high := sum([goal <= pfn for pfn in free[done:done + n]])) > surplus > 0:
                n = min(n - 1, n * surplus // high)
            if high > surplus:
                self._evict(high - surplus)
            else:
                done += self.vm.phys.set_aside(done, n)
            yield self.vm.phys.nframes

    def _lower(self, goal: int) -> Iterator[int]:
        """Take the highest frames, none of which is in the free list."""
        phys = self.vm.phys
        while phys.nframes > goal:
            low, leaving = self._affordable(goal)
            if low == phys.nframes:
                highest = phys.owner[max(goal, phys.nframes - MOVE_STEP):]
                self._evict(len(highest) - highest.count(0) - self._surplus())
                low, leaving = self._affordable(goal)
            for pfn in leaving:
                self.vm.move_page(pfn, phys.alloc(phys.owner[pfn]))
            phys.shrink(low)
            self.vm.measure()
            yield phys.nframes

    def _affordable(self, goal: int) -> tuple[int, list[int]]:
        """(the number of frames that this step can go down to, the frames to be emptied for it)."""
        phys, surplus = self.vm.phys, self._surplus()
        low, end = phys.nframes, max(goal, phys.nframes - MOVE_STEP)
        leaving: list[int] = []
        while low > end:
            if phys.owner[low - 1]:
                if len(leaving) >= surplus:
                    break
                leaving.append(low - 1)
            low -= 1
        return low, leaving

    def _surplus(self) -> int:
        """How many free frames operations do not need."""
        return len(self.vm.phys.free_frames) - (self.vm.reserve if self.tight else self.vm.low)

    def _evict(self, n: int) -> None:
        """Evict n pages, or as many as patience allows.  => NoMemory: nothing can leave."""
        daemon, phys = self.vm.daemon, self.vm.phys
        before = phys.nused
        daemon.make_free(len(phys.free_frames) + n, STEP_PATIENCE)
        self.looks += STEP_PATIENCE
        if phys.nused < before:
            self.looks = 0
        # After so many looks each page must have shown whether it can leave.
        elif daemon.patience > 0 or self.looks > (4 + LIVES) * phys.nframes:
            if self.tight:
                raise NoMemory(f"{ptoa(phys.nused) >> 10}k of pages cannot leave ram (wired, or no swap takes them)")
            self.tight = True
