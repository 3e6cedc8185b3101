"""tmpfs/copyrange.py: bytes copied from file to file inside the mount (copy_file_range(2)).

As the kernel's tmpfs does it: it reads and writes, so a hole of the source becomes pages of zeroes in the target.

Breathing   Breathes at every chunk.
Limits      At most MOST bytes in one call, so that others wait no longer than for a large write: the caller asks again.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from tmpfsd.tmpfs import fileattr, regfile, vnops
from tmpfsd.tmpfs.fserror import FsError
from tmpfsd.tmpfs.layout import tn_size, touch
from tmpfsd.uvm.errors import VmError

if TYPE_CHECKING:
    from tmpfsd.tmpfs.filesystem import Mount

MOST = 256 << 10                    # as much as one write has
CHUNK = 64 << 10                    # read and written at a time


def copy(mp: Mount, source: int, start: int, target: int, to: int, length: int) -> int:
    """Copy up to length bytes between regular files; how many, 0 at the source's end.

    => FsError EINVAL (ranges of one file that overlap), EFBIG; NoMemory, SwapIOError when not even one byte.
    => Both are regular files.  => O(MOST).  => Breathes.
    """
    if mp.flagged:
        fileattr.demand_writable(mp, target, to, appends=False)
    length = min(length, tn_size(mp.arena, mp.mem.node(source)) - start, MOST)
    if source == target and start < to + length and to < start + length:
        raise FsError(errno.EINVAL)
    vnops._accessed(mp, source, mp.mem.node(source))
    done = 0
    try:
        while done < length:
            data = regfile.read(mp, source, start + done, min(CHUNK, length - done))
            mp.breathe()
            written = regfile.write(mp, target, to + done, memoryview(data))
            touch(mp.arena, mp.mem.node_w(target), mp.now())        # in this breath: it cannot fail
            done += written
            if written < len(data):
                break
    except VmError:
        if not done:
            raise
    return done
