"""tests/mount/test_every_backend.py: the backends on real mounts (tmpfsd only).

How far each gets with the same ram, and what the status shows when one stops.
"""

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Callable

import pytest
from mountlib import Mounted, ctl, eventually, fails_with, touch

pytestmark = pytest.mark.timeout(120)

FAR = 8000                      # files: about 1.6 MiB of metadata, where ram=1m
PAGEABLE = ("backend=aobj", "backend=aobj,windows=300", "backend=pageable-object", "backend=pageable-submap",
            "submap_sharing=per-pool", "submap=4m")


@pytest.mark.parametrize("options", PAGEABLE)
def test_pages_out_and_comes_back(tmpfsd: Callable[..., Mounted], options: str) -> None:
    mounted = tmpfsd(f"{options},ram=1m,size=64m")
    names = [f"file-{number:08}" for number in range(FAR)]
    for name in names:
        touch(mounted.mnt / name)
    status = mounted.status()
    assert status["paging"]["pageouts"] > 0 and status["wired_bytes"] == 0 == status["unowned_bytes"]
    assert status["resident_bytes"] <= status["ram_bytes"]
    assert sorted(os.listdir(mounted.mnt)) == names
    assert all(entry.stat().st_size == 0 for entry in os.scandir(mounted.mnt))
    if "aobj" in options:
        assert status["submap"]["windows"] in (64, 300) and status["submap"]["maps"] > 0


def test_pageable_flag_stops_at_ram_with_swap_empty(tmpfsd: Callable[..., Mounted]) -> None:
    mounted = tmpfsd("backend=pageable-flag,ram=1m,size=64m")
    made = 0
    with fails_with(errno.ENOSPC):
        while made < FAR:
            touch(mounted.mnt / f"file-{made:08}")
            made += 1
    status = mounted.status()
    assert status["paging"]["pageouts"] == 0 == status["swap"]["used_bytes"] and status["paging"]["scans"] > 0
    assert "scans found none of them on a queue" in ctl("status", str(mounted.mnt)).stdout
    for number in range(100):
        os.unlink(mounted.mnt / f"file-{number:08}")
    assert eventually(lambda: mounted.status()["inodes"] <= made - 90)      # the kernel forgets a moment later
    touch(mounted.mnt / "room again")


@pytest.mark.parametrize("sharing, what", [("shared", "submap of all pools is full"),
                                           ("per-pool", "submap of pool node is full")])
def test_a_full_submap_says_which(tmpfsd: Callable[..., Mounted], sharing: str, what: str) -> None:
    mounted = tmpfsd(f"submap=256k,submap_sharing={sharing},ram=1m,size=64m")
    with fails_with(errno.ENOSPC):
        for number in range(FAR):
            touch(mounted.mnt / f"file-{number:08}")
    assert what in ctl("status", str(mounted.mnt)).stdout
    assert mounted.status()["submap"]["high_water_bytes"] >= 224 << 10          # an eighth is kept for renames


def test_one_window_is_refused_with_the_reason(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tmpfsd.cli.mount", str(tmp_path), "-o", "backend=aobj,windows=1"]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert refused.returncode == 1 and "two records at once" in refused.stderr
