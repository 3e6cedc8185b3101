"""Images: freeze and thaw give the same files, pages come in when they are touched, and damage is detected."""

from __future__ import annotations

import dataclasses
import os
import random
import resource
import stat
import time
from pathlib import Path
from typing import Any, Callable, Iterator
from zlib import crc32

import pytest

from tests.fs.fslib import MODES, ROOT, STARVING_FRAMES, Driver, make_mount, refused
from tmpfsd.image.file import Image
from tmpfsd.image.format import HEAD, MAGIC, ImageError, Writer, pack_header, unpack_header
from tmpfsd.image.freeze import freeze
from tmpfsd.image.thaw import thaw
from tmpfsd.options import Config
from tmpfsd.tmpfs import fallocate
from tmpfsd.uvm.errors import NoMemory
from tmpfsd.uvm.param import PAGE_SHIFT, PAGE_SIZE

EIO, ENOSPC = 5, 28
RING_BYTES = 1 << 20


def save(fs: Driver, path: Path) -> Path:
    """Freeze a file system that goes on afterwards, as a test may: it has no orphans."""
    with open(path, "wb") as file:
        freeze(fs.mp, Writer(file.fileno()))
    return path


def fill(fs: Driver, seed: int = 1, n: int = 150) -> None:
    """A tree with something of everything."""
    rng = random.Random(seed)
    directories = [ROOT, *(fs.mkdir(ROOT, b"dir%d" % i, 0o2751) for i in range(5))]
    for i in range(n):
        dino = rng.choice(directories)
        name = b"%d" % i if i % 3 else b"\xff\n" + b"long" * 60 + b"%d" % i
        ino = fs.create(dino, name, rng.choice((0o644, 0o4755, 0)))
        if i % 4:
            fs.write(ino, rng.choice((0, 10, 100_000, 1 << 40)), rng.randbytes(rng.choice((1, 40, 3000, 9000))))
        if not i % 10:
            fs.setxattr(ino, b"user.%d" % i, rng.randbytes(rng.choice((0, 20, 5000))))
            fs.link(ino, ROOT, b"link%d" % i)
            fs.symlink(dino, b"sym%d" % i, rng.choice((b"x", b"target" * 200)))
            fs.mknod(dino, b"dev%d" % i, stat.S_IFCHR | 0o600, 0x105)
        if not i % 7:
            fs.setattr(ino, uid=i, gid=i, mtime_ns=-5 * i, atime_ns=1 << 65)
    for i in range(0, n, 5):
        for dino in directories:
            if fs.mp.dirs.find(fs.mp.mem.node(dino), b"%d" % i):
                fs.unlink(dino, b"%d" % i)


@pytest.fixture
def made(tmp_path: Path) -> Iterator[tuple[Path, dict[int, tuple]]]:
    """An image, and its contents."""
    fs = Driver(make_mount(str(tmp_path)))
    fill(fs)
    fs.forget_all()
    dump = fs.dump()
    yield save(fs, tmp_path / "image"), dump
    fs.finish()
    fs.mp.close()


