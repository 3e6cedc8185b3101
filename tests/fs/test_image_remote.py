"""Images on servers: read by range, through a cache of a bounded size; a server that is away is waited for once."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fs.fslib import ROOT, Driver, make_mount, refused
from tests.fs.test_image import open_image, save
from tests.imageservers import S3, Nginx, set_environment
from tests.threads import permitted
from tmpfsd.image.blocks import BLOCK, BLOCK_SHIFT, LEAST_BLOCKS, Blocks
from tmpfsd.image.extract import verify
from tmpfsd.image.format import ImageError
from tmpfsd.image.remote import OPEN_SECONDS, PROBE, SECONDS
from tmpfsd.image.thaw import thaw
from tmpfsd.options import Config, OptionError, parse
from tmpfsd.uvm.param import PAGE_SIZE

EIO = 5
FILES, SIZE = 48, 40 * PAGE_SIZE
BUSY = 4.0                  # what a machine may lose that runs other tests
BOUND = OPEN_SECONDS + BUSY  # a mount that is refused


def content(i: int) -> bytes:
    """The content of a file: half of the files shrink."""
    rng = random.Random(i)
    return rng.randbytes(SIZE) if i % 2 else rng.randbytes(SIZE // 8) * 8


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """An image, alone in a directory."""
    fs = Driver(make_mount(str(tmp_path)))
    for i in range(FILES):
        fs.write(fs.create(ROOT, b"%d" % i), 0, content(i))
    fs.forget_all()
    (tmp_path / "root").mkdir()
    path = save(fs, tmp_path / "root" / "image")
    fs.mp.close()
    return path


@pytest.fixture
def nginx(made: Path, tmp_path: Path) -> Iterator[Nginx]:
    server = Nginx(tmp_path, made.parent)
    yield server
    server.kill()


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., Driver]]:
    """Mounts of the image at a URL."""
    drivers = []

    def mount(url: str, **options: object) -> Driver:
        settings = {"ram_bytes": 1 << 20, "swap": str(tmp_path), "uid": 0, "gid": 0, "image_cache_bytes": 64 << 20,
                    **options}
        mp = thaw(Config(**settings), url)
        mp.vm.check_level = max(mp.check_level, 1)
        drivers.append(Driver(mp))
        return drivers[-1]

    yield mount
    for driver in drivers:
        driver.mp.close()
        driver.mp.vm.image.close()


def files(fs: Driver) -> dict[int, int]:
    return {int(name): ino for name, ino in fs.entries(ROOT).items()}


def test_all_is_as_it_was(nginx: Nginx, opened: Callable[..., Driver]) -> None:
    fs = opened(nginx.url("image"))
    for i, ino in files(fs).items():
        assert fs.content(ino) == content(i)
    fs.write(files(fs)[3], 0, b"changed")
    fs.check()
    assert fs.mp.vm.image.stats()["state"] == "ok"
    assert verify(nginx.url("image"), lambda _done, _of: None)["inodes"] == FILES + 1


@pytest.mark.skipif(os.geteuid() != 0, reason="needs capabilities to give up")
def test_no_thread_of_it_has_a_capability(nginx: Nginx, opened: Callable[..., Driver]) -> None:
    """They begin before the daemon gives up its own, and capabilities are a thread's."""
    before = set(os.listdir("/proc/self/task"))
    fs = opened(nginx.url("image"))
    assert fs.content(files(fs)[0]) == content(0)
    threads = set(os.listdir("/proc/self/task")) - before
    assert threads and {permitted(int(thread)) for thread in threads} == {0}


