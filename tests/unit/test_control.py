"""The control socket: bounded, private, and never in the way of requests."""

import json
import os
import resource
import socket
import stat
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from tmpfsd.cli.client import connect
from tmpfsd.mounts import places
from tmpfsd.server import control, turns
from tmpfsd.server.control import MAX_LINE, ControlServer, listen
from tmpfsd.server.refused import ControlError


def refuse(_request: Any) -> None:
    raise ControlError("not today")


def fail(_request: Any) -> None:
    raise ZeroDivisionError("oops")


async def count_down(request: Any) -> AsyncGenerator[dict[str, Any], None]:
    """A command with progress; it says when it is closed."""
    try:
        for left in range(request["from"], 0, -1):
            yield {"progress": left}
            await trio.sleep(request.get("pause", 0))
        if request.get("refuse"):
            raise ControlError("not today")
        yield {"result": "lift-off"}
    finally:
        CLOSED.append(request["from"])


CLOSED: list[int] = []


def count(request: Any) -> Any:
    """A command in steps; its last step is put into ENDED."""
    try:
        for done in range(request["steps"]):
            yield control.Progress(done, request["steps"])
        return "counted"
    finally:
        ENDED.append(done)


class Deaf:
    """A client that is gone when it is told something; it notes the loop's background work at that time."""

    def __init__(self, loop: Any) -> None:
        self.loop, self.background = loop, -1

    async def send(self, _data: bytes) -> int:
        self.background = self.loop.background
        raise BrokenPipeError


def undo(undone: list[int]) -> Any:
    """A command in steps that undoes in steps."""
    try:
        while True:
            yield control.Progress(1, 2)
    except control.Gone:
        for step in range(5):
            undone.append(step)
            yield control.Progress(1, 2)
        raise


ENDED: list[int] = []
COMMANDS = {
    "count": count, "count_down": count_down, "who": lambda request: request["peer"],
    "ping": lambda _request: "pong", "echo": lambda request: request["text"], "refuse": refuse, "fail": fail}


def serve(tmp_path: Path, client: Callable[[str], Awaitable[None]], owner: int = os.geteuid()) -> None:
    """Run a server and a client of it."""
    async def main() -> None:
        path = str(tmp_path / "socket")
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ControlServer(COMMANDS, owner).serve, listen(path))
                await client(path)
                nursery.cancel_scope.cancel()
    trio.run(main)


async def ask(path: str, data: bytes) -> list[dict[str, Any]]:
    """Send bytes and return the answers."""
    with trio.socket.socket(socket.AF_UNIX) as sock:
        await sock.connect(path)
        stream = trio.SocketStream(sock)
        try:
            await stream.send_all(data)
            await stream.send_eof()
        except trio.BrokenResourceError:
            pass                        # refused before all was taken
        answer = b""
        try:
            while part := await stream.receive_some(65536):
                answer += part
        except trio.BrokenResourceError:
            pass                        # closed with some of ours unread
    return [json.loads(line) for line in answer.splitlines()]


def test_answers_lines(tmp_path: Path) -> None:
    async def client(path: str) -> None:
        assert await ask(path, b'{"command": "ping"}\n{"command": "echo", "text": "\\u00e4\\n"}\n') == [
            {"ok": True, "result": "pong"}, {"ok": True, "result": "ä\n"}]
    serve(tmp_path, client)


def test_progress_comes_line_by_line(tmp_path: Path) -> None:
    async def client(path: str) -> None:
        assert await ask(path, b'{"command": "count_down", "from": 2}\n{"command": "ping"}\n') == [
            {"ok": True, "progress": 2}, {"ok": True, "progress": 1}, {"ok": True, "result": "lift-off"},
            {"ok": True, "result": "pong"}]
        assert await ask(path, b'{"command": "count_down", "from": 1, "refuse": 1}\n') == [
            {"ok": True, "progress": 1}, {"ok": False, "error": "not today"}]
    serve(tmp_path, client)


def test_a_command_ends_with_its_client(tmp_path: Path) -> None:
    async def client(path: str) -> None:
        CLOSED.clear()
        with trio.socket.socket(socket.AF_UNIX) as sock:
            await sock.connect(path)
            await sock.send(b'{"command": "count_down", "from": 1000000, "pause": 0.001}\n')
            assert await sock.recv(100)
        with trio.fail_after(5):
            while not CLOSED:
                await trio.sleep(0.001)
    serve(tmp_path, client)


