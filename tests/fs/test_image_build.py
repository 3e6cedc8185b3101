"""Images made from a directory, verified, and unpacked again."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fs.fslib import ROOT
from tests.fs.test_image import open_image
from tmpfsd.image import chattr
from tmpfsd.image.extract import extract, verify
from tmpfsd.image.file import Image
from tmpfsd.image.format import ImageError
from tmpfsd.tmpfs import fileattr
from tmpfsd.tmpfs.layout import FL_APPEND, FL_IMMUTABLE, FL_NOATIME, FL_NODUMP

AS_ROOT = os.geteuid() == 0


def ctl(*words: object) -> subprocess.CompletedProcess[str]:
    """The command."""
    return subprocess.run([sys.executable, "-m", "tmpfsd.cli.ctl", *map(str, words)], capture_output=True, text=True,
                          timeout=100, check=False)


def make_tree(top: Path) -> None:
    """A bit of everything."""
    top.mkdir()
    for i in range(40):
        directory = top / f"dir{i % 7}"
        directory.mkdir(exist_ok=True)
        (directory / f"file{i}").write_bytes(os.urandom(i * 300) if i % 3 else b"x" * i * 1000)
        os.utime(directory / f"file{i}", ns=(i * 10 ** 9 + 1, i * 10 ** 9 + 2))
    with open(top / "sparse", "wb") as file:
        file.truncate(1 << 30)
        os.pwrite(file.fileno(), b"middle", 1 << 29)
    os.link(top / "dir1/file1", top / "link")
    os.symlink(b"t\xffarget" * 20, os.fsencode(top / "symlink"))
    open(os.fsencode(top) + b"/\xfe\n name" + b"long" * 50, "wb").close()
    os.mkfifo(top / "fifo", 0o640)
    (top / "empty").mkdir(0o1710)
    os.setxattr(top / "dir2", "user.attribute", b"value" * 100)
    (top / "setuid").write_bytes(b"#!")
    if AS_ROOT:
        os.chown(top / "setuid", 5, 6)
        os.mknod(top / "device", stat.S_IFCHR | 0o600, os.makedev(300, 70_000))
    os.chmod(top / "setuid", 0o6755)
    with socket.socket(socket.AF_UNIX) as sock:
        here = os.getcwd()
        os.chdir(top)
        try:
            sock.bind("socket")
        finally:
            os.chdir(here)


def dump(top: Path, times: bool = True) -> dict[bytes, tuple]:
    """All that can be seen, but atime and ctime."""
    seen: dict[bytes, tuple] = {}
    start = os.fsencode(top)
    for where, directories, files in os.walk(start):
        for name in (*directories, *files, b""):
            path = os.path.join(where, name) if name else where
            st = os.lstat(path)
            data: object = None
            if stat.S_ISLNK(st.st_mode):
                data = os.readlink(path)
            elif stat.S_ISREG(st.st_mode):
                with open(path, "rb") as file:
                    data = hash(file.read()), st.st_size
            attributes = {name: os.getxattr(path, name, follow_symlinks=False)
                          for name in os.listxattr(path, follow_symlinks=False)}
            seen[os.path.relpath(path, start)] = (
                st.st_mode, st.st_nlink if not stat.S_ISDIR(st.st_mode) else 0, st.st_uid, st.st_gid, st.st_rdev,
                st.st_mtime_ns if times else 0, data, attributes)
    return seen


def test_there_and_back(tmp_path: Path) -> None:
    make_tree(tmp_path / "tree")
    image = tmp_path / "image"
    done = ctl("image", "build", tmp_path / "tree", image)
    assert done.returncode == 0 and not done.stderr, done
    assert "intact" in ctl("image", "verify", image).stdout
    done = ctl("image", "extract", image, tmp_path / "again")
    assert done.returncode == 0, done
    assert dump(tmp_path / "again") == dump(tmp_path / "tree")
    assert os.lstat(tmp_path / "again/sparse").st_blocks < 1000
    fs = open_image(image)
    assert set(fs.entries(ROOT)) == set(os.listdir(os.fsencode(tmp_path / "tree")))
    fs.check()
    fs.mp.close()
    assert sorted(os.listdir(tmp_path)) == ["again", "image", "tree"]


@pytest.mark.skipif(not AS_ROOT, reason="mounts a tmpfs, and gives what root may give")
@pytest.mark.parametrize("fs", ("tmpfs", "ramfs"))
def test_what_chattr_set(tmp_path: Path, fs: str) -> None:
    """Of files with several names and of directories, but not of what is below them; a ramfs has no such flags."""
    top, there, image = tmp_path / "top", tmp_path / "there", tmp_path / "image"
    want = {"fixed": FL_IMMUTABLE | FL_NODUMP, "log": FL_APPEND, "quiet": FL_NOATIME, "directory": FL_IMMUTABLE,
            "directory/inner": 0, "nodump": FL_NODUMP, "plain": 0, "fixed-too": FL_IMMUTABLE | FL_NODUMP}
    for directory in (top, there):
        directory.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "none", top], capture_output=True, timeout=10).returncode:
        pytest.skip("no tmpfs can be mounted")
    try:
        if subprocess.run(["mount", "-t", fs, "none", there], capture_output=True, timeout=10).returncode:
            pytest.skip(f"no {fs} can be mounted")
        for name in want:
            if name in ("directory", "nodump"):
                (top / name).mkdir()
            elif name != "fixed-too":
                (top / name).write_bytes(b"x")
        os.link(top / "fixed", top / "fixed-too")
        os.symlink("plain", top / "symlink")
        for name, flags in want.items():
            chattr.put(os.fsencode(top / name), flags)
        if chattr.of(os.fsencode(top / "fixed")) != want["fixed"]:
            pytest.skip("this kernel's tmpfs has no flags")
        assert not ctl("image", "build", top, image).stderr and not ctl("image", "verify", image).stderr
        driver = open_image(image)
        for name, flags in want.items():
            ino = ROOT
            for part in name.split("/"):
                ino = driver.lookup(ino, os.fsencode(part))
            assert driver.do(fileattr.get, ino) == flags, name
        assert driver.mp.flagged
        driver.mp.close()
        done = ctl("image", "extract", image, there / "out")
        assert (done.returncode, done.stderr) == (0, "")
        for name, flags in want.items():
            assert chattr.of(os.fsencode(there / "out" / name)) == flags * (fs == "tmpfs"), name
        assert os.stat(there / "out/fixed").st_nlink == 2
    finally:
        for directory in (there, top):
            subprocess.run(["umount", directory], capture_output=True, timeout=10)


def test_the_same_tree_gives_the_same_bytes(tmp_path: Path) -> None:
    """Though it was copied, in another order and at another time."""
    make_tree(tmp_path / "tree")
    shutil.copytree(tmp_path / "tree/dir3", tmp_path / "one/dir3")
    shutil.copytree(tmp_path / "tree/dir4", tmp_path / "one/dir4")
    shutil.copytree(tmp_path / "tree/dir4", tmp_path / "two/dir4")
    shutil.copytree(tmp_path / "tree/dir3", tmp_path / "two/dir3")
    os.utime(tmp_path / "two/dir3", (5, 5))
    for name in ("one", "two"):
        assert ctl("image", "build", tmp_path / name, tmp_path / f"{name}.image", "--mtime", 10 ** 9).returncode == 0
    assert (tmp_path / "one.image").read_bytes() == (tmp_path / "two.image").read_bytes()
    extract(str(tmp_path / "one.image"), str(tmp_path / "out"))
    assert dump(tmp_path / "out", times=False) == dump(tmp_path / "one", times=False)
    assert {os.lstat(path).st_mtime for path in (tmp_path / "out").rglob("*")} == {10 ** 9}


def test_a_page_that_is_bad_is_named(tmp_path: Path) -> None:
    make_tree(tmp_path / "tree")
    image = tmp_path / "image"
    assert ctl("image", "build", tmp_path / "tree", image).returncode == 0
    where = Image(str(image))
    at = where.array("offset")[1] + where.array("stored")[1] // 2
    where.close()
    data = bytearray(image.read_bytes())
    data[at] ^= 0x55
    image.write_bytes(data)
    done = ctl("image", "verify", image)
    assert done.returncode == 1 and "page " in done.stderr and done.stderr.count("\n") == 1, done
    with pytest.raises(ImageError, match="page"):
        verify(str(image), lambda _done, _of: None)


def test_info(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    assert ctl("image", "build", tmp_path / "tree", tmp_path / "image", "--mtime", 86400).returncode == 0
    text = ctl("image", "info", tmp_path / "image").stdout
    assert "1970-01-02 00:00:00 UTC" in text and "inodes      1\n" in text
    assert '"version": 1' in ctl("image", "info", tmp_path / "image", "--json").stdout


@pytest.mark.parametrize("words, said", [
    (("info", "/nothing"), "No such file"), (("info", "/etc/passwd"), "not an image"), (("build", "/etc"), "two paths"),
    (("build", "/etc/passwd", "x"), "not a directory"), (("info", "a", "b"), "one path"),
    (("extract", "/etc/passwd", "/tmp"), "not an image"), (("verify", "/etc"), "not a regular file"),
    (("info", "x", "--mtime", "5"), "--mtime is only for build"), (("build", "/etc", "/etc"), "no regular file")])
def test_what_is_wrong_is_one_line(words: tuple[str, ...], said: str) -> None:
    done = ctl("image", *words)
    assert done.returncode == 1 and said in done.stderr and done.stderr.count("\n") == 1, done


def test_a_directory_that_is_not_empty(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    assert ctl("image", "build", tmp_path / "tree", tmp_path / "image").returncode == 0
    done = ctl("image", "extract", tmp_path / "image", tmp_path)
    assert done.returncode == 1 and "must be an empty directory" in done.stderr


def test_what_broke_off_leaves_nothing(tmp_path: Path) -> None:
    """A file that cannot be read, as it goes when it is read."""
    (tmp_path / "tree").mkdir()
    os.mkfifo(tmp_path / "tree/fifo")
    done = ctl("image", "build", tmp_path / "tree", "/dev/full")
    assert done.returncode == 1 and "no regular file" in done.stderr
    done = ctl("image", "build", tmp_path / "tree", tmp_path / "nothing/image")
    assert done.returncode == 1 and os.listdir(tmp_path) == ["tree"]
