"""tests/mount/test_posix_perm.py: who may do what.

Each test acts in a child process that has given up all rights (as_user), so the suite itself runs as root.
"""

import ctypes
import errno
import os
import stat
import struct
import threading

import pytest
from mountlib import NOBODY, OTHER, as_fsuser, as_user, fails_with, in_child, libc, make_one, needs_root, touch

pytestmark = needs_root
GROUP = 4321  # a supplementary group


def mode_of(path) -> int:
    """The permission bits, special ones included."""
    return stat.S_IMODE(os.lstat(path).st_mode)


def append(path) -> None:
    """Write one byte at the end."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    os.write(fd, b"x")
    os.close(fd)


def overwrite(path) -> None:
    """Write one byte at the beginning."""
    fd = os.open(path, os.O_WRONLY)
    os.pwrite(fd, b"x", 0)
    os.close(fd)


def owned(path, mode, uid=NOBODY, gid=NOBODY) -> None:
    """A file of this owner with exactly this mode."""
    touch(path, b"content")
    os.chown(path, uid, gid)
    os.chmod(path, mode)


class TestDenied:
    """What a user without rights may not do."""

    ACTIONS = {
        "create": lambda d: touch(d / "new"),
        "mkdir": lambda d: os.mkdir(d / "new"),
        "symlink": lambda d: os.symlink("x", d / "new"),
        "mkfifo": lambda d: os.mkfifo(d / "new"),
        "link": lambda d: os.link(d / "open", d / "new"),
        "unlink": lambda d: os.unlink(d / "open"),
        "rmdir": lambda d: os.rmdir(d / "sub"),
        "rename": lambda d: os.rename(d / "open", d / "new"),
        "read of a secret": lambda d: os.open(d / "secret", os.O_RDONLY),
        "write to a secret": lambda d: os.open(d / "secret", os.O_WRONLY),
        "truncate of a secret": lambda d: os.truncate(d / "secret", 0),
        "listing": lambda d: os.listdir(d / "private"),
        "search": lambda d: os.stat(d / "private" / "x"),
    }

    @pytest.fixture
    def roots(self, d):
        """Root's directory: one file open to all, one secret, one private directory."""
        touch(d / "open")
        os.chmod(d / "open", 0o666)
        touch(d / "secret", mode=0o600)
        os.mkdir(d / "sub")
        os.mkdir(d / "private", 0o700)
        touch(d / "private" / "x")
        os.chmod(d, 0o755)
        return d

    @pytest.mark.parametrize("action", ACTIONS)
    def test_no_permission(self, roots, action):
        with fails_with(errno.EACCES):
            as_user(lambda: self.ACTIONS[action](roots))

    @pytest.mark.parametrize("action", ["chmod", "chown", "utime"])
    def test_not_the_owner(self, roots, action):
        actions = {"chmod": lambda: os.chmod(roots / "open", 0o777),
                   "chown": lambda: os.chown(roots / "open", NOBODY, -1),
                   "utime": lambda: os.utime(roots / "open", ns=(1, 1))}
        with fails_with(errno.EPERM):
            as_user(actions[action])

    def test_utime_now_needs_write_only(self, roots):
        as_user(lambda: os.utime(roots / "open"))
        with fails_with(errno.EACCES):
            as_user(lambda: os.utime(roots / "secret"))

    def test_device_node(self, d):
        with fails_with(errno.EPERM):
            as_user(lambda: os.mknod(d / "dev", stat.S_IFCHR | 0o600, os.makedev(1, 3)))

    def test_giving_a_file_away(self, d):
        owned(d / "x", 0o644)
        with fails_with(errno.EPERM):
            as_user(lambda: os.chown(d / "x", OTHER, -1))

    def test_what_is_allowed(self, roots):
        as_user(lambda: append(roots / "open"))
        assert as_user(lambda: len(os.listdir(roots))) == 4


