"""tests/mount/test_posix_rename.py: rename() and its flags.

The matrix puts every kind of file onto every other.  The moved file must arrive whole, the replaced one must be gone,
and the link counts of both parents must be right.
"""

import errno
import os
import stat
from pathlib import Path

import pytest
from mountlib import RENAME_EXCHANGE, RENAME_NOREPLACE, RENAME_WHITEOUT, fails_with, needs_root, renameat2, touch


def full_directory(path: Path) -> None:
    """A directory that holds a file and a directory."""
    os.makedirs(path / "inner")
    touch(path / "file", b"in a full directory")


KINDS = {
    "file": lambda path: touch(path, b"content of %s" % os.fsencode(path.name)),
    "empty": os.mkdir,
    "full": full_directory,
    "symlink": lambda path: os.symlink("text", path),
    "fifo": os.mkfifo,
    "socket": lambda path: os.mknod(path, stat.S_IFSOCK | 0o600),
}
DIRECTORIES = ("empty", "full")
old_kinds = pytest.mark.parametrize("old", KINDS)
new_kinds = pytest.mark.parametrize("new", KINDS)


def identity(path: Path) -> tuple[int, int]:
    """What makes two names the same file."""
    status = os.lstat(path)
    return status.st_ino, stat.S_IFMT(status.st_mode)


def expected_errno(old: str, new: str) -> int:
    """What rename(old, new) gives when both are there; 0 for success."""
    if old in DIRECTORIES:
        return {"empty": 0, "full": errno.ENOTEMPTY}.get(new, errno.ENOTDIR)
    return errno.EISDIR if new in DIRECTORIES else 0


@pytest.fixture
def two(d: Path) -> tuple[Path, Path]:
    """Two directories to move between."""
    os.mkdir(d / "one")
    os.mkdir(d / "two")
    return d / "one", d / "two"


class TestMatrix:
    """Every kind onto every kind."""

    @old_kinds
    @new_kinds
    @pytest.mark.parametrize("across", [False, True], ids=["within", "across"])
    def test_replace(self, two, old, new, across):
        source, target = two[0] / "old", two[1 if across else 0] / "new"
        KINDS[old](source)
        KINDS[new](target)
        moved, replaced, number = identity(source), identity(target), expected_errno(old, new)
        if number:
            with fails_with(number):
                os.rename(source, target)
            assert (identity(source), identity(target)) == (moved, replaced)
        else:
            os.rename(source, target)
            assert identity(target) == moved
            assert not os.path.lexists(source)
        self.check_link_counts(two)

    @old_kinds
    @pytest.mark.parametrize("across", [False, True], ids=["within", "across"])
    def test_to_a_free_name(self, two, old, across):
        source, target = two[0] / "old", two[1 if across else 0] / "new"
        KINDS[old](source)
        moved = identity(source)
        os.rename(source, target)
        assert identity(target) == moved
        assert not os.path.lexists(source)
        self.check_link_counts(two)

    @staticmethod
    def check_link_counts(directories: tuple[Path, ...]) -> None:
        """nlink of a directory is 2 and the directories in it; listing and lookup agree."""
        for directory in directories:
            with os.scandir(directory) as entries:
                subdirectories = sum(entry.is_dir(follow_symlinks=False) for entry in entries)
            assert os.stat(directory).st_nlink == 2 + subdirectories


