"""After any failure the bytes of a file are the old ones or those that were written.

Each operation is tried with its n-th page, item or page-in failing, for every n, at odd offsets.  It fails once, so
that the next call finds the device well again, or from there on until the operation is over.  Free frames are poisoned,
so that a byte of another file would show.
"""

import errno
from typing import Any, Callable, Iterator

import pytest

from tests import failpoints
from tests.fs.fslib import POINTS, ROOT, Driver, failing
from tmpfsd.uvm.errors import SwapIOError, VmError

PAGE = 4096
MOST = 200                                  # failures of one operation, by which it must have succeeded


def pattern(npages: int, kind: int = 0) -> bytes:
    """Pages of bytes that are neither zero nor poison, each page another."""
    return b"".join(bytes([1 + (page * 7 + kind) % 200]) * PAGE for page in range(npages))


class File:
    """A file with gaps: pages 0-5, 8, 9 and a part of 12."""

    def __init__(self, fs: Driver, tail: int = 1000) -> None:
        self.fs, self.ino = fs, fs.create(ROOT, b"file")
        self.data = bytearray(pattern(12) + pattern(13)[12 * PAGE:12 * PAGE + tail])
        for first, npages in ((6, 2), (10, 2)):
            self.data[first * PAGE:(first + npages) * PAGE] = bytes(npages * PAGE)
        for first, last in ((0, 6), (8, 10), (12, 13)):
            fs.write(self.ino, first * PAGE, bytes(self.data[first * PAGE:last * PAGE]))

    def content(self) -> bytes:
        """All bytes."""
        return bytes(self.fs.read(self.ino, 0, 1 << 20))


def attempts(fs: Driver, point: str, lasting: bool, operation: Callable[[], Any],
             again: Callable[[], None]) -> Iterator[bool]:
    """Try an operation with the n-th call failing, for each n; whether it was refused.  again() prepares the next."""
    for n in range(MOST):
        again()
        fs.mp.breathe()
        fs.mp.vm.daemon.evict_all()
        fs.mp.vm.thrash = point == "pagein"
        refused = False
        with failing(point, n, lasting) as fuse:
            try:
                operation()
            except VmError as error:
                refused = True
                assert error.errno in (errno.ENOSPC, errno.EIO)
        fs.mp.vm.thrash = False
        assert not fs.mp.vm.undefined.pages
        fs.check()
        yield refused
        if fuse.calls <= n:
            return
    raise AssertionError(f"it still fails at {point} {MOST}")


# Offsets and lengths: within a page, over the edges of pages, extents and gaps, in the first, a middle and the last.
WRITES = [(0, 100), (5, PAGE), (100, 3 * PAGE), (PAGE, 2 * PAGE), (PAGE + 1, 4 * PAGE), (2 * PAGE + 4095, 2),
          (3 * PAGE + 7, 7 * PAGE), (5 * PAGE + 9, 2 * PAGE), (6 * PAGE + 5, 100), (7 * PAGE + 100, PAGE),
          (9 * PAGE, 4 * PAGE), (11 * PAGE + 1, 2 * PAGE), (12 * PAGE, 50), (12 * PAGE + 500, 3000),
          (12 * PAGE + 999, 3 * PAGE), (20 * PAGE + 3, PAGE), (0, 14 * PAGE), (1, 14 * PAGE)]