def test_one_descriptor_comes_with_a_line_and_none_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def size(request: Any) -> Any:
        return [os.fstat(descriptor).st_size for descriptor in request["descriptors"]]

    async def client(path: str) -> None:
        monkeypatch.setitem(COMMANDS, "size", size)
        before = len(os.listdir("/proc/self/fd"))
        with open(tmp_path / "file", "wb") as file, socket.socket(socket.AF_UNIX) as sock:
            file.write(b"12345")
            file.flush()
            sock.connect(path)
            for part in (b'{"command": "si', b'ze", "descriptors": [0, 1]}\n', b'{"command": "size"}\n'):
                socket.send_fds(sock, [part], [file.fileno()] * 3)
            answers = b""
            while answers.count(b"\n") < 2:
                await trio.lowlevel.wait_readable(sock)
                answers += sock.recv(1000)
            sizes = [json.loads(line)["result"] for line in answers.splitlines()]
            assert sizes[0] == [5] and len(sizes[1]) <= 1
        assert await ask(path, b'{"command": "size", "descriptors": [0]}\n') == [{"ok": True, "result": []}]
        await trio.testing.wait_all_tasks_blocked()
        assert len(os.listdir("/proc/self/fd")) == before
    serve(tmp_path, client)


def test_who_asks_is_not_for_the_client_to_say(tmp_path: Path) -> None:
    async def client(path: str) -> None:
        answer = (await ask(path, b'{"command": "who", "peer": [12345, [7]]}\n'))[0]["result"]
        assert answer[0] == os.geteuid() and answer[1][0] == os.getegid()
        assert set(answer[1][1:]) == set(os.getgroups())
    serve(tmp_path, client)


@pytest.mark.parametrize("data, why", [
    (b"garbage\n", "JSON"), (b"\xff\x00\n", "JSON"), (b"[1]\n", "command"), (b'{"command": 1}\n', "command"),
    (b"\n", "JSON"), (b'{"command": "format"}\n', "unknown command 'format'"), (b"[" * 60000 + b"\n", "JSON"),
    (b'{"command": "refuse"}\n', "not today"), (b'{"command": "fail"}\n', "ZeroDivisionError: oops"),
    (b'{"command": "echo"}\n', "KeyError"),
])
def test_garbage_is_answered(tmp_path: Path, data: bytes, why: str) -> None:
    async def client(path: str) -> None:
        bad, good = await ask(path, data + b'{"command": "ping"}\n')
        assert bad["ok"] is False and why in bad["error"]
        assert good == {"ok": True, "result": "pong"}
    serve(tmp_path, client)


def test_too_long_a_line(tmp_path: Path) -> None:
    """C1: a line is bounded."""
    async def client(path: str) -> None:
        answers = await ask(path, b"x" * (MAX_LINE * 3))
        assert [answer["ok"] for answer in answers] == [False] and "longer" in answers[0]["error"]
        assert await ask(path, b'{"command": "ping"}\n')
    serve(tmp_path, client)


def test_no_line_end(tmp_path: Path) -> None:
    async def client(path: str) -> None:
        assert await ask(path, b'{"command": "ping"}') == []
    serve(tmp_path, client)


def test_a_command_in_steps_tells_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "PROGRESS_SECONDS", 0)
    monkeypatch.setattr(turns, "MOST", 0)
    monkeypatch.setattr(turns, "LOOK", 0)
    monkeypatch.setattr(turns, "DUE", 0)

    async def client(path: str) -> None:
        *words, answer = await ask(path, b'{"command": "count", "steps": 3}\n')
        assert words == [{"ok": True, "progress": {"done": done, "of": 3}} for done in range(3)]
        assert answer == {"ok": True, "result": "counted"}
    serve(tmp_path, client)


def test_progress_is_told_now_and_then_only(tmp_path: Path) -> None:
    async def client(path: str) -> None:
        assert len(await ask(path, b'{"command": "count", "steps": 1000}\n')) < 10
    serve(tmp_path, client)


