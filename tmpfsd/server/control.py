"""control.py: the control socket of a mount: JSON lines over a unix socket.

A request is one line {"command": NAME, ...}, answered by one line {"ok": true, "result": ...} or {"ok":
false, "error": TEXT}; a client may send several.  A command that takes long works in steps.  Before its answer come
lines {"ok": true, "progress": {"done": N, "of": M}}, ten a second at most.  A command that also waits is an async
generator, which yields {"progress": ...} whenever it likes and at last {"result": ...}.  places.py says where the
socket is.

A descriptor may come with a line (SCM_RIGHTS): of a file that the client has the right to open and the daemon has not.

Invariants  C1 Input is bounded: MAX_LINE bytes a line, IDLE_SECONDS to send it, MAX_CLIENTS at once.
               One descriptor a line; one that no command takes is closed.
            C2 Only root and the mounting user get an answer (mode 0600, and the peer's credentials).
            C3 A daemon that ends removes only its own socket.  After the unmount, while it is still ending,
               the next mount may have the same device number.
            C4 Requests are served between the steps of a command (turns.py).  A command whose client is
               gone is closed, and undoes what it must.
Limits      A step, and a command without steps, runs to its end like any operation.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import socket
import struct
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import trio

from tmpfsd.mounts import places
from tmpfsd.mounts.places import directories, owned, socket_name
from tmpfsd.seldom import seldom
from tmpfsd.server.refused import ControlError
from tmpfsd.server.turns import Turns

log = logging.getLogger(__name__)

MAX_LINE = 64 << 10
MAX_CLIENTS = 64
IDLE_SECONDS = 5.0
DESCRIPTOR = struct.Struct("i")
SO_PEERGROUPS = 59                      # <asm-generic/socket.h>
MOST_GROUPS = 65536                     # NGROUPS_MAX
PROGRESS_SECONDS = 0.1
LOCK_SECONDS = 0.2

# A plain function; a generator, which yields its progress after each step and returns the result; or an async one.
Command = Callable[[Mapping[str, Any]], Any]


class Progress(NamedTuple):
    """How far a command is."""

    done: int
    of: int


class Gone(Exception):
    """The client no longer listens."""


class Peer(NamedTuple):
    """Who asks: what a command finds in request["peer"], whatever the client wrote there."""

    uid: int
    groups: tuple[int, ...]


def peer_of(client: Any) -> Peer:
    """Return who connected, with the groups that the peer had then."""
    _, uid, gid = places.peer(client)
    try:
        data = client.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, 4 * MOST_GROUPS)
    except OSError:                     # a kernel before 4.13
        data = b""
    return Peer(uid, (gid, *struct.unpack(f"{len(data) // 4}I", data)))


def make_directory(path: str, uid: int) -> None:
    """Make a directory for this user's sockets.

    => raises ControlError when it belongs to someone else.
    """
    try:
        os.mkdir(path, 0o700)
    except OSError:             # usually it exists: EEXIST, or EROFS if nothing can be made
        if not os.path.lexists(path):
            raise
    if not owned(path, uid):
        raise ControlError(f"{path}: not a directory of this user alone")


def open_socket(uid: int, name: str) -> tuple[str, socket.socket]:
    """Bind a socket of this name in the first of this user's places that takes it; return where.

    => raises ControlError, which says what is wrong with each, when none does.
    """
    wrong: list[str] = []
    for directory in directories(uid):
        path = os.path.join(directory, name)
        try:
            make_directory(directory, uid)
            return path, listen(path)
        except ControlError as error:
            wrong.append(str(error))
        except OSError as error:
            wrong.append(f"{path}: {error.strerror or error}")
    raise ControlError("; ".join(wrong))


def listen(path: str) -> socket.socket:
    """Bind the socket at path, mode 0600.  Anything there is stale: the device number is ours."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        with locked(os.path.dirname(path)):
            if os.path.lexists(path):
                os.unlink(path)
            previous = os.umask(0o177)
            try:
                listener.bind(path)
            finally:
                os.umask(previous)
        listener.listen(MAX_CLIENTS)
    except OSError:
        listener.close()
        raise
    return listener


