"""tests/mount/test_posix_mmap.py: memory-mapped files, shared, private and across processes."""

import mmap
import os
import random
import signal

import pytest
from mountlib import PAGE, in_child, reap, spawn, touch


@pytest.fixture
def fd(d):
    """A file of ten pages of dots."""
    touch(d / "x", b"." * (10 * PAGE))
    descriptor = os.open(d / "x", os.O_RDWR)
    yield descriptor
    os.close(descriptor)


class TestShared:
    """MAP_SHARED."""

    def test_map_shows_the_file(self, fd):
        with mmap.mmap(fd, 0) as view:
            assert view[:] == b"." * (10 * PAGE)

    def test_write_through_the_map(self, d, fd):
        with mmap.mmap(fd, 0) as view:
            view[5000:5005] = b"hello"
            assert os.pread(fd, 5, 5000) == b"hello"
            view.flush()
        assert (d / "x").read_bytes()[5000:5005] == b"hello"

    def test_write_call_shows_in_the_map(self, fd):
        with mmap.mmap(fd, 0) as view:
            assert view[9000:9003] == b"..."
            os.pwrite(fd, b"new", 9000)
            assert view[9000:9003] == b"new"

    def test_stays_after_unmapping(self, d, fd):
        with mmap.mmap(fd, 0) as view:
            for page in range(10):
                view[page * PAGE] = page
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        assert [(d / "x").read_bytes()[page * PAGE] for page in range(10)] == list(range(10))

    def test_descriptor_may_be_closed(self, d):
        touch(d / "y", b"." * PAGE)
        fd = os.open(d / "y", os.O_RDWR)
        view = mmap.mmap(fd, 0)
        os.close(fd)
        view[0:3] = b"abc"
        view.close()
        assert (d / "y").read_bytes()[:3] == b"abc"

    def test_file_may_be_unlinked(self, d, fd):
        with mmap.mmap(fd, 0) as view:
            os.unlink(d / "x")
            view[0:4] = b"last"
            view.flush()
            assert os.pread(fd, 4, 0) == b"last"

    def test_across_processes(self, d, fd):
        with mmap.mmap(fd, 0) as view:
            def body():
                other = os.open(d / "x", os.O_RDWR)
                with mmap.mmap(other, 0) as theirs:
                    theirs[3 * PAGE:3 * PAGE + 5] = b"child"

            in_child(body)
            assert view[3 * PAGE:3 * PAGE + 5] == b"child"

    def test_inherited_map(self, fd):
        with mmap.mmap(fd, 0) as view:
            reap(spawn(lambda: view.__setitem__(slice(0, 5), b"child")))
            assert view[0:5] == b"child"

    def test_holes(self, d):
        touch(d / "hole")
        os.truncate(d / "hole", 100 * PAGE)
        fd = os.open(d / "hole", os.O_RDWR)
        with mmap.mmap(fd, 0) as view:
            assert view[50 * PAGE:51 * PAGE] == bytes(PAGE)
            view[70 * PAGE + 1] = 255
        assert os.pread(fd, 3, 70 * PAGE) == b"\0\xff\0"
        os.close(fd)

    def test_last_page_beyond_the_end_is_zero(self, d):
        touch(d / "y", b"x" * 100)
        fd = os.open(d / "y", os.O_RDWR)
        with mmap.mmap(fd, 0, access=mmap.ACCESS_READ) as view:
            assert view[:] == b"x" * 100
        os.ftruncate(fd, PAGE)
        assert os.pread(fd, PAGE, 0) == b"x" * 100 + bytes(PAGE - 100)
        os.close(fd)

    def test_random_against_a_model(self, d):
        rng, size = random.Random(3), 100 * PAGE
        touch(d / "y")
        os.truncate(d / "y", size)
        model = bytearray(size)
        fd = os.open(d / "y", os.O_RDWR)
        with mmap.mmap(fd, 0) as view:
            for _ in range(500):
                data, offset = rng.randbytes(rng.randrange(1, 9000)), rng.randrange(size - 9000)
                model[offset:offset + len(data)] = data
                if rng.random() < 0.5:
                    view[offset:offset + len(data)] = data
                else:
                    os.pwrite(fd, data, offset)
            assert view[:] == model
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        assert (d / "y").read_bytes() == model
        os.close(fd)


class TestPrivate:
    """MAP_PRIVATE."""

    def test_write_stays_private(self, d, fd):
        with mmap.mmap(fd, 0, flags=mmap.MAP_PRIVATE) as view:
            view[0:7] = b"private"
            assert view[0:7] == b"private"
            assert os.pread(fd, 7, 0) == b"." * 7

    def test_program_runs_from_the_mount(self, d):
        with open("/bin/true", "rb") as program:
            touch(d / "program", program.read(), mode=0o755)
        assert os.spawnv(os.P_WAIT, d / "program", ["program"]) == 0


class TestTruncation:
    """What happens to a map when its file shrinks and grows."""

    def test_access_beyond_the_end(self, fd):
        view = mmap.mmap(fd, 0)
        assert view[9 * PAGE:9 * PAGE + 1] == b"."
        os.ftruncate(fd, PAGE)
        pid = os.fork()
        if not pid:
            signal.signal(signal.SIGBUS, signal.SIG_DFL)
            view[9 * PAGE]
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGBUS
        view.close()

    def test_zeroes_after_shrinking_and_growing(self, fd):
        with mmap.mmap(fd, 0) as view:
            view[:] = b"x" * (10 * PAGE)
            os.ftruncate(fd, PAGE + 100)
            os.ftruncate(fd, 10 * PAGE)
            assert view[:] == b"x" * (PAGE + 100) + bytes(9 * PAGE - 100)

    def test_grown_file_in_a_new_map(self, fd):
        os.ftruncate(fd, 20 * PAGE)
        with mmap.mmap(fd, 0) as view:
            view[19 * PAGE] = 1
        assert os.pread(fd, 1, 19 * PAGE) == b"\1"