def test_others_are_served_between_the_steps(tmp_path: Path) -> None:
    """C4."""
    async def client(path: str) -> None:
        ENDED.clear()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, path, b'{"command": "count", "steps": 1000000000}\n')
            assert (await ask(path, b'{"command": "ping"}\n'))[0]["ok"] and not ENDED
            nursery.cancel_scope.cancel()
        while not ENDED:
            await trio.sleep(0.01)      # C4: it was closed, for its client is gone
        assert ENDED[0] < 1000000000 - 1
    serve(tmp_path, client)


def test_a_step_that_fails_is_answered(tmp_path: Path) -> None:
    async def client(path: str) -> None:
        answers = await ask(path, b'{"command": "count", "steps": "x"}\n{"command": "ping"}\n')
        assert [answer["ok"] for answer in answers] == [False, True]
    serve(tmp_path, client)


def test_who_says_nothing_is_sent_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """C1: the time to send one is bounded."""
    monkeypatch.setattr(control, "IDLE_SECONDS", 0.05)

    async def client(path: str) -> None:
        with trio.socket.socket(socket.AF_UNIX) as sock:
            await sock.connect(path)
            assert b"nothing for" in await sock.recv(1000)
            assert await sock.recv(1000) == b""
    serve(tmp_path, client)


def test_who_does_not_listen_is_sent_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "IDLE_SECONDS", 0.05)
    monkeypatch.setitem(COMMANDS, "ping", lambda _request: "pong" * 1_000_000)

    async def client(path: str) -> None:
        with trio.socket.socket(socket.AF_UNIX) as sock:
            await sock.connect(path)
            await sock.send(b'{"command": "ping"}\n')
            await trio.sleep(0.2)
            assert (await ask(path, b'{"command": "echo", "text": 1}\n'))[0]["ok"]
            received = 0
            while part := await sock.recv(1 << 20):
                received += len(part)
            assert received < 4_000_000
    serve(tmp_path, client)


def test_too_many_clients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """C1: the number of clients is bounded."""
    monkeypatch.setattr(control, "MAX_CLIENTS", 2)

    async def client(path: str) -> None:
        socks = [trio.socket.socket(socket.AF_UNIX) for _ in range(3)]
        for sock in socks:
            await sock.connect(path)
        assert b"too many clients" in await socks[2].recv(1000)
        for sock in socks:
            sock.close()
        with trio.move_on_after(2):
            while not (await ask(path, b'{"command": "ping"}\n'))[0]["ok"]:
                await trio.sleep(0.01)
    serve(tmp_path, client)


