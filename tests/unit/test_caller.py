"""Who makes a request, as far as /proc tells; and that nothing else is assumed."""

import ctypes
import os
import signal
from collections.abc import Callable, Iterator

import pytest

from tests import failpoints
from tests.mount.mountlib import end, needs_root, set_fsids, spawn
from tmpfsd.tmpfs import caller
from tmpfsd.tmpfs.caller import CAP_FSETID, CAP_SYS_ADMIN, NOBODY, Caller, Seen, look

CLONE_NEWUSER, CLONE_NEWPID = 0x10000000, 0x20000000
FSETID_BIT = 1 << CAP_FSETID
libc = ctypes.CDLL(None, use_errno=True)


def who(uid: int, pid: int, gid: int = 1) -> Caller:
    """A caller as FUSE tells of it."""
    return Caller(uid, gid, pid)


@pytest.fixture
def child() -> Iterator[Callable[[Callable[[], object]], int]]:
    """child(prepare): a process that has done that, and waits."""
    made: list[int] = []

    def make(prepare: Callable[[], object]) -> int:
        reader, writer = os.pipe()

        def body() -> None:
            os.close(reader)
            prepare()
            os.write(writer, b"x")
            signal.pause()

        made.append(spawn(body))
        os.close(writer)
        ready = os.read(reader, 1)
        os.close(reader)
        if not ready:
            pytest.skip("not allowed here")
        return made[-1]

    yield make
    end(*made)


def test_this_process() -> None:
    seen = look(os.getpid())
    assert seen.known and seen.groups == frozenset(os.getgroups())
    if os.geteuid() == 0:
        assert seen.capabilities & FSETID_BIT


@pytest.mark.parametrize("uid, privileged", [(0, True), (1000, False)])
@pytest.mark.parametrize("pid", [0, -1, 1 << 30])
def test_one_that_is_not_seen(pid: int, uid: int, privileged: bool) -> None:
    assert look(pid) == NOBODY
    one = who(uid, pid, gid=7)
    assert one.in_group(7) and not one.in_group(0) and one.capable(CAP_FSETID) == privileged


def test_one_that_has_ended() -> None:
    pid = spawn(lambda: None)
    os.waitpid(pid, 0)
    assert look(pid) == NOBODY


def test_another_proc_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process-ID namespace that has the /proc of its parent: the number is a stranger's there."""
    failpoints.interpreted_only()
    caller.is_our_proc.cache_clear()
    assert caller.is_our_proc()
    for shown in (b"4711\t%d" % os.getpid(), b"4711"):
        caller.is_our_proc.cache_clear()
        monkeypatch.setattr(caller, "status_of", lambda _pid, shown=shown: {b"NSpid": shown})
        assert not caller.is_our_proc() and look(os.getpid()) == NOBODY
    caller.is_our_proc.cache_clear()


@needs_root
def test_groups_and_a_user_taken_for_files(child: Callable[[Callable[[], object]], int]) -> None:
    """setfsuid(2) takes the capabilities that are about files, and leaves CAP_SYS_ADMIN."""
    pid = child(lambda: (os.setgroups([5, 4_000_000_000]), set_fsids(1000, 1001)))
    one = who(1000, pid, gid=1001)
    assert one.in_group(1001) and one.in_group(5) and one.in_group(4_000_000_000) and not one.in_group(0)
    assert not one.capable(CAP_FSETID) and one.capable(CAP_SYS_ADMIN)


@needs_root
def test_many_groups(child: Callable[[Callable[[], object]], int]) -> None:
    groups = range(100_000, 165_000)
    pid = child(lambda: os.setgroups(groups))
    assert look(pid).groups == frozenset(groups) and look(pid).capabilities & FSETID_BIT


def test_the_capabilities_of_a_user_namespace_are_none_here(child: Callable[[Callable[[], object]], int]) -> None:
    def enter() -> None:
        assert libc.unshare(CLONE_NEWUSER) == 0

    pid = child(enter)
    seen = look(pid)
    assert seen.known and not seen.capabilities
    fields = caller.status_of(str(pid))
    assert int(fields[b"CapEff"], 16) & FSETID_BIT, "it has all of them there"


@needs_root
def test_a_name_cannot_forge_a_field(child: Callable[[Callable[[], object]], int]) -> None:
    """The kernel escapes it; were it not so, the later line would count."""
    pid = child(lambda: (os.setgroups([]), libc.prctl(15, b"x\nGroups: 7\n", 0, 0, 0)))
    assert look(pid) == Seen(frozenset(), look(pid).capabilities, True)
