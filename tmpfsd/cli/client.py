"""client.py: asks a mount's control socket, without touching the mount itself."""

from __future__ import annotations

import json
import os
import socket
import stat
import time
from collections.abc import Callable, Iterator
from typing import Any

from tmpfsd.cli.preflight import CliError
from tmpfsd.mounts import mountinfo, places
from tmpfsd.mounts.mountinfo import MountPoint

SECONDS = 60.0          # `check` looks at everything
MAX_ANSWER = 16 << 20
MOST_LINKS = 40
UNMOUNT = "tmpfsctl umount takes away what it left"


class ClientError(CliError):
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


def place_of(path: str) -> tuple[MountPoint, str]:
    """Return the tmpfsd mount that a path is on, and the path below its root, without asking the mount anything.

    => symbolic links are followed up to the mount, not inside it.
    """
    if not path:
        raise ClientError("path: empty")
    mounts = {mount.path: mount for mount in mountinfo.table()}
    todo = [part for part in os.path.join(os.getcwd(), path).split("/") if part][::-1]
    here, on, followed = "/", mounts.get("/"), 0
    while todo:
        part = todo.pop()
        here = os.path.dirname(here) if part == ".." else os.path.join(here, part) if part != "." else here
        on = mounts.get(here, on) if part != ".." else mount_above(mounts, here)
        if on is not None and on.fstype == mountinfo.FSTYPE:
            continue
        target = link_at(here)
        if target is not None:
            followed += 1
            if followed > MOST_LINKS:
                raise ClientError(f"{path}: too many levels of symbolic links")
            here = "/" if target.startswith("/") else os.path.dirname(here)
            on = mount_above(mounts, here)
            todo += [word for word in target.split("/") if word][::-1]
    if on is None or on.fstype != mountinfo.FSTYPE:
        raise ClientError(f"{path}: not on a tmpfsd mount")
    return on, os.path.normpath(os.path.join(on.root, os.path.relpath(here, on.path))).lstrip("/")


def link_at(path: str) -> str | None:
    """Return where a symbolic link leads; None where there is none."""
    try:
        return os.readlink(path)
    except OSError:
        return None


def mount_above(mounts: dict[str, MountPoint], path: str) -> MountPoint | None:
    """Return the mount that holds path."""
    while path not in mounts and path != "/":
        path = os.path.dirname(path)
    return mounts.get(path)


def socket_of(mounted: MountPoint) -> str:
    """Return the socket of a mount."""
    name = places.socket_name(mounted.major, mounted.minor)
    for directory in places.directories(mounted.owner):
        candidate = os.path.join(directory, name)
        if is_socket_of(candidate, mounted.owner):
            return candidate
    if os.geteuid() in (0, mounted.owner):
        raise Dead(f"{mounted.path}: no control socket: its server is gone ({UNMOUNT})")
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

    => on_progress(done, of) is called now and then by commands that take long; an argument `descriptor` is an open
    file that goes with it.
    """
    return ask_mount(find(path), path, SECONDS, command, on_progress, **arguments)


def ask_mount(mounted: MountPoint, path: str, seconds: float, command: str,
              on_progress: Callable[[int, int], None] = lambda _done, _of: None, /, **arguments: Any) -> Any:
    """Send one command to a mount, which messages call path; see ask()."""
    for answer in answers(mounted, path, seconds, command, arguments):
        word = answer.get("progress")
        if word:
            on_progress(word["done"], word["of"])
    return answer["result"]


def follow(mounted: MountPoint, command: str, **arguments: Any) -> Iterator[dict[str, Any]]:
    """Send one command to a mount and yield each answer, {"progress": ...} or at last {"result": ...}."""
    return answers(mounted, mounted.path, SECONDS, command, arguments)


def answers(mounted: MountPoint, path: str, seconds: float, command: str,
            arguments: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Send one command and yield its answers, the last with a result; ClientError, which names path, when it fails."""
    place = socket_of(mounted)
    descriptors = [value for name, value in arguments.items() if name == "descriptor"]
    values = {name: value for name, value in arguments.items() if name != "descriptor"}
    request = json.dumps({"command": command, **values}).encode() + b"\n"
    answer: dict[str, Any] = {}
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(seconds)
            connect(sock, place)
            if descriptors:
                request = request[socket.send_fds(sock, [request], descriptors):]
            sock.sendall(request)
            with sock.makefile("rb") as lines:
                while "result" not in answer:
                    answer = json.loads(lines.readline(MAX_ANSWER))
                    if not answer.get("ok"):
                        raise ClientError(f"{path}: {answer.get('error', 'refused')}")
                    yield answer
    except TimeoutError:
        raise ClientError(f"{path}: no answer in {seconds:g} seconds: its server is stopped, or busy") from None
    except PermissionError:
        raise Foreign(f"{path}: a mount of user {mounted.owner}, who alone may ask") from None
    except OSError as error:
        raise Dead(f"{path}: {error.strerror or error}: its server is ending, or gone ({UNMOUNT})") from None
    except ValueError:
        raise ClientError(f"{path}: the answer is not understood") from None


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


def status(path: str, seconds: float = SECONDS) -> dict[str, Any]:
    """Return the status of the mount at path, with the keys of `tmpfsctl status --json`."""
    answer: dict[str, Any] = ask_mount(find(path), path, seconds, "status")
    return answer
