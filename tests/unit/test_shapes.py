"""Every command that asks a daemon, with answers that no daemon of ours gives."""

import copy
import json
import os
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from strangerlib import MOUNT, Talk, strangers_server

from tmpfsd.cli import clone, ctl, mount, top

M = MOUNT.path
PAGES = {"pages": 4, "resident_pages": 3, "swapped_pages": 1}
ROOM = {"size_bytes": 9000, "used_bytes": 5000}
FILE = {"path": "/s", **ROOM, "draining": False, "disk_full": False}
PART = {"bytes": 2, "resident_bytes": 1, "swapped_bytes": 1}
STEPS = {"done": 1, "of": 2}
RESULTS: dict[str, Any] = {
    "status": {
        "mountpoint": M, "backend": "wired", "pid": 1, **ROOM, "inodes": 3, "inodes_max": 9, "ram_bytes": 9000,
        "resident_bytes": 8000, "wired_bytes": 100, "dirty_bytes": 100, "unowned_bytes": 0, "lost_writes": 1,
        "lost_inodes": 1, "refused": {"full": 2}, "io": {"read_bytes": 1, "written_bytes": 1},
        "daemon": {"cpu_seconds": 1.5, "rss_bytes": 1}, "image": {"state": "ok"},
        "zram": {**ROOM, "stored_bytes": 1, "ratio": 2.5, "hits": 1, "writebacks": 1, "full": False},
        "submap": {"policy": "auto", "sharing": "shared", **ROOM, "high_water_bytes": 1},
        "swap": {"path": "/s", **ROOM, "files": [FILE, FILE], "disk_full": False, "bad_slots": 1},
        "paging": {"faults": 1, "pageins": 1, "pageouts": 1, "scans": 1, "reclaims": 1, "stalls": 1, "lost_pages": 1},
        "pools": [{"name": "string-64", "item_size": 64, "items": 5, "data_items": 2, **PAGES}], "data": PAGES,
        "requests": {"lookup": 5}},
    "latency": {"lookup": [2, 100, 0, 2]},
    "advise": {"seconds": 1.5, "pagein_us": 1.5, "enough_bytes": 5, "pageins": 1, "sampled_pages": 1,
               "sampled_accesses": 500, "ram_bytes": 5,
               "curve": [{"ram_bytes": 5, "pageins_per_second": 1.5, "waiting": 0.5}] * 9,
               "zram": [{"zram_bytes": 5, "ratio": 1.5, "from_swap_per_second": 1.5, "waiting": 0.5}]},
    "check": "consistent", "snapshot": {"inodes": 1, "bytes": 2},
    "set": {"ram": {"was": 1, "is": 2}}, "remount": {"ram": {"was": 1, "is": 2}},
    "quota": {"users": [[0, 1, 2, 3, 4]], "groups": None},
    "swapon": {"size_bytes": 5}, "swapoff": {"moved_bytes": 5, "warning": "no swap is left"},
    "flush": {"evicted_bytes": 1, "stayed_bytes": 0, "resident_bytes": 1, "wired_bytes": 1},
    "du": {"metadata": PART, "data": PART, "names": 1, "directories": 1, "files": 1, "others": 1, "skipped": 1,
           "unreadable": 1},
    "prefetch": {"names": 1, "bytes": 1, "unreadable": 1, "full": True}, "discard": {"names": 1, "lost": 1},
    "record": {"pages": 1}}
PROGRESS: dict[str, Any] = {
    **dict.fromkeys(("advise", "check", "snapshot", "set", "remount", "swapon", "swapoff", "flush"), STEPS),
    "du": {"names": 1}, "discard": {"names": 1}, "prefetch": RESULTS["prefetch"],
    "trace": {"lost": 1, "events": [[1.5, "in", 7, "data"]]},
    "events": {"lost": 1, "events": [
        {"time": 1.5, "event": "health", "state": "full", "before": "ok", "reasons": ["size is used up"]},
        {"time": 1.5, "event": "log", "level": "info", "text": "set ram"}]}}
