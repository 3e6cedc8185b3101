"""server/nativeloop.py on a pair of sockets that stands for the device, and server/edge.py."""

import errno
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import trio

from tests.fs.wirelib import Wire

pyfuse3 = pytest.importorskip("pyfuse3")

from tmpfsd.fuse import abi, notify  # noqa: E402  (needs pyfuse3)
from tmpfsd.server import edge, nativeloop  # noqa: E402
from tmpfsd.server.loop import MICROSECOND, MOST_SPIN, TURN  # noqa: E402
from tmpfsd.server.nativeloop import NativeLoop  # noqa: E402
from tmpfsd.server.refused import MountError  # noqa: E402

ROOT = abi.ROOT_ID


class Device:
    """Both ends of /dev/fuse: packets are kept whole."""

    def __init__(self) -> None:
        self.kernel, self.ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.wire = Wire()
        self.loop = NativeLoop(self.ours.fileno(), self.wire.session)
        self.kernel.settimeout(5)

    def ask(self, opcode: int, ino: int, body: bytes = b"") -> None:
        self.kernel.send(self.wire.request(opcode, ino, body))

    def answer(self) -> tuple[int, bytes]:
        """Its errno, and its body."""
        reply = self.kernel.recv(1 << 21)
        length, error, _unique = abi.OUT_HEADER.unpack(reply)
        assert length == len(reply)
        return -error, reply[abi.OUT_HEADER.size:]

    def close(self) -> None:
        self.loop.close()
        self.kernel.close()
        self.ours.close()
        self.wire.close()


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1})
    made = Device()
    yield made
    made.close()


def run(loop: NativeLoop, *tasks: Callable[[], Any]) -> None:
    """Run the loop until the tasks are done."""
    async def main() -> None:
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(loop.run)
                for task in tasks:
                    await task()
                loop.stop()

    trio.run(main)


def test_serves(device: Device) -> None:
    async def task() -> None:
        for number in range(3):
            device.ask(abi.LOOKUP, ROOT, b"missing\0")
            await trio.to_thread.run_sync(lambda: None)
            assert (await trio.to_thread.run_sync(device.answer))[0] == 0
        device.ask(abi.GETATTR, 99, bytes(16))
        assert (await trio.to_thread.run_sync(device.answer))[0] == errno.ESTALE

    run(device.loop, task)


def test_a_read_goes_out_from_the_frames(device: Device) -> None:
    ino, data = device.wire.mknod(ROOT, b"a"), os.urandom(100_000)
    device.wire.write(ino, 0, data)

    async def task() -> None:
        device.ask(abi.READ, ino, abi.READ_IN.pack(0, 1 << 20))
        assert await trio.to_thread.run_sync(device.answer) == (0, data)

    run(device.loop, task)


def test_the_other_tasks_have_their_turn_while_there_is_traffic(device: Device) -> None:
    """However many requests wait."""
    served = 0
    turns: list[int] = []

    async def task() -> None:
        for _ in range(20):
            turns.append(served)
            await trio.lowlevel.checkpoint()

    def endless() -> bool:
        nonlocal served
        served += 1
        return True

    device.loop._wait = lambda _since: True
    device.loop._serve_one = endless
    run(device.loop, task)
    assert turns[-1] > turns[1]


def test_quiet_and_traffic(device: Device) -> None:
    async def task() -> None:
        loop = device.loop
        await loop.wait_quiet()
        assert loop.quiet and not loop.spin
        device.ask(abi.GETATTR, ROOT, bytes(16))
        await loop.wait_traffic()
        assert not loop.quiet
        await trio.to_thread.run_sync(device.answer)
        await loop.wait_quiet()

    run(device.loop, task)


