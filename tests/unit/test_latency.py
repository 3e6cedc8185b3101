"""Requests are timed while somebody asks, and cost nothing while nobody does."""

from pathlib import Path
from typing import Iterator

import pyfuse3
import pytest
import trio

from tmpfsd.options import Config
from tmpfsd.server import latency
from tmpfsd.server.latency import Latency
from tmpfsd.server.operations import KINDS, Operations
from tmpfsd.tmpfs.filesystem import Mount


@pytest.fixture
def operations(tmp_path: Path) -> Iterator[Operations]:
    config = Config(ram_bytes=1 << 20, size_bytes=1 << 24, swap=str(tmp_path))
    mount = Mount(config)
    yield Operations(mount, config)
    mount.close()


def armed(operations: Operations) -> set[str]:
    return set(vars(operations)) & set(KINDS)


def test_one_request_of_a_kind_is_timed_each_time(operations: Operations) -> None:
    timer = Latency(operations)
    timer.arm()
    assert armed(operations) == set(KINDS)

    async def ask() -> None:
        for _ in range(3):
            await operations.getattr(1, None)
    trio.run(ask)
    assert timer.samples["getattr"][0] == 1 and timer.samples["getattr"][1] > 0
    assert operations.requests["getattr"] == 3 and "getattr" not in armed(operations)
    timer.arm()
    trio.run(ask)
    assert timer.samples["getattr"][0] == 2
    timer.disarm()
    assert not armed(operations)


def test_errors_pass_through(operations: Operations) -> None:
    timer = Latency(operations)
    timer.arm()
    with pytest.raises(pyfuse3.FUSEError):
        trio.run(operations.fsync, 1, False)
    assert timer.samples["fsync"][0] == 1
    timer.disarm()


def test_it_ends_when_nobody_asks_any_more(operations: Operations, monkeypatch) -> None:
    monkeypatch.setattr(latency, "LINGER", 0.05)
    monkeypatch.setattr(latency, "PERIOD", 0.001)

    async def main() -> None:
        timer = Latency(operations)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(timer.run)
            await trio.sleep(0.01)
            assert not armed(operations)
            assert timer.ask({}) == {}
            with trio.fail_after(5):
                while not armed(operations):
                    await trio.sleep(0)
                await operations.getattr(1, None)
                while armed(operations):
                    await trio.sleep(0.01)
            assert timer.ask({})["getattr"][0] >= 1
            with trio.fail_after(5):
                while not armed(operations):
                    await trio.sleep(0)
            nursery.cancel_scope.cancel()
        assert not armed(operations)
    trio.run(main)
