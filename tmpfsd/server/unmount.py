"""unmount.py: takes a mount away: as root by the system call, else by fusermount3."""

from __future__ import annotations

import ctypes
import os
import subprocess

from tmpfsd.server import privileges

MNT_DETACH = 2


def unmount(mountpoint: str, lazy: bool = False) -> str | None:
    """Unmount; return what went wrong, or None.  lazy: it goes at once, though files may be open there."""
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        with privileges.admin():
            failed = libc.umount2(os.fsencode(mountpoint), MNT_DETACH if lazy else 0)
            return os.strerror(ctypes.get_errno()) if failed else None
    command = ["fusermount3", "-u", *(["-z"] if lazy else []), "--", mountpoint]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    except OSError as error:
        return str(error)
    return None if done.returncode == 0 else done.stderr.strip() or f"fusermount3: status {done.returncode}"
