"""tests/mount/clilib.py: the commands tmpfsd and tmpfsctl, run as a user runs them."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tmpfsd.mounts import mountinfo

FUSE = os.access("/dev/fuse", os.R_OK | os.W_OK)
ROOT = os.geteuid() == 0
NOBODY = 65534
SECONDS = 30

needs_fuse = pytest.mark.skipif(not FUSE, reason="no /dev/fuse that this user may use")
needs_root = pytest.mark.skipif(not ROOT, reason="needs root")


def run(*command: str, **keywords: Any) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end, with a bound on its time."""
    return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False,
                          stdin=subprocess.DEVNULL, **keywords)


def tmpfsd(*args: str, **keywords: object) -> "subprocess.CompletedProcess[str]":
    """Run the command tmpfsd."""
    return run(sys.executable, "-m", "tmpfsd", *args, **keywords)


def tmpfsctl(*args: str, **keywords: object) -> "subprocess.CompletedProcess[str]":
    """Run the command tmpfsctl."""
    return run(sys.executable, "-m", "tmpfsd.cli.ctl", *args, **keywords)


def unmount(path: Path) -> "subprocess.CompletedProcess[str]":
    """Unmount as the user would."""
    return run("umount", str(path)) if ROOT else run("fusermount3", "-u", str(path))


def servers(mountpoint: Path) -> set[int]:
    """Return the processes that were started for this mount point."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if os.fsencode(str(mountpoint)) in words and b"tmpfsd" in words:
                found.add(int(entry.name))
    return found


def gone(mountpoint: Path, seconds: float = 10) -> bool:
    """Wait until nothing is mounted and no process is left."""
    deadline = time.monotonic() + seconds
    while servers(mountpoint) or mountinfo.find(str(mountpoint)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def assert_refused(done: "subprocess.CompletedProcess[str]", *names: str) -> None:
    """Require status 1, one line on stderr that has these names, and nothing on stdout."""
    assert done.returncode == 1, done
    assert done.stdout == "" and len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("tmpfsd: ") or done.stderr.startswith("tmpfsctl"), done.stderr
    for name in names:
        assert name in done.stderr
