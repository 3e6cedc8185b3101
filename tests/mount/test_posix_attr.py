"""tests/mount/test_posix_attr.py: modes, owners, times, sizes and numbers of files.

Who may do what to whom is in test_posix_perm.py.
"""

import errno
import os
import stat
import time
from pathlib import Path
from typing import Callable

import pytest
from mountlib import (
    RENAME_EXCHANGE, RENAME_WHITEOUT, UTIME_NOW, UTIME_OMIT, fails_with, make_one, needs_root, renameat2, touch,
    utimensat
)

NS = 1_000_000_000
OLD = 1_000_000_007 * NS + 123_456_789


class TestMode:
    """chmod() and the bits of a new file."""

    @pytest.mark.parametrize("mode", [0o000, 0o400, 0o644, 0o777, 0o1777, 0o2755, 0o4755, 0o7777])
    def test_chmod(self, d, mode):
        touch(d / "x")
        os.chmod(d / "x", mode)
        assert os.stat(d / "x").st_mode == stat.S_IFREG | mode

    @pytest.mark.parametrize("mode", [0o000, 0o1777, 0o7755])
    def test_chmod_of_a_directory(self, d, mode):
        os.mkdir(d / "x")
        os.chmod(d / "x", mode)
        assert os.stat(d / "x").st_mode == stat.S_IFDIR | mode

    def test_fchmod(self, d):
        touch(d / "x")
        fd = os.open(d / "x", os.O_RDONLY)
        os.fchmod(fd, 0o612)
        os.close(fd)
        assert stat.S_IMODE(os.stat(d / "x").st_mode) == 0o612

    def test_chmod_through_a_symlink(self, d):
        touch(d / "x")
        os.symlink("x", d / "link")
        os.chmod(d / "link", 0o601)
        assert stat.S_IMODE(os.stat(d / "x").st_mode) == 0o601
        assert stat.S_IMODE(os.lstat(d / "link").st_mode) == 0o777

    @pytest.mark.parametrize("mask", [0, 0o022, 0o077, 0o777])
    def test_umask(self, d, mask):
        before = os.umask(mask)
        try:
            touch(d / "file", mode=0o666)
            os.mkdir(d / "directory", 0o777)
            os.mkfifo(d / "fifo", 0o666)
        finally:
            os.umask(before)
        assert stat.S_IMODE(os.stat(d / "file").st_mode) == 0o666 & ~mask
        assert stat.S_IMODE(os.stat(d / "directory").st_mode) == 0o777 & ~mask
        assert stat.S_IMODE(os.stat(d / "fifo").st_mode) == 0o666 & ~mask

    def test_mode_of_the_open_that_makes_it_does_not_bind_that_open(self, d):
        fd = os.open(d / "x", os.O_CREAT | os.O_RDWR, 0)
        assert os.write(fd, b"w") == 1
        os.close(fd)

    @pytest.mark.parametrize("bits", [0o4755, 0o2755, 0o1755])
    def test_special_bits_at_creation(self, d, bits):
        before = os.umask(0)
        try:
            os.close(os.open(d / "x", os.O_CREAT | os.O_WRONLY, bits))
        finally:
            os.umask(before)
        assert stat.S_IMODE(os.stat(d / "x").st_mode) == bits


@needs_root
class TestOwner:
    """chown()."""

    @pytest.mark.parametrize("owner", [(1, 2), (65534, 65534), (2**31, 2**31 + 1), (2**32 - 2, 2**32 - 2)])
    def test_chown(self, d, owner):
        touch(d / "x")
        os.chown(d / "x", *owner)
        status = os.stat(d / "x")
        assert (status.st_uid, status.st_gid) == owner

    def test_one_of_both(self, d):
        touch(d / "x")
        os.chown(d / "x", 5, -1)
        os.chown(d / "x", -1, 6)
        status = os.stat(d / "x")
        assert (status.st_uid, status.st_gid) == (5, 6)

    def test_lchown(self, d):
        touch(d / "x")
        os.symlink("x", d / "link")
        os.lchown(d / "link", 7, 8)
        assert (os.lstat(d / "link").st_uid, os.stat(d / "x").st_uid) == (7, 0)

    def test_fchown_without_a_name(self, d):
        fd = os.open(d / "x", os.O_CREAT | os.O_RDWR)
        os.unlink(d / "x")
        os.fchown(fd, 9, 10)
        assert (os.fstat(fd).st_uid, os.fstat(fd).st_gid) == (9, 10)
        os.close(fd)


