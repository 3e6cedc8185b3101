"""tests/mount/test_private.py: root's own mount, which nobody else enters: as the kernel's, and with `noperm`."""

import errno
import os
import stat
import subprocess
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Callable

import pytest
from mountlib import (
    IS_NATIVE, NOBODY, OTHER, Mounted, as_fsuser, as_user, fails_with, mount_kernel, mount_tmpfsd, needs_root, touch
)

pytestmark = needs_root
OPTIONS = "ram=4m,size=64m"
NO_OVERRIDE = ("setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner")


def outcome(action: Callable[[], Any]) -> Any:
    """What it returns, or its error."""
    try:
        return action()
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def what_root_may(d: Path) -> list[Any]:
    """Results of operations that permissions could stop, and of others."""
    for name, mode in (("none", 0), ("data", 0o666), ("program", 0o700), ("setuid", 0o6755), ("theirs", 0o600)):
        (d / name).write_text("#!/bin/sh\nexit 7\n")
        os.chmod(d / name, mode)
    os.chown(d / "theirs", NOBODY, NOBODY)
    os.mkdir(d / "closed", 0)
    os.mkdir(d / "sticky", 0o1777)
    touch(d / "sticky" / "theirs")
    os.chown(d / "sticky" / "theirs", NOBODY, NOBODY)
    os.chown(d / "sticky", NOBODY, NOBODY)
    found = [outcome(lambda path=d / name: path.read_text()) for name in ("none", "theirs")]
    found += [outcome(lambda path=d / name, how=how: os.access(path, how))
              for name in sorted(os.listdir(d)) for how in (os.R_OK, os.W_OK, os.X_OK)]
    found += [outcome(lambda path=d / name: subprocess.run([path], check=False).returncode)
              for name in ("none", "data", "program", "closed")]
    found += [outcome(lambda: touch(d / "closed" / "new")), outcome(lambda: os.listdir(d / "closed")),
              outcome(lambda: os.chdir(d / "closed") or os.chdir("/")),
              outcome(lambda: os.unlink(d / "sticky" / "theirs"))]
    with open(d / "setuid", "a", encoding="ascii") as file:
        file.write("# root keeps them\n")
    found.append(stat.S_IMODE(os.stat(d / "setuid").st_mode))
    os.chown(d / "setuid", NOBODY, NOBODY)
    found.append(stat.S_IMODE(os.stat(d / "setuid").st_mode))
    found.append(outcome(lambda: os.chmod(d / "theirs", 0o2755) or stat.S_IMODE(os.stat(d / "theirs").st_mode)))
    found.append(outcome(lambda: os.utime(d / "theirs", (1, 2)) or os.stat(d / "theirs").st_mtime))
    found.append(outcome(lambda: os.truncate(d / "none", 3) or (d / "none").stat().st_size))
    return found


@pytest.mark.parametrize("more", ["", ",noperm"])
def test_what_root_may_is_as_on_the_kernels(more: str) -> None:
    found = []
    with ExitStack() as made:
        for mounted in (mount_kernel("size=64m"), mount_tmpfsd(OPTIONS + more, others=False)):
            made.callback(mounted.close)
            found.append(what_root_may(mounted.mnt))
            mounted.check()
    assert found[0] == found[1]


def what_another_fsuid_may(d: Path) -> list[Any]:
    """Results of a process of root's that took another user for files."""
    touch(d / "secret", b"secret", mode=0o600)
    touch(d / "group", b"theirs", mode=0o640)
    os.chown(d / "group", 0, OTHER)
    for name, mode in (("sticky", 0o1777), ("closed", 0o700), ("open", 0o777)):
        os.mkdir(d / name)
        os.chmod(d / name, mode)
        touch(d / name / "file", b"x", mode=0o666)
    touch(d / "setuid", mode=0o6777)
    os.chmod(d / "setuid", 0o6777)
    actions = (
        lambda: (d / "secret").read_text(), lambda: (d / "group").read_text(), lambda: touch(d / "secret", b"mine"),
        lambda: os.unlink(d / "sticky" / "file"), lambda: os.rename(d / "sticky" / "file", d / "sticky" / "new"),
        lambda: os.listdir(d / "closed"), lambda: touch(d / "closed" / "new"), lambda: os.chdir(d / "closed"),
        lambda: os.stat(d / "closed" / "file").st_size, lambda: touch(d / "new"), lambda: touch(d / "open" / "new"),
        lambda: os.chmod(d / "secret", 0o666), lambda: os.chown(d / "secret", NOBODY, NOBODY),
        lambda: os.utime(d / "secret", (1, 2)), lambda: os.setxattr(d / "secret", "user.a", b"b"),
        lambda: os.link(d / "secret", d / "open" / "link"), lambda: os.truncate(d / "secret", 0),
        lambda: touch(d / "setuid", b"y"), lambda: os.unlink(d / "open" / "file"),
        lambda: os.setxattr(d / "open" / "new", "trusted.a", b"b"),
    )
    found = [outcome(lambda action=action: as_fsuser(action, NOBODY, NOBODY, groups))
             for groups in ((), (OTHER,)) for action in actions]
    made = os.stat(d / "open" / "new")
    return [*found, (made.st_uid, made.st_gid), stat.S_IMODE(os.stat(d / "setuid").st_mode), sorted(os.listdir(d))]


