"""tests/mount/test_native_requests.py: the requests to edge=native for each system call: those saved are not sent.

As test_requests.py, of the other edge.  The kernel checks permissions itself unless a mount is given noperm; to do so
it needs the attributes of a directory, which each change in it makes stale.
"""

import os
import stat
import subprocess
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
from mountlib import Mounted, as_user, ctl, eventually, needs_root, touch

from tmpfsd.fuse.init import MAX_WRITE

CHECKED = "edge=native,ram=8m,size=256m"
UNCHECKED = f"{CHECKED},noperm"
BLOCK = bytes(4096)


class Asked:
    """The requests of a block; nobody waits for a FORGET."""

    def __init__(self, mounted: Mounted) -> None:
        self.mounted = mounted
        self.d = mounted.mnt
        self.counts: Counter[str] = Counter()

    @contextmanager
    def by(self, **expected: int) -> Iterator[None]:
        """The block must cause exactly these requests."""
        before = Counter(self.mounted.status()["requests"])
        yield

        def come() -> bool:
            self.counts = Counter(self.mounted.status()["requests"]) - before
            return self.counts == Counter(expected)

        assert eventually(come, 5), f"{dict(self.counts)} instead of {expected}"


def settled(mounted: Mounted) -> Asked:
    """Make the requests that are sent only once: those answered with ENOSYS, and those about the root."""
    touch(mounted.mnt / "first", b"x")
    for _ in range(2):
        os.listdir(mounted.mnt)
        fd = os.open(mounted.mnt / "first", os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
    os.stat(mounted.mnt)
    return Asked(mounted)


@pytest.fixture
def asked(tmpfsd: Callable[..., Mounted]) -> Asked:
    return settled(tmpfsd(CHECKED))


@pytest.fixture
def unchecked(tmpfsd: Callable[..., Mounted]) -> Asked:
    """Where the kernel checks no permissions."""
    if os.geteuid() != 0:
        pytest.skip("noperm is for root's mounts")
    return settled(tmpfsd(UNCHECKED, others=False))


def create(path: Path) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY))


def test_create(asked: Asked) -> None:
    with asked.by(lookup=100, mknod=100, getattr=99):
        for number in range(100):
            create(asked.d / f"file{number}")


def test_create_unchecked(unchecked: Asked) -> None:
    with unchecked.by(lookup=100, mknod=100):
        for number in range(100):
            create(unchecked.d / f"file{number}")


def test_unlink(asked: Asked) -> None:
    for number in range(20):
        create(asked.d / f"{number}")
    with asked.by(unlink=20, getattr=20, forget=20):
        for number in range(20):
            os.unlink(asked.d / f"{number}")


def test_unlink_unchecked(unchecked: Asked) -> None:
    for number in range(20):
        create(unchecked.d / f"{number}")
    with unchecked.by(unlink=20, forget=20):
        for number in range(20):
            os.unlink(unchecked.d / f"{number}")


def test_open_read_close_of_what_is_cached(asked: Asked) -> None:
    touch(asked.d / "file", b"content")

    def read() -> bytes:
        fd = os.open(asked.d / "file", os.O_RDONLY)
        try:
            return os.read(fd, 7)
        finally:
            os.close(fd)

    read()
    os.stat(asked.d / "file")           # the read has made its atime stale
    with asked.by():
        for _ in range(10):
            assert read() == b"content" and os.stat(asked.d / "file").st_size == 7
            assert not os.path.exists(asked.d / "first" / "x")


def test_a_second_ls(asked: Asked) -> None:
    (asked.d / "sub").mkdir()
    for number in range(300):
        create(asked.d / "sub" / f"{number}")
    names = sorted(os.listdir(asked.d / "sub"))
    assert len(names) == 300
    os.stat(asked.d / "sub")            # as above: opendir(3) asks for attributes
    with asked.by():
        assert sorted(os.listdir(asked.d / "sub")) == names
        subprocess.run(["ls", asked.d / "sub"], check=True, stdout=subprocess.DEVNULL)
    create(asked.d / "sub" / "new")
    assert sorted(os.listdir(asked.d / "sub")) == sorted([*names, "new"])


