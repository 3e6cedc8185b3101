"""tests/mount/test_list_wait.py: tmpfsctl list and wait, and what the log says of a mount that fills up."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Callable

import pytest
from mountlib import Mounted, as_user, ctl, eventually, mount_tmpfsd, needs_root, touch

MB = 1 << 20


def listed() -> dict[str, dict]:
    """What list says, by mount point."""
    return {row["mountpoint"]: row for row in json.loads(ctl("list", "--json", check=False).stdout)}


def test_list_shows_every_mount(tmpfsd: Callable[..., Mounted]) -> None:
    one, two = tmpfsd("ram=1m,size=8m"), tmpfsd("ram=2m,size=9m,swap=none,backend=wired")
    found = listed()
    assert found[str(one.mnt)]["pid"] == one.pid and found[str(two.mnt)]["pid"] == two.pid
    assert found[str(two.mnt)]["backend"] == "wired" and found[str(two.mnt)]["ram_bytes"] == 2 * MB
    text = ctl("list").stdout
    assert str(one.mnt) in text and text.splitlines()[0].split() == [
        "PID", "BACKEND", "USED", "RAM", "SWAP", "MOUNTPOINT"]


def test_a_dead_mount_is_shown_as_such() -> None:
    mounted = mount_tmpfsd("ram=1m,size=8m")
    mounted.daemon.send_signal(signal.SIGKILL)
    mounted.daemon.wait(10)
    try:
        assert listed()[str(mounted.mnt)] == {"mountpoint": str(mounted.mnt), "owner": os.geteuid(), "state": "dead"}
    finally:
        with pytest.raises(AssertionError, match="daemon ended with -9"):
            mounted.close()


@needs_root
def test_a_foreign_mount_is_shown_as_such(tmpfsd: Callable[..., Mounted]) -> None:
    mounted = tmpfsd("ram=1m,size=8m")

    def of_nobody() -> list:
        from tmpfsd.cli.list import mounts
        return list(mounts())
    assert {row["mountpoint"]: row["state"] for row in as_user(of_nobody)}[str(mounted.mnt)] == "foreign"


def test_wait(tmpfsd: Callable[..., Mounted]) -> None:
    mounted = tmpfsd("ram=2m,size=8m")
    mnt = str(mounted.mnt)
    assert ctl("wait", mnt, "--used", "50%", "--timeout", "0.2", check=False).returncode == 2
    writer = threading.Timer(0.5, touch, (mounted.mnt / "f", bytes(5 * MB)))
    writer.start()
    result = ctl("wait", mnt, "--used", "50%", "--timeout", "30", "--interval", "0.05")
    assert result.returncode == 0 and "used" in result.stdout
    writer.join()
    assert ctl("wait", mnt, "--inodes", "1%", check=False).returncode == 1


def test_wait_for_a_mount_that_goes() -> None:
    mounted = mount_tmpfsd("ram=1m,size=8m")
    waiting = subprocess.Popen([sys.executable, "-m", "tmpfsd.cli.ctl", "wait", str(mounted.mnt), "--used", "99%"],
                               stderr=subprocess.PIPE, text=True)
    try:
        assert eventually(lambda: mounted.status()["pid"] == mounted.pid)
    finally:
        mounted.close()
    _, message = waiting.communicate(timeout=30)
    assert waiting.returncode == 1 and message.startswith("tmpfsctl: ") and "Traceback" not in message


def test_what_fills_up_is_said_once(tmpfsd: Callable[..., Mounted]) -> None:
    mounted = tmpfsd("ram=1m,size=8m,nr_inodes=10,swap_size=64m")
    touch(mounted.mnt / "f", bytes(7 * MB))
    assert eventually(lambda: "size is 8" in mounted.log_text())
    for number in range(8):
        touch(mounted.mnt / str(number), b"x")
    assert eventually(lambda: "inodes is 100% full: 10 of 10 inodes" in mounted.log_text())
    text = mounted.log_text()
    assert text.count("size is ") == 1 and text.count("inodes is ") in (1, 2) and "swap is " not in text


def test_a_server_that_does_not_answer_is_waited_for_no_longer_than_was_asked(tmpfsd: Callable[..., Mounted]) -> None:
    mounted = tmpfsd("ram=2m,size=8m")
    mounted.daemon.send_signal(signal.SIGSTOP)
    try:
        begun = time.monotonic()
        done = ctl("wait", str(mounted.mnt), "--used", "0%", "--timeout", "0.1", check=False)
        assert (done.returncode, time.monotonic() - begun < 20) == (1, True)
        assert done.stderr.startswith(f"tmpfsctl: {mounted.mnt}: no answer in 1 seconds: its server (process ")
    finally:
        mounted.daemon.send_signal(signal.SIGCONT)


@needs_root
def test_a_busy_mount_says_what_can_be_done(tmpfsd: Callable[..., Mounted]) -> None:
    mounted = tmpfsd("ram=2m,size=8m")
    with open(mounted.mnt / "open", "wb"):
        done = ctl("umount", str(mounted.mnt), check=False)
    assert done.returncode == 1 and "busy" in done.stderr and "--lazy" in done.stderr


@needs_root
def test_a_full_disk_under_the_swap_file_is_said_everywhere(tmpfsd: Callable[..., Mounted], tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "disk", tmp_path], check=True)
    try:
        mounted = tmpfsd(f"ram=1m,size=64m,swap={tmp_path}")
        mnt = str(mounted.mnt)
        with contextlib.suppress(OSError):
            touch(mounted.mnt / "f", bytes(8 * MB))
        text = "the disk under the swap file is full"
        time.sleep(0.7)                                     # longer than the daemon waits before it tries again
        assert text in ctl("status", mnt).stdout
        assert text in ctl("top", mnt, "--once", "--delay", "0.1").stdout
        assert text in ctl("wait", mnt, "--used", "99%", "--timeout", "0.5", check=False).stderr
        assert eventually(lambda: text in mounted.log_text())
        os.unlink(mounted.mnt / "f")

        def has_room() -> bool:
            with contextlib.suppress(OSError):              # what was removed is freed a moment later
                touch(mounted.mnt / "g", bytes(MB))
            return not mounted.status()["swap"]["disk_full"]
        assert eventually(has_room)
        ctl("swapon", mnt, "/var/tmp", "--size", "64m")     # the disk can be unmounted then
        ctl("swapoff", mnt, str(tmp_path))
    finally:
        subprocess.run(["umount", "-l", tmp_path], check=True)
