"""tests/mount/test_posix_xattr.py: extended attributes."""

import ctypes
import errno
import os
import random

import pytest
from mountlib import NOBODY, as_user, fails_with, libc, make_one, needs_root, touch

CREATE, REPLACE = os.XATTR_CREATE, os.XATTR_REPLACE


@pytest.fixture
def x(d):
    """A file."""
    touch(d / "x")
    return d / "x"


def get_size(path, name: str, room: int) -> int:
    """getxattr() into a buffer of this size; -errno where it fails."""
    buffer = ctypes.create_string_buffer(max(1, room))
    result = libc.getxattr(os.fsencode(path), name.encode(), buffer, ctypes.c_size_t(room))
    return result if result >= 0 else -ctypes.get_errno()


class TestValues:
    """What is set comes back."""

    @pytest.mark.parametrize("size", [
        0, 1, 10, 48, 49, 100, 255, 256, 2047, 2048, 2049, 4096, 5000, 40_000, 65_536])
    def test_size(self, x, size):
        value = random.Random(size).randbytes(size)
        os.setxattr(x, "user.value", value)
        assert os.getxattr(x, "user.value") == value

    def test_too_large(self, x):
        with fails_with(errno.E2BIG):
            os.setxattr(x, "user.value", b"v" * 65_537)

    def test_replaced_by_longer_and_shorter(self, x):
        for size in (10, 3000, 5, 60_000, 0, 100):
            os.setxattr(x, "user.value", b"v" * size)
            assert os.getxattr(x, "user.value") == b"v" * size
        assert os.listxattr(x) == ["user.value"]

    def test_many(self, x):
        for number in range(300):
            os.setxattr(x, f"user.attribute{number}", b"value %d" % number)
        assert sorted(os.listxattr(x)) == sorted(f"user.attribute{number}" for number in range(300))
        for number in range(0, 300, 2):
            os.removexattr(x, f"user.attribute{number}")
        assert len(os.listxattr(x)) == 150
        for number in range(1, 300, 2):
            assert os.getxattr(x, f"user.attribute{number}") == b"value %d" % number

    def test_name_of_255_bytes(self, x):
        name = "user." + "n" * 250
        os.setxattr(x, name, b"long")
        assert os.listxattr(x) == [name]
        assert os.getxattr(x, name) == b"long"

    def test_name_of_256_bytes(self, x):
        with fails_with(errno.ERANGE):
            os.setxattr(x, "user." + "n" * 251, b"")

    def test_descriptor(self, x):
        fd = os.open(x, os.O_RDWR)
        os.setxattr(fd, "user.a", b"1")
        os.unlink(x)
        assert os.getxattr(fd, "user.a") == b"1"
        assert os.listxattr(fd) == ["user.a"]
        os.removexattr(fd, "user.a")
        os.close(fd)

    def test_same_for_all_links(self, x, d):
        os.link(x, d / "y")
        os.setxattr(x, "user.a", b"1")
        os.rename(d / "y", d / "z")
        assert os.getxattr(d / "z", "user.a") == b"1"

    def test_gone_with_the_file(self, x):
        os.setxattr(x, "user.a", b"1")
        os.unlink(x)
        touch(x)
        assert os.listxattr(x) == []

    def test_content_is_untouched(self, x):
        touch(x, b"content")
        os.setxattr(x, "user.a", b"v" * 1000)
        assert x.read_bytes() == b"content"


class TestErrno:
    """What goes wrong."""

    def test_missing(self, x):
        with fails_with(errno.ENODATA):
            os.getxattr(x, "user.none")
        with fails_with(errno.ENODATA):
            os.removexattr(x, "user.none")

    def test_create_what_is_there(self, x):
        os.setxattr(x, "user.a", b"1", CREATE)
        with fails_with(errno.EEXIST):
            os.setxattr(x, "user.a", b"2", CREATE)
        assert os.getxattr(x, "user.a") == b"1"

    @needs_root
    @pytest.mark.parametrize("edge", (",edge=pyfuse3", ",edge=native"))
    def test_create_the_first_label(self, make_fs, edge):
        mnt = make_fs(size="16m", tmpfsd="ram=4m" + edge).mnt
        touch(mnt / "x")
        os.setxattr(mnt / "x", "security.selinux", b"system_u:object_r:tmp_t:s0", CREATE)
        with fails_with(errno.EEXIST):
            os.setxattr(mnt / "x", "security.selinux", b"another", CREATE)
        assert os.getxattr(mnt / "x", "security.selinux") == b"system_u:object_r:tmp_t:s0"
        touch(mnt / "y")
        with fails_with(errno.ENODATA):
            os.getxattr(mnt / "y", "security.selinux")
        os.setxattr(mnt / "y", "security.selinux", b"another", CREATE)

    def test_replace_what_is_missing(self, x):
        with fails_with(errno.ENODATA):
            os.setxattr(x, "user.a", b"1", REPLACE)
        os.setxattr(x, "user.a", b"1")
        os.setxattr(x, "user.a", b"2", REPLACE)
        assert os.getxattr(x, "user.a") == b"2"

    def test_create_an_empty_one_twice(self, x):
        os.setxattr(x, "user.a", b"", CREATE)
        with fails_with(errno.EEXIST):
            os.setxattr(x, "user.a", b"", CREATE)

    def test_unknown_flags(self, x):
        with fails_with(errno.EINVAL):
            os.setxattr(x, "user.a", b"1", 4)

    @pytest.mark.parametrize("room, answer", [(0, 5), (4, -errno.ERANGE), (5, 5), (100, 5)])
    def test_room(self, x, room, answer):
        os.setxattr(x, "user.a", b"12345")
        assert get_size(x, "user.a", room) == answer

    @pytest.mark.parametrize("name", ["noprefix", "bogus.name", "system.bogus", "os2.x", "USER.x"])
    def test_unknown_namespace(self, x, name):
        with fails_with(errno.EOPNOTSUPP):
            os.setxattr(x, name, b"1")
        with fails_with(errno.EOPNOTSUPP):
            os.getxattr(x, name)
        with fails_with(errno.EOPNOTSUPP):
            os.removexattr(x, name)

    @pytest.mark.parametrize("name", ["user.", pytest.param("trusted.", marks=needs_root)])
    def test_prefix_alone(self, x, name):
        with fails_with(errno.EINVAL):
            os.setxattr(x, name, b"1")

    def test_empty_name(self, x):
        with fails_with(errno.ERANGE):
            os.setxattr(x, "", b"1")

    def test_missing_file(self, d):
        with fails_with(errno.ENOENT):
            os.setxattr(d / "none", "user.a", b"1")


