"""Small files are packed in the string pools, and count as data in status and top."""

import copy
import io
from collections.abc import Iterator
from typing import Any

import pytest
from rich.console import Console

from tmpfsd.cli.packed import PAGES, data_of, percent_of, split
from tmpfsd.cli.status import pool_lines, rows
from tmpfsd.cli.topview import pools
from tmpfsd.options import Config
from tmpfsd.tmpfs import vnops
from tmpfsd.tmpfs.filesystem import Mount
from tmpfsd.tmpfs.layout import ROOT_INO

FILES = 4000
OTHERS = 1000               # targets of symlinks that are as long
FOUR = 4                    # items of 1 KiB in a page


class Cred:
    """A caller that may do everything."""

    uid = gid = umask = 0

    def capable(self, _capability: int) -> bool:
        """With every capability."""
        return True


@pytest.fixture(scope="module")
def small_files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The status of a mount of many files of 1,000 bytes, half of them paged out."""
    mp = Mount(Config(ram_bytes=3 << 20, size_bytes=64 << 20, swap=str(tmp_path_factory.mktemp("swap"))))
    for i in range(FILES):
        mp.breathe()
        ino = vnops.create(mp, ROOT_INO, b"%d" % i, 0o644, Cred())
        vnops.write(mp, ino, 0, b"x" * 1000)
    yield {"mountpoint": "/mnt", "requests": {}, **mp.status()}
    mp.close()


def pool_of(status: dict[str, Any], name: str) -> dict[str, Any]:
    """One of its pools."""
    return next(pool for pool in status["pools"] if pool["name"] == name)


def top_lines(status: dict[str, Any], width: int = 80) -> list[list[str]]:
    """The lines that top prints of pools, without the bars."""
    out = io.StringIO()
    Console(file=out, width=width, force_terminal=False).print(pools(status, 99, width < 70))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    return [[word for word in line.split() if word[0] not in "█▉▊▋▌▍▎▏"] for line in lines]


def test_they_are_data(small_files: dict[str, Any]) -> None:
    pool = pool_of(small_files, "string-1024")
    assert pool["data_items"] == pool["items"] == FILES and not small_files["data"]["pages"]
    data, metadata = split(small_files)
    assert data == {name: pool[name] for name in PAGES} and data["pages"] == FILES // FOUR
    assert 0 < data["swapped_pages"] < data["pages"] == data["resident_pages"] + data["swapped_pages"]
    for name in PAGES:
        assert metadata[name] == sum(each[name] for each in small_files["pools"]) - data[name] >= 0
    assert metadata["pages"] < data["pages"] / 3


def test_status_says_so(small_files: dict[str, Any]) -> None:
    data, metadata = split(small_files)
    said = dict(rows(small_files))
    assert said["data pages"] == (f"1,000: {data['resident_pages']:,} resident, {data['swapped_pages']:,} swapped")
    assert said["metadata"].startswith(f"{metadata['pages']:,}: ")
    lines = [line.split() for line in pool_lines(small_files["pools"])]
    assert lines[0][-1] == "data" and [line[-1] for line in lines if line[0] == "string-1024"] == ["100%"]
    assert [len(line) for line in lines if line[0] in ("node", "nlookup", "tree")] == [6] * 3
    assert max(map(len, pool_lines(small_files["pools"]))) <= 80


def test_top_says_so(small_files: dict[str, Any]) -> None:
    data, metadata = split(small_files)
    lines = top_lines(small_files)
    assert lines[0] == ["PAGES", "OF", "RESIDENT", "PAGES", "OUT", "DATA"]
    assert lines[1][0] == "data" and lines[1][-2:] == ["1,000", f"{data['swapped_pages']:,}"]
    assert lines[2][0] == "metadata" and lines[2][-2] == f"{metadata['pages']:,}"
    assert lines[3][0] == "string-1024" and lines[3][-3] == "1,000" and lines[3][-1] == "100%"
    assert [line[-1] for line in top_lines(small_files, 40)[:2]] == ["PAGES", "1k"]


def test_a_pool_is_divided(small_files: dict[str, Any]) -> None:
    status = copy.deepcopy(small_files)
    pool_of(status, "string-1024")["data_items"] = FILES - OTHERS
    data, metadata = split(status)
    assert data["pages"] == (FILES - OTHERS) // FOUR
    assert metadata["pages"] == split(small_files)[1]["pages"] + OTHERS // FOUR
    assert [line[-1] for line in top_lines(status) if line[0] == "string-1024"] == ["75%"]


def test_where_it_is_not_known_all_is_as_before(small_files: dict[str, Any]) -> None:
    """In a mount of an older image."""
    status = copy.deepcopy(small_files)
    for pool in status["pools"]:
        pool.pop("data_items", None)
    data, metadata = split(status)
    assert not any(data.values())
    assert metadata == {name: sum(pool[name] for pool in status["pools"]) for name in PAGES}
    assert top_lines(status)[0][-1] == "OUT" and all(len(line) == 4 for line in top_lines(status)[2:])
    assert [len(line.split()) for line in pool_lines(status["pools"])] == [6] * (len(status["pools"]) + 1)


@pytest.mark.parametrize("items, data_items, pages, percent", [
    (0, 0, 0, "0%"), (0, 5, 5, "100%"), (10, 0, 0, "0%"), (10, 10, 5, "100%"), (10, 99, 5, "100%"), (3, 1, 2, "33%")])
def test_any_numbers(items: int, data_items: int, pages: int, percent: str) -> None:
    """Also those that only a stranger's daemon says."""
    pool = {"items": items, "data_items": data_items, "pages": 5, "resident_pages": 2, "swapped_pages": 3}
    found = data_of(pool)
    assert found["pages"] == pages == found["resident_pages"] + found["swapped_pages"]
    assert percent_of(pool) == percent