class TestSetTimes:
    """utimensat()."""

    @pytest.mark.parametrize("seconds", [
        -1, 0, 1, -(2**31), -(2**31) - 1, 2**31 - 1, 2**31, 2**32, 2**33, 2**34, 9_223_372_036, 9_223_372_037,
        15_032_385_535, 15_032_385_536, -9_223_372_037, 2**40, 253_402_300_800])
    def test_far_times(self, d, seconds):
        # 2^63 ns begin in 1677 and end in 2262, ext4's 34 bits of seconds in 2446; tmpfs keeps all 64 bits.
        touch(d / "x")
        times = (seconds * NS + 999_999_999, seconds * NS + 1)
        utimensat(d / "x", *times)
        status = os.stat(d / "x")
        assert (status.st_atime_ns, status.st_mtime_ns) == times

    @pytest.mark.parametrize("what", ["file", "directory", "symlink", "fifo"])
    def test_every_kind(self, d, what):
        make_one(what, d / "x")
        os.utime(d / "x", ns=(OLD, OLD + 1), follow_symlinks=False)
        status = os.lstat(d / "x")
        assert (status.st_atime_ns, status.st_mtime_ns) == (OLD, OLD + 1)

    def test_now(self, d):
        touch(d / "x")
        os.utime(d / "x", ns=(OLD, OLD))
        before = time.time_ns()
        utimensat(d / "x", UTIME_NOW, UTIME_NOW)
        status = os.stat(d / "x")
        assert before - 50_000_000 <= status.st_mtime_ns <= time.time_ns()
        assert before - 50_000_000 <= status.st_atime_ns <= time.time_ns()

    def test_omit(self, d):
        touch(d / "x")
        os.utime(d / "x", ns=(OLD, OLD + 1))
        utimensat(d / "x", UTIME_OMIT, OLD + 2)
        assert (os.stat(d / "x").st_atime_ns, os.stat(d / "x").st_mtime_ns) == (OLD, OLD + 2)
        utimensat(d / "x", OLD + 3, UTIME_OMIT)
        assert (os.stat(d / "x").st_atime_ns, os.stat(d / "x").st_mtime_ns) == (OLD + 3, OLD + 2)

    def test_omit_both_changes_nothing(self, d):
        touch(d / "x")
        before = os.stat(d / "x")
        time.sleep(0.01)
        utimensat(d / "x", UTIME_OMIT, UTIME_OMIT)
        assert os.stat(d / "x").st_ctime_ns == before.st_ctime_ns

    def test_one_now(self, d):
        touch(d / "x")
        os.utime(d / "x", ns=(OLD, OLD))
        utimensat(d / "x", UTIME_NOW, OLD + 5)
        status = os.stat(d / "x")
        assert status.st_mtime_ns == OLD + 5
        assert status.st_atime_ns > OLD

    def test_nanoseconds_out_of_range(self, d):
        touch(d / "x")
        with fails_with(errno.EINVAL):
            utimensat(d / "x", (1, 1_000_000_000), OLD)


def tree(d: Path) -> None:
    """What the rows of TIME_RULES work on."""
    for name in ("f", "g"):
        touch(d / name, b"content")
    for name in ("one", "two", "one/sub"):
        os.mkdir(d / name)
    touch(d / "one" / "f")
    touch(d / "two" / "g")
    os.symlink("f", d / "link")


def with_fd(action: Callable[[int], object], flags: int = os.O_RDWR) -> Callable[[Path], None]:
    """action on the open file f."""
    def run(d: Path) -> None:
        fd = os.open(d / "f", flags)
        try:
            action(fd)
        finally:
            os.close(fd)
    return run


