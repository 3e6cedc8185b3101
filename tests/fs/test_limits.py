"""Limits that are reached: inodes, size, ram under wired pools, swap, a fixed submap.  ENOSPC, and nothing is lost."""

import errno
from typing import Any, Callable

import pytest

from tests.fs.fslib import ROOT, STARVING_FRAMES, Driver, refused
from tmpfsd.uvm.errors import VmError

PAGE = 4096
MakeFs = Callable[..., Driver]


def fill(fs: Driver, make: Callable[[int], Any]) -> int:
    """Make things until there is no room: how many."""
    for i in range(1_000_000):
        try:
            make(i)
        except VmError as error:
            assert error.errno == errno.ENOSPC
            return i
    raise AssertionError("no end")


def small_file(fs: Driver) -> Callable[[int], None]:
    """Make an empty file that the kernel forgets at once."""
    return lambda i: fs.forget(fs.create(ROOT, b"%d" % i))


def test_nr_inodes(make_fs: MakeFs, mode: str) -> None:
    fs = make_fs(mode, nr_inodes=20)
    assert fill(fs, small_file(fs)) == 19
    assert fs.statfs()[4:7] == (20, 0, 0)
    for make in (fs.mkdir, fs.create):
        with refused(errno.ENOSPC):
            make(ROOT, b"new")
    ino = fs.lookup(ROOT, b"3")
    fs.link(ino, ROOT, b"link")
    with refused(errno.ENOSPC):
        fs.rename(ROOT, b"3", ROOT, b"new", 4)
    fs.unlink(ROOT, b"7")
    fs.create(ROOT, b"new")
    with refused(errno.EEXIST, errno.ENOSPC):
        fs.create(ROOT, b"new")


def test_one_count_of_inodes(make_fs: MakeFs, mode: str) -> None:
    """nr_inodes, statfs and the status count the inodes that have a name."""
    fs = make_fs(mode, nr_inodes=20)
    fill(fs, lambda i: fs.create(ROOT, b"%d" % i))

    def counts() -> tuple[int, int, int]:
        """Inodes in use by statfs and by the status, and inodes without a name."""
        status, (files, ffree) = fs.mp.status(), fs.statfs()[4:6]
        return files - ffree, status["inodes"], status["orphans"]

    assert counts() == (20, 20, 0)
    for i in range(5):
        fs.unlink(ROOT, b"%d" % i)              # the kernel still knows them
    assert counts() == (15, 15, 5)
    assert fill(fs, lambda i: fs.create(ROOT, b"again-%d" % i)) == 5
    assert counts() == (20, 20, 5)
    fs.forget_all()
    assert counts() == (20, 20, 0)