@contextlib.contextmanager
def locked(directory: str) -> Iterator[None]:
    """Keep other daemons from making or removing sockets there: our device number is free before our socket is gone."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        take_lock(descriptor)
        yield
    finally:
        os.close(descriptor)


def take_lock(directory: int) -> bool:
    """Lock a directory; if others can open it and so hold the lock, wait for LOCK_SECONDS only."""
    state = os.fstat(directory)
    if state.st_uid == os.geteuid() and not state.st_mode & 0o044:
        fcntl.flock(directory, fcntl.LOCK_EX)
        return True
    deadline = time.monotonic() + LOCK_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(0.01)
    return False


def identity(path: str) -> tuple[int, int, int] | None:
    """Return what distinguishes this socket from a later one with the same name, or None if there is none.

    The inode number alone does not: it may be reused once the socket is gone.
    """
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_ctime_ns


def remove(path: str, made: tuple[int, int, int] | None) -> None:
    """Remove the socket that was made at path, but not another that has taken its place (C3)."""
    if made is not None:
        with contextlib.suppress(OSError), locked(os.path.dirname(path)):
            if identity(path) == made:
                os.unlink(path)


def is_served(uid: int, major: int, minor: int) -> bool:
    """Tell whether its owner listens at a mount's socket.  The mount itself, which may hang, is not asked."""
    for directory in directories(uid):
        found = None
        with contextlib.suppress(PermissionError):      # another user's: we may not ask
            found = places.open_socket(directory, socket_name(major, minor), uid)
        if found is None:
            continue
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as sock:
                if sock.connect_ex(f"/proc/self/fd/{found}") in (0, errno.EAGAIN):
                    return True
        finally:
            os.close(found)
    return False


def forget(uid: int, major: int, minor: int) -> None:
    """Remove what a killed server has left of a mount that is gone now."""
    for directory in directories(uid):
        path = os.path.join(directory, socket_name(major, minor))
        if owned(directory, uid):
            remove(path, identity(path))


class Receiver:
    """What a client sends with one line; a descriptor that no command took is closed at the end."""

    def __init__(self, sock: Any) -> None:
        self.sock = sock
        self.descriptors: list[int] = []

    def __enter__(self) -> Receiver:
        return self

    def __exit__(self, *_: object) -> None:
        self.keep(0)

    def keep(self, most: int) -> None:
        """Close descriptors from the end on; keep at most this many."""
        while len(self.descriptors) > most:
            os.close(self.descriptors.pop())

    async def recv(self, most: int) -> bytes:
        """The next bytes; nothing at the end."""
        data, words, _, _ = await self.sock.recvmsg(most, socket.CMSG_SPACE(DESCRIPTOR.size), socket.MSG_CMSG_CLOEXEC)
        for _level, _kind, packed in words:         # a unix socket without other options gets only SCM_RIGHTS
            whole = len(packed) - len(packed) % DESCRIPTOR.size
            self.descriptors += [number for number, in DESCRIPTOR.iter_unpack(packed[:whole])]
            self.keep(1)
        return bytes(data)


class ControlServer:
    """Answers the clients of one mount."""

    def __init__(self, commands: Mapping[str, Command], owner: int, turns: Turns | None = None) -> None:
        self.commands = commands
        self.owner = owner
        self.turns = turns or Turns()
        self.nclients = self.nfailed = 0

    async def serve(self, listener: socket.socket) -> None:
        """Accept clients until cancelled; closes the listener."""
        with trio.socket.from_stdlib_socket(listener) as sock:
            async with trio.open_nursery() as nursery:
                while True:
                    try:
                        client, _ = await sock.accept()
                    except OSError as error:            # out of descriptors: others will be closed
                        self.nfailed += 1
                        if seldom(self.nfailed):
                            log.warning("control socket: %s (%d times)", error, self.nfailed)
                        await trio.sleep(0.1)
                        continue
                    nursery.start_soon(self._client, client)

    async def _client(self, client: Any) -> None:
        """Serve one client to its end; whatever it does harms only itself."""
        self.nclients += 1
        try:
            with client:
                error = self._refusal(client)
                if error:
                    await send(client, {"ok": False, "error": error})
                else:
                    await self._lines(client)
        except (OSError, trio.TooSlowError, Gone):
            pass
        finally:
            self.nclients -= 1

    def _refusal(self, client: Any) -> str | None:
        """Return why this client is not served, or None."""
        if self.nclients > MAX_CLIENTS:
            return f"too many clients: at most {MAX_CLIENTS} at once"
        _, uid, _ = places.peer(client)
        return None if uid in (0, self.owner) else "only root and the mounting user may ask"

    async def _lines(self, client: Any) -> None:
        """Answer line after line."""
        pending, peer = bytearray(), peer_of(client)
        while True:
            with Receiver(client) as receiver:
                with trio.move_on_after(IDLE_SECONDS) as scope:
                    line = await read_line(receiver, pending)
                if scope.cancelled_caught:
                    await send(client, {"ok": False, "error": f"nothing for {IDLE_SECONDS:g} seconds"})
                    return
                if line is None:
                    return
                await send(client, await self.answer(client, line, peer, receiver.descriptors))
                if len(line) > MAX_LINE:
                    return

    async def answer(self, client: Any, line: bytes, peer: Peer, descriptors: Sequence[int] = ()) -> dict[str, Any]:
        """Run the command of one line."""
        try:
            name, request = parse_request(line)
            command = self.commands.get(name)
            if command is None:
                known = ", ".join(sorted(self.commands))
                raise ControlError(f"unknown command {name[:40]!r}; there are: {known}")
            request["peer"], request["descriptors"] = peer, descriptors
            result = command(request)
            if isinstance(result, Generator):
                result = await follow(client, result, self.turns)
            elif isinstance(result, AsyncGenerator):
                result = await relay(client, result)
            return {"ok": True, "result": result}
        except Gone:
            raise
        except ControlError as error:
            return {"ok": False, "error": str(error)}
        except Exception as error:
            log.exception("control command failed")
            return {"ok": False, "error": f"{type(error).__name__}: {error}"}


