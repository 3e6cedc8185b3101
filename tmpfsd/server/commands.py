"""commands.py: what a mount answers on its control socket.

Each command goes through the gate of the mount (tmpfs/gate.py).  Once an invariant broke, those that CHANGE something
are refused, between their steps too.  Any command that finds one broken closes the gate.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import AsyncGenerator, Callable, Generator
from typing import Any

from tmpfsd import compiled
from tmpfsd.machine import resident_memory
from tmpfsd.server import checker, health, saving
from tmpfsd.server.advice import Advice
from tmpfsd.server.control import Command, Gone, Progress
from tmpfsd.server.inforce import InForce
from tmpfsd.server.journal import Journal
from tmpfsd.server.latency import Latency
from tmpfsd.server.loop import Loop
from tmpfsd.server.nativeloop import NativeLoop
from tmpfsd.server.operations import Operations
from tmpfsd.server.quotas import Quotas
from tmpfsd.server.refused import ControlError
from tmpfsd.server.remounting import Remount
from tmpfsd.server.trees import Trees
from tmpfsd.server.tuning import Tuning
from tmpfsd.tmpfs.filesystem import Mount
from tmpfsd.tmpfs.gate import Gate
from tmpfsd.uvm.errors import Inconsistent
from tmpfsd.uvm.used import Used

log = logging.getLogger(__name__)

CHANGES = frozenset(("discard", "flush", "prefetch", "remount", "set", "swapoff", "swapon"))


class Watched:
    """A piece of a command's work: it is refused when the gate is closed; a broken invariant closes the gate."""

    __slots__ = ("gate", "name")

    def __init__(self, gate: Gate, name: str) -> None:
        self.gate = gate
        self.name = name

    def __enter__(self) -> None:
        """=> ControlError."""
        if self.gate.broken and self.name in CHANGES:
            raise ControlError(f"{self.name}: changes are refused: an invariant does not hold (the log has it)")

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """=> ControlError."""
        if isinstance(error, (AssertionError, Inconsistent)):
            self.gate.errno_of(error, self.name)
            raise ControlError(f"inconsistent: {error}") from None


def gated(gate: Gate, name: str, command: Command) -> Command:
    """Put a command behind the gate, whichever kind it is (control.py)."""
    watched = Watched(gate, name)

    def steps(inner: Generator[Progress, None, Any]) -> Generator[Progress, None, Any]:
        gone: Gone | None = None
        try:
            while True:
                with watched:
                    try:
                        word = next(inner) if gone is None else inner.throw(gone)
                    except StopIteration as end:
                        return end.value
                gone = None
                try:
                    yield word
                except Gone as error:           # it undoes what it has done, in steps
                    gone = error
        finally:
            inner.close()

    async def parts(inner: AsyncGenerator[dict[str, Any], None]) -> AsyncGenerator[dict[str, Any], None]:
        async with contextlib.aclosing(inner):
            while True:
                with watched:
                    try:
                        part = await anext(inner)
                    except StopAsyncIteration:
                        return
                yield part

    def ask(request: Any) -> Any:
        with watched:
            result = command(request)
        if isinstance(result, Generator):
            return steps(result)
        return parts(result) if isinstance(result, AsyncGenerator) else result

    return ask


class Commands:
    """The commands of one mount."""

    def __init__(self, mount: Mount, operations: Operations, where: Callable[[], tuple[str, bool]],
                 dispatcher: Loop | None, trees: Trees, in_force: InForce | None = None) -> None:
        self.mount = mount
        self.tuning = Tuning(mount, dispatcher)
        self.in_force = in_force
        native = dispatcher if isinstance(dispatcher, NativeLoop) else None
        self.advice = Advice(mount)
        self.latency = Latency(operations, native.session if native else None)
        self.operations = operations
        self.where = where
        self.trees = trees
        self.journal = Journal(self.figures)
        self.copied = ""                # the command that has a copy of the mount
        self.edge = "native" if native else "pyfuse3"

    def table(self) -> dict[str, Command]:
        """Return what control.py serves, by name."""
        trees = self.trees
        commands = {"status": self.status, "check": self.check,
                    "snapshot": self.snapshot, "ping": lambda _request: "pong",
                    "discard": trees.discard, "du": trees.du, "prefetch": trees.prefetch, "trace": trees.trace,
                    "record": self.record, "latency": self.latency.ask, "advise": self.advice.ask,
                    "events": self.journal.ask,
                    **self.tuning.table(), **Remount(self.tuning).table(), **Quotas(self.mount).table(),
                    **({"flags": self.in_force.ask} if self.in_force is not None else {})}
        return {name: gated(self.mount.gate, name, command) for name, command in commands.items()}

    def status(self, _request: Any) -> dict[str, Any]:
        """The keys of `tmpfsctl status --json`."""
        requests = {name: count for name, count in self.operations.requests.items() if count}
        mountpoint, detached = self.where()
        found = {"mountpoint": mountpoint, "detached": detached, **self.figures(), "requests": requests,
                 "ram_auto": self.ram_auto(), "pid": os.getpid(), "edge": self.edge, "compiled": compiled.active(),
                 "daemon": {"cpu_seconds": time.process_time(), "rss_bytes": resident_memory()}}
        return {"health": health.summary(found), **found}

    def figures(self) -> dict[str, Any]:
        """The part of it about the file system, wherever that is mounted."""
        gate = self.mount.gate
        return {**self.mount.status(), "refused": gate.refused, "lost_writes": gate.lost_writes, "broken": gate.broken}

    def record(self, _request: Any) -> dict[str, int]:
        """Start to note which pages are used; forget earlier notes."""
        vm = self.mount.vm
        vm.used = Used(vm)
        return {"pages": vm.npages}

    def ram_auto(self) -> dict[str, float] | None:
        """Return the bounds of ram=auto and the pressure now; None without ram=auto."""
        governor = self.tuning.governor
        if governor is None:
            return None
        return {"min_bytes": governor.bounds.low, "max_bytes": governor.bounds.high,
                "pressure": round(governor.pressure, 4)}

    async def check(self, _request: Any) -> AsyncGenerator[dict[str, Any], None]:
        """Check the whole file system, as it is now, while requests are served."""
        async with contextlib.aclosing(self._alone("check", checker.check(self.mount))) as parts:
            async for part in parts:
                yield part

    async def snapshot(self, request: Any) -> AsyncGenerator[dict[str, Any], None]:
        """Save the whole file system, as it is now, in the file that was passed, while requests are served."""
        if self.mount.gate.broken:
            raise ControlError("snapshot: an invariant does not hold (the log has it)")
        written = saving.snapshot(self.mount, request.get("descriptors") or [], request.get("hot") is True)
        async with contextlib.aclosing(self._alone("snapshot", written)) as parts:
            async for part in parts:
                yield part

    async def _alone(self, name: str, inner: AsyncGenerator[dict[str, Any], None]
                     ) -> AsyncGenerator[dict[str, Any], None]:
        """Do what needs a copy of the mount; there is only one copy at a time."""
        async with contextlib.aclosing(inner):
            if self.copied:
                raise ControlError(f"a {self.copied} is under way on this mount")
            self.copied = name
            try:
                async for part in inner:
                    yield part
            except ControlError as error:
                log.error("%s: %s", name, error)
                raise
            finally:
                self.copied = ""
