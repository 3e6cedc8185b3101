"""tests/mount/test_posix_acl.py: ACLs, other groups, directories and file capabilities, as the users they are about.

Each test acts in children that have given up all rights, on the kernel's tmpfs and on ours, mounted with `acl`.
"""

import errno
import os
import stat
import struct
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
from mountlib import NOBODY, OTHER, Mounted, as_user, fails_with, needs_root, touch

from tests.mount.conftest import finish, mount_one
from tmpfsd.tmpfs.acl import ACCESS, DEFAULT, GROUP, GROUP_OBJ, MASK
from tmpfsd.tmpfs.acl import OTHER as OTHER_OBJ
from tmpfsd.tmpfs.acl import USER, USER_OBJ, encode

pytestmark = needs_root
NO_ID = (1 << 32) - 1
THIRD, TEAM = 23456, 4321


def acl(owner: int, group: int, other: int, users: dict[int, int] = {}, groups: dict[int, int] = {},
        mask: int = 7) -> bytes:
    """The bytes of an ACL."""
    named = [(USER, bits, who) for who, bits in users.items()]
    teams = [(GROUP, bits, who) for who, bits in groups.items()]
    limit = [(MASK, mask, NO_ID)] if named or teams else []
    return encode([(USER_OBJ, owner, NO_ID), *named, (GROUP_OBJ, group, NO_ID), *teams, *limit,
                   (OTHER_OBJ, other, NO_ID)])


@pytest.fixture(scope="module")
def mounted(kind: str) -> Iterator[Mounted]:
    """A mount with ACLs."""
    fs = mount_one(kind, {"kernel": "size=64m,mode=1777", "tmpfsd": "size=64m,ram=4m,acl"}[kind])
    yield fs
    finish(fs)


@pytest.fixture
def d(mounted: Mounted, request: pytest.FixtureRequest) -> Path:
    """A directory open to all; nothing is masked."""
    path = mounted.mnt / f"{abs(hash(request.node.name))}"
    path.mkdir()
    path.chmod(0o777)
    return path


@pytest.fixture(autouse=True)
def no_umask() -> Iterator[None]:
    """Modes are as they are asked for."""
    before = os.umask(0)
    yield
    os.umask(before)


def may(path: Path, uid: int, groups: tuple[int, ...] = ()) -> str:
    """What a user may do with a file: some of "rwx"."""
    ways = {"r": os.R_OK, "w": os.W_OK, "x": os.X_OK}
    return as_user(lambda: "".join(name for name, way in ways.items() if os.access(path, way)), uid, groups=groups)


def set_acl(path: Path, value: bytes, name: bytes = ACCESS) -> None:
    """Set an ACL."""
    os.setxattr(path, name.decode(), value)


