"""tests/mount/test_pager.py: a small `ram` and much more than fits (tmpfsd only).

Everything that is stored must come back from swap, the budget must hold in every answer of status, a refusal
must lose nothing, and a removal must give memory, swap and disk space back.
"""

import errno
import itertools
import os
import random
import shutil
import signal
import subprocess
import time
import zlib
from pathlib import Path
from typing import Callable

import pytest
from mountlib import (
    PAGE, Mounted, ctl, eventually, fails_with, is_mounted, mount_tmpfsd, needs_root, reap, spawn, touch
)

MB = 1 << 20
pytestmark = pytest.mark.timeout(120)


def forget() -> None:
    """Have the kernel forget names and inodes, so that the next look at them reaches the daemon."""
    if os.geteuid() == 0:
        Path("/proc/sys/vm/drop_caches").write_text("2")


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


def blocks_on_disk(mounted: Mounted, swap: Path) -> int:
    """Bytes that the disk holds for the swap file (which may have no name)."""
    total = 0
    for name in os.listdir(f"/proc/{mounted.pid}/fd"):
        link = f"/proc/{mounted.pid}/fd/{name}"
        if os.readlink(link).startswith(str(swap)):
            total += os.stat(link).st_blocks * 512
    return total


def within_budget(status: dict) -> None:
    """Check an answer of status."""
    assert 0 < status["resident_bytes"] <= status["ram_bytes"], status
    assert status["wired_bytes"] <= status["resident_bytes"], status
    assert status["used_bytes"] <= status["size_bytes"], status


def is_back(mounted: Mounted, before: dict) -> bool:
    """Is everything as it was after mounting? The rest (the root directory) may be out or not."""
    now = mounted.status()
    same = all(now[key] == before[key] for key in ("used_bytes", "inodes"))
    return same and now["swap"]["used_bytes"] <= now["used_bytes"]


