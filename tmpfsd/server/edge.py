"""edge.py: which edge serves a mount, and the descriptor of the one that pyfuse3 mounts and we serve.

pyfuse3 mounts for both: libfuse knows mount(2), fusermount3 and all their options, and unmounts as well.  It opens
/dev/fuse, or is sent a descriptor of it, and keeps that in its session; init() sends nothing and reads nothing.  So
the descriptor is the one that there is after init() and was not there before, and from then on libfuse never uses it.
(Mounting by ourselves was the other way: mount(2) as root, and fusermount3's socket protocol for others, all to obtain
what is there already.)
"""

from __future__ import annotations

import os
import re
import stat

from tmpfsd.fuse import abi
from tmpfsd.server.refused import MountError

FUSE_DEVICE = os.makedev(10, 229)       # <linux/fuse.h>, Documentation/admin-guide/devices.txt: char 10:229 is fuse
OLDEST = (5, 4)                         # the Linux that speaks abi.OLDEST_MINOR


def devices() -> set[int]:
    """This process's descriptors of /dev/fuse, whatever it is called where it was opened."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            status = os.fstat(int(name))
        except OSError:                 # the listing's own
            continue
        if stat.S_ISCHR(status.st_mode) and status.st_rdev == FUSE_DEVICE:
            found.add(int(name))
    return found


def new_device(before: set[int]) -> int:
    """The descriptor that was not there before.  => MountError where that is not exactly one."""
    new = devices() - before
    if len(new) != 1:
        raise MountError(f"{len(new)} new descriptors of /dev/fuse after mounting, not 1: give edge=pyfuse3")
    return new.pop()


def kernel_version(release: str) -> tuple[int, int]:
    """Major and minor of a kernel's release; (0, 0) where it has none."""
    match = re.match(r"(\d+)\.(\d+)", release)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def is_native(edge: str, release: str | None = None) -> bool:
    """Whether edge=auto|native|pyfuse3 is ours, on this kernel."""
    if edge == "auto":
        return kernel_version(os.uname().release if release is None else release) >= OLDEST
    return edge == "native"


assert abi.OLDEST_MINOR == 31 and OLDEST == (5, 4)
