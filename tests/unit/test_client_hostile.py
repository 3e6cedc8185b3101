"""Root's commands ask another user's server: it may send anything, byte by byte, or without an end."""

import itertools
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from strangerlib import MOUNT, SECONDS, Talk, strangers_server

from tmpfsd.cli import client, ctl, patience
from tmpfsd.cli.client import ClientError, Hung, ask_briefly


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Talk], None]]:
    with strangers_server(tmp_path, monkeypatch) as start:
        yield start


def says(text: str | bytes) -> Talk:
    """Answers each request with a line."""
    def talk(connected: socket.socket) -> None:
        connected.recv(1 << 16)
        connected.sendall((text.encode() if isinstance(text, str) else text) + b"\n")
        connected.recv(1)
    return talk


def drips(connected: socket.socket) -> None:
    """A byte now and then, and never a line."""
    while True:
        connected.sendall(b" ")
        time.sleep(SECONDS / 8)


def goes_on(connected: socket.socket) -> None:
    """It is always nearly done."""
    while True:
        connected.sendall(b'{"ok": true, "progress": {"done": 1, "of": 2}}\n')


def pings_only(connected: socket.socket) -> None:
    """It lives, and says nothing else."""
    if b"ping" in connected.recv(1 << 16):
        connected.sendall(b'{"ok": true, "result": "pong"}\n')
    connected.recv(1)


@pytest.mark.parametrize("talk", (drips, goes_on, pings_only), ids=lambda talk: talk.__name__)
@pytest.mark.parametrize("words", (("list", "--json"), ("top", "--once", "--json", "--delay", "0.1")), ids=str)
def test_nobody_waits_for_it(server: Callable[[Talk], None], capsys: pytest.CaptureFixture[str], talk: Talk,
                             words: tuple[str, ...]) -> None:
    server(talk)
    start = time.monotonic()
    assert ctl.main([*words]) == 0
    assert time.monotonic() - start < 20 * SECONDS
    row, = json.loads(capsys.readouterr().out)
    assert (row.get("state") or row["health"]) in ("hung", "busy", "not understood")


NO_ANSWERS = (b"[" * 200_000, b'{"ok": 1' + b"0" * 100_000 + b"}", b"\xff\xfe", b"7", b'{"ok": true}',
              b'{"ok": true, "progress": 7}', b'{"ok": true, "progress": {}}', b'{"ok": true, "result": 7}')


@pytest.mark.parametrize("line", NO_ANSWERS, ids=lambda line: repr(line[:30]))
def test_what_is_no_answer_harms_nobody(server: Callable[[Talk], None], capsys: pytest.CaptureFixture[str],
                                        line: bytes) -> None:
    server(says(line))
    for words in (("list",), ("top", "--once", "--delay", "0"), ("status", "/mnt/theirs")):
        ctl.main([*words])
        out, err = capsys.readouterr()
        assert "internal error" not in err and "Traceback" not in err + out, (words, err)


@pytest.mark.parametrize("talk", (drips, pings_only), ids=lambda talk: talk.__name__)
def test_a_status_has_an_end(server: Callable[[Talk], None], monkeypatch: pytest.MonkeyPatch,
                             capsys: pytest.CaptureFixture[str], talk: Talk) -> None:
    server(talk)
    monkeypatch.setattr(client, "SILENCE", SECONDS)
    monkeypatch.setattr(client, "LONGEST", 2 * SECONDS)
    start = time.monotonic()
    assert ctl.main(["status", "/mnt/theirs"]) == 1
    assert time.monotonic() - start < 20 * SECONDS and "/mnt/theirs" in capsys.readouterr().err


def test_a_server_that_is_merely_slow_is_answered(server: Callable[[Talk], None]) -> None:
    def slow(connected: socket.socket) -> None:
        connected.recv(1 << 16)
        time.sleep(SECONDS / 4)
        connected.sendall(b'{"ok": true, "result": "consistent"}\n')

    server(slow)
    assert ask_briefly(MOUNT, SECONDS, "check") == "consistent"
    with pytest.raises((Hung, ClientError)):
        ask_briefly(MOUNT, SECONDS / 8, "check")


