"""The working set in an image: it is read first, in order, while there is room; a bad one is refused."""

from __future__ import annotations

import random
import shutil
from array import array
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

import pytest

from tests.fs.fslib import MODES, ROOT, Driver, make_mount
from tests.fs.test_image import open_image
from tmpfsd.image.file import Image
from tmpfsd.image.format import ImageError, Writer, pack_header
from tmpfsd.image.freeze import freeze
from tmpfsd.image.warm import MANY_ERRORS, Warm
from tmpfsd.tmpfs.mem import OWNER_DATA
from tmpfsd.uvm.param import PAGE_SHIFT, PAGE_SIZE
from tmpfsd.uvm.used import Used, used_pages

FILES = 40


def save_hot(fs: Driver, path: Path) -> Path:
    """Freeze a file system with its used pages."""
    with open(path, "wb") as file:
        freeze(fs.mp, Writer(file.fileno()), hot=used_pages(fs.mp.vm))
    return path


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Path]:
    """An image of FILES files of 8 random pages; the odd ones were read, backwards."""
    fs = Driver(make_mount(str(tmp_path)))
    inodes = [fs.create(ROOT, b"%d" % i) for i in range(FILES)]
    for ino in inodes:
        fs.write(ino, 0, random.Random(ino).randbytes(8 * PAGE_SIZE))
    fs.mp.vm.used = Used(fs.mp.vm)
    for ino in reversed(inodes[1::2]):
        assert len(fs.content(ino)) == 8 * PAGE_SIZE
    yield save_hot(fs, tmp_path / "image")
    fs.forget_all()
    fs.finish()
    fs.mp.close()


def steps(warm: Warm) -> Iterator[None]:
    """Read, in steps."""
    for batch in warm.batches():
        warm.bring(warm.slots(batch))
        yield from warm.read(batch)


def read_all(fs: Driver) -> Warm:
    """Read the hot pages."""
    warm = Warm(fs.mp)
    for _ in steps(warm):
        pass
    return warm


def test_what_was_used_is_in(made: Path) -> None:
    fs = open_image(made)
    hot = list(fs.mp.vm.image.hot)
    data = [vpn for vpn in hot if fs.mp.vm.flags[vpn] == OWNER_DATA]
    assert FILES * 4 <= len(data) < FILES * 5 and fs.mp.vm.image.stats()["hot_pages"] == len(hot)
    assert read_all(fs).npages >= len(hot)
    assert all(fs.mp.vm.is_resident(vpn) for vpn in hot) and not fs.mp.vm.image.hot
    names = fs.entries(ROOT)
    before = fs.mp.vm.pageins
    for name, ino in names.items():
        if int(name) % 2:
            assert fs.content(ino) == random.Random(ino).randbytes(8 * PAGE_SIZE)
    assert fs.mp.vm.pageins == before
    fs.check()
    fs.mp.close()


@pytest.mark.parametrize("mode", MODES)
def test_reading_changes_nothing(made: Path, mode: str) -> None:
    """While files are read, changed and removed between its steps."""
    plain, fs = open_image(made), open_image(made, mode)
    changed = []
    for step, _ in enumerate(steps(Warm(fs.mp))):
        names = fs.entries(ROOT)
        if step % 5 == 0 and len(names) > FILES // 2:
            name = sorted(names)[step % len(names)]
            fs.write(names[name], 0, b"changed")
            fs.forget_all()
            fs.unlink(ROOT, name)
            changed.append(name)
    fs.forget_all()
    for name in changed:
        plain.unlink(ROOT, name)
    one, other = fs.entries(ROOT), plain.entries(ROOT)
    assert one == other and all(fs.content(ino) == plain.content(ino) for ino in one.values())
    for each in (plain, fs):
        each.check()
        each.mp.close()


def test_it_ends_where_memory_is_full(made: Path) -> None:
    fs = open_image(made, "starving")
    vm = fs.mp.vm
    before = vm.daemon.reclaims
    read_all(fs)
    assert vm.daemon.reclaims == before and len(vm.phys.free_frames) >= vm.low
    fs.check()
    fs.mp.close()