# Each command line, and what it asks for.
RUNS: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("status", M), ("status",)), (("status", M, "--json"), ("status",)),
    (("list",), ("status",)), (("list", "--json"), ("status",)),
    (("top", M, "--once"), ("status", "latency", "advise")), (("top", M, "1", "1"), ("status", "latency")),
    (("top", "--once", "--json"), ("status",)), (("top", "--once"), ("status",)),
    (("wait", M, "--used", "1%"), ("status",)), (("advise", M, "--seconds", "0.001"), ("advise",)),
    (("check", M), ("check",)), (("snapshot", M, "IMAGE"), ("snapshot",)), (("clone", M, "/n"), ("snapshot",)),
    (("set", M, "ram=2m"), ("set",)), (("quota", M), ("quota",)), (("swapon", M, "SWAP"), ("status", "swapon")),
    (("swapoff", M, "/s"), ("swapoff",)), (("flush", M), ("flush",)), (("du", M), ("du",)),
    (("prefetch", M), ("prefetch",)), (("discard", "--yes", M + "/x"), ("discard",)),
    (("trace", M, "--count", "1"), ("trace",)), (("trace", M, "--record"), ("record",)),
    (("events", M, "--count", "2"), ("events",)), (("tmpfsd", "x", M, "-o", "remount,ram=2m"), ("remount",)))
ASKS_NOBODY = {"image", "umount", "completion", "install", "estimate"}

DEEP = "[" * 900 + "]" * 900
ODD = ("null", '"7"', r'"\u001b]0;owned\u0007\r\n\u2028\ud800"', "[]", "[[[]]]", "{}", "true", "-1", "1.5", "1e999",
       "NaN", "-Infinity", str(1 << 70), "9" * 5000, DEEP)
MISSING = ""
LINES = (b"", b"7", b"null", b'"x"', b"[]", b"{}", b"\xff\xfe", b"[" * 200_000, DEEP.encode(), b"\0", b"NaN",
         b'{"ok": true}', b'{"ok": true, "progress": 7}', b'{"ok": true, "result": "\xff"}', b'{"ok": 1, "result": 7}',
         b'{"ok": true, "progress": {"names": 1, "of": "x"}}', b'{"ok": true, "progress": {"done": 1, "of": [1]}}',
         b'{"ok": null, "error": "x"}', b'{"ok": false, "error": 7}', b'{"ok": false, "error": ["x"]}',
         b'{"ok": false, "error": "\\u001b]0;owned\\u0007\\r\\n\\u2028"}', '{"ok": true}'.encode("utf-16"))
# Keys that an older daemon does not have, and those where nothing is an answer.
OPTIONAL = {"pid", "unowned_bytes", "lost_writes", "lost_inodes", "refused", "io", "daemon", "image", "zram", "files",
            "disk_full", "bad_slots", "lost_pages", "warning", "cpu_seconds", "rss_bytes", "state", "read_bytes",
            "written_bytes", "full", "lookup", "ram", "data_items"}
NULLABLE = {"image", "zram", "submap", "path", "enough_bytes", "users", "groups"}
ANY_NAMES = {"requests", "refused", "io", "daemon", "image", None}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Talk], None]]:
    with strangers_server(tmp_path, monkeypatch) as start:
        yield start


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
        ) -> Callable[[tuple[str, ...]], tuple[int, str, str]]:
    """Runs a command line; returns its exit status and what it has written."""
    monkeypatch.setattr(top.time, "sleep", lambda _seconds: None)
    monkeypatch.setattr(clone, "mount", type("Mounts", (), {"main": lambda _words: 0}))
    monkeypatch.setenv("COLUMNS", "200")
    places = {"IMAGE": str(tmp_path / "image"), "SWAP": str(tmp_path)}
    capsys.readouterr()

    def one(words: tuple[str, ...]) -> tuple[int, str, str]:
        argv = [places.get(word, word) for word in words]
        code = mount.main(argv[1:]) if argv[0] == "tmpfsd" else ctl.main(argv)
        return code, *capsys.readouterr()
    return one


class Stranger:
    """Answers as a daemon does, except that some answers are replaced."""

    def __init__(self) -> None:
        self.lines: dict[str, bytes] = {}
        for name in RESULTS.keys() | PROGRESS.keys():
            words = [{"ok": True, "progress": PROGRESS[name]}] if name in PROGRESS else []
            words += [{"ok": True, "result": RESULTS[name]}] if name in RESULTS else []
            self.lines[name] = b"".join(json.dumps(word).encode() + b"\n" for word in words)
        self.good = dict(self.lines)

    def talk(self, connected: socket.socket) -> None:
        """One conversation."""
        data, files, _, _ = socket.recv_fds(connected, 1 << 16, 1)
        for file in files:
            os.close(file)
        connected.sendall(self.lines.get(json.loads(data)["command"], b'{"ok": true, "result": null}\n'))
        connected.recv(1)

    def say_instead(self, command: str, kind: str, answer: Any) -> None:
        """Answer a command with that; the text "@odd" in it is replaced by the caller."""
        self.lines = {**self.good, command: json.dumps({"ok": True, kind: answer}).encode() + b"\n" + (
            self.good[command] if kind == "progress" else b"")}


