"""uvm/vm.py: the machine: page table, read(va), write(va), fault(), breathe().

A va is a byte address in one dense space; its page number indexes flat arrays: pte (its frame, or when it left:
pte.py), slot_of (its place in the swap file), flags (its owner and its kind).  A page takes nine bytes here, one in the
map it is from (vmem.py), one in the map of its slot, and those of its seal (seal.py): 15 bytes in all, 39 if swap is
encrypted.  The bitmaps of pools are not counted here.

read() and write() return an offset into the arena.  It stays valid until the next breathe(), and between two breaths
nothing is evicted: a fault takes a frame from the reserve.

Picture     --alloc_page--> RESIDENT, dirty, no slot --clean--> RESIDENT, clean, slot
                                                     <-write--        |  ^
            RESIDENT, dirty, slot <--write--                     drop |  | fault
                                                                      v  |
                                                                     OUT, slot        (free_page from any)

Invariants
    V1  A page that has an owner is resident, out or unwritten; one without an owner is none of these and has no slot.
    V2  A resident page and its frame name each other.
    V3  A page without a slot is resident and dirty, or unwritten (unwritten.py, V9).
    V4  npages, nslotless, nwired, nunowned, pages_of and resident_of count what the arrays say.
    V5  A slot belongs to one page.
    V6  At most most_slotless = nframes - reserve pages have no slot (frames that are to go are not counted), unless the
        swap device failed.  So the reserve can always be filled again, and no page-in ever waits for swap space.
        The last `spare` are for an overdraft.
    V7  Between two operations the bytes of every page belong to its owner (undefined.py).

Breathing   breathe() is the only place where offsets go stale.
"""

import logging
import os
import time
from array import array
from typing import Callable, Final, Iterable

from tmpfsd.native import i64
from tmpfsd.seldom import seldom
from tmpfsd.uvm import backing, failpoint, pte
from tmpfsd.uvm.errors import Inconsistent, NoMemory, SwapIOError
from tmpfsd.uvm.lost import Lost, Unreadable
from tmpfsd.uvm.overdraft import Overdraft
from tmpfsd.uvm.pagedaemon import PageDaemon
from tmpfsd.uvm.pagekind import MAX_OWNERS, OWNER_MASK, UNOWNED, UNWRITTEN, WINDOWED, WIRED
from tmpfsd.uvm.param import CLUSTER, PAGE_MASK, PAGE_SHIFT, PAGE_SIZE
from tmpfsd.uvm.physmem import ZERO_PAGE, PhysMem
from tmpfsd.uvm.queues import ACTIVE, INACTIVE
from tmpfsd.uvm.sampler import Sampler
from tmpfsd.uvm.swap import Swap
from tmpfsd.uvm.swapset import SwapSet
from tmpfsd.uvm.tier import Tier
from tmpfsd.uvm.undefined import Undefined
from tmpfsd.uvm.unwritten import bring_in
from tmpfsd.uvm.used import Used
from tmpfsd.uvm.vmcheck import check_vm
from tmpfsd.uvm.vmmap import VmMap
from tmpfsd.uvm.windows import Windows

log = logging.getLogger(__name__)

RESERVE: Final = 64         # frames an operation may take between two breaths: faults and new pages together
SLACK: Final = 32           # frames above the reserve at which reclaim begins: two clusters
GROW = 16384                # pages by which the page table grows: 150 KiB
SPARE = 16                  # pages that renames may still have when memory and swap are full
MOST_GIVEN: Final = 128     # pages that get slots to make room for one without: a millisecond
READAHEAD: Final = 8        # pages read at once where they were written together and are read in order
UNLIMITED: Final = 1 << 62
POISON = b"\xdf" * PAGE_SIZE        # TMPFSD_CHECK: the content of frames that are nobody's