def open_image(path: Path, mode: str = "roomy", **options: Any) -> Driver:
    """A mount of an image, with little memory or more."""
    frames = STARVING_FRAMES if mode == "starving" else 768
    settings = {"ram_bytes": frames << PAGE_SHIFT, "swap": str(path.parent), "uid": 0, "gid": 0,
                "size_bytes": 256 << 20, "given": frozenset(("size",))}
    mp = thaw(Config(**{**settings, **options}), str(path))
    mp.vm.check_level = max(mp.check_level, 1)
    mp.vm.thrash |= mode == "thrash"
    return Driver(mp, mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("backend", ("pageable-submap", "pageable-object"))
def test_it_thaws_alike(made: tuple[Path, dict[int, tuple]], mode: str, backend: str) -> None:
    path, dump = made
    fs = open_image(path, mode, backend=backend)
    assert fs.mp.vm.phys.nused == 0                     # nothing was read
    assert fs.dump() == dump
    fs.check()
    fs.remove_all()
    fs.forget_all()
    fs.reap_all()
    fs.check()
    assert fs.mp.mem.ninodes() == 1 and fs.mp.vm.npages < 8
    fs.mp.close()


def compressed(mode: str, **options: Any) -> dict[str, Any]:
    """Options of a mount that has a compressed tier beside its frames."""
    frames = (STARVING_FRAMES if mode == "starving" else 768) << PAGE_SHIFT
    return {"compress": "zstd", "zram": RING_BYTES, "ram_bytes": max(frames, 1 << 20) + RING_BYTES, **options}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("tier", (False, True), ids=("plain", "tier"))
def test_changes_are_the_mounts_own(made: tuple[Path, dict[int, tuple]], mode: str, tier: bool) -> None:
    """Two mounts of one image, each changed; a snapshot has the changes of its mount, and the image stays as it was."""
    path, dump = made
    before = path.read_bytes()
    options = compressed(mode) if tier else {}
    one, two = open_image(path, mode, **options), open_image(path, mode, **options)
    assert (one.mp.vm.tier is not None) == tier
    directory = one.mkdir(ROOT, b"new")
    for i in range(120):
        one.write(one.create(directory, b"%d" % i), 0, os.urandom(5000))
    one.remove_all(one.entries(ROOT)[b"dir1"])
    for ino in list(one.entries(ROOT).values())[:20]:
        if stat.S_ISREG(one.getattr(ino).mode):
            one.write(ino, 0, b"changed")
    one.forget_all()
    changed = one.dump()
    assert two.dump() == dump and changed != dump and path.read_bytes() == before
    again = open_image(save(one, path.with_name("second")))
    assert again.dump() == changed
    assert again.mp.generation == one.mp.generation
    for fs in (one, two, again):
        fs.check()
        fs.mp.close()


def test_what_has_no_name_is_left_out(tmp_path: Path) -> None:
    fs = Driver(make_mount(str(tmp_path)))
    secret = b"secret of nobody" * 300
    for name in (b"small", b"large"):
        ino = fs.create(ROOT, name)
        fs.write(ino, 0, secret[:40 if name == b"small" else 4800])
        fs.unlink(ROOT, name)
    fs.mkdir(ROOT, b"gone")
    fs.rmdir(ROOT, b"gone")
    path = save(fs, tmp_path / "image")
    again = open_image(path)
    again.check()
    assert again.mp.mem.nodes.nitems == 1 and again.mp.mem.norphans == 0 and again.mp.vm.npages <= 3
    image = Image(str(path))
    page = memoryview(bytearray(PAGE_SIZE))
    for place in range(1, image.width + 1):
        image.read_cluster(place, [page], [0])
        assert b"secret" not in bytes(page)
    image.close()
    again.mp.close()
    fs.mp.close()


@pytest.mark.parametrize("size", [40, 200, 900, 1500])
def test_what_was_removed_beside_what_stays_is_left_out(tmp_path: Path, size: int) -> None:
    """In a page with other items that are in use."""
    fs = Driver(make_mount(str(tmp_path)))
    secret = (b"secret of nobody" * 100)[:size]
    for name, data in ((b"kept", b"k" * size), (b"removed", secret), (b"kept too", b"k" * size)):
        ino = fs.create(ROOT, name)
        fs.write(ino, 0, data)
    fs.mp.vm.check_level = 0            # a machine that checks fills what is free with poison
    fs.unlink(ROOT, b"removed")
    fs.forget_all()
    image = Image(str(save(fs, tmp_path / "image")))
    page, seen = memoryview(bytearray(PAGE_SIZE)), b""
    for place in range(1, image.width + 1):
        image.read_cluster(place, [page], [0])
        seen += bytes(page)
    assert b"secret" not in seen and b"removed" not in seen and seen.count(b"k" * size) == 2
    image.close()
    fs.mp.close()


def test_what_is_reserved_is_kept(tmp_path: Path) -> None:
    fs = Driver(make_mount(str(tmp_path)))
    ino = fs.create(ROOT, b"reserved")
    fs.do(fallocate.reserve, ino, 0, 50 * PAGE_SIZE, False)
    fs.write(ino, PAGE_SIZE, b"x")
    fs.forget_all()
    dump = fs.dump()
    again = open_image(save(fs, tmp_path / "image"))
    assert again.dump() == dump
    again.write(ino, 7 * PAGE_SIZE, b"y")
    again.check()
    again.mp.close()
    fs.finish()
    fs.mp.close()


@pytest.mark.parametrize("tier", (False, True), ids=("plain", "tier"))
@pytest.mark.parametrize("nslots", (300, 700))
def test_swap_that_is_full_refuses_changes(made: tuple[Path, dict[int, tuple]], nslots: int, tier: bool) -> None:
    """Files can be read and removed, though almost nothing can be changed."""
    path, dump = made
    options = compressed("starving") if tier else {}
    fs = open_image(path, "starving", swap_size_bytes=nslots << PAGE_SHIFT, **options)
    with refused(ENOSPC):
        directory = fs.mkdir(ROOT, b"new")
        for i in range(100_000):
            fs.write(fs.create(directory, b"%d" % i), 0, os.urandom(9000))
    for ino in list(dump):
        try:
            fs.setattr(ino, mtime_ns=5)
        except NoMemory:
            pass
    assert set(dump) <= set(fs.dump())
    fs.check()
    fs.forget_all()
    fs.remove_all()
    fs.reap_all()
    fs.check()
    fs.create(ROOT, b"there is room again")
    fs.mp.close()


# --- what is damaged ---

def test_each_byte_of_the_header(made: tuple[Path, dict[int, tuple]], tmp_path: Path) -> None:
    whole = made[0].read_bytes()
    bad = tmp_path / "bad"
    bad.write_bytes(whole)
    with open(bad, "r+b") as file:
        for at in range(PAGE_SIZE):
            os.pwrite(file.fileno(), bytes((whole[at] ^ 0x41,)), at)
            with pytest.raises(ImageError) as info:
                Image(str(bad))
            text = str(info.value)
            said = "not an image" if at < len(MAGIC) else "version" if at < 12 else "corrupted"
            assert said in text and "\n" not in text, (at, text)
            os.pwrite(file.fileno(), whole[at:at + 1], at)
    Image(str(bad)).close()


@pytest.mark.parametrize("left", (0, 1, 7, 8, PAGE_SIZE - 1, PAGE_SIZE, -PAGE_SIZE, -1))
def test_truncated(made: tuple[Path, dict[int, tuple]], tmp_path: Path, left: int) -> None:
    bad = tmp_path / "bad"
    bad.write_bytes(made[0].read_bytes()[:left])
    with pytest.raises(ImageError, match="truncated|not an image"):
        thaw(Config(swap=str(tmp_path)), str(bad))


def test_longer_than_it_says(made: tuple[Path, dict[int, tuple]], tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    bad.write_bytes(made[0].read_bytes() + b"x")
    with pytest.raises(ImageError, match="corrupted"):
        Image(str(bad))


@pytest.mark.parametrize("seed", range(60))
def test_random_bytes_are_changed(made: tuple[Path, dict[int, tuple]], tmp_path: Path, seed: int) -> None:
    """The image is refused, or all that can be read is right and the rest is EIO."""
    path, dump = made
    rng = random.Random(seed)
    data = bytearray(path.read_bytes())
    for _ in range(rng.choice((1, 1, 30))):
        at = rng.randrange(PAGE_SIZE, len(data))
        data[at] ^= rng.randrange(1, 256)
    bad = tmp_path / "bad"
    bad.write_bytes(data)
    try:
        fs = open_image(bad)
    except ImageError as error:
        assert "\n" not in str(error) and "corrupted" in str(error)
        return
    for ino, expected in dump.items():
        try:
            found = (*fs.describe(ino), fs.entries(ino) if stat.S_ISDIR(fs.getattr(ino).mode) else {})
        except Exception as error:
            assert getattr(error, "errno", 0) == EIO, error
            continue
        assert found == expected
    fs.mp.close()


def test_one_bad_page_hurts_one_file(tmp_path: Path) -> None:
    """And when the file is whole again, so is the mount."""
    fs = Driver(make_mount(str(tmp_path)))
    inos = [fs.create(ROOT, b"%d" % i) for i in range(3)]
    for ino in inos:
        fs.write(ino, 0, random.Random(ino).randbytes(32 * PAGE_SIZE))      # as it is: it does not shrink
    fs.forget_all()
    path = save(fs, tmp_path / "image")
    data = path.read_bytes()
    at = data.index(random.Random(inos[1]).randbytes(32 * PAGE_SIZE)[20 * PAGE_SIZE:21 * PAGE_SIZE])
    again = open_image(path)
    with open(path, "r+b") as file:
        os.pwrite(file.fileno(), bytes((data[at] ^ 1,)), at)
        with refused(EIO):
            again.read(inos[1], 20 * PAGE_SIZE, PAGE_SIZE)
        assert again.read(inos[1], 19 * PAGE_SIZE, PAGE_SIZE) and again.content(inos[0]) == fs.content(inos[0])
        assert not again.mp.gate.broken
        os.pwrite(file.fileno(), data[at:at + 1], at)
    assert again.content(inos[1]) == fs.content(inos[1])
    again.check()
    again.mp.close()
    fs.finish()
    fs.mp.close()


def test_what_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"#!/bin/sh\n" * 1000)
    for path, said in ((tmp_path / "text", "not an image"), (tmp_path, "not a regular file"), ("/dev/zero", "regular")):
        with pytest.raises(ImageError, match=said):
            Image(str(path))
    with pytest.raises(FileNotFoundError):
        Image(str(tmp_path / "nothing"))


def test_another_version(made: tuple[Path, dict[int, tuple]]) -> None:
    data = bytearray(made[0].read_bytes())
    fields = list(HEAD.unpack_from(data))
    fields[1] = 2
    HEAD.pack_into(data, 0, *fields)
    made[0].write_bytes(data)
    with pytest.raises(ImageError, match="version 2; version 1"):
        Image(str(made[0]))


def test_limits_that_are_too_small(made: tuple[Path, dict[int, tuple]]) -> None:
    with pytest.raises(ImageError, match="size="):
        open_image(made[0], size_bytes=1 << 18)
    with pytest.raises(ImageError, match="nr_inodes=5"):
        open_image(made[0], nr_inodes=5)


def test_without_a_size_there_is_room(made: tuple[Path, dict[int, tuple]]) -> None:
    fs = open_image(made[0], given=frozenset(), size_bytes=1 << 20)
    assert fs.mp.config.size_bytes == (1 << 20) + (fs.mp.vm.npages << PAGE_SHIFT)
    fs.create(ROOT, b"more")
    fs.mp.close()


def test_a_full_disk(tmp_path: Path) -> None:
    """It is reported with the error of the system."""
    fs = Driver(make_mount(str(tmp_path)))
    fill(fs)
    fs.forget_all()
    with open("/dev/full", "wb") as file, pytest.raises(OSError) as info:
        freeze(fs.mp, Writer(file.fileno()))
    assert info.value.errno == ENOSPC
    fs.finish()
    fs.mp.close()


def test_config_is_not_changed(made: tuple[Path, dict[int, tuple]]) -> None:
    """The user's Config is not modified."""
    config = Config(swap=str(made[0].parent), size_bytes=64 << 20, given=frozenset(("size",)))
    mp = thaw(config, str(made[0]))
    assert mp.config == dataclasses.replace(config)
    mp.close()


def forge(path: Path, table: str, change: Callable[[bytearray], None]) -> None:
    """Change a table, and give it the checksum that it then has."""
    with open(path, "r+b") as file:
        header = unpack_header(file.read(PAGE_SIZE), path.stat().st_size)
        offset, nbytes, _, width = header.tables[table]
        file.seek(offset)
        data = bytearray(file.read(nbytes))
        change(data)
        assert len(data) == nbytes
        file.seek(offset)
        file.write(data)
        header.tables[table] = offset, nbytes, crc32(data), width
        file.seek(0)
        file.write(pack_header(header))


def put(at: int, value: int, width: int) -> Callable[[bytearray], None]:
    """Set an element."""
    def change(data: bytearray) -> None:
        data[at * width:(at + 1) * width] = value.to_bytes(width, "little")
    return change


def give_a_bit(data: bytearray) -> None:
    """Say of the first held item of the first page that it is free."""
    word = int.from_bytes(data[:8], "little")
    data[:8] = (word | ~word & word + 1).to_bytes(8, "little")


def first_twice(data: bytearray) -> None:
    """Name the first page as the second, too."""
    data[4:8] = data[:4]


@pytest.mark.parametrize("table, change, why", (
    ("node.nfree", put(0, 7, 2), "node: it has other free items"),
    ("node.bits", give_a_bit, "node: it has other free items"),
    ("node.bits", put(0, (1 << 64) - 1, 8), "node: a page has more items"),
    ("node.pages", put(0, 0, 4), "node: it has other free items"),
    ("node.pages", first_twice, "pool node has other pages"),
    ("node.pages", put(1, 1 << 30, 4), "pool node has other pages"),
    ("node.group", put(0, 2, 1), "do not belong together"),
    ("s32.nfree", put(0, 3, 2), "string-32: it has other free items"),
    ("nlookup.pages", put(0, 0, 4), "pool nlookup has other pages"),
), ids=(
    "nfree", "a bit", "too many bits", "no page", "a page twice", "no such page", "group", "of strings", "nlookup"))
def test_a_forged_table_is_refused(made: tuple[Path, dict[int, tuple]], table: str,
                                   change: Callable[[bytearray], None], why: str) -> None:
    """Whoever made it also made the checksums right."""
    forge(made[0], table, change)
    with pytest.raises(ImageError, match=why):
        open_image(made[0])


def test_a_page_of_another_pool_is_refused(made: tuple[Path, dict[int, tuple]]) -> None:
    path = made[0]
    with open(path, "rb") as file:
        header = unpack_header(file.read(PAGE_SIZE), path.stat().st_size)
        file.seek(header.tables["s32.pages"][0])
        other = int.from_bytes(file.read(4), "little")
    forge(path, "node.pages", put(0, other, 4))
    with pytest.raises(ImageError, match="pool node has other pages"):
        open_image(path)


@pytest.mark.parametrize("what, why", (
    ("owner", "table owner is larger"), ("sum", "table sum is larger"), ("nlookup.uses", "uses is larger"),
    ("nvpns", "tables take .* of memory"), ("nplaces", "tables take .* of memory")))
def test_a_small_file_with_holes_takes_no_memory(made: tuple[Path, dict[int, tuple]], what: str, why: str,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = made
    size = path.stat().st_size
    header = unpack_header(path.read_bytes()[:PAGE_SIZE], size)
    header.file_bytes = 1 << 40                         # what a file system may have as one hole
    if what == "nvpns":
        header.nvpns, most = (1 << 31) - 1, (1 << 31) - 1
        tables = {"owner": 1, "place": 4}
    elif what == "nplaces":
        header.nvpns, header.nplaces, most = (1 << 31) - 1, (1 << 29) - 1, 1 << 29
        tables = {"sum": 4, "offset": 8, "stored": 4}
    else:
        most, tables = 1 << 36, {what: 1}
    for name, width in tables.items():
        header.tables[name] = size, most * width, 0, header.tables[name][3]
    with open(path, "r+b") as file:
        file.write(pack_header(header))
        file.truncate(header.file_bytes)
    monkeypatch.setattr("tmpfsd.image.file.available_memory", lambda: (4 << 30, 8 << 30))
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises(ImageError, match=why):
        open_image(path)
    assert time.monotonic() - start < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10
