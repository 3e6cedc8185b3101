"""client.py: asks a mount's control socket, without touching the mount itself."""

from __future__ import annotations

import json
import os
import socket
import stat
import time
from collections.abc import Callable
from typing import Any

from tmpfsd.server import control, mountinfo
from tmpfsd.server.mountinfo import MountPoint

SECONDS = 60.0          # `check` looks at everything
MAX_ANSWER = 16 << 20


class ClientError(Exception):
    """The mount cannot be asked, or refused; the text is one line for the user."""


class Dead(ClientError):
    """Nobody answers for the mount: its server is gone."""


class Foreign(ClientError):
    """The mount is of another user, who alone may ask."""


def find(path: str) -> MountPoint:
    """Return the mount at path; ClientError where there is none of ours."""
    if not path:
        raise ClientError("mount point: empty")     # it would be taken for the working directory
    mounted = mountinfo.find(mountinfo.resolve(path))
    if mounted is None:
        raise ClientError(f"{path}: not a mount point")
    if mounted.fstype != mountinfo.FSTYPE:
        raise ClientError(f"{path}: a mount point of {mounted.fstype}, not of tmpfsd")
    return mounted


def socket_of(mounted: MountPoint) -> str:
    """Return the socket of a mount."""
    name = control.socket_name(mounted.major, mounted.minor)
    for directory in control.directories(mounted.owner):
        candidate = os.path.join(directory, name)
        if is_socket_of(candidate, mounted.owner):
            return candidate
    if os.geteuid() in (0, mounted.owner):
        raise Dead(f"{mounted.path}: no control socket: its server is gone")
    raise Foreign(f"{mounted.path}: a mount of user {mounted.owner}, who alone may ask")


def is_socket_of(path: str, uid: int) -> bool:
    """Tell whether path is a socket made by this user."""
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISSOCK(status.st_mode) and status.st_uid == uid


def ask(path: str, command: str, on_progress: Callable[[int, int], None] = lambda _done, _of: None, /,
        **arguments: Any) -> Any:
    """Send one command to the mount at path and return its result; ClientError when that fails.

    => on_progress(done, of) is called now and then by commands that take long.
    """
    return ask_mount(find(path), path, SECONDS, command, on_progress, **arguments)


def ask_mount(mounted: MountPoint, path: str, seconds: float, command: str,
              on_progress: Callable[[int, int], None] = lambda _done, _of: None, /, **arguments: Any) -> Any:
    """Send one command to a mount, which messages call path; see ask()."""
    place = socket_of(mounted)
    request = json.dumps({"command": command, **arguments}).encode() + b"\n"
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(seconds)
            connect(sock, place)
            sock.sendall(request)
            with sock.makefile("rb") as lines:
                while word := (answer := json.loads(lines.readline(MAX_ANSWER))).get("progress"):
                    on_progress(word["done"], word["of"])
    except TimeoutError:
        raise ClientError(f"{path}: no answer in {seconds:g} seconds") from None
    except PermissionError:
        raise Foreign(f"{path}: a mount of user {mounted.owner}, who alone may ask") from None
    except OSError as error:
        raise Dead(f"{path}: {error.strerror or error}: its server is gone, or ending") from None
    except ValueError:
        raise ClientError(f"{path}: the answer is not understood") from None
    if not answer.get("ok"):
        raise ClientError(f"{path}: {answer.get('error', 'refused')}")
    return answer["result"]


def connect(sock: socket.socket, place: str) -> None:
    """Connect; where others stand in line (EAGAIN), wait for as long as the socket's timeout."""
    deadline = time.monotonic() + (sock.gettimeout() or 0)
    while True:
        try:
            sock.connect(place)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def status(path: str) -> dict[str, Any]:
    """Return the status of the mount at path, with the keys of `tmpfsctl status --json`."""
    answer: dict[str, Any] = ask(path, "status")
    return answer