@pytest.mark.parametrize("command", ("check", "flush", "du"))
def test_a_line_has_an_end(server: Callable[[Talk], None], monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    """However long a command may take."""
    server(drips)
    monkeypatch.setattr(client, "LONGEST_LINE", SECONDS)
    start = time.monotonic()
    with pytest.raises(ClientError, match="not understood"):
        client.ask("/mnt/theirs", command)
    assert time.monotonic() - start < 20 * SECONDS


@pytest.mark.parametrize("name", client.SECRETS)
def test_no_secret_of_ours_is_given_to_another(server: Callable[[Talk], None], name: str) -> None:
    heard = []

    def listens(connected: socket.socket) -> None:
        heard.append(connected.recv(1 << 16))

    server(listens)
    with client.Connection(MOUNT, SECONDS) as connection:
        connection.uid = os.geteuid() + 1
        with pytest.raises(ClientError, match="not given"):
            connection.send({"command": "swapon", "path": "valkey://here/x", name: "secret"})
    time.sleep(0.1)
    assert not any(heard)


def test_what_another_answers_is_escaped(server: Callable[[Talk], None], capsys: pytest.CaptureFixture[str]) -> None:
    server(says(json.dumps({"ok": True, "result": {"moved_bytes": 5, "warning": "\x1b]0;owned\x07\u2028"}})))
    assert ctl.main(["swapoff", "/mnt/theirs", "/x"]) == 0
    out, err = capsys.readouterr()
    assert "owned" in err and all(line.isprintable() for line in (out + err).split("\n"))


# --- progress without an end ---

def creeps(connected: socket.socket) -> None:
    """It always gets a little further, and never by one per cent."""
    connected.recv(1 << 16)
    for done in itertools.count():
        connected.sendall(b'{"ok": true, "progress": {"done": %d, "of": %d}}\n' % (done, 1 << 60))


def begins_anew(connected: socket.socket) -> None:
    """It always has another part of the work."""
    connected.recv(1 << 16)
    for done in itertools.count():
        connected.sendall(b'{"ok": true, "progress": {"done": 0, "of": %d}}\n' % done)


COMMANDS: tuple[tuple[str, ...], ...] = (
    ("check", MOUNT.path), ("flush", MOUNT.path), ("set", MOUNT.path, "ram=1m"), ("swapoff", MOUNT.path, "/x"),
    ("snapshot", MOUNT.path, "IMAGE"), ("advise", MOUNT.path))


@pytest.mark.slow
@pytest.mark.parametrize("talk", (goes_on, creeps, begins_anew, pings_only), ids=lambda talk: talk.__name__)
@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[0])
def test_progress_of_a_stranger_must_grow(server: Callable[[Talk], None], monkeypatch: pytest.MonkeyPatch,
                                          capsys: pytest.CaptureFixture[str], tmp_path: Path, talk: Talk,
                                          words: tuple[str, ...]) -> None:
    server(talk)
    monkeypatch.setattr(client.Connection, "is_strangers", lambda _self: True)
    monkeypatch.setattr(patience, "STALLED", 0.2)
    monkeypatch.setattr(client, "SILENCE", 0.1)
    start = time.monotonic()
    assert ctl.main([word.replace("IMAGE", str(tmp_path / "image")) for word in words]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"tmpfsctl: {MOUNT.path}: no progress in 0.2 seconds") and err.count("\n") == 1
    assert time.monotonic() - start < 20 * SECONDS and not list(tmp_path.glob("*image*"))


@pytest.mark.parametrize("command, progress", (("du", '{"names": 7}'), ("discard", '{"names": 7}'), (
    "prefetch", '{"names": 7, "bytes": 7, "unreadable": 0, "full": false}')))
def test_counts_of_a_stranger_must_grow(server: Callable[[Talk], None], monkeypatch: pytest.MonkeyPatch, command: str,
                                        progress: str) -> None:
    def talk(connected: socket.socket) -> None:
        connected.recv(1 << 16)
        while True:
            connected.sendall(b'{"ok": true, "progress": %s}\n' % progress.encode())

    server(talk)
    monkeypatch.setattr(client.Connection, "is_strangers", lambda _self: True)
    monkeypatch.setattr(patience, "STALLED", 0.1)
    with pytest.raises(ClientError, match="no progress"):
        for _ in client.follow(MOUNT, command):
            pass


@pytest.mark.parametrize("strangers", (False, True))
def test_who_is_believed_may_take_long(server: Callable[[Talk], None], monkeypatch: pytest.MonkeyPatch,
                                       strangers: bool) -> None:
    """Our own server may; and a stranger's that gets further, or that is asked for events without an end."""
    def talk(connected: socket.socket) -> None:
        events = b"events" in connected.recv(1 << 16)
        for done in range(8):
            time.sleep(0.02)
            word = '{"lost": 0, "events": []}' if events else f'{{"done": {done if strangers else 0}, "of": 8}}'
            connected.sendall(b'{"ok": true, "progress": %s}\n' % word.encode())
        connected.sendall(b'{"ok": true, "result": "consistent"}\n')

    server(talk)
    monkeypatch.setattr(client.Connection, "is_strangers", lambda _self: strangers)
    monkeypatch.setattr(patience, "STALLED", 0.1 if strangers else 0.0)
    assert client.ask(MOUNT.path, "check") == "consistent"
    with pytest.raises(ClientError, match="not understood"):        # the result that events do not have
        assert len(list(client.follow(MOUNT, "events"))) == 8