class TestClasses:
    """Owner, group and others."""

    @pytest.mark.parametrize("mode, uid, gid, groups, allowed", [
        (0o400, NOBODY, NOBODY, (), True), (0o044, NOBODY, NOBODY, (), False),
        (0o040, OTHER, NOBODY, (), True), (0o404, OTHER, NOBODY, (), False),
        (0o004, OTHER, OTHER, (), True), (0o040, OTHER, OTHER, (NOBODY,), True),
        (0o040, OTHER, OTHER, (1, 2, 3), False), (0o404, OTHER, OTHER, (NOBODY,), False)])
    def test_read(self, d, mode, uid, gid, groups, allowed):
        owned(d / "x", mode)

        def read():
            return os.read(os.open(d / "x", os.O_RDONLY), 7).decode()

        if allowed:
            assert as_user(read, uid, gid, groups) == "content"
        else:
            with fails_with(errno.EACCES):
                as_user(read, uid, gid, groups)

    def test_access(self, d):
        owned(d / "x", 0o754)
        ways = (os.R_OK, os.W_OK, os.X_OK)
        assert as_user(lambda: [os.access(d / "x", way) for way in ways], OTHER) == [True, False, False]

    def test_execute(self, d):
        touch(d / "script", b"#!/bin/sh\nexit 0\n")
        os.chmod(d / "script", 0o644)
        with fails_with(errno.EACCES):
            as_user(lambda: os.execv(d / "script", ["script"]))
        os.chmod(d / "script", 0o755)
        assert os.spawnv(os.P_WAIT, d / "script", ["script"]) == 0

    def test_new_file_belongs_to_its_maker(self, d):
        as_user(lambda: touch(d / "x"), OTHER, 777)
        assert (os.stat(d / "x").st_uid, os.stat(d / "x").st_gid) == (OTHER, 777)

    def test_group_may_be_changed_to_one_of_ones_own(self, d):
        owned(d / "x", 0o644)
        as_user(lambda: os.chown(d / "x", -1, GROUP), groups=(GROUP,))
        assert os.stat(d / "x").st_gid == GROUP
        with fails_with(errno.EPERM):
            as_user(lambda: os.chown(d / "x", -1, GROUP + 1), groups=(GROUP,))


class TestSetIdIsCleared:
    """set-user-ID and set-group-ID do not outlive a change by someone who could not have set them."""

    ACTIONS = {
        "write": append,
        "truncate": lambda path: os.truncate(path, 3),
        "open with O_TRUNC": lambda path: os.close(os.open(path, os.O_WRONLY | os.O_TRUNC)),
        "pwrite": overwrite,
    }

    @pytest.mark.parametrize("action", ACTIONS)
    @pytest.mark.parametrize("mode, left", [
        (0o4777, 0o777), (0o2777, 0o777), (0o6777, 0o777), (0o2767, 0o2767)])
    def test_by_another_user(self, d, action, mode, left):
        owned(d / "x", mode, OTHER, OTHER)
        as_user(lambda: self.ACTIONS[action](d / "x"))
        # set-group-ID without group execution is no such thing: what remains of it is the kernel's choice.
        assert mode_of(d / "x") & ~0o2000 == left & ~0o2000
        if mode & 0o010:
            assert mode_of(d / "x") == left

    @pytest.mark.parametrize("action", ACTIONS)
    def test_by_the_owner(self, d, action):
        owned(d / "x", 0o6777)
        as_user(lambda: self.ACTIONS[action](d / "x"))
        assert mode_of(d / "x") == 0o777

    @pytest.mark.parametrize("action", ACTIONS)
    def test_not_by_root(self, d, action):
        owned(d / "x", 0o6777)
        self.ACTIONS[action](d / "x")
        assert mode_of(d / "x") == 0o6777

    @pytest.mark.parametrize("mode, left", [(0o6777, 0o777), (0o2767, 0o2767), (0o4755, 0o755)])
    def test_by_chown_of_root(self, d, mode, left):
        owned(d / "x", mode)
        os.chown(d / "x", OTHER, OTHER)
        assert mode_of(d / "x") == left

    def test_by_chown_of_the_owner(self, d):
        owned(d / "x", 0o6777)
        as_user(lambda: os.chown(d / "x", -1, GROUP), groups=(GROUP,))
        assert mode_of(d / "x") == 0o777

    @pytest.mark.parametrize("mode", [0o6755, 0o4755, 0o2755, 0o2744, 0o755])
    def test_not_by_a_chown_to_nobody_of_one_who_may_not_write(self, d, mode):
        owned(d / "x", mode, OTHER, OTHER)
        os.chmod(d / "x", mode)
        try:
            as_user(lambda: os.chown(d / "x", -1, -1))
        except PermissionError:                 # on the kernel's tmpfs, where there are such bits
            assert mode & 0o6000
        assert mode_of(d / "x") == mode

    @pytest.mark.parametrize("mode, left", [(0o6755, 0o755), (0o2755, 0o755), (0o4711, 0o711)])
    def test_by_a_write_of_one_who_opened_it_when_he_might(self, d, mode, left):
        owned(d / "x", 0o666, OTHER, OTHER)

        def write() -> int:
            fd = os.open(d / "x", os.O_WRONLY)
            (d / "opened").touch()
            while mode_of(d / "x") != mode:
                pass
            return os.write(fd, b"more")

        def close() -> None:
            while not (d / "opened").exists():
                pass
            os.chmod(d / "x", mode)

        thread = threading.Thread(target=close)
        thread.start()
        assert as_user(write) == 4
        thread.join()
        assert mode_of(d / "x") == left and (d / "x").read_bytes().startswith(b"more")

    def test_directories_keep_theirs(self, d):
        os.mkdir(d / "sub")
        os.chmod(d / "sub", 0o6777)
        os.chown(d / "sub", OTHER, OTHER)
        assert mode_of(d / "sub") == 0o6777

    def test_chmod_outside_ones_groups(self, d):
        owned(d / "x", 0o755, NOBODY, GROUP)
        as_user(lambda: os.chmod(d / "x", 0o6755))
        assert mode_of(d / "x") == 0o4755

    def test_chmod_inside_ones_groups(self, d):
        owned(d / "x", 0o755, NOBODY, GROUP)
        as_user(lambda: os.chmod(d / "x", 0o6755), groups=(GROUP,))
        assert mode_of(d / "x") == 0o6755

    def test_mmap_write_keeps_data(self, d):
        owned(d / "x", 0o4777, OTHER, OTHER)
        as_user(lambda: append(d / "x"))
        assert (d / "x").read_bytes() == b"contentx"