def is_prefix_new(found: bytes, old: bytes, new: bytes) -> bool:
    """Whether the bytes are new up to some place, and old behind it (zeroes and a shorter size included)."""
    size = max(len(found), len(old), len(new))
    same = next((i for i in range(min(len(found), len(new))) if found[i] != new[i]), min(len(found), len(new)))
    return found[same:] + bytes(size - len(found)) == old.ljust(size, b"\0")[same:]


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "lasting"])
@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("offset, length", WRITES)
def test_write(make_fs: Callable[..., Driver], offset: int, length: int, point: str, lasting: bool) -> None:
    fs = make_fs("roomy", tiny=True, noatime=True)
    data = b"\xf1" * length
    file = File(fs)
    wanted = bytearray(file.data.ljust(offset, b"\0"))
    wanted[offset:offset + length] = data
    old = bytes(file.data)
    done: list[int] = []

    def again() -> None:
        nonlocal file
        fs.unlink(ROOT, b"file")
        fs.forget(file.ino)
        file = File(fs)
        done.clear()

    for refused in attempts(fs, point, lasting, lambda: done.append(fs.write(file.ino, offset, data)), again):
        found = file.content()
        if refused:
            assert found == old
        else:
            end = offset + done[0]
            assert found == bytes(wanted[:end]) + old[end:]
        assert is_prefix_new(found, old, bytes(wanted))
        assert fs.write(file.ino, offset, data) == length, "a device that is well again"
        assert file.content() == wanted


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "lasting"])
@pytest.mark.parametrize("bad", range(4))
def test_a_page_that_cannot_be_read_harms_no_other(make_fs: Callable[..., Driver], bad: int, lasting: bool) -> None:
    """A write over four pages, of the first and the last a part: each page's slot is bad in turn, or all from it on."""
    failpoints.interpreted_only()
    fs = make_fs("roomy", noatime=True)
    ino = fs.create(ROOT, b"file")
    old, new = pattern(4), b"\xf1" * (3 * PAGE)
    fs.write(ino, 0, old)
    fs.mp.breathe()
    fs.mp.vm.daemon.evict_all()
    vpn = fs.mp.extents.first_from(fs.mp.mem.node(ino), 0)[1] >> 24
    original = type(fs.mp.vm.swap).read_cluster

    def read_cluster(swap: Any, slot: int, frames: Any, vpns: range) -> int:
        if vpn + bad in vpns or lasting and vpn + bad <= vpns[-1] < vpn + 4:
            raise SwapIOError("injected")
        return original(swap, slot, frames, vpns)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(fs.mp.vm.swap), "read_cluster", read_cluster)
        try:
            done = fs.write(ino, 100, new)
        except SwapIOError:
            done = 0
    assert done == {0: 0, 1: 3 * PAGE, 2: 3 * PAGE, 3: 3 * PAGE - 100}[bad] or lasting and done in (0, 3 * PAGE - 100)
    expected = bytearray(old)
    expected[100:100 + done] = new[:done]
    assert fs.read(ino, 0, 1 << 20) == expected


@pytest.mark.parametrize("point", POINTS)
def test_setxattr(make_fs: Callable[..., Driver], point: str) -> None:
    fs = make_fs("roomy", tiny=True, noatime=True)
    ino = fs.create(ROOT, b"file")
    values = {b"user.a": b"a" * 40_000, b"user.b": b"b" * 3000, b"user.c": b"c" * 2049}

    def again() -> None:
        for name, value in values.items():
            fs.setxattr(ino, name, value)

    for refused in attempts(fs, point, False, lambda: fs.setxattr(ino, b"user.a", b"n" * 60_001), again):
        assert fs.getxattr(ino, b"user.a") == (values[b"user.a"] if refused else b"n" * 60_001)
        assert all(fs.getxattr(ino, name) == value for name, value in values.items() if name != b"user.a")


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt, AssertionError])
def test_what_no_one_expects(make_fs: Callable[..., Driver], error: type[BaseException],
                             monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that is none of the file system's ends a write where its pages are undefined."""
    failpoints.interpreted_only()
    fs = make_fs("roomy", noatime=True)
    file = File(fs)
    for offset, length in ((0, 4 * PAGE), (6 * PAGE, 2 * PAGE), (20 * PAGE, 3 * PAGE), (5 * PAGE, 5 * PAGE)):
        fs.mp.breathe()
        fs.mp.vm.daemon.evict_all()

        def data_runs_w(*_args: Any) -> Any:
            assert fs.mp.vm.undefined.pages
            raise error("injected")

        with monkeypatch.context() as patch:
            patch.setattr(type(fs.mp.mem), "data_runs_w", data_runs_w)
            with pytest.raises(error):
                fs.write(file.ino, offset, b"\xf1" * length)
        fs.check()
        found = file.content()
        assert found[:len(file.data)] == file.data and not any(found[len(file.data):])


def test_the_check_sees_what_an_operation_leaves(make_fs: Callable[..., Driver]) -> None:
    fs = make_fs("roomy")
    vpn, _count = fs.mp.mem.alloc_data(1)
    with pytest.raises(VmError, match="V7"):
        fs.mp.check()
    fs.mp.mem.free_data(vpn, 1)
