"""The estimator against arithmetic by hand, against trees that were built, and as a command."""

from __future__ import annotations

import errno
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.fs.fslib import CRED
from tmpfsd.cli import ctl
from tmpfsd.options import Config, parse
from tmpfsd.tmpfs import vnops
from tmpfsd.tmpfs.filesystem import Mount
from tmpfsd.tmpfs.forecast import LEAF_CAP, Shape, _data, estimate, leaves, of_tree, tree_nodes, uniform
from tmpfsd.uvm.param import PAGE_SIZE

ROOT = vnops.ROOT_INO


class Cred:
    """Who asks."""

    uid = gid = umask = 0


def build(shape: Shape, tmp_path: Path) -> dict[str, tuple[int, int]]:
    """Make a tree of a shape that uniform() made; (items, pages) of each pool."""
    mp = Mount(Config(ram_bytes=32 << 20, size_bytes=1 << 30, swap=str(tmp_path)))
    names = iter(range(1 << 30))
    length = next(iter(shape.names), 13)
    below = shape.subdirectories

    def name() -> bytes:
        return b"%0*d" % (length, next(names))

    dirs = [vnops.mkdir(mp, ROOT, name(), 0o755, Cred()) for _ in range(below)] or [ROOT]
    first = []
    for i, size in enumerate(shape.sizes.elements()):
        mp.breathe()
        ino = vnops.create(mp, dirs[i % len(dirs)], name(), 0o644, Cred())
        first.append(ino)
        mp.breathe()
        vnops.write(mp, ino, 0, bytes(size))
    for i, (nlen, vlen) in enumerate(shape.xattrs.elements()):
        vnops.setxattr(mp, first[i % len(first)], b"user." + b"%0*d" % (nlen - 5, i), bytes(vlen))
    place = len(first)
    for target in shape.targets.elements():
        mp.breathe()
        vnops.symlink(mp, dirs[place % len(dirs)], name(), b"x" * target, Cred())
        place += 1
    for i in range(shape.more_names.total()):
        mp.breathe()
        vnops.link(mp, first[i % len(first)], dirs[place % len(dirs)], name())
        place += 1
    mp.breathe()
    pools = {pool["name"]: (pool["items"], pool["pages"]) for pool in mp.status()["pools"]}
    mp.close()
    return pools


@pytest.mark.parametrize("arguments", [
    {"files": 0}, {"files": 1}, {"files": 4}, {"files": 5}, {"files": 341}, {"files": 2500},
    {"files": 3000, "dirs": 40}, {"files": 500, "dirs": 7, "size": 40}, {"files": 500, "dirs": 7, "size": 49},
    {"files": 500, "dirs": 7, "size": 2048}, {"files": 200, "dirs": 7, "size": 2049},
    {"files": 300, "dirs": 9, "symlinks": 80, "target_length": 48},
    {"files": 300, "dirs": 9, "symlinks": 80, "target_length": 300}, {"files": 300, "dirs": 3, "hard_links": 100},
    {"files": 60, "xattrs": 2}, {"files": 40, "xattrs": 1, "xattr_length": 9000},
], ids=str)
@pytest.mark.parametrize("name_length", [13, 32, 33, 255])
def test_as_built(arguments: dict[str, int], name_length: int, tmp_path: Path) -> None:
    shape = uniform(name_length=name_length, **arguments)
    shape.check()
    found, told = build(shape, tmp_path), estimate(shape)
    assert set(found) == set(told.pages)
    chance = 1 if max(shape.entries) <= LEAF_CAP else 4     # where leaves split depends on the mount's secret
    for pool, (_items, pages) in found.items():
        assert abs(told.pages[pool] - pages) <= max(0.1 * pages, chance), pool
    if chance == 1:
        assert {pool: items for pool, (items, _pages) in found.items()} == told.items


