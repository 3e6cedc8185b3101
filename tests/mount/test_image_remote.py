"""Mounts of images on servers."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mountlib import Mounted, ctl, eventually, fails_with, touch

from tests.imageservers import S3, Nginx

Make = Callable[..., Mounted]
FILES = 40


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[Nginx]:
    """Serves `root`, as long as mounts live: they are checked at the end."""
    (tmp_path / "root").mkdir()
    server = Nginx(tmp_path, tmp_path / "root")
    yield server
    server.kill()


@pytest.fixture
def s3() -> Iterator[S3]:
    server = S3()
    yield server
    server.kill()


@pytest.fixture
def image(tmpfsd: Make, tmp_path: Path) -> Path:
    """An image with what was used, and one without."""
    fs = tmpfsd("ram=32m,size=1g")
    for i in range(FILES):
        touch(fs.mnt / f"file{i}", content(i))
    (tmp_path / "root").mkdir(exist_ok=True)
    ctl("snapshot", "--hot", str(fs.mnt), str(tmp_path / "root" / "image"))
    ctl("snapshot", str(fs.mnt), str(tmp_path / "root" / "plain"))
    return tmp_path / "root" / "image"


def content(i: int) -> bytes:
    return bytes((i, i + 1)) * 20_000 + b"".join(b"%d" % (k * i) for k in range(40_000))


def test_it_is_mounted_changed_and_saved(nginx: Nginx, image: Path, tmpfsd: Make, tmp_path: Path) -> None:
    fs = tmpfsd(f"ram=4m,image={nginx.url('image')},image_cache=4m")
    assert all((fs.mnt / f"file{i}").read_bytes() == content(i) for i in range(FILES))
    touch(fs.mnt / "file1", b"changed")
    os.unlink(fs.mnt / "file2")
    ctl("snapshot", str(fs.mnt), str(tmp_path / "second"))
    ctl("image", "verify", str(tmp_path / "second"))
    again = tmpfsd(f"ram=4m,image={tmp_path}/second")
    assert (again.mnt / "file1").read_bytes() == b"changed" and not (again.mnt / "file2").exists()
    assert all((again.mnt / f"file{i}").read_bytes() == content(i) for i in range(3, FILES))
    assert ctl("check", str(fs.mnt)).stdout.endswith(": consistent\n")
    assert ctl("image", "info", nginx.url("image")).stdout == ctl("image", "info", str(image)).stdout


def test_a_server_that_goes_away_and_comes_back(nginx: Nginx, image: Path, tmpfsd: Make) -> None:
    fs = tmpfsd(f"ram=4m,image={nginx.url('plain')}")
    assert image.exists()
    assert sorted(os.listdir(fs.mnt)) == sorted(f"file{i}" for i in range(FILES))
    assert (fs.mnt / "file0").read_bytes() == content(0)
    nginx.stop()
    start = time.monotonic()
    with fails_with(errno.EIO):
        (fs.mnt / f"file{FILES - 1}").read_bytes()
    for _ in range(50):
        os.statvfs(fs.mnt)
        assert (fs.mnt / "file0").read_bytes() == content(0)
    touch(fs.mnt / "new", b"as ever")
    assert time.monotonic() - start < 20          # a wait for each would be longer
    assert fs.status()["image"]["state"] != "ok"
    assert "the image cannot be read" in ctl("status", str(fs.mnt)).stdout.splitlines()[0]
    done = ctl("check", str(fs.mnt), check=False)
    assert done.returncode == 1 and "not checked" in done.stderr and not fs.status()["broken"]
    nginx.go_on()
    assert eventually(lambda: fs.status()["image"]["state"] == "ok")
    assert all((fs.mnt / f"file{i}").read_bytes() == content(i) for i in range(FILES))
    assert fs.status()["paging"]["lost_pages"] == 0
    assert (fs.mnt / "new").read_bytes() == b"as ever"


def test_the_working_set_is_fetched_by_itself(nginx: Nginx, image: Path, tmpfsd: Make) -> None:
    fs = tmpfsd(f"ram=32m,image={nginx.url('image')}")
    hot = fs.status()["image"]["hot_pages"]
    assert hot > 100 and eventually(lambda: fs.status()["image"]["pages_read"] >= hot)
    assert image.exists()
    before = nginx.requests()
    assert all((fs.mnt / f"file{i}").read_bytes() == content(i) for i in range(FILES))
    assert nginx.requests() - before < 10


def test_nobody_answers(tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    (tmp_path / "mnt").mkdir()
    for url in ("http://127.0.0.1:1/image", "https://192.0.2.1/image"):
        start = time.monotonic()
        done = subprocess.run([sys.executable, "-m", "tmpfsd", str(tmp_path / "mnt"), "-o", f"image={url}"],
                              capture_output=True, text=True, timeout=60, check=False)
        assert time.monotonic() - start < 20            # 3, on a machine where nothing else runs
        assert done.returncode == 1 and done.stderr.count("\n") == 1 and url in done.stderr


def test_s3(s3: S3, image: Path, tmpfsd: Make) -> None:
    fs = tmpfsd(f"ram=4m,image={s3.put(image)}", **s3.environment)
    assert all((fs.mnt / f"file{i}").read_bytes() == content(i) for i in range(FILES))