# name: (operation, {file: which of m(time) and c(time) it changes}); what is not named stays as it was.
TIME_RULES: dict[str, tuple[Callable[[Path], object], dict[str, str]]] = {
    "write": (with_fd(lambda fd: os.write(fd, b"x")), {"f": "mc"}),
    "write nothing": (with_fd(lambda fd: os.write(fd, b"")), {}),
    "read": (with_fd(lambda fd: os.read(fd, 10)), {}),
    "open": (with_fd(lambda fd: None), {}),
    "open with O_TRUNC": (with_fd(lambda fd: None, os.O_WRONLY | os.O_TRUNC), {"f": "mc"}),
    "truncate shorter": (lambda d: os.truncate(d / "f", 3), {"f": "mc"}),
    "truncate longer": (lambda d: os.truncate(d / "f", 300), {"f": "mc"}),
    "truncate to the same size": (lambda d: os.truncate(d / "f", 7), {"f": "mc"}),
    "truncate of nothing to nothing": (lambda d: os.truncate(d / "one" / "f", 0), {}),
    "ftruncate to the same size": (with_fd(lambda fd: os.ftruncate(fd, 7)), {"f": "mc"}),
    "chmod": (lambda d: os.chmod(d / "f", 0o600), {"f": "c"}),
    "chmod to the same mode": (lambda d: os.chmod(d / "f", os.stat(d / "f").st_mode), {"f": "c"}),
    "chown": (lambda d: os.chown(d / "f", os.getuid(), os.getgid()), {"f": "c"}),
    "utime": (lambda d: os.utime(d / "f", ns=(OLD, OLD)), {"f": "mc"}),
    "create": (lambda d: touch(d / "one" / "new"), {"one": "mc"}),
    "open of what is there with O_CREAT": (lambda d: os.close(os.open(d / "one" / "f", os.O_CREAT)), {}),
    "mkdir": (lambda d: os.mkdir(d / "one" / "new"), {"one": "mc"}),
    "symlink": (lambda d: os.symlink("x", d / "one" / "new"), {"one": "mc"}),
    "mkfifo": (lambda d: os.mkfifo(d / "one" / "new"), {"one": "mc"}),
    "link": (lambda d: os.link(d / "f", d / "one" / "new"), {"f": "c", "one": "mc"}),
    "unlink": (lambda d: os.unlink(d / "one" / "f"), {"one": "mc", "one/f": "c"}),
    "rmdir": (lambda d: os.rmdir(d / "one" / "sub"), {"one": "mc", "one/sub": "c"}),
    "rename within": (lambda d: os.rename(d / "one" / "f", d / "one" / "n"), {"one": "mc", "one/f": "c"}),
    "rename across": (lambda d: os.rename(d / "one" / "f", d / "two" / "n"),
                      {"one": "mc", "two": "mc", "one/f": "c"}),
    "rename of a directory": (lambda d: os.rename(d / "one" / "sub", d / "two" / "sub"),
                              {"one": "mc", "two": "mc", "one/sub": "c"}),
    "rename over": (lambda d: os.rename(d / "one" / "f", d / "two" / "g"),
                    {"one": "mc", "two": "mc", "one/f": "c", "two/g": "c"}),
    "exchange": (lambda d: renameat2(d / "one" / "f", d / "two" / "g", RENAME_EXCHANGE),
                 {"one": "mc", "two": "mc", "one/f": "c", "two/g": "c"}),
    "exchange of directories": (lambda d: renameat2(d / "one" / "sub", d / "f", RENAME_EXCHANGE),
                                {"one": "mc", "one/sub": "c", "f": "c", ".": "mc"}),
    "setxattr": (lambda d: os.setxattr(d / "f", "user.x", b"1"), {"f": "c"}),
    "failed create": (lambda d: pytest.raises(FileExistsError, os.mkdir, d / "one" / "f"), {}),
    "failed rmdir": (lambda d: pytest.raises(OSError, os.rmdir, d / "one"), {}),
    "lookup of a missing name": (lambda d: os.path.lexists(d / "one" / "none"), {}),
    "readlink": (lambda d: os.readlink(d / "link"), {}),
    "listdir": (lambda d: os.listdir(d / "one"), {}),
}