class TestAccess:
    """An access ACL on a file."""

    def test_named_users_groups_and_the_mask(self, d):
        touch(d / "x")
        set_acl(d / "x", acl(7, 0, 4, {NOBODY: 6, THIRD: 0}, {TEAM: 5}))
        seen = [may(d / "x", NOBODY), may(d / "x", THIRD), may(d / "x", OTHER), may(d / "x", OTHER, (TEAM,)),
                may(d / "x", NOBODY, (TEAM,))]
        assert seen == ["rw", "", "r", "rx", "rw"]
        assert stat.S_IMODE(os.stat(d / "x").st_mode) == 0o774
        os.chmod(d / "x", 0o744)            # the group's bits are the mask
        seen = [may(d / "x", NOBODY), may(d / "x", OTHER, (TEAM,)), may(d / "x", OTHER)]
        assert seen == ["r", "r", "r"]

    def test_it_is_what_opens(self, d):
        touch(d / "x", b"content", mode=0o600)
        with fails_with(errno.EACCES):
            as_user(lambda: (d / "x").read_text())
        set_acl(d / "x", acl(6, 0, 0, {NOBODY: 4}))
        assert as_user(lambda: (d / "x").read_text()) == "content"
        with fails_with(errno.EACCES):
            as_user(lambda: (d / "x").write_text("changed"))
        with fails_with(errno.EACCES):
            as_user(lambda: (d / "x").read_text(), THIRD)
        os.removexattr(d / "x", ACCESS.decode())
        with fails_with(errno.EACCES):
            as_user(lambda: (d / "x").read_text())

    @pytest.mark.parametrize("what", ["file", "directory"])
    def test_only_the_owner_sets_one(self, d, what):
        path = d / "x"
        touch(path) if what == "file" else path.mkdir()
        path.chmod(0o777)
        with fails_with(errno.EPERM):
            as_user(lambda: set_acl(path, acl(7, 7, 7, {NOBODY: 7})))
        with fails_with(errno.EPERM if what == "directory" else errno.EACCES):
            as_user(lambda: set_acl(path, acl(7, 7, 7, {NOBODY: 7}), DEFAULT))
        os.chown(path, NOBODY, NOBODY)
        as_user(lambda: set_acl(path, acl(7, 0, 0, {THIRD: 7})))
        assert may(path, THIRD) == "rwx" and may(path, OTHER) == ""

    def test_a_directory(self, d):
        (d / "sub").mkdir(mode=0o700)
        touch(d / "sub" / "x", mode=0o644)
        set_acl(d / "sub", acl(7, 0, 0, {NOBODY: 1, THIRD: 4}))
        assert as_user(lambda: os.stat(d / "sub" / "x").st_mode) & 0o777 == 0o644
        with fails_with(errno.EACCES):
            as_user(lambda: os.listdir(d / "sub"))
        assert as_user(lambda: os.listdir(d / "sub"), THIRD) == ["x"]
        with fails_with(errno.EACCES):
            as_user(lambda: os.stat(d / "sub" / "x"), THIRD)


class TestInheritance:
    """A default ACL, and what others make below it."""

    @pytest.fixture
    def shared(self, d: Path) -> Path:
        """THIRD may read all that is made here, and TEAM may do everything with it."""
        (d / "shared").mkdir()
        (d / "shared").chmod(0o777)
        set_acl(d / "shared", acl(7, 5, 0, {THIRD: 5}, {TEAM: 7}), DEFAULT)
        return d / "shared"

    def test_files(self, shared):
        as_user(lambda: touch(shared / "x", b"content", mode=0o666))
        assert os.stat(shared / "x").st_uid == NOBODY
        seen = [may(shared / "x", NOBODY), may(shared / "x", THIRD), may(shared / "x", OTHER, (TEAM,)),
                may(shared / "x", OTHER)]
        assert seen == ["rw", "r", "rw", ""]

    def test_the_mode_asked_for_limits_it(self, shared):
        as_user(lambda: touch(shared / "x", mode=0o640))
        assert [may(shared / "x", THIRD), may(shared / "x", OTHER, (TEAM,)), may(shared / "x", OTHER)] == ["r", "r", ""]
        as_user(lambda: touch(shared / "private", mode=0o600))
        assert [may(shared / "private", THIRD), may(shared / "private", OTHER, (TEAM,))] == ["", ""]

    def test_directories_pass_it_on(self, shared):
        as_user(lambda: os.makedirs(shared / "a" / "b"))
        as_user(lambda: touch(shared / "a" / "b" / "x", mode=0o666), OTHER, groups=(TEAM,))
        assert os.stat(shared / "a" / "b" / "x").st_uid == OTHER
        assert may(shared / "a" / "b" / "x", THIRD) == "r" and may(shared / "a", THIRD) == "rx"
        assert os.getxattr(shared / "a" / "b", DEFAULT.decode()) == os.getxattr(shared, DEFAULT.decode())
        with fails_with(errno.EACCES):
            as_user(lambda: os.listdir(shared / "a"), OTHER)

    def test_removed_it_is_passed_on_no_more(self, shared):
        os.removexattr(shared, DEFAULT.decode())
        as_user(lambda: touch(shared / "x", mode=0o640))
        assert may(shared / "x", THIRD) == "" and ACCESS.decode() not in os.listxattr(shared / "x")

    def test_in_a_set_group_id_directory(self, shared):
        os.chown(shared, 0, TEAM)
        os.chmod(shared, 0o2777)
        as_user(lambda: touch(shared / "x", mode=0o666))
        as_user(lambda: os.mkdir(shared / "sub"))
        assert os.stat(shared / "x").st_gid == os.stat(shared / "sub").st_gid == TEAM
        assert os.stat(shared / "sub").st_mode & stat.S_ISGID
        assert may(shared / "x", OTHER, (TEAM,)) == "rw"


