"""tests/mount/test_ticks.py: the timer of the request loop ends with the loop (tmpfsd only).

While trio takes itself down there is a moment when a signal would be written to a descriptor that is closed already:
Python says so with a traceback in the log.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from mountlib import LIVE, REPOSITORY, Mounted, eventually, is_mounted, new_mountpoint, touch, unmount

SCRIPT = """
import signal
import sys

import trio

from tmpfsd import options
from tmpfsd.server import daemon

run = trio.run


def told(*args):
    try:
        return run(*args)
    finally:
        print("timer", signal.getitimer(signal.ITIMER_REAL), flush=True)


trio.run = told
daemon.run(options.parse("ram=1m,size=64m"), sys.argv[1], lambda: None)
"""


@pytest.mark.parametrize("way", ["umount", "SIGTERM", "SIGTERM while busy"])
def test_no_tick_once_the_loop_has_ended(tmp_path: Path, way: str) -> None:
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("no /dev/fuse that can be opened")
    mnt, log = new_mountpoint(), tmp_path / "log"
    with open(log, "wb") as file:
        daemon = subprocess.Popen([sys.executable, "-c", SCRIPT, mnt], cwd=REPOSITORY, stdout=file, stderr=file)
    mounted = Mounted("tmpfsd", mnt, "", daemon, log)
    LIVE.add(mounted)
    try:
        assert eventually(lambda: is_mounted(mnt)), mounted.log_text()
        mounted.find_device()
        for number in range(100):
            touch(mnt / f"{number}", b"x")
        if way == "umount":
            unmount(mnt)
        else:
            with open(mnt / "1" if "busy" in way else log):
                daemon.send_signal(signal.SIGTERM)
                daemon.wait(20)
        daemon.wait(20)
        lines = mounted.log_text()
    finally:
        mounted.close()
    assert lines.count("timer (0.0, 0.0)") == lines.count("timer") >= 1 and "Traceback" not in lines, lines
