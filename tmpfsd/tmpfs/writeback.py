"""tmpfs/writeback.py: writes of the kernel's page cache: of what was stored through a mapping, or with `writeback`.

To the kernel a page is written back when the server does not say error: a short answer, which write(2) passes on to
its caller, would lose the rest without a word.  So these are written whole or refused, and what is lost is told to the
gate, as nobody else may hear of it.

Limits      may_be() guesses, for an edge that is not told what a write is (<linux/fuse.h>: FUSE_WRITE_CACHE): it is
            never wrong of one that is written back, and takes a write(2) of whole pages within a file for one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tmpfsd.tmpfs import reap, vnops
from tmpfsd.tmpfs.fserror import FsError
from tmpfsd.tmpfs.layout import tn_size
from tmpfsd.uvm.errors import NoMemory, VmError
from tmpfsd.uvm.param import PAGE_MASK

if TYPE_CHECKING:
    from tmpfsd.tmpfs.filesystem import Mount


def write(mp: Mount, ino: int, offset: int, data: bytes | memoryview, appends: bool = False) -> int:
    """Write all of it.  => Errors as vnops.write(), FsError EROFS; what was written before stays.  => Breathes."""
    done = 0
    if mp.quota is not None:
        mp.quota.caller = None          # the page cache does not say whose write it was
    try:
        mp.gate.demand_writable()
        while done < len(data):
            try:
                done += vnops.write(mp, ino, offset + done, data[done:], appends)
            except NoMemory as shortage:
                done += reap.retry(mp, shortage, vnops.write, mp, ino, offset + done, data[done:], appends)
    except (FsError, VmError) as error:
        mp.gate.lost_write(ino, offset + done, len(data) - done, error)
        raise
    return done


def may_be(mp: Mount, ino: int, offset: int, nbytes: int) -> bool:
    """Tell whether a write can be the page cache's: whole pages, or up to the end of the file, and none beyond it.

    => SwapIOError.
    """
    if mp.config.writeback:
        return True
    size, end = tn_size(mp.arena, mp.mem.node(ino)), offset + nbytes
    return not offset & PAGE_MASK and end <= size and (not end & PAGE_MASK or end == size)