class Filling:
    """Seeded files of many sizes, in directories; knows what must be in each."""

    SIZES = (0, 0, 0, 10, 100, 2000, PAGE, 20_000)

    def __init__(self, mnt: Path, count: int, large: int = 0) -> None:
        self.mnt, self.count, self.large = mnt, count, large
        self.sums: dict[int, int] = {}

    def path(self, number: int) -> Path:
        """Where file number is."""
        return self.mnt / f"d{number % 20}" / f"file-{number}"

    def size(self, number: int) -> int:
        """How long it is."""
        return self.large if self.large and number % 100 == 99 else self.SIZES[number % len(self.SIZES)]

    def write(self, after: Callable[[], None] = lambda: None) -> None:
        """Make all of it."""
        for number in range(20):
            os.mkdir(self.mnt / f"d{number}")
        for number in range(self.count):
            data = random.Random(number).randbytes(self.size(number))
            self.sums[number] = zlib.crc32(data)
            touch(self.path(number), data, mode=0o600 | number & 0o55)
            if number % 10 == 0:
                os.setxattr(self.path(number), "user.number", b"%d" % number * (number % 50))
            if number % (self.count // 5) == 0:
                after()

    def compare(self, numbers) -> None:
        """Look at these files, all of each."""
        for number in numbers:
            status = os.stat(self.path(number))
            assert status.st_size == self.size(number), number
            assert status.st_mode & 0o777 == 0o600 | number & 0o55, number
            assert zlib.crc32(read_file(self.path(number))) == self.sums[number], number
            if number % 10 == 0:
                assert os.getxattr(self.path(number), "user.number") == b"%d" % number * (number % 50)

    def remove(self) -> None:
        """Remove all of it."""
        for number in range(self.count):
            os.unlink(self.path(number))
        for number in range(20):
            os.rmdir(self.mnt / f"d{number}")


def fill(path: Path, chunk: bytes, most: int) -> int:
    """Append chunks until ENOSPC; the number of bytes written."""
    fd, done = os.open(path, os.O_WRONLY | os.O_CREAT), 0
    try:
        with fails_with(errno.ENOSPC):
            while done < most:
                done += os.write(fd, chunk)
    finally:
        os.close(fd)
    return done


def create_until_full(directory: Path, most: int = 100_000) -> int:
    """Empty files until ENOSPC; their number."""
    made = 0
    with fails_with(errno.ENOSPC):
        while made < most:
            touch(directory / f"file-{made:08}")
            made += 1
    return made


class TestBudget:
    """Far more than `ram`, there and back."""

    @pytest.mark.parametrize("ram, count, large, swap_io", [
        ("1m", 2000, 300_000, "buffered"), ("1m", 2000, 300_000, "direct"),
        ("4m", 2500, MB, "direct"), ("16m", 3000, 2 * MB, "buffered")])
    def test_all_comes_back(self, tmpfsd, tmp_path, ram, count, large, swap_io):
        mounted = tmpfsd(f"ram={ram},size=1g,swap={tmp_path},swap_io={swap_io}")
        before, filling = mounted.status(), Filling(mounted.mnt, count, large)
        filling.write(after=lambda: within_budget(mounted.status()))
        status = mounted.status()
        assert status["paging"]["pageouts"] > 0 and status["swap"]["used_bytes"] > 0
        assert status["used_bytes"] > 2 * status["ram_bytes"]
        forget()
        filling.compare(range(count))
        filling.compare(random.Random(1).sample(range(count), count // 5))
        within_budget(mounted.status())
        filling.remove()
        assert eventually(lambda: is_back(mounted, before)), (before, mounted.status())
        assert eventually(lambda: blocks_on_disk(mounted, tmp_path) <= 256 << 10)

    @pytest.mark.parametrize("sharing", ["shared", "per-pool"])
    def test_metadata_alone(self, tmpfsd, sharing):
        mounted = tmpfsd(f"ram=1m,size=256m,submap_sharing={sharing}")
        before = mounted.status()
        for number in range(8_000):
            os.mknod(mounted.mnt / f"file-{number}", 0o100600 | number & 0o55)
        within_budget(mounted.status())
        forget()
        assert len(os.listdir(mounted.mnt)) == 8_000
        for number in random.Random(2).sample(range(8_000), 3000):
            assert os.stat(mounted.mnt / f"file-{number}").st_mode == 0o100600 | number & 0o55
        status = mounted.status()
        assert status["paging"]["pageouts"] > 0 and status["paging"]["pageins"] > 0
        for number in range(8_000):
            os.unlink(mounted.mnt / f"file-{number}")
        assert eventually(lambda: is_back(mounted, before)), (before, mounted.status())

    def test_one_large_file(self, tmpfsd):
        mounted = tmpfsd("ram=1m,size=256m")
        pieces = [random.Random(number).randbytes(MB) for number in range(40)]
        touch(mounted.mnt / "x", b"".join(pieces))
        within_budget(mounted.status())
        assert read_file(mounted.mnt / "x") == b"".join(pieces)
        within_budget(mounted.status())

    def test_rewritten_again_and_again(self, tmpfsd, tmp_path):
        mounted = tmpfsd(f"ram=1m,size=64m,swap={tmp_path},swap_size=16m")
        for turn in range(10):
            for number in range(8):
                touch(mounted.mnt / str(number), bytes([turn * 8 + number]) * MB)
        for number in range(8):
            assert read_file(mounted.mnt / str(number)) == bytes([72 + number]) * MB
        assert mounted.status()["swap"]["used_bytes"] <= 16 * MB

    def test_every_page_leaves_at_every_breath(self, tmpfsd):
        mounted = tmpfsd("ram=1m,size=64m", TMPFSD_THRASH="1", TMPFSD_CHECK="1")
        filling = Filling(mounted.mnt, 200, 100_000)
        filling.write()
        filling.compare(range(200))
        filling.remove()

    def test_status_counts(self, tmpfsd):
        mounted = tmpfsd("ram=2m,size=64m")
        touch(mounted.mnt / "x", b"x" * 8 * MB)
        status = mounted.status()
        assert status["data"]["pages"] == 2048
        assert status["data"]["resident_pages"] + status["data"]["swapped_pages"] >= 2048
        assert status["data"]["swapped_pages"] >= 1400
        assert status["inodes"] == 2
        pages = status["data"]["resident_pages"] + sum(pool["resident_pages"] for pool in status["pools"])
        assert pages * PAGE <= status["resident_bytes"]
        assert status["swap"]["used_bytes"] <= status["swap"]["size_bytes"]


class TestCost:
    """What a file costs."""

    def test_metadata_of_an_empty_file(self, tmpfsd):
        mounted = tmpfsd("ram=16m,size=256m")
        before = mounted.status()["used_bytes"]
        for number in range(10_000):
            touch(mounted.mnt / f"file-{number:08}")
        each = (mounted.status()["used_bytes"] - before) / 10_000
        assert each <= 256, f"{each} bytes a file"

    def test_daemon_stays_small(self, tmpfsd):
        mounted = tmpfsd("ram=4m,size=1g")

        def resident() -> int:
            text = Path(f"/proc/{mounted.pid}/status").read_text()
            return int(text.split("VmRSS:")[1].split()[0]) << 10

        sizes = []
        for start, stop in ((0, 3000), (3000, 20_000)):
            for number in range(start, stop):
                os.mknod(mounted.mnt / f"file-{number}", 0o100600)
            sizes.append(resident())
        assert sizes[1] <= 4 * MB + 64 * MB, sizes
        # The frames of `ram` that were not touched before, and a little.
        assert sizes[1] - sizes[0] <= 5 * MB, sizes


class TestWired:
    """backend=wired: metadata never leaves."""

    def test_full_of_metadata(self, tmpfsd):
        mounted = tmpfsd("backend=wired,ram=1m,size=256m")
        made = create_until_full(mounted.mnt)
        assert 1000 < made < 10_000
        status = mounted.status()
        within_budget(status)
        assert status["backend"] == "wired" and status["wired_bytes"] > status["ram_bytes"] // 2
        assert "ENOSPC" in ctl("status", str(mounted.mnt)).stdout
        for number in range(made // 2):
            os.unlink(mounted.mnt / f"file-{number:08}")
        touch(mounted.mnt / "room again", b"some data")
        assert len(os.listdir(mounted.mnt)) == made - made // 2 + 1

    def test_all_room_comes_back(self, tmpfsd):
        mounted = tmpfsd("backend=wired,ram=1m,size=256m")
        before = mounted.status()
        for _ in range(2):
            for number in range(create_until_full(mounted.mnt)):
                os.unlink(mounted.mnt / f"file-{number:08}")
            assert eventually(lambda: is_back(mounted, before)), (before, mounted.status())

    def test_data_still_pages(self, tmpfsd):
        mounted = tmpfsd("backend=wired,ram=1m,size=64m")
        data = random.Random(1).randbytes(10 * MB)
        touch(mounted.mnt / "x", data)
        assert read_file(mounted.mnt / "x") == data
        assert mounted.status()["paging"]["pageouts"] > 0


class TestSubmap:
    """submap=SIZE: metadata has a limit of its own."""

    @pytest.mark.parametrize("sharing", ["shared", "per-pool"])
    def test_full_and_room_again(self, tmpfsd, sharing):
        mounted = tmpfsd(f"ram=1m,size=256m,submap=1m,submap_sharing={sharing}")
        before, made = mounted.status(), create_until_full(mounted.mnt)
        assert made > 1000
        submap = mounted.status()["submap"]
        assert submap["used_bytes"] <= submap["size_bytes"]
        assert submap["size_bytes"] == MB if sharing == "shared" else submap["size_bytes"] % MB == 0
        assert {name[:4] for name in os.listdir(mounted.mnt)} == {"file"}
        for number in range(made):
            os.unlink(mounted.mnt / f"file-{number:08}")
        assert eventually(lambda: is_back(mounted, before)), (before, mounted.status())
        assert create_until_full(mounted.mnt) >= made * 0.9

    def test_auto_grows(self, tmpfsd):
        mounted = tmpfsd("ram=1m,size=64m")
        first = mounted.status()["submap"]["used_bytes"]
        for number in range(5000):
            os.mknod(mounted.mnt / f"file-{number}", 0o100600)
        submap = mounted.status()["submap"]
        assert submap["policy"] == "auto"
        assert first < submap["used_bytes"] <= submap["high_water_bytes"]


class TestSwapTooSmall:
    """ENOSPC when nothing more can leave, and nothing is lost."""

    @staticmethod
    def fill_and_compare(mounted: Mounted, most: int) -> None:
        """Files of 64 KB until ENOSPC; all that was written is there; room comes back."""
        written = 0
        with fails_with(errno.ENOSPC):
            for number in range(most // 65_536):
                touch(mounted.mnt / str(number), random.Random(number).randbytes(65_536))
                written = number + 1
        assert written >= 16
        for number in range(written):
            assert read_file(mounted.mnt / str(number)) == random.Random(number).randbytes(65_536)
        within_budget(mounted.status())
        for number in range(written // 2):
            os.unlink(mounted.mnt / str(number))
        touch(mounted.mnt / "room again", b"y" * 100_000)
        assert read_file(mounted.mnt / "room again") == b"y" * 100_000

    def test_swap_size(self, tmpfsd):
        mounted = tmpfsd("ram=1m,size=64m,swap_size=2m")
        self.fill_and_compare(mounted, 64 * MB)

    def test_none(self, tmpfsd):
        mounted = tmpfsd("ram=4m,size=64m,swap=none")
        self.fill_and_compare(mounted, 64 * MB)

    def test_metadata_alone(self, tmpfsd):
        mounted = tmpfsd("ram=1m,size=64m,swap_size=1m")
        made = create_until_full(mounted.mnt)
        assert len(os.listdir(mounted.mnt)) == made
        for number in range(made):
            os.unlink(mounted.mnt / f"file-{number:08}")
        assert os.listdir(mounted.mnt) == []

    @pytest.fixture
    def small_disk(self, tmp_path):
        """A disk of 6 MB."""
        if shutil.which("mkfs.ext4") is None:
            pytest.skip("no mkfs.ext4 here (e2fsprogs)")
        image, disk = tmp_path / "image", tmp_path / "disk"
        touch(image)
        os.truncate(image, 6 * MB)
        disk.mkdir()
        for command in (["mkfs.ext4", "-q", "-F", "-m", "0", "-O", "^has_journal", image],
                        ["mount", "-o", "loop", image, disk]):
            done = subprocess.run(command, capture_output=True, text=True)
            if command[0] == "mount" and done.returncode:
                pytest.skip(f"no loop devices here: {done.stderr.strip()}")
            assert not done.returncode, done.stderr
        yield disk
        # tmpfsd's process ends a moment after its unmount.
        assert eventually(lambda: subprocess.run(["umount", disk], capture_output=True).returncode == 0)

    @needs_root
    @pytest.mark.parametrize("swap_io", ["buffered", "direct"])
    def test_disk(self, small_disk, tmpfsd, swap_io):
        mounted = tmpfsd(f"ram=1m,size=64m,swap={small_disk},swap_io={swap_io}")
        self.fill_and_compare(mounted, 64 * MB)


class TestSwapFile:
    """swap=FILE, and what happens when it goes bad."""

    def test_file_is_used_and_kept(self, tmpfsd, tmp_path):
        touch(tmp_path / "swap", mode=0o600)
        mounted = tmpfsd(f"ram=1m,size=64m,swap={tmp_path}/swap")
        data = random.Random(1).randbytes(8 * MB)
        touch(mounted.mnt / "x", data)
        assert os.stat(tmp_path / "swap").st_blocks > 0
        assert mounted.status()["swap"]["path"] == f"{tmp_path}/swap"
        assert read_file(mounted.mnt / "x") == data
        assert os.listdir(tmp_path) == ["swap"]

    def test_directory_stays_empty(self, tmpfsd, tmp_path):
        mounted = tmpfsd(f"ram=1m,size=64m,swap={tmp_path}")
        touch(mounted.mnt / "x", b"x" * 8 * MB)
        assert os.listdir(tmp_path) == []
        assert blocks_on_disk(mounted, tmp_path) > 0

    def test_overwritten_swap_gives_eio_and_no_wrong_byte(self, tmp_path):
        touch(tmp_path / "swap", mode=0o600)
        mounted = mount_tmpfsd(f"ram=1m,size=64m,swap={tmp_path}/swap")
        try:
            for number in range(64):
                touch(mounted.mnt / str(number), bytes([number]) * 200_000)
            size = os.stat(tmp_path / "swap").st_size
            fd = os.open(tmp_path / "swap", os.O_WRONLY)
            os.pwrite(fd, b"garbage!" * (size // 8), 0)
            os.close(fd)
            names = [str(number) for number in range(64)]
            assert any([self.fails(mounted.mnt / name, bytes([int(name)]) * 200_000) for name in names])
            assert mounted.alive()
            within_budget(mounted.status())
        finally:
            mounted.close()  # without the check: it would find what this test has broken

    @staticmethod
    def fails(path: Path, expected: bytes) -> bool:
        """Reading gives the right bytes or EIO, nothing else."""
        try:
            assert read_file(path) == expected
            return False
        except OSError as failure:
            assert failure.errno == errno.EIO
            return True


class TestEnd:
    """The end of a mount, while it is in use."""

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_signal_during_load(self, tmpfsd, number):
        mounted = tmpfsd("ram=1m,size=256m")

        def body() -> None:
            directory = os.open(mounted.mnt, os.O_RDONLY)  # not the path: it leads elsewhere after the end
            for count in itertools.count():
                fd = os.open(f"{os.getpid()}-{count % 100}", os.O_CREAT | os.O_WRONLY, dir_fd=directory)
                os.write(fd, b"x" * 50_000)
                os.close(fd)

        workers = [spawn(lambda: pytest.raises(OSError, body)) for _ in range(2)]
        at_work = [mounted.mnt / f"{pid}-20" for pid in workers]    # a MB each: more than ram
        assert eventually(lambda: all(path.exists() for path in at_work), 30)
        os.kill(mounted.pid, number)
        assert mounted.daemon.wait(timeout=15) == 0, mounted.log_text()
        assert not is_mounted(mounted.mnt)
        reap(*workers)

    def test_unmount_with_much_in_swap(self, tmpfsd, tmp_path):
        mounted = tmpfsd(f"ram=1m,size=256m,swap={tmp_path}")
        touch(mounted.mnt / "x", b"x" * 64 * MB)
        started = time.monotonic()
        command = ["umount"] if os.geteuid() == 0 else ["fusermount3", "-u"]
        subprocess.run([*command, mounted.mnt], check=True, timeout=30)
        assert mounted.daemon.wait(timeout=15) == 0
        assert time.monotonic() - started < 10
        assert os.listdir(tmp_path) == []

    def test_idle_daemon_sleeps(self, tmpfsd):
        mounted = tmpfsd("ram=1m,size=64m")
        touch(mounted.mnt / "x", b"x" * 4 * MB)

        def ticks() -> int:
            fields = Path(f"/proc/{mounted.pid}/stat").read_text().rsplit(")", 1)[1].split()
            return int(fields[11]) + int(fields[12])

        def sleeps() -> bool:
            first = ticks()
            time.sleep(1)
            return ticks() - first <= 2

        assert eventually(sleeps, 8)
