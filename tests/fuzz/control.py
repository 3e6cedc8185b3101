"""fuzz/control.py: bytes for the control socket: any line gets an answer that can be sent."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

from tests.fuzz import fuzzlib
from tmpfsd.server import control
from tmpfsd.server.control import MAX_LINE, ControlServer, Peer, parse_request, read_line
from tmpfsd.server.refused import ControlError


def oops(_request: Any) -> None:
    """A command with a bug."""
    raise ZeroDivisionError("oops")


SERVER = ControlServer({"ping": lambda _request: "pong", "echo": lambda request: request["text"], "oops": oops}, 0)
ROOT = Peer(0, ())
PIECES = (b'{"command": "ping"}\n', b'{"command": "echo", "text": ', b'{"command": ', b'"', b"}", b"\n", b"[" * 2000,
          b"{", b":", b"null",
          b"1e999", b"-" + b"9" * 5000, b"\\ud800", b"\xff\xfe", b"\xef\xbb\xbf", b'"oops"', b"x" * 70_000)


def input_of(data: bytes) -> bytes:
    """Lines mostly of pieces of JSON; or the bytes themselves."""
    source = fuzzlib.Source(data)
    if source.byte() % 4 == 0:
        return data[1:]
    pieces = []
    while source:
        choice = source.byte()
        pieces.append(PIECES[choice % len(PIECES)] if choice < 200 else source.bytes())
    return b"".join(pieces)


class Client:
    """A socket that hands out bytes in parts."""

    def __init__(self, data: bytes, step: int) -> None:
        self.data, self.step = data, step

    async def recv(self, most: int) -> bytes:
        """The next part; nothing at the end."""
        n = min(self.step, most)
        part, self.data = self.data[:n], self.data[n:]
        return part


def lines_of(data: bytes, step: int) -> Iterator[bytes]:
    """The lines as the server takes them from a client; without trio, for recv() never waits."""
    client, pending = Client(data, step), bytearray()
    while True:
        reading = read_line(client, pending)
        try:
            reading.send(None)
        except StopIteration as end:
            if end.value is None:
                return
            yield end.value
            if len(end.value) > MAX_LINE:
                return


def answer_to(line: bytes) -> dict[str, Any]:
    """The server's answer; without trio, because these commands never wait."""
    try:
        SERVER.answer(None, line, ROOT).send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("a command waits")


def one(data: bytes) -> None:
    """Read lines, answer each."""
    sent = input_of(data)
    lines = list(lines_of(sent, step=len(data) % 700 + 1))
    expected = sent.split(b"\n")[:-1]
    assert all(line == other for line, other in zip(lines, expected) if len(line) <= MAX_LINE)
    assert len(lines) >= len(expected) or len(lines[-1]) > MAX_LINE
    for line in lines:
        answer = answer_to(line)
        assert json.loads(json.dumps(answer)) == answer or answer["ok"], "cannot be sent"
        assert set(answer) == ({"ok", "result"} if answer["ok"] else {"ok", "error"})
        try:
            name, request = parse_request(line)
        except ControlError:
            assert not answer["ok"]
        else:
            assert isinstance(name, str) and request["command"] == name
            assert answer["ok"] == (name in ("ping", "echo") and (name != "echo" or "text" in request))


if __name__ == "__main__":
    logging.getLogger(control.__name__).setLevel(logging.CRITICAL + 1)       # "oops" is logged each time
    fuzzlib.main("tests.fuzz.control")