def kinds_made(d: Path, mode: int) -> dict[str, tuple[int, dict[str, bytes]]]:
    """One node of each kind made in a directory, by a user: its mode and its ACLs."""
    makers: dict[str, Callable[[Path], object]] = {
        "mkdir": lambda path: os.mkdir(path, mode), "create": lambda path: touch(path, mode=mode),
        "mknod": lambda path: os.mknod(path, stat.S_IFREG | mode), "fifo": lambda path: os.mkfifo(path, mode),
        "socket": lambda path: os.mknod(path, stat.S_IFSOCK | mode), "symlink": lambda path: os.symlink("x", path),
        "below": lambda path: os.makedirs(path / "a" / "b")}
    found = {}
    for name, make in makers.items():
        make(d / name)
        for path in (d / name, d / name / "a" / "b"):
            if os.path.lexists(path):
                acls = {} if path.is_symlink() else {
                    kind: os.getxattr(path, kind).hex() for kind in os.listxattr(path) if "posix_acl" in kind}
                found[str(path.relative_to(d))] = os.lstat(path).st_mode, acls
    return found


DEFAULTS = {"none": b"", "minimal": acl(7, 7, 5), "minimal and narrow": acl(7, 5, 0),
            "extended": acl(7, 5, 0, {THIRD: 7}, {TEAM: 7}), "extended with a mask": acl(7, 7, 7, {THIRD: 7}, mask=5)}


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Mounted, Mounted]]:
    """The kernel's, and ours."""
    with ExitStack() as stack:
        pair = (mount_one("kernel", "size=64m,mode=1777"), mount_one("tmpfsd", "size=64m,ram=4m,acl"))
        for mounted in pair:
            stack.callback(finish, mounted)
        yield pair


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
@pytest.mark.parametrize("default", DEFAULTS)
@pytest.mark.parametrize("mode", [0o777, 0o666, 0o640, 0o2777])
def test_the_umask_counts_where_nothing_is_inherited(pair: tuple[Mounted, Mounted], umask: int, default: str,
                                                     mode: int) -> None:
    """A default ACL takes its place, also one that says no more than a mode does."""
    found = []
    for mounted in pair:
        d = mounted.mnt / f"{default}{umask:o}{mode:o}"
        d.mkdir()
        d.chmod(0o777)
        if DEFAULTS[default]:
            set_acl(d, DEFAULTS[default], DEFAULT)
        found.append(as_user(lambda d=d: (os.umask(umask), kinds_made(d, mode))[1]))
    assert found[0] == found[1]


