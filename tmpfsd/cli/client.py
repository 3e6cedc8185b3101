"""client.py: asks a mount's control socket, without touching the mount itself.

Picture     a path --find(), place_of()--> MountPoint, by its device number --Connection--> its own server
            --answers()--> {"progress": ...}, at last {"result": ...}, each of the shape that shapes.py has for it
            no server, or no word from it: trouble.py says what is the matter
Invariants  A1 Requests go only to the owner of the mount, and only the owner's answers are shown.  The credentials of
               the socket say who that is, not its path.  A descriptor is given to root, to the caller, or to the
               owner of the file.
            A2 If a server is silent for SILENCE seconds, a second connection asks it whether it lives.  If it is silent
               there too, it is hung.  Any line is a sign of life, also one of progress.
            A3 A command that asks all mounts of the machine never waits for one: ask_briefly() has a deadline, whatever
               the server of another user sends, byte by byte or without end.
            A4 A command with an end has one, whatever a stranger's server says: its progress must grow (patience.py).
            A5 No command sees an answer that is not of its shape: a look at each key there would be forgotten once.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any

from tmpfsd.cli import shapes, trouble
from tmpfsd.cli.patience import Patience
from tmpfsd.cli.preflight import CliError
from tmpfsd.cli.trouble import ClientError, Dead, Detached, Foreign, Hung, NoSocket, NotUnderstood
from tmpfsd.mounts import mountinfo, places
from tmpfsd.mounts.mountinfo import FSTYPE, MountPoint, Where

__all__ = ["ClientError", "CliError", "Dead", "Detached", "Foreign", "Hung", "NoSocket", "NotUnderstood"]

SILENCE = 1.4           # seconds without a word
LEAST = 0.01
LONGEST_LINE = 5.0      # from its first byte to its end; a server writes a line at once
LONGEST = 10.0          # for a status, which never takes long, from a server that lives
PING_SECONDS = 0.7
BRIEFLY = 0.4           # for a server that may belong to anyone's mount
MAX_ANSWER = 16 << 20
SECRETS = ("password", "authority")     # of a request: read with our rights, for a server that we trust


def find(path: str) -> MountPoint:
    """Return the mount at path; ClientError if there is no tmpfsd there."""
    if not path:
        raise ClientError("mount point: empty")     # it would be taken for the working directory
    where = mountinfo.locate(path)
    if where.mount is None or not where.at_mount:
        for state in leftovers():
            if state.get("mountpoint") == where.path:
                raise Detached(trouble.detached(path, state))
        raise ClientError(f"{path}: not a mount point")
    if where.mount.fstype != FSTYPE:
        raise ClientError(f"{path}: a mount point of {where.mount.fstype}, not of tmpfsd")
    return where.mount


def place_of(path: str) -> tuple[MountPoint, str]:
    """Return the tmpfsd mount that a path is on, and the path below its root, without asking the mount anything.

    => symbolic links are followed up to the mount, not inside it.
    """
    where = on_mount(path)
    assert where.mount is not None
    return where.mount, where.inside


def on_mount(path: str) -> Where:
    """Return where a path on a tmpfsd mount leads.  => ClientError."""
    if not path:
        raise ClientError("path: empty")
    where = mountinfo.locate(path)
    if where.mount is None or where.mount.fstype != FSTYPE:
        raise ClientError(f"{path}: not on a tmpfsd mount")
    return where


class Connection:
    """A conversation with the server of a mount, and nobody else (A1)."""

    def __init__(self, mounted: MountPoint, seconds: float, until: float | None = None) -> None:
        self.seconds, self.until = seconds, until       # of silence; and when the answer must be complete (A3)
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(seconds)
        self.buffer = bytearray()
        self.begun = 0.0                # when the first byte of the line came that is being read
        try:
            self._connect(mounted)
            self.pid, self.uid, _ = places.peer(self.sock)
            if self.uid != mounted.owner:
                raise Foreign(f"{mounted.path}: user {self.uid} answers for it, but does not own it: not asked")
        except BaseException:
            self.sock.close()
            raise

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def _connect(self, mounted: MountPoint) -> None:
        """Connect to the first socket of the mount at which somebody listens.  => ConnectionRefusedError."""
        name = places.socket_name(*mounted.device)
        for directory in places.directories(mounted.owner):
            found = places.open_socket(directory, name, mounted.owner)
            if found is not None:
                try:
                    with contextlib.suppress(ConnectionRefusedError):
                        connect(self.sock, f"/proc/self/fd/{found}")
                        return
                finally:
                    os.close(found)
        raise ConnectionRefusedError(errno.ECONNREFUSED, "nobody listens")

    def is_strangers(self) -> bool:
        """Tell whether the server is neither root's nor ours."""
        return self.uid not in (0, os.geteuid())

    def send(self, request: Mapping[str, Any]) -> None:
        """Send a request, and with it the open file that it has under the name "descriptor"."""
        descriptors = [value for name, value in request.items() if name == "descriptor"]
        values = {name: value for name, value in request.items() if name != "descriptor"}
        data = json.dumps(values).encode() + b"\n"
        foreign = self.is_strangers()
        for descriptor in descriptors:
            if foreign and self.uid != os.fstat(descriptor).st_uid:
                raise ClientError(f"a mount of user {self.uid}: another user's file is not given to it")
        if foreign and any(request.get(name) for name in SECRETS):
            raise ClientError(f"a mount of user {self.uid}: a password or a certificate is not given to it")
        if descriptors:
            data = data[socket.send_fds(self.sock, [data], descriptors):]
        self.sock.sendall(data)

    def is_over(self) -> bool:
        """Tell whether the answer should be complete by now."""
        return self.until is not None and time.monotonic() >= self.until

    def _heed_end(self) -> None:
        """Wait no longer than the time that is left.  => TimeoutError."""
        if self.is_over():
            raise TimeoutError("not all was said in time")
        if self.until is not None:
            self.sock.settimeout(min(self.seconds, max(self.until - time.monotonic(), LEAST)))

    def line(self) -> bytes:
        """Return the next line; if the server hangs up, what came, without a line end.

        => TimeoutError; ValueError: it comes byte by byte, without an end.
        """
        self._heed_end()
        while (end := self.buffer.find(b"\n") + 1) == 0 and len(self.buffer) <= MAX_ANSWER:
            data = self.sock.recv(1 << 16)
            if not data:
                break
            if not self.buffer:
                self.begun = time.monotonic()
            self.buffer += data
            self._heed_end()
            if time.monotonic() - self.begun > LONGEST_LINE and b"\n" not in data:
                raise ValueError("a line without an end")
        end = end or len(self.buffer)
        line = bytes(self.buffer[:end])
        del self.buffer[:end]
        self.begun = time.monotonic()
        return line


