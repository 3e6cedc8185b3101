"""Writes of the kernel's page cache: whole or refused, and never lost silently."""

import errno
from typing import Callable

import pytest

from tests import failpoints
from tests.fs.fslib import ROOT, Driver
from tmpfsd.tmpfs import reap, vnops, writeback
from tmpfsd.tmpfs.fserror import FsError
from tmpfsd.uvm.errors import NoMemory
from tmpfsd.uvm.param import PAGE_SIZE, atop


@pytest.fixture
def fs(make_fs: Callable[..., Driver], mode: str) -> Driver:
    """A file system."""
    return make_fs(mode)


def test_all_or_an_error(fs: Driver, caplog: pytest.LogCaptureFixture) -> None:
    ino = fs.create(ROOT, b"a")
    fs.truncate(ino, 40 * PAGE_SIZE)
    fs.mp.vm.limit = fs.mp.vm.npages + 10
    with pytest.raises(NoMemory):
        writeback.write(fs.mp, ino, 0, b"x" * 30 * PAGE_SIZE)
    assert fs.mp.gate.lost_writes == 1 and f"inode {ino}: " in caplog.text
    fs.mp.vm.limit += atop(40 * PAGE_SIZE) + 10
    fs.mp.breathe()
    assert writeback.write(fs.mp, ino, 0, b"y" * 30 * PAGE_SIZE) == 30 * PAGE_SIZE
    assert fs.read(ino, 0, 40 * PAGE_SIZE) == b"y" * 30 * PAGE_SIZE + bytes(10 * PAGE_SIZE)
    fs.mp.gate.broken = True
    with pytest.raises(FsError) as caught:
        writeback.write(fs.mp, ino, 0, b"z")
    fs.mp.gate.broken = False
    assert caught.value.errno == errno.EROFS and fs.mp.gate.lost_writes == 2


@pytest.mark.parametrize("offset, nbytes, expected", [
    (0, PAGE_SIZE, True), (PAGE_SIZE, 2 * PAGE_SIZE, True), (2 * PAGE_SIZE, PAGE_SIZE + 100, True),
    (0, 3 * PAGE_SIZE + 100, True), (3 * PAGE_SIZE, 100, True),
    (0, 100, False), (1, PAGE_SIZE - 1, False), (100, PAGE_SIZE, False), (3 * PAGE_SIZE, 101, False),
    (3 * PAGE_SIZE, PAGE_SIZE, False), (4 * PAGE_SIZE, PAGE_SIZE, False), (0, 4 * PAGE_SIZE, False)])
def test_which_writes_may_be_of_a_mapping(fs: Driver, offset: int, nbytes: int, expected: bool) -> None:
    ino = fs.create(ROOT, b"a")
    fs.truncate(ino, 3 * PAGE_SIZE + 100)
    assert writeback.may_be(fs.mp, ino, offset, nbytes) == expected


def test_what_is_tried_again_goes_where_it_belongs(fs: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first page is written, the second refused once: the rest comes behind the first."""
    failpoints.interpreted_only()
    written: list[int] = []

    def write(_mp: object, _ino: int, offset: int, data: bytes, _appends: bool) -> int:
        written.append(offset)
        if len(written) == 2:
            raise NoMemory("size")
        return min(len(data), 4096)

    monkeypatch.setattr(vnops, "write", write)
    monkeypatch.setattr(reap, "retry", lambda mp, _error, again, *args: again(*args))
    assert writeback.write(fs.mp, 1, 8192, b"x" * 12288) == 12288
    assert written == [8192, 12288, 12288, 16384]