def test_ls_l(asked: Asked) -> None:
    """Attributes come with the names, labels do not exist, ACLs neither."""
    for number in range(100):
        create(asked.d / f"file{number}")
    with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as file:
        file.write("2")
    before = Counter(asked.mounted.status()["requests"])
    subprocess.run(["ls", "-l", asked.d], check=True, stdout=subprocess.DEVNULL)
    counts = Counter(asked.mounted.status()["requests"]) - before
    assert counts["readdirplus"] and counts["lookup"] + counts["getattr"] + counts["getxattr"] < 10, counts


@needs_root
def test_find_in_large_directories(asked: Asked) -> None:
    """find reads a directory to its end, then looks at each name: from the second on, attributes come with names."""
    tops, files = 6, 600
    for top in range(tops):
        (asked.d / f"{top}").mkdir()
        for number in range(files):
            create(asked.d / f"{top}" / f"file{number}")

    def lookups(*words: str) -> int:
        for _ in range(3):                  # the first time, a used name is only marked
            Path("/proc/sys/vm/drop_caches").write_text("2", encoding="ascii")
        before = asked.mounted.status()["requests"]["lookup"]
        found = subprocess.run(["find", asked.d, *words], check=True, stdout=subprocess.PIPE).stdout.splitlines()
        assert len(found) >= tops * files
        return int(asked.mounted.status()["requests"]["lookup"] - before)

    assert lookups("-name", "file*") < files / 2
    assert lookups("-size", "-1") < 2 * files
    assert lookups("-size", "-1") < files


def test_write_asks_for_no_attribute(asked: Asked) -> None:
    fd = os.open(asked.d / "data", os.O_CREAT | os.O_RDWR)
    os.write(fd, BLOCK)
    with asked.by(write=50):
        for number in range(50):
            os.pwrite(fd, BLOCK, number * len(BLOCK))
        os.fsync(fd)
    os.close(fd)


@needs_root
def test_large_files_go_in_large_requests(asked: Asked) -> None:
    most, size = MAX_WRITE, 64
    fd = os.open(asked.d / "large", os.O_CREAT | os.O_RDWR)
    os.write(fd, b"x")
    data = os.urandom(most)
    with asked.by(write=size):
        for number in range(size):
            os.pwrite(fd, data, number * most)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)
    fd = os.open(asked.d / "large", os.O_RDONLY)        # the mount has set its read-ahead by now
    before = asked.mounted.status()["requests"].get("read", 0)
    same = [os.read(fd, most) == data for _ in range(size)]
    os.close(fd)
    assert same == [True] * size
    # The window of read-ahead opens by doubling, then each request is as large as can be.
    assert size <= asked.mounted.status()["requests"]["read"] - before <= size + 6


# --- what would be lost if a flag were agreed on that must not be ---

def test_o_trunc_truncates(asked: Asked) -> None:
    touch(asked.d / "file", b"content")
    os.close(os.open(asked.d / "file", os.O_WRONLY | os.O_TRUNC))
    assert os.stat(asked.d / "file").st_size == 0 == len((asked.d / "file").read_bytes())
    os.utime(asked.d / "file", ns=(0, 0))
    os.close(os.open(asked.d / "file", os.O_WRONLY | os.O_TRUNC))       # `: > stamp`
    assert os.stat(asked.d / "file").st_mtime_ns > 0


def test_a_new_file_may_be_written_whatever_its_mode(asked: Asked) -> None:
    os.chmod(asked.d, 0o777)

    def make() -> int:
        fd = os.open(asked.d / "file", os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o400)
        try:
            return os.write(fd, b"x")
        finally:
            os.close(fd)

    assert (as_user(make) if os.geteuid() == 0 else make()) == 1
    assert stat.S_IMODE(os.stat(asked.d / "file").st_mode) == 0o400


