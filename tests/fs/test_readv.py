"""tmpfs/readv.py and listing.py: they give the same as vnops, with nothing copied and no reference taken."""

import os
import random

import pytest

from tests import failpoints
from tests.fs.fslib import ROOT, Driver, failing, refused
from tmpfsd.tmpfs import listing, readv, regfile, vnops
from tmpfsd.uvm.param import PAGE_SIZE


def read(fs: Driver, ino: int, offset: int, size: int) -> bytes:
    """The views, used at once."""
    fs.mp.breathe()
    return b"".join(map(bytes, readv.read(fs.mp, ino, offset, size)))


def names(fs: Driver, ino: int, cookie: int = 0, most: int = 1 << 30) -> list[tuple[bytes, int, int, int]]:
    """At most so many entries after cookie."""
    found: list[tuple[bytes, int, int, int]] = []

    def emit(*entry: object) -> bool:
        if len(found) == most:
            return False
        found.append(entry)
        return True

    fs.mp.breathe()
    vnops.list_names(fs.mp, ino, cookie, emit)
    return found


def test_the_same_bytes(fs: Driver) -> None:
    ino, rng = fs.create(ROOT, b"a"), random.Random(1)
    for _ in range(30):
        fs.write(ino, rng.randrange(200_000), os.urandom(rng.randrange(1, 20_000)))
        fs.punch(ino, rng.randrange(200_000), rng.randrange(1, 30_000))
    fs.truncate(ino, 300_001)
    for _ in range(200):
        offset, size = rng.randrange(310_000), rng.choice((1, 100, PAGE_SIZE, 50_000, 1 << 20))
        assert read(fs, ino, offset, size) == fs.read(ino, offset, size)


@pytest.mark.parametrize("size", [0, 1, 48, 2048, 2049, PAGE_SIZE])
def test_small_files_and_ends(fs: Driver, size: int) -> None:
    ino, data = fs.create(ROOT, b"a"), os.urandom(size)
    fs.write(ino, 0, data)
    assert read(fs, ino, 0, 1 << 20) == data and read(fs, ino, size, 10) == read(fs, ino, 1 << 62, 10) == b""
    assert read(fs, ino, 0, 0) == b""


def test_views_are_of_frames_and_holes_of_one_page(fs: Driver) -> None:
    ino = fs.create(ROOT, b"a")
    fs.write(ino, 0, b"x" * (3 * PAGE_SIZE))
    fs.truncate(ino, 8 * PAGE_SIZE)
    fs.mp.breathe()
    views = readv.read(fs.mp, ino, 100, 8 * PAGE_SIZE)
    assert sum(map(len, views)) == 8 * PAGE_SIZE - 100
    owners = [view.obj for view in views if isinstance(view, memoryview)]
    assert len(owners) == len(views) and owners[0] is fs.mp.arena and owners[-5:] == [readv.ZEROES.obj] * 5


def test_what_takes_more_breaths_is_copied(fs: Driver) -> None:
    ino, data = fs.create(ROOT, b"a"), os.urandom(1 << 20)
    fs.write(ino, 0, data)
    fs.mp.breathe()
    fits = regfile._chunk(fs.mp, 0) >= len(data)
    views = readv.read(fs.mp, ino, 0, len(data))
    assert fits or len(views) == 1 and not isinstance(views[0], memoryview)
    assert b"".join(map(bytes, views)) == data


def test_the_time_of_access(fs: Driver) -> None:
    ino = fs.create(ROOT, b"a")
    fs.write(ino, 0, b"x" * 5000)
    now = fs.mp.now() + 10**9
    fs.mp.now = lambda: now
    read(fs, ino, 0, 10)
    assert fs.getattr(ino).atime_ns == now


def test_a_page_that_cannot_be_read(fs: Driver) -> None:
    if fs.roomy:
        pytest.skip("a roomy machine has nothing out")
    ino = fs.create(ROOT, b"a")
    fs.write(ino, 0, os.urandom(1 << 20))
    with failing("pagein", 0), refused(5):
        for offset in range(0, 1 << 20, PAGE_SIZE):
            read(fs, ino, offset, PAGE_SIZE)


def test_the_same_names_and_no_reference(fs: Driver) -> None:
    d = fs.mkdir(ROOT, b"d")
    made = {b"%d" % number: fs.create(d, b"%d" % number) for number in range(200)}
    made[b"sub"] = fs.mkdir(d, b"sub")
    fs.forget_all()
    found: dict[bytes, tuple[int, int]] = {}
    cookie = 0
    while some := names(fs, d, cookie, 7):
        for name, ino, mode, cookie in some:
            assert name not in found
            found[name] = ino, mode
    assert {name: ino for name, (ino, _mode) in found.items()} == {**made, b".": d, b"..": ROOT}
    assert all(mode == fs.getattr(ino).mode for ino, mode in found.values())
    for name in made:
        (fs.rmdir if name == b"sub" else fs.unlink)(d, name)
    assert fs.mp.mem.norphans == 0          # nobody holds them


def test_names_before_one_that_cannot_be_read_go_out(fs: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    failpoints.interpreted_only()
    for number in range(5):
        fs.create(ROOT, b"%d" % number)
    whole = names(fs, ROOT)
    entries = listing._entries

    def failing_after_three(*args: object):
        for number, entry in enumerate(entries(*args)):
            if number == 3:
                raise listing.SwapIOError("injected")
            yield entry

    monkeypatch.setattr(listing, "_entries", failing_after_three)
    assert names(fs, ROOT) == whole[:3]
    monkeypatch.setattr(listing, "_entries", lambda *_args: iter(failing_now()))

    def failing_now():
        raise listing.SwapIOError("injected")
        yield

    with refused(5):
        names(fs, ROOT)
