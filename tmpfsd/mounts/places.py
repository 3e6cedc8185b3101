"""places.py: where the control socket of a mount is, for the daemon that makes it and the commands that use it.

Its name comes from the device number of the mount, which mountinfo gives without asking the file system.  It is in
/run/tmpfsd for root's mounts, and in $XDG_RUNTIME_DIR/tmpfsd or /tmp/tmpfsd-UID for other users' mounts.  Root's are
there too if /run is not root's (it is read-only, or this is root of a user namespace only).  The daemon takes the first
place that it can; a command looks at all.  This is not in control.py, so that a command need not wait for trio, which
takes longer to import than everything else.

Limits      Whoever makes /tmp/tmpfsd-UID before its user does denies that user a socket there, and gains nothing.
            Root finds a user's socket in /run/user/UID and /tmp, not in another XDG_RUNTIME_DIR.
"""

from __future__ import annotations

import os
import re
import socket
import stat
import struct
from typing import Any

ROOT_DIRECTORY = "/run/tmpfsd"
CREDENTIALS = struct.Struct("3i")       # struct ucred: pid, uid, gid
NAME = re.compile(r"([0-9]{1,9})-([0-9]{1,9})\.sock")


def directories(uid: int) -> list[str]:
    """Return the places where the sockets of a user's mounts may be, the preferred one first."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "") if uid == os.geteuid() else ""
    places = [runtime, f"/run/user/{uid}"]
    found = [os.path.join(place, "tmpfsd") for place in dict.fromkeys(places) if place and owned(place, uid)]
    return [*([ROOT_DIRECTORY] if uid == 0 else []), *found, f"/tmp/tmpfsd-{outside(uid)}"]


def outside(uid: int) -> int:
    """Return a user's number outside our user namespace: a namespace's root must not take the place of another's."""
    try:
        with open("/proc/self/uid_map", "rb") as file:
            ranges = [[int(word) for word in line.split()] for line in file]
    except OSError:
        return uid
    return next((there + uid - here for here, there, count in ranges if here <= uid < here + count), uid)


def owned(path: str, uid: int) -> bool:
    """Tell whether path is a directory of this user that nobody else may write to."""
    try:
        return private(os.lstat(path), uid)
    except (OSError, ValueError):
        return False


def private(status: os.stat_result, uid: int) -> bool:
    """Tell whether it is a directory of this user that nobody else may write to."""
    return stat.S_ISDIR(status.st_mode) and status.st_uid == uid and not status.st_mode & 0o022


def socket_name(major: int, minor: int) -> str:
    """Return the name of a mount's socket in its directory."""
    return f"{major}-{minor}.sock"


def open_socket(directory: str, name: str, uid: int) -> int | None:
    """Open a socket that this user has made in a directory of this user; None if there is none.

    => a descriptor that only names it (O_PATH): it can no longer be exchanged.  PermissionError.
    """
    flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        above = os.open(directory, flags | os.O_DIRECTORY)
    except PermissionError:
        raise
    except OSError:
        return None
    try:
        if not private(os.fstat(above), uid):
            return None
        found = os.open(name, flags, dir_fd=above)
    except FileNotFoundError:
        return None
    finally:
        os.close(above)
    status = os.fstat(found)
    if stat.S_ISSOCK(status.st_mode) and status.st_uid == uid:
        return found
    os.close(found)
    return None


def devices(uid: int) -> list[tuple[int, int]]:
    """Return the device numbers in the names of a user's sockets."""
    found = []
    for directory in directories(uid):
        if owned(directory, uid):
            try:
                names = os.listdir(directory)
            except OSError:
                continue
            found += [(int(match[1]), int(match[2])) for match in map(NAME.fullmatch, names) if match]
    return list(dict.fromkeys(found))


def peer(connected: Any) -> tuple[int, int, int]:
    """Return who is at the other end of a unix socket, according to the kernel: process, user, group (unix(7))."""
    pid, uid, gid = CREDENTIALS.unpack(connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size))
    return pid, uid, gid