def connect(sock: socket.socket, place: str) -> None:
    """Connect; if the queue is full (EAGAIN), wait for as long as the socket's timeout."""
    deadline = time.monotonic() + (sock.gettimeout() or 0)
    while True:
        try:
            sock.connect(place)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise TimeoutError from None
            time.sleep(0.02)


def lives(mounted: MountPoint) -> bool:
    """Tell whether the server says anything at all (A2)."""
    try:
        with Connection(mounted, PING_SECONDS, time.monotonic() + 2 * PING_SECONDS) as connection:
            connection.send({"command": "ping"})
            return bool(connection.line())
    except (OSError, ClientError):
        return False


def ask(path: str, command: str, on_progress: Callable[[int, int], None] = lambda _done, _of: None, /,
        **arguments: Any) -> Any:
    """Send one command to the mount at path and return its result; ClientError when that fails.

    => on_progress(done, of) is called now and then by commands that take long; an argument `descriptor` is an open
    file that goes with it.
    """
    return ask_mount(find(path), path, SILENCE, command, on_progress, **arguments)


def ask_mount(mounted: MountPoint, path: str, seconds: float, command: str,
              on_progress: Callable[[int, int], None] = lambda _done, _of: None, /, **arguments: Any) -> Any:
    """Send one command to a mount, which messages call `path`; see ask()."""
    for answer in answers(mounted, path, seconds, command, arguments):
        if "of" in answer.get("progress", {}):
            on_progress(answer["progress"]["done"], answer["progress"]["of"])
    return answer["result"]


