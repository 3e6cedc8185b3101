"""experiments/fuse.py: real mounts for E1: tmpfsd's and the kernel's, with a creator in a memory cgroup."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tmpfsd.cli import client
from tools.experiments.cgroup import Group, Unavailable
from tools.experiments.drive import PER_DIR, Tick
from tools.mounts import NotMounted, end, unmount, wait_for_mount

CREATOR = Path(__file__).with_name("creator.py")


def demand_fuse() -> None:
    """=> Unavailable if nothing can be mounted."""
    if os.geteuid() != 0:
        raise Unavailable("only root can mount into a cgroup")
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        raise Unavailable("/dev/fuse is missing")


@contextmanager
def kernel_tmpfs() -> Iterator[str]:
    """A tmpfs of the kernel, whose own limits cannot be reached."""
    with tempfile.TemporaryDirectory(prefix="tmpfsd-experiment-") as mnt:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=90%,nr_inodes=0", "tmpfs", mnt],
                              capture_output=True, text=True, check=False)
        if done.returncode:
            raise Unavailable(f"the kernel's tmpfs cannot be mounted: {done.stderr.strip()}")
        try:
            yield mnt
        finally:
            unmount(mnt)


@contextmanager
def tmpfsd(options: str, group: Group) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A tmpfsd mount whose daemon is in the group."""
    with tempfile.TemporaryDirectory(prefix="tmpfsd-experiment-") as mnt:
        command = [sys.executable, "-m", "tmpfsd.cli.mount", "tmpfsd", mnt, "-f", "-o", options]
        daemon = subprocess.Popen(group.inside(command), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                  stderr=subprocess.DEVNULL)
        try:
            wait_for_mount(mnt, daemon)
            yield mnt, daemon
        finally:
            unmount(mnt)
            end(daemon)


def create_in(group: Group, mnt: str, files: int, tick: Tick, late: bool) -> dict[str, Any]:
    """Run the creator; late: it joins the group when Python is up, so that its own memory is not counted."""
    command = [sys.executable, "-S", str(CREATOR), mnt, str(files), str(PER_DIR)]
    told: dict[str, int] = {"created": 0, "listed": 0, "errno": 0}
    start = time.monotonic()
    seconds = 0.0
    with subprocess.Popen([*command, group.procs] if late else group.inside(command), stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            word, number = line.split()
            told[word] = int(number)
            if word == "created":
                seconds = time.monotonic() - start
                tick(told["created"] / files)
    status = process.returncode
    ended = "all created" if not status else "killed" if status < 0 else errno.errorcode.get(told["errno"], "failed")
    return {**told, "seconds": seconds, "ended": ended, "kills": group.kills(), "peak": group.peak_bytes(),
            "limit": group.limit_bytes, "wanted": files}


def kernel_in_cgroup(tick: Tick, limit: int, files: int, late: bool) -> dict[str, Any]:
    """The kernel's tmpfs with the creator in the group."""
    try:
        with kernel_tmpfs() as mnt, Group(limit) as group:
            result = create_in(group, mnt, files, tick, late)
            result["found"] = sum(len(os.listdir(os.path.join(mnt, name))) for name in os.listdir(mnt))
            # The charge for the files goes away with them; only then can the group be removed.
            unmount(mnt)
            return result
    except Unavailable as why:
        return {"skipped": str(why)}


def tmpfsd_in_cgroup(tick: Tick, limit: int, files: int, options: str) -> dict[str, Any]:
    """tmpfsd with its daemon and the creator in the group."""
    try:
        demand_fuse()
        with Group(limit) as group, tmpfsd(options, group) as (mnt, daemon):
            result = create_in(group, mnt, files, tick, late=False)
            result["daemon"] = "runs" if daemon.poll() is None else f"ended with status {daemon.poll()}"
            if daemon.poll() is None:
                state = client.status(mnt)
                result["state"] = {key: state[key] for key in ("resident_bytes", "used_bytes", "inodes", "ram_bytes")}
                result["swapped"] = state["swap"]["used_bytes"]
            return result
    except (NotMounted, Unavailable) as why:
        return {"skipped": str(why)}
