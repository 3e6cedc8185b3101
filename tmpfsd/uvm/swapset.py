"""uvm/swapset.py: several swap files, and how one is taken in and let go while the machine runs (after uvm_swap.c).

The slots of all files are one space of numbers; each file has a range of it.  A machine with one file has a Swap.  With
more it has a SwapSet, which answers as a Swap does and hands each slot to the file that owns it.  The file of the
highest priority is filled first, as swapon(8) has it.  A file without a priority comes after all files that have one,
and after older ones without.  Files of equal priority take clusters in turn.

swapoff() drains a file in steps.  Pages that are out are copied to other files; this takes no frame and does not count
as use.  Resident pages are written elsewhere.  If no other file has room, they lose their slots and stay in memory.
The file gives out no slots meanwhile, so one walk over the page table finds all of its pages.

Picture     swapon --> IN USE --swapoff: draining--> empty, for the caller to close
                         ^--- interrupted, refused ---|            every page has its slot, the old or the new

Invariants
    T1  No two files own one slot number.  Between two ranges one number is nobody's, so no run crosses.
    T2  Files stand in order of priority.

Breathing   A step of swapoff() makes offsets stale: it may run where breathe() may, between operations.
"""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING, Generator, Sequence

from tmpfsd.uvm import unwritten
from tmpfsd.uvm.backing import Backing, keep_slots
from tmpfsd.uvm.errors import NoSwap, SwapIOError, demand
from tmpfsd.uvm.param import CLUSTER, PAGE_SHIFT, PAGE_SIZE, ptoa
from tmpfsd.uvm.swap import UNSAID, Swap
from tmpfsd.uvm.zlog import ZLog

if TYPE_CHECKING:
    from tmpfsd.uvm.vm import Vm

MAX_FILES = 16
NUMBERS = 1 << 32           # a slot number has 32 bits
OWN_WIDTH = 1 << 31          # numbers kept for the file of the mount, which can grow: as many as there can be pages
RING_WIDTH = 1 << 29        # numbers of the compressed tier's ring: 2 TiB of pages, before they were packed
RING_BASE = NUMBERS - RING_WIDTH
STEP_PAGES = 16             # pages that a step of swapoff() moves: 0.3 ms where each is written alone
STEP_LOOKS = 2048           # pages that it looks at: 0.1 ms


