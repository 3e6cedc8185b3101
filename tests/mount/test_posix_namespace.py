"""tests/mount/test_posix_namespace.py: names, kinds of files, links, and when nodes go away.

rename() has a file of its own, test_posix_rename.py.
"""

import errno
import os
import socket
import stat
from pathlib import Path

import pytest
from mountlib import fails_with, getdents, linkat_following, needs_root, touch

MAKERS = {
    "file": lambda path: touch(path),
    "directory": lambda path: os.mkdir(path),
    "symlink": lambda path: os.symlink("target", path),
    "link": lambda path: os.link(Path(path).parent / "other", path),
    "fifo": lambda path: os.mkfifo(path),
    "socket": lambda path: os.mknod(path, stat.S_IFSOCK | 0o600),
    "mknod-file": lambda path: os.mknod(path, stat.S_IFREG | 0o600),
}
REMOVERS = {kind: os.rmdir if kind == "directory" else os.unlink for kind in MAKERS}
FORMATS = {"file": stat.S_ISREG, "directory": stat.S_ISDIR, "symlink": stat.S_ISLNK, "link": stat.S_ISREG,
           "fifo": stat.S_ISFIFO, "socket": stat.S_ISSOCK, "mknod-file": stat.S_ISREG}
kinds = pytest.mark.parametrize("what", MAKERS)


@pytest.fixture
def t(d: Path) -> Path:
    """A directory with a file `other` to link to."""
    touch(d / "other")
    return d


