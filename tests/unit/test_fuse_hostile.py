"""fuse/: errors, driven by bytes: bad requests, failing handlers, and rare requests."""

import errno
from pathlib import Path
from typing import Any

import pytest

from tests import failpoints
from tests.fs.wirelib import Wire, refused
from tmpfsd.fuse import abi
from tmpfsd.fuse.session import NAMES, NO_ANSWER, OPERATIONS

ROOT = abi.ROOT_ID
BASIC = ("FUSE_NO_OPEN_SUPPORT", "FUSE_NO_OPENDIR_SUPPORT", "FUSE_MAX_PAGES", "FUSE_BIG_WRITES")


class TestTheRest:
    @pytest.mark.parametrize("opcode", [abi.OPEN, abi.OPENDIR, abi.CREATE, abi.FLUSH, abi.FSYNC, abi.FSYNCDIR,
                                        abi.POLL])
    def test_asked_once(self, wire: Wire, opcode: int) -> None:
        with refused(errno.ENOSYS):
            wire.ask(opcode, ROOT, bytes(24))

    def test_strictatime_needs_open(self) -> None:
        """Without FOPEN_KEEP_CACHE each opening begins with a READ."""
        wire = Wire(strictatime=True)
        assert abi.OPEN_OUT.unpack(wire.ask(abi.OPEN, wire.mknod(ROOT, b"a"), bytes(8))) == (0, 0)
        assert abi.OPEN_OUT.unpack(wire.ask(abi.OPENDIR, ROOT, bytes(8))) == (0, 0)
        wire.close()

    @pytest.mark.parametrize("opcode", [abi.RELEASE, abi.RELEASEDIR, abi.SYNCFS, abi.DESTROY])
    def test_done_at_once(self, wire: Wire, opcode: int) -> None:
        assert wire.ask(opcode, ROOT, bytes(24)) == b""

    @pytest.mark.parametrize("opcode", [0, 7, 19, abi.GETLK, abi.BMAP, abi.SETUPMAPPING, 54, 4096,
                                        436_207_616, (1 << 32) - 1])
    def test_nobody_knows_it(self, wire: Wire, opcode: int) -> None:
        with refused(errno.ENOSYS):
            wire.ask(opcode, ROOT, bytes(64))
        assert wire.rules.requests["other"] == 1

    def test_interrupt_has_no_answer(self, wire: Wire) -> None:
        wire.tell(abi.INTERRUPT, 0, bytes(8))

    def test_counted_by_name(self, wire: Wire) -> None:
        wire.lookup(ROOT, b"a")
        wire.getattr(ROOT)
        counts = {name: count for name, count in wire.rules.requests.items() if count}
        assert counts == {"lookup": 1, "getattr": 1} and set(wire.rules.requests) == set(NAMES)

    def test_one_request_of_a_kind_is_timed(self, wire: Wire) -> None:
        samples: dict[str, list[int]] = {}
        clock = iter(range(0, 1000, 7))
        wire.session.time_next(samples, lambda: next(clock))
        for _ in range(3):
            wire.getattr(ROOT)
        with refused(errno.ENOENT):
            wire.ask(abi.UNLINK, ROOT, b"a\0")
        wire.tell(abi.FORGET, 99, bytes(8))
        found = [samples[name][:2] for name in ("forget", "getattr", "unlink", "read")]
        assert found == [[1, 7], [1, 7], [1, 7], [0, 0]]
        wire.session.time_next(samples, lambda: next(clock))
        wire.session.time_no_more()
        wire.getattr(ROOT)
        assert samples["getattr"][:2] == [1, 7]

    def test_check_level_2_checks_after_each(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TMPFSD_CHECK", "2")
        wire = Wire()
        ino = wire.mknod(ROOT, b"a")
        wire.write(ino, 0, b"x" * 5000)
        assert wire.read(ino, 0, 9999) == b"x" * 5000
        wire.close()


class TestBadInput:
    CHANGING = [opcode for opcode, operation in OPERATIONS.items() if operation.changes]

    @pytest.mark.parametrize("opcode", sorted({*OPERATIONS, *NO_ANSWER, abi.INIT, 99}))
    def test_every_length(self, wire: Wire, opcode: int) -> None:
        """Truncated anywhere, or with bytes behind: an answer, and nothing broken."""
        body = abi.READ_IN.pack(0, 100) + b"name\0other\0" + bytes(60)
        for size in range(len(body) + 1):
            data = wire.request(opcode, ROOT, body[:size])
            reply = wire.raw(data)
            assert (reply is None) == (opcode in NO_ANSWER or opcode == abi.NOTIFY_REPLY)
        for length in (0, 39, len(data) - 1, len(data) + 1, (1 << 32) - 1):
            wire.raw(length.to_bytes(4, "little") + data[4:])

    def test_less_than_a_header(self, wire: Wire, caplog: pytest.LogCaptureFixture) -> None:
        for size in range(abi.BODY):
            assert wire.raw(bytes(size)) is None
        assert "a request of 39 bytes" in caplog.text

    @pytest.mark.parametrize("ino", [0, 2, 1000, (1 << 31) - 1, 1 << 31, 1 << 32, (1 << 64) - 1])
    @pytest.mark.parametrize("opcode", sorted(set(OPERATIONS) - {abi.STATFS}))
    def test_unknown_nodes(self, wire: Wire, opcode: int, ino: int) -> None:
        operation = OPERATIONS[opcode]
        if operation.handler.__name__ in ("not_served", "nothing_to_do") and not ino:
            pytest.skip("of the whole file system as well")
        with refused(errno.ESTALE):
            wire.ask(opcode, ino, bytes(operation.least) + b"a\0b\0")
        assert not wire.rules.broken

    @pytest.mark.parametrize("ino", [0, 2, 1 << 40, (1 << 64) - 1])
    def test_unknown_nodes_in_the_structure(self, wire: Wire, ino: int) -> None:
        wire.mknod(wire.mkdir(ROOT, b"d"), b"a")
        ino = ino if ino != 2 else 77
        for opcode, body in ((abi.LINK, abi.LINK_IN.pack(ino) + b"b\0"),
                             (abi.RENAME, abi.RENAME_IN.pack(ino) + b"d\0b\0"),
                             (abi.RENAME2, abi.RENAME2_IN.pack(ino, 2) + b"d\0b\0")):
            with refused(errno.ESTALE):
                wire.ask(opcode, ROOT, body)
        wire.tell(abi.FORGET, ino, abi.FORGET_IN.pack(5))

    @pytest.mark.parametrize("name", [b"", b"\0", b"a", b"a/b\0", b"/\0", b"a\0b\0", b"a\0\0"])
    @pytest.mark.parametrize("opcode", [abi.LOOKUP, abi.UNLINK, abi.RMDIR, abi.MKNOD, abi.MKDIR, abi.LINK])
    def test_names_that_are_none(self, wire: Wire, opcode: int, name: bytes) -> None:
        before = wire.mp.mem.nodes.nitems
        with refused(errno.EINVAL):
            wire.ask(opcode, ROOT, bytes(OPERATIONS[opcode].least) + name)
        assert wire.mp.mem.nodes.nitems == before

    @pytest.mark.parametrize("names", [b"", b"a", b"a\0", b"a\0b", b"\0b\0", b"a/c\0b\0", b"a\0b\0c\0"])
    @pytest.mark.parametrize("opcode", [abi.SYMLINK, abi.RENAME])
    def test_two_names_that_are_none(self, wire: Wire, opcode: int, names: bytes) -> None:
        wire.mknod(ROOT, b"a")
        with refused(errno.EINVAL):
            wire.ask(opcode, ROOT, (abi.RENAME_IN.pack(ROOT) if opcode == abi.RENAME else b"") + names)

    def test_a_long_batch_is_done_with_between_other_requests(self, wire: Wire) -> None:
        """65,000 forgets in one request held everybody up for a tenth of a second."""
        inodes = [wire.mknod(ROOT, b"%d" % i) for i in range(600)]
        for i in range(600):
            wire.ask(abi.UNLINK, ROOT, b"%d\0" % i)
        body = abi.BATCH_FORGET_IN.pack(600) + b"".join(abi.FORGET_ONE.pack(ino, 1) for ino in inodes)
        wire.tell(abi.BATCH_FORGET, 0, body)
        assert wire.rules.requests["forget"] == 256 and len(wire.session.later) == 1
        assert wire.getattr(inodes[-1]).nlink == 0
        assert wire.session.go_on() is None and wire.rules.requests["forget"] == 512
        assert wire.session.go_on() is None and not wire.session.later
        assert wire.rules.requests["forget"] == 600 and wire.mp.mem.nodes.nitems == 1
        wire.mp.check()

    def test_few_long_batches_wait(self, wire: Wire) -> None:
        """Waiting requests are on Python's heap: their number has a bound."""
        body = abi.BATCH_FORGET_IN.pack(600) + abi.FORGET_ONE.pack(77, 1) * 600
        for _ in range(20):
            wire.tell(abi.BATCH_FORGET, 0, body)
        assert len(wire.session.later) == 16 and wire.rules.requests["forget"] == 16 * 256 + 4 * 600

    def test_a_batch_that_says_more_than_it_has(self, wire: Wire) -> None:
        ino = wire.mknod(ROOT, b"a")
        wire.ask(abi.UNLINK, ROOT, b"a\0")
        wire.tell(abi.BATCH_FORGET, 0, abi.BATCH_FORGET_IN.pack((1 << 32) - 1) + abi.FORGET_ONE.pack(ino, 1) + bytes(9))
        assert wire.rules.requests["forget"] == 1
        with refused(errno.ESTALE):
            wire.getattr(ino)

    def test_more_references_than_were_taken(self, wire: Wire) -> None:
        ino = wire.mknod(ROOT, b"a")
        wire.tell(abi.FORGET, ino, abi.FORGET_IN.pack((1 << 64) - 1))
        assert wire.getattr(ino).nlink == 1


class TestErrors:
    def test_a_broken_invariant(self, wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
        failpoints.interpreted_only()

        def broken(*_args: Any) -> None:
            raise AssertionError("no")

        ino = wire.mknod(ROOT, b"a")
        with monkeypatch.context() as patch:
            patch.setattr("tmpfsd.tmpfs.vnops.lookup", broken)
            with refused(errno.EIO):
                wire.lookup(ROOT, b"a")
        for opcode in TestBadInput.CHANGING:
            with refused(errno.EROFS):
                wire.ask(opcode, ROOT, bytes(OPERATIONS[opcode].least) + b"x\0y\0")
        assert wire.lookup(ROOT, b"a") == ino
        wire.tell(abi.FORGET, ino, abi.FORGET_IN.pack(2))       # and nothing is freed
        wire.rules.broken = False
        wire.rules.seen.clear()

    def test_what_nobody_foresaw(self, wire: Wire, monkeypatch: pytest.MonkeyPatch,
                                 caplog: pytest.LogCaptureFixture) -> None:
        failpoints.interpreted_only()

        def bug(*_args: Any) -> None:
            raise RuntimeError("bug")

        monkeypatch.setattr("tmpfsd.tmpfs.vnops.statfs", bug)
        with refused(errno.EIO):
            wire.ask(abi.STATFS, ROOT)
        assert "bug" in caplog.text and not wire.rules.broken

    def test_full(self, tmp_path: Path) -> None:
        wire = Wire(swap=str(tmp_path), size_bytes=64 << 10)
        ino = wire.mknod(ROOT, b"a")
        written = wire.write(ino, 0, bytes(100_000))
        assert 0 < written < 100_000
        with refused(errno.ENOSPC):
            wire.write(ino, 90_000, b"x")
        wire.close()
