"""trouble.py: why a mount cannot be asked, in one line for the user.

dead (its server is gone), hung (it says nothing), no socket (it serves files, but cannot be asked), detached (it still
holds memory, but no path leads to it), somebody else's.

Invariants  Advice never destroys anything: it says to unmount only when the kernel says that the mount is dead.
"""

from __future__ import annotations

import os
from typing import Any

from tmpfsd.cli.preflight import CliError
from tmpfsd.cli.units import human
from tmpfsd.mounts import alive, mountinfo
from tmpfsd.mounts.mountinfo import MountPoint

UNMOUNT = "tmpfsctl umount removes the mount"
NOTHING_LOST = "nothing is lost"


class ClientError(CliError):
    """The mount cannot be asked, or it refused; the text is one line for the user."""


class Dead(ClientError):
    """Nobody serves the mount: its server is gone."""


class Foreign(ClientError):
    """The mount belongs to another user, and only that user may ask it."""


class Hung(ClientError):
    """There is a server, but it says nothing."""


class NoSocket(ClientError):
    """The mount answers, but has no control socket."""


class NotUnderstood(ClientError):
    """There is a server, but it does not answer as a daemon of ours does."""


class Detached(ClientError):
    """There is a server, but no path leads to its mount."""


def foreign(path: str, mounted: MountPoint) -> str:
    """Say whose mount it is."""
    return f"{path}: a mount of user {mounted.owner}, who alone may ask"


def no_answer(mounted: MountPoint, path: str) -> ClientError:
    """Return what is wrong with a mount if nobody listens at its socket, or the server hung up."""
    if os.geteuid() not in (0, mounted.owner):
        return Foreign(foreign(path, mounted))
    if not any(mount.device == mounted.device for mount in mountinfo.table()):
        return ClientError(f"{path}: it was unmounted meanwhile")
    state = alive.state_of(mounted)
    if state == alive.DEAD:
        return Dead(f"{path}: its server is gone ({UNMOUNT})")
    if state == alive.ALIVE:
        return NoSocket(f"{path}: alive, no socket: it serves its files, but its control socket cannot be reached "
                        "(its log says why)")
    if state == alive.SILENT:
        return Hung(f"{path}: no control socket, and no answer from the mount in {alive.SECONDS:g} seconds: its server "
                    f"is stopped, hangs or is busy; {NOTHING_LOST} as long as it is not killed")
    return NoSocket(f"{path}: no control socket, and the mount itself cannot be reached (another mount covers it, or "
                    "this user may not enter a directory above it)")


def silent(path: str, pid: int, seconds: float) -> str:
    """Say what can be seen of a server that is there but says nothing."""
    head = f"{path}: no answer in {seconds:.3g} seconds: its server"
    state = state_of_process(pid)
    if state in ("T", "t"):
        return f"{head} (process {pid}) is stopped; {NOTHING_LOST}: kill -CONT {pid} continues it"
    if state == "D":
        return f"{head} (process {pid}) waits for a disk or another file system (its swap?); {NOTHING_LOST}"
    who = f" (process {pid})" if state else ""
    return f"{head}{who} hangs or is busy; {NOTHING_LOST} as long as it is not killed: wait, or see what it does"


def stalled(mounted: MountPoint, seconds: float) -> ClientError:
    """Return what to say when a stranger's server answers, and its progress does not grow."""
    return ClientError(f"{mounted.path}: no progress in {seconds:g} seconds, given up; its server, of user "
                       f"{mounted.owner}, still answers")


def state_of_process(pid: int) -> str:
    """Return the letter that ps(1) shows for a process; "" if none can be seen."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b") ")[2][:1].decode("ascii", "replace")
    except OSError:
        return ""


def detached(path: str, state: dict[str, Any]) -> str:
    """Say what a server whose mount is detached still holds."""
    return (f"{path}: not mounted here any more, but its server (process {state.get('pid', 0)}) still holds "
            f"{human(state['resident_bytes'])} of memory: files are open there, or it is mounted in another "
            "namespace; it ends by itself with the last of them")