def test_quiet_after_several_turns_without_a_request(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """However fast each ends: none begins the wait for quiet anew."""
    now = 0

    def nothing(_since: int) -> bool:
        nonlocal now
        now += 1_000_000
        assert now < 1_000_000_000
        return False

    async def task() -> None:
        await device.loop.wait_quiet()

    monkeypatch.setattr(device.loop, "_clock", lambda: now)
    monkeypatch.setattr(device.loop, "_last", 0)
    monkeypatch.setattr(device.loop, "_wait", nothing)
    run(device.loop, task)


@pytest.mark.parametrize("code", [errno.ENODEV, errno.ECONNABORTED])
def test_ends_at_the_unmount(device: Device, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def readv(*_args: Any) -> int:
        raise OSError(code, "gone")

    monkeypatch.setattr(nativeloop.os, "readv", readv)
    device.ask(abi.GETATTR, ROOT, bytes(16))

    async def main() -> None:
        with trio.fail_after(5):
            await device.loop.run()

    trio.run(main)
    assert device.loop.closed


def test_what_the_device_says_of_requests_taken_back(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = [errno.ENOENT, errno.EINTR, errno.EAGAIN]
    readv = os.readv

    def flaky(*args: Any) -> int:
        if codes:
            raise OSError(codes.pop(), "not now")
        return readv(*args)

    monkeypatch.setattr(nativeloop.os, "readv", flaky)

    async def task() -> None:
        device.ask(abi.LOOKUP, ROOT, b"missing\0")
        assert (await trio.to_thread.run_sync(device.answer))[0] == 0

    run(device.loop, task)
    assert not codes


def test_another_error_of_the_device_is_not_hidden(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    def readv(*_args: Any) -> int:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(nativeloop.os, "readv", readv)
    device.ask(abi.GETATTR, ROOT, bytes(16))
    with pytest.raises(OSError, match="broken"):
        trio.run(device.loop.run)


@pytest.mark.parametrize("code, shown", [(errno.ENOENT, False), (errno.ENODEV, False), (errno.EINVAL, True)])
def test_a_reply_that_is_not_taken(device: Device, monkeypatch: pytest.MonkeyPatch, code: int, shown: bool,
                                   caplog: pytest.LogCaptureFixture) -> None:
    write, failures = os.write, [code]

    def refusing(fd: int, data: bytes) -> int:
        if fd == device.ours.fileno() and failures:
            raise OSError(failures.pop(), "no")
        return write(fd, data)

    monkeypatch.setattr(nativeloop.os, "write", refusing)
    device.wire.unique = 40
    device.loop._send(b"\x10\0\0\0" + bytes(4) + (42).to_bytes(8, "little"))
    assert ("was not taken" in caplog.text) == shown
    if shown:               # nobody may wait for ever
        assert device.answer() == (errno.EIO, b"")


def test_notices_come_before_the_reply(device: Device, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    device.wire.session.notices.append(notify.inval_inode(5))

    async def task() -> None:
        device.ask(abi.GETATTR, ROOT, bytes(16))
        notice = await trio.to_thread.run_sync(device.kernel.recv, 1000)
        assert (await trio.to_thread.run_sync(device.answer))[0] == 0
        assert notice == notify.inval_inode(5) and not device.wire.session.notices

    run(device.loop, task)


def test_the_spin_grows_and_shrinks(device: Device) -> None:
    loop = device.loop
    for _ in range(10):
        loop._adapt(MICROSECOND)
    assert loop.spin == MOST_SPIN
    for _ in range(10):
        loop._adapt(TURN)
    assert loop.spin == 0
    fixed = NativeLoop(device.ours.fileno(), device.wire.session, spin=20)
    fixed._adapt(TURN)
    assert fixed.spin == 20 * MICROSECOND and not fixed.adaptive


def test_no_spin_on_one_core(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0})
    loop = NativeLoop(device.ours.fileno(), device.wire.session)
    loop._adapt(MICROSECOND)
    assert loop.spin == 0


class TestReading:
    """A read that blocks: with one core, and where no spin pays."""

    @pytest.fixture(params=[1, 2])
    def reader(self, device: Device, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Device:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(request.param)))
        device.loop._alone = request.param == 1
        monkeypatch.setattr(device.loop, "_adapt", lambda _waited: None)
        return device

    def test_serves_and_gives_others_a_turn(self, reader: Device, monkeypatch: pytest.MonkeyPatch) -> None:
        """A request comes while the read blocks, many times; the tasks of trio send them, between two ticks."""
        reads = []
        read_on = reader.loop._read_on

        def counted() -> None:
            reads.append(0)
            read_on()

        monkeypatch.setattr(reader.loop, "_read_on", counted)

        async def task() -> None:
            for _ in range(10):
                reader.ask(abi.LOOKUP, ROOT, b"missing\0")
                assert (await trio.to_thread.run_sync(reader.answer))[0] == 0

        run(reader.loop, task)
        assert reads

    def test_ends_with_nobody_asking(self, reader: Device) -> None:
        """Then the descriptor does not block, and no signal comes any more."""
        async def task() -> None:
            reader.ask(abi.GETATTR, ROOT, bytes(16))
            await trio.to_thread.run_sync(reader.answer)
            await reader.loop.wait_quiet()
            assert not os.get_blocking(reader.ours.fileno())
            assert not signal.getitimer(signal.ITIMER_REAL)[1]

        run(reader.loop, task)

    def test_stop_ends_it(self, reader: Device) -> None:
        async def task() -> None:
            reader.ask(abi.GETATTR, ROOT, bytes(16))

        run(reader.loop, task)
        assert not os.get_blocking(reader.ours.fileno())
        assert not signal.getitimer(signal.ITIMER_REAL)[1]

    def test_a_tick_between_two_steps_of_begin_is_made_up_for(self, device: Device) -> None:
        """It leaves a descriptor that blocks: the next ends the read."""
        reading = device.loop._reading
        reading.begin()
        try:
            with pytest.raises(BlockingIOError):
                os.readv(reading.fd, (bytearray(10),))
            assert not reading.blocks
            os.set_blocking(reading.fd, True)
            with pytest.raises(BlockingIOError):
                os.readv(reading.fd, (bytearray(10),))
        finally:
            reading.end()
        assert not os.get_blocking(reading.fd)


class TestNotices:
    """As <linux/fuse.h> has them."""

    def test_bytes(self) -> None:
        assert notify.inval_inode(7) == b"\x28\0\0\0\2\0\0\0" + bytes(8) + b"\7" + bytes(7) + b"\xff" * 8 + bytes(8)
        assert notify.inval_inode(7, attr_only=False)[24:] == bytes(16)
        assert notify.inval_entry(1, b"ab") == b"\x23\0\0\0\3\0\0\0" + bytes(8) + b"\1" + bytes(7) + b"\2" + bytes(
            7) + b"ab\0"
        assert notify.delete(1, b"ab", 5) == b"\x2b\0\0\0\6\0\0\0" + bytes(8) + b"\1" + bytes(7) + b"\5" + bytes(
            7) + b"\2" + bytes(7) + b"ab\0"
        retrieve = notify.retrieve(7, 9, 4096, 5)
        assert retrieve == (b"\x30\0\0\0\5\0\0\0" + bytes(8) + b"\x09" + bytes(7) + b"\7" + bytes(8) + b"\x10" +
                            bytes(6) + b"\5" + bytes(7))
        assert notify.sought(retrieve) == 9 and not notify.sought(notify.inval_inode(7))

    def test_notifier(self, device: Device) -> None:
        notifier = notify.Notifier(device.ours.fileno())
        notifier.invalidate_inode(3)
        notifier.invalidate_inode(3, attr_only=True)
        notifier.invalidate_entry(1, b"a", 0)
        notifier.invalidate_entry(1, b"a", 9)
        assert [device.kernel.recv(100) for _ in range(4)] == [
            notify.inval_inode(3, False), notify.inval_inode(3), notify.inval_entry(1, b"a"), notify.delete(1, b"a", 9)]


class TestSeek:
    """LSEEK asks the kernel for its pages (fuse/seek.py)."""

    @pytest.fixture
    def hole(self, device: Device) -> int:
        ino = device.wire.mknod(ROOT, b"a")
        device.wire.setattr(ino, abi.FATTR_SIZE, size=1 << 20)
        device.wire.read(ino, 8192, 4096)
        return ino

    def begin(self, device: Device, ino: int) -> None:
        device.ask(abi.LSEEK, ino, abi.LSEEK_IN.pack(0, os.SEEK_DATA))

    def test_what_the_kernel_holds_answers(self, device: Device, hole: int) -> None:
        async def task() -> None:
            self.begin(device, hole)
            unique = device.wire.unique
            assert await trio.to_thread.run_sync(device.kernel.recv, 100) == notify.retrieve(hole, unique, 8192, 4096)
            body = abi.NOTIFY_RETRIEVE_IN.pack(8192, 4096) + bytes(4095) + b"x"
            device.kernel.send(abi.IN_HEADER.pack(abi.BODY + len(body), abi.NOTIFY_REPLY, unique, hole, 0, 0, 0) + body)
            assert await trio.to_thread.run_sync(device.answer) == (0, abi.LSEEK_OUT.pack(8192))

        run(device.loop, task)
        assert not device.wire.session.seeks

    def test_where_the_kernel_sends_nothing_nobody_waits_for_ever(self, device: Device, hole: int,
                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
        write = os.write

        def refusing(fd: int, data: bytes) -> int:
            if notify.sought(data):
                raise OSError(errno.ENOENT, "no such inode")
            return write(fd, data)

        monkeypatch.setattr(os, "write", refusing)

        async def task() -> None:
            self.begin(device, hole)
            assert await trio.to_thread.run_sync(device.answer) == (errno.EIO, b"")
            assert not device.wire.session.seeks

        run(device.loop, task)


def test_what_is_asked_after_the_end_is_refused(device: Device) -> None:
    """A thread may still wait for it: the process could not end."""
    device.ask(abi.WRITE, ROOT, abi.WRITE_IN.pack(0, 1, 1, 0) + b"x")
    device.ask(abi.GETATTR, ROOT)
    device.loop.refuse_all()
    assert [device.answer(), device.answer()] == [(errno.EIO, b"")] * 2


class TestEdge:
    """Which one serves, and its descriptor."""

    @pytest.mark.parametrize("option, release, native", [
        ("native", "4.0", True), ("pyfuse3", "6.18.1", False), ("auto", "6.18.44-fc", True), ("auto", "5.4.0", True),
        ("auto", "5.3.18-default", False), ("auto", "4.19", False), ("auto", "strange", False)])
    def test_auto(self, option: str, release: str, native: bool) -> None:
        assert edge.is_native(option, release) == native

    def test_this_kernel_is_asked(self) -> None:
        assert edge.is_native("auto") == (edge.kernel_version(os.uname().release) >= (5, 4))

    def test_the_device_is_known_by_its_number(self) -> None:
        if not os.access("/dev/fuse", os.R_OK | os.W_OK):
            pytest.skip("no /dev/fuse that can be opened")
        before = edge.devices()
        fds = [os.open("/dev/fuse", os.O_RDWR)]
        try:
            assert edge.new_device(before) == fds[0]
            fds.append(os.open("/dev/fuse", os.O_RDWR))
            with pytest.raises(MountError, match="2 new descriptors"):
                edge.new_device(before)
        finally:
            for fd in fds:
                os.close(fd)

    def test_none(self) -> None:
        with pytest.raises(MountError, match="0 new descriptors of /dev/fuse.*edge=pyfuse3"):
            edge.new_device(edge.devices())


class Bound:
    """What stands for awake.Awake."""

    held = False

    def hold(self) -> None:
        self.held = True

    def release(self) -> None:
        self.held = False


def test_cores_may_sleep_beside_background_work_and_at_the_end(device: Device) -> None:
    bound: Any = Bound()
    loop = device.loop
    loop.awake = bound
    bound.hold()
    loop.background = 1
    assert not loop._wait(0) and not bound.held
    loop.background = 0
    bound.hold()

    async def task() -> None:
        bound.hold()

    run(loop, task)
    assert not bound.held
