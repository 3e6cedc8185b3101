"""tests/mount/conftest.py: each test runs on the kernel's tmpfs (the oracle) and on a tmpfsd mount.

Fixtures    d         a fresh directory on a mount that a module's tests share: what most tests take
            fs        that mount: kind, mnt, status(), check()
            make_fs   function(size=..., ...) -> a mount of its own, of the kind under test
            tmpfsd    function("ram=1m,...") -> a tmpfsd mount of its own; for what the kernel cannot show
Every tmpfsd mount passes `tmpfsctl check` before it goes, and its process must end by itself.
"""

import gc
import os
import signal
import subprocess
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Callable, Iterator

import clilib
import pytest
from mountlib import INJECTED, Mounted, abort_all, mount_kernel, mount_tmpfsd

from tmpfsd.mounts import mountinfo

HERE = Path(__file__).parent
TIMEOUT = 60  # seconds a test may take, where it does not say otherwise
SHARED = {"kernel": "size=1g,mode=1777", "tmpfsd": "size=1g,ram=4m"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test of this folder has a limit of time."""
    for item in items:
        if HERE in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(TIMEOUT))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many I/O faults were injected."""
    if INJECTED:
        terminalreporter.write_line(f"I/O faults injected into swap: {INJECTED.total():,}")


@pytest.fixture(autouse=True)
def watchdog(request: pytest.FixtureRequest) -> Iterator[None]:
    """Abort the connections just before the time is over: a call that waits for FUSE heeds no alarm."""
    marker = request.node.get_closest_marker("timeout")
    timer = threading.Timer(max(1, (marker.args[0] if marker else TIMEOUT) - 3), abort_all)
    timer.daemon = True
    timer.start()
    yield
    timer.cancel()
    timer.join()


@pytest.fixture(scope="session", params=["kernel", "tmpfsd"])
def kind(request: pytest.FixtureRequest) -> str:
    """Which file system is under test."""
    return request.param


def mount_one(kind: str, options: str) -> Mounted:
    """Mount the kind under test."""
    if kind == "kernel":
        return mount_kernel(options)
    return mount_tmpfsd(options, TMPFSD_CHECK=os.environ.get("TMPFSD_CHECK", "1"))


def finish(mounted: Mounted) -> None:
    """Check and unmount; unmounts even if the check fails."""
    gc.collect()  # no file object of a failed test may keep the mount busy
    try:
        if mounted.alive() and mountinfo.find(str(mounted.mnt)):        # else a test unmounted it, and it ends
            mounted.check()
    finally:
        mounted.close()


@pytest.fixture(scope="module")
def fs(kind: str) -> Iterator[Mounted]:
    """A mount shared by the tests of one module."""
    mounted = mount_one(kind, SHARED[kind])
    yield mounted
    finish(mounted)


@pytest.fixture
def d(fs: Mounted) -> Path:
    """A fresh directory, open to all, in the shared mount."""
    path = Path(tempfile.mkdtemp(dir=fs.mnt))
    path.chmod(0o777)
    return path


@pytest.fixture
def make_fs(kind: str) -> Iterator[Callable[..., Mounted]]:
    """make_fs(size=..., tmpfsd="more options for tmpfsd only"): a mount of the test's own."""
    with ExitStack() as made:
        def make(tmpfsd: str = "ram=4m", **options: str) -> Mounted:
            words = [f"{key}={value}" for key, value in options.items()]
            mounted = mount_one(kind, ",".join(words + ([tmpfsd] if kind == "tmpfsd" else [])))
            made.callback(finish, mounted)
            return mounted

        yield make


@pytest.fixture
def tmpfsd() -> Iterator[Callable[..., Mounted]]:
    """tmpfsd("ram=1m,..."): a tmpfsd mount of the test's own."""
    with ExitStack() as made:
        def make(options: str, others: bool = True, **environment: str) -> Mounted:
            mounted = mount_tmpfsd(options, others, **environment)
            made.callback(finish, mounted)
            return mounted

        yield make


@pytest.fixture
def top() -> Iterator[bytes]:
    """A directory that every user can reach, with nothing mounted below it in the end."""
    place = os.fsencode(tempfile.mkdtemp(prefix="tmpfsd-test-"))
    os.chmod(place, 0o755)
    yield place
    for mount in mountinfo.table()[::-1]:
        if mountinfo.within(mount.path, os.fsdecode(place)):
            subprocess.run(["umount", "-l", mount.path], timeout=20, check=False)
    subprocess.run(["rm", "-rf", "--one-file-system", place], timeout=20, check=True)


@pytest.fixture
def mountpoint(tmp_path: Path) -> Iterator[Path]:
    """A directory to mount at; it is left clean after any test."""
    path = tmp_path / "mnt"
    path.mkdir()
    yield path
    while mountinfo.find(str(path)):
        lazily = ["umount", "-l"] if clilib.ROOT else ["fusermount3", "-uz"]
        if clilib.unmount(path).returncode and clilib.run(*lazily, str(path)).returncode:
            break
    for pid in clilib.servers(path):
        os.kill(pid, signal.SIGKILL)
    assert clilib.gone(path)


@pytest.fixture
def mounted(mountpoint: Path) -> Path:
    """A mount."""
    options = "ram=4m,size=64m" + (",allow_other" if clilib.ROOT else "")
    done = clilib.tmpfsd("source", str(mountpoint), "-o", options)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return mountpoint
