"""fuse/seek.py, driven by bytes, with a kernel that holds pages of its own."""

import errno
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import failpoints
from tests.fs.fslib import ROOT, make_mount
from tests.fs.wirelib import Refused, Wire, refused
from tmpfsd.fuse import abi, held, init, notify
from tmpfsd.tmpfs import holes, reap
from tmpfsd.uvm.errors import NoMemory
from tmpfsd.uvm.param import PAGE_SIZE

DATA, HOLE = os.SEEK_DATA, os.SEEK_HOLE


class Kernel:
    """One file as the kernel sees it: it holds the pages that it has read, and a mapping may change them."""

    def __init__(self, wire: Wire, npages: int) -> None:
        self.wire, self.npages = wire, npages
        self.ino = wire.mknod(ROOT, b"a")
        wire.setattr(self.ino, abi.FATTR_SIZE, size=npages * PAGE_SIZE)
        self.pages: dict[int, bytes] = {}
        self.most = init.MAX_PAGES              # of one reply (fs.fuse.max_pages_limit)
        self.retrieved = 0

    def read(self, first: int, npages: int = 1) -> None:
        """READ pages, and hold them."""
        data = self.wire.read(self.ino, first * PAGE_SIZE, npages * PAGE_SIZE)
        for page in range(npages):
            if bytes_of := data[page * PAGE_SIZE:(page + 1) * PAGE_SIZE]:
                self.pages.setdefault(first + page, bytes_of)

    def store(self, page: int) -> None:
        """Change a page through a mapping."""
        self.read(page)
        self.pages[page] = b"\1".rjust(len(self.pages[page]), b"\0")

    def write(self, page: int) -> None:
        """WRITE a page, through the cache."""
        self.pages[page] = b"w" * PAGE_SIZE
        self.wire.write(self.ino, page * PAGE_SIZE, self.pages[page])

    def evict(self, page: int) -> None:
        """Write back where need be, and forget."""
        data = self.pages.pop(page, b"")
        if data.strip(b"\0"):
            self.wire.write(self.ino, page * PAGE_SIZE, data, abi.WRITE_CACHE)

    def reply(self, notice: bytes) -> bytes:
        """The NOTIFY_REPLY to a NOTIFY_RETRIEVE."""
        unique, ino, offset, size = abi.NOTIFY_RETRIEVE_OUT.unpack(notice, abi.OUT_HEADER.size)
        assert ino == self.ino and not offset % PAGE_SIZE and size <= init.MAX_WRITE
        page, data = offset // PAGE_SIZE, b""
        while page in self.pages and len(data) < min(size, self.most * PAGE_SIZE):
            data += self.pages[page]
            page += 1
        body = abi.NOTIFY_RETRIEVE_IN.pack(offset, len(data)) + data
        return abi.IN_HEADER.pack(abi.BODY + len(body), abi.NOTIFY_REPLY, unique, ino, 0, 0, 0) + body

    def seek(self, offset: int, whence: int) -> int:
        """What lseek(2) says.  => Refused."""
        session = self.wire.session
        reply = self.wire.raw(self.wire.request(abi.LSEEK, self.ino, abi.LSEEK_IN.pack(offset, whence)))
        while reply is None:
            notice = session.notices.pop()
            assert not session.notices and notify.sought(notice) == self.wire.unique
            self.retrieved += 1
            reply = self.wire.raw(self.reply(notice))
        assert not session.seeks and not session.notices
        _length, error, unique = abi.OUT_HEADER.unpack(reply)
        assert unique == self.wire.unique
        if error:
            raise Refused(-error)
        return abi.LSEEK_OUT.unpack(reply, abi.OUT_HEADER.size)[0]

    def map(self) -> str:
        """Each page: data or hole, as SEEK_DATA and SEEK_HOLE tell it by turns."""
        told, at, end = "", 0, self.npages * PAGE_SIZE
        while at < end:
            try:
                data = self.seek(at, DATA)
            except Refused as refusal:
                assert refusal.errno == errno.ENXIO
                data = end
            told += "." * ((data - at) // PAGE_SIZE)
            at = self.seek(data, HOLE) if data < end else end
            told += "x" * ((at - data) // PAGE_SIZE)
        return told


@pytest.fixture
def wire() -> Iterator[Wire]:
    made = Wire()
    yield made
    made.close()


def test_a_hole_that_was_never_read_is_told_at_once(wire: Wire) -> None:
    kernel = Kernel(wire, 5)
    kernel.write(2)
    assert [kernel.seek(0, DATA), kernel.seek(2 * PAGE_SIZE, DATA)] == [2 * PAGE_SIZE] * 2
    assert [kernel.seek(0, HOLE), kernel.seek(2 * PAGE_SIZE + 1, HOLE)] == [0, 3 * PAGE_SIZE]
    for offset, whence, code in ((3 * PAGE_SIZE, DATA, errno.ENXIO), (0, os.SEEK_SET, errno.EINVAL),
                                 (5 * PAGE_SIZE, HOLE, errno.ENXIO), ((1 << 64) - 1, 3, errno.ENXIO)):
        with refused(code):
            kernel.seek(offset, whence)
    assert not kernel.retrieved
    with refused(errno.EISDIR):
        wire.ask(abi.LSEEK, ROOT, abi.LSEEK_IN.pack(0, DATA))


def test_what_a_mapping_has_changed_is_data(wire: Wire) -> None:
    kernel = Kernel(wire, 300)
    kernel.write(5)
    kernel.read(0, 64)
    kernel.store(40)
    kernel.store(299)
    assert kernel.map() == "." * 5 + "x" + "." * 34 + "x" + "." * 258 + "x"
    assert kernel.seek(40 * PAGE_SIZE + 7, DATA) == 40 * PAGE_SIZE + 7


def test_pages_that_are_gone_are_asked_for_once(wire: Wire) -> None:
    kernel = Kernel(wire, 30)
    kernel.read(0, 30)
    kernel.pages.clear()
    assert kernel.map() == "." * 30 and kernel.retrieved == 30
    assert kernel.map() == "." * 30 and kernel.retrieved == 30


def test_replies_with_less_than_was_asked_for(wire: Wire) -> None:
    """The administrator may limit the size of a request: pages that do not come may still be held."""
    kernel = Kernel(wire, 60)
    kernel.most = 3
    kernel.read(0, 60)
    for page in (5, 30, *range(40, 52)):
        kernel.store(page)
    assert kernel.map() == "." * 5 + "x" + "." * 24 + "x" + "." * 9 + "x" * 12 + "." * 8


def test_what_is_reserved_may_be_held_too(wire: Wire) -> None:
    kernel = Kernel(wire, 8)
    wire.ask(abi.FALLOCATE, kernel.ino, abi.FALLOCATE_IN.pack(0, 8 * PAGE_SIZE, 0))
    kernel.store(3)
    assert kernel.map() == "...x...."


def test_the_end_of_a_file_within_a_page(wire: Wire) -> None:
    kernel = Kernel(wire, 3)
    size = 2 * PAGE_SIZE + 100
    wire.setattr(kernel.ino, abi.FATTR_SIZE, size=size)
    kernel.store(2)
    assert kernel.seek(0, DATA) == 2 * PAGE_SIZE and kernel.seek(2 * PAGE_SIZE, HOLE) == size
    kernel.pages[2] = bytes(100)
    with refused(errno.ENXIO):
        kernel.seek(0, DATA)


def test_when_the_kernel_forgets_a_file_it_holds_nothing(wire: Wire) -> None:
    kernel = Kernel(wire, 3)
    wire.lookup(ROOT, b"a")
    kernel.read(0, 3)
    wire.tell(abi.FORGET, kernel.ino, abi.FORGET_IN.pack(1))
    assert wire.session.held.has(kernel.ino)
    wire.tell(abi.FORGET, kernel.ino, abi.FORGET_IN.pack(1))
    assert not wire.session.held.has(kernel.ino)


def test_a_file_of_which_too_much_was_read_is_all_data(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held, "RANGES", 3)
    kernel = Kernel(wire, 20)
    for page in range(0, 20, 4):
        kernel.read(page)
    assert kernel.map() == "x" * 20 and not kernel.retrieved
    with refused(errno.ENXIO):
        kernel.seek(20 * PAGE_SIZE, DATA)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("mode", ["roomy", "starving"])
def test_at_random(seed: int, mode: str, tmp_path: Path) -> None:
    wire = Wire(make_mount(str(tmp_path / "swap"), mode))
    rng, kernel = random.Random(seed), Kernel(wire, 150)
    for _ in range(60):
        page = rng.randrange(150)
        match rng.randrange(6):
            case 0:
                kernel.read(page, rng.randrange(1, 65))
            case 1 | 2:
                kernel.store(page)
            case 3:
                kernel.write(page)
            case 4:
                for each in range(page, min(page + 10, 150)):
                    kernel.evict(each)
            case 5:
                wire.ask(abi.FALLOCATE, kernel.ino, abi.FALLOCATE_IN.pack(page * PAGE_SIZE, 5 * PAGE_SIZE, 3))
                for each in range(page, page + 5):
                    kernel.pages.pop(each, None)
        seen = wire.read(kernel.ino, 0, 64 * PAGE_SIZE) + wire.read(kernel.ino, 64 * PAGE_SIZE, 64 * PAGE_SIZE) + \
            wire.read(kernel.ino, 128 * PAGE_SIZE, 64 * PAGE_SIZE)
        is_data = [kernel.pages.get(each, seen[each * PAGE_SIZE:(each + 1) * PAGE_SIZE]).strip(b"\0")
                   for each in range(150)]
        assert kernel.map() == "".join("x" if each else "." for each in is_data)
    wire.session.held.check()
    wire.close()


def test_no_seek_where_data_may_be_in_the_kernel_only() -> None:
    wire = Wire(writeback=True)
    with refused(errno.ENOSYS):
        wire.ask(abi.LSEEK, wire.mknod(ROOT, b"a"), abi.LSEEK_IN.pack(0, DATA))
    wire.close()


def test_replies_that_nobody_waits_for_and_lies(wire: Wire) -> None:
    kernel = Kernel(wire, 4)
    kernel.store(1)
    body = abi.NOTIFY_RETRIEVE_IN.pack(0, 0) + b"x" * (9 * PAGE_SIZE)
    head = abi.BODY + len(body), abi.NOTIFY_REPLY
    assert wire.raw(abi.IN_HEADER.pack(*head, 77, kernel.ino, 0, 0, 0) + body) is None
    assert wire.raw(wire.request(abi.LSEEK, kernel.ino, abi.LSEEK_IN.pack(PAGE_SIZE, HOLE))) is None
    reply = wire.raw(abi.IN_HEADER.pack(*head, wire.unique, kernel.ino, 0, 0, 0) + body)
    assert reply is not None and abi.LSEEK_OUT.unpack(reply, abi.OUT_HEADER.size) == (2 * PAGE_SIZE,)


def test_memory_is_short_for_an_answer(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    failpoints.interpreted_only()
    kernel = Kernel(wire, 9)
    kernel.read(0)
    assert wire.raw(wire.request(abi.LSEEK, kernel.ino, abi.LSEEK_IN.pack(5, DATA))) is None
    seek, refusals = holes.seek, [NoMemory("frames")]

    def short(*args: Any) -> int:
        if refusals:
            raise refusals.pop()
        return seek(*args)

    monkeypatch.setattr(holes, "seek", short)
    monkeypatch.setattr(reap, "make_room", lambda _mount: True)
    reply = wire.raw(kernel.reply(wire.session.notices.pop()))
    assert reply is not None and abi.OUT_HEADER.unpack(reply)[1] == -errno.ENXIO and not wire.session.seeks
