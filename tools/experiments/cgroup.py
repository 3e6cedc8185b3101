"""experiments/cgroup.py: a memory cgroup, of version 1 or 2, whichever is mounted.

Limits      The group is made at the top of the mounted hierarchy.  It does not count swap: a machine that has some
            may put pages there, which the report says.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from tmpfsd.mounts.mountinfo import parse_all

MOUNTINFO = "/proc/self/mountinfo"


class Unavailable(Exception):
    """No memory cgroup can be made; the text says why."""


def find() -> tuple[int, Path]:
    """The version and the mount point of the memory controller.  => Unavailable."""
    mounts = parse_all(Path(MOUNTINFO).read_bytes())
    for mount in mounts:
        if mount.fstype == "cgroup" and "memory" in mount.super_options.split(","):
            return 1, Path(mount.path)
    for mount in mounts:
        if mount.fstype == "cgroup2":
            controllers = Path(mount.path) / "cgroup.controllers"
            if controllers.exists() and "memory" in controllers.read_text(encoding="ascii").split():
                return 2, Path(mount.path)
    raise Unavailable("no memory cgroup is mounted")


class Group:
    """A memory cgroup with a limit, while it is entered."""

    def __init__(self, limit_bytes: int) -> None:
        if os.geteuid() != 0:
            raise Unavailable("only root can make a cgroup")
        self.version, top = find()
        self.path = top / f"tmpfsd-experiment-{os.getpid()}"
        self.limit_bytes = limit_bytes

    def __enter__(self) -> Group:
        limit = "memory.limit_in_bytes" if self.version == 1 else "memory.max"
        try:
            if self.version == 2:
                (self.path.parent / "cgroup.subtree_control").write_text("+memory", encoding="ascii")
            self.path.mkdir()
            (self.path / limit).write_text(str(self.limit_bytes), encoding="ascii")
        except OSError as error:
            self._remove()
            raise Unavailable(f"no memory cgroup can be made: {error.strerror}") from None
        return self

    def __exit__(self, *_why: object) -> None:
        self._remove()

    def _remove(self) -> None:
        """A group that still has a dying process or charged pages says EBUSY for a moment."""
        for _ in range(50):
            try:
                self.path.rmdir()
            except FileNotFoundError:
                return
            except OSError:
                time.sleep(0.1)
            else:
                return

    @property
    def procs(self) -> str:
        """The file into which a process writes its id to join the group."""
        return str(self.path / "cgroup.procs")

    def inside(self, command: list[str]) -> list[str]:
        """The command, run so that it is in the group from its first instruction on."""
        return ["/bin/sh", "-c", 'echo $$ > "$0" && exec "$@"', self.procs, *command]

    def peak_bytes(self) -> int:
        """The most that was charged to the group; 0 if the kernel does not tell."""
        path = self.path / ("memory.max_usage_in_bytes" if self.version == 1 else "memory.peak")
        return int(path.read_text(encoding="ascii")) if path.exists() else 0

    def kills(self) -> int:
        """Processes of the group that the OOM killer has ended."""
        path = self.path / ("memory.oom_control" if self.version == 1 else "memory.events")
        counts = dict(line.split() for line in path.read_text(encoding="ascii").splitlines())
        return int(counts.get("oom_kill", 0))