class TestKinds:
    """On what may there be attributes?"""

    def test_directory(self, d):
        os.setxattr(d, "user.a", b"1")
        assert os.listxattr(d) == ["user.a"]
        touch(d / "x")
        assert os.getxattr(d, "user.a") == b"1"

    @needs_root
    @pytest.mark.parametrize("form", ["symlink", "fifo"])
    def test_user_on_special_files(self, d, form):
        make_one(form, d / "s")
        with fails_with(errno.EPERM):
            os.setxattr(d / "s", "user.a", b"1", follow_symlinks=False)
        with fails_with(errno.ENODATA):
            os.getxattr(d / "s", "user.a", follow_symlinks=False)

    @needs_root
    @pytest.mark.parametrize("form", ["symlink", "fifo", "directory", "file"])
    def test_trusted_and_security(self, d, form):
        make_one(form, d / "s")
        os.setxattr(d / "s", "trusted.a", b"1", follow_symlinks=False)
        os.setxattr(d / "s", "security.a", b"2", follow_symlinks=False)
        assert sorted(os.listxattr(d / "s", follow_symlinks=False)) == ["security.a", "trusted.a"]
        assert os.getxattr(d / "s", "trusted.a", follow_symlinks=False) == b"1"
        os.removexattr(d / "s", "trusted.a", follow_symlinks=False)
        assert os.listxattr(d / "s", follow_symlinks=False) == ["security.a"]

    @needs_root
    def test_symlink_keeps_its_text(self, d):
        os.symlink("t" * 300, d / "s")
        os.setxattr(d / "s", "trusted.a", b"v" * 3000, follow_symlinks=False)
        assert os.readlink(d / "s") == "t" * 300


@needs_root
class TestRights:
    """Who may."""

    def test_trusted_is_hidden(self, x):
        os.chmod(x, 0o666)
        os.setxattr(x, "trusted.a", b"1")
        os.setxattr(x, "user.a", b"2")
        assert as_user(lambda: os.listxattr(x)) == ["user.a"]
        with fails_with(errno.ENODATA):
            as_user(lambda: os.getxattr(x, "trusted.a").decode())
        with fails_with(errno.EPERM):
            as_user(lambda: os.setxattr(x, "trusted.a", b"1"))

    def test_security_needs_a_capability(self, x):
        os.chown(x, NOBODY, NOBODY)
        os.setxattr(x, "security.a", b"1")
        assert as_user(lambda: os.getxattr(x, "security.a").decode()) == "1"
        with fails_with(errno.EPERM):
            as_user(lambda: os.setxattr(x, "security.a", b"1"))

    def test_user_follows_the_mode(self, x):
        os.setxattr(x, "user.a", b"1")
        os.chmod(x, 0o644)
        assert as_user(lambda: os.getxattr(x, "user.a").decode()) == "1"
        with fails_with(errno.EACCES):
            as_user(lambda: os.setxattr(x, "user.a", b"2"))
        os.chmod(x, 0o600)
        with fails_with(errno.EACCES):
            as_user(lambda: os.getxattr(x, "user.a").decode())

    def test_sticky_directory_of_another(self, d):
        os.mkdir(d / "sticky")
        os.chmod(d / "sticky", 0o1777)
        with fails_with(errno.EPERM):
            as_user(lambda: os.setxattr(d / "sticky", "user.a", b"1"))


@needs_root
class TestCapabilities:
    """security.capability is taken away when the content changes."""

    VALUE = bytes.fromhex("0100000200040000000000000000000000000000")

    def test_set_and_read(self, x):
        os.setxattr(x, "security.capability", self.VALUE)
        assert os.getxattr(x, "security.capability") == self.VALUE

    def test_removed_by_a_write(self, x):
        os.setxattr(x, "security.capability", self.VALUE)
        touch(x, b"new content")
        assert os.listxattr(x) == []

    def test_removed_by_chown(self, x):
        os.setxattr(x, "security.capability", self.VALUE)
        os.chown(x, NOBODY, NOBODY)
        assert os.listxattr(x) == []
