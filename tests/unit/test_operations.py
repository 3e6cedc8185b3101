"""The handlers: no exception leaves them, and each error becomes its errno."""

import errno
import gc
import inspect
import logging
import os
import stat
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from tests import failpoints

pyfuse3 = pytest.importorskip("pyfuse3")

from tmpfsd.options import Config  # noqa: E402  (needs pyfuse3)
from tmpfsd.server import operations, turns  # noqa: E402
from tmpfsd.server.operations import FORGETS, KINDS, Operations  # noqa: E402
from tmpfsd.tmpfs import caller as caller_module  # noqa: E402
from tmpfsd.tmpfs.caller import Seen  # noqa: E402
from tmpfsd.tmpfs.filesystem import Mount  # noqa: E402
from tmpfsd.tmpfs.fserror import FsError  # noqa: E402
from tmpfsd.tmpfs.gate import Gate  # noqa: E402
from tmpfsd.uvm.errors import Inconsistent, NoMemory  # noqa: E402

ATTR = (stat.S_IFREG | 0o644, 2, 3, 4, 5, 6, 7, 1_000_000_001, -1, 3_000_000_003, 9)
LONG = b"x" * 256
CTX = SimpleNamespace(uid=1, gid=2, umask=0o22, pid=3)


def run(func: Callable[..., Any], *args: Any) -> Any:
    """Run a handler; a number is the errno that it raised."""
    async def main() -> Any:
        return await func(*args)
    try:
        return trio.run(main)
    except pyfuse3.FUSEError as error:
        return error.errno


