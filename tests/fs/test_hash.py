"""The hash of names has a key of its own in each mount."""

import os
import subprocess
import sys
from typing import Callable

from tests.fs.fslib import ROOT, Driver

NAMES = [b"%d" % i for i in range(200)]


def test_two_mounts_differ(make_fs: Callable[..., Driver]) -> None:
    """So names that collide, or the order of a listing, cannot be worked out beforehand."""
    one, two = make_fs(), make_fs()
    same = [name for name in NAMES if one.mp.dirs.hash(name) == two.mp.dirs.hash(name)]
    assert not same
    for fs in (one, two):
        for name in NAMES:
            fs.create(ROOT, name)
    assert list(one.entries(ROOT)) != list(two.entries(ROOT))
    assert sorted(one.entries(ROOT)) == sorted(two.entries(ROOT)) == sorted(NAMES)


def test_with_the_interpreters_key_known() -> None:
    """PYTHONHASHSEED=0 is no way in."""
    script = ("from tmpfsd.options import Config; from tmpfsd.tmpfs.mount import Mount; "
              "print(Mount(Config(ram_bytes=1 << 20, swap=None)).dirs.hash(b'name'))")
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    seen = {subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, check=True,
                           timeout=60).stdout for _ in range(3)}
    assert len(seen) == 3
