"""tests/mount/test_native_programs.py: programs that use what edge=native passes on, and handles of files."""

import ctypes
import errno
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Callable

import pytest
from mountlib import AT_FDCWD, PAGE, Mounted, eventually, libc, needs_root, touch


@pytest.fixture
def mnt(make_fs: Callable[..., Mounted]) -> Path:
    return make_fs(tmpfsd="ram=8m,edge=native", size="512m", mode="1777").mnt


def run(*command: "str | Path", **options: Any) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


@needs("fallocate")
def test_fallocate(mnt: Path) -> None:
    run("fallocate", "-l", "3MiB", mnt / "a")
    assert (os.stat(mnt / "a").st_size, os.stat(mnt / "a").st_blocks) == (3 << 20, 3 << 11)
    run("fallocate", "-n", "-o", "3MiB", "-l", "1MiB", mnt / "a")
    assert (os.stat(mnt / "a").st_size, os.stat(mnt / "a").st_blocks) == (3 << 20, 4 << 11)
    touch(mnt / "b", b"x" * PAGE + bytes(100 * PAGE) + b"y" * PAGE)
    run("fallocate", "--dig-holes", mnt / "b")
    assert os.stat(mnt / "b").st_blocks == 2 * PAGE // 512
    run("fallocate", "-p", "-o", "0", "-l", str(PAGE), mnt / "b")
    assert (mnt / "b").read_bytes() == bytes(101 * PAGE) + b"y" * PAGE


def test_cp(mnt: Path) -> None:
    touch(mnt / "a", b"x" * PAGE)
    os.truncate(mnt / "a", 50 << 20)
    for sparse in ("auto", "always", "never"):
        run("cp", f"--sparse={sparse}", mnt / "a", mnt / sparse)
        run("cmp", mnt / "a", mnt / sparse)
    assert os.stat(mnt / "auto").st_blocks == os.stat(mnt / "always").st_blocks == PAGE // 512
    run("cp", "-a", mnt / "a", mnt / "archive")
    run("cmp", mnt / "a", mnt / "archive")


def test_birth_time(mnt: Path) -> None:
    touch(mnt / "a")
    born = run("stat", "-c", "%w", mnt / "a")
    assert re.match(r"20\d\d-", born)
    os.utime(mnt / "a", (5, 5))
    os.chmod(mnt / "a", 0o600)
    assert run("stat", "-c", "%w", mnt / "a") == born


def test_syncfs(mnt: Path) -> None:
    touch(mnt / "a", b"x" * 100_000)
    run("sync", "-f", mnt / "a")


class Handle(ctypes.Structure):
    """struct file_handle with room for what tmpfs and FUSE put there."""

    _fields_ = [("handle_bytes", ctypes.c_uint), ("handle_type", ctypes.c_int), ("f_handle", ctypes.c_char * 128)]


@needs_root
def test_handles(mnt: Path) -> None:
    """A handle leads to the file by any name, also when the kernel has forgotten it; after its end, to nothing."""
    os.mkdir(mnt / "d")
    touch(mnt / "d" / "a", b"content")
    handle, mount_id = Handle(handle_bytes=128), ctypes.c_int()
    path = os.fsencode(mnt / "d" / "a")
    assert libc.name_to_handle_at(AT_FDCWD, path, ctypes.byref(handle), ctypes.byref(mount_id), 0) == 0
    os.rename(mnt / "d" / "a", mnt / "b")
    Path("/proc/sys/vm/drop_caches").write_text("2")
    root = os.open(mnt, os.O_RDONLY)
    fd = libc.open_by_handle_at(root, ctypes.byref(handle), os.O_RDONLY)
    assert fd >= 0, os.strerror(ctypes.get_errno())
    assert os.read(fd, 100) == b"content"
    os.close(fd)
    os.unlink(mnt / "b")

    def gone() -> bool:
        """A node without a name may stay in the kernel's cache for a while, and its handle leads there."""
        Path("/proc/sys/vm/drop_caches").write_text("2")
        again = libc.open_by_handle_at(root, ctypes.byref(handle), os.O_RDONLY)
        if again >= 0:
            os.close(again)
        return bool(again < 0 and ctypes.get_errno() == errno.ESTALE)

    found = eventually(gone)
    os.close(root)
    assert found


STRESSORS = {
    "room": ("--fallocate", "1", "--fallocate-bytes", "8m", "--seek", "1", "--seek-size", "4m", "--seek-punch"),
    "copies": ("--copy-file", "1", "--copy-file-bytes", "128m"),
    "flags": ("--chattr", "1", "--file-ioctl", "1"),
}


@needs("stress-ng")
@pytest.mark.parametrize("group", STRESSORS)
def test_stress_ng(mnt: Path, group: str) -> None:
    run("stress-ng", *STRESSORS[group], "--timeout", "2s", "--verify", "--temp-path", mnt, "--oomable", cwd=mnt)
