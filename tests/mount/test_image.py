"""Images on real mounts: saved while they are used, mounted again, changed, saved again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from mountlib import Mounted, ctl, eventually, touch

Make = Callable[..., Mounted]


def fill(mnt: Path, n: int = 400) -> None:
    for i in range(n):
        if i % 100 == 0:
            (mnt / f"d{i // 100}").mkdir()
        touch(mnt / f"d{i // 100}" / f"file-{i}", b"%d" % i * (i * 7))
    os.link(mnt / "d0" / "file-1", mnt / "link")
    os.symlink("x" * 300, mnt / "symlink")
    os.setxattr(mnt / "link", "user.name", b"value")
    with open(mnt / "sparse", "wb") as file:
        os.pwrite(file.fileno(), b"end", 1 << 33)


def dump(mnt: Path) -> dict[str, tuple]:
    """All that can be seen, but atime."""
    seen = {}
    for top, directories, files in os.walk(mnt):
        for name in (*directories, *files, ""):
            path = os.path.join(top, name)
            st = os.lstat(path)
            data: object = None
            if os.path.islink(path):
                data = os.readlink(path)
            elif os.path.isfile(path):
                with open(path, "rb") as file:
                    data = file.read() if st.st_size < 1 << 24 else os.pread(file.fileno(), 9, st.st_size - 9)
            seen[os.path.relpath(path, mnt)] = (
                st.st_ino, st.st_mode, st.st_nlink, st.st_uid, st.st_gid, st.st_size, st.st_blocks, st.st_mtime_ns,
                st.st_ctime_ns, data, None if os.path.islink(path) else os.listxattr(path))
    return seen


def test_saved_mounted_changed_and_saved_again(tmpfsd: Make, tmp_path: Path) -> None:
    one = tmpfsd("ram=8m,size=1g")
    fill(one.mnt)
    gone = os.open(one.mnt / "gone", os.O_CREAT | os.O_RDWR)
    os.unlink(one.mnt / "gone")
    image = tmp_path / "image"
    assert "inodes" in ctl("snapshot", str(one.mnt), str(image)).stdout
    os.close(gone)
    assert image.stat().st_mode & 0o777 == 0o600 and os.listdir(tmp_path) == ["image"]
    before = dump(one.mnt)
    two, three = tmpfsd(f"ram=4m,image={image}"), tmpfsd(f"ram=4m,image={image}")
    assert two.status()["inodes"] == one.status()["inodes"] == len(before) - 1        # two names of one
    assert dump(two.mnt) == before
    shutil.rmtree(two.mnt / "d1")
    touch(two.mnt / "d2" / "new", b"z" * 100_000)
    touch(two.mnt / "d2" / "file-250", b"shorter")
    changed = dump(two.mnt)
    assert dump(three.mnt) == before
    ctl("snapshot", str(two.mnt), str(image))           # in the place of the one that is in use
    four = tmpfsd(f"ram=4m,image={image}")
    assert dump(four.mnt) == changed == dump(two.mnt) and dump(three.mnt) == before
    for fs in (two, three, four):
        assert ctl("check", str(fs.mnt)).stdout.endswith(": consistent\n")
        assert fs.status()["image"]["path"] == str(image)


def test_it_is_one_moment(tmpfsd: Make, tmp_path: Path) -> None:
    """Names are renamed in pairs while it is saved: each image has one of each pair."""
    fs = tmpfsd("ram=4m,size=1g")
    for i in range(50):
        touch(fs.mnt / f"a{i}", b"%d" % i * 3000)
    stop = threading.Event()

    def change() -> None:
        while not stop.is_set():
            for i in range(50):
                for old, new in (("a", "b"), ("b", "a")):
                    os.rename(fs.mnt / f"{old}{i}", fs.mnt / f"{new}{i}")
                touch(fs.mnt / "busy", os.urandom(50_000))

    worker = threading.Thread(target=change)
    worker.start()
    try:
        for k in range(3):
            ctl("snapshot", str(fs.mnt), str(tmp_path / f"image{k}"))
    finally:
        stop.set()
        worker.join()
    for k in range(3):
        saved = tmpfsd(f"ram=4m,image={tmp_path}/image{k}")
        names = {name for name in os.listdir(saved.mnt) if name != "busy"}
        assert sorted(int(name[1:]) for name in names) == list(range(50))
        assert all((saved.mnt / name).read_bytes() == b"%d" % int(name[1:]) * 3000 for name in names)
        assert ctl("check", str(saved.mnt)).stdout.endswith(": consistent\n")


@pytest.mark.parametrize("number", (signal.SIGKILL, signal.SIGINT))
def test_killed_it_leaves_what_was_there(tmpfsd: Make, tmp_path: Path, number: int) -> None:
    fs = tmpfsd("ram=64m,size=1g")
    touch(fs.mnt / "big", os.urandom(48 << 20))
    image = tmp_path / "image"
    image.write_bytes(b"the old one")
    command = [sys.executable, "-m", "tmpfsd.cli.ctl", "snapshot", str(fs.mnt), str(image)]
    for delay in (0.1, 0.2, 0.25, 0.3):
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as client:
            time.sleep(delay)
            client.send_signal(number)
            client.wait(20)
        assert client.returncode == 0 or image.read_bytes() == b"the old one"
        assert os.listdir(tmp_path) == ["image"]
        if client.returncode == 0:
            break
    assert eventually(lambda: not Path(f"/proc/{fs.pid}/task/{fs.pid}/children").read_text())
    ctl("snapshot", str(fs.mnt), str(image))
    saved = tmpfsd(f"image={image}")
    assert (saved.mnt / "big").read_bytes() == (fs.mnt / "big").read_bytes()


def test_a_disk_that_is_full(tmpfsd: Make, tmp_path: Path) -> None:
    fs, small = tmpfsd("ram=16m,size=1g"), tmpfsd("ram=1m,size=2m,swap_size=2m")
    touch(fs.mnt / "big", os.urandom(8 << 20))
    done = ctl("snapshot", str(fs.mnt), str(small.mnt / "image"), check=False)
    assert done.returncode == 1 and "No space left" in done.stderr and done.stderr.count("\n") == 1
    assert os.listdir(small.mnt) == []
    assert len((fs.mnt / "big").read_bytes()) == 8 << 20


def test_what_is_no_image_is_refused_in_one_line(tmpfsd: Make, tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"text" * 5000)
    (tmp_path / "mnt").mkdir()
    for name, said in (("text", "not an image of tmpfsd"), ("nothing", "No such file"), ("mnt", "not a regular file")):
        done = subprocess.run([sys.executable, "-m", "tmpfsd", str(tmp_path / "mnt"), "-o", f"image={tmp_path}/{name}"],
                              capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 1 and said in done.stderr and done.stderr.count("\n") == 1


def test_a_clone_is_a_mount_of_its_own(tmpfsd: Make, tmp_path: Path) -> None:
    fs = tmpfsd("ram=8m,size=1g")
    fill(fs.mnt, 150)
    before = dump(fs.mnt)
    (tmp_path / "copy").mkdir()
    ctl("clone", str(fs.mnt), str(tmp_path / "copy"), "-o", "ram=8m")
    try:
        assert dump(tmp_path / "copy") == before
        touch(tmp_path / "copy" / "d0" / "file-1", b"its own")
        touch(fs.mnt / "other", b"mine")
        assert "other" not in os.listdir(tmp_path / "copy") and (fs.mnt / "d0" / "file-1").read_bytes() == b"1" * 7
    finally:
        ctl("umount", str(tmp_path / "copy"))
    done = ctl("clone", str(fs.mnt), str(tmp_path / "copy"), "-o", "backend=wired", check=False)
    assert done.returncode == 1 and "backend=wired" in done.stderr and done.stderr.count("\n") == 1


def drop_cache(path: Path) -> None:
    """Have the kernel ask for a file's bytes again."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def test_a_working_set_comes_along(tmpfsd: Make, tmp_path: Path) -> None:
    """A job reads some files of many; a mount of the image has those in memory, with nobody asking."""
    fs = tmpfsd("ram=64m,size=1g")
    for i in range(64):
        touch(fs.mnt / f"file{i}", os.urandom(256 << 10))
    for path in fs.mnt.iterdir():
        drop_cache(path)
    ctl("flush", str(fs.mnt))
    assert "recording" in ctl("trace", "--record", str(fs.mnt)).stdout
    for i in range(0, 64, 8):
        (fs.mnt / f"file{i}").read_bytes()
    image, plain = tmp_path / "hot", tmp_path / "plain"
    ctl("snapshot", "--hot", str(fs.mnt), str(image))
    ctl("snapshot", str(fs.mnt), str(plain))
    hot = json.loads(ctl("image", "info", "--json", str(image)).stdout)["hot_pages"]
    assert 8 * 64 <= hot < 12 * 64 and json.loads(ctl("image", "info", "--json", str(plain)).stdout)["hot_pages"] == 0
    ctl("image", "verify", str(image))
    warm, cold = tmpfsd(f"ram=64m,image={image}"), tmpfsd(f"ram=64m,image={plain}")
    assert eventually(lambda: warm.status()["image"]["pages_read"] >= hot)
    assert cold.status()["image"]["pages_read"] < 64
    before = warm.status()["paging"]["pageins"]
    for i in range(0, 64, 8):
        assert (warm.mnt / f"file{i}").read_bytes() == (fs.mnt / f"file{i}").read_bytes()
    assert warm.status()["paging"]["pageins"] - before < 32
    small = tmpfsd(f"ram=1m,image={image}")         # has no room for it
    assert (small.mnt / "file1").read_bytes() == (fs.mnt / "file1").read_bytes()
    for each in (warm, small):
        assert ctl("check", str(each.mnt)).stdout.endswith(": consistent\n")


def test_requests_do_not_wait_for_it(tmpfsd: Make, tmp_path: Path) -> None:
    fs = tmpfsd("ram=64m,size=1g")
    for i in range(32):
        touch(fs.mnt / f"file{i}", os.urandom(1 << 20))
    image = tmp_path / "image"
    ctl("snapshot", "--hot", str(fs.mnt), str(image))
    warm = tmpfsd(f"ram=64m,image={image}")
    worst, seen = 0.0, 0
    while seen < 3000 and warm.status()["image"]["pages_read"] < 8000:
        for _ in range(100):
            start = time.perf_counter()
            os.statvfs(warm.mnt)
            worst, seen = max(worst, time.perf_counter() - start), seen + 1
    assert worst < 0.25             # a step is a page; other tests run beside
