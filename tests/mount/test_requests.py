"""tests/mount/test_requests.py: the kernel's requests for each system call (tmpfsd only): requests saved are counted.

Status counts requests by kind; each test looks at the requests of one action.  Nothing else uses the mount meanwhile.
"""

import os
import subprocess
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import Callable, Iterator

import pytest
from mountlib import IS_NATIVE, Mounted, as_user, eventually, needs_root, touch

from tmpfsd.fuse.init import MAX_WRITE

BLOCK = bytes(4096)
other_edge = pytest.mark.skipif(IS_NATIVE, reason="test_native_requests.py counts those of edge=native")


class Asked:
    """The requests of a block, once its last one has come: nobody waits for RELEASE and FORGET."""

    def __init__(self, mounted: Mounted) -> None:
        self.mounted = mounted
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


@pytest.fixture
def asked(tmpfsd: Callable[..., Mounted]) -> Asked:
    """A mount after the requests that are sent only once (FLUSH, and those about the root)."""
    mounted = tmpfsd("ram=8m,size=256m")
    touch(mounted.mnt / "first", b"x")
    os.stat(mounted.mnt)
    eventually(lambda: mounted.status()["requests"].get("release", 0) == 1)
    return Asked(mounted)


@other_edge
def test_create(asked: Asked) -> None:
    d = asked.mounted.mnt
    with asked.by(lookup=1, create=1, release=1):
        os.close(os.open(d / "one", os.O_CREAT | os.O_WRONLY))
    # The parent's attributes are stale for the kernel: it asks once before the next.
    with asked.by(lookup=100, create=100, getattr=100, release=100):
        for number in range(100):
            os.close(os.open(d / f"file{number}", os.O_CREAT | os.O_WRONLY))


@other_edge
def test_what_is_known_is_not_asked_again(asked: Asked) -> None:
    d = asked.mounted.mnt
    touch(d / "file", b"content")
    os.symlink("file", d / "link")
    assert (d / "link").read_bytes() == b"content" and not os.path.exists(d / "missing")
    os.stat(d / "file")
    eventually(lambda: asked.mounted.status()["requests"].get("release", 0) == 3)
    with asked.by():
        for _ in range(10):
            assert os.stat(d / "file").st_size == 7 and not os.path.exists(d / "missing")
            assert os.readlink(d / "link") == "file" and os.stat(d / "link").st_size == 7
    with asked.by(open=3, release=3):
        for _ in range(3):
            assert (d / "file").read_bytes() == b"content"


@other_edge
def test_ls_asks_for_one_label(asked: Asked) -> None:
    d = asked.mounted.mnt
    for number in range(100):
        touch(d / f"file{number}")
    asked.counts = Counter(asked.mounted.status()["requests"])
    subprocess.run(["ls", "-l", d], check=True, stdout=subprocess.DEVNULL)
    after = Counter(asked.mounted.status()["requests"])
    assert after["readdir"] > asked.counts["readdir"]
    assert after["getxattr"] <= asked.counts["getxattr"] + 2


def test_write_asks_for_no_attribute(asked: Asked) -> None:
    fd = os.open(asked.mounted.mnt / "data", os.O_CREAT | os.O_RDWR)
    os.write(fd, BLOCK)
    with asked.by(write=50):
        for number in range(50):
            os.pwrite(fd, BLOCK, number * len(BLOCK))
    os.close(fd)


@other_edge
@needs_root
def test_large_files_go_in_large_requests(asked: Asked) -> None:
    path, most, size = asked.mounted.mnt / "large", MAX_WRITE, 64
    with asked.by(lookup=1, create=1, write=size, getxattr=1, release=1):
        with open(path, "wb", buffering=0) as file:
            for _ in range(size):
                file.write(os.urandom(most))
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    before = asked.mounted.status()["requests"].get("read", 0)
    assert sum(len(os.read(fd, most)) for _ in range(size)) == size * most
    os.close(fd)
    # The window of read-ahead opens by doubling, then each request is as large as can be.
    assert size <= asked.mounted.status()["requests"]["read"] - before <= size + 6


@other_edge
def test_unlink(asked: Asked) -> None:
    d = asked.mounted.mnt
    for number in range(20):
        touch(d / f"{number}")
    eventually(lambda: asked.mounted.status()["requests"].get("release", 0) == 21)
    with asked.by(unlink=20, getattr=20, forget=20):
        for number in range(20):
            os.unlink(d / f"{number}")


def attributes(path: Path) -> tuple[int, ...]:
    """The fields of a stat, without atime."""
    st = os.stat(path, follow_symlinks=False)
    return (st.st_mode, st.st_nlink, st.st_uid, st.st_gid, st.st_size, st.st_blocks, st.st_mtime_ns, st.st_ctime_ns)


def rewrite_as_user(path: Path) -> None:
    """One byte by another user: the set-id bits go."""
    as_user(lambda: touch(path, b"y"))


def append(path: Path) -> None:
    """Some bytes more."""
    with open(path, "ab") as file:
        file.write(b"more")


CHANGES: dict[str, Callable[[Path], object]] = {
    "write": lambda d: touch(d / "file", b"longer than before"),
    "write by another user": lambda d: rewrite_as_user(d / "file"),
    "append": lambda d: append(d / "file"),
    "truncate": lambda d: os.truncate(d / "file", 1),
    "chmod": lambda d: os.chmod(d / "file", 0o600),
    "chown": lambda d: os.chown(d / "file", 1, 2),
    "link": lambda d: os.link(d / "file", d / "other"),
    "unlink one of two": lambda d: (os.link(d / "file", d / "other"), os.unlink(d / "other")),
    "rename": lambda d: (os.rename(d / "file", d / "new"), os.rename(d / "new", d / "file")),
    "rename over": lambda d: (os.link(d / "file", d / "b"), touch(d / "a"), os.rename(d / "a", d / "b")),
    "xattr": lambda d: os.setxattr(d / "file", "user.a", b"b"),
    "utime": lambda d: os.utime(d / "file", ns=(5, 7)),
    "mkdir": lambda d: os.mkdir(d / "sub"),
    "rmdir": lambda d: (os.mkdir(d / "sub"), os.rmdir(d / "sub")),
    "create": lambda d: touch(d / "another"),
}


@needs_root
@pytest.mark.parametrize("name", CHANGES)
def test_cached_attributes_are_right(tmpfsd: Callable[..., Mounted], name: str) -> None:
    """After a change the kernel's cache is equal to the file system's answer without a cache."""
    mounted = tmpfsd("ram=8m,size=64m")
    d = mounted.mnt / "d"
    d.mkdir()
    touch(d / "file", b"content")
    os.chmod(d / "file", 0o6777)
    os.chmod(d, 0o777)
    for path in (d, d / "file"):
        os.stat(path)
    CHANGES[name](d)
    paths = [d, *sorted(d.iterdir())]
    cached = [attributes(path) for path in paths]
    with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as file:
        file.write("2")
    assert [attributes(path) for path in paths] == cached