@pytest.mark.parametrize("others", [False, True])
def test_another_fsuid_is_as_on_the_kernels(others: bool) -> None:
    """setfsuid(2): to let a process in, FUSE looks at the user of the process, which is still root."""
    found = []
    with ExitStack() as made:
        for mounted in (mount_kernel("size=64m,mode=755"), mount_tmpfsd(OPTIONS + ",mode=755", others)):
            made.callback(mounted.close)
            found.append(what_another_fsuid_may(mounted.mnt))
            mounted.check()
    assert found[0] == found[1]
    assert found[1][0] == "EACCES" and found[1][3] == "EPERM"


def test_noperm_lets_another_fsuid_do_all(tmpfsd: Callable[..., Mounted]) -> None:
    """As README says: who wants the requests saved has to know."""
    mounted = tmpfsd(OPTIONS + ",noperm", others=False)
    touch(mounted.mnt / "secret", b"secret", mode=0o600)
    assert as_fsuser(lambda: (mounted.mnt / "secret").read_text()) == "secret"


def test_nobody_else_enters(tmpfsd: Callable[..., Mounted]) -> None:
    mounted = tmpfsd(OPTIONS, others=False)
    touch(mounted.mnt / "open", mode=0o666)
    for action in (lambda: (mounted.mnt / "open").read_text(), lambda: os.listdir(mounted.mnt),
                   lambda: touch(mounted.mnt / "new"), lambda: os.stat(mounted.mnt)):
        with fails_with(errno.EACCES):
            as_user(action)


def test_no_request_for_a_check(tmpfsd: Callable[..., Mounted]) -> None:
    """A create asks for the name and the file (edge=pyfuse3: and its end); a removal for that alone."""
    made = "mknod" if IS_NATIVE else "create"
    mounted = tmpfsd(OPTIONS + ",noperm", others=False)
    touch(mounted.mnt / "first", b"x")
    os.stat(mounted.mnt)
    before = Counter(mounted.status()["requests"])
    for number in range(100):
        os.close(os.open(mounted.mnt / f"file{number}", os.O_CREAT | os.O_WRONLY))
    for number in range(100):
        os.unlink(mounted.mnt / f"file{number}")
    after = Counter(mounted.status()["requests"])
    assert {kind: after[kind] - before[kind] for kind in ("lookup", made, "unlink")} == {
        "lookup": 100, made: 100, "unlink": 100}
    assert after["getattr"] - before["getattr"] <= 1


@pytest.mark.parametrize("more, asked", [("", 0), (",noperm", 2)])
def test_access_is_asked_for_with_noperm_only(tmpfsd: Callable[..., Mounted], more: str, asked: int) -> None:
    """access(2) and chdir(2); the kernel answers itself where it checks."""
    mounted = tmpfsd(OPTIONS + more, others=False)
    touch(mounted.mnt / "data")
    os.mkdir(mounted.mnt / "dir")
    here = os.getcwd()
    assert not os.access(mounted.mnt / "data", os.X_OK)
    os.chdir(mounted.mnt / "dir")
    os.chdir(here)
    assert mounted.status()["requests"].get("access", 0) == asked


@pytest.mark.parametrize("more, refused", [
    ("", True), (",default_permissions", True), (",acl", True), (",noperm", False)])
def test_root_without_its_capabilities(tmpfsd: Callable[..., Mounted], more: str, refused: bool) -> None:
    """It is stopped where the kernel checks: always, unless noperm says not to."""
    mounted = tmpfsd(OPTIONS + more, others=False)
    touch(mounted.mnt / "secret", b"secret", mode=0o600)
    os.chown(mounted.mnt / "secret", NOBODY, NOBODY)
    line = next(line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(mounted.mnt) in line)
    assert ("default_permissions" in line) == refused
    result = subprocess.run([*NO_OVERRIDE, "cat", mounted.mnt / "secret"], capture_output=True, check=False)
    assert (result.returncode != 0) == refused
