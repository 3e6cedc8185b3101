"""advice.py: how much memory would be enough, for `tmpfsctl advise` and `tmpfsctl top`.

From a question until LINGER after it a sample of the accesses is watched (uvm/sampler.py).  It gives page-ins by the
number of frames.  How long page-ins took, and how well some resident pages compress, gives the share of time spent
waiting, and what a compressed tier would do.

Picture     OFF --asked--> arms resident pages, in steps --> SAMPLES --nobody asked for LINGER, or ram changes--> OFF

Limits      Waiting means page-ins in the daemon, one after the other; page-outs on the way are not included.
            Accesses from before are not known: the longer it samples, the better it tells, above all about larger
            memories.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Generator
from typing import Any, NamedTuple

import trio

from tmpfsd.server.control import Progress
from tmpfsd.server.refused import ControlError
from tmpfsd.tmpfs.filesystem import Mount
from tmpfsd.uvm.codec import Zstd
from tmpfsd.uvm.param import PAGE_SIZE, ptoa
from tmpfsd.uvm.sampler import SIZES, Sampler
from tmpfsd.uvm.vm import Vm
from tmpfsd.uvm.zlog import MOST_PACKED, most_live_of

LINGER = 15.0               # seconds after the last question
PACKED = 64                 # pages packed to see how well they compress: half a millisecond
ENOUGH = 0.01               # of the time may be spent waiting
GRID = 64                   # sizes between two known ones that are tried to find what is enough
SHARES = (0.0, 0.25, 0.5, 0.75)
STORE_SECONDS = 0.0002      # a page-in from a store, if none was seen: a disk that is not cached
RING_SECONDS = 0.00002      # a page-in from the compressed tier


class Shrinking(NamedTuple):
    """How pages compress: the share that does, and to how many bytes."""

    share: float
    nbytes: float


class Memory(NamedTuple):
    """What is known: page-ins a second by frames, seconds that one takes, how pages shrink, and how many there are.

    In about `needed` frames all pages are in.  The sample does not know that: it counts the first use of what was out.
    """

    frames: list[float]
    rates: list[float]
    store_seconds: float
    ring_seconds: float
    shrinking: Shrinking
    needed: float = math.inf

    def rate(self, frames: float) -> float:
        """Page-ins a second with this many frames; beyond what is known, the value at its end.  O(SIZES)."""
        if frames >= self.needed:
            return 0.0
        for i in range(1, len(self.frames)):
            if frames <= self.frames[i]:
                below, above = self.frames[i - 1], self.frames[i]
                part = min(max((frames - below) / (above - below), 0.0), 1.0)
                return self.rates[i - 1] + part * (self.rates[i] - self.rates[i - 1])
        return self.rates[-1]

    def of(self, frames: float, ring_bytes: float) -> tuple[float, float]:
        """(page-ins a second from stores, share of time spent waiting) with frames and a compressed tier."""
        total, packed = self.rate(frames), 0.0
        share, nbytes = self.shrinking
        if ring_bytes and share:        # other pages bypass it: the tier lasts longer for these
            packed = share * (total - self.rate(frames + ring_bytes / nbytes / share))
        stored = total - packed
        return stored, stored * self.store_seconds + packed * self.ring_seconds


class Advice:
    """The advice of one mount."""

    def __init__(self, mount: Mount) -> None:
        self.mount = mount
        self._asked = trio.Event()
        self._until = 0.0
        self._nframes = 0

    def ask(self, _request: Any) -> Generator[Progress, None, dict[str, Any]]:
        """Say what the sample shows so far, and go on sampling for a while."""
        vm = self.mount.vm
        if vm.windows is not None:
            raise ControlError("advise: backend=aobj: its pages are seen through windows, and their use is not known")
        self._until = trio.current_time() + LINGER
        self._asked.set()
        if vm.sampler is None or self._nframes != vm.phys.nframes:
            self._nframes = vm.phys.nframes
            vm.sampler = Sampler(vm)
            for done in vm.sampler.start():
                yield Progress(done, vm.phys.nframes)
        if vm.sampler is None:
            raise ControlError("advise: it was ended meanwhile; ask again")
        return figures(vm, vm.sampler)

    async def run(self) -> None:
        """Stop sampling when nobody has asked for a while, until cancelled."""
        while True:
            await self._asked.wait()
            self._asked = trio.Event()
            while (left := self._until - trio.current_time()) > 0:
                await trio.sleep(left)
            self.mount.vm.sampler = None


def figures(vm: Vm, sampler: Sampler) -> dict[str, Any]:
    """Return the JSON of `tmpfsctl advise`."""
    sampler.measure()
    seconds = max(sampler.seconds(), 1e-3)
    nframes = vm.phys.nframes
    zram = vm.tier.ring.nbytes if vm.tier is not None else 0
    memory = Memory([size * nframes for size in SIZES], [count / seconds for count in sampler.curve()],
                    mean(sampler, False), mean(sampler, True), shrinking(vm), vm.npages + vm.low)
    curve = []
    for frames in memory.frames:
        stored, waiting = memory.of(frames, most_live_of(zram) if zram else 0)
        curve.append({"ram_bytes": int(frames) * PAGE_SIZE + zram, "pageins_per_second": round(memory.rate(frames), 1),
                      "from_swap_per_second": round(stored, 1), "waiting": round(waiting, 5)})
    return {"seconds": round(seconds, 3), "ram_bytes": ptoa(nframes) + zram, "zram_bytes": zram,
            "sampled_pages": sampler.npages(), "sampled_accesses": sampler.naccesses, "pageins": sampler.pageins(),
            "pagein_us": round(1e6 * memory.store_seconds, 1), "curve": curve, "enough_bytes": enough(memory, zram),
            "zram": list(shares_of(memory, nframes * PAGE_SIZE + zram))}


def mean(sampler: Sampler, ring: bool) -> float:
    """Seconds that a page-in takes."""
    count = sampler.nwaited[ring]
    return sampler.waited[ring] / count if count else RING_SECONDS if ring else STORE_SECONDS


def shrinking(vm: Vm) -> Shrinking:
    """See how well some resident pages compress.  O(PACKED)."""
    try:
        importlib.import_module("zstandard")
    except ImportError:
        return Shrinking(0.0, PAGE_SIZE)
    codec, found, looked = Zstd(), [], 0
    step = max(vm.phys.nframes // PACKED, 1)
    for pfn in range(0, vm.phys.nframes, step):
        if vm.phys.owner[pfn] and vm.may_leave(vm.phys.owner[pfn]):
            looked += 1
            nbytes = len(codec.pack(vm.phys.frame(pfn)))
            if nbytes <= MOST_PACKED:
                found.append(nbytes + 32)           # with its head
    return Shrinking(len(found) / looked, sum(found) / len(found)) if found else Shrinking(0.0, PAGE_SIZE)


def enough(memory: Memory, zram: int) -> int | None:
    """The smallest known ram that keeps waiting below ENOUGH, or that holds everything; None if neither is known."""
    least, most = memory.frames[0], memory.frames[-1]
    ring = most_live_of(zram) if zram else 0
    for i in range(GRID + 1):
        frames = least * (most / least) ** (i / GRID)
        if memory.of(frames, ring)[1] < ENOUGH:
            return int(min(frames, max(memory.needed, least))) * PAGE_SIZE + zram
    return None if math.isinf(memory.needed) else int(memory.needed) * PAGE_SIZE + zram


def shares_of(memory: Memory, ram: int) -> Generator[dict[str, Any], None, None]:
    """What a compressed tier would do, by its share of the same ram; nothing if pages do not compress."""
    if not memory.shrinking.share:
        return
    for share in SHARES:
        nbytes = int(ram * share) & -PAGE_SIZE
        stored, waiting = memory.of((ram - nbytes) / PAGE_SIZE, most_live_of(nbytes) if nbytes else 0)
        yield {"zram_bytes": nbytes, "from_swap_per_second": round(stored, 1), "waiting": round(waiting, 5),
               "ratio": round(PAGE_SIZE / memory.shrinking.nbytes, 1)}