def test_the_umask_is_applied(asked: Asked) -> None:
    old = os.umask(0o027)
    try:
        os.close(os.open(asked.d / "file", os.O_CREAT | os.O_WRONLY, 0o666))
        os.mkdir(asked.d / "dir", 0o777)
        os.mkfifo(asked.d / "fifo", 0o666)
    finally:
        os.umask(old)
    assert [stat.S_IMODE(os.stat(asked.d / name).st_mode) for name in ("file", "dir", "fifo")] == [0o640, 0o750, 0o640]


def test_discard_changes_cached_listings(asked: Asked) -> None:
    """With no-opendir the kernel keeps listings; it must be told of changes that it did not make."""
    d = asked.d
    (d / "top" / "gone" / "below").mkdir(parents=True)
    (d / "top" / "stays").mkdir()
    touch(d / "top" / "gone" / "below" / "file", b"x")
    for path in ("top", "top/gone", "top/gone/below"):
        os.listdir(d / path)
    handle = os.open(d / "top" / "gone", os.O_RDONLY | os.O_DIRECTORY)
    try:
        assert os.listdir(handle) == ["below"] and sorted(os.listdir(d / "top")) == ["gone", "stays"]
        ctl("discard", "--yes", str(d / "top" / "gone"))
        assert os.listdir(d / "top") == ["stays"] and not (d / "top" / "gone").exists()
        assert eventually(lambda: not os.listdir(handle), 5)
    finally:
        os.close(handle)


def test_file_handles_survive_a_forget(asked: Asked) -> None:
    """LOOKUP of "." by number: the node of a handle whose inode the kernel has forgotten."""
    if os.geteuid() != 0:
        pytest.skip("open_by_handle_at() needs root")
    script = """
import ctypes, os, sys, time
libc = ctypes.CDLL(None, use_errno=True)
class Handle(ctypes.Structure):
    _fields_ = [("bytes", ctypes.c_uint), ("type", ctypes.c_int), ("data", ctypes.c_char * 128)]
path, mount = sys.argv[1].encode(), os.open(sys.argv[2], os.O_RDONLY)
handle, number = Handle(128, 0, b""), ctypes.c_int()
assert libc.name_to_handle_at(-100, path, ctypes.byref(handle), ctypes.byref(number), 0) == 0, ctypes.get_errno()
open("/proc/sys/vm/drop_caches", "w").write("2")
fd = libc.open_by_handle_at(mount, ctypes.byref(handle), os.O_RDONLY)
assert fd >= 0, ctypes.get_errno()
assert os.read(fd, 9) == b"content"
os.unlink(path); os.close(fd)
for _ in range(100):            # the FORGET may be behind
    fd = libc.open_by_handle_at(mount, ctypes.byref(handle), os.O_RDONLY)
    if fd < 0:
        break
    os.close(fd)
    time.sleep(0.02)
assert fd < 0 and ctypes.get_errno() == 116, (fd, ctypes.get_errno())
"""
    touch(asked.d / "file", b"content")
    result: Any = subprocess.run(["python3", "-c", script, asked.d / "file", asked.d], capture_output=True, text=True,
                                 timeout=30)
    assert result.returncode == 0, result.stderr


def test_ends_when_it_is_unmounted_and_when_it_is_told(tmpfsd: Callable[..., Mounted]) -> None:
    for end in ("umount", "signal"):
        mounted = tmpfsd(CHECKED)
        touch(mounted.mnt / "file", b"x")
        if end == "signal":
            mounted.daemon.terminate()
        else:
            command = ["umount"] if os.geteuid() == 0 else ["fusermount3", "-u"]
            subprocess.run([*command, mounted.mnt], check=True, timeout=10)
        assert mounted.daemon.wait(timeout=10) == 0, mounted.log_text()


def test_status_says_which_edge(asked: Asked) -> None:
    assert asked.mounted.status()["edge"] == "native"
