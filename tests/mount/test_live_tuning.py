"""tests/mount/test_live_tuning.py: limits, memory and swap files that change under load (tmpfsd only).

After any change, however it ends, every file must have the bytes that were written to it.
"""

import os
import random
import signal
import subprocess
import sys
import threading
import time
import zlib
from contextlib import contextmanager
from pathlib import Path
from typing import Callable, Iterator

import pytest
from mountlib import Mounted, ctl, fails_with, touch

from tmpfsd.cli import client

MB = 1 << 20
pytestmark = pytest.mark.timeout(120)


def rss(mounted: Mounted) -> int:
    """Resident bytes of the daemon, all of it."""
    with open(f"/proc/{mounted.pid}/status", encoding="ascii") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("VmRSS"))


def read_file(path: Path) -> bytes:
    """The content as the daemon has it, not the kernel's copy."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        parts = []
        while part := os.read(fd, MB):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(fd)


def fill(mnt: Path, megabytes: int) -> dict[Path, int]:
    """Files of 1 MiB in a directory of their own, with the checksum of each."""
    sums = {}
    place = mnt / "filled"
    place.mkdir()
    for number in range(megabytes):
        content = random.Random(number).randbytes(MB)
        touch(place / str(number), content)
        sums[place / str(number)] = zlib.crc32(content)
    return sums


def demand_content(sums: dict[Path, int]) -> None:
    """Every file has what was written to it."""
    for path, expected in sums.items():
        assert zlib.crc32(read_file(path)) == expected, path


class Load(threading.Thread):
    """Creates, reads and removes files in a directory of its own until it is told to stop; notes what is wrong."""

    def __init__(self, mnt: Path) -> None:
        super().__init__(daemon=True)
        self.place = mnt / "load"
        self.place.mkdir()
        self.rounds, self.wrong = 0, ""
        self.ended = threading.Event()

    def run(self) -> None:
        rng, files = random.Random(9), {}
        while not self.ended.is_set() and not self.wrong:
            try:
                self.one(rng, files)
            except OSError as error:
                self.wrong = str(error)
            self.rounds += 1

    def one(self, rng: random.Random, files: dict[Path, bytes]) -> None:
        path = self.place / str(rng.randrange(300))
        if path in files and rng.random() < 0.5:
            if read_file(path) != files[path]:
                self.wrong = f"{path} has other bytes"
        elif path in files and rng.random() < 0.3:
            path.unlink()
            del files[path]
        else:
            files[path] = rng.randbytes(rng.randrange(30_000))
            touch(path, files[path])


@contextmanager
def load(mounted: Mounted) -> Iterator[Load]:
    """The block runs while files come and go."""
    thread = Load(mounted.mnt)
    thread.start()
    try:
        yield thread
    finally:
        thread.ended.set()
        thread.join(30)
    assert not thread.wrong and thread.rounds > 0, thread.wrong


def test_ram_smaller_gives_memory_back_at_once(tmpfsd: Callable[..., Mounted]) -> None:
    mounted = tmpfsd("ram=256m,size=1g")
    sums = fill(mounted.mnt, 260)
    before = rss(mounted)
    assert before > 250 * MB
    ctl("set", str(mounted.mnt), "ram=16m")
    after = rss(mounted)
    assert before - after > 235 * MB, f"RSS {before >> 20} MiB, then {after >> 20}"
    assert mounted.status()["resident_bytes"] <= 16 * MB
    demand_content(sums)
    assert rss(mounted) - after < 20 * MB
    ctl("set", str(mounted.mnt), "ram=64m")
    demand_content(sums)
    assert mounted.status()["resident_bytes"] > 50 * MB


def test_ram_up_and_down_under_load(tmpfsd: Callable[..., Mounted]) -> None:
    mounted = tmpfsd("ram=32m,size=1g", TMPFSD_CHECK="1")
    sums = fill(mounted.mnt, 40)
    with load(mounted):
        for ram in ("2m", "48m", "1m", "16m", "2m"):
            ctl("set", str(mounted.mnt), f"ram={ram}")
            mounted.check()
    demand_content(sums)


@pytest.mark.parametrize("backend", ("wired", "pageable-flag", "aobj", "pageable-object"))
def test_ram_under_load_on_other_backends(tmpfsd: Callable[..., Mounted], backend: str) -> None:
    mounted = tmpfsd(f"ram=32m,size=256m,backend={backend}", TMPFSD_CHECK="1")
    sums = fill(mounted.mnt, 20)
    with load(mounted):
        for ram in ("2m", "24m", "3m"):
            ctl("set", str(mounted.mnt), f"ram={ram}")
    mounted.check()
    demand_content(sums)


def test_requests_are_served_while_ram_shrinks(tmpfsd: Callable[..., Mounted]) -> None:
    """Counted in requests, not in seconds: with steps of a MiB there are many chances."""
    mounted = tmpfsd("ram=128m,size=1g")
    fill(mounted.mnt, 130)
    seen = []
    with load(mounted) as thread:
        while thread.rounds < 10:
            time.sleep(0.01)
        process = subprocess.Popen([sys.executable, "-m", "tmpfsd.cli.ctl", "set", str(mounted.mnt), "ram=2m"],
                                   stdout=subprocess.DEVNULL)
        while process.poll() is None:
            status = client.status(str(mounted.mnt))
            seen.append((status["ram_bytes"], status["requests"]["lookup"]))
        assert process.returncode == 0
    served = {requests for ram, requests in seen if 2 * MB < ram < 128 * MB}
    assert len(served) > 2, seen[-20:]


def test_size_below_what_is_used_means_full(tmpfsd: Callable[..., Mounted]) -> None:
    mounted = tmpfsd("ram=4m,size=64m")
    sums = fill(mounted.mnt, 8)
    ctl("set", str(mounted.mnt), "size=1m", "nr_inodes=3")
    disk = os.statvfs(mounted.mnt)
    assert (disk.f_blocks * disk.f_bsize, disk.f_bfree, disk.f_files, disk.f_ffree) == (MB, 0, 3, 0)
    with fails_with(28):
        touch(mounted.mnt / "new", b"x")
    demand_content(sums)
    ctl("set", str(mounted.mnt), "size=64m", "nr_inodes=0")
    touch(mounted.mnt / "new", b"x")


def test_what_is_refused_changes_nothing(tmpfsd: Callable[..., Mounted]) -> None:
    mounted = tmpfsd("ram=4m,size=64m,swap=none")
    sums = fill(mounted.mnt, 3)
    for words, why in ((["ram=1m", "size=9m"], "cannot leave ram"), (["size=9m", "ram=1k"], "ram=1k: too small"),
                       (["windows=99"], "cannot be changed while it is mounted")):
        result = ctl("set", str(mounted.mnt), *words, check=False)
        assert result.returncode == 1 and why in result.stderr and result.stderr.count("\n") == 1
        assert mounted.status()["size_bytes"] == 64 * MB and mounted.status()["ram_bytes"] == 4 * MB
    demand_content(sums)


def test_swapoff_under_load(tmpfsd: Callable[..., Mounted], tmp_path: Path) -> None:
    mounted = tmpfsd(f"ram=4m,size=1g,swap={tmp_path}", TMPFSD_CHECK="1")
    sums = fill(mounted.mnt, 60)
    with load(mounted):
        ctl("swapon", str(mounted.mnt), "/var/tmp", "--size", "512m")
        ctl("swapoff", str(mounted.mnt), str(tmp_path))
        mounted.check()
    status = mounted.status()["swap"]
    assert [file["path"] for file in status["files"]] == ["/var/tmp"] and status["used_bytes"] > 50 * MB
    demand_content(sums)


def test_swapoff_interrupted_loses_nothing(tmpfsd: Callable[..., Mounted], tmp_path: Path) -> None:
    mounted = tmpfsd(f"ram=4m,size=1g,swap={tmp_path}")
    sums = fill(mounted.mnt, 300)
    ctl("swapon", str(mounted.mnt), "/var/tmp", "--size", "512m")
    # Whoever runs the tests in the background may have them ignore SIGINT.
    process = subprocess.Popen(["env", "--default-signal=INT", sys.executable, "-m", "tmpfsd.cli.ctl", "swapoff",
                                str(mounted.mnt), str(tmp_path)], stderr=subprocess.PIPE, text=True)
    while not client.status(str(mounted.mnt))["swap"]["files"][0]["draining"] and process.poll() is None:
        pass                # asked from this process: tmpfsctl would take longer to start than the draining takes
    process.send_signal(signal.SIGINT)
    _, message = process.communicate(timeout=30)
    assert process.returncode == 130 and f"interrupted: {tmp_path} is still in use" in message
    deadline = time.monotonic() + 10
    while mounted.status()["swap"]["files"][0]["draining"]:
        assert time.monotonic() < deadline
    files = mounted.status()["swap"]["files"]
    assert [file["path"] for file in files] == [str(tmp_path), "/var/tmp"] and files[0]["used_bytes"] > 0
    mounted.check()
    demand_content(sums)
    ctl("swapoff", str(mounted.mnt), str(tmp_path))
    demand_content(sums)


def test_swap_files_that_are_refused(tmpfsd: Callable[..., Mounted], tmp_path: Path) -> None:
    mounted = tmpfsd(f"ram=1m,size=64m,swap={tmp_path}")
    fill(mounted.mnt, 10)
    (tmp_path / "open").touch(mode=0o644)
    (tmp_path / "open").chmod(0o644)
    mnt = str(mounted.mnt)
    for arguments, why in ((["swapon", mnt, mnt], "inside the mount point"),
                           (["swapon", mnt, str(tmp_path / "missing" / "swap")], "No such file"),
                           (["swapon", mnt, str(tmp_path / "open")], "alone, mode 0600"),
                           (["swapon", mnt, "/dev/null"], "must be a directory, a file or a block device"),
                           (["swapon", mnt, "/var/tmp", "--size", "9"], "--size 9: too small"),
                           (["swapoff", mnt, "/nowhere"], "no swap file of this mount"),
                           (["swapoff", mnt, str(tmp_path)], "other swap files have room for 0k")):
        result = ctl(*arguments, check=False)
        assert result.returncode == 1 and why in result.stderr, result
        assert "Traceback" not in result.stderr and result.stderr.count("\n") == 1
    assert len(mounted.status()["swap"]["files"]) == 1


def test_flush(tmpfsd: Callable[..., Mounted]) -> None:
    mounted = tmpfsd("ram=32m,size=64m")
    sums = fill(mounted.mnt, 20)
    assert mounted.status()["resident_bytes"] > 20 * MB
    text = ctl("flush", str(mounted.mnt)).stdout
    assert "paged out" in text and mounted.status()["resident_bytes"] < MB
    demand_content(sums)
    result = ctl("set", str(mounted.mnt), "swap_size=1m")
    assert "swap_size=1M (was 64M)" in result.stdout
    touch(mounted.mnt / "new", bytes(4 * MB))
    result = ctl("flush", str(mounted.mnt), check=False)
    assert result.returncode == 2 and "for which swap has no room" in result.stdout