def ways(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Return where the values are in an answer, itself included; of equal ones in a list only the first."""
    yield way
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, each in pairs:
        if not (isinstance(value, list) and name and each == value[0]):
            yield from ways(each, (*way, name))


def changed(answer: Any, way: tuple[Any, ...], odd: str) -> tuple[Any, Any]:
    """Return the answer with "@odd" there, or without it if it is to be missing; and what was there."""
    whole = {"answer": copy.deepcopy(answer)}
    place: Any = whole
    *way_to, last = ("answer", *way)
    for name in way_to:
        place = place[name]
    was = place[last]
    if odd == MISSING:
        del place[last]
    else:
        place[last] = "@odd"
    return whole.get("answer"), was


def makes_sense(odd: str, was: Any, way: tuple[Any, ...]) -> bool:
    """Tell whether that is no odd value for this key."""
    name = way[-1] if way else None
    if odd == MISSING:
        return name in OPTIONAL
    if odd == "null":
        return was is None or name in NULLABLE
    if odd in ("{}", "[]"):
        return isinstance(was, dict if odd == "{}" else list) and (odd == "[]" or name in ANY_NAMES) or was is None
    if odd == "true":
        return isinstance(was, bool)
    if odd == "1.5":
        return isinstance(was, float)
    return odd.startswith('"') and (isinstance(was, str) or name in ("was", "is"))


def is_clean(text: str) -> bool:
    """Tell whether nothing in it moves the cursor, colours, or is an accident."""
    return all(line.isprintable() for line in text.split("\n")) and not re.search("internal error|Traceback", text)


def test_every_command_is_run() -> None:
    assert {words[0] for words, _ in RUNS} == {*ctl.SUBCOMMANDS, "tmpfsd"} - ASKS_NOBODY


@pytest.mark.parametrize("words, _asks", RUNS, ids=" ".join)
def test_the_samples_are_understood(server: Callable[[Talk], None], run: Any, words: tuple[str, ...],
                                    _asks: tuple[str, ...]) -> None:
    server(Stranger().talk)
    code, out, err = run(words)
    assert code == 0 and is_clean(out + err) and "understood" not in out + err, (out, err)


@pytest.mark.slow
@pytest.mark.parametrize("words, asks", RUNS, ids=" ".join)
def test_what_is_no_answer(server: Callable[[Talk], None], run: Any, words: tuple[str, ...],
                           asks: tuple[str, ...]) -> None:
    stranger = Stranger()
    server(stranger.talk)
    for command in asks:
        for line in LINES:
            stranger.lines = {**stranger.good, command: line + b"\n"}
            code, out, err = run(words)
            assert is_clean(out + err), (line[:40], out, err)
            assert demanded(code, out, err) or refused(line, code, out, err) or command == "advise" != words[0], (
                line[:40], code, out, err)


def demanded(code: int, out: str, err: str) -> bool:
    """Tell whether the command says that the answer is not understood."""
    if not err:
        return "not understood" in out
    return code == 1 and err.count("\n") == 1 and M in err and err.endswith("not understood\n")


def refused(line: bytes, code: int, out: str, err: str) -> bool:
    """Tell whether the command repeats a refusal."""
    return b"owned" in line and (code == 1 and "owned" in err or "busy" in out)


@pytest.mark.slow
@pytest.mark.parametrize("words, asks", RUNS, ids=" ".join)
def test_odd_values_are_not_understood(server: Callable[[Talk], None], run: Any, words: tuple[str, ...],
                                       asks: tuple[str, ...]) -> None:
    """One command has each odd value for each key of an answer; others that read the same answer have some of them."""
    stranger = Stranger()
    server(stranger.talk)
    for command in asks:
        every = next(words for words, asks in RUNS if command in asks) is words
        for kind, answers in (("result", RESULTS), ("progress", PROGRESS)):
            for number, way in enumerate(ways(answers[command]) if command in answers else ()):
                odds = ODD if every else [ODD[(4 * number + i) % len(ODD)] for i in range(3)]
                for odd in (*odds, MISSING) if way and not isinstance(way[-1], int) else odds:
                    answer, was = changed(answers[command], way, odd)
                    stranger.say_instead(command, kind, answer)
                    stranger.lines[command] = stranger.lines[command].replace(b'"@odd"', odd.encode())
                    code, out, err = run(words)
                    assert is_clean(out + err), (kind, way, odd[:40], out, err)
                    assert demanded(code, out, err) or makes_sense(odd, was, way) or (
                        command == "advise" != words[0]), (kind, way, odd[:40], code, out, err)