def test_by_hand() -> None:
    told = estimate(uniform(10_000, 13, dirs=100))
    assert told.pages["node"] == -(-10_101 // 25)
    assert told.pages["nlookup"] == 10
    assert told.items["string-2048"] == 101             # 100 names need 170 places: 2 KiB; so does the root
    assert told.npages == told.pages["node"] + 10 + 51
    assert told.submap_bytes == told.npages * PAGE_SIZE and told.auto_bytes % (64 * PAGE_SIZE) == 0
    assert told.data_pages == 0 and estimate(uniform(10, 13, size=4097)).data_pages == 20


def test_leaves() -> None:
    assert leaves(0, LEAF_CAP) == leaves(LEAF_CAP, LEAF_CAP) == 1
    assert leaves(LEAF_CAP + 1, LEAF_CAP) == pytest.approx(2)
    assert tree_nodes(LEAF_CAP + 1) == (pytest.approx(2), 2)
    fill = [n / leaves(n, LEAF_CAP) / LEAF_CAP for n in (100_000, 1_000_000)]
    assert all(0.8 < f < 0.9 for f in fill)             # ln 2 where leaves only split
    assert all(leaves(n, LEAF_CAP) <= leaves(n + 340, LEAF_CAP) + 0.3 for n in range(0, 10_000, 340))


def test_median_spreads_sizes() -> None:
    shape = uniform(5000, 13, size=4000, median_size=1500)
    sizes = sorted(shape.sizes.elements())
    assert len(sizes) == 5000
    assert sizes[2500] == pytest.approx(1500, rel=0.01)
    assert sum(sizes) / 5000 == pytest.approx(4000, rel=0.05)


def test_shape_that_is_no_tree() -> None:
    shape = uniform(10, 13)
    shape.names[13] += 1
    with pytest.raises(ValueError, match="not one tree"):
        shape.check()


def test_of_tree(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "file").write_bytes(b"x" * 100)
    os.link(tmp_path / "sub" / "file", tmp_path / "again")
    os.symlink("/nowhere", tmp_path / "link")
    os.symlink("sub", tmp_path / "to-dir")
    os.mkfifo(tmp_path / "fifo")
    shape = of_tree(str(tmp_path))
    shape.check()
    assert shape.entries == Counter({5: 1, 1: 1})
    assert shape.more_names.total() == 1
    assert shape.targets == Counter({8: 1, 3: 1})
    assert shape.sizes == Counter({100: 1, 0: 1})
    assert shape.nodes == 6


def sparse(path: Path, size: int, *runs: tuple[int, int]) -> None:
    """A file of holes with data in some places."""
    with open(path, "wb") as file:
        file.truncate(size)
        for offset, nbytes in runs:
            os.pwrite(file.fileno(), b"x" * nbytes, offset)
        os.fsync(file.fileno())


def test_holes_are_no_data(tmp_path: Path) -> None:
    """As the file system that has them tells them; they take no pages where they are copied to either."""
    sparse(tmp_path / "empty", 1 << 30)
    sparse(tmp_path / "ends", 1 << 30, (0, PAGE_SIZE), ((1 << 30) - PAGE_SIZE, PAGE_SIZE))
    sparse(tmp_path / "many", 1 << 20, *((place << 16, 10) for place in range(16)))
    sparse(tmp_path / "full", 40_000, (0, 40_000))
    sparse(tmp_path / "small", 1000)
    if os.stat(tmp_path / "ends").st_blocks > 64:
        pytest.skip("the file system here has no holes")
    shape = of_tree(str(tmp_path))
    shape.check()
    assert shape.sizes == Counter({40_000: 1, 1000: 1})
    assert shape.sparse == Counter({(0, 0): 1, (2, 2): 1, (16, 16): 1}) and shape.files == 5
    found = estimate(shape)
    assert found.data_pages == 10 + 2 + 16
    mp = Mount(Config(ram_bytes=8 << 20, size_bytes=64 << 20, swap=str(tmp_path)))
    for path in sorted(tmp_path.iterdir()):
        mp.breathe()
        ino = vnops.create(mp, ROOT, path.name.encode(), 0o644, Cred())
        vnops.truncate(mp, ino, path.stat().st_size)
        for npages, offset in ((1, 0), (1, (1 << 30) - PAGE_SIZE)) if path.name == "ends" else ():
            vnops.write(mp, ino, offset, b"x" * PAGE_SIZE * npages)
        for place in range(16) if path.name == "many" else ():
            mp.breathe()
            vnops.write(mp, ino, place << 16, b"x" * 10)
        if path.name == "full":
            vnops.write(mp, ino, 0, b"x" * 40_000)
    assert mp.status()["data"]["pages"] == found.data_pages
    pools = {pool["name"]: pool["pages"] for pool in mp.status()["pools"]}
    assert sum(pools.values()) == found.npages, (pools, found.pages)
    mp.close()


def test_a_run_that_ends_within_a_page_shares_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system of smaller blocks has runs that no page bounds."""
    runs = [(0, 1024), (2048, 3072), (8192 - 1024, 8192 + 1024)]
    (tmp_path / "file").write_bytes(b"x" * 10_000)

    def lseek(_fd: int, offset: int, whence: int) -> int:
        for start, end in runs:
            if offset < end:
                return max(start, offset) if whence == os.SEEK_DATA else end
        raise OSError(errno.ENXIO, "no data")

    monkeypatch.setattr(os, "lseek", lseek)
    assert _data(str(tmp_path / "file")) == (3, 3)


def test_a_tree_may_change_meanwhile(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert _data(str(tmp_path / "fifo")) is None and _data(str(tmp_path / "gone")) is None


def run(*argv: str) -> int:
    """The command."""
    return ctl.main(["estimate", *argv])


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--files", "1m", "--name-length", "13", "--json") == 0
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert told["files"] == 1_000_000 and 180 < told["bytes_per_file"] < 190
    assert told["submap_bytes"] == PAGE_SIZE * sum(pool["pages"] for pool in told["pools"])
    assert run("--files", "1000", "--size", "4k", "--median-size", "1k") == 0
    shown = capsys.readouterr().out
    assert "submap=" in shown and max(map(len, shown.splitlines())) <= 80
    assert run("--from", str(tmp_path)) == 0
    assert "bytes for each of 0 files" in capsys.readouterr().out


@pytest.mark.parametrize("argv, text", [
    ((), "--files or --from is needed"), (("--from", "/nowhere"), "not a directory"),
    (("--from", "/", "--files", "1"), "give one of them"), (("--files", "x"), "is not a number"),
    (("--files", "9999999999"), "is not a number up to"), (("--files", "1", "--name-length", "256"), "from 1 to 255"),
    (("--files", "1", "--size", "1.5k"), "is not a whole number"),
    (("--files", "1", "--median-size", "1k"), "--median-size without --size"),
    (("--files", "1", "--size", "1k", "--median-size", "2k"), "--median-size 2048: must not be above the mean"),
    (("--from", "/", "--median-size", "1k"), "--median-size: the tree has its own"),
    (("--from", "/", "--dirs", "7"), "--dirs: the tree has its own"),
])
def test_refused(argv: tuple[str, ...], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        assert run(*argv) == 1
    except SystemExit as error:
        assert error.code == 1
    said = capsys.readouterr().err
    assert text in said and said.startswith("tmpfsctl") and said.count("\n") == 1


def test_a_full_leaf_is_one_and_the_next_name_splits_it() -> None:
    assert leaves(LEAF_CAP, LEAF_CAP) == 1
    assert leaves(LEAF_CAP + 1, LEAF_CAP) == pytest.approx(2, abs=1e-5)


def test_of_one_file_all_is_its_own() -> None:
    alone = estimate(uniform(1, 10))
    assert alone.per_file == alone.submap_bytes > 0


def test_files_are_empty_where_no_size_is_said() -> None:
    assert uniform(100, 10) == uniform(100, 10, size=0) != uniform(100, 10, size=1)


def test_the_line_to_paste_holds_them(capsys: pytest.CaptureFixture[str]) -> None:
    """As many files as were said, and their bytes, fit into a mount of those options."""
    assert ctl.main(["estimate", "--files", "600", "--size", "9000", "--name-length", "30"]) == 0
    command = capsys.readouterr().out.splitlines()[-1]
    mount = Mount(parse(f"{command.rpartition('-o ')[2]},ram=1m"))
    try:
        for i in range(600):
            mount.breathe()
            ino = vnops.create(mount, vnops.ROOT_INO, b"%030d" % i, 0o644, CRED)
            assert vnops.write(mount, ino, 0, bytes(9000)) == 9000
    finally:
        mount.close()