class TestPlain:
    """rename() without flags."""

    def test_content_moves(self, two):
        touch(two[0] / "a", b"x" * 10_000)
        os.rename(two[0] / "a", two[1] / "b")
        assert (two[1] / "b").read_bytes() == b"x" * 10_000

    def test_full_directory_moves_whole(self, two):
        full_directory(two[0] / "a")
        os.rename(two[0] / "a", two[1] / "b")
        assert (two[1] / "b" / "file").read_bytes() == b"in a full directory"
        assert os.stat(two[1] / "b" / "..").st_ino == os.stat(two[1]).st_ino

    def test_to_itself(self, d):
        touch(d / "a", b"same")
        os.rename(d / "a", d / "a")
        assert (d / "a").read_bytes() == b"same"

    def test_between_two_names_of_one_file_does_nothing(self, d):
        touch(d / "a")
        os.link(d / "a", d / "b")
        os.rename(d / "a", d / "b")
        assert sorted(os.listdir(d)) == ["a", "b"]
        assert os.stat(d / "a").st_nlink == 2

    def test_replaced_file_has_one_link_less(self, d):
        touch(d / "a")
        touch(d / "b")
        os.link(d / "b", d / "c")
        os.rename(d / "a", d / "b")
        assert os.stat(d / "c").st_nlink == 1

    def test_replaced_file_lives_while_open(self, d):
        touch(d / "a", b"new")
        touch(d / "b", b"old")
        fd = os.open(d / "b", os.O_RDONLY)
        os.rename(d / "a", d / "b")
        assert os.read(fd, 10) == b"old"
        assert os.fstat(fd).st_nlink == 0
        os.close(fd)

    def test_replaced_directory_while_open(self, d):
        os.mkdir(d / "a")
        os.mkdir(d / "b")
        fd = os.open(d / "b", os.O_RDONLY)
        os.rename(d / "a", d / "b")
        assert os.fstat(fd).st_nlink == 0
        with fails_with(errno.ENOENT):
            os.open("x", os.O_CREAT | os.O_WRONLY, dir_fd=fd)
        os.close(fd)

    @pytest.mark.parametrize("below", ["x", "sub/x"])
    def test_into_itself(self, d, below):
        os.makedirs(d / "a" / "sub")
        with fails_with(errno.EINVAL):
            os.rename(d / "a", d / "a" / below)

    def test_onto_its_own_ancestor(self, d):
        os.makedirs(d / "a" / "b" / "c")
        with fails_with(errno.ENOTEMPTY):
            os.rename(d / "a" / "b" / "c", d / "a")

    def test_missing(self, d):
        with fails_with(errno.ENOENT):
            os.rename(d / "none", d / "b")

    @pytest.mark.parametrize("name", [".", ".."])
    def test_dots(self, two, name):
        with fails_with(errno.EBUSY):
            os.rename(f"{two[0]}/{name}", two[1] / "x")
        with fails_with(errno.EBUSY):
            os.rename(two[0], f"{two[1]}/{name}")

    def test_name_too_long(self, d):
        touch(d / "a")
        with fails_with(errno.ENAMETOOLONG):
            os.rename(d / "a", d / ("n" * 256))
        os.rename(d / "a", d / ("n" * 255))

    def test_to_another_file_system(self, d, tmp_path):
        touch(d / "a")
        with fails_with(errno.EXDEV):
            os.rename(d / "a", tmp_path / "b")

    def test_into_a_removed_directory(self, two):
        touch(two[0] / "a")
        fd = os.open(two[1], os.O_RDONLY)
        os.rmdir(two[1])
        with fails_with(errno.ENOENT):
            os.rename(two[0] / "a", "a", dst_dir_fd=fd)
        os.close(fd)

    def test_back_and_forth(self, two):
        touch(two[0] / "a", b"traveller")
        for _ in range(100):
            os.rename(two[0] / "a", two[1] / "b")
            os.rename(two[1] / "b", two[0] / "a")
        assert (two[0] / "a").read_bytes() == b"traveller"
        assert os.listdir(two[1]) == []

    def test_onto_a_name_of_another_length(self, d):
        touch(d / "short", b"short")
        touch(d / ("l" * 200), b"long")
        os.rename(d / "short", d / ("l" * 200))
        os.rename(d / ("l" * 200), d / "s")
        assert (d / "s").read_bytes() == b"short"
        assert os.listdir(d) == ["s"]


class TestNoReplace:
    """RENAME_NOREPLACE."""

    @new_kinds
    def test_onto_something(self, d, new):
        touch(d / "a", b"stays")
        KINDS[new](d / "b")
        with fails_with(errno.EEXIST):
            renameat2(d / "a", d / "b", RENAME_NOREPLACE)
        assert (d / "a").read_bytes() == b"stays"

    @old_kinds
    def test_to_a_free_name(self, d, old):
        KINDS[old](d / "a")
        moved = identity(d / "a")
        renameat2(d / "a", d / "b", RENAME_NOREPLACE)
        assert identity(d / "b") == moved

    def test_onto_a_name_of_the_same_file(self, d):
        touch(d / "a")
        os.link(d / "a", d / "b")
        with fails_with(errno.EEXIST):
            renameat2(d / "a", d / "b", RENAME_NOREPLACE)