class Vm:
    """One machine: `ram_bytes` of frames, a page table, a page daemon and perhaps a swap file."""

    __slots__ = ("phys", "swap", "tier", "image", "kernel_map", "daemon", "windows", "reserve", "low", "most_slotless",
                 "spare", "limit", "pte", "slot_of", "flags", "npages", "nslotless", "nwired", "nunowned", "pages_of",
                 "resident_of", "owners", "faults", "pageins", "read_errors", "frame_errors", "lost", "unreadable",
                 "sampler", "undefined", "thrash", "check_level", "trace", "used", "overdrawn", "overdraft",
                 "_most_spare", "_referenced", "_dirty", "_free")

    def __init__(self, ram_bytes: int, swap: Swap | SwapSet | None = None, limit: int = UNLIMITED,
                 reserve: int = RESERVE, spare: int = 0) -> None:
        self.phys = PhysMem(ram_bytes)
        assert self.phys.nframes > reserve, "no frame beside the reserve"
        self.swap = swap
        self.tier: Tier | None = None       # compressed pages, between frames and swap; it has its slots in `swap`
        self.image: backing.Backing | None = None       # pages that were there before the mount, slots in `swap` too
        self.kernel_map = VmMap("kernel_map")
        self.reserve = reserve
        self.limit = limit                  # pages that may exist, resident or out
        self.overdrawn = False
        self.overdraft = Overdraft(self)
        self._most_spare = spare            # pages kept back for overdrafts, at most
        self.pte = pte.row(pte.NONE, 0)
        self.slot_of = array("I")
        self.flags = bytearray()
        self.npages = self.nslotless = self.nwired = self.nunowned = 0
        self.windows: Windows | None = None     # pages of kind WINDOWED are seen through these only
        self.pages_of = [0] * MAX_OWNERS
        self.resident_of = [0] * 256        # by flags
        self.owners = [""] * MAX_OWNERS     # their names in the log
        self.faults = self.pageins = self.read_errors = self.frame_errors = 0
        self.lost = Lost()
        self.unreadable: Unreadable | None = None       # a frozen copy's, for what its check finds
        self.sampler: Sampler | None = None             # while somebody asks how much memory would be enough
        self.undefined = Undefined()
        # Called for each page that comes in, is written, or leaves: ("in" | "out" | "drop", page, how many in a row).
        self.trace: Callable[[str, int, int], None] | None = None
        self.used: Used | None = None       # notes which pages are used
        self.thrash = os.environ.get("TMPFSD_THRASH") == "1"
        self.check_level = int(os.environ.get("TMPFSD_CHECK", "0"))
        self._referenced, self._dirty = self.phys.referenced, self.phys.dirty
        self._free = self.phys.free_frames
        self.daemon = PageDaemon(self)
        self.measure()
        self._grow(1023)

    def measure(self) -> None:
        """Set all that depends on the number of frames, without those that are to go.  O(frames that are new)."""
        nframes = min(self.phys.nframes, self.phys.ceiling)
        # Reclaim begins above the reserve, so that an operation's new pages seldom reach the bound of V6.
        self.low = self.reserve + min(SLACK, (nframes - self.reserve) // 4)
        self.most_slotless = nframes - self.reserve
        self.spare = min(self._most_spare, self.most_slotless // 4)
        self.daemon.resize()
        if self.windows is not None:
            self.windows.resize()

    # --- the hot path ---

    def read(self, va: int) -> int:
        """The arena offset of va, to read there.  O(1).  => Faults.  => SwapIOError."""
        pfn: i64 = self.pte[va >> PAGE_SHIFT]
        if pfn < 0:
            pfn = self.fault(va >> PAGE_SHIFT)
        self._referenced[pfn] = 1
        return pfn << PAGE_SHIFT | va & PAGE_MASK

    def write(self, va: int) -> int:
        """The arena offset of va, to change what is there.  O(1).  => Faults.  => SwapIOError."""
        pfn: i64 = self.pte[va >> PAGE_SHIFT]
        if pfn < 0:
            pfn = self.fault(va >> PAGE_SHIFT)
        self._referenced[pfn] = self._dirty[pfn] = 1
        return pfn << PAGE_SHIFT | va & PAGE_MASK

    def breathe(self) -> None:
        """Let pages leave, so that the reserve is full.  O(1), or O(PATIENCE).  => Every offset is stale afterwards.

        => Inconsistent V7: an operation has left pages undefined; they are restored, and no page has left.
        """
        if self.undefined.pages:
            seen = f"the bytes of {len(self.undefined.pages)} pages are nobody's"
            self.undefined.restore(self)
            raise Inconsistent("V7", seen)
        if len(self._free) < self.low:
            self.daemon.reclaim()
        if self.tier is not None and self.tier.owes:
            self.tier.pay()
        if self.thrash:
            self.daemon.evict_all()
        if self.windows is not None:
            self.windows.recycle()

    # --- pages ---

    def alloc_page(self, vpn: int, owner: int, kind: int = 0) -> None:
        """Give page vpn a frame, zeroed; kind is 0 (pageable), WIRED, UNOWNED or WINDOWED.

        O(1), O(CLUSTER) at the bound of V6, and O(GROW) when the page table is too short.
        => NoMemory at the limits of size, of ram and of swap.  Never evicts.
        """
        if failpoint.hook:
            failpoint.hook("Vm.alloc_page")
        if self.npages >= self.limit and not self.overdrawn:
            raise NoMemory("size is used up")
        if self.nslotless >= self.most_slotless - self.spare:
            self._make_slotless_room()
        if vpn >= len(self.flags):
            self._grow(vpn)
        assert self.pte[vpn] == pte.NONE
        try:
            pfn = self.phys.alloc(vpn)
        except IndexError:
            raise NoMemory("no free frame: the swap device does not take pages") from None
        at = pfn << PAGE_SHIFT
        self.phys.arena[at:at + PAGE_SIZE] = ZERO_PAGE
        self.pte[vpn] = pfn
        self.flags[vpn] = owner | kind
        self._dirty[pfn] = self._referenced[pfn] = 1
        self.npages += 1
        self.nslotless += 1
        self.pages_of[owner] += 1
        self.resident_of[owner | kind] += 1
        self.nwired += kind == WIRED
        self.nunowned += kind == UNOWNED
        if kind == WINDOWED:
            self._show(vpn, pfn)
        if not kind & (WIRED | UNOWNED):
            self.daemon.fresh[pfn] = 1
            self.daemon.enter(pfn)
        if self.sampler is not None:
            self.sampler.made(vpn, 1)

    def alloc_data_pages(self, vpn: int, n: int, owner: int) -> int:
        """Give up to n pages in a row frames with their old bytes; how many got one, at least 1.

        As alloc_page() for each, 1.2 us a page instead of 3.3.  => The bytes may be another user's: the caller
        overwrites or zeroes each before the next breath, and calls undefined.written().  => NoMemory when there is not
        even one.  O(n).
        """
        if failpoint.hook:
            failpoint.hook("Vm.alloc_data_pages")
        room = min(n, self.limit - self.npages, self.most_slotless - self.spare - self.nslotless, len(self._free))
        if room < 1:
            self.alloc_page(vpn, owner)         # makes room, or says what is full
            return 1
        if vpn + room > len(self.flags):
            self._grow(vpn + room - 1)
        table, dirty, referenced = self.pte, self._dirty, self._referenced
        alloc, enter, fresh = self.phys.alloc, self.daemon.enter, self.daemon.fresh
        for page in range(vpn, vpn + room):
            pfn = alloc(page)
            table[page] = pfn
            dirty[pfn] = referenced[pfn] = fresh[pfn] = 1
            enter(pfn)
            if self.check_level:
                self.phys.arena[pfn << PAGE_SHIFT:(pfn + 1) << PAGE_SHIFT] = POISON
        self.undefined.pages.update(range(vpn, vpn + room))
        self.flags[vpn:vpn + room] = bytes((owner,)) * room
        self.npages += room
        self.nslotless += room
        self.pages_of[owner] += room
        self.resident_of[owner] += room
        if self.sampler is not None:
            self.sampler.made(vpn, room)
        return room

    def forget_content(self, vpn: int, n: int = 1) -> int:
        """All of n pages in a row will be overwritten: those that are out get a frame without being read.

        => How many of them, from the first on, are in now: all, if there are enough frames.  O(n).
        => A page that got a frame has the old bytes of it, until the caller has written it and calls
        undefined.written().  Nothing may be allocated meanwhile.
        """
        for page in range(vpn, vpn + n):
            entry = self.pte[page]
            if entry >= 0 or pte.is_hidden(entry) and not self.flags[page] & WINDOWED:
                continue
            if entry == pte.NONE and self._free and self.flags[page] == UNWRITTEN:
                bring_in(self, page, whole=True)
                continue
            if entry == pte.NONE or not self._free or self.flags[page] & WINDOWED:
                return page - vpn
            if failpoint.hook:
                failpoint.hook("Vm.forget_content")
            pfn = self.phys.alloc(page)
            self._dirty[pfn] = self._referenced[pfn] = 1
            if self.check_level:
                self.phys.arena[pfn << PAGE_SHIFT:(pfn + 1) << PAGE_SHIFT] = POISON
            self.lost.remove(page)
            self._enter(page, pfn)
            self.undefined.pages.add(page)
            self.undefined.old.add(page)
            if self.sampler is not None:
                self.sampler.made(page, 1)
        return n

    def free_page(self, vpn: int) -> None:
        """Take page vpn's frame and slot back.  O(1).  => Cannot fail; faults nothing in."""
        self.free_pages(vpn, 1)

    def free_pages(self, vpn: int, n: int) -> None:
        """free_page() for n pages in a row.  O(n): a caller that frees many does so in slices."""
        if self.undefined.pages:
            self.undefined.written(vpn, n)
        slots = self.slot_of[vpn:vpn + n]
        for page in range(vpn, vpn + n):
            self._free_one(page)
        self.nslotless -= slots.count(0)
        self.npages -= n
        if self.lost.pages and self.swap is not None:
            for i in range(n):
                if self.lost.remove(vpn + i):
                    self.swap.retire(slots[i])
                    slots[i] = 0
        self.free_slots(slots)

    def _free_one(self, vpn: int) -> None:
        flags, pfn = self.flags[vpn], self.pfn_of(vpn)
        assert flags, "page freed twice"
        if self.sampler is not None:
            self.sampler.forget(vpn)
        self.pages_of[flags & OWNER_MASK] -= 1
        self.nwired -= flags & WIRED > 0
        self.nunowned -= flags & UNOWNED > 0
        if pfn >= 0:
            if self.check_level:
                self.phys.arena[pfn << PAGE_SHIFT:(pfn + 1) << PAGE_SHIFT] = POISON
            self.leave_frame(vpn, pfn, pte.NONE)
        else:
            self.pte[vpn] = pte.NONE
        self.slot_of[vpn] = self.flags[vpn] = 0

    def free_slots(self, slots: Iterable[int]) -> None:
        """Give back the slots that are not 0, those in a row together.  O(slots)."""
        swap = self.swap
        if swap is None:
            return              # there are no slots then
        first = count = 0
        for slot in slots:
            if count and slot == first + count:
                count += 1
                continue
            if count:
                swap.free(first, count)
            first, count = slot, int(slot != 0)
        if count:
            swap.free(first, count)

    def lose_slot(self, vpn: int) -> None:
        """Free a resident page's slot; the page becomes dirty (V3).  => V6 must allow it.  O(1)."""
        pfn, slot = self.pfn_of(vpn), self.slot_of[vpn]
        self.slot_of[vpn] = 0
        self._dirty[pfn] = 1
        self.daemon.slotted[pfn] = 0
        self.nslotless += 1
        self.free_slots([slot])

    def may_leave(self, vpn: int) -> bool:
        """Whether the page daemon may evict page vpn: it is not wired, and is owned by some object.  O(1)."""
        return not self.flags[vpn] & (WIRED | UNOWNED)

    def pfn_of(self, vpn: int) -> int:
        """The frame of page vpn, whether a window shows it or not; negative where it has none.  O(1)."""
        entry: i64 = self.pte[vpn]
        return entry if entry >= 0 else pte.pfn(entry)

    def owner_of(self, vpn: int) -> str:
        """The name in the log of page vpn's owner.  O(1)."""
        return self.owners[self.flags[vpn] & OWNER_MASK]

    def is_resident(self, vpn: int) -> bool:
        """Whether page vpn has a frame.  O(1)."""
        return self.pfn_of(vpn) >= 0

    def resident(self, owner: int) -> int:
        """Pages of an owner that are in frames, of any kind.  O(1)."""
        return sum(self.resident_of[owner | kind] for kind in (0, WIRED, UNOWNED, WINDOWED))

    def leave_frame(self, vpn: int, pfn: int, entry: int) -> None:
        """Page vpn leaves frame pfn, which is free then; `entry` is its entry from now on.  O(1)."""
        flags = self.flags[vpn]
        if self.windows is not None:
            self.windows.hide(pfn)
        self.pte[vpn] = entry
        self.resident_of[flags] -= 1
        if not flags & (WIRED | UNOWNED):
            self.daemon.remove(pfn)
        self.phys.free(pfn)

    def move_page(self, pfn: int, to: int) -> None:
        """Move a page to another frame, taken for it already.  O(1).  => Offsets are stale.  => Cannot fail."""
        phys = self.phys
        vpn = phys.owner[pfn]
        phys.arena.move(to << PAGE_SHIFT, pfn << PAGE_SHIFT, PAGE_SIZE)
        phys.referenced[to], phys.dirty[to] = phys.referenced[pfn], phys.dirty[pfn]
        self.pte[vpn] = to if self.pte[vpn] >= 0 else pte.hidden(to)
        if self.windows is not None:
            self.windows.move(pfn, to)
        if self.may_leave(vpn):
            self.daemon.move(pfn, to)
        phys.free(pfn)

    def _grow(self, vpn: int) -> None:
        """Make the page table long enough for vpn: by an eighth, GROW pages at most, or more if vpn needs it."""
        n = max(vpn + 1 - len(self.flags), min(max(1024, len(self.flags) >> 3), GROW))
        self.pte.extend(pte.row(pte.NONE, n))
        self.slot_of.frombytes(bytes(4 * n))
        self.flags.extend(bytes(n))

    def _make_slotless_room(self) -> None:
        """Write pages out until another page without a slot is allowed (V6)."""
        most = self.most_slotless - (0 if self.overdrawn else self.spare)
        assert not self.undefined.old, "V8: a page whose content is in its slot only may get another"
        if self.swap is not None:       # as many as are too many: while ram shrinks, that is more than a cluster
            self.daemon.give_slots(min(self.nslotless - most + CLUSTER, MOST_GIVEN))
        if self.nslotless >= most:
            raise NoMemory("ram is full of pages that cannot leave" if self.nwired + self.nunowned >= most // 2
                           else "ram is full and no swap space is left")

    # --- faults ---

    def fault(self, vpn: int) -> int:
        """Bring page vpn in; its frame.  O(READAHEAD).  => SwapIOError: it cannot be read; nothing has changed."""
        if failpoint.hook:
            failpoint.hook("Vm.fault")
        entry: i64 = self.pte[vpn] if vpn < len(self.flags) else pte.NONE
        if pte.is_hidden(entry):
            self._show(vpn, pte.pfn(entry))
            if self.sampler is not None:
                self.sampler.touched(vpn, entry)
            return pte.pfn(entry)
        self.faults += 1
        if entry == pte.NONE and vpn < len(self.flags) and self.flags[vpn] == UNWRITTEN:
            return bring_in(self, vpn)
        if entry == pte.NONE or self.swap is None:
            raise Inconsistent("V1", f"fault on page {vpn}, which does not exist")
        run = self._readahead(vpn)
        if len(self._free) < run:
            self.frame_errors += 1
            if seldom(self.frame_errors):
                log.error("no frame for a page that is out, %d times: the swap device does not take pages",
                          self.frame_errors)
            raise SwapIOError(f"no frame for page {vpn}: the swap device does not take pages")
        pfns = [self.phys.alloc(vpn + i) for i in range(run)]
        got = 0
        began = time.monotonic() if self.sampler is not None else 0.0
        try:
            frames = [self.phys.frame(pfn) for pfn in pfns]
            got = self.swap.read_cluster(self.slot_of[vpn], frames, range(vpn, vpn + run))
        except SwapIOError as error:
            self.read_errors += 1
            self.lost.add(vpn, self.owner_of(vpn), error)
            raise
        finally:
            for pfn in pfns[got:]:
                self.phys.free(pfn)
        self.pageins += got
        if self.trace is not None and got:
            self.trace("in", vpn, got)
        if self.used is not None:
            self.used.note(vpn)
        for i in range(got):
            self._enter(vpn + i, pfns[i])
        if self.lost.pages:
            for i in range(got):
                self.lost.remove(vpn + i)
        if self.windows is not None:
            self._show(vpn, pfns[0])
        if self.sampler is not None:
            self.sampler.came_in(vpn, got, entry, began)
        return pfns[0]

    def _enter(self, vpn: int, pfn: int) -> None:
        """Note in the page table and the daemon that a page is in a frame; in view too, if it needs no window."""
        daemon = self.daemon
        soon = daemon.came_back_soon(self.pte[vpn])
        self.pte[vpn] = pte.hidden(pfn) if self.flags[vpn] & WINDOWED else pfn
        self.resident_of[self.flags[vpn]] += 1
        daemon.fresh[pfn] = not soon
        daemon.enter(pfn, ACTIVE if soon else INACTIVE)
        daemon.slotted[pfn] = 1

    def _show(self, vpn: int, pfn: int) -> None:
        """Page vpn, which is in frame pfn, is in view from now on: if it needs a window, it gets one.  O(1)."""
        if self.windows is not None and self.flags[vpn] & WINDOWED:
            self.windows.show(vpn, pfn)
        else:
            self.pte[vpn] = pfn

    def _readahead(self, vpn: int) -> int:
        """How many pages to read from vpn on, into frames beyond the reserve if more than one.

        Those after it are read if they are out in the next slots, and if the two before it are in.
        """
        table, slot_of = self.pte, self.slot_of
        most = min(READAHEAD, len(self._free) - self.reserve, len(table) - vpn)
        if vpn < 2 or pte.pfn(table[vpn - 1]) < 0 or pte.pfn(table[vpn - 2]) < 0:
            return 1
        slot, n = slot_of[vpn], 1
        while n < most and slot_of[vpn + n] == slot + n and pte.is_out(table[vpn + n]):
            n += 1
        return n

    # --- background ---

    def idle(self) -> bool:
        """One slice of work ahead of need: launder, punch holes; whether there is more to do.  O(64) pages or holes."""
        if self.swap is None:
            return False
        if len(self._free) < self.phys.nframes >> 2 and self.daemon.launder(64) > 0:
            return True
        if self.tier is not None and self.tier.idle():
            return True
        return self.swap.trim()

    def close(self) -> None:
        """Give memory and swap back.  O(1) here; the system walks what it frees."""
        self.phys.close()
        if self.swap is not None:
            self.swap.close()
        if self.tier is not None:
            self.tier.close()

    def check(self, deep: bool = True, tell: Callable[[int], None] = lambda _vpn: None) -> None:
        """Raise Inconsistent where an invariant of memory does not hold; deep reads every slot.  O(pages + frames)."""
        check_vm(self, deep, tell)
