"""The write gate: once an invariant broke, nothing changes a mount, in any way."""

import errno
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio

pytest.importorskip("pyfuse3")

from tests.fs.fslib import CRED  # noqa: E402
from tmpfsd.options import Config  # noqa: E402
from tmpfsd.server.commands import CHANGES, Commands, gated  # noqa: E402
from tmpfsd.server.control import Progress  # noqa: E402
from tmpfsd.server.operations import Operations  # noqa: E402
from tmpfsd.server.refused import ControlError  # noqa: E402
from tmpfsd.server.trees import Trees  # noqa: E402
from tmpfsd.tmpfs import detach, vnops  # noqa: E402
from tmpfsd.tmpfs.filesystem import Mount  # noqa: E402
from tmpfsd.tmpfs.fserror import FsError  # noqa: E402
from tmpfsd.tmpfs.gate import Gate  # noqa: E402
from tmpfsd.tmpfs.layout import ROOT_INO, tn_atime  # noqa: E402
from tmpfsd.uvm.errors import Inconsistent, NoMemory  # noqa: E402

MB = 1 << 20
BROKEN = Inconsistent("V1", "no such page", "the dump")


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """A mount with dirty pages, and a directory with files."""
    mount = Mount(Config(ram_bytes=4 * MB, size_bytes=64 * MB, swap=str(tmp_path)))
    dino = vnops.mkdir(mount, ROOT_INO, b"d", 0o755, CRED)
    for number in range(100):
        mount.breathe()
        ino = vnops.create(mount, dino, b"%d" % number, 0o600, CRED)
        vnops.write(mount, ino, 0, b"x" * 60_000)
        mount.breathe()
        vnops.forget(mount, ino, 1)
    yield mount
    mount.check()
    mount.close()


@pytest.fixture
def commands(mount: Mount) -> Commands:
    """The commands of that mount, as the control socket has them."""
    operations = Operations(mount, mount.config)
    return Commands(mount, operations, lambda: ("/nowhere", False), None, Trees(mount, operations))


def ask(command: Callable[[Any], Any], **request: Any) -> Any:
    """Run a command to its end; its result."""
    result = command({"peer": CRED, **request})
    if hasattr(result, "__next__"):
        while True:
            try:
                next(result)
            except StopIteration as end:
                return end.value
    if hasattr(result, "__anext__"):
        async def last() -> Any:
            return [part async for part in result][-1]
        return trio.run(last)
    return result