class TestEveryKind:
    """What holds for all kinds of files."""

    @kinds
    def test_made_is_of_its_kind(self, t, what):
        MAKERS[what](t / "x")
        assert FORMATS[what](os.lstat(t / "x").st_mode)

    @kinds
    def test_made_is_listed(self, t, what):
        MAKERS[what](t / "x")
        assert sorted(os.listdir(t)) == ["other", "x"]

    @kinds
    def test_made_twice(self, t, what):
        MAKERS[what](t / "x")
        for maker in ("directory", "symlink", "link", "fifo", "mknod-file"):
            with fails_with(errno.EEXIST):
                MAKERS[maker](t / "x")

    @kinds
    def test_exclusive_open_of_what_is_there(self, t, what):
        MAKERS[what](t / "x")
        with fails_with(errno.EEXIST):
            os.open(t / "x", os.O_CREAT | os.O_EXCL | os.O_WRONLY)

    @kinds
    def test_removed_is_gone(self, t, what):
        MAKERS[what](t / "x")
        REMOVERS[what](t / "x")
        assert os.listdir(t) == ["other"]
        with fails_with(errno.ENOENT):
            os.lstat(t / "x")

    @kinds
    def test_made_again_after_removal(self, t, what):
        for _ in range(3):
            MAKERS[what](t / "x")
            REMOVERS[what](t / "x")
        MAKERS[what](t / "x")
        assert FORMATS[what](os.lstat(t / "x").st_mode)

    @kinds
    def test_in_a_parent_that_is_missing(self, t, what):
        with fails_with(errno.ENOENT):
            if what == "link":
                os.link(t / "other", t / "none" / "x")
            else:
                MAKERS[what](t / "none" / "x")

    @kinds
    def test_in_a_parent_that_is_a_file(self, t, what):
        with fails_with(errno.ENOTDIR):
            if what == "link":
                os.link(t / "other", t / "other" / "x")
            else:
                MAKERS[what](t / "other" / "x")

    @kinds
    def test_in_a_removed_directory(self, t, what):
        os.mkdir(t / "gone")
        fd = os.open(t / "gone", os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.rmdir(t / "gone")
            with fails_with(errno.ENOENT):
                if what == "link":
                    os.link(t / "other", "x", dst_dir_fd=fd)
                else:
                    MAKERS[what](f"/proc/self/fd/{fd}/x")
        finally:
            os.close(fd)


class TestNames:
    """Names are bytes: any but / and NUL, 255 at most."""

    @kinds
    def test_255_bytes(self, t, what):
        name = "n" * 255
        MAKERS[what](t / name)
        assert name in os.listdir(t)
        REMOVERS[what](t / name)

    @kinds
    def test_256_bytes(self, t, what):
        with fails_with(errno.ENAMETOOLONG):
            MAKERS[what](t / ("n" * 256))

    @pytest.mark.parametrize("length", [256, 500, 1024, 1025, 4000])
    def test_lookup_of_a_long_name(self, d, length):
        with fails_with(errno.ENAMETOOLONG):
            os.lstat(d / ("n" * length))

    def test_255_bytes_of_utf8(self, d):
        name = "ä" * 127 + "x"
        touch(d / name)
        assert os.listdir(d) == [name]

    def test_every_byte(self, d):
        names = [bytes([byte]) for byte in range(1, 256) if byte not in b"/."] + [b"a\xff\xfe", b"...", b".x"]
        for name in names:
            touch(os.path.join(os.fsencode(d), name), name)
        assert sorted(os.listdir(os.fsencode(d))) == sorted(names)
        for name in names:
            assert Path(os.fsdecode(os.path.join(os.fsencode(d), name))).read_bytes() == name

    def test_case_matters(self, d):
        touch(d / "a", b"small")
        touch(d / "A", b"big")
        assert ((d / "a").read_bytes(), (d / "A").read_bytes()) == (b"small", b"big")

    def test_names_of_every_length(self, d):
        for length in range(1, 256):
            touch(d / ("x" * length), b"%d" % length)
        assert sorted(map(len, os.listdir(d))) == list(range(1, 256))
        for length in range(1, 256):
            assert (d / ("x" * length)).read_bytes() == b"%d" % length

    def test_dot_and_dotdot(self, d):
        os.mkdir(d / "sub")
        assert os.stat(d / "sub" / ".").st_ino == os.stat(d / "sub").st_ino
        assert os.stat(d / "sub" / "..").st_ino == os.stat(d).st_ino

    def test_empty_name(self, d):
        with fails_with(errno.ENOENT):
            os.lstat("")

    def test_missing_then_made(self, d):
        # The kernel remembers that a name is missing: making it must undo that.
        for _ in range(2):
            assert not os.path.lexists(d / "x")
            touch(d / "x")
            assert os.path.lexists(d / "x")
            os.unlink(d / "x")


class TestDirectories:
    """mkdir, rmdir, and the link counts of directories."""

    def test_link_counts(self, d):
        assert os.stat(d).st_nlink == 2
        for count in range(1, 5):
            os.mkdir(d / f"sub{count}")
            assert os.stat(d).st_nlink == 2 + count
        assert os.stat(d / "sub1").st_nlink == 2
        touch(d / "file")
        assert os.stat(d).st_nlink == 6
        os.rmdir(d / "sub1")
        assert os.stat(d).st_nlink == 5

    @pytest.mark.parametrize("what", ["file", "directory", "symlink", "fifo"])
    def test_rmdir_of_a_full_one(self, d, what):
        os.mkdir(d / "sub")
        MAKERS[what](d / "sub" / "x")
        with fails_with(errno.ENOTEMPTY):
            os.rmdir(d / "sub")
        REMOVERS[what](d / "sub" / "x")
        os.rmdir(d / "sub")

    @pytest.mark.parametrize("what", ["file", "symlink", "fifo"])
    def test_rmdir_of_what_is_none(self, d, what):
        MAKERS[what](d / "x")
        with fails_with(errno.ENOTDIR):
            os.rmdir(d / "x")

    def test_rmdir_of_dot(self, d):
        with fails_with(errno.EINVAL):
            os.rmdir(f"{d}/.")

    def test_rmdir_of_dotdot(self, d):
        os.mkdir(d / "sub")
        with fails_with(errno.ENOTEMPTY):
            os.rmdir(f"{d}/sub/..")

    def test_rmdir_of_the_mountpoint(self, fs):
        with fails_with(errno.EBUSY):
            os.rmdir(fs.mnt)

    def test_unlink_of_a_directory(self, d):
        os.mkdir(d / "sub")
        with fails_with(errno.EISDIR):
            os.unlink(d / "sub")

    def test_open_of_a_directory_for_writing(self, d):
        with fails_with(errno.EISDIR):
            os.open(d, os.O_WRONLY)

    def test_read_of_a_directory(self, d):
        fd = os.open(d, os.O_RDONLY)
        with fails_with(errno.EISDIR):
            os.read(fd, 1)
        os.close(fd)

    def test_removed_while_open(self, d):
        os.mkdir(d / "sub")
        fd = os.open(d / "sub", os.O_RDONLY)
        os.rmdir(d / "sub")
        with fails_with(errno.ENOENT):
            getdents(fd)
        assert os.fstat(fd).st_nlink == 0
        os.close(fd)

    def test_removed_while_it_is_the_working_directory(self, d, monkeypatch):
        os.mkdir(d / "sub")
        monkeypatch.chdir(d / "sub")
        os.rmdir(d / "sub")
        with fails_with(errno.ENOENT):
            touch("x")
        with fails_with(errno.ENOENT):
            os.mkdir("x")
        with fails_with(errno.ENOENT):
            os.getcwd()

    def test_deep_tree(self, d, monkeypatch):
        monkeypatch.chdir(d)
        for level in range(300):
            os.mkdir(f"level{level}")
            os.chdir(f"level{level}")
        touch("bottom", b"deep")
        os.chdir(d)
        path = "/".join(f"level{level}" for level in range(300))
        assert (d / path / "bottom").read_bytes() == b"deep"
        os.unlink(d / path / "bottom")
        for level in range(299, -1, -1):
            os.rmdir(d / "/".join(f"level{number}" for number in range(level + 1)))
        assert os.listdir(d) == []

    def test_a_path_that_is_too_long(self, d):
        with fails_with(errno.ENAMETOOLONG):
            os.lstat(str(d) + "/a" * 2048)

    def test_dotdot_after_the_parent_moved(self, d):
        os.makedirs(d / "a" / "sub")
        os.mkdir(d / "b")
        os.rename(d / "a" / "sub", d / "b" / "sub")
        assert os.stat(d / "b" / "sub" / "..").st_ino == os.stat(d / "b").st_ino


class TestSymlinks:
    """Symbolic links keep their text and are followed."""

    @pytest.mark.parametrize("length", [1, 2, 40, 127, 128, 255, 256, 1000, 2047, 2048, 4094, 4095])
    def test_text_comes_back(self, d, length):
        text = ("t" * 200 + "/") * 21
        os.symlink(text[:length], d / "link")
        assert os.readlink(d / "link") == text[:length]
        assert os.lstat(d / "link").st_size == length

    def test_4096_bytes(self, d):
        with fails_with(errno.ENAMETOOLONG):
            os.symlink("t" * 4096, d / "link")

    def test_empty_text(self, d):
        with fails_with(errno.ENOENT):
            os.symlink("", d / "link")

    def test_text_is_bytes(self, d):
        text = bytes(range(1, 256))
        os.symlink(text, os.fsencode(d / "link"))
        assert os.readlink(os.fsencode(d / "link")) == text

    def test_is_followed(self, d):
        touch(d / "file", b"content")
        os.symlink("file", d / "link")
        os.symlink(d / "link", d / "absolute")
        assert (d / "absolute").read_bytes() == b"content"

    def test_dangling(self, d):
        os.symlink("missing", d / "link")
        with fails_with(errno.ENOENT):
            os.stat(d / "link")
        touch(d / "link", b"made through the link")
        assert (d / "missing").read_bytes() == b"made through the link"

    def test_loop(self, d):
        os.symlink("b", d / "a")
        os.symlink("a", d / "b")
        with fails_with(errno.ELOOP):
            os.stat(d / "a")

    def test_forty_are_followed_and_no_more(self, d):
        touch(d / "l0")
        for number in range(1, 42):
            os.symlink(f"l{number - 1}", d / f"l{number}")
        os.stat(d / "l40")
        with fails_with(errno.ELOOP):
            os.stat(d / "l41")

    def test_mode_is_0777(self, d):
        os.symlink("x", d / "link")
        assert stat.S_IMODE(os.lstat(d / "link").st_mode) == 0o777

    def test_readlink_of_what_is_none(self, d):
        touch(d / "file")
        with fails_with(errno.EINVAL):
            os.readlink(d / "file")

    def test_hard_link_to_one(self, d):
        os.symlink("text", d / "link")
        os.link(d / "link", d / "second", follow_symlinks=False)
        assert os.readlink(d / "second") == "text"
        assert os.lstat(d / "link").st_nlink == 2


class TestHardLinks:
    """Several names for one file."""

    def test_share_everything(self, d):
        touch(d / "a", b"one")
        os.link(d / "a", d / "b")
        touch(d / "b", b"three")
        os.chmod(d / "b", 0o604)
        assert (d / "a").read_bytes() == b"three"
        assert os.stat(d / "a") == os.stat(d / "b")

    def test_count_goes_up_and_down(self, d):
        touch(d / "a")
        for number in range(1, 50):
            os.link(d / "a", d / f"b{number}")
            assert os.stat(d / "a").st_nlink == number + 1
        for number in range(1, 50):
            os.unlink(d / f"b{number}")
        assert os.stat(d / "a").st_nlink == 1

    def test_content_lives_until_the_last(self, d):
        touch(d / "a", b"content")
        os.link(d / "a", d / "b")
        os.unlink(d / "a")
        assert (d / "b").read_bytes() == b"content"

    def test_of_a_directory(self, d):
        os.mkdir(d / "sub")
        with fails_with(errno.EPERM):
            os.link(d / "sub", d / "second")

    def test_of_a_missing_file(self, d):
        with fails_with(errno.ENOENT):
            os.link(d / "none", d / "second")

    def test_to_another_file_system(self, d, tmp_path):
        touch(d / "a")
        with fails_with(errno.EXDEV):
            os.link(d / "a", tmp_path / "b")

    @pytest.mark.parametrize("what", ["fifo", "socket"])
    def test_of_special_files(self, d, what):
        MAKERS[what](d / "x")
        os.link(d / "x", d / "y")
        assert os.stat(d / "x").st_ino == os.stat(d / "y").st_ino
        assert FORMATS[what](os.stat(d / "y").st_mode)

    def test_across_directories(self, d):
        os.mkdir(d / "sub")
        touch(d / "a", b"here")
        os.link(d / "a", d / "sub" / "a")
        os.unlink(d / "a")
        assert (d / "sub" / "a").read_bytes() == b"here"


class TestUnlinkedWhileOpen:
    """An open file lives without a name."""

    def test_content_stays(self, d):
        touch(d / "x", b"still here")
        fd = os.open(d / "x", os.O_RDWR)
        os.unlink(d / "x")
        assert os.read(fd, 100) == b"still here"
        assert os.fstat(fd).st_nlink == 0
        os.close(fd)

    def test_can_be_written_and_truncated(self, d):
        touch(d / "x")
        fd = os.open(d / "x", os.O_RDWR)
        os.unlink(d / "x")
        os.write(fd, b"w" * 100_000)
        os.ftruncate(fd, 70_000)
        os.fchmod(fd, 0o600)
        assert os.fstat(fd).st_size == 70_000
        assert os.pread(fd, 70_000, 0) == b"w" * 70_000
        os.close(fd)

    def test_name_can_be_taken_again(self, d):
        touch(d / "x", b"old")
        fd = os.open(d / "x", os.O_RDONLY)
        os.unlink(d / "x")
        touch(d / "x", b"new")
        assert os.read(fd, 10) == b"old"
        assert (d / "x").read_bytes() == b"new"
        assert os.fstat(fd).st_ino != os.stat(d / "x").st_ino
        os.close(fd)

    def test_no_new_name(self, d):
        touch(d / "x")
        fd = os.open(d / "x", os.O_RDONLY)
        os.unlink(d / "x")
        with fails_with(errno.ENOENT):
            linkat_following(f"/proc/self/fd/{fd}", d / "y")
        os.close(fd)

    def test_many(self, d):
        fds = []
        for number in range(200):
            touch(d / "x", b"%d" % number)
            fds.append(os.open(d / "x", os.O_RDONLY))
            os.unlink(d / "x")
        for number, fd in enumerate(fds):
            assert os.read(fd, 10) == b"%d" % number
            os.close(fd)


class TestSpecialFiles:
    """FIFOs, sockets and devices work as such."""

    def test_fifo_carries_bytes(self, d):
        os.mkfifo(d / "fifo")
        reader = os.open(d / "fifo", os.O_RDONLY | os.O_NONBLOCK)
        writer = os.open(d / "fifo", os.O_WRONLY)
        os.write(writer, b"through")
        assert os.read(reader, 100) == b"through"
        os.close(reader)
        os.close(writer)

    def test_fifo_without_a_reader(self, d):
        os.mkfifo(d / "fifo")
        with fails_with(errno.ENXIO):
            os.open(d / "fifo", os.O_WRONLY | os.O_NONBLOCK)

    def test_socket_can_be_bound_and_reached(self, d, monkeypatch):
        monkeypatch.chdir(d)  # a socket's path is 107 bytes at most
        with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
            server.bind("socket")
            server.listen()
            client.connect("socket")
            with server.accept()[0] as connection:
                client.sendall(b"hello")
                assert connection.recv(10) == b"hello"
        assert stat.S_ISSOCK(os.lstat("socket").st_mode)

    def test_open_of_a_socket(self, d):
        MAKERS["socket"](d / "x")
        with fails_with(errno.ENXIO):
            os.open(d / "x", os.O_RDONLY)

    @needs_root
    @pytest.mark.parametrize("form", [stat.S_IFCHR, stat.S_IFBLK])
    @pytest.mark.parametrize("numbers", [(1, 3), (0, 0), (255, 255), (4095, 1048575)])
    def test_device_numbers(self, d, form, numbers):
        os.mknod(d / "dev", form | 0o640, os.makedev(*numbers))
        status = os.lstat(d / "dev")
        assert stat.S_IFMT(status.st_mode) == form
        assert (os.major(status.st_rdev), os.minor(status.st_rdev)) == numbers

    @needs_root
    def test_device_works(self, d):
        os.mknod(d / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.mknod(d / "zero", stat.S_IFCHR | 0o666, os.makedev(1, 5))
        touch(d / "null", b"swallowed")
        with open(d / "zero", "rb") as zero:
            assert zero.read(3) == b"\0\0\0"

    def test_mknod_of_a_directory(self, d):
        with fails_with(errno.EPERM):
            os.mknod(d / "x", stat.S_IFDIR | 0o755)
