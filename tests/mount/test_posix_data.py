"""tests/mount/test_posix_data.py: written bytes come back; holes, ends and limits of files.

The model test plays seeded random operations against a bytearray, with offsets and sizes around the places
where representations change: inline, small string, page, kernel request, B+tree leaf.
"""

import errno
import os
import random
import resource
import shutil
from functools import partial
from pathlib import Path

import pytest
from mountlib import PAGE, as_user, eventually, fails_with, in_child, needs_root, reap, spawn, touch

BOUNDARIES = (0, 1, 47, 48, 49, 100, 2047, 2048, 2049, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE, 65_535, 65_536,
              65_537, 131_072, 1_048_575, 1_048_576, 1_048_577)
LARGEST = (1 << 63) - 1


@pytest.fixture
def fd(d):
    """An empty file, open for reading and writing."""
    descriptor = os.open(d / "x", os.O_RDWR | os.O_CREAT)
    yield descriptor
    os.close(descriptor)


def write_all(fd: int, data: bytes, offset: int = 0) -> None:
    """pwrite() until all is written."""
    while data:
        done = os.pwrite(fd, data, offset)
        data, offset = data[done:], offset + done


def read_all(fd: int, size: int, offset: int = 0) -> bytes:
    """pread() until size bytes or the end."""
    parts = []
    while size > 0 and (part := os.pread(fd, size, offset)):
        parts.append(part)
        size, offset = size - len(part), offset + len(part)
    return b"".join(parts)


def drop_cache(fd: int) -> None:
    """Make the next read ask the file system itself, where the kernel holds a copy."""
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