def test_what_was_fetched_is_kept_up_to_a_bound(nginx: Nginx, opened: Callable[..., Driver], made: Path) -> None:
    large, small = opened(nginx.url("image")), opened(nginx.url("image"), image_cache_bytes=1)
    blocks = -(-made.stat().st_size // BLOCK)
    assert blocks > 2 * LEAST_BLOCKS
    for fs, bound in ((large, blocks), (small, LEAST_BLOCKS)):
        asked = []
        for _ in range(2):
            before = nginx.requests()
            for i, ino in files(fs).items():
                assert fs.content(ino) == content(i)
            list(fs.mp.vm.daemon.flush())
            asked.append(nginx.requests() - before)
        cache = fs.mp.vm.image.source._blocks
        assert len(cache._slots) <= bound and os.fstat(cache._fd).st_size <= max(bound, LEAST_BLOCKS) * BLOCK
        assert os.fstat(cache._fd).st_nlink == 0
        assert asked[1] == 0 and asked[0] <= blocks + 4 if fs is large else asked[1] > LEAST_BLOCKS, asked


def test_a_server_that_is_away_is_waited_for_once(nginx: Nginx, opened: Callable[..., Driver]) -> None:
    fs = opened(nginx.url("image"))
    names = files(fs)
    assert fs.content(names[0]) == content(0)
    nginx.stop()
    try:
        start = time.monotonic()
        with refused(EIO):
            fs.content(names[FILES - 1])
        assert time.monotonic() - start < SECONDS + BUSY
        start = time.monotonic()
        for i in range(FILES // 2, FILES):
            with refused(EIO):
                fs.content(names[i])
        assert time.monotonic() - start < BUSY     # a wait for each would take 24 s
        assert fs.content(names[0]) == content(0)           # what is here is served
        fs.write(fs.create(ROOT, b"new"), 0, b"as ever")
        assert fs.mp.vm.image.stats()["state"] != "ok"
    finally:
        nginx.go_on()
    recovers(fs, names)


def recovers(fs: Driver, names: dict[int, int]) -> None:
    until = time.monotonic() + 20 * PROBE
    while fs.mp.vm.image.stats()["state"] != "ok":
        assert time.monotonic() < until
        time.sleep(0.05)
    for i, ino in names.items():
        assert fs.content(ino) == content(i)
    assert not fs.mp.vm.lost.pages
    fs.check()


def test_a_server_that_was_started_again(nginx: Nginx, opened: Callable[..., Driver]) -> None:
    fs = opened(nginx.url("image"))
    names = files(fs)
    nginx.kill()
    with refused(EIO):
        fs.content(names[FILES - 1])
    nginx.start()
    recovers(fs, names)


def test_another_image_is_never_taken_for_it(nginx: Nginx, opened: Callable[..., Driver], made: Path) -> None:
    """It changes while it is mounted: EIO, or the old content; good again when the old image is back."""
    fs = opened(nginx.url("image"))
    names = files(fs)
    whole = made.read_bytes()
    made.write_bytes(whole[:PAGE_SIZE] + random.Random(5).randbytes(len(whole) - PAGE_SIZE))
    errors = 0
    for i, ino in names.items():
        try:
            fs.mp.breathe()
            assert fs.content(ino) == content(i)
        except Exception as error:
            assert not isinstance(error, AssertionError)
            errors += 1
    assert errors > FILES // 2
    made.write_bytes(whole)
    for i, ino in names.items():
        assert fs.content(ino) == content(i)
    nginx.kill()
    made.write_bytes(random.Random(6).randbytes(len(whole)))
    list(fs.mp.vm.daemon.flush())
    fs.mp.vm.image._kept.clear()
    for block in range(len(whole) // BLOCK + 1):
        fs.mp.vm.image.source._blocks.drop(block)
    with refused(EIO):
        fs.content(names[1])
    nginx.start()
    until = time.monotonic() + 10
    while "another file" not in str(fs.mp.vm.image.stats()["state"]):
        assert time.monotonic() < until
        time.sleep(0.05)
    made.write_bytes(whole)
    recovers(fs, names)


def test_bytes_that_are_wrong_on_the_way_are_asked_for_again(nginx: Nginx, opened: Callable[..., Driver]) -> None:
    fs = opened(nginx.url("image"))
    names, image = files(fs), fs.mp.vm.image
    for block in range(image.source.size // BLOCK + 1):
        image.source._blocks.drop(block)
        image.source._blocks.write(block, bytes(BLOCK))
    before = nginx.requests()
    for i, ino in names.items():
        assert fs.content(ino) == content(i)
    assert nginx.requests() - before > image.source.size // BLOCK // 2


def test_a_key_in_a_url_is_not_told(nginx: Nginx, opened: Callable[..., Driver], tmp_path: Path,
                                    caplog: pytest.LogCaptureFixture) -> None:
    """A presigned URL: the part after "?" is not in logs, errors and status, which others may see."""
    key = "?X-Amz-Signature=0123456789abcdef"
    fs = opened(nginx.url("image") + key)
    names = files(fs)
    assert fs.content(names[0]) == content(0)
    nginx.kill()
    with refused(EIO):
        fs.content(names[FILES - 1])
    told = [caplog.text, str(fs.mp.vm.image.stats()), str(fs.mp.status()["image"])]
    for url in (nginx.url("image"), "nosuch://host/x", "http://127.0.0.1:1/x"):
        with pytest.raises((ImageError, OSError)) as error:
            thaw(Config(ram_bytes=1 << 20, swap=str(tmp_path)), url + key)
        told.append(str(error.value))
    with pytest.raises(OptionError) as refusal:
        parse(f"image=https://h/x{key},backend=wired")
    told.append(str(refusal.value))
    assert "?..." in told[0] and "?..." in told[1] and "Signature" not in "".join(told)


def test_a_copy_asks_again_too_and_waits_for_no_lock(nginx: Nginx, opened: Callable[..., Driver]) -> None:
    """A frozen copy finds a wrong block while a thread, which it has not, held the lock of the cache."""
    image = opened(nginx.url("image")).mp.vm.image
    source, block = image.source, image._offsets[0] >> BLOCK_SHIFT
    with source._blocks._lock:
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                image._kept.clear()
                image.verify(1, 0)
                image._kept.clear()
                source._copy_block = block, bytes(BLOCK)
                status = 0 if image.verify(1, 0) else 2
            finally:
                os._exit(status)
        until, ended = time.monotonic() + 20, (0, 0)
        while not ended[0] and time.monotonic() < until:
            ended = os.waitpid(pid, os.WNOHANG)
            time.sleep(0.02)
        if not ended[0]:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    assert ended == (pid, 0)


def test_what_cannot_be_mounted_is_refused_soon(nginx: Nginx, tmp_path: Path, made: Path) -> None:
    shutil.copy(made, tmp_path / "root" / "cut")
    os.truncate(tmp_path / "root" / "cut", 5 * PAGE_SIZE)
    (tmp_path / "root" / "empty").write_bytes(b"")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        for url, said in ((nginx.url("nothing"), "no such file|not found"), (nginx.url("cut"), "truncated"),
                          (nginx.url("empty"), "how long it is"), (nginx.url("nginx.conf"), "no such|not found"),
                          (f"http://127.0.0.1:{port}/x", "no answer within"), ("http://127.0.0.1:1/x", "onnect"),
                          (nginx.url("whole/image"), "does not give parts"), ("nosuch://host/x", "nosuch")):
            start = time.monotonic()
            with pytest.raises((ImageError, OSError), match=f"(?i){said}"):
                thaw(Config(ram_bytes=1 << 20, swap=str(tmp_path)), url)
            assert time.monotonic() - start < BOUND, url


def test_s3(made: Path, opened: Callable[..., Driver], monkeypatch: pytest.MonkeyPatch) -> None:
    server = S3()
    try:
        set_environment(monkeypatch, server.environment)
        fs = opened(server.put(made))
        names = files(fs)
        assert fs.content(names[0]) == content(0)
        server.stop()
        start = time.monotonic()
        with refused(EIO):
            fs.content(names[FILES - 1])
        assert time.monotonic() - start < SECONDS + BUSY
        server.go_on()
        recovers(fs, names)
        with pytest.raises(OSError, match="(?i)no such|not|does not"):
            thaw(Config(ram_bytes=1 << 20, swap="/var/tmp"), "s3://images/nothing")
    finally:
        server.kill()


def test_blocks(tmp_path: Path) -> None:
    """Against a model: the one used last stays the longest."""
    rng, blocks, model = random.Random(7), Blocks(str(tmp_path), 0), {}
    for _ in range(3000):
        block, what = rng.randrange(3 * LEAST_BLOCKS), rng.random()
        view = bytearray(100)
        if what < 0.45:
            if block not in model:
                model[block] = rng.randbytes(BLOCK if block else 3000)
                blocks.write(block, model[block])
                if len(model) > LEAST_BLOCKS:
                    del model[next(iter(model))]
        elif what < 0.9:
            assert blocks.read(block, 700, [memoryview(view)[:60], memoryview(view)[60:]]) == (block in model)
            if block in model:
                model[block] = model.pop(block)
                assert view == model[block][700:800]
        else:
            blocks.drop(block)
            model.pop(block, None)
        assert len(blocks._slots) + len(blocks._free) == LEAST_BLOCKS
    blocks.close()
    assert not blocks.read(1, 0, [memoryview(bytearray(10))])
    blocks.write(1, b"x")


def test_a_local_image_is_as_before(made: Path) -> None:
    fs = open_image(made)
    assert fs.content(files(fs)[7]) == content(7) and fs.mp.vm.image.stats()["state"] == "ok"
    fs.mp.close()
