"""placelock.py: one tmpfsd at a time mounts at a directory.

Two that start at once both find the place free.  Stacked, the upper one cannot always be taken away without a mistake
about which is on top.  So each locks the directory, looks again whether it is free, and mounts.

Limits      flock(2) is advice, and anyone who may open the directory may hold the lock: after SECONDS we do without.
            The same where the file system has no locks.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tmpfsd.mounts import mountinfo
from tmpfsd.mounts.unmount import id_of

SECONDS, AGAIN_SECONDS = 5.0, 0.01


@contextmanager
def locked(path: str) -> Iterator[bool]:
    """Hold the lock of a directory that is free; yields whether a tmpfsd is there by now."""
    if is_taken(path):              # it came since we looked last; it must not be asked, nor its root be locked
        yield True
        return
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:                 # whoever mounts will say what is wrong
        yield False
        return
    try:
        _lock(descriptor)
        yield is_taken(path)
    finally:
        os.close(descriptor)


def is_taken(path: str) -> bool:
    """Whether a path leads to the root of a tmpfsd; that is not asked."""
    found = id_of(path)
    return any(mount.id == found and mount.path == os.path.abspath(path) and mount.fstype == mountinfo.FSTYPE
               for mount in mountinfo.table())


def _lock(descriptor: int) -> bool:
    """Lock a directory, unless somebody else holds the lock for SECONDS."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(AGAIN_SECONDS)
        except OSError:
            return False
    return False
