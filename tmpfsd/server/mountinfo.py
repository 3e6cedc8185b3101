"""mountinfo.py: what /proc/self/mountinfo says of a mount point, without touching the mount.

A stat() of a mount point asks its file system, which hangs when its server does.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
from typing import NamedTuple

from tmpfsd.options import filesystem_of, unescape_mount

FSTYPE = "fuse.tmpfsd"


class MountPoint(NamedTuple):
    """One line of mountinfo."""

    major: int
    minor: int
    path: str
    fstype: str
    owner: int          # the user who mounted it, where the file system says so
    root: str = "/"     # what of the file system is seen there: more than "/" where a directory of it was bound


def parse(line: str) -> MountPoint:
    """Read one line."""
    fields = line.split()
    dash = fields.index("-", 6)
    major, minor = fields[2].split(":")
    user = re.search(r"(?:^|,)user_id=(\d+)", fields[dash + 3]) if len(fields) > dash + 3 else None
    return MountPoint(int(major), int(minor), unescape_mount(fields[4]), fields[dash + 1],
                      int(user[1]) if user else 0, unescape_mount(fields[3]))


def table(file: io.FileIO | None = None) -> list[MountPoint]:
    """Return all that is mounted, a later one after those that it may cover.

    => file is /proc/self/mountinfo, open and unbuffered, for who may be out of descriptors.
    """
    with contextlib.ExitStack() as stack:
        file = file or stack.enter_context(open("/proc/self/mountinfo", "rb", buffering=0))
        file.seek(0)
        return [parse(line) for line in file.readall().decode(errors="surrogateescape").splitlines()]


def find(path: str, file: io.FileIO | None = None) -> MountPoint | None:
    """Return what is mounted exactly at path (the last one there, which covers the others), or None."""
    found = [mount for mount in table(file) if mount.path == path]
    return found[-1] if found else None


def type_above(path: str) -> str:
    """Return the type of the file system that holds path, which is not looked at."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        return filesystem_of(path, table)


def resolve(path: str) -> str:
    """Return the absolute path without symbolic links; a mount point itself is not looked at."""
    path = os.path.abspath(path) if os.path.basename(path.rstrip("/")) not in ("", ".", "..") else path
    if os.path.isabs(path) and os.path.basename(path):
        candidate = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
        if find(candidate):
            return candidate
    return os.path.realpath(path)