@pytest.fixture
def vnops(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Vnops with the answers that a test sets."""
    fake = SimpleNamespace(getattr=lambda _mount, _ino: ATTR)
    monkeypatch.setattr(operations, "vnops", fake)
    monkeypatch.setattr(operations, "writeback", SimpleNamespace(may_be=lambda *_args: False))
    return fake


def fake_mount(**more: Any) -> SimpleNamespace:
    """A mount of which only this is asked."""
    return SimpleNamespace(**{"breathe": lambda: None, "check_level": 0, "gate": Gate(dict), "doomed": 0,
                              "strictatime": False, "quota": None, **more})


@pytest.fixture
def ops(vnops: SimpleNamespace) -> Operations:
    """Operations over those vnops."""
    return Operations(fake_mount(), Config(swap=None))


def raising(error: Exception) -> Callable[..., Any]:
    """Make a vnop that fails."""
    def vnop(*_args: Any) -> Any:
        raise error
    return vnop


@pytest.mark.parametrize("error, code", [
    (FsError(errno.ENOTEMPTY), errno.ENOTEMPTY), (NoMemory("full"), errno.ENOSPC),
    (ValueError("bug"), errno.EIO), (MemoryError(), errno.EIO), (RecursionError(), errno.EIO),
    (Inconsistent("S2", "seen", "dump"), errno.EIO), (AssertionError("page freed twice"), errno.EIO),
])
def test_errors_become_errno(ops: Operations, vnops: SimpleNamespace, error: Exception, code: int) -> None:
    if isinstance(error, NoMemory):
        failpoints.interpreted_only()       # tried again by reap.py, which wants a Mount
    vnops.rmdir = raising(error)
    assert run(ops.rmdir, 1, b"x", CTX) == code


def test_broken_invariant_is_logged_and_ends_changes(
        ops: Operations, vnops: SimpleNamespace, caplog: pytest.LogCaptureFixture) -> None:
    vnops.rmdir = raising(Inconsistent("S2", "counts differ", "the whole state"))
    run(ops.rmdir, 1, b"x", CTX)
    assert "S2" in caplog.text and "the whole state" in caplog.text
    vnops.unlink = vnops.open = lambda *_args: None
    assert run(ops.unlink, 1, b"x", CTX) == errno.EROFS
    assert run(ops.getattr, 1, CTX).st_ino == 1
    assert run(ops.open, 1, os.O_RDWR, CTX).fh == 1
    assert run(ops.open, 1, os.O_RDONLY | os.O_TRUNC, CTX) == errno.EROFS       # which the kernel hands over whole
    assert run(ops.forget, [(1, 2)]) is None


CHANGING = {"create", "mknod", "mkdir", "symlink", "link", "unlink", "rmdir", "rename", "setattr", "write", "setxattr",
            "removexattr"}


def test_which_requests_change_something(ops: Operations) -> None:
    """All others are let through after an invariant broke: so a new handler must be added to one of the lists."""
    ops.gate.broken = True
    refused = set()
    for name in set(KINDS) - {"forget"}:
        nargs = len(inspect.signature(getattr(Operations, name)).parameters) - 1
        if run(getattr(ops, name), *[b""] * nargs) == errno.EROFS:
            refused.add(name)
    assert refused == CHANGING


def test_a_failed_assertion_is_a_broken_invariant(
        ops: Operations, vnops: SimpleNamespace, caplog: pytest.LogCaptureFixture) -> None:
    vnops.rmdir = raising(AssertionError("page freed twice"))
    assert run(ops.rmdir, 1, b"x", CTX) == errno.EIO
    assert "page freed twice" in caplog.text and "Traceback" in caplog.text
    assert run(ops.unlink, 1, b"x", CTX) == errno.EROFS


def test_what_is_broken_is_logged_seldom(
        ops: Operations, vnops: SimpleNamespace, caplog: pytest.LogCaptureFixture) -> None:
    vnops.getattr = raising(Inconsistent("V1", "no such page"))
    for _ in range(1000):
        assert run(ops.getattr, 1, CTX) == errno.EIO
    assert len(caplog.records) == 10 and "seen 512 times" in caplog.text


def test_what_is_refused_memory_is_tried_again_while_there_is_something_to_reap(
        ops: Operations, vnops: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    failpoints.interpreted_only()
    tries, rooms = 0, [True, True, False]

    def unlink(*_args: Any) -> None:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise NoMemory("full")

    monkeypatch.setattr("tmpfsd.tmpfs.reap.make_room", lambda _mount: rooms.pop(0))
    vnops.unlink = unlink
    assert run(ops.unlink, 1, b"x", CTX) is None
    assert tries == 3 and not ops.gate.refused
    vnops.unlink = raising(NoMemory("full"))
    assert run(ops.unlink, 1, b"x", CTX) == errno.ENOSPC
    assert ops.gate.refused == {"full": 1}


def test_entry_has_every_attribute(ops: Operations) -> None:
    entry = run(ops.getattr, 5, CTX)
    seen = (entry.st_mode, entry.st_nlink, entry.st_uid, entry.st_gid, entry.st_rdev, entry.st_size,
            entry.st_blocks, entry.st_atime_ns, entry.st_mtime_ns, entry.st_ctime_ns, entry.generation)
    assert seen == ATTR and entry.st_ino == 5
    assert entry.attr_timeout >= 10**9 and entry.entry_timeout >= 10**9


def test_lookup_remembers_that_there_is_nothing(ops: Operations, vnops: SimpleNamespace) -> None:
    vnops.lookup = lambda *_args: 0
    entry = run(ops.lookup, 1, b"x", CTX)
    assert entry.st_ino == 0 and entry.entry_timeout >= 10**9


@pytest.mark.parametrize("name, args", [
    ("lookup", (1, LONG, CTX)), ("create", (1, LONG, 0, 0, CTX)), ("mkdir", (1, LONG, 0, CTX)),
    ("mknod", (1, LONG, stat.S_IFIFO, 0, CTX)), ("symlink", (1, LONG, b"y", CTX)), ("unlink", (1, LONG, CTX)),
    ("link", (1, 1, LONG, CTX)), ("rmdir", (1, LONG, CTX)),
    ("rename", (1, LONG, 1, b"y", 0, CTX)), ("rename", (1, b"y", 1, LONG, 0, CTX)),
])
def test_long_names_are_refused(name: str, args: tuple[Any, ...]) -> None:
    """The kernel passes names of up to 1,024 bytes; every vnop refuses them itself."""
    config = Config(ram_bytes=1 << 20, size_bytes=1 << 20, swap=None)
    mount = Mount(config)
    try:
        assert run(getattr(Operations(mount, config), name), *args) == errno.ENAMETOOLONG
    finally:
        mount.close()


def test_setxattr_knows_the_callers_groups(
        ops: Operations, vnops: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    failpoints.interpreted_only()
    asked: list[int] = []
    monkeypatch.setattr(caller_module, "look", lambda pid: asked.append(pid) or Seen(frozenset({7}), 0, True))
    seen: list[Any] = []
    vnops.setxattr = lambda *args: seen.append(args[-1])
    assert run(ops.setxattr, 1, b"user.x", b"", CTX) is None
    caller, = seen
    assert (caller.uid, caller.gid, caller.umask) == (1, 2, 0o22)
    assert caller.in_group(2) and not asked         # the lookup reads /proc, so it is made only when it is needed
    assert caller.in_group(7) and not caller.in_group(8) and asked == [3, 3]


def test_setattr_passes_what_is_to_be_set(ops: Operations, vnops: SimpleNamespace) -> None:
    seen: dict[str, int] = {}
    vnops.setattr = lambda _mount, _ino, _cred, **wanted: seen.update(wanted)
    attr = pyfuse3.EntryAttributes()
    attr.st_mode, attr.st_size, attr.st_mtime_ns = stat.S_IFREG | 0o4755, 5, 7
    names = ("mode", "uid", "gid", "size", "atime", "mtime", "ctime")
    fields = SimpleNamespace(**{f"update_{name}": name in ("mode", "size", "mtime") for name in names})
    assert run(ops.setattr, 1, attr, fields, None, CTX).st_ino == 1
    assert seen == {"mode": 0o4755, "size": 5, "mtime_ns": 7, "by_path": True}
    assert run(ops.setattr, 1, attr, fields, 1, CTX).st_ino == 1 and not seen["by_path"]


def test_without_xattr_the_kernel_stops_asking(vnops: SimpleNamespace) -> None:
    ops = Operations(fake_mount(), Config(swap=None, xattr=False))
    for name, args in (("getxattr", (1, b"user.x", CTX)), ("setxattr", (1, b"user.x", b"", CTX)),
                       ("listxattr", (1, CTX)), ("removexattr", (1, b"user.x", CTX))):
        assert run(getattr(ops, name), *args) == errno.ENOSYS


@pytest.mark.parametrize("name, args", [("flush", (1,)), ("fsync", (1, True)), ("fsyncdir", (1, True))])
def test_nothing_to_flush(ops: Operations, name: str, args: tuple[Any, ...]) -> None:
    assert run(getattr(ops, name), *args) == errno.ENOSYS


def test_a_long_list_is_forgotten_in_turns(ops: Operations, vnops: SimpleNamespace,
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    """65,000 at once held everybody up for a tenth of a second."""
    monkeypatch.setattr(turns, "LOOK", 0)
    monkeypatch.setattr(turns, "DUE", 0)
    monkeypatch.setattr(turns, "MOST", 0)
    seen: list[int] = []
    vnops.forget = lambda _mount, ino, _nlookup: seen.append(ino)

    async def main() -> list[int]:
        counts = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ops.forgetter)
            await ops.forget([(ino, 1) for ino in range(600)])
            while len(seen) < 600:
                counts.append(len(seen))
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        return counts

    counts = trio.run(main)
    assert all(count % FORGETS == 0 for count in counts) and counts[0] == FORGETS
    assert all(after - before <= 2 * FORGETS for before, after in zip(counts, counts[1:]))  # trio shuffles each round
    assert seen == list(range(600)) and ops.requests["forget"] == 600 and not ops.forgotten


def test_few_long_lists_wait(ops: Operations, vnops: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting requests are on Python's heap: their number has a bound."""
    monkeypatch.setattr(operations, "MOST_FORGOTTEN", 4 * 600)
    seen: list[int] = []
    vnops.forget = lambda _mount, ino, _nlookup: seen.append(ino)
    for _ in range(6):
        run(ops.forget, [(ino, 1) for ino in range(600)])
    assert len(ops.forgotten) == 4 and len(seen) == 4 * FORGETS + 2 * 600
    assert ops.nforgotten == sum(map(len, ops.forgotten)) == 4 * (600 - FORGETS)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ops.forgetter)
            while len(seen) < 6 * 600:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert ops.nforgotten == 0 and ops.requests["forget"] == 6 * 600