def test_what_is_read_ahead_of_use_was_not_used(made: Path) -> None:
    """The second image names only the pages that the second run used."""
    fs = open_image(made)
    first = set(fs.mp.vm.image.hot)
    read_all(fs)
    fs.content(fs.entries(ROOT)[b"1"])
    found = set(used_pages(fs.mp.vm))
    assert 8 < len(found) < len(first) / 2
    again = open_image(save_hot(fs, made.with_name("second")))
    assert set(again.mp.vm.image.hot) == found
    for each in (fs, again):
        each.mp.close()


def test_pages_that_cannot_be_read(made: Path) -> None:
    image = Image(str(made))
    data = bytearray(made.read_bytes())
    for offset, stored in zip(image._offsets, image._stored):
        data[offset + stored // 2] ^= 1
    image.close()
    made.write_bytes(data)
    fs = open_image(made)
    warm = read_all(fs)
    assert 0 < warm.nerrors <= MANY_ERRORS + 1
    fs.mp.close()


def with_table(path: Path, data: bytes, width: int = 4) -> Path:
    """An image whose table `hot` is replaced, with a correct checksum."""
    image = Image(str(path))
    header = image.header
    image.close()
    whole = bytearray(path.read_bytes())
    at = len(whole)
    whole += data + bytes(-len(data) % PAGE_SIZE)
    header.tables["hot"] = (at, len(data), crc32(data), width)
    header.file_bytes = len(whole)
    whole[:PAGE_SIZE] = pack_header(header)
    path.write_bytes(whole)
    return path


@pytest.mark.parametrize("words", ([0], [1 << 31], [0xFFFFFFFF], "behind", "free", "too many"))
def test_a_table_of_what_is_not_there(made: Path, words: list[int] | str) -> None:
    image = Image(str(made))
    places = image.array("place")
    good = next(vpn for vpn, place in enumerate(places) if place)
    image.close()
    if words == "behind":
        words = [good, len(places)]
    elif words == "free":
        words = [good, places.index(0)]
    elif words == "too many":
        words = [good] * (image.header.nplaces + 1)
    with pytest.raises(ImageError, match=f"image={made}: corrupted: the table hot names pages that"):
        open_image(with_table(made, array("I", words).tobytes()))


def test_a_table_of_half_numbers(made: Path) -> None:
    with pytest.raises(ImageError, match="corrupted: the table hot does not have elements of 4 bytes"):
        open_image(with_table(made, b"\1\0\0", 1))


def test_a_name_twice_does_no_harm(made: Path) -> None:
    vpn = open_image(made).mp.vm.image.hot[0]
    fs = open_image(with_table(made, array("I", [vpn] * 5).tobytes()))
    assert read_all(fs).npages >= 1 and fs.mp.vm.is_resident(vpn)
    fs.check()
    fs.mp.close()


@pytest.mark.parametrize("seed", range(12))
def test_random_tables(made: Path, tmp_path: Path, seed: int) -> None:
    """Any bytes: refused by name, or read without harm."""
    rng = random.Random(seed)
    copy = Path(shutil.copy(made, tmp_path / "copy"))
    top = rng.choice((64, 1 << 9, 1 << 32))
    words = array("I", (rng.randrange(top) for _ in range(rng.choice((1, 3, 300)))))
    try:
        fs = open_image(with_table(copy, words.tobytes()), rng.choice(MODES))
    except ImageError as error:
        assert "the table hot" in str(error)
        return
    read_all(fs)
    assert all(len(fs.content(ino)) == 8 * PAGE_SIZE for ino in fs.entries(ROOT).values())
    fs.check()
    fs.mp.close()


def test_without_the_table_nothing_is_read(made: Path) -> None:
    fs = open_image(made)
    with open(made.with_name("plain"), "wb") as file:
        freeze(fs.mp, Writer(file.fileno()))
    plain = open_image(made.with_name("plain"))
    assert read_all(plain).npages == 0 and plain.mp.vm.phys.nused == 0
    assert (plain.mp.vm.npages << PAGE_SHIFT) > 0
    for each in (fs, plain):
        each.mp.close()