class TestDirectories:
    """Groups and bits of directories."""

    def test_a_team_shares_one(self, d):
        (d / "team").mkdir()
        os.chown(d / "team", 0, TEAM)
        os.chmod(d / "team", 0o3770)        # set-group-ID and sticky
        as_user(lambda: touch(d / "team" / "one", mode=0o660), groups=(TEAM,))
        assert as_user(lambda: os.listdir(d / "team"), OTHER, groups=(TEAM,)) == ["one"]
        # Not with O_CREAT, which fs.protected_regular may forbid for another's file in a sticky directory.
        as_user(lambda: (d / "team" / "one").open("r+b").write(b"theirs"), OTHER, groups=(TEAM,))
        assert (d / "team" / "one").read_bytes() == b"theirs"
        for change in (lambda: os.unlink(d / "team" / "one"),
                       lambda: os.rename(d / "team" / "one", d / "team" / "two")):
            with fails_with(errno.EPERM):
                as_user(change, OTHER, groups=(TEAM,))
        with fails_with(errno.EACCES):
            as_user(lambda: os.listdir(d / "team"), OTHER)
        as_user(lambda: os.unlink(d / "team" / "one"), groups=(TEAM,))

    @pytest.mark.parametrize("mode, listed, searched", [(0o711, False, True), (0o744, True, False), (0o755, True, True),
                                                        (0o700, False, False)])
    def test_reading_and_searching(self, d, mode, listed, searched):
        (d / "sub").mkdir()
        touch(d / "sub" / "x", b"content")
        (d / "sub").chmod(mode)
        for allowed, look in ((listed, lambda: os.listdir(d / "sub")), (searched, lambda: os.stat(d / "sub" / "x")[0]),
                              (searched, lambda: (d / "sub" / "x").read_text())):
            if allowed:
                assert as_user(look)
            else:
                with fails_with(errno.EACCES):
                    as_user(look)

    def test_sticky_and_renames_between_directories(self, d):
        for name in ("one", "two"):
            (d / name).mkdir()
            (d / name).chmod(0o1777)
        as_user(lambda: touch(d / "one" / "mine"))
        as_user(lambda: touch(d / "two" / "theirs"), OTHER)
        with fails_with(errno.EPERM):
            as_user(lambda: os.rename(d / "one" / "mine", d / "two" / "theirs"))
        with fails_with(errno.EPERM):
            as_user(lambda: os.rename(d / "two" / "theirs", d / "one" / "taken"))
        as_user(lambda: os.rename(d / "one" / "mine", d / "two" / "mine"))
        with fails_with(errno.EPERM):
            as_user(lambda: os.rename(d / "two" / "mine", d / "two" / "x"), OTHER)

    def test_moving_anothers_directory_needs_a_right_to_it(self, d):
        """Its ".." changes."""
        for name in ("one", "two"):
            (d / name).mkdir()
            (d / name).chmod(0o777)
        (d / "one" / "sub").mkdir(mode=0o755)
        with fails_with(errno.EACCES):
            as_user(lambda: os.rename(d / "one" / "sub", d / "two" / "sub"))
        as_user(lambda: os.rename(d / "one" / "sub", d / "one" / "renamed"))


class TestFileCapabilities:
    """security.capability makes a program as dangerous as set-user-ID, and goes where that goes."""

    NET_RAW = struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)      # struct vfs_cap_data, revision 2, effective

    CHANGES: dict[str, Callable[[Path], Any]] = {
        "write": lambda path: path.write_bytes(b"changed"),
        "truncate": lambda path: os.truncate(path, 3),
    }

    @pytest.fixture
    def program(self, d: Path) -> Path:
        """A file of OTHER's that all may write, with a capability."""
        touch(d / "x", b"content")
        os.chmod(d / "x", 0o777)
        os.chown(d / "x", OTHER, OTHER)
        os.setxattr(d / "x", "security.capability", self.NET_RAW)
        return d / "x"

    @pytest.mark.parametrize("change", CHANGES)
    def test_lost_when_another_user_changes_it(self, program, change):
        as_user(lambda: self.CHANGES[change](program) and None)
        with fails_with(errno.ENODATA):
            os.getxattr(program, "security.capability")

    def test_lost_when_it_changes_hands(self, program):
        os.chown(program, NOBODY, NOBODY)
        with fails_with(errno.ENODATA):
            os.getxattr(program, "security.capability")

    def test_a_user_cannot_give_one(self, program):
        os.chown(program, NOBODY, NOBODY)
        with fails_with(errno.EPERM):
            as_user(lambda: os.setxattr(program, "security.capability", self.NET_RAW))

    def test_trusted_attributes_are_roots(self, program):
        os.setxattr(program, "trusted.x", b"secret")
        assert "trusted.x" in os.listxattr(program)
        assert "trusted.x" not in as_user(lambda: os.listxattr(program), OTHER)
        with fails_with(errno.EPERM):
            as_user(lambda: os.setxattr(program, "trusted.x", b"y"), OTHER)
        with fails_with(errno.ENODATA):
            as_user(lambda: len(os.getxattr(program, "trusted.x")), OTHER)
