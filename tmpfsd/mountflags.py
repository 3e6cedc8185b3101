"""mountflags.py: the options that mount(8) turns into bits of mount(2), and the call that changes them.

libfuse (3.14) knows only some of them and refuses the others, so the rest is set on the finished mount, as
mount -o remount does.  fusermount3, which mounts for users, knows the same few.

Picture     words --bits()--> flags --remount()--> mount(2)     as libmount reads them: of two opposites the last counts
            mountinfo --in_force()--> words that the kernel says are in force

Invariants  F1 remount() changes the mount with the intended device number, or none: it first opens what is at the path,
               then finds its mount by the id in /proc/self/fdinfo.  The file system is not asked.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterable

from tmpfsd.mounts.mountinfo import TABLE, MountPoint, parse_all
from tmpfsd.mounts.unmount import id_at

RDONLY, NOSUID, NODEV, NOEXEC, SYNCHRONOUS = 1, 2, 4, 8, 16             # <sys/mount.h>
REMOUNT, DIRSYNC, NOSYMFOLLOW, NOATIME, NODIRATIME = 32, 128, 256, 1024, 2048
RELATIME, STRICTATIME, LAZYTIME = 1 << 21, 1 << 24, 1 << 25

# By name: the bit, and whether the word clears it.
BY_NAME = {
    "ro": (RDONLY, False), "rw": (RDONLY, True), "suid": (NOSUID, True), "nosuid": (NOSUID, False),
    "dev": (NODEV, True), "nodev": (NODEV, False), "exec": (NOEXEC, True), "noexec": (NOEXEC, False),
    "sync": (SYNCHRONOUS, False), "async": (SYNCHRONOUS, True), "dirsync": (DIRSYNC, False),
    "atime": (NOATIME, True), "noatime": (NOATIME, False), "diratime": (NODIRATIME, True),
    "nodiratime": (NODIRATIME, False), "relatime": (RELATIME, False), "norelatime": (RELATIME, True),
    "strictatime": (STRICTATIME, False), "nostrictatime": (STRICTATIME, True), "lazytime": (LAZYTIME, False),
    "nolazytime": (LAZYTIME, True), "nosymfollow": (NOSYMFOLLOW, False), "symfollow": (NOSYMFOLLOW, True),
}
# What the kernel's tmpfs takes without any effect: messages that are not printed, mandatory locks, which Linux no
# longer has, and a counter for NFS that FUSE keeps by itself.
WITHOUT_EFFECT = frozenset(("silent", "loud", "mand", "nomand", "iversion", "noiversion"))
LIBFUSE = frozenset(("ro", "rw", "suid", "nosuid", "dev", "nodev", "exec", "noexec", "noatime", "sync", "async",
                     "dirsync"))
LATE = NODIRATIME | STRICTATIME | LAZYTIME | NOSYMFOLLOW        # bits that only remount() sets

_mount = ctypes.CDLL(None, use_errno=True).mount
_mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)


def bits(words: Iterable[str], flags: int = 0) -> int:
    """Return the flags after all words, in their order; other words are left out."""
    for word in words:
        bit, clears = BY_NAME.get(word, (0, True))
        flags = flags & ~bit if clears else flags | bit
    return flags


def lines_of(device: bytes, table: bytes) -> list[MountPoint]:
    """Return the mounts in mountinfo that are of a device, "major:minor"."""
    return [mount for mount in parse_all(table) if b"%d:%d" % mount.device == device]


def in_force(device: bytes, point: bytes, table: bytes) -> list[str]:
    """Return the options of a mount, those of the mount itself and of its superblock.

    => if it is at several places: the one at `point`, else the first.
    """
    found = lines_of(device, table)
    at_point = [mount for mount in found if os.fsencode(mount.path) == point]
    for mount in (at_point[-1:] or found)[:1]:
        return mount.words
    return []


def remount(device: bytes, path: str, flags: int) -> None:
    """Give a mount these flags, and no others.  => OSError; ENODEV when another mount is at the path."""
    place = os.open(path, os.O_PATH | os.O_CLOEXEC | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        number = id_at(place)
        with open(TABLE, "rb", buffering=0) as file:
            ours = lines_of(device, file.readall())
        if number not in [mount.id for mount in ours]:
            raise OSError(errno.ENODEV, "another mount is there", path)
        if _mount(b"none", b"/proc/self/fd/%d" % place, None, REMOUNT | flags, None):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), path)
    finally:
        os.close(place)
