"""commands.py: what a mount answers on its control socket."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import AsyncGenerator, Callable
from typing import Any

from tmpfsd.server import checker
from tmpfsd.server.control import Command
from tmpfsd.server.errors import ControlError
from tmpfsd.server.inforce import InForce
from tmpfsd.server.latency import Latency
from tmpfsd.server.nativeloop import Loop, NativeLoop
from tmpfsd.server.operations import Operations
from tmpfsd.server.remount import Remount
from tmpfsd.server.trees import Trees
from tmpfsd.server.tuning import Tuning
from tmpfsd.tmpfs.mount import Mount
from tmpfsd.uvm.errors import Inconsistent

log = logging.getLogger(__name__)


class Commands:
    """The commands of one mount."""

    def __init__(self, mount: Mount, operations: Operations, where: Callable[[], tuple[str, bool]],
                 dispatcher: Loop | None, trees: Trees, in_force: InForce | None = None) -> None:
        self.mount = mount
        self.tuning = Tuning(mount, dispatcher)
        self.in_force = in_force
        native = dispatcher if isinstance(dispatcher, NativeLoop) else None
        self.latency = Latency(operations, native.session if native else None)
        self.operations = operations
        self.where = where
        self.trees = trees
        self.checking = False
        self.edge = "native" if native else "pyfuse3"

    def table(self) -> dict[str, Command]:
        """Return what control.py serves, by name."""
        trees = self.trees
        return {"status": self.status, "check": self.check, "ping": lambda _request: "pong",
                "discard": trees.discard, "du": trees.du, "prefetch": trees.prefetch, "trace": trees.trace,
                "latency": self.latency.ask, **self.tuning.table(), **Remount(self.tuning).table(),
                **({"flags": self.in_force.ask} if self.in_force is not None else {})}

    def status(self, _request: Any) -> dict[str, Any]:
        """The keys of `tmpfsctl status --json`."""
        requests = {name: count for name, count in self.operations.requests.items() if count}
        mountpoint, detached = self.where()
        return {"mountpoint": mountpoint, "detached": detached, **self.mount.status(), "requests": requests,
                "refused": self.operations.refused, "broken": self.operations.broken, "pid": os.getpid(),
                "edge": self.edge}

    async def check(self, _request: Any) -> AsyncGenerator[dict[str, Any], None]:
        """Check the whole file system, as it is now, while requests are served."""
        if self.checking:
            raise ControlError("a check is under way on this mount")
        self.checking = True
        try:
            async with contextlib.aclosing(checker.check(self.mount)) as parts:
                async for part in parts:
                    yield part
        except Inconsistent as error:
            self.operations.broke(error, "check")
            raise ControlError(f"inconsistent: {error}") from None
        except ControlError as error:
            log.error("check: %s", error)
            raise
        finally:
            self.checking = False