def test_errors_and_their_errno(caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate(lambda: {"inodes": 7})
    with caplog.at_level(logging.WARNING):
        assert gate.errno_of(FsError(errno.ENOTEMPTY), "rmdir") == errno.ENOTEMPTY
        assert gate.errno_of(ValueError("bug"), "rmdir") == errno.EIO and "rmdir: unexpected" in caplog.text
        assert [gate.errno_of(NoMemory("size"), "write") for _ in range(3)] == [errno.ENOSPC] * 3
        assert gate.refused == {"size": 3} and caplog.text.count("ENOSPC: size") == 1
        gate.demand_writable()
        assert not gate.broken and gate.errno_of(BROKEN, "rmdir") == errno.EIO
    assert gate.broken and "the dump" in caplog.text and '"inodes": 7' in caplog.text
    with pytest.raises(FsError) as caught:
        gate.demand_writable()
    assert caught.value.errno == errno.EROFS


def test_a_status_that_fails_is_no_second_fault(caplog: pytest.LogCaptureFixture) -> None:
    """An exception that left here would end the server."""
    gate = Gate(lambda: {}["nothing"])
    assert gate.errno_of(AssertionError("page freed twice"), "write") == errno.EIO
    assert gate.broken and "no status: KeyError" in caplog.text and "page freed twice" in caplog.text


def test_idle_work_rests(mount: Mount) -> None:
    mount.gate.errno_of(BROKEN, "test")
    before = mount.status()
    assert before["dirty_bytes"] and not mount.idle() and mount.status() == before
    mount.gate.broken = False
    assert mount.idle() and mount.status() != before


def test_reading_changes_no_time(mount: Mount) -> None:
    dino = vnops.lookup(mount, ROOT_INO, b"d")
    ino = vnops.lookup(mount, dino, b"7")
    mount.gate.broken = True
    before = tn_atime(mount.arena, mount.mem.node(ino))
    mount.now = lambda: before + 10**9
    assert vnops.read(mount, ino, 0, 3) == b"xxx" and tn_atime(mount.arena, mount.mem.node(ino)) == before
    mount.gate.broken = False
    vnops.read(mount, ino, 0, 3)
    assert tn_atime(mount.arena, mount.mem.node(ino)) == before + 10**9


def test_what_is_discarded_is_not_freed(mount: Mount) -> None:
    trees = Trees(mount, Operations(mount, mount.config))
    detach.detach(mount, ROOT_INO, b"d")
    mount.gate.errno_of(BROKEN, "test")
    used = mount.vm.npages
    with pytest.raises(FsError, match="EROFS"):
        trees.reap_slice()

    async def reap() -> None:
        trees._wake.set()
        with trio.move_on_after(0.2):
            await trees.reaper()

    trio.run(reap)
    assert mount.vm.npages == used and mount.doomed and "EROFS" in trees.failure
    mount.gate.broken = False
    while mount.doomed:
        trees.reap_slice()
    assert mount.vm.npages < used


REQUESTS: dict[str, dict[str, Any]] = {
    "set": {"values": ["ram=2m"]}, "swapon": {"path": "/var/tmp", "size_bytes": MB}, "swapoff": {"path": "/var/tmp"},
    "flush": {}, "prefetch": {"path": "d"}, "discard": {"path": "d"}, "remount": {"words": ["ram=2m"]}}


def test_every_command_that_changes_is_tried() -> None:
    assert set(REQUESTS) == CHANGES


@pytest.mark.parametrize("name", REQUESTS)
def test_commands_are_refused(mount: Mount, commands: Commands, name: str) -> None:
    mount.gate.errno_of(BROKEN, "test")
    before = mount.status()
    with pytest.raises(ControlError, match=f"^{name}: changes are refused"):
        ask(commands.table()[name], **REQUESTS[name])
    assert mount.status() == before


def test_commands_that_look_are_not(mount: Mount, commands: Commands) -> None:
    mount.gate.errno_of(BROKEN, "test")
    table = commands.table()
    assert ask(table["status"])["broken"] and ask(table["ping"]) == "pong"
    assert ask(table["du"], path="d")["result"] and ask(table["check"])["result"] == "consistent"


@pytest.mark.parametrize("error", [BROKEN, AssertionError("twice")])
@pytest.mark.parametrize("name", ["flush", "check", "du"])
def test_a_command_that_finds_it_closes_the_gate(error: Exception, name: str) -> None:
    """At once, in a step, or in a part."""
    def at_once(_request: Any) -> Any:
        raise error

    def in_steps(_request: Any) -> Any:
        yield Progress(0, 1)
        raise error

    async def in_parts(_request: Any) -> Any:
        yield {"progress": {}}
        raise error

    for command in (at_once, in_steps, in_parts):
        gate = Gate(dict)
        with pytest.raises(ControlError, match="inconsistent: "):
            ask(gated(gate, name, command))
        assert gate.broken


@pytest.mark.parametrize("name, refused", [("set", True), ("du", False)])
def test_a_command_under_way_goes_no_further(name: str, refused: bool) -> None:
    done: list[int] = []

    def command(_request: Any) -> Any:
        try:
            for number in range(3):
                done.append(number)
                yield Progress(number, 3)
        finally:
            done.append(-1)

    gate = Gate(dict)
    steps = gated(gate, name, command)({})
    next(steps)
    gate.broken = True
    if refused:
        with pytest.raises(ControlError, match="set: changes are refused"):
            next(steps)
        assert done == [0, -1]      # it undoes what it must
    else:
        assert list(steps) and done == [0, 1, 2, -1]


def test_a_broken_machine_is_no_refusal(mount: Mount, commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    """`set`, `swapoff` and `flush` report a lack of room in words, but not a bug."""
    def flush() -> Iterator[int]:
        yield 0
        raise BROKEN

    monkeypatch.setattr(commands.tuning, "mount", SimpleNamespace(vm=SimpleNamespace(
        swap=object(), phys=SimpleNamespace(nframes=3), daemon=SimpleNamespace(reclaims=0, flush=flush))))
    with pytest.raises(ControlError, match="inconsistent: V1"):
        ask(commands.table()["flush"])
    assert mount.gate.broken and not commands.tuning.busy


def test_what_is_lost_on_the_disk_is_logged_and_what_is_merely_refused_is_not(caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate(dict)
    caplog.set_level(logging.DEBUG)
    assert gate.errno_of(FsError(errno.ENOENT), "lookup") == errno.ENOENT and not caplog.records
    assert gate.errno_of(FsError(errno.EIO), "read") == errno.EIO
    assert [record.message.split(":")[0] for record in caplog.records] == ["read"]
