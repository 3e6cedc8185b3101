"""stresskit/probe.py: what is mounted at the target, and the status of a tmpfsd mount.

The status comes from tmpfsd's own client if that can be imported, else from the command `tmpfsctl`.

Limits      A failing status never ends a run: that sample lacks it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from typing import Any, Callable, NamedTuple

MOUNTINFO = "/proc/self/mountinfo"
TMPFSD = "fuse.tmpfsd"
TIMEOUT = 5.0

StatusOf = Callable[[str], dict[str, Any]]


class Memory(NamedTuple):
    """The part of a tmpfsd status that is shown during the run."""

    resident_bytes: int
    swapped_bytes: int
    faults: int
    pageins: int
    pageouts: int

    @classmethod
    def of(cls, status: dict[str, Any]) -> Memory:
        """From the keys of `tmpfsctl status --json`."""
        paging = status["paging"]
        return cls(status["resident_bytes"], status["swap"]["used_bytes"],
                   paging["faults"], paging["pageins"], paging["pageouts"])


@dataclass(frozen=True)
class Mounted:
    """A line of mountinfo."""

    mountpoint: str
    fstype: str
    source: str


def unescape(field: bytes) -> str:
    r"""A field of mountinfo, where a blank is written \040."""
    return os.fsdecode(re.sub(rb"\\([0-3][0-7]{2})", lambda match: bytes([int(match[1], 8)]), field))


def mounted_at(path: str, mountinfo: str = MOUNTINFO) -> Mounted:
    """The mount that a path is on: the last of the longest mountpoints above it."""
    path = os.path.realpath(path)
    best = Mounted("", "unknown", "unknown")
    with open(mountinfo, "rb") as lines:
        for line in lines:
            before, _, after = line.rstrip(b"\n").partition(b" - ")
            fields, kind = before.split(b" "), after.split(b" ")       # never str.split(): users choose the paths
            if len(fields) < 5 or len(kind) < 2:
                continue
            mountpoint = unescape(fields[4])
            above = mountpoint == "/" or path == mountpoint or path.startswith(mountpoint + "/")
            if above and len(mountpoint) >= len(best.mountpoint):
                best = Mounted(mountpoint, os.fsdecode(kind[0]), unescape(kind[1]))
    return best


def status_by_command(mountpoint: str) -> dict[str, Any]:
    """The status from `tmpfsctl`, beside this Python or in PATH."""
    beside = os.path.join(os.path.dirname(sys.executable), "tmpfsctl")
    command = beside if os.access(beside, os.X_OK) else shutil.which("tmpfsctl") or "tmpfsctl"
    done = subprocess.run([command, "status", mountpoint, "--json"],
                          capture_output=True, check=True, timeout=TIMEOUT)
    return dict(json.loads(done.stdout))


def best_client() -> StatusOf:
    """tmpfsd's own client if there is one: it costs a message and not a process."""
    try:
        from tmpfsd.cli import client
    except ImportError:
        return status_by_command
    return lambda mountpoint: client.ask(mountpoint, "status")


class Probe:
    """Asks a mount for its memory; on other file systems the answer is always None."""

    __slots__ = ("mounted", "status_of")

    def __init__(self, mounted: Mounted, status_of: StatusOf | None = None) -> None:
        self.mounted = mounted
        self.status_of = status_of
        if status_of is None and mounted.fstype == TMPFSD:
            self.status_of = best_client()

    def read(self) -> Memory | None:
        """The memory now, or None if it is not known."""
        if self.status_of is None:
            return None
        try:
            return Memory.of(self.status_of(self.mounted.mountpoint))
        except Exception:   # the client may be of another version: no exception of it may end a run
            return None
