"""edge.py: which edge serves a mount, and how to find the descriptor that pyfuse3 mounts and we serve.

pyfuse3 mounts for both edges: libfuse knows mount(2), fusermount3 and all their options, and how to unmount.  It opens
/dev/fuse, or is sent a descriptor of it, and keeps that in its session; init() sends nothing and reads nothing.  So
ours is the descriptor that is there after init() and was not there before, and from then on libfuse never uses it.
(The alternative was to mount by ourselves: mount(2) as root, and fusermount3's socket protocol for others.  All that
only for what is there already.)
"""

from __future__ import annotations

import os
import re
import stat

from tmpfsd.fuse import abi
from tmpfsd.server.refused import MountError

FUSE_DEVICE = os.makedev(10, 229)       # <linux/fuse.h>, Documentation/admin-guide/devices.txt: char 10:229 is fuse
OLDEST = (5, 4)                         # the first Linux that speaks abi.OLDEST_MINOR


def devices() -> set[int]:
    """This process's descriptors of /dev/fuse, whatever its name was when opened."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            status = os.fstat(int(name))
        except OSError:                 # the descriptor of the listing itself
            continue
        if stat.S_ISCHR(status.st_mode) and status.st_rdev == FUSE_DEVICE:
            found.add(int(name))
    return found


def new_device(before: set[int]) -> int:
    """The descriptor that was not there before.  => MountError if there is not exactly one."""
    new = devices() - before
    if len(new) != 1:
        raise MountError(f"{len(new)} new descriptors of /dev/fuse after mounting, not 1: give edge=pyfuse3")
    return new.pop()


def kernel_version(release: str) -> tuple[int, int]:
    """Major and minor of a kernel's release; (0, 0) if it has none."""
    match = re.match(r"(\d+)\.(\d+)", release)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def is_native(edge: str, release: str | None = None) -> bool:
    """Whether edge=auto|native|pyfuse3 means native on this kernel."""
    if edge == "auto":
        return kernel_version(os.uname().release if release is None else release) >= OLDEST
    return edge == "native"


assert abi.OLDEST_MINOR == 31 and OLDEST == (5, 4)
