"""server/trees.py: the reaper, and the commands that work on whole trees: discard, du, prefetch; and trace.

They work in slices between requests (turns.py).  One task of the daemon, the reaper, frees what is doomed
(tmpfs/doomed.py): what discard detached, whether or not the client still listens, and what was removed or cut off.

Picture     discard: may the caller? (a walk, in slices) -> detach, one operation -> tell the kernel -> slices, progress
Notices     The kernel takes the lock of a directory to drop a name from its cache.  A process that makes something
            there holds that lock until we have answered it.  So another thread tells the kernel, while
            requests are served.  settled() is awaited before the loop is told to end.
Limits      A process that works in a discarded tree keeps what it has open, but finds nothing else there any more.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from typing import Any

import pyfuse3
import trio

from tmpfsd.image.warm import Warm
from tmpfsd.server.operations import Operations
from tmpfsd.server.refused import ControlError
from tmpfsd.tmpfs import detach, reap, vnops, walk
from tmpfsd.tmpfs.detach import StaleName
from tmpfsd.tmpfs.fserror import FsError
from tmpfsd.tmpfs.layout import tn_mode
from tmpfsd.tmpfs.mem import OWNER_DATA
from tmpfsd.uvm.errors import Inconsistent, VmError
from tmpfsd.uvm.pagekind import OWNER_MASK

log = logging.getLogger(__name__)

TICK = 200_000_000          # between two reports of progress
PAUSE = 0.05                # seconds between two looks at the ring
HEARTBEAT = 1.0             # without events, write to a tracer this often: is it gone?
RING = 4096                 # pages that a tracer may be behind
clock = time.perf_counter_ns


class Ring:
    """What one tracer has not read yet.  Events that do not fit are lost, and counted."""

    __slots__ = ("events", "noted", "read")

    def __init__(self) -> None:
        self.events: deque[tuple[float, str, int, str]] = deque(maxlen=RING)
        self.noted = self.read = 0

    def take(self) -> dict[str, Any]:
        """Return all that is there, and how many were lost before it."""
        lost = self.noted - self.read - len(self.events)
        events = list(self.events)
        self.events.clear()
        self.read = self.noted
        return {"events": events, "lost": lost}


class Trees:
    """The commands of one mount, and what works for them."""

    def __init__(self, mount: Any, operations: Operations) -> None:
        self.mount = mount
        self.kernel: Any = pyfuse3          # tells the kernel things: pyfuse3, or a Notifier (edge=native)
        self.operations = operations
        self.names = 0                      # removed by the reaper
        self.failure = ""                   # why the reaper rests though there is something to free
        self.turns = operations.turns
        self._wake = trio.Event()
        mount.on_doomed = lambda: self._wake.set()      # the present event
        self._notices: list[object] = []    # one for each thread that tells the kernel something
        self._rings: list[Ring] = []
        self._owners = {pool.owner: pool.name for pool in mount.mem.pools()} | {OWNER_DATA: "data"}

    # Discard

    async def discard(self, request: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """Remove a tree: its name at once, then what was in it."""
        mount, path, peer = self.mount, path_of(request), request["peer"]
        with refusals(path):
            self.demand_changes()
            place = walk.find(mount, path, peer)
            if not place.name:
                raise ControlError("the root of the mount cannot be discarded: unmount it")
            async with contextlib.aclosing(self.paced(walk.may_discard(mount, place, peer))) as ticks:
                async for _ in ticks:
                    yield {"progress": {"names": 0}}
            mount.breathe()
            if walk.find(mount, path, peer) != place:
                raise ControlError(f"{os.fsdecode(path)}: changed meanwhile")
            start, lost = self.names, mount.lost_nodes
            is_dir = self.remove(place)
        try:
            # First this: nodes that the kernel has forgotten are freed in a third of the time.
            await self.in_thread(forget_names, self.kernel, [StaleName(*place, is_dir)])
        finally:
            self.failure = ""
            self._wake.set()
        while mount.doomed:
            if self.failure:
                raise ControlError(f"{os.fsdecode(path)}: removed, but not all of it is free yet: {self.failure}")
            yield {"progress": {"names": self.names - start}}
            await trio.sleep(PAUSE)
        yield {"result": {"names": self.names - start + 1, "lost": max(mount.lost_nodes - lost, 0)}}

    async def paced(self, steps: Iterator[None]) -> AsyncGenerator[None, None]:
        """Run steps in slices between requests; yields when there is progress to report."""
        while not await self._ended(steps, clock() + TICK):
            yield None

    async def _ended(self, steps: Iterator[None], tick: int) -> bool:
        """Run steps until there is progress to report; return whether they ended."""
        turns = self.turns
        with turns.background():                # not while we wait for the client
            while clock() < tick:
                turns.begin()
                for _ in steps:
                    if turns.over():
                        break
                else:
                    return True
                await trio.lowlevel.checkpoint()
        return False

    def demand_changes(self) -> None:
        """Refuse what the kernel would refuse for its callers."""
        self.mount.gate.demand_writable()
        if self.mount.config.readonly:
            raise FsError(errno.EROFS)

    def remove(self, place: walk.Place) -> bool:
        """Remove a name, with everything below it; return whether it was a directory's."""
        mount = self.mount
        mount.breathe()
        is_dir = stat.S_ISDIR(tn_mode(mount.arena, mount.mem.node(place.ino)))
        if is_dir:
            detach.detach(mount, place.dino, place.name)
        else:
            vnops.unlink(mount, place.dino, place.name)
        return is_dir

    async def in_thread(self, tell: Any, *args: Any) -> None:
        """Tell the kernel something that may wait for requests to be answered."""
        notice = object()

        def work() -> None:
            try:
                tell(*args)
            finally:
                self._notices.remove(notice)

        self._notices.append(notice)
        await trio.to_thread.run_sync(work, abandon_on_cancel=True)

    async def settled(self, refuse: Callable[[], object] = lambda: None) -> None:
        """Wait until the kernel has taken all notices.  => refuse(): what they wait for, when nobody serves."""
        while self._notices:
            refuse()
            await trio.sleep(0.01)

    async def reaper(self) -> None:
        """Free what is doomed, as long as the mount lives."""
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            try:
                with self.turns.background():
                    while self.mount.doomed or self.mount.untold or self.mount.forged:
                        if self.mount.forged:
                            forged, self.mount.forged = self.mount.forged, []
                            await self.in_thread(forget_pages, self.kernel, forged)
                        known = self.reap_slice()
                        if known:
                            await self.in_thread(forget_names, self.kernel, known)
                        await trio.lowlevel.checkpoint()
            except Exception as error:
                self.failure = str(error) or repr(error)
                self.mount.gate.errno_of(error, "discard")

    def reap_slice(self) -> list[StaleName]:
        """Free for a slice; return the names that the kernel must forget.  => FsError EROFS once an invariant broke."""
        mount, turns = self.mount, self.turns
        mount.gate.demand_writable()
        turns.begin()
        while mount.doomed:
            names, some = reap.reap(mount)
            self.names += names
            mount.untold += some            # an error does not lose them
            if turns.over():
                break
        known, mount.untold = mount.untold, []
        if self.operations.check_each:
            mount.check()
        return known

    async def warmer(self) -> None:
        """Page in what the mount's image lists as used, in its order, before it is needed."""
        warm = Warm(self.mount)
        try:
            for batch in warm.batches():
                await trio.to_thread.run_sync(warm.bring, warm.slots(batch), abandon_on_cancel=True)
                async with contextlib.aclosing(self.paced(warm.read(batch))) as ticks:
                    async for _ in ticks:
                        pass
        except OSError as error:
            log.warning("what was used is not read ahead any more: %s", error.strerror or error)
        except Exception as error:
            self.mount.gate.errno_of(error, "reading what was used")

    # Looking at a tree

    async def du(self, request: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """Count what a tree takes."""
        path = path_of(request)
        with refusals(path):
            usage = walk.Usage(self.mount, walk.find(self.mount, path, request["peer"]).ino)
            async with contextlib.aclosing(self.paced(usage.count())) as ticks:
                async for _ in ticks:
                    yield {"progress": {"names": usage.names}}
            yield {"result": usage.totals()}

    async def prefetch(self, request: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """Page a tree in."""
        path = path_of(request)
        with refusals(path):
            top = walk.find(self.mount, path, request["peer"]).ino
            work = walk.Prefetch(self.mount, top, not request.get("metadata"))
            async with contextlib.aclosing(self.paced(work.run())) as ticks:
                async for _ in ticks:
                    yield {"progress": work.totals()}
            yield {"result": work.totals()}

    # Trace

    async def trace(self, _request: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """Report page-ins and page-outs until the client is gone.  Costs nothing while nobody asks."""
        ring, vm = Ring(), self.mount.vm
        self._rings.append(ring)
        vm.trace = self.note
        try:
            quiet = 0.0
            yield {"progress": ring.take()}             # so the client knows that tracing has begun
            while True:
                await trio.sleep(PAUSE)
                quiet += PAUSE
                if ring.events or quiet >= HEARTBEAT:
                    quiet = 0.0
                    yield {"progress": ring.take()}
        finally:
            self._rings.remove(ring)
            if not self._rings:
                vm.trace = None

    def note(self, what: str, vpn: int, npages: int) -> None:
        """Put what happened to some pages into every ring."""
        now, flags = time.time(), self.mount.vm.flags
        for page in range(vpn, vpn + npages):
            event = now, what, page, self._owners.get(flags[page] & OWNER_MASK, "?")
            for ring in self._rings:
                ring.events.append(event)
                ring.noted += 1


def forget_names(kernel: Any, names: list[StaleName]) -> None:
    """Have the kernel forget names, all that it caches below them, and attributes and listings on both sides.

    The kernel is told that a directory is deleted.  If nothing in it is in use, nobody can look anything up in it
    then, so the kernel caches nothing of it that would hold its node.  A file may have other names: it is not reported
    as deleted.
    """
    for dino, name, ino, is_dir in names:
        with contextlib.suppress(OSError):      # not known there, or in use below: it is invalid anyway
            kernel.invalidate_entry(dino, name, ino if is_dir else 0)
        for each, attr_only in ((dino, False), (ino, not is_dir)):
            with contextlib.suppress(OSError):
                kernel.invalidate_inode(each, attr_only=attr_only)


def forget_pages(kernel: Any, inos: list[int]) -> None:
    """Have the kernel forget the pages of files, with bytes that could not be written back (tmpfs/writeback.py)."""
    for ino in inos:
        with contextlib.suppress(OSError):      # it does not know the file any more
            kernel.invalidate_inode(ino, attr_only=False)


def path_of(request: Mapping[str, Any]) -> bytes:
    """The path of a request, below the root of the mount."""
    path = request.get("path")
    if not isinstance(path, str) or "\0" in path:
        raise ControlError('needs a "path"')
    try:
        return os.fsencode(path)
    except UnicodeEncodeError:
        raise ControlError('"path" is no path') from None


@contextlib.contextmanager
def refusals(path: bytes) -> Iterator[None]:
    """Say in one line why a path was refused."""
    shown = os.fsdecode(path) or "."
    try:
        yield
    except FsError as error:
        if error.errno == errno.ELOOP:
            raise ControlError(f"{shown}: a symbolic link on the way: give the path that it leads to") from None
        raise ControlError(f"{shown}: {os.strerror(error.errno)}") from None
    except Inconsistent:
        raise
    except VmError as error:
        raise ControlError(f"{shown}: {error}") from None
