"""tmpfs/writeback.py: writes of the kernel's page cache: of bytes stored through a mapping, or with `writeback`.

To the kernel a page is written back if the server does not answer with an error.  A short answer, which write(2) passes
on to its caller, would lose the rest silently.  So these writes are done whole or refused.  A loss is told to the gate,
because perhaps nobody else learns of it.

FUSE opens a file that is immutable or append-only as any other, so a mapping of it can be stored to, and everybody sees
these bytes in the page cache.  Writing them back is refused; then the kernel is told to forget the pages (mp.forged).

Limits      may_be() guesses, for an edge that does not see the flag of a write (<linux/fuse.h>: FUSE_WRITE_CACHE).  It
            recognizes every write of the page cache, and takes a write(2) of whole pages within a file for one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tmpfsd.tmpfs import fileattr, reap, regfile, vnops
from tmpfsd.tmpfs.fileattr import FL_APPEND
from tmpfsd.tmpfs.fserror import FsError
from tmpfsd.tmpfs.layout import tn_size
from tmpfsd.uvm.errors import NoMemory, VmError
from tmpfsd.uvm.param import PAGE_MASK

if TYPE_CHECKING:
    from tmpfsd.tmpfs.filesystem import Mount

FORGED_MOST = 64            # files whose pages the kernel must still forget


def write(mp: Mount, ino: int, offset: int, data: bytes | memoryview, appends: bool = False) -> int:
    """Write all of it.  => Errors as vnops.write(), FsError EROFS; bytes written before stay.  => Breathes."""
    done = 0
    if mp.quota is not None:
        mp.quota.caller = None          # the page cache does not tell whose write it was
    try:
        mp.gate.demand_writable()
        if mp.flagged:
            done, appends = _unchanged(mp, ino, offset, data)
        while done < len(data):
            try:
                done += vnops.write(mp, ino, offset + done, data[done:], appends)
            except NoMemory as shortage:
                done += reap.retry(mp, shortage, vnops.write, mp, ino, offset + done, data[done:], appends)
    except (FsError, VmError) as error:
        mp.gate.lost_write(ino, offset + done, len(data) - done, error)
        if mp.flagged and isinstance(error, FsError) and len(mp.forged) < FORGED_MOST:
            mp.forged.append(ino)
            mp.on_doomed()              # the task that tells the kernel to forget the pages
        raise
    return done


def _unchanged(mp: Mount, ino: int, offset: int, data: bytes | memoryview) -> tuple[int, bool]:
    """How many bytes of a write are those of a file that may only grow, and whether the rest goes to its end.

    The page cache writes the page of the end from its beginning, and does not tell that it was opened to append.
    => SwapIOError.  => Breathes.
    """
    if not fileattr.get(mp, ino) & FL_APPEND:
        return 0, False
    n = min(max(tn_size(mp.arena, mp.mem.node(ino)) - offset, 0), len(data))
    same = bytes(data[:n]) == bytes(regfile.read(mp, ino, offset, n))
    return (n, True) if same else (0, False)


def may_be(mp: Mount, ino: int, offset: int, nbytes: int) -> bool:
    """Tell whether a write can come from the page cache: whole pages, or up to the end of the file, none beyond it.

    => SwapIOError.
    """
    if mp.config.writeback:
        return True
    size, end = tn_size(mp.arena, mp.mem.node(ino)), offset + nbytes
    return not offset & PAGE_MASK and end <= size and (not end & PAGE_MASK or end == size)