async def follow(client: Any, steps: Generator[Progress, None, Any], turns: Turns) -> Any:
    """Run a command that works in steps, report progress to the client, and return its result.

    If the client goes away, the command gets a Gone, and undoes in steps what it has done.
    """
    try:
        while True:
            word, result = await _go_on(steps, turns)
            if word is None:
                return result
            try:
                await send(client, {"ok": True, "progress": word._asdict()})
            except (BrokenPipeError, ConnectionResetError, trio.TooSlowError) as error:
                await _break_off(steps, turns)
                raise Gone from error
    finally:
        steps.close()


async def _go_on(steps: Generator[Progress, None, Any], turns: Turns) -> tuple[Progress | None, Any]:
    """Run steps until there is progress to report; or, with None, the result."""
    told = trio.current_time()
    with turns.background():                    # not while we wait for the client
        try:
            turns.begin()
            while True:
                word = next(steps)
                if not turns.over():
                    continue
                await trio.lowlevel.checkpoint()
                if trio.current_time() - told >= PROGRESS_SECONDS:
                    return word, None
                turns.begin()
        except StopIteration as end:
            return None, end.value


async def _break_off(steps: Generator[Progress, None, Any], turns: Turns) -> None:
    """Let a command undo what it has done, without a client."""
    try:
        steps.throw(Gone())
        while (await _go_on(steps, turns))[0] is not None:
            pass
    except (Gone, StopIteration):
        pass


async def relay(client: Any, parts: AsyncGenerator[dict[str, Any], None]) -> Any:
    """Run a command that decides itself when to report, and return its result."""
    result = None
    async with contextlib.aclosing(parts):
        async for part in parts:
            if "result" in part:
                result = part["result"]
                continue
            try:
                await send(client, {"ok": True, **part})
            except (BrokenPipeError, ConnectionResetError, trio.TooSlowError) as error:
                raise Gone from error
    return result


def parse_request(line: bytes) -> tuple[str, dict[str, Any]]:
    """Read one line; ControlError says what is wrong with it."""
    if len(line) > MAX_LINE:
        raise ControlError(f"line longer than {MAX_LINE} bytes")
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        raise ControlError("not a JSON line") from None
    if not isinstance(request, dict) or not isinstance(request.get("command"), str):
        raise ControlError('not an object with a "command"')
    return request["command"], request


async def read_line(client: Any, pending: bytearray) -> bytes | None:
    """Return the next line, or None at the end.

    => a line that is too long is returned as more than MAX_LINE bytes.
    """
    while (end := pending.find(b"\n")) < 0 and len(pending) <= MAX_LINE:
        data = await client.recv(4096)
        if not data:
            return None
        pending += data
    end = end if end >= 0 else len(pending)
    line = bytes(pending[:end])
    del pending[:end + 1]
    return line


async def send(client: Any, answer: dict[str, Any]) -> None:
    """Send one answer; TooSlowError when the client does not take it."""
    data = json.dumps(answer).encode() + b"\n"
    with trio.fail_after(IDLE_SECONDS):
        while data:
            data = data[await client.send(data):]