def test_forget_never_raises(
        ops: Operations, vnops: SimpleNamespace, caplog: pytest.LogCaptureFixture) -> None:
    seen = []

    def forget(_mount: Any, ino: int, nlookup: int) -> None:
        seen.append((ino, nlookup))
        if ino == 2:
            raise RuntimeError("bug")

    vnops.forget = forget
    assert run(ops.forget, [(1, 5), (2, 6), (3, 7)]) is None
    assert seen == [(1, 5), (2, 6), (3, 7)] and "bug" in caplog.text


def test_requests_are_counted_by_kind_only(ops: Operations) -> None:
    for _ in range(3):
        run(ops.getattr, 5, CTX)
    assert ops.requests["getattr"] == 3 and set(ops.requests) == set(KINDS)


def test_every_handler_of_pyfuse3_is_answered() -> None:
    expected = {name for name, value in vars(pyfuse3.Operations).items()
                if callable(value) and not name.startswith("_")}
    assert expected - {"init", "stacktrace", "poll"} == set(KINDS)      # poll: pyfuse3's own ENOSYS does


def test_errors_leave_no_garbage(
        ops: Operations, vnops: SimpleNamespace, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL + 1)

    async def garbage(kind: type[Exception], args: tuple[Any, ...]) -> int:
        def unlink(*_args: Any) -> None:
            raise kind(*args)           # made anew: one that is kept would keep its frames itself

        vnops.unlink = unlink
        gc.collect()
        for _ in range(100):
            try:
                await ops.unlink(1, b"x", CTX)
            except pyfuse3.FUSEError:
                pass
        return gc.collect()

    gc.disable()
    try:
        assert trio.run(garbage, FsError, (errno.ENOENT,)) < 100
        assert trio.run(garbage, ValueError, ("bug",)) < 100
    finally:
        gc.enable()


def test_check_level_2_checks_after_each_operation(vnops: SimpleNamespace) -> None:
    checks: list[int] = []
    ops = Operations(fake_mount(check_level=2, check=lambda: checks.append(1)), Config(swap=None))
    vnops.readlink = lambda _mount, _ino: b"x"
    assert run(ops.readlink, 2, CTX) == b"x"
    assert run(ops.getattr, 2, CTX).st_nlink == 2
    assert len(checks) == 2