@pytest.mark.parametrize("npages", [30, 64, 300])
def test_size_filled_with_data(make_fs: MakeFs, mode: str, npages: int) -> None:
    fs = make_fs(mode, size_bytes=npages * PAGE)
    ino = fs.create(ROOT, b"a")
    total, data = 0, b"0123456789abcdef" * 3000
    while True:
        try:
            done = fs.write(ino, total, data)
        except VmError as error:
            assert error.errno == errno.ENOSPC
            break
        assert 0 < done <= len(data)
        total += done
    assert fs.statfs()[2] <= 1 and total >= (npages - 8) * PAGE
    assert fs.getattr(ino).size == total
    expected = (data * (total // len(data) + 1))[:total]
    assert fs.read(ino, 0, total + 1) == expected
    fs.check()
    fs.truncate(ino, PAGE)
    assert fs.write(ino, PAGE, b"again") == 5


def test_size_filled_with_names(make_fs: MakeFs, mode: str) -> None:
    fs = make_fs(mode, size_bytes=100 * PAGE)
    n = fill(fs, small_file(fs))
    assert n > 100 * PAGE // 256 - 200
    fs.check()
    assert len(fs.entries(ROOT)) == n
    for i in range(n):
        fs.unlink(ROOT, b"%d" % i)
    assert fill(fs, small_file(fs)) >= n - 30


def test_wired_backend_is_full(make_fs: MakeFs) -> None:
    fs = make_fs("starving", backend="wired")
    n = fill(fs, small_file(fs))
    assert 0 < n < 12 * 25
    status = fs.mp.status()
    assert status["wired_bytes"] == (12 - fs.mp.vm.spare) * PAGE
    fs.check()
    fs.unlink(ROOT, b"0")
    fs.create(ROOT, b"again")


def test_wired_backend_pages_data(make_fs: MakeFs) -> None:
    fs = make_fs("starving", backend="wired")
    ino = fs.create(ROOT, b"a")
    assert fs.write(ino, 0, b"x" * 500 * PAGE) == 500 * PAGE
    assert fs.read(ino, 0, 500 * PAGE) == b"x" * 500 * PAGE


@pytest.mark.parametrize("nslots", [0, 1, 10, 40])
def test_swap_is_full(make_fs: MakeFs, nslots: int) -> None:
    fs = make_fs("starving", swap_size_bytes=(nslots + 1) * PAGE)
    fs.create(ROOT, b"a")
    n = fill(fs, small_file(fs))
    assert n >= 8 * 16
    fs.check()
    assert len(fs.entries(ROOT)) == n + 1
    for i in range(0, n, 2):
        fs.unlink(ROOT, b"%d" % i)
    fs.check()


def test_swap_is_full_of_data(make_fs: MakeFs) -> None:
    fs = make_fs("starving", swap_size_bytes=41 * PAGE)
    ino = fs.create(ROOT, b"a")
    done = fs.write(ino, 0, b"x" * 200 * PAGE)
    assert 30 * PAGE <= done < 60 * PAGE
    assert fs.read(ino, 0, 1 << 20) == b"x" * done
    # Changing what is there needs no more room.
    assert fs.write(ino, 0, b"y" * done) == done
    assert fs.read(ino, 0, 1 << 20) == b"y" * done
    with refused(errno.ENOSPC):
        fs.write(ino, done, b"z" * PAGE)


def test_no_swap(make_fs: MakeFs) -> None:
    fs = make_fs("starving", swap=None)
    n = fill(fs, small_file(fs))
    fs.check()
    assert len(fs.entries(ROOT)) == n
    assert fs.mp.vm.npages <= STARVING_FRAMES - 64


@pytest.mark.parametrize("sharing", ["shared", "per-pool"])
def test_fixed_submap(make_fs: MakeFs, mode: str, sharing: str) -> None:
    fs = make_fs(mode, submap=40 * PAGE, submap_sharing=sharing)
    n = fill(fs, small_file(fs))
    assert n >= (870 if sharing == "per-pool" else 600)     # five pages of each are kept back
    ino = fs.lookup(ROOT, b"0")
    if sharing == "per-pool":
        assert fs.write(ino, 0, b"x" * 100 * PAGE) == 100 * PAGE
    fs.check()
    status = fs.mp.status()["submap"]
    assert status["policy"] == "fixed" and status["used_bytes"] <= status["size_bytes"]


def test_status_has_all_keys(fs: Driver) -> None:
    fs.create(ROOT, b"a")
    keys = {"backend", "size_bytes", "used_bytes", "inodes", "inodes_max", "ram_bytes", "resident_bytes", "wired_bytes",
            "dirty_bytes", "submap", "swap", "paging", "pools", "data"}
    status = fs.mp.status()
    assert keys <= set(status) and status["inodes"] == 2
    assert {"policy", "sharing", "size_bytes", "used_bytes", "high_water_bytes"} <= set(status["submap"])
    assert {"faults", "pageins", "pageouts", "scans", "reclaims", "stalls"} <= set(status["paging"])
    for pool in status["pools"]:
        assert pool["pages"] == pool["resident_pages"] + pool["swapped_pages"]


def test_holes_are_punched_while_slots_come_and_go(make_fs: MakeFs) -> None:
    fs = make_fs("starving", size_bytes=64 << 20)
    inos = [fs.create(ROOT, b"%d" % i) for i in range(300)]
    for ino in inos:
        fs.write(ino, 0, b"x" * 5 * PAGE)
    for i in range(0, 300, 2):
        fs.truncate(inos[i], 0)
    fs.mp.breathe()
    assert fs.mp.vm.swap.trim(4)                # a slice of a pass, not the whole
    for i in range(1, 300, 2):
        fs.truncate(inos[i], 0)
    fs.settle()
