"""image/warm.py: reads the pages that an image lists as used, in the background, in the order of their use.

A mount that begins with an image has nothing in memory.  What the last run used (uvm/used.py) is in the table `hot`.

Picture     hot --BATCH pages--> bring(), in a thread: into the host's page cache, or the cache of a remote image
                --read(), a step for each page, between requests--> a fault, as usual
            ended by: all are in; few frames are free; pages that cannot be read

Breathing   Each step of read().  No page leaves memory for one that may be used: it ends while more frames are free
            than reclaim wants.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator

from tmpfsd.image.file import Image
from tmpfsd.tmpfs.filesystem import Mount
from tmpfsd.uvm import pte
from tmpfsd.uvm.errors import SwapIOError
from tmpfsd.uvm.vm import READAHEAD

BATCH = 64                  # pages
MANY_ERRORS = 4


class Warm:
    """Reads the hot pages of one mount."""

    def __init__(self, mp: Mount) -> None:
        self.mp = mp
        self.image = mp.vm.image if isinstance(mp.vm.image, Image) else None
        self.hot = array("I")
        if self.image is not None:
            self.hot, self.image.hot = self.image.hot, self.hot
        self.npages = self.nerrors = 0          # read; could not be read

    def batches(self) -> Iterator[array[int]]:
        """The pages, some at a time, as long as there is room."""
        for at in range(0, len(self.hot), BATCH):
            if not self._may_go_on():
                return
            yield self.hot[at:at + BATCH]

    def slots(self, batch: array[int]) -> array[int]:
        """The slots of those in a batch that are out."""
        return array("I", (self.mp.vm.slot_of[vpn] for vpn in batch if self._is_out(vpn)))

    def bring(self, slots: array[int]) -> None:
        """Bring them where they can be read at once; for a thread.  => OSError."""
        for slot in slots:
            if self.image is not None:
                self.image.bring(slot)

    def read(self, batch: array[int]) -> Iterator[None]:
        """Read a batch, a page in a step."""
        for vpn in batch:
            if not self._may_go_on():
                return
            self.mp.breathe()
            if self._is_out(vpn):
                self._read(vpn)
                yield

    def _may_go_on(self) -> bool:
        vm = self.mp.vm
        return (self.nerrors <= MANY_ERRORS
                and len(vm.phys.free_frames) > vm.low + vm.daemon.batch + READAHEAD)

    def _is_out(self, vpn: int) -> bool:
        """Whether a page is out, and still as the image has it."""
        vm, image = self.mp.vm, self.image
        return pte.is_out(vm.pte[vpn]) and image is not None and image.owns(vm.slot_of[vpn])

    def _read(self, vpn: int) -> None:
        """Page in; it does not count as used."""
        vm, before = self.mp.vm, self.mp.vm.pageins
        used, vm.used = vm.used, None
        try:
            vm.fault(vpn)
        except SwapIOError:             # it is logged; whoever needs the page gets EIO
            self.nerrors += 1
        finally:
            vm.used = used
        self.npages += vm.pageins - before
