"""tests/mount/test_readdir.py: listings that are right while the directory changes.

The duties of a listing: no entry twice, none missed that was there from beginning to end; entries that came or
went meanwhile may be in it or not. Read with getdents64() itself: the C library hides nothing then.
"""

import os
import random
import shutil
import stat
from collections import Counter
from pathlib import Path

import pytest
from mountlib import Entry, end, getdents, spawn, touch

LARGE = 100_000
DT = {stat.S_IFREG: 8, stat.S_IFDIR: 4, stat.S_IFLNK: 10, stat.S_IFIFO: 1, stat.S_IFSOCK: 12}


def make(path: Path) -> None:
    """An empty file, with one system call."""
    os.mknod(path, stat.S_IFREG | 0o600)


@pytest.fixture
def listing(d):
    """An open directory."""
    fd = os.open(d, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def entries_of(fd: int, size: int = 32768) -> list[Entry]:
    """The rest of the directory."""
    entries: list[Entry] = []
    while part := getdents(fd, size):
        entries += part
    return entries


def names_of(fd: int, size: int = 32768) -> list[str]:
    """The names in the rest of the directory."""
    return [os.fsdecode(entry.name) for entry in entries_of(fd, size)]


class TestStill:
    """A directory that does not change."""

    def test_empty(self, listing):
        assert sorted(names_of(listing)) == [".", ".."]

    def test_end_stays_the_end(self, listing):
        entries_of(listing)
        assert getdents(listing) == []

    @pytest.mark.parametrize("count", [1, 10, 100, 1000, 5000])
    def test_all_once(self, d, listing, count):
        for number in range(count):
            make(d / f"name{number}")
        expected = [".", ".."] + [f"name{number}" for number in range(count)]
        assert sorted(names_of(listing)) == sorted(expected)

    @pytest.mark.parametrize("size", [300, 512, 1000, 4096, 1 << 20])
    def test_any_buffer(self, d, listing, size):
        for number in range(300):
            make(d / ("n" * (number % 200 + 1) + str(number)))
        assert Counter(names_of(listing, size)) == Counter([".", "..", *os.listdir(d)])

    def test_long_names(self, d, listing):
        names = {f"{number:03}" + "n" * 252 for number in range(500)}
        for name in names:
            make(d / name)
        assert sorted(names_of(listing)) == sorted(names | {".", ".."})

    def test_types_and_numbers(self, d, listing):
        touch(d / "file")
        os.mkdir(d / "directory")
        os.symlink("x", d / "symlink")
        os.mkfifo(d / "fifo")
        os.mknod(d / "socket", stat.S_IFSOCK | 0o600)
        for entry in entries_of(listing):
            status = os.lstat(os.path.join(d, os.fsdecode(entry.name)))
            assert entry.kind == DT[stat.S_IFMT(status.st_mode)], entry
            if entry.name != b"..":
                assert entry.ino == status.st_ino, entry

    def test_dotdot_of_a_subdirectory(self, d):
        os.mkdir(d / "sub")
        fd = os.open(d / "sub", os.O_RDONLY)
        numbers = {entry.name: entry.ino for entry in entries_of(fd)}
        os.close(fd)
        assert numbers[b"."] == os.stat(d / "sub").st_ino

    def test_walk(self, d):
        for number in range(40):
            os.makedirs(d / f"a{number % 4}" / f"b{number}")
            make(d / f"a{number % 4}" / f"b{number}" / "file")
        assert sum(len(files) for _, _, files in os.walk(d)) == 40


class TestPositions:
    """telldir, seekdir, rewinddir."""

    @pytest.fixture
    def full(self, d, listing):
        """The listing of a directory with 2000 files."""
        for number in range(2000):
            make(d / f"name{number}")
        return listing

    def test_seek_to_any_entry(self, full):
        entries = entries_of(full)
        for index in random.Random(1).sample(range(len(entries) - 1), 60):
            os.lseek(full, entries[index].offset, os.SEEK_SET)
            assert getdents(full, 600)[0].name == entries[index + 1].name

    def test_offsets_differ(self, full):
        offsets = [entry.offset for entry in entries_of(full)]
        assert len(set(offsets)) == len(offsets)

    def test_offset_of_the_last_is_the_end(self, full):
        last = entries_of(full)[-1]
        os.lseek(full, last.offset, os.SEEK_SET)
        assert getdents(full) == []

    def test_rewind_shows_what_is_new(self, d, full):
        assert len(entries_of(full)) == 2002
        make(d / "new")
        os.unlink(d / "name7")
        os.lseek(full, 0, os.SEEK_SET)
        names = names_of(full)
        assert "new" in names and "name7" not in names and len(names) == 2002

    def test_position_outlives_removal_of_its_entry(self, d, full):
        entries = [entry for entry in entries_of(full) if not entry.name.startswith(b".")]
        for entry in entries[500:600]:
            os.unlink(d / os.fsdecode(entry.name))
        os.lseek(full, entries[550].offset, os.SEEK_SET)
        assert {entry.name for entry in entries[600:]} <= {entry.name for entry in entries_of(full)}

    def test_two_listings_do_not_disturb_each_other(self, d, full):
        other = os.open(d, os.O_RDONLY)
        first, second = getdents(full, 1000), getdents(other, 2000)
        first += entries_of(full, 1000)
        second += entries_of(other, 2000)
        os.close(other)
        assert [entry.name for entry in first] == [entry.name for entry in second]


class TestMoving:
    """A directory that changes while it is listed."""

    @pytest.mark.parametrize("count", [10, 500, 5000])
    def test_remove_while_iterating(self, d, listing, count):
        for number in range(count):
            make(d / f"name{number}")
        while part := getdents(listing, 2048):
            for entry in part:
                if entry.name not in (b".", b".."):
                    os.unlink(d / os.fsdecode(entry.name))
        assert os.listdir(d) == []

    def test_rmtree(self, d):
        for number in range(2000):
            os.makedirs(d / "tree" / str(number % 50), exist_ok=True)
            make(d / "tree" / str(number % 50) / f"file{number}")
        shutil.rmtree(d / "tree")
        assert os.listdir(d) == []

    def test_rename_while_iterating(self, d, listing):
        for number in range(1000):
            make(d / f"name{number}")
        seen: Counter[str] = Counter()
        while part := getdents(listing, 2048):
            for entry in part:
                name = os.fsdecode(entry.name)
                seen[name] += 1
                if name.startswith("name"):
                    os.rename(d / name, d / f"renamed-{name}")
        assert max(seen.values()) == 1
        assert sum(name.startswith("name") for name in seen) == 1000
        assert all(name.startswith("renamed") for name in os.listdir(d))

    def test_interleaved_removals_and_additions(self, d, listing):
        rng = random.Random(5)
        for number in range(3000):
            make(d / f"stay{number}")
            make(d / f"go{number}")
        going, added = [f"go{number}" for number in range(3000)], 0
        seen: Counter[str] = Counter()
        rng.shuffle(going)
        while part := getdents(listing, 4096):
            seen.update(os.fsdecode(entry.name) for entry in part)
            for _ in range(20):
                if going:
                    os.unlink(d / going.pop())
                make(d / f"new{added}")
                added += 1
                if added > 5000:
                    break
        assert max(seen.values()) == 1
        assert {f"stay{number}" for number in range(3000)} <= set(seen)

    @pytest.mark.timeout(180)
    def test_large_directory_that_another_process_changes(self, d):
        for number in range(LARGE):
            make(d / f"stay-{number}")
        changer = spawn(lambda: self.change_forever(d))
        try:
            fd = os.open(d, os.O_RDONLY)
            counts = Counter(names_of(fd))
            os.close(fd)
            assert [name for name, count in counts.items() if count > 1] == []
            assert sum(name.startswith("stay-") for name in counts) == LARGE
            assert counts["."] == counts[".."] == 1
        finally:
            end(changer)
        assert sum(name.startswith("stay-") for name in os.listdir(d)) == LARGE

    @staticmethod
    def change_forever(d: Path) -> None:
        """Add, rename and remove names among those that stay."""
        rng, number, names = random.Random(9), 0, []
        while True:
            make(d / f"change-{number}-{'x' * (number % 40)}")
            names.append(f"change-{number}-{'x' * (number % 40)}")
            number += 1
            if len(names) > 2000:
                victim = names.pop(rng.randrange(len(names)))
                if number % 2:
                    os.unlink(d / victim)
                else:
                    os.rename(d / victim, d / f"moved-{number}")
                    os.unlink(d / f"moved-{number}")
