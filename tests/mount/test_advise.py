"""tmpfsctl advise on a real mount: more page-ins with less memory, and none where all fits."""

import json
import os
import threading
from collections.abc import Callable

from mountlib import Mounted, ctl, eventually, touch


def read_all(fs: Mounted, count: int, stop: threading.Event) -> None:
    while not stop.is_set():
        for number in range(count):
            with open(fs.mnt / str(number), "rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                file.read()
            if stop.is_set():
                return


def test_a_curve_and_what_is_enough(tmpfsd: Callable[..., Mounted]) -> None:
    fs = tmpfsd("ram=4m,size=64m")
    for number in range(400):
        touch(fs.mnt / str(number), b"%d" % number * 9000)
    stop = threading.Event()
    reader = threading.Thread(target=read_all, args=(fs, 400, stop))
    reader.start()
    try:
        found = json.loads(ctl("advise", str(fs.mnt), "--seconds", "2", "--json").stdout)
        text = ctl("advise", str(fs.mnt), "--seconds", "0.5").stdout
        top = json.loads(ctl("top", str(fs.mnt), "--once", "--delay", "0.3", "--json").stdout)
    finally:
        stop.set()
        reader.join()
    rates = [each["pageins_per_second"] for each in found["curve"]]
    assert rates == sorted(rates, reverse=True) and found["sampled_accesses"] > 50
    assert found["curve"][4]["ram_bytes"] == found["ram_bytes"] == 4 << 20
    assert " now" in text and ("is enough" in text or "is needed" in text)
    assert top["advice"]["curve"]
    assert ctl("check", str(fs.mnt)).returncode == 0
    for number in range(400):
        assert (fs.mnt / str(number)).read_bytes() == b"%d" % number * 9000


def test_a_mount_that_cannot_tell(tmpfsd: Callable[..., Mounted]) -> None:
    fs = tmpfsd("ram=4m,size=64m,backend=aobj")
    done = ctl("advise", str(fs.mnt), check=False)
    assert done.returncode == 1 and "backend=aobj" in done.stderr and done.stderr.count("\n") == 1
    assert ctl("top", str(fs.mnt), "--once", "--delay", "0.3").returncode == 0
    assert eventually(fs.alive)