class TestSetgidDirectory:
    """A node made in a set-group-ID directory takes its group from there."""

    @pytest.fixture
    def shared(self, d):
        """A set-group-ID directory of another group."""
        os.mkdir(d / "shared")
        os.chown(d / "shared", 0, GROUP)
        os.chmod(d / "shared", 0o2777)
        return d / "shared"

    @pytest.mark.parametrize("what", ["file", "fifo", "symlink", "directory"])
    def test_group(self, shared, what):
        as_user(lambda: make_one(what, shared / "x"))
        status = os.lstat(shared / "x")
        assert (status.st_uid, status.st_gid) == (NOBODY, GROUP)

    def test_directories_inherit_the_bit(self, shared):
        as_user(lambda: os.makedirs(shared / "a" / "b"))
        assert mode_of(shared / "a") & 0o2000
        assert mode_of(shared / "a" / "b") & 0o2000
        assert os.stat(shared / "a" / "b").st_gid == GROUP

    def test_files_do_not(self, shared):
        as_user(lambda: touch(shared / "x"))
        assert not mode_of(shared / "x") & 0o2000

    def test_set_group_id_of_a_foreign_group(self, shared):
        as_user(lambda: os.close(os.open(shared / "x", os.O_CREAT | os.O_WRONLY, 0o2755)))
        assert not mode_of(shared / "x") & 0o2000

    def test_set_group_id_of_ones_own_group(self, shared):
        as_user(lambda: os.close(os.open(shared / "x", os.O_CREAT | os.O_WRONLY, 0o2755)), groups=(GROUP,))
        assert mode_of(shared / "x") & 0o2000

    def test_without_the_bit(self, d):
        os.chown(d, 0, GROUP)
        as_user(lambda: touch(d / "x"))
        assert os.stat(d / "x").st_gid == NOBODY