class SwapSet:
    """The slots of several swap files, of the ring of the compressed tier (tier.py), and of an image (backing.py).

    All O(files), at most MAX_FILES, and the cost of the call to the file that has the slot; see Swap.
    """

    __slots__ = ("files", "ring", "image")

    def __init__(self, files: list[Swap], ring: ZLog | None = None, image: Backing | None = None) -> None:
        self.ring = ring
        self.image = image
        self.files = sorted(files, key=lambda file: -file.priority)

    @property
    def path(self) -> str:
        """Where the first file is.  O(1)."""
        return self.files[0].path if self.files else "none"

    @property
    def nslots(self) -> int:
        """Slots of all files.  O(files), as all here: there are at most MAX_FILES."""
        return sum(file.nslots for file in self.files)

    @property
    def nheld(self) -> int:
        """Slots that are held."""
        return sum(file.nheld for file in self.files)

    @property
    def nbad(self) -> int:
        """Slots that are bad."""
        return sum(file.nbad for file in self.files)

    @property
    def nfree(self) -> int:
        """Slots that alloc() can give."""
        return sum(file.nfree for file in self.files if file.space)

    @property
    def space(self) -> bool:
        """Whether some file's disk may have room for more."""
        return any(file.space and not file.draining for file in self.files)

    @property
    def resting(self) -> bool:
        """Whether all files rest, because they fail."""
        return all(file.resting for file in self.files)

    def rests_at(self, slot: int) -> bool:
        """See Swap."""
        return self.file_of(slot).resting

    def of(self, slot: int) -> Swap | ZLog | Backing:
        """The file, the ring or the image that owns a slot."""
        if self.image is not None and self.image.owns(slot):
            return self.image
        if self.ring is not None and self.ring.owns(slot):
            return self.ring
        return self.file_of(slot)

    def file_of(self, slot: int) -> Swap:
        """The file that owns a slot."""
        for file in self.files:
            if file.owns(slot):
                return file
        raise KeyError(f"slot {slot} is of no swap file")

    @property
    def read_only(self) -> bool:
        """Whether this belongs to a frozen copy."""
        return any(file.read_only for file in self.files)

    def end_hold(self) -> None:
        """See Swap."""
        for file in self.files:
            file.end_hold()

    def disk_full(self, slot: int) -> None:
        """See Swap."""
        self.file_of(slot).disk_full()

    def alloc(self, n: int, at: int = 0) -> tuple[int, int]:
        """See Swap.  If `at` is given, a slot near it failed: another file is tried first."""
        files = sorted(self.files, key=lambda file: file.owns(at)) if at else self.files
        for file in files:
            if file.nfree and file.space:
                got = file.alloc(n, at if file.owns(at) else 0)
                self._had_its_turn(file)
                return got
        raise NoSwap("all swap files are full")

    def _had_its_turn(self, file: Swap) -> None:
        """Move the file behind its peers of equal priority, so that they are asked in turn."""
        i, peers = self.files.index(file), [one.priority for one in self.files].count(file.priority)
        if peers > 1:
            last = [one.priority for one in self.files].index(file.priority) + peers - 1
            self.files.insert(last, self.files.pop(i))

    def free(self, slot: int, n: int = 1) -> None:
        """See Swap."""
        self.of(slot).free(slot, n)

    def retire(self, slot: int) -> None:
        """See Swap."""
        self.of(slot).retire(slot)

    def write_cluster(self, slot: int, pages: Sequence[memoryview], vpns: Sequence[int]) -> None:
        """See Swap."""
        self.file_of(slot).write_cluster(slot, pages, vpns)

    def read_cluster(self, slot: int, pages: Sequence[memoryview], vpns: Sequence[int]) -> int:
        """See Swap."""
        return self.of(slot).read_cluster(slot, pages, vpns)

    def verify(self, slot: int, vpn: int) -> bool:
        """See Swap."""
        return self.of(slot).verify(slot, vpn)

    def trim(self, budget: int = 64) -> bool:
        """See Swap."""
        return any([file.trim(budget) for file in self.files])

    def close(self) -> None:
        """Close all files and the image; the tier closes its ring."""
        for file in self.files:
            file.close()
        if self.image is not None:
            self.image.close()

    def check(self, held: set[int]) -> None:
        """Raise Inconsistent where an invariant of the set or of a file does not hold."""
        owners: list[Swap | ZLog | Backing] = [*self.files]
        if self.ring is not None:
            owners.append(self.ring)
        if self.image is not None:
            owners.append(self.image)
        ranges = sorted([(each.base, each.base + each.width) for each in owners])
        demand(all(one[1] < two[0] for one, two in zip(ranges, ranges[1:])), "T1", f"ranges {ranges}")
        priorities = [file.priority for file in self.files]
        demand(priorities == sorted(priorities, reverse=True), "T2", f"priorities {priorities}")
        for slot in held:
            demand(any([each.owns(slot) for each in owners]), "T1", f"slot {slot} is of no file")
        for each in owners:
            each.check({slot for slot in held if each.owns(slot)})


def free_base(files: list[Swap], nslots: int, image: Backing | None = None) -> int:
    """The first of nslots slot numbers that no file owns, and no image.  O(files log files).  => NoSwap."""
    base = 1 if image is None else image.base + image.width + 1
    for file in sorted(files, key=lambda file: file.base):
        if base + nslots < file.base:
            break
        base = file.base + file.width + 1
    if base + nslots >= RING_BASE:
        raise NoSwap(f"there are no slot numbers left for {ptoa(nslots) >> 20}m")
    return base


def swapon(vm: Vm, swap: Swap) -> None:
    """Use a file from now on; its base is from free_base().  O(files).  => NoSwap: there are too many."""
    files = vm.swap.files if vm.swap is not None else []
    if len(files) >= MAX_FILES:
        raise NoSwap(f"at most {MAX_FILES} swap files")
    if swap.priority < 0:
        swap.priority = min([UNSAID + 1, *(file.priority for file in files)]) - 1
    ring = vm.swap.ring if isinstance(vm.swap, SwapSet) else None
    several = files or ring is not None or vm.image is not None
    vm.swap = SwapSet([*files, swap], ring, vm.image) if several else swap


def swapoff(vm: Vm, swap: Swap | ZLog) -> Generator[int, None, None]:
    """Drain a file step by step, then stop using it; yields how many of its slots are held.

    => The caller closes it: giving back the blocks of a long file takes the file system 0.1 s and more.

    O(pages), in steps of STEP_LOOKS looks or STEP_PAGES moves.
    => NoSwap: its pages fit nowhere else.  => SwapIOError: some pages cannot be read back, all others were moved.
    Then, or when the generator is closed before its end, the file is in use as before, and no page is lost.
    """
    demand_room(vm, swap)
    swap.end_hold()
    swap.draining = True
    try:
        yield swap.nheld
        lost = vpn = 0
        while vpn < len(vm.slot_of):
            vpn, failed = _step(vm, swap, vpn)
            lost += failed
            yield swap.nheld
        if lost:
            raise SwapIOError(f"{lost} pages cannot be read back from it; all others are elsewhere now")
        assert not swap.nheld, "a page kept its slot"
        _let_go(vm, swap)
    finally:
        swap.draining = False


