"""unmount.py: unmounts a mount: as root by the system call, else by fusermount3."""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess

from tmpfsd.mounts.mountinfo import MountPoint
from tmpfsd.mounts.printable import printable

MNT_DETACH, UMOUNT_NOFOLLOW = 2, 8
ELSEWHERE = "another mount is there now"


def unmount(mount: MountPoint, lazy: bool = False) -> str | None:
    """Unmount it where the table says; return what went wrong, or None.  lazy: at once, even if files are open there.

    => nothing else is unmounted, even if the path leads elsewhere meanwhile.
    """
    if os.geteuid() == 0:
        return _by_call(mount, MNT_DETACH if lazy else 0)
    command = ["fusermount3", "-u", *(["-z"] if lazy else []), "--", mount.path]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    except OSError as error:
        return str(error)
    return None if done.returncode == 0 else (printable(done.stderr.strip())
                                              or f"fusermount3: status {done.returncode}")


def _by_call(mount: MountPoint, flags: int) -> str | None:
    """Unmount through an opened directory: a path to it could be exchanged for a link by its owner."""
    try:
        above = os.open(os.path.dirname(mount.path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            return _umount2(mount.path, flags)
        return error.strerror or str(error)
    try:
        name = os.path.basename(mount.path) or "."
        found = id_of(name, above)
        if found is not None and mount.id and found != mount.id:
            return ELSEWHERE
        return _umount2(f"/proc/self/fd/{above}/{name}", flags)
    finally:
        os.close(above)


def _umount2(path: str, flags: int) -> str | None:
    libc = ctypes.CDLL(None, use_errno=True)
    failed = libc.umount2(os.fsencode(path), flags | UMOUNT_NOFOLLOW)
    return os.strerror(ctypes.get_errno()) if failed else None


def id_of(path: str, above: int | None = None) -> int | None:
    """Return the id of the mount that a path leads to, without asking its file system; None if unknown."""
    try:
        descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
    except OSError:
        return None
    try:
        return id_at(descriptor)
    finally:
        os.close(descriptor)


def id_at(descriptor: int) -> int | None:
    """Return the id of the mount that a descriptor is on."""
    try:
        with open(f"/proc/self/fdinfo/{descriptor}", "rb") as file:
            return next((int(line[7:]) for line in file if line.startswith(b"mnt_id:")), None)
    except OSError:
        return None