class TestTimeRules:
    """Which operation changes whose mtime and ctime."""

    @pytest.mark.parametrize("name", TIME_RULES)
    def test_rule(self, d, fs, name):
        if name == "truncate of nothing to nothing" and fs.edge == "native":
            pytest.skip("without OPEN it is the same request as open(O_TRUNC), which sets the times")
        tree(d)
        operation, expected = TIME_RULES[name]
        watched = [".", "f", "g", "one", "two", "one/f", "one/sub", "two/g", "link"]
        handles = {path: os.open(d / path, os.O_PATH | os.O_NOFOLLOW) for path in watched}
        before = {path: os.fstat(fd) for path, fd in handles.items()}
        time.sleep(0.01)  # the kernel's clock of file times may tick every 4 ms only
        operation(d)
        after = {path: os.fstat(fd) for path, fd in handles.items()}
        for fd in handles.values():
            os.close(fd)
        changed = {path: ("m" if before[path].st_mtime_ns != after[path].st_mtime_ns else "")
                   + ("c" if before[path].st_ctime_ns != after[path].st_ctime_ns else "") for path in watched}
        assert {path: letters for path, letters in changed.items() if letters} == expected

    @needs_root
    def test_whiteout(self, d):
        tree(d)
        renameat2(d / "one" / "f", d / "one" / "n", RENAME_WHITEOUT)
        assert os.lstat(d / "one" / "f").st_mtime_ns >= os.lstat(d / "one" / "n").st_mtime_ns

    def test_new_file_has_the_time_of_now(self, d):
        before = time.time_ns() - 50_000_000
        touch(d / "x")
        status = os.stat(d / "x")
        assert before <= status.st_mtime_ns == status.st_ctime_ns <= time.time_ns()
        assert before <= status.st_atime_ns <= time.time_ns()

    def test_first_read_of_an_old_file_sets_atime(self, d):
        touch(d / "x", b"content")
        os.utime(d / "x", ns=(OLD, OLD))
        fd = os.open(d / "x", os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.read(fd, 10)
        os.close(fd)
        assert os.stat(d / "x").st_atime_ns > OLD

    def test_listing_an_old_directory_sets_atime(self, d):
        os.mkdir(d / "sub")
        touch(d / "sub" / "x")
        os.utime(d / "sub", ns=(OLD, OLD))
        os.listdir(d / "sub")
        assert os.stat(d / "sub").st_atime_ns > OLD

    def test_write_through_one_name_shows_at_the_other(self, d):
        touch(d / "a")
        os.link(d / "a", d / "b")
        os.stat(d / "b")
        time.sleep(0.01)
        touch(d / "a", b"longer")
        assert os.stat(d / "b") == os.stat(d / "a")
        assert os.stat(d / "b").st_size == 6

    def test_stamps_never_go_back(self, d):
        """Some are of the server's making, some of the kernel's: both must be of one clock."""
        steps = (lambda path: touch(path, b"x"), lambda path: utimensat(path, UTIME_NOW, UTIME_NOW),
                 lambda path: os.chmod(path, 0o600), lambda path: utimensat(path, UTIME_NOW, UTIME_NOW),
                 lambda path: touch(path, b"yy"), os.utime, lambda path: os.truncate(path, 1), os.utime,
                 lambda path: os.setxattr(path, "trusted.x" if os.geteuid() == 0 else "user.x", b"y"))
        for number in range(200):
            path, last = d / f"{number}", (0, 0)
            for i, step in enumerate(steps):
                step(path)
                status = os.stat(path)
                stamps = status.st_mtime_ns, status.st_ctime_ns
                assert stamps[0] >= last[0] and stamps[1] >= last[1], f"file {number}, step {i}: {stamps} after {last}"
                last = stamps


class TestNumbers:
    """Sizes, blocks, inode numbers and statfs()."""

    def test_blocks_of_data(self, d):
        touch(d / "x", b"x" * 100_000)
        assert 196 <= os.stat(d / "x").st_blocks <= 256
        assert os.stat(d / "x").st_size == 100_000

    def test_blocks_of_a_hole(self, d):
        touch(d / "x")
        os.truncate(d / "x", 1 << 40)
        assert os.stat(d / "x").st_blocks == 0

    def test_block_size(self, d):
        touch(d / "x")
        assert os.stat(d / "x").st_blksize >= 512

    def test_one_device(self, fs, d):
        touch(d / "x")
        os.mkdir(d / "sub")
        assert len({os.lstat(path).st_dev for path in (fs.mnt, d, d / "x", d / "sub")}) == 1

    def test_inode_numbers_differ(self, d):
        for number in range(1000):
            touch(d / str(number))
        with os.scandir(d) as entries:
            numbers = {entry.name: entry.inode() for entry in entries}
        assert len(set(numbers.values())) == 1000
        assert all(os.stat(d / name).st_ino == ino for name, ino in numbers.items())

    def test_inode_number_stays(self, d):
        touch(d / "x")
        number = os.stat(d / "x").st_ino
        os.rename(d / "x", d / "y")
        touch(d / "y", b"content")
        os.chmod(d / "y", 0o600)
        assert os.stat(d / "y").st_ino == number

    @needs_root
    def test_all_stays_when_the_kernel_forgets(self, d):
        for number in range(100):
            touch(d / str(number), b"%d" % number, mode=0o600 + number % 64)
        before = {name: os.stat(d / name) for name in os.listdir(d)}
        Path("/proc/sys/vm/drop_caches").write_text("2")
        assert {name: os.stat(d / name) for name in os.listdir(d)} == before
        for name in before:
            assert (d / name).read_bytes() == name.encode()

    def test_statfs(self, fs):
        status = os.statvfs(fs.mnt)
        assert status.f_namemax == 255
        assert status.f_blocks * status.f_frsize == 1 << 30
        assert 0 < status.f_bavail <= status.f_bfree <= status.f_blocks
        assert 0 < status.f_ffree <= status.f_files or status.f_files == 0

    def test_statfs_counts_data(self, fs, d):
        before = os.statvfs(fs.mnt)
        touch(d / "x", b"x" * (1 << 20))
        with_file = os.statvfs(fs.mnt)
        os.unlink(d / "x")
        assert 256 <= (before.f_bfree - with_file.f_bfree) * before.f_frsize // 4096 <= 280

    def test_root_mode(self, fs):
        assert stat.S_IMODE(os.stat(fs.mnt).st_mode) == 0o1777
        assert os.stat(fs.mnt).st_uid == os.getuid()


class TestOpenFlags:
    """open() and its flags."""

    def test_trunc(self, d):
        touch(d / "x", b"long content")
        os.close(os.open(d / "x", os.O_WRONLY | os.O_TRUNC))
        assert (d / "x").read_bytes() == b""

    def test_creat_keeps_content(self, d):
        touch(d / "x", b"content")
        os.close(os.open(d / "x", os.O_WRONLY | os.O_CREAT))
        assert (d / "x").read_bytes() == b"content"

    def test_excl_on_a_dangling_symlink(self, d):
        os.symlink("none", d / "link")
        with fails_with(errno.EEXIST):
            os.open(d / "link", os.O_CREAT | os.O_EXCL | os.O_WRONLY)

    def test_append(self, d):
        touch(d / "x", b"one")
        fd = os.open(d / "x", os.O_RDWR | os.O_APPEND)
        os.lseek(fd, 0, os.SEEK_SET)
        os.write(fd, b"two")
        assert os.pread(fd, 10, 0) == b"onetwo"
        os.close(fd)

    def test_directory_on_a_file(self, d):
        touch(d / "x")
        with fails_with(errno.ENOTDIR):
            os.open(d / "x", os.O_RDONLY | os.O_DIRECTORY)

    def test_nofollow_on_a_symlink(self, d):
        os.symlink("x", d / "link")
        with fails_with(errno.ELOOP):
            os.open(d / "link", os.O_RDONLY | os.O_NOFOLLOW)

    def test_missing(self, d):
        with fails_with(errno.ENOENT):
            os.open(d / "x", os.O_RDWR)

    def test_trailing_slash_on_a_file(self, d):
        touch(d / "x")
        with fails_with(errno.ENOTDIR):
            os.open(f"{d}/x/", os.O_RDONLY)

    def test_creat_with_a_trailing_slash(self, d):
        with fails_with(errno.EISDIR):
            os.open(f"{d}/x/", os.O_CREAT | os.O_WRONLY)

    def test_write_to_a_read_only_descriptor(self, d):
        touch(d / "x")
        fd = os.open(d / "x", os.O_RDONLY)
        with fails_with(errno.EBADF):
            os.write(fd, b"x")
        os.close(fd)

    def test_path_descriptor(self, d):
        touch(d / "x", b"content")
        fd = os.open(d / "x", os.O_PATH)
        assert os.fstat(fd).st_size == 7
        with fails_with(errno.EBADF):
            os.read(fd, 1)
        os.close(fd)
