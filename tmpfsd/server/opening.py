"""opening.py: connects a live mount to a swap server, in a thread, as it may take seconds.

The client has tried the server before, and has read its password and certificate: the daemon may not be able to read
those files.  They come with the request, and are kept with the store, in memory that core dumps leave out.

Picture     opened() --> a thread connects --> the store, or why not
                |--- closed before its end --> the thread closes what it gets

Limits      A certificate has at most a line of the control socket: 64 KiB less the rest of the line.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Mapping
from typing import Any

from tmpfsd.privileges import give_up
from tmpfsd.server.control import Progress
from tmpfsd.server.refused import ControlError
from tmpfsd.stores.valkey import ValkeyStore, open_with
from tmpfsd.swapplaces import remote

LOOK = 0.0002               # between two looks whether it is connected


class _Opening:
    """What the thread does, and who gets the store: nobody, if nobody waits any more."""

    def __init__(self, path: str, password: bytes, authority: str) -> None:
        self._lock = threading.Lock()
        self._given_up = False
        self._store: ValkeyStore | None = None
        self._error = ""
        self.thread = threading.Thread(target=self._open, args=(path, password, authority), name="swapon", daemon=True)
        self.thread.start()

    def _open(self, path: str, password: bytes, authority: str) -> None:
        give_up()
        try:
            store = open_with(path, password, authority)
        except OSError as error:
            self._error = error.strerror or str(error)
            return
        with self._lock:
            if not self._given_up:
                self._store = store
                return
        store.close()

    def take(self) -> ValkeyStore:
        """Give the store, once.  => ControlError."""
        store, self._store = self._store, None
        if store is None:
            raise ControlError(self._error or "not connected")
        return store

    def give_up(self) -> None:
        """Have an untaken store closed; if the thread still connects, by the thread."""
        with self._lock:
            self._given_up = True
            store, self._store = self._store, None
        if store is not None:
            store.close()


def opened(path: str, request: Mapping[str, Any]) -> Generator[Progress, None, ValkeyStore]:
    """Connect to a server whose name swapplaces.remote() can read.  => ControlError."""
    password, authority = request.get("password", ""), request.get("authority", "")
    if not isinstance(password, str) or not isinstance(authority, str):
        raise ControlError(f"{path}: password, authority: must be texts")
    opening = _Opening(path, password.encode(errors="surrogateescape"), authority)
    try:
        while opening.thread.is_alive():
            opening.thread.join(LOOK)
            yield Progress(0, 1)
        return opening.take()
    except ControlError as error:
        raise ControlError(f"{path}: {error}") from None
    finally:
        opening.give_up()


def is_server(path: str) -> bool:
    """Tell whether a place is a server's.  => ControlError: it looks like one, but is none."""
    try:
        return remote(path) is not None
    except ValueError as error:
        raise ControlError(f"{path}: {error}") from None