class TestExchange:
    """RENAME_EXCHANGE."""

    @old_kinds
    @new_kinds
    @pytest.mark.parametrize("across", [False, True], ids=["within", "across"])
    def test_every_kind(self, two, old, new, across):
        a, b = two[0] / "a", two[1 if across else 0] / "b"
        KINDS[old](a)
        KINDS[new](b)
        before = identity(a), identity(b)
        renameat2(a, b, RENAME_EXCHANGE)
        assert (identity(b), identity(a)) == before
        TestMatrix.check_link_counts(two)

    def test_parent_of_directories(self, two):
        full_directory(two[0] / "a")
        os.mkdir(two[1] / "b")
        renameat2(two[0] / "a", two[1] / "b", RENAME_EXCHANGE)
        assert os.stat(two[1] / "b" / "..").st_ino == os.stat(two[1]).st_ino
        assert os.stat(two[0] / "a" / "..").st_ino == os.stat(two[0]).st_ino
        assert (two[1] / "b" / "file").read_bytes() == b"in a full directory"

    def test_missing_target(self, d):
        touch(d / "a")
        with fails_with(errno.ENOENT):
            renameat2(d / "a", d / "b", RENAME_EXCHANGE)

    def test_with_its_own_descendant(self, d):
        os.makedirs(d / "a" / "b")
        for old, new in (("a", "a/b"), ("a/b", "a")):
            with fails_with(errno.EINVAL, errno.ENOTEMPTY):
                renameat2(d / old, d / new, RENAME_EXCHANGE)

    def test_with_itself(self, d):
        touch(d / "a", b"same")
        renameat2(d / "a", d / "a", RENAME_EXCHANGE)
        assert (d / "a").read_bytes() == b"same"

    def test_with_another_name_of_the_same_file(self, d):
        touch(d / "a")
        os.link(d / "a", d / "b")
        renameat2(d / "a", d / "b", RENAME_EXCHANGE)
        assert os.stat(d / "a").st_nlink == 2


class TestFlags:
    """Flags that do not go together, and the whiteout."""

    @pytest.mark.parametrize("flags", [
        RENAME_NOREPLACE | RENAME_EXCHANGE, RENAME_WHITEOUT | RENAME_EXCHANGE, 8, 1 << 30])
    def test_refused(self, d, flags):
        touch(d / "a")
        touch(d / "b")
        with fails_with(errno.EINVAL):
            renameat2(d / "a", d / "b", flags)

    @needs_root
    @pytest.mark.parametrize("replace", [False, True], ids=["free", "replace"])
    def test_whiteout_stays_behind(self, two, replace):
        touch(two[0] / "a", b"moved")
        if replace:
            touch(two[1] / "b", b"replaced")
        renameat2(two[0] / "a", two[1] / "b", RENAME_WHITEOUT)
        assert (two[1] / "b").read_bytes() == b"moved"
        left = os.lstat(two[0] / "a")
        assert stat.S_ISCHR(left.st_mode) and left.st_rdev == 0

    @needs_root
    def test_whiteout_within_a_directory(self, d):
        touch(d / "a", b"moved")
        renameat2(d / "a", d / "b", RENAME_WHITEOUT)
        assert sorted(os.listdir(d)) == ["a", "b"]
        os.unlink(d / "a")
        assert os.listdir(d) == ["b"]


class TestFull:
    """A mount without a free byte: rename needs none."""

    def test_rotation_and_move(self, make_fs):
        mnt = make_fs(size="2m", tmpfsd="ram=1m").mnt
        os.makedirs(mnt / "log")
        os.mkdir(mnt / "old")
        for number in range(20):
            touch(mnt / "log" / f"log.{number}")
        with open(mnt / "data", "wb", buffering=0) as file, fails_with(errno.ENOSPC):
            while True:
                file.write(bytes(1 << 12))
        for number in reversed(range(20)):
            os.rename(mnt / "log" / f"log.{number}", mnt / "log" / f"log.{number + 1}")
        long = "n" * 230
        for number in range(1, 21):
            os.rename(mnt / "log" / f"log.{number}", mnt / "old" / f"{long}.{number}")
        assert sorted(os.listdir(mnt / "old")) == sorted(f"{long}.{number}" for number in range(1, 21))
        assert not os.listdir(mnt / "log")