class TestWhole:
    """A file written in one go."""

    @pytest.mark.parametrize("size", BOUNDARIES)
    def test_comes_back(self, d, fd, size):
        data = random.Random(size).randbytes(size)
        write_all(fd, data)
        drop_cache(fd)
        assert os.fstat(fd).st_size == size
        assert read_all(fd, size + 10) == data

    @pytest.mark.parametrize("size", BOUNDARIES[1:])
    def test_grows_by_appending(self, d, size):
        data, step = random.Random(size).randbytes(size), max(1, size // 7)
        fd = os.open(d / "x", os.O_RDWR | os.O_CREAT | os.O_APPEND)
        for at in range(0, size, step):
            os.write(fd, data[at:at + step])
        drop_cache(fd)
        assert read_all(fd, size + 10) == data
        os.close(fd)

    def test_byte_by_byte(self, fd):
        for number in range(300):
            os.write(fd, bytes([number % 256]))
        drop_cache(fd)
        assert os.pread(fd, 1000, 0) == bytes(number % 256 for number in range(300))

    def test_copy_of_a_tree(self, d):
        os.makedirs(d / "a" / "b")
        for size in BOUNDARIES:
            touch(d / "a" / "b" / str(size), random.Random(size).randbytes(size))
        shutil.copytree(d / "a", d / "copy", symlinks=True)
        for size in BOUNDARIES:
            assert (d / "copy" / "b" / str(size)).read_bytes() == random.Random(size).randbytes(size)

    def test_copy_file_range(self, d, fd):
        write_all(fd, b"abcdefgh" * 10_000)
        copy = os.open(d / "copy", os.O_RDWR | os.O_CREAT)
        done = 0
        while done < 80_000:
            done += os.copy_file_range(fd, copy, 80_000 - done, done, done)
        assert read_all(copy, 100_000) == b"abcdefgh" * 10_000
        os.close(copy)

    def test_sendfile(self, d, fd):
        write_all(fd, b"x" * 50_000)
        copy = os.open(d / "copy", os.O_RDWR | os.O_CREAT)
        assert os.sendfile(copy, fd, 0, 50_000) == 50_000
        assert os.fstat(copy).st_size == 50_000
        os.close(copy)

    def test_vectors(self, fd):
        assert os.writev(fd, [b"one", b"", b"three" * 2000, b"!"]) == 10_004
        parts = [bytearray(3), bytearray(10_000), bytearray(100)]
        assert os.preadv(fd, parts, 0) == 10_004
        assert parts[0] == b"one" and parts[1] == b"three" * 2000 and parts[2][:2] == b"!\0"

    def test_fsync(self, d, fd):
        os.write(fd, b"x")
        os.fsync(fd)
        os.fdatasync(fd)
        directory = os.open(d, os.O_RDONLY)
        os.fsync(directory)
        os.close(directory)


class TestModel:
    """Random operations against a bytearray."""

    @pytest.mark.parametrize("seed", range(6))
    def test_random(self, d, seed):
        rng, model, path = random.Random(seed), bytearray(), d / "x"
        touch(path)
        fd = os.open(path, os.O_RDWR)
        for step in range(250):
            offset = max(0, rng.choice(BOUNDARIES) + rng.randrange(-3, 4))
            size = rng.choice((1, 5, 48, 100, 2048, PAGE, 10_000, 70_000))
            action = rng.choice(("write", "write", "write", "read", "truncate", "drop", "reopen"))
            if action == "write":
                data = rng.randbytes(size)
                write_all(fd, data, offset)
                model.extend(bytes(max(0, offset - len(model))))
                model[offset:offset + size] = data
            elif action == "truncate":
                os.ftruncate(fd, offset)
                model = model[:offset] + bytes(max(0, offset - len(model)))
            elif action == "read":
                assert read_all(fd, size, offset) == model[offset:offset + size], f"seed {seed} step {step}"
            elif action == "drop":
                drop_cache(fd)
            else:
                os.close(fd)
                fd = os.open(path, os.O_RDWR)
            assert os.fstat(fd).st_size == len(model), f"seed {seed} step {step} {action}"
        drop_cache(fd)
        assert read_all(fd, len(model) + 1) == model, f"seed {seed} end"
        os.close(fd)


class TestTruncate:
    """Both ways; bytes that were cut off never come back."""

    @pytest.mark.parametrize("small, large", [
        (small, large) for small in (0, 1, 47, 48, 49, 2048, PAGE - 1, PAGE, PAGE + 1)
        for large in (50, 2049, PAGE + 2, 70_000) if small < large])
    def test_shrink_then_grow_reads_zeroes(self, fd, small, large):
        write_all(fd, b"\xaa" * large)
        os.ftruncate(fd, small)
        os.ftruncate(fd, large)
        drop_cache(fd)
        assert read_all(fd, large + 1) == b"\xaa" * small + bytes(large - small)

    def test_shrink_then_write_beyond(self, fd):
        write_all(fd, b"\xaa" * 10_000)
        os.ftruncate(fd, 100)
        os.pwrite(fd, b"end", 9000)
        drop_cache(fd)
        assert read_all(fd, 20_000) == b"\xaa" * 100 + bytes(8900) + b"end"

    def test_frees_blocks(self, fd):
        write_all(fd, b"x" * 1_000_000)
        os.ftruncate(fd, 0)
        assert os.fstat(fd).st_blocks == 0

    def test_negative(self, fd):
        with fails_with(errno.EINVAL):
            os.ftruncate(fd, -1)

    def test_of_a_directory(self, d):
        with fails_with(errno.EISDIR):
            os.truncate(d, 0)

    def test_of_a_descriptor_for_reading(self, d, fd):
        reader = os.open(d / "x", os.O_RDONLY)
        with fails_with(errno.EINVAL):
            os.ftruncate(reader, 0)
        os.close(reader)


class TestSparse:
    """Holes cost nothing and read as zeroes."""

    def test_hole_in_front(self, fd):
        os.pwrite(fd, b"end", 1_000_000)
        drop_cache(fd)
        assert read_all(fd, 2_000_000) == bytes(1_000_000) + b"end"
        assert os.fstat(fd).st_blocks <= 64

    @pytest.mark.parametrize("offset", [
        1 << 31, 1 << 32, 1 << 40, 1 << 52, (1 << 62) + 12_345, LARGEST - 5000])
    def test_far_offsets(self, fd, offset):
        os.pwrite(fd, b"far away", offset)
        drop_cache(fd)
        assert os.pread(fd, 100, offset - 4) == b"\0\0\0\0far away"
        assert os.fstat(fd).st_size == offset + 8
        assert os.fstat(fd).st_blocks <= 64

    def test_islands(self, fd):
        rng = random.Random(1)
        islands = {rng.randrange(1 << 50) * PAGE // 4: b"island %d" % number for number in range(200)}
        for offset, data in islands.items():
            os.pwrite(fd, data, offset)
        drop_cache(fd)
        for offset, data in islands.items():
            assert os.pread(fd, len(data), offset) == data

    def test_fill_backwards(self, fd):
        for page in range(200, -1, -1):
            os.pwrite(fd, bytes([page]) * PAGE, page * PAGE)
        drop_cache(fd)
        assert read_all(fd, 1 << 20) == b"".join(bytes([page]) * PAGE for page in range(201))

    def test_the_largest_size(self, fd):
        os.ftruncate(fd, LARGEST)
        assert os.fstat(fd).st_size == LARGEST
        assert os.pread(fd, 4, LARGEST - 4) == bytes(4)
        assert os.pread(fd, 10, 1 << 45) == bytes(10)
        os.ftruncate(fd, 5)
        assert read_all(fd, 100) == bytes(5)

    def test_beyond_the_largest_offset(self, fd):
        with fails_with(errno.EFBIG, errno.EINVAL):
            os.pwrite(fd, b"xy", LARGEST)
        with fails_with(errno.EINVAL):
            os.pwrite(fd, b"x", -1)

    def test_up_to_the_largest_offset(self, fd):
        assert os.pwrite(fd, b"abcd", LARGEST - 4) == 4
        assert os.fstat(fd).st_size == LARGEST
        assert os.pread(fd, 6, LARGEST - 6) == b"\0\0abcd"
        with fails_with(errno.EINVAL):
            os.pwrite(fd, b"abcdef", LARGEST - 4)

    def test_read_at_the_end(self, fd):
        os.write(fd, b"12345")
        assert os.pread(fd, 10, 5) == b""
        assert os.pread(fd, 10, 1 << 50) == b""
        assert os.pread(fd, 10, 4) == b"5"


class TestLimits:
    """A full file system, and limits of the process."""

    @pytest.fixture
    def small(self, make_fs):
        """A file system of 4 MB."""
        return make_fs(size="4m", tmpfsd="ram=2m").mnt

    @staticmethod
    def fill(path: Path) -> int:
        """Write until ENOSPC; returns the number of bytes that write() took."""
        taken = 0
        fd = os.open(path, os.O_WRONLY | os.O_CREAT)
        with fails_with(errno.ENOSPC):
            while True:
                taken += os.write(fd, bytes([taken >> 16 & 255]) * 65_536)
        os.close(fd)
        return taken

    def test_full_of_data(self, small):
        taken = self.fill(small / "x")
        assert 3_500_000 <= taken <= 4 << 20
        assert os.stat(small / "x").st_size == taken
        expected = b"".join(bytes([number]) * 65_536 for number in range(65))[:taken]
        assert (small / "x").read_bytes() == expected

    def test_room_after_removal(self, small):
        first = self.fill(small / "x")
        os.unlink(small / "x")
        # The kernel says a moment later that it has forgotten the file.
        assert eventually(lambda: os.statvfs(small).f_bavail * PAGE >= first - 65_536)
        assert self.fill(small / "x") == pytest.approx(first, abs=65_536)

    def test_full_for_new_files_too(self, small):
        self.fill(small / "x")
        made = 0
        with fails_with(errno.ENOSPC):
            while made < 200_000:
                touch(small / f"{made}-{'n' * 200}", b"some data that needs a page" * 40)
                made += 1
        os.truncate(small / "x", 0)
        touch(small / "room again", b"x" * 10_000)

    def test_full_directory_can_be_emptied(self, small):
        self.fill(small / "x")
        os.rename(small / "x", small / "y")
        os.unlink(small / "y")
        assert os.listdir(small) == []

    def test_sparse_may_be_larger_than_the_file_system(self, small):
        touch(small / "x")
        os.truncate(small / "x", 1 << 40)
        fd = os.open(small / "x", os.O_RDWR)
        os.pwrite(fd, b"x", 1 << 39)
        assert os.pread(fd, 2, 1 << 39) == b"x\0"
        os.close(fd)

    def test_statfs_when_full(self, small):
        self.fill(small / "x")
        status = os.statvfs(small)
        assert status.f_bavail * status.f_frsize < 65_536 * 2
        os.unlink(small / "x")
        assert eventually(lambda: os.statvfs(small).f_bavail * status.f_frsize > 3_500_000)

    def test_nr_inodes(self, make_fs):
        mnt = make_fs(size="16m", nr_inodes="50").mnt
        made = 0
        with fails_with(errno.ENOSPC):
            while made < 100:
                touch(mnt / str(made))
                made += 1
        assert 47 <= made <= 50
        assert os.statvfs(mnt).f_ffree == 0
        os.unlink(mnt / "0")
        assert eventually(lambda: os.statvfs(mnt).f_ffree == 1)  # on FUSE, FORGET comes a moment later
        os.mkdir(mnt / "directory")

    def test_process_limit(self, d):
        def body():
            resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
            fd = os.open(d / "x", os.O_WRONLY | os.O_CREAT)
            assert os.write(fd, b"x" * 10_000) == 5000
            os.write(fd, b"x")

        with fails_with(errno.EFBIG):
            in_child(body)
        assert os.stat(d / "x").st_size == 5000

    def test_process_limit_of_truncate(self, d):
        touch(d / "x")

        def body():
            resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
            os.truncate(d / "x", 5001)

        with fails_with(errno.EFBIG):
            in_child(body)

    @needs_root
    def test_full_for_users_too(self, make_fs):
        mnt = make_fs(size="1m", mode="1777").mnt
        with fails_with(errno.ENOSPC):
            as_user(lambda: touch(mnt / "x", b"x" * (2 << 20)))


class TestTogether:
    """Several processes, one file."""

    def test_appends_do_not_overwrite(self, d):
        def append(letter: bytes) -> None:
            fd = os.open(d / "x", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            for _ in range(500):
                os.write(fd, letter * 37)

        reap(*[spawn(partial(append, letter)) for letter in (b"a", b"b")])
        content = (d / "x").read_bytes()
        records = [content[at:at + 37] for at in range(0, len(content), 37)]
        assert sorted(records) == [b"a" * 37] * 500 + [b"b" * 37] * 500

    def test_one_writes_another_reads(self, d, fd):
        in_child(lambda: write_all(os.open(d / "x", os.O_WRONLY), b"from the child" * 1000))
        assert read_all(fd, 100_000) == b"from the child" * 1000

    def test_shared_offset_after_fork(self, d, fd):
        os.write(fd, b"0123456789")
        os.lseek(fd, 0, os.SEEK_SET)
        in_child(lambda: os.read(fd, 5).decode())
        assert os.read(fd, 5) == b"56789"

    def test_locks(self, d, fd):
        os.lockf(fd, os.F_LOCK, 0)

        def body():
            other = os.open(d / "x", os.O_RDWR)
            os.lockf(other, os.F_TLOCK, 0)

        with fails_with(errno.EAGAIN, errno.EACCES):
            in_child(body)
        os.lockf(fd, os.F_ULOCK, 0)
        in_child(body)

    def test_many_descriptors(self, d):
        touch(d / "x", b"shared")
        fds = [os.open(d / "x", os.O_RDWR) for _ in range(200)]
        os.pwrite(fds[0], b"S", 0)
        assert all(os.pread(fd, 6, 0) == b"Shared" for fd in fds)
        for fd in fds:
            os.close(fd)
