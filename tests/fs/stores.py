"""fs/stores.py: every kind of place for pages, for a Driver: make_fs(mode, **stores.options("device"))."""

import os
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.servers import Server, need_server

RING = 1 << 20              # of a compressed tier that writes on to a store: what it keeps back is more than half
RING_ALONE = 2 << 20
NSLOTS = 512                # of a device, or of a full store
NFILES = 4                  # of several, as many slots in all

# Which places there are, and whether a compressed tier stands before them.  All are encrypted unless it says "clear".
STORES: dict[str, tuple[str, bool]] = {
    "file": ("file", False), "file in clear": ("file", False), "files": ("files", False), "device": ("device", False),
    "server": ("server", False),
    "ring, file": ("file", True), "ring, file in clear": ("file", True), "ring, files": ("files", True),
    "ring, device": ("device", True), "ring, server": ("server", True), "ring": ("none", True),
}


class Stores:
    """Makes places, as many as are asked for, until `stack` is closed."""

    def __init__(self, top: Path, stack: ExitStack, server: Callable[[], Server]) -> None:
        self.top, self.stack, self.server = top, stack, server
        self.made = 0

    def options(self, name: str, small: bool = False) -> dict[str, Any]:
        """What make_fs() must be told; `small`: the stores have NSLOTS slots.  Skips where there is no such place."""
        kind, ring = STORES[name]
        found: dict[str, Any] = {"swap_crypt": "clear" not in name}
        if small or kind == "files":
            found["swap_size_bytes"] = NSLOTS // (NFILES if kind == "files" else 1) + 1 << 12
        if ring:
            found["ring"] = RING if kind != "none" else RING_ALONE
        if kind == "none":
            found["swap"] = None
        elif kind == "device":
            found["swap"] = self._device()
        elif kind == "server":
            found["swap"] = self.server().place
        else:
            found["swap"] = str(self.top)
            found["swap_more"] = (str(self.top),) * (NFILES - 1) if kind == "files" else ()
        return found

    def _device(self) -> str:
        """A loop device, whose file is sparse."""
        self.made += 1
        image = self.top / f"image{self.made}"
        image.touch()
        os.truncate(image, NSLOTS + 1 << 12)
        made = subprocess.run(["losetup", "--find", "--show", image], capture_output=True, text=True, timeout=20,
                              check=False) if os.geteuid() == 0 else None
        if made is None or made.returncode:
            pytest.skip(f"no loop devices here: {made.stderr.strip() if made is not None else 'only root can'}")
        device = made.stdout.strip()
        self.stack.callback(subprocess.run, ["losetup", "-d", device], check=True, timeout=20)
        return device


def server(stack: ExitStack, top: Path) -> Server:
    """A server that is killed when the stack is closed.  Skips where there is none."""
    need_server()
    made = Server(top)
    stack.callback(made.kill)
    return made
