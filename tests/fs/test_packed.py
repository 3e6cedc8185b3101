"""Items of the string pools that have the bytes of regular files are counted (R5).

The driver compares the count after each refused operation and at the end of each test of this directory; here are the
ways on which it changes.
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Callable

import pytest

from tests.fs.fslib import POINTS, ROOT, Driver, failing, make_mount
from tests.fs.test_image import forge, open_image, put, save
from tmpfsd.image.build import build
from tmpfsd.image.extract import verify
from tmpfsd.image.format import ImageError, unpack_header
from tmpfsd.pool.strings import CLASSES, TREE
from tmpfsd.tmpfs import copyrange, detach, fallocate, layout, node
from tmpfsd.tmpfs.layout import KIND_TREE
from tmpfsd.tmpfs.mem import OWNER_STRINGS
from tmpfsd.uvm.errors import Inconsistent, VmError
from tmpfsd.uvm.param import PAGE_SIZE

LONG = b"l" * 100
EXCHANGE = 2


def counted(fs: Driver) -> dict[int, int]:
    """The items of each size that are counted, in any order; the check has counted them again."""
    fs.check()
    assert len(fs.mp.mem.data_items) == TREE == len(CLASSES)
    return {size: n for size, n in zip(CLASSES, fs.mp.mem.data_items) if n}


def file_of(fs: Driver, size: int, name: bytes = b"file") -> int:
    """A new file."""
    ino = fs.create(ROOT, name)
    assert fs.write(ino, 0, b"x" * size) == size
    return ino


@pytest.mark.parametrize("size, item", [(1, 0), (48, 0), (49, 64), (64, 64), (65, 96), (1000, 1024), (1024, 1024),
                                        (1361, 2048), (2048, 2048), (2049, 0), (5000, 0)])
def test_sizes(fs: Driver, size: int, item: int) -> None:
    file_of(fs, size)
    assert counted(fs) == ({item: 1} if item else {})


def test_a_file_grows(fs: Driver) -> None:
    ino = file_of(fs, 40)
    for end, expected in ((60, {64: 1}), (64, {64: 1}), (100, {128: 1}), (1000, {1024: 1}), (2048, {2048: 1}),
                          (2049, {}), (100_000, {})):
        fs.write(ino, end - 1, b"y")
        assert counted(fs) == expected, end


def test_a_file_is_cut(fs: Driver) -> None:
    ino = file_of(fs, 10)
    for size, expected in ((500, {512: 1}), (20, {512: 1}), (400, {512: 1}), (0, {}), (60, {64: 1}), (900, {1024: 1}),
                           (9000, {}), (900, {}), (0, {}), (900, {1024: 1})):
        fs.truncate(ino, size)
        assert counted(fs) == expected, size
    fs.open(ino, os.O_TRUNC)
    assert counted(fs) == {}
    fs.setattr(ino, size=70)
    assert counted(fs) == {96: 1}


def test_what_is_no_file_does_not_count(fs: Driver) -> None:
    ino = fs.create(ROOT, LONG)
    fs.setxattr(ino, b"user.a", b"v" * 900)
    fs.symlink(ROOT, b"symlink", b"t" * 900)
    fs.link(ino, ROOT, b"another")
    for i in range(50):
        fs.mkdir(ROOT, b"%d" % i)
    assert counted(fs) == {}


@pytest.mark.parametrize("nattributes", (0, 1, 6, 40))
@pytest.mark.parametrize("open_then", (False, True), ids=("", "open"))
def test_a_file_is_removed(fs: Driver, nattributes: int, open_then: bool) -> None:
    """At once or by the reaper, beside a symlink of which the same is true."""
    made = [file_of(fs, 1000), fs.symlink(ROOT, b"symlink", b"t" * 1000)]
    file_of(fs, 1000, b"stays")
    for ino in made:
        for i in range(nattributes):
            fs.setxattr(ino, b"trusted.%d" % i, b"v" * 300)
        if not open_then:
            fs.forget(ino)
    for name in (b"symlink", b"file"):
        fs.unlink(ROOT, name)
        assert counted(fs) == {1024: 2 if open_then or name == b"symlink" else 1}
    for ino in made if open_then else ():
        fs.forget(ino)
    fs.reap_all(check=True)
    assert counted(fs) == {1024: 1}


def test_names_move(fs: Driver) -> None:
    file_of(fs, 1000)
    file_of(fs, 100, b"other")
    fs.forget_all()
    fs.rename(ROOT, b"file", ROOT, b"other", EXCHANGE)
    assert counted(fs) == {128: 1, 1024: 1}
    fs.rename(ROOT, b"file", ROOT, b"other")
    assert counted(fs) == {128: 1}
    top = fs.mkdir(ROOT, b"top")
    fs.rename(ROOT, b"other", top, LONG)
    assert counted(fs) == {128: 1}
    fs.do(detach.detach, ROOT, b"top")
    fs.forget_all()
    fs.reap_all(check=True)
    assert counted(fs) == {}


def test_bytes_are_copied(fs: Driver) -> None:
    source, target = file_of(fs, 1500), file_of(fs, 100, b"target")
    assert fs.do(copyrange.copy, source, 0, target, 100, 200) == 200
    assert counted(fs) == {384: 1, 2048: 1}
    assert fs.do(copyrange.copy, source, 0, target, 0, 1500) == 1500
    assert counted(fs) == {2048: 2}
    assert fs.do(copyrange.copy, source, 0, target, 1500, 1500) == 1500
    assert counted(fs) == {2048: 1}


def test_room_is_reserved(fs: Driver) -> None:
    ino = file_of(fs, 1000)
    fs.do(fallocate.reserve, ino, 0, 1000, True)
    assert counted(fs) == {}


WAYS: dict[str, Callable[[Driver, int, int], object]] = {
    "grow": lambda fs, ino, _other: fs.write(ino, 500, b"y" * 900),
    "to pages": lambda fs, ino, _other: fs.write(ino, 0, b"y" * 5000),
    "truncate": lambda fs, ino, _other: fs.truncate(ino, 1400),
    "to a hole": lambda fs, ino, _other: fs.truncate(ino, 1 << 20),
    "empty": lambda fs, ino, _other: fs.truncate(ino, 0),
    "copy": lambda fs, ino, other: fs.do(copyrange.copy, other, 0, ino, 0, 2000),
    "reserve": lambda fs, ino, _other: fs.do(fallocate.reserve, ino, 0, 9000, False),
}


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("way", WAYS)
def test_what_fails_changes_no_count(make_fs: Callable[..., Driver], way: str, point: str) -> None:
    """The n-th page, item or page-in fails, for every n until there is none."""
    fs = make_fs(tiny=True, noatime=True)
    for n in itertools.count():
        ino, other = file_of(fs, 600), file_of(fs, 2000, b"other")
        assert counted(fs) == {768: 1, 2048: 1}
        fs.mp.vm.daemon.evict_all()
        fs.mp.vm.thrash, failed = point == "pagein", False
        with failing(point, n) as fuse:
            try:
                WAYS[way](fs, ino, other)
            except VmError:
                failed = True
        fs.mp.vm.thrash = False
        if failed:
            expected = {768: 1, 2048: 1}
            if layout.tn_kind(fs.mp.arena, fs.mp.mem.node(ino)) == KIND_TREE:
                del expected[768]           # it has moved to a page, and the reservation failed later
            assert counted(fs) == expected and fs.content(ino) == b"x" * 600
        fs.check()
        for each, name in ((ino, b"file"), (other, b"other")):
            fs.unlink(ROOT, name)
            fs.forget(each)
        fs.reap_all()
        assert counted(fs) == {}
        if fuse.calls <= n:
            break
        assert n < 100


def test_a_file_that_cannot_be_freed_counts_until_it_is(make_fs: Callable[..., Driver]) -> None:
    fs = make_fs(noatime=True)
    ino = file_of(fs, 1000)
    for i in range(6):
        fs.setxattr(ino, b"user.%d" % i, b"v" * 300)
    fs.unlink(ROOT, b"file")
    fs.mp.vm.daemon.evict_all()
    node.is_known(fs.mp, ino)
    with failing("pagein", 0, lasting=True):
        fs.forget(ino)
    assert fs.mp.lost_nodes == 1 and counted(fs) == {1024: 1}
    while node.free_again(fs.mp):
        fs.reap_all()
    assert fs.mp.lost_nodes == 0 and counted(fs) == {}


# --- images ---

@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An image with two files of 1,000 bytes, one of 100, and a symlink as long."""
    fs = Driver(make_mount(str(tmp_path)))
    for name, size in ((b"a", 1000), (b"b", 1000), (b"c", 100)):
        file_of(fs, size, name)
    fs.symlink(ROOT, b"symlink", b"t" * 1000)
    fs.forget_all()
    path = save(fs, tmp_path / "image")
    fs.finish()
    fs.mp.close()
    return path


