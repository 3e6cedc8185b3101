"""mounts.py: starts and ends a server's mount, in a process of its own, for experiments and benchmark.

Limits      It reads the mount table and never asks the mount: a hung server would hang its caller.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time

from tmpfsd.mounts import mountinfo

START_SECONDS, END_SECONDS = 20.0, 20.0


class NotMounted(Exception):
    """A server did not mount; the text says why."""


def is_mounted(mnt: str) -> bool:
    """Whether the mount table has it."""
    return any(mount.path == mnt for mount in mountinfo.table())


def wait_for_mount(mnt: str, server: subprocess.Popen[bytes]) -> None:
    """Return once it is mounted.  => NotMounted."""
    deadline = time.monotonic() + START_SECONDS
    while not is_mounted(mnt):
        if server.poll() is not None:
            raise NotMounted(f"did not mount: exit status {server.returncode}")
        if time.monotonic() > deadline:
            raise NotMounted(f"did not mount in {START_SECONDS:g} s")
        time.sleep(0.05)


def unmount(mnt: str) -> None:
    """Unmount, as gently as possible."""
    gently, firmly = (["umount"], ["umount", "-l"]) if os.geteuid() == 0 else (
        ["fusermount3", "-u"], ["fusermount3", "-uz"])
    if not _done([*gently, mnt]):
        _done([*firmly, mnt])


def _done(command: list[str]) -> bool:
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        return process.wait(END_SECONDS) == 0
    except subprocess.TimeoutExpired:
        process.kill()      # and not waited for: a process that waits for a FUSE server ends when that does
        return False


def end(server: subprocess.Popen[bytes], seconds: float = END_SECONDS) -> None:
    """Wait for a server whose mount is gone; if it does not end, ask it to, then kill it."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            server.wait(seconds)
            return
        except subprocess.TimeoutExpired:
            server.send_signal(number)
    server.wait(seconds)
