"""tests/mount/test_native_files.py: files without a name, and copies inside the mount, on both file systems."""

import errno
import mmap
import os
from pathlib import Path
from typing import Callable

import pytest
from mountlib import NOBODY, PAGE, Mounted, as_user, fails_with, linkat_following, needs_root, touch


@pytest.fixture
def mounted(make_fs: Callable[..., Mounted]) -> Mounted:
    return make_fs(tmpfsd="ram=4m,edge=native", size="64m", nr_inodes="20", mode="1777")


@pytest.fixture
def d(mounted: Mounted) -> Path:
    return mounted.mnt


class TestTmpfile:
    def test_given_a_name(self, d: Path) -> None:
        fd = os.open(d, os.O_TMPFILE | os.O_RDWR, 0o640)
        os.write(fd, b"x" * 100_000)
        assert (os.fstat(fd).st_nlink, os.fstat(fd).st_mode, os.listdir(d)) == (0, 0o100640, [])
        linkat_following(f"/proc/self/fd/{fd}", d / "name")
        os.close(fd)
        assert (d / "name").read_bytes() == b"x" * 100_000 and os.stat(d / "name").st_nlink == 1
        os.unlink(d / "name")

    def test_o_excl_forbids_a_name(self, d: Path) -> None:
        fd = os.open(d, os.O_TMPFILE | os.O_EXCL | os.O_RDWR, 0o640)
        os.write(fd, b"x")
        with fails_with(errno.ENOENT):
            linkat_following(f"/proc/self/fd/{fd}", d / "name")
        os.close(fd)

    def test_a_name_that_is_gone_comes_not_back(self, d: Path) -> None:
        fd = os.open(d, os.O_TMPFILE | os.O_RDWR, 0o640)
        linkat_following(f"/proc/self/fd/{fd}", d / "name")
        os.unlink(d / "name")
        with fails_with(errno.ENOENT):
            linkat_following(f"/proc/self/fd/{fd}", d / "name")
        os.close(fd)

    def test_gone_when_closed(self, d: Path) -> None:
        before = os.statvfs(d)
        for _ in range(50):
            fd = os.open(d, os.O_TMPFILE | os.O_RDWR, 0o600)
            os.write(fd, b"x" * (4 << 20))
            os.close(fd)
        after = os.statvfs(d)
        assert after.f_ffree == before.f_ffree and before.f_bfree - after.f_bfree < 2000

    @needs_root
    def test_owner_umask_and_setgid(self, d: Path) -> None:
        os.mkdir(d / "dir")
        os.chown(d / "dir", 0, 4321)
        os.chmod(d / "dir", 0o2777)

        def make() -> tuple[int, int, int]:
            os.umask(0o027)
            fd = os.open(d / "dir", os.O_TMPFILE | os.O_RDWR, 0o666)
            status = os.fstat(fd)
            return status.st_uid, status.st_gid, status.st_mode

        assert as_user(make) == [NOBODY, 4321, 0o100640]

    def test_in_a_directory_that_is_gone(self, d: Path) -> None:
        os.mkdir(d / "dir")
        fd = os.open(d / "dir", os.O_RDONLY)
        os.rmdir(d / "dir")
        os.close(os.open(f"/proc/self/fd/{fd}", os.O_TMPFILE | os.O_RDWR, 0o666))
        os.close(fd)

    def test_nr_inodes(self, d: Path) -> None:
        count = 0
        with fails_with(errno.ENOSPC):
            for count in range(30):
                touch(d / f"{count}")
        with fails_with(errno.ENOSPC):
            os.open(d, os.O_TMPFILE | os.O_RDWR, 0o666)
        os.unlink(d / "0")


class TestCopyRange:
    def test_pieces(self, d: Path) -> None:
        data = os.urandom(3 * PAGE + 17) + bytes(20 * PAGE) + os.urandom(2_500_000)
        touch(d / "a", data)
        source, target = os.open(d / "a", os.O_RDONLY), os.open(d / "b", os.O_RDWR | os.O_CREAT)
        done = 0
        while done < len(data):
            done += (n := os.copy_file_range(source, target, len(data) - done, done, done))
            assert n
        assert (d / "b").read_bytes() == data and not os.copy_file_range(source, target, 10, len(data), 0)
        assert os.copy_file_range(source, target, 100, 5, 7) == 100
        assert os.pread(target, 200, 0) == data[:7] + data[5:105] + data[107:200]
        os.close(source)
        os.close(target)

    def test_within_a_file(self, d: Path) -> None:
        touch(d / "a", b"a" * PAGE + b"b" * PAGE)
        fd = os.open(d / "a", os.O_RDWR)
        with fails_with(errno.EINVAL):
            os.copy_file_range(fd, fd, PAGE, 0, PAGE - 1)
        assert os.copy_file_range(fd, fd, PAGE, 0, 2 * PAGE) == PAGE
        assert (d / "a").read_bytes() == b"a" * PAGE + b"b" * PAGE + b"a" * PAGE
        os.close(fd)

    def test_what_is_dirty_in_a_mapping_is_copied(self, d: Path) -> None:
        touch(d / "a", bytes(2 * PAGE))
        fd, other = os.open(d / "a", os.O_RDWR), os.open(d / "b", os.O_RDWR | os.O_CREAT)
        with mmap.mmap(fd, 2 * PAGE) as view:
            view[PAGE:PAGE + 5] = b"hello"
            assert os.copy_file_range(fd, other, 2 * PAGE) == 2 * PAGE
        assert os.pread(other, 5, PAGE) == b"hello"
        os.close(fd)
        os.close(other)

    @needs_root
    def test_set_id_bits_go(self, d: Path) -> None:
        touch(d / "a", b"data")
        touch(d / "b", b"", 0o666)
        os.chmod(d / "b", 0o6777)

        def copy() -> int:
            source, target = os.open(d / "a", os.O_RDONLY), os.open(d / "b", os.O_RDWR)
            return os.copy_file_range(source, target, 4)

        assert as_user(copy) == 4
        assert os.stat(d / "b").st_mode == 0o100777

    def test_times_move(self, d: Path) -> None:
        touch(d / "a", b"data")
        touch(d / "b")
        os.utime(d / "b", (5, 5))
        source, target = os.open(d / "a", os.O_RDONLY), os.open(d / "b", os.O_RDWR)
        os.copy_file_range(source, target, 4)
        assert os.fstat(target).st_mtime > 5 and os.fstat(target).st_size == 4
        os.close(source)
        os.close(target)
