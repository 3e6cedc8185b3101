"""The request loop's waiting, on a pipe and with a clock that is set by hand."""

import os
import select
import signal
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import trio

pyfuse3 = pytest.importorskip("pyfuse3")

from tmpfsd.server import dispatch  # noqa: E402  (needs pyfuse3)
from tmpfsd.server.dispatch import Dispatcher  # noqa: E402
from tmpfsd.server.loop import FIRST_SPIN, LINGER, MICROSECOND, MOST_SPIN, NANO, TURN  # noqa: E402


class Clock:
    """A clock that goes on by `step` at each look."""

    def __init__(self, step: int) -> None:
        self.now, self.step = 0, step

    def __call__(self) -> int:
        self.now += self.step
        return self.now


@pytest.fixture(autouse=True)
def no_threads_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not count threads of libraries that earlier tests left: a read waits only if there is no other thread."""
    before = set(threading.enumerate()) - {threading.main_thread()}
    monkeypatch.setattr(threading, "active_count", lambda: len(set(threading.enumerate()) - before))


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1})


@pytest.fixture
def pipe() -> Iterator[SimpleNamespace]:
    """A pipe that stands for the descriptor of the session."""
    reader, writer = os.pipe()
    handler = signal.getsignal(signal.SIGALRM)
    timer = signal.getitimer(signal.ITIMER_REAL)        # pytest-timeout's
    yield SimpleNamespace(reader=reader, writer=writer)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, *timer)
    os.close(reader)
    os.close(writer)


def test_returns_when_a_request_is_there(pipe: SimpleNamespace) -> None:
    async def main() -> None:
        os.write(pipe.writer, b"x")
        with trio.fail_after(5):
            await Dispatcher().wait_readable(pipe.reader)
    trio.run(main)


def test_a_read_that_blocks_is_interrupted_while_there_is_traffic(pipe: SimpleNamespace) -> None:
    async def main() -> None:
        os.write(pipe.writer, b"x")
        await Dispatcher().wait_readable(pipe.reader)
        signal.pause()                  # as a read that blocks would
    trio.run(main)


async def until_it_reads(dispatcher: Dispatcher, pipe: SimpleNamespace) -> None:
    """Take requests until pyfuse3 is let read although none is there."""
    with trio.fail_after(5):
        while not dispatcher._read:
            os.write(pipe.writer, b"x")
            await dispatcher.wait_readable(pipe.reader)
            os.read(pipe.reader, 1)
        await dispatcher.wait_readable(pipe.reader)


def test_without_a_spin_the_read_waits(pipe: SimpleNamespace) -> None:
    async def main() -> None:
        polls = []
        dispatcher = Dispatcher(0)
        await until_it_reads(dispatcher, pipe)
        dispatcher._poll = polls.append
        for _ in range(100):
            await dispatcher.wait_readable(pipe.reader)
        assert len(polls) <= 2          # where a tick came
    trio.run(main)


def test_a_read_that_waits_ends_in_sleep(pipe: SimpleNamespace) -> None:
    async def main() -> None:
        dispatcher = Dispatcher(0)
        await until_it_reads(dispatcher, pipe)

        async def serve() -> None:
            while True:
                await dispatcher.wait_readable(pipe.reader)
                if await readable(pipe.reader):
                    return
                signal.pause()          # pyfuse3's read, which a tick ends

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            with trio.fail_after(5):
                await dispatcher.wait_quiet()
            os.write(pipe.writer, b"x")
            with trio.fail_after(5):
                await dispatcher.wait_traffic()
        assert not dispatcher._read
    trio.run(main)


async def readable(fd: int) -> bool:
    """Whether a read would not wait."""
    return bool(select.select([fd], [], [], 0)[0])


def test_another_thread_gets_the_interpreter(pipe: SimpleNamespace) -> None:
    async def main() -> None:
        dispatcher = Dispatcher(0)
        await until_it_reads(dispatcher, pipe)
        ended = threading.Event()
        thread = threading.Thread(target=ended.wait)
        thread.start()
        try:
            signal.pause()
            os.write(pipe.writer, b"x")
            await dispatcher.wait_readable(pipe.reader)
            assert not dispatcher._read
        finally:
            ended.set()
            thread.join()
    trio.run(main)


def test_no_ticks_in_sleep(pipe: SimpleNamespace) -> None:
    async def main() -> None:
        dispatcher = Dispatcher(0, Clock(LINGER))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(dispatcher.wait_readable, pipe.reader)
            await dispatcher.wait_quiet()
            assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
            nursery.cancel_scope.cancel()
    trio.run(main)


@pytest.mark.parametrize("spin", ("auto", 0, 200))
def test_sleeps_in_trio_and_wakes(pipe: SimpleNamespace, spin: str | int) -> None:
    async def main() -> None:
        dispatcher = Dispatcher(spin, Clock(LINGER // 3))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(dispatcher.wait_readable, pipe.reader)
            with trio.fail_after(5):
                await dispatcher.wait_quiet()
            assert dispatcher.quiet
            os.write(pipe.writer, b"x")
            with trio.fail_after(5):
                await dispatcher.wait_traffic()
        assert not dispatcher.quiet
    trio.run(main)


def test_others_get_their_turn_under_load(pipe: SimpleNamespace) -> None:
    async def main() -> None:
        os.write(pipe.writer, b"x")             # never read: always readable
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        dispatcher = Dispatcher("auto")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(other)
            start = time.monotonic()
            while (now := time.monotonic()) < start + 0.1 or turns < 5:
                await dispatcher.wait_readable(pipe.reader)
            nursery.cancel_scope.cancel()
        assert turns <= (now - start) / (TURN * NANO) + 2
    trio.run(main)


@pytest.mark.parametrize("load", (True, False))
def test_closing_ends_the_wait(pipe: SimpleNamespace, load: bool) -> None:
    async def main() -> None:
        dispatcher = Dispatcher()
        if load:
            os.write(pipe.writer, b"x")

        async def close() -> None:
            await trio.sleep(0.02)
            dispatcher.notify_closing(pipe.reader)

        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(close)
                with pytest.raises(trio.ClosedResourceError):
                    while True:
                        await dispatcher.wait_readable(pipe.reader)
    trio.run(main)


def test_spin_adapts() -> None:
    dispatcher = Dispatcher("auto")
    seen = []
    for _ in range(5):
        dispatcher._adapt(60 * MICROSECOND)
        seen.append(dispatcher.spin // MICROSECOND)
    assert seen == [10, 20, 40, 50, 50]
    for _ in range(20):
        dispatcher._adapt(900 * MICROSECOND)
    assert dispatcher.spin == 0


def test_fixed_spin_stays() -> None:
    dispatcher = Dispatcher(20)
    dispatcher._adapt(1)
    dispatcher._adapt(MOST_SPIN * 100)
    assert dispatcher.spin == 20 * MICROSECOND


def test_install_and_fall_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyfuse3, "trio", trio)
    assert dispatch.install("auto") is pyfuse3.trio
    monkeypatch.setattr(pyfuse3, "trio", object())      # looked up elsewhere, or changed by another
    assert dispatch.install("auto") is None
    monkeypatch.delattr(pyfuse3, "trio")
    assert dispatch.install("auto") is None


def test_has_every_name_that_pyfuse3_uses() -> None:
    dispatcher = Dispatcher()
    for name in ("Lock", "open_nursery", "ClosedResourceError"):
        assert hasattr(dispatcher, name)
    for name in ("current_trio_token", "current_task", "wait_readable", "notify_closing"):
        assert hasattr(dispatcher.lowlevel, name)


def test_no_spin_with_one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {3})
    dispatcher = Dispatcher("auto")
    for _ in range(4):
        dispatcher._adapt(30 * MICROSECOND)
    assert dispatcher.spin == 0
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 3})
    dispatcher = Dispatcher("auto")
    dispatcher._adapt(30 * MICROSECOND)
    assert dispatcher.spin == FIRST_SPIN


def test_it_does_not_block_while_others_have_work(pipe: SimpleNamespace) -> None:
    async def main() -> None:
        dispatcher, polls = Dispatcher(0), []
        os.write(pipe.writer, b"x")
        await dispatcher.wait_readable(pipe.reader)
        os.read(pipe.reader, 1)
        dispatcher.background = 1

        def poll(timeout: int) -> bool:
            polls.append(timeout)
            return len(polls) > 5
        dispatcher._poll = poll
        with trio.fail_after(5):
            await dispatcher.wait_readable(pipe.reader)
        assert set(polls) == {0}
    trio.run(main)