def tables_of(path: Path) -> dict[str, tuple[int, int, int, int]]:
    """Where its tables are."""
    with open(path, "rb") as file:
        return unpack_header(file.read(PAGE_SIZE), path.stat().st_size).tables


def test_an_image_has_the_count(image: Path) -> None:
    fs = open_image(image)
    assert counted(fs) == {128: 1, 1024: 2}
    file_of(fs, 100, b"d")
    fs.unlink(ROOT, b"a")
    assert counted(fs) == {128: 2, 1024: 1}
    fs.forget_all()
    again = open_image(save(fs, image.with_name("second")))
    assert counted(again) == {128: 2, 1024: 1}
    for each in (fs, again):
        each.remove_all()
        each.forget_all()
        each.reap_all()
        assert counted(each) == {}
        each.mp.close()


def test_an_image_of_a_directory_has_it(tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    for name, size in (("a", 1000), ("b", 100), ("c", 9000), ("d", 10)):
        (top / name).write_bytes(b"x" * size)
    os.symlink("t" * 1000, top / "symlink")
    os.truncate(top / "d", 1500)            # a hole behind its bytes
    with open(tmp_path / "image", "wb") as file:
        build(os.fsencode(top), file.fileno(), mtime=0, swap=str(tmp_path))
    fs = open_image(tmp_path / "image")
    assert counted(fs) == {128: 1, 1024: 1, 2048: 1}
    fs.mp.close()


def test_an_image_without_small_files_says_that(tmp_path: Path) -> None:
    fs = Driver(make_mount(str(tmp_path)))
    again = open_image(save(fs, tmp_path / "image"))
    assert tables_of(tmp_path / "image")["packed"][1] == 0
    assert again.mp.mem.data_counted and counted(again) == {}
    verify(str(tmp_path / "image"), lambda _done, _of: None)
    fs.mp.close()
    again.mp.close()


def test_an_older_image_does_not_say(image: Path) -> None:
    """It is mounted; what is not known is neither said nor checked, and the next image does not say it either."""
    fs = open_image(image)
    fs.mp.mem.data_counted = False
    older = save(fs, image.with_name("older"))
    fs.mp.close()
    assert "packed" in tables_of(image) and "packed" not in tables_of(older)
    fs = open_image(older)
    assert not fs.mp.mem.data_counted
    file_of(fs, 100, b"d")
    fs.unlink(ROOT, b"a")
    fs.forget_all()
    fs.check()
    assert not any("data_items" in pool for pool in fs.mp.status()["pools"])
    next_one = save(fs, image.with_name("next"))
    assert "packed" not in tables_of(next_one)
    verify(str(next_one), lambda _done, _of: None)
    fs.remove_all()
    fs.forget_all()
    fs.reap_all()
    fs.check()
    fs.mp.close()


@pytest.mark.parametrize("at, value", [(0, OWNER_STRINGS - 1), (0, OWNER_STRINGS + TREE), (1, 2), (3, 1 << 31)],
                         ids=("owner", "trees", "more items than there are", "many"))
def test_an_impossible_count_is_refused(image: Path, at: int, value: int) -> None:
    forge(image, "packed", put(at, value, 4))
    with pytest.raises(ImageError, match="the table packed says what cannot be"):
        open_image(image)


def test_a_wrong_count_is_found(image: Path) -> None:
    """Three items of 1 KiB are there, but one is a symlink's."""
    forge(image, "packed", put(3, 3, 4))
    with pytest.raises(Inconsistent) as info:
        verify(str(image), lambda _done, _of: None)
    assert info.value.invariant == "R5" and "string-1024: 2 items of files, counted 3" in str(info.value)


def test_a_count_that_is_too_low_is_not_shown(image: Path) -> None:
    """An image may say anything: the status leaves out what cannot be, and so does the next image."""
    for at in (1, 3):
        forge(image, "packed", put(at, 0, 4))
    fs = open_image(image)
    for name in (b"a", b"b", b"c"):
        fs.unlink(ROOT, name)
    fs.forget_all()
    fs.reap_all()
    assert min(fs.mp.mem.data_items) < 0
    assert all("data_items" not in pool or pool["data_items"] >= 0 for pool in fs.mp.mem.stats())
    assert not fs.mp.mem.data_counted
    fs.mp.close()


def test_status_has_it(fs: Driver) -> None:
    file_of(fs, 1000)
    fs.symlink(ROOT, b"symlink", b"t" * 1000)
    fs.create(ROOT, LONG)
    pools = {pool["name"]: pool.get("data_items") for pool in fs.mp.status()["pools"]}
    assert pools["string-1024"] == 1 and pools["string-128"] == 0
    assert pools["node"] is None and pools["nlookup"] is None