class TestSticky:
    """In a sticky directory only the owner of the file or of the directory removes."""

    @pytest.fixture
    def sticky(self, d):
        """A sticky directory with a file and a directory of NOBODY."""
        os.mkdir(d / "sticky")
        os.chmod(d / "sticky", 0o1777)
        owned(d / "sticky" / "file", 0o666)
        os.mkdir(d / "sticky" / "sub", 0o777)
        os.chown(d / "sticky" / "sub", NOBODY, NOBODY)
        return d / "sticky"

    ACTIONS = {
        "unlink": lambda d: os.unlink(d / "file"),
        "rmdir": lambda d: os.rmdir(d / "sub"),
        "rename": lambda d: os.rename(d / "file", d / "new"),
    }

    @pytest.mark.parametrize("action", ACTIONS)
    def test_stranger(self, sticky, action):
        with fails_with(errno.EPERM):
            as_user(lambda: self.ACTIONS[action](sticky), OTHER)

    def test_stranger_replaces(self, sticky):
        owned(sticky / "mine", 0o666, OTHER, OTHER)
        with fails_with(errno.EPERM):
            as_user(lambda: os.rename(sticky / "mine", sticky / "file"), OTHER)

    @pytest.mark.parametrize("action", ACTIONS)
    def test_owner_of_the_file(self, sticky, action):
        as_user(lambda: self.ACTIONS[action](sticky))

    @pytest.mark.parametrize("action", ACTIONS)
    def test_owner_of_the_directory(self, sticky, action):
        os.chown(sticky, OTHER, OTHER)
        as_user(lambda: self.ACTIONS[action](sticky), OTHER)

    @pytest.mark.parametrize("action", ACTIONS)
    def test_root(self, sticky, action):
        self.ACTIONS[action](sticky)


def drop_capability(number: int) -> None:
    """Give one up: capset(2)."""
    header = struct.pack("=Ii", 0x20080522, 0)
    data = ctypes.create_string_buffer(24)
    assert libc.capget(header, data) == 0
    effective, permitted, inheritable, *high = struct.unpack("=6I", data.raw)
    masked = [bits & ~(1 << number) for bits in (effective, permitted, inheritable)]
    assert libc.capset(header, struct.pack("=6I", *masked, *high)) == 0


def in_new_namespace(flag: int, function) -> object:
    """function() in the first process of a namespace of its own."""
    def body() -> object:
        assert libc.unshare(flag) == 0
        return in_child(function)

    return in_child(body)


class TestCapabilities:
    """Root may do what its capabilities allow; FUSE does not tell the server of them."""

    CHANGES = {
        "truncate": lambda path: os.truncate(path, 3),
        "ftruncate": lambda path: os.ftruncate(os.open(path, os.O_RDWR), 2),
        "O_TRUNC": lambda path: os.close(os.open(path, os.O_WRONLY | os.O_TRUNC)), "write": overwrite, "append": append}

    @pytest.mark.parametrize("change", CHANGES)
    @pytest.mark.parametrize("mode", [0o6755, 0o2755, 0o2745, 0o6777, 0o2666])
    @pytest.mark.parametrize("has", [True, False])
    def test_set_id_bits_stay_with_cap_fsetid(self, d, change, mode, has):
        owned(d / "x", mode)

        def act() -> None:
            if not has:
                drop_capability(4)
            self.CHANGES[change](d / "x")

        in_child(act)
        assert mode_of(d / "x") == (mode if has else mode & 0o777)

    def test_setfsuid_takes_it(self, d):
        owned(d / "x", 0o6777, OTHER, OTHER)
        as_fsuser(lambda: os.truncate(d / "x", 3))
        assert mode_of(d / "x") == 0o777

    def test_trusted_names_are_shown_to_cap_sys_admin(self, d):
        """Which setfsuid(2) leaves, and capset(2) may take from root."""
        owned(d / "x", 0o666, OTHER, OTHER)
        os.setxattr(d / "x", "trusted.x", b"secret")

        def without() -> list[str]:
            drop_capability(21)
            return os.listxattr(d / "x")

        assert os.listxattr(d / "x") == ["trusted.x"] and in_child(without) == []
        assert as_fsuser(lambda: os.listxattr(d / "x")) == ["trusted.x"]
        assert as_user(lambda: os.listxattr(d / "x")) == []

    @pytest.mark.parametrize("groups, kept", [((GROUP,), True), ((), False)])
    def test_groups_in_a_namespace_of_process_ids(self, d, groups, kept):
        """The number of a caller there is another one here."""
        owned(d / "x", 0o2666, OTHER, GROUP)
        in_new_namespace(0x20000000, lambda: as_fsuser(lambda: os.truncate(d / "x", 3), groups=groups))
        assert mode_of(d / "x") == (0o2666 if kept else 0o666)

    def test_root_of_a_user_namespace_is_a_user_here(self, d):
        """It has every capability there, and none here."""
        owned(d / "x", 0o6777, OTHER, OTHER)
        os.setxattr(d / "x", "trusted.x", b"secret")

        def act() -> list[str]:
            assert libc.unshare(0x10000000) == 0
            os.truncate(d / "x", 3)
            return os.listxattr(d / "x")

        assert as_user(act) == [] and mode_of(d / "x") == 0o777