def test_out_of_descriptors(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that comes meanwhile waits, and is answered when there are some again; the log stays short."""
    sleep = trio.sleep
    monkeypatch.setattr(trio, "sleep", lambda _seconds: sleep(0.001))

    async def client(path: str) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with trio.socket.socket(socket.AF_UNIX) as sock:
            taken = os.open("/dev/null", os.O_RDONLY)
            resource.setrlimit(resource.RLIMIT_NOFILE, (taken + 1, hard))
            try:
                await sock.connect(path)
                await sock.send(b'{"command": "ping"}\n')
                with trio.move_on_after(0.2):
                    assert await sock.recv(1000) is None
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                os.close(taken)
            assert b"pong" in await sock.recv(1000)
    serve(tmp_path, client)
    assert 1 <= len(caplog.records) <= 12 and "Too many open files" in caplog.text


def test_a_client_waits_where_others_stand_in_line(tmp_path: Path) -> None:
    """tmpfsctl: the queue of a socket is bounded too."""
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as late:
        listener.bind(path)
        listener.listen(0)
        first = socket.socket(socket.AF_UNIX)
        first.connect(path)
        late.settimeout(0.1)
        with pytest.raises(TimeoutError):
            connect(late, path)
        late.settimeout(20)
        timer = threading.Timer(0.1, lambda: listener.accept()[0].close())
        timer.start()
        connect(late, path)
        timer.join()
        first.close()


@pytest.mark.parametrize("uid, served", [(0, True), (1000, True), (1001, False)])
def test_others_may_not_ask(uid: int, served: bool) -> None:
    """C2: by the peer's credentials."""
    class Client:
        def getsockopt(self, *_args: int) -> bytes:
            return places.CREDENTIALS.pack(1, uid, uid)

    refusal = ControlServer(COMMANDS, owner=1000)._refusal(Client())
    assert (refusal is None) == served


def test_socket_is_private_and_replaces_a_stale_one(tmp_path: Path) -> None:
    """C2: by its mode."""
    path = tmp_path / "socket"
    listen(str(path)).close()
    listener = listen(str(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    listener.close()


def test_a_daemon_removes_its_own_socket_only(tmp_path: Path) -> None:
    """C3: the next mount's socket of the same name stays."""
    path = str(tmp_path / "socket")
    with listen(path):
        ours = control.identity(path)
        assert ours is not None
    with listen(path):
        control.remove(path, ours)
        assert os.path.lexists(path)
        control.remove(path, control.identity(path))
        assert not os.path.lexists(path)
    control.remove(path, ours)
    control.remove("", None)
    assert control.identity(path) is None


def test_a_daemon_removes_its_own_socket_though_another_is_quick(tmp_path: Path,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    """C3: the next mount makes its socket just when this one has seen that its own is still there."""
    path = str(tmp_path / "socket")
    identity, made = control.identity, []
    with listen(path):
        ours = identity(path)
    another = threading.Thread(target=lambda: made.append(listen(path)))

    def slow(place: str) -> object:
        seen = identity(place)
        another.start()
        another.join(0.2)
        return seen

    monkeypatch.setattr(control, "identity", slow)
    control.remove(path, ours)
    another.join()
    assert os.path.lexists(path)
    made[0].close()


def test_directory_of_another_is_refused(tmp_path: Path) -> None:
    place = tmp_path / "place"
    for _ in range(2):
        control.make_directory(str(place), os.geteuid())
    with pytest.raises(ControlError):
        control.make_directory(str(place), os.geteuid() + 1)
    place.chmod(0o777)
    with pytest.raises(ControlError):
        control.make_directory(str(place), os.geteuid())


def test_the_first_place_that_takes_a_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next place is taken after a stranger's directory, a file, an unwritable place and too long a path."""
    (tmp_path / "stranger").mkdir(mode=0o777)
    (tmp_path / "stranger").chmod(0o777)
    (tmp_path / "file").touch()
    long = tmp_path / ("n" * 110)
    long.mkdir()
    wrong = [str(tmp_path / "stranger"), str(tmp_path / "file"), str(tmp_path / "no" / "where"), str(long),
             "/proc/tmpfsd"]
    monkeypatch.setattr(control, "directories", lambda _uid: [*wrong, str(tmp_path / "good")])
    path, listener = control.open_socket(os.geteuid(), "1-2.sock")
    listener.close()
    assert path == str(tmp_path / "good" / "1-2.sock")
    monkeypatch.setattr(control, "directories", lambda _uid: wrong)
    with pytest.raises(ControlError) as caught:
        control.open_socket(os.geteuid(), "1-2.sock")
    assert all(place in str(caught.value) for place in wrong)


def test_a_client_that_goes_is_told_to_the_command() -> None:
    """It undoes in steps; and while a client takes its time the request loop may block."""
    loop, undone = SimpleNamespace(background=0, waits=lambda: False), []
    client = Deaf(loop)

    async def run() -> None:
        with pytest.raises(control.Gone):
            await control.follow(client, undo(undone), turns.Turns(loop))

    trio.run(run)
    assert undone == [*range(5)] and client.background == loop.background == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
@pytest.mark.parametrize("whose, served", [("all", True), ("socket", False), ("directory", False)])
def test_a_stranger_who_listens_does_not_serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whose: str,
                                               served: bool) -> None:
    """Else a dead mount could not be cleared away for who makes /tmp/tmpfsd-UID first."""
    directory = tmp_path / "tmpfsd-0"
    directory.mkdir(mode=0o700)
    path = directory / "1-2.sock"
    monkeypatch.setattr(control, "directories", lambda _uid: [str(directory)])
    assert not control.is_served(0, 1, 2)
    with listen(str(path)):
        if whose != "all":
            os.chown(path if whose == "socket" else directory, 1001, 1001)
        before = len(os.listdir("/proc/self/fd"))
        assert control.is_served(0, 1, 2) == served and len(os.listdir("/proc/self/fd")) == before
    assert not control.is_served(0, 1, 2)
