"""ram=auto on a real mount: it grows while memory is idle, and stays within its bounds."""

import json
import os
import threading
from collections.abc import Callable

from mountlib import Mounted, ctl, eventually, touch

MB = 1 << 20


def test_it_stays_within_its_bounds(tmpfsd: Callable[..., Mounted]) -> None:
    fs = tmpfsd("ram=auto:2m-6m,size=64m")
    state = fs.status()
    assert state["ram_auto"]["min_bytes"] == 2 * MB and state["ram_auto"]["max_bytes"] == 6 * MB
    assert 2 * MB <= state["ram_bytes"] <= 6 * MB
    answer = json.loads(ctl("set", str(fs.mnt), "ram=3m", "--json").stdout)
    assert answer["ram"]["is"] == 3 * MB and fs.status()["ram_auto"] is None
    ctl("set", str(fs.mnt), "ram=auto:4m-8m")
    assert fs.status()["ram_bytes"] == 4 * MB
    stop = threading.Event()

    def page_in() -> None:
        while not stop.is_set():
            for number in range(60):
                with open(fs.mnt / str(number), "rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                    assert file.read() == b"%d" % number * 100_000
            stop.wait(0.2)

    for number in range(60):
        touch(fs.mnt / str(number), b"%d" % number * 100_000)
    reader = threading.Thread(target=page_in)
    reader.start()
    try:            # on a machine under pressure it does not grow, and is right not to
        eventually(lambda: fs.status()["ram_bytes"] > 4 * MB, 25)
    finally:
        stop.set()
        reader.join()
    assert 4 * MB <= fs.status()["ram_bytes"] <= 8 * MB
    done = ctl("set", str(fs.mnt), "ram=auto:9m-8m", check=False)
    assert done.returncode == 1 and "auto:MIN-MAX" in done.stderr
    assert "consistent" in ctl("check", str(fs.mnt)).stdout
