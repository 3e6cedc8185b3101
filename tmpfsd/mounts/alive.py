"""alive.py: asks a mount itself whether anybody serves it.

A process that asks a hung server waits until the server ends.  It cannot be killed once the server has read the
question.  So another process asks, and is left behind if it gets no answer.

Limits      The kernel lets only its owner ask a user's mount: root asks as that user.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys

from tmpfsd.mounts.mountinfo import MountPoint
from tmpfsd.mounts.unmount import id_at

ALIVE, DEAD, SILENT, UNKNOWN = "alive", "dead", "silent", "unknown"
ENDED = (errno.ENOTCONN, errno.ECONNABORTED)        # it was gone, or went away meanwhile
SECONDS = 1.0
NOT_ASKED = -1
# statvfs(), unlike stat(), is never answered from the kernel's cache; a name length of 0: it asked nobody.
ASK = """
import os, sys
descriptor, uid, gid = map(int, sys.argv[1:])
try:
    if uid:
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    answer = 0 if os.fstatvfs(descriptor).f_namemax else -1
except OSError as error:
    answer = error.errno
print(answer)
"""
_left: list[subprocess.Popen[bytes]] = []       # those that wait for a hung server


def state_of(mount: MountPoint, seconds: float = SECONDS) -> str:
    """Return whether the mount is ALIVE or DEAD, SILENT within this time, or UNKNOWN because it cannot be asked."""
    try:
        descriptor = os.open(mount.path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        return DEAD if error.errno in ENDED else UNKNOWN
    try:
        if mount.id and id_at(descriptor) != mount.id:
            return UNKNOWN              # something else is mounted over it
        return _ask(descriptor, mount, seconds)
    finally:
        os.close(descriptor)


def _ask(descriptor: int, mount: MountPoint, seconds: float) -> str:
    """Have a process ask."""
    uid, gid = (mount.owner, mount.group) if os.geteuid() == 0 else (0, 0)
    process = subprocess.Popen([sys.executable, "-I", "-S", "-c", ASK, str(descriptor), str(uid), str(gid)],
                               pass_fds=(descriptor,), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.DEVNULL, cwd="/")
    try:
        said = process.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        _left.append(process)
        return SILENT
    number = int(said or NOT_ASKED)
    return DEAD if number in ENDED else UNKNOWN if number in (NOT_ASKED, errno.EACCES, errno.EPERM) else ALIVE
