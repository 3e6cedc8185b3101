"""mountinfo.py: what is mounted where, by /proc/self/mountinfo, without touching any mount of ours.

A stat() of a mount point asks its file system, which hangs when its server does.  So a path is followed here: with
readlink(2) on other file systems, and inside a mount of ours by its words alone.

Picture     table() -> [MountPoint] -> Tree -- holding(path) --> the mount that the kernel would come to
            locate(path): a path as a user wrote it --> Where(mount, the path without links, its part inside the mount)
Invariants  N1 The table is split only at the bytes that the kernel puts between fields and lines: in names it escapes
               space, tab, newline, backslash and '#', and nothing else.  Users choose the names.
            N2 A line that is not understood is skipped, and harms no other.
            N3 A mount is identified by its device number.  If several mounts are at a path, the ids of the mounts say
               which covers which, not the order of the lines.
Limits      Paths are str as os.fsdecode() makes them.  A mount's owner is the number that its own user namespace uses.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
from collections.abc import Iterable
from typing import NamedTuple

FSTYPE = "fuse.tmpfsd"
TABLE = "/proc/self/mountinfo"
MOST_LINKS = 40
ESCAPE = re.compile(rb"\\([0-3][0-7]{2})")
NUMBER = re.compile(rb"(?:^|,)(user_id|group_id)=([0-9]{1,10})(?=,|$)")


class MountPoint(NamedTuple):
    """One line of mountinfo."""

    major: int
    minor: int
    path: str
    fstype: str
    owner: int          # the user who mounted it, if the file system says so
    root: str = "/"     # which part of the file system is seen there: not "/" if a directory of it was bound
    id: int = 0
    parent: int = 0     # the id of the mount that this one is on
    group: int = 0      # the owner's
    source: str = ""
    options: str = ""           # of the mount, separated by commas
    super_options: str = ""     # of the file system

    @property
    def words(self) -> list[str]:
        """All options that are in force."""
        return [*self.options.split(","), *self.super_options.split(",")]

    @property
    def device(self) -> tuple[int, int]:
        """The number of its file system (N3)."""
        return self.major, self.minor

    def inner(self, path: str) -> str:
        """Return the path, on this mount, as one below the root of the file system, without a leading slash."""
        below = path[len(self.path.rstrip("/")):]
        return f"{self.root.rstrip('/')}{below}".strip("/")


class Where(NamedTuple):
    """Where a path leads."""

    mount: MountPoint | None
    path: str           # absolute, without symbolic links
    inside: str         # below the root of the file system; "" is its root
    links: tuple[str, ...]      # those that were followed, as written in the file system

    @property
    def at_mount(self) -> bool:
        """Whether it is a mount point itself."""
        return self.mount is not None and self.mount.path == self.path


def unescape(field: bytes) -> str:
    """Undo the octal escapes of a name."""
    return os.fsdecode(ESCAPE.sub(lambda match: bytes((int(match[1], 8),)), field))


def parse(line: bytes) -> MountPoint | None:
    """Read one line; None if it is not understood."""
    try:
        fields = line.rstrip(b"\n").split(b" ")
        dash = fields.index(b"-", 6)
        major, minor = fields[2].split(b":")
        fstype, source = unescape(fields[dash + 1]), unescape(fields[dash + 2])
        super_options = b" ".join(fields[dash + 3:])
        numbers = {name: int(number) for name, number in NUMBER.findall(super_options)}
        return MountPoint(int(major), int(minor), unescape(fields[4]), fstype, numbers.get(b"user_id", 0),
                          unescape(fields[3]), int(fields[0]), int(fields[1]), numbers.get(b"group_id", 0), source,
                          os.fsdecode(fields[5]), unescape(super_options))
    except (ValueError, IndexError):
        return None


def parse_all(text: bytes) -> list[MountPoint]:
    """Read a whole table."""
    return [mount for mount in map(parse, text.split(b"\n")) if mount is not None]


def table(file: io.FileIO | None = None) -> list[MountPoint]:
    """Return all mounts, each after those that it may cover.

    => file is /proc/self/mountinfo, open and unbuffered, for a caller that may be out of descriptors.
    """
    with contextlib.ExitStack() as stack:
        file = file or stack.enter_context(open(TABLE, "rb", buffering=0))
        file.seek(0)
        return parse_all(file.readall())


def within(path: str, top: str) -> bool:
    """Tell whether path is top, or below it."""
    return path == top or path.startswith(top.rstrip("/") + "/")


class Tree:
    """Which mount is on which."""

    def __init__(self, mounts: Iterable[MountPoint]) -> None:
        self.mounts = list(mounts)
        known = {mount.id for mount in self.mounts}
        self.children: dict[int | None, list[MountPoint]] = {}
        for mount in self.mounts:
            top = mount.parent not in known or mount.parent == mount.id     # of the namespace, or of a chroot
            self.children.setdefault(None if top else mount.parent, []).append(mount)

    def holding(self, path: str) -> MountPoint | None:
        """Return the mount that an absolute path without links is on.  O(mounts on the way and beside it)."""
        on: MountPoint | None = None
        seen: set[int] = set()
        here = self.children.get(None, [])
        while above := [mount for mount in here if within(path, mount.path) and mount.id not in seen]:
            nearest = min(len(mount.path) for mount in above)
            on = [mount for mount in above if len(mount.path) == nearest][-1]
            seen.add(on.id)             # a table that changed while it was read may have a cycle
            here = self.children.get(on.id, [])
        return on

    def at(self, path: str) -> MountPoint | None:
        """Return what is mounted exactly at path (the mount that covers others there), or None."""
        found = self.holding(path)
        return found if found is not None and found.path == path else None

    def of(self, device: tuple[int, int]) -> list[MountPoint]:
        """Return where a file system can be reached now: whole before its directories, the last mounted first."""
        found = [mount for mount in self.mounts[::-1] if mount.device == device and self.at(mount.path) == mount]
        return sorted(found, key=lambda mount: mount.root != "/")


def find(path: str, file: io.FileIO | None = None) -> MountPoint | None:
    """Return what is mounted exactly at path (the last one there, which covers the others), or None."""
    return Tree(table(file)).at(path)


def mounted_at(device: tuple[int, int], file: io.FileIO | None = None) -> list[MountPoint]:
    """Return where the file system of this number can be reached now."""
    return Tree(table(file)).of(device)


def type_above(path: str) -> str:
    """Return the type of the file system that holds path, without touching it."""
    found = Tree(table()).holding(path)
    return found.fstype if found is not None else ""


def locate(path: str, mounts: Iterable[MountPoint] | None = None) -> Where:
    """Follow a path as the kernel would; but inside our mounts symbolic links are left as they are.

    => what does not exist is taken as written.  OSError ELOOP.
    """
    tree = Tree(table() if mounts is None else mounts)
    todo = words(path if path.startswith("/") else os.path.join(os.getcwd(), path))
    here, on = "/", tree.holding("/")
    links: list[str] = []
    while todo:
        part = todo.pop()
        here = os.path.dirname(here) if part == ".." else os.path.join(here, part)
        on = tree.holding(here)
        target = None if part == ".." or on is not None and on.fstype == FSTYPE else link_at(here)
        if target is not None:
            if len(links) >= MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            links.append(here)
            here = "/" if target.startswith("/") else os.path.dirname(here)
            on = tree.holding(here)
            todo += words(target)
    return Where(on, here, on.inner(here) if on is not None else "", tuple(links))


def words(path: str) -> list[str]:
    """Return the parts of a path, the last first."""
    return [part for part in path.split("/") if part not in ("", ".")][::-1]


def link_at(path: str) -> str | None:
    """Return where a symbolic link leads; None if there is none."""
    try:
        return os.readlink(path)
    except OSError:
        return None


def resolve(path: str) -> str:
    """Return the absolute path without symbolic links; a mount of ours is not touched."""
    return locate(path).path
