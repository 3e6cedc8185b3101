"""client.py: asks a mount's control socket, without touching the mount itself."""

from __future__ import annotations

import json
import os
import socket
import stat
import time
from typing import Any

from tmpfsd.server import control, mountinfo

SECONDS = 60.0          # `check` looks at everything
MAX_ANSWER = 16 << 20


class ClientError(Exception):
    """The mount cannot be asked, or refused; the text is one line for the user."""


def socket_of(path: str) -> tuple[str, int]:
    """Return the socket of the mount at path, and whose mount it is."""
    if not path:
        raise ClientError("mount point: empty")     # it would be taken for the working directory
    mounted = mountinfo.find(mountinfo.resolve(path))
    if mounted is None:
        raise ClientError(f"{path}: not a mount point")
    if mounted.fstype != mountinfo.FSTYPE:
        raise ClientError(f"{path}: a mount point of {mounted.fstype}, not of tmpfsd")
    name = control.socket_name(mounted.major, mounted.minor)
    for directory in control.directories(mounted.owner):
        candidate = os.path.join(directory, name)
        if is_socket_of(candidate, mounted.owner):
            return candidate, mounted.owner
    raise ClientError(f"{path}: no control socket: its server is gone, or belongs to another user")


def is_socket_of(path: str, uid: int) -> bool:
    """Tell whether path is a socket made by this user."""
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISSOCK(status.st_mode) and status.st_uid == uid


def ask(path: str, command: str, **arguments: Any) -> Any:
    """Send one command to the mount at path and return its result; ClientError when that fails."""
    place, _ = socket_of(path)
    request = json.dumps({"command": command, **arguments}).encode() + b"\n"
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(SECONDS)
            connect(sock, place)
            sock.sendall(request)
            answer = json.loads(read_answer(sock))
    except TimeoutError:
        raise ClientError(f"{path}: no answer in {SECONDS:g} seconds") from None
    except OSError as error:
        raise ClientError(f"{path}: {error.strerror or error}") from None
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


def read_answer(sock: socket.socket) -> bytes:
    """Return one line."""
    data = bytearray()
    while not data.endswith(b"\n") and len(data) < MAX_ANSWER:
        part = sock.recv(1 << 16)
        if not part:
            break
        data += part
    return bytes(data)