def ask_briefly(mounted: MountPoint, seconds: float, command: str) -> Any:
    """Send one command to a mount that may be anybody's; ClientError if it has not answered in time (A3)."""
    until = time.monotonic() + seconds
    with contextlib.closing(answers(mounted, mounted.path, seconds, command, {}, until)) as told:
        for answer in told:
            if "result" in answer:
                return answer["result"]
    raise ClientError(f"{mounted.path}: no answer")


def follow(mounted: MountPoint, command: str, **arguments: Any) -> Iterator[dict[str, Any]]:
    """Send one command to a mount and yield each answer, {"progress": ...} or at last {"result": ...}."""
    return answers(mounted, mounted.path, SILENCE, command, arguments)


def answers(mounted: MountPoint, path: str, seconds: float, command: str, arguments: dict[str, Any],
            until: float | None = None) -> Generator[dict[str, Any], None, None]:
    """Send one command and yield its answers, the last with a result; ClientError, which names path, when it fails.

    => seconds is how long the server may be silent; until, when the answer must be complete (A3).
    """
    pid = 0
    try:
        with Connection(mounted, seconds, until) as connection:
            pid = connection.pid
            connection.send({"command": command, **arguments})
            patience = Patience(not (connection.is_strangers() and shapes.has_end(command)))
            answer: dict[str, Any] = {}
            while "result" not in answer:
                answer = read(connection, mounted, patience)
                shapes.understand(command, answer)
                if not answer["ok"]:
                    raise ClientError(f"{path}: {answer.get('error', 'refused')}")
                patience.heed(answer.get("progress", {}))
                yield answer
    except TimeoutError:
        raise Hung(trouble.silent(path, pid, seconds)) from None
    except PermissionError:
        raise Foreign(trouble.foreign(path, mounted)) from None
    except OSError:
        raise trouble.no_answer(mounted, path) from None
    except (ValueError, RecursionError):
        raise NotUnderstood(f"{path}: the answer of its server is not understood") from None


def read(connection: Connection, mounted: MountPoint, patience: Patience) -> dict[str, Any]:
    """Return the next answer, however long a living server takes (A2).  => OSError, ValueError.

    => ClientError: it has come no further for too long (A4).
    """
    while True:
        if patience.is_over():
            raise trouble.stalled(mounted, patience.seconds)
        try:
            line = connection.line()
            break
        except TimeoutError:
            if connection.is_over() or not lives(mounted):
                raise
    if not line:
        raise ConnectionResetError(errno.ECONNRESET, "it hung up")
    return shapes.parse(line)


def leftovers() -> Iterator[dict[str, Any]]:
    """Return the status of each of our servers that lives though its mount can no longer be reached."""
    mounted = {mount.device for mount in mountinfo.table()}
    for device in places.devices(os.geteuid()):
        if device not in mounted:
            with contextlib.suppress(ClientError):
                left = MountPoint(*device, "", FSTYPE, os.geteuid())
                yield ask_mount(left, "", BRIEFLY, "status")


def status(path: str, seconds: float = SILENCE) -> dict[str, Any]:
    """Return the status of the mount at path, with the keys of `tmpfsctl status --json`."""
    mounted, until = find(path), time.monotonic() + LONGEST
    with contextlib.closing(answers(mounted, path, seconds, "status", {}, until)) as told:
        answer: dict[str, Any] = next(told)["result"]
    return answer