def demand_room(vm: Vm, swap: Swap | ZLog) -> None:
    """See that other files (also one that rests) and memory have room for a file's pages.  O(files).  => NoSwap."""
    assert vm.swap is not None
    for file in vm.swap.files:
        file.ask_again()
    others = sum(file.nfree for file in vm.swap.files if file is not swap and file.space)
    memory = max(vm.most_slotless - vm.nslotless, 0)
    if vm.tier is not None and swap is not vm.tier.ring:
        ring = vm.tier.ring
        others += max(ring.most_live - ring.live_bytes, 0) >> PAGE_SHIFT
    others = max(others - keep_slots(vm), 0)
    if swap.nheld > others + memory:
        raise NoSwap(f"it holds {ptoa(swap.nheld) >> 10}k; other swap files have room for {ptoa(others) >> 10}k, "
                     f"ram for {ptoa(memory) >> 10}k")


def _let_go(vm: Vm, swap: Swap | ZLog) -> None:
    assert vm.swap is not None
    ring = vm.swap.ring if isinstance(vm.swap, SwapSet) else None
    if swap is ring:
        vm.tier = ring = None
    files = [file for file in vm.swap.files if file is not swap]
    if len(files) > 1 or ring is not None or vm.image is not None:
        vm.swap = SwapSet(files, ring, vm.image)
    else:
        vm.swap = files[0] if files else None


def _step(vm: Vm, swap: Swap | ZLog, vpn: int) -> tuple[int, int]:
    """Move some pages from vpn on: where to go on, and how many could not be read."""
    moved = lost = 0
    slot_of, first, behind = vm.slot_of, swap.base, swap.base + swap.width
    end = min(vpn + STEP_LOOKS, len(slot_of))
    while vpn < end and moved + lost < STEP_PAGES:
        if not first <= slot_of[vpn] < behind:
            vpn += 1
            continue
        try:
            n = _move(vm, swap, vpn)
            moved += n
        except SwapIOError:
            n = 1
            lost += 1
        vpn += n
    return vpn, lost


def _move(vm: Vm, swap: Swap | ZLog, vpn: int) -> int:
    """Move a page off the file, and those after it that are out together with it; how many."""
    if unwritten.is_unwritten(vm, vpn):
        unwritten.settle(vm, swap, vpn)
        return 1
    if not vm.is_resident(vpn):
        n = _copy(vm, swap, vpn)
        if n:
            return n
        vm.breathe()                # it takes a frame
        if not vm.phys.free_frames:
            raise NoSwap("what it holds fits nowhere else: no other file takes pages, and no frame is free")
        vm.fault(vpn)
    _settle(vm, swap, vpn)
    return 1


def _copy(vm: Vm, swap: Swap | ZLog, vpn: int) -> int:
    """Copy pages that are out to another file; how many, 0 if no file takes them.  => SwapIOError."""
    slot, n = vm.slot_of[vpn], 1
    end = min(vpn + CLUSTER, len(vm.slot_of))
    while (vpn + n < end and vm.slot_of[vpn + n] == slot + n and not vm.is_resident(vpn + n)
           and not unwritten.is_unwritten(vm, vpn + n)):
        n += 1
    assert vm.swap is not None
    try:
        to, count = vm.swap.alloc(n)
    except NoSwap:
        return 0
    try:
        got = swap.read_cluster(slot, _scratch[:count], range(vpn, vpn + count))
    except SwapIOError as error:
        vm.swap.free(to, count)
        vm.lost.add(vpn, vm.owner_of(vpn), error)
        raise
    if got < count:
        vm.swap.free(to + got, count - got)
    try:
        vm.swap.write_cluster(to, _scratch[:got], range(vpn, vpn + got))
    except OSError as refusal:
        vm.swap.free(to, got)
        vm.daemon.failed(refusal, to)
        return 0                    # the page daemon knows more ways
    for i in range(got):
        vm.slot_of[vpn + i] = to + i
        vm.lost.remove(vpn + i)
    swap.free(slot, got)
    return got


def _settle(vm: Vm, swap: Swap | ZLog, vpn: int) -> None:
    """Give a resident page a slot of another file, or none.  => NoSwap: there is room for neither."""
    pfn = vm.pfn_of(vpn)
    assert vm.swap is not None
    if (vm.swap.nfree or vm.tier is not None) and vm.daemon.clean(pfn) and not swap.owns(vm.slot_of[vpn]):
        return
    if vm.nslotless >= vm.most_slotless:
        raise NoSwap("what it holds fits nowhere else: other swap files and ram are full")
    vm.lose_slot(vpn)


# Page aligned, as O_DIRECT demands.
_buffer = memoryview(mmap.mmap(-1, CLUSTER * PAGE_SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
_scratch = [_buffer[i << PAGE_SHIFT:(i + 1) << PAGE_SHIFT] for i in range(CLUSTER)]
