"""image/warm.py: what an image names as used is read first, in the background, in the order in which it was used.

A mount that begins with an image has nothing in memory.  What the last run used (uvm/used.py) is in the table `hot`.

Picture     hot --AHEAD pages before--> the system is told --a step for each page, between requests--> a fault, as ever
            ended by: all are in; few frames are free; pages that cannot be read

Breathing   Each step.  Nothing leaves memory for what may be used: it ends while more frames are free than reclaim
            wants.
Limits      A page that is not in the host's page cache holds up who comes while it is read.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from contextlib import suppress

from tmpfsd.image.file import Image
from tmpfsd.tmpfs.mount import Mount
from tmpfsd.uvm.aobj import UNMAPPED
from tmpfsd.uvm.errors import SwapIOError
from tmpfsd.uvm.pagekind import NO_FRAME
from tmpfsd.uvm.vm import READAHEAD

AHEAD = 64                  # pages
MANY_ERRORS = 4


class Warm:
    """Reads the hot pages of one mount."""

    def __init__(self, mp: Mount) -> None:
        self.mp = mp
        self.image = mp.vm.image if isinstance(mp.vm.image, Image) else None
        self.hot = array("I")
        if self.image is not None:
            self.hot, self.image.hot = self.image.hot, self.hot
        self.npages = self.nerrors = 0          # read; that could not be

    def run(self) -> Iterator[None]:
        """Read, a page in a step."""
        mp, told = self.mp, 0
        for at, vpn in enumerate(self.hot):
            if self.nerrors > MANY_ERRORS:
                return
            if len(mp.vm.phys.free_frames) <= mp.vm.low + mp.vm.daemon.batch + READAHEAD:
                return
            mp.breathe()
            while told < min(at + AHEAD, len(self.hot)):
                self._tell(self.hot[told])
                told += 1
            if self._is_out(vpn):
                self._read(vpn)
                yield

    def _is_out(self, vpn: int) -> bool:
        """Whether a page is still as the image has it, and not in."""
        vm, image = self.mp.vm, self.image
        return UNMAPPED < vm.frame_of[vpn] < NO_FRAME and image is not None and image.owns(vm.slot_of[vpn])

    def _tell(self, vpn: int) -> None:
        if self._is_out(vpn) and self.image is not None:
            with suppress(OSError):
                self.image.will_need(self.mp.vm.slot_of[vpn])

    def _read(self, vpn: int) -> None:
        """Page in; it does not count as used."""
        vm, before = self.mp.vm, self.mp.vm.pageins
        used, vm.used = vm.used, None
        try:
            vm.fault(vpn)
        except SwapIOError:             # the log has it; who needs the page gets EIO
            self.nerrors += 1
        finally:
            vm.used = used
        self.npages += vm.pageins - before
