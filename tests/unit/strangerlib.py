"""A mount whose server is a stranger's program: it says what a test tells it to."""

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tmpfsd.cli import client
from tmpfsd.cli import list as list_
from tmpfsd.cli import topall
from tmpfsd.mounts import mountinfo, places
from tmpfsd.mounts.mountinfo import MountPoint

SECONDS = 0.4
MOUNT = MountPoint(0, 77, "/mnt/theirs", "fuse.tmpfsd", os.geteuid())
Talk = Callable[[socket.socket], None]


@contextlib.contextmanager
def strangers_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Talk], None]]:
    """Serves the mount as a function says, each connection in a thread of its own."""
    monkeypatch.setattr(places, "directories", lambda _uid: [str(tmp_path)])
    monkeypatch.setattr(mountinfo, "table", lambda *_more: [MOUNT])
    monkeypatch.setattr(list_, "leftovers", lambda: iter(()))
    monkeypatch.setattr(list_, "SECONDS", SECONDS)
    monkeypatch.setattr(topall, "SECONDS", SECONDS)
    monkeypatch.setattr(client, "find", lambda _path: MOUNT)
    monkeypatch.setattr(client, "PING_SECONDS", 0.2)
    with contextlib.ExitStack() as stack:

        def start(talk: Talk) -> None:
            listener = socket.socket(socket.AF_UNIX)
            stack.callback(listener.close)
            stack.callback(lambda: listener.shutdown(socket.SHUT_RDWR))
            listener.bind(str(tmp_path / places.socket_name(*MOUNT.device)))
            os.chmod(tmp_path / places.socket_name(*MOUNT.device), 0o600)
            listener.listen()

            def one(connected: socket.socket) -> None:
                with contextlib.suppress(OSError), connected:
                    talk(connected)

            def serve() -> None:
                with contextlib.suppress(OSError):
                    while True:
                        threading.Thread(target=one, args=(listener.accept()[0],), daemon=True).start()

            threading.Thread(target=serve, daemon=True).start()

        yield start
