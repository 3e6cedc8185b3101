"""tests/mount/test_private.py: root's own mount, which nobody else enters: as the kernel's, with fewer requests."""

import errno
import os
import stat
import subprocess
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Callable

import pytest
from mountlib import NOBODY, Mounted, as_user, fails_with, mount_kernel, mount_tmpfsd, needs_root, touch

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
    """Results of what permissions could stop, and of what they do not."""
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


def test_what_root_may_is_as_on_the_kernels() -> None:
    found = []
    with ExitStack() as made:
        for mounted in (mount_kernel("size=64m"), mount_tmpfsd(OPTIONS, others=False)):
            made.callback(mounted.close)
            found.append(what_root_may(mounted.mnt))
            mounted.check()
    assert found[0] == found[1]


def test_nobody_else_enters(tmpfsd: Callable[..., Mounted]) -> None:
    mounted = tmpfsd(OPTIONS, others=False)
    touch(mounted.mnt / "open", mode=0o666)
    for action in (lambda: (mounted.mnt / "open").read_text(), lambda: os.listdir(mounted.mnt),
                   lambda: touch(mounted.mnt / "new"), lambda: os.stat(mounted.mnt)):
        with fails_with(errno.EACCES):
            as_user(action)


def test_no_request_for_a_check(tmpfsd: Callable[..., Mounted]) -> None:
    """A create asks for the name, the file, and its end; a removal for that alone."""
    mounted = tmpfsd(OPTIONS, others=False)
    touch(mounted.mnt / "first", b"x")
    os.stat(mounted.mnt)
    before = Counter(mounted.status()["requests"])
    for number in range(100):
        os.close(os.open(mounted.mnt / f"file{number}", os.O_CREAT | os.O_WRONLY))
    for number in range(100):
        os.unlink(mounted.mnt / f"file{number}")
    after = Counter(mounted.status()["requests"])
    assert {kind: after[kind] - before[kind] for kind in ("lookup", "create", "unlink")} == {
        "lookup": 100, "create": 100, "unlink": 100}
    assert after["getattr"] - before["getattr"] <= 1


@pytest.mark.parametrize("more, refused", [("", False), (",default_permissions", True), (",acl", True)])
def test_root_without_its_capabilities(tmpfsd: Callable[..., Mounted], more: str, refused: bool) -> None:
    """It is stopped where the kernel checks: always, but in root's own mount without default_permissions."""
    mounted = tmpfsd(OPTIONS + more, others=False)
    touch(mounted.mnt / "secret", b"secret", mode=0o600)
    os.chown(mounted.mnt / "secret", NOBODY, NOBODY)
    line = next(line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(mounted.mnt) in line)
    assert ("default_permissions" in line) == (more == ",default_permissions" or refused)
    result = subprocess.run([*NO_OVERRIDE, "cat", mounted.mnt / "secret"], capture_output=True, check=False)
    assert (result.returncode != 0) == refused
