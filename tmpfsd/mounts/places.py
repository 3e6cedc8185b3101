"""places.py: where the control socket of a mount is, for the daemon that makes it and for the commands that ask it.

It is found from the device number of the mount, which mountinfo tells without asking the file system: /run/tmpfsd for
root's mounts, $XDG_RUNTIME_DIR/tmpfsd or /tmp/tmpfsd-UID for those of others.
Apart from control.py, so that a command need not wait for trio, which takes longer to import than all else.
"""

from __future__ import annotations

import os
import stat

ROOT_DIRECTORY = "/run/tmpfsd"


def directories(uid: int) -> list[str]:
    """Return the places where the sockets of a user's mounts can be, the preferred one first."""
    if uid == 0:
        return [ROOT_DIRECTORY]
    runtime = os.environ.get("XDG_RUNTIME_DIR", "") if uid == os.geteuid() else ""
    places = [runtime, f"/run/user/{uid}"]
    found = [os.path.join(place, "tmpfsd") for place in dict.fromkeys(places) if place and owned(place, uid)]
    return [*found, f"/tmp/tmpfsd-{uid}"]


def owned(path: str, uid: int) -> bool:
    """Tell whether path is a directory of this user that nobody else may write to."""
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == uid and not status.st_mode & 0o022


def socket_name(major: int, minor: int) -> str:
    """Return the name of a mount's socket in its directory."""
    return f"{major}-{minor}.sock"
