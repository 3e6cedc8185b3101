"""uvm/resize.py: more frames, or fewer, while the machine runs.

resize() works in steps, so that requests are not held up: its caller lets operations run between two of them.  A step
takes the highest frames away: it evicts the pages that would leave next wherever they are, and what is left in the
highest frames is copied to lower ones that became free.  Wired pages and pages that swap has no room for stay; they are
moved like all others.  After each step all invariants hold, V6 too: where all that is resident fits into the fewer
frames without the reserve, so do the pages without a slot.

Picture     nframes --make_free--> enough are free --move_page--> the highest are free
                    --shrink--> fewer, and the memory of those that went is the system's again

Breathing   A step makes offsets stale: it may run where breathe() may, between operations.
"""

from collections.abc import Iterator

from tmpfsd.uvm.errors import NoMemory
from tmpfsd.uvm.param import ptoa
from tmpfsd.uvm.vm import Vm

MIN_STEP = 256              # frames that go in a step: 1 MiB, or a 128th of all
STEP_SHIFT = 7


def resize(vm: Vm, nframes: int) -> Iterator[int]:
    """Have nframes frames, step by step; yields how many there are after each.

    => NoMemory: no fewer can be had than there are now, which may be less than there were.
    """
    assert nframes > vm.reserve, "no frame beside the reserve"
    if nframes > vm.phys.most:
        raise NoMemory(f"the system gave address space for {ptoa(vm.phys.most) >> 20}m of ram only")
    if nframes > vm.phys.nframes:
        vm.phys.grow(nframes)
        vm.measure()
        yield nframes
    while nframes < vm.phys.nframes:
        _shrink(vm, max(nframes, vm.phys.nframes - max(MIN_STEP, vm.phys.nframes >> STEP_SHIFT)))
        yield vm.phys.nframes


def _shrink(vm: Vm, nframes: int) -> None:
    """One step."""
    phys, daemon = vm.phys, vm.daemon
    gone = phys.nframes - nframes
    before = -1
    while before < len(phys.free_frames) < gone + vm.low:       # it gives up when many slots in a row are bad
        before = len(phys.free_frames)
        daemon.make_free(gone + vm.low)
    if len(phys.free_frames) < gone + vm.reserve:
        fixed = phys.nframes - len(phys.free_frames)
        raise NoMemory(f"{ptoa(fixed) >> 10}k of pages cannot leave ram (wired, or no swap takes them)")
    phys.sort_free()
    leaving = [pfn for pfn in range(nframes, phys.nframes) if phys.owner[pfn]]
    places = [phys.alloc(phys.owner[pfn]) for pfn in leaving]       # all before the first of these is free
    for pfn, place in zip(leaving, places):
        vm.move_page(pfn, place)
    if leaving:
        phys.sort_free()
    phys.shrink(nframes)
    vm.measure()
