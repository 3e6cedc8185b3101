"""Messages about a mount that fills up, and the events that scripts wait for."""

import argparse
import json
import logging
from typing import Any

import pytest
import trio

from tmpfsd.cli import client, ctl
from tmpfsd.cli import list as list_
from tmpfsd.cli import wait
from tmpfsd.mounts.mountinfo import MountPoint
from tmpfsd.server import pressure
from tmpfsd.server.pressure import Pressure, shares

MB = 1 << 20


def status(used: int = 0, inodes: int = 0, ram: int = 0, swap: int = 0, **limits: int) -> dict[str, Any]:
    """A status in which these percentages are used."""
    return {"used_bytes": used * MB, "size_bytes": 100 * MB, "inodes": inodes, "inodes_max": limits.get("inodes", 100),
            "resident_bytes": ram * MB, "ram_bytes": 100 * MB, "backend": "wired", "pid": 77,
            "swap": {"path": "/x", "used_bytes": swap * MB, "size_bytes": limits.get("swap", 100) * MB}}


def said_of(caplog: pytest.LogCaptureFixture, *percentages: int, name: str = "used") -> list[str]:
    """The messages as the percentage changes."""
    state = {name: 0}
    watch = Pressure(lambda: status(**state))
    with caplog.at_level(logging.WARNING):
        for state[name] in percentages:
            watch.look()
    return [record.getMessage() for record in caplog.records]


def test_each_threshold_is_said_once(caplog) -> None:
    assert said_of(caplog, 10, 79, 80, 85, 94, 95, 100, 100) == [
        "size is 80% full: 80 of 100 MiB", "size is 95% full: 95 of 100 MiB"]


def test_from_nothing_to_full_is_said_once(caplog) -> None:
    assert said_of(caplog, 0, 99) == ["size is 99% full: 99 of 100 MiB"]


def test_hysteresis(caplog) -> None:
    assert len(said_of(caplog, 81, 79, 81, 75, 80)) == 1
    assert len(said_of(caplog, 81, 74, 80)) == 1 + 2


def test_down_from_95_and_up_again(caplog) -> None:
    assert said_of(caplog, 96, 91, 95, 89, 96, 60, 85) == [
        f"size is {percent}% full: {percent} of 100 MiB" for percent in (96, 96, 85)]


@pytest.mark.parametrize("name, text", [("ram", "ram is 80% full: 80 of 100 MiB; what is beyond it is paged out"),
                                        ("swap", "swap is 80% full: 80 of 100 MiB"),
                                        ("inodes", "inodes is 80% full: 80 of 100 inodes")])
def test_each_limit(caplog, name: str, text: str) -> None:
    assert said_of(caplog, 79, 80, name=name) == [text]


def test_ram_without_swap_is_all_there_is(caplog) -> None:
    with caplog.at_level(logging.WARNING):
        Pressure(lambda: {**status(ram=95), "swap": {"path": "none", "used_bytes": 0, "size_bytes": 0}}).look()
    assert caplog.messages == ["ram is 95% full: 95 of 100 MiB"]


def test_what_has_no_limit_is_not_looked_at() -> None:
    assert [name for name, _ in shares(status())] == ["used", "ram", "swap", "inodes"]
    limitless = status()
    limitless["inodes_max"] = limitless["swap"]["size_bytes"] = 0
    assert [name for name, _ in shares(limitless)] == ["used", "ram"]


def test_it_looks_while_there_is_traffic_and_survives_what_fails(monkeypatch, caplog) -> None:
    monkeypatch.setattr(pressure, "SECONDS", 0)
    looks = []

    def state() -> dict[str, Any]:
        looks.append(1)
        if len(looks) == 2:
            raise ZeroDivisionError
        return status(used=90)

    class Traffic:
        quiet = False

        async def wait_traffic(self) -> None:
            await trio.sleep_forever()

    async def main() -> None:
        traffic = Traffic()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Pressure(state).watch, traffic)
            while len(looks) < 5:
                await trio.sleep(0)
            traffic.quiet = True
            for _ in range(9):
                await trio.sleep(0)
            seen = len(looks)
            for _ in range(20):
                await trio.sleep(0)
            assert len(looks) == seen
            nursery.cancel_scope.cancel()
    trio.run(main)
    assert [record.levelname for record in caplog.records] == ["WARNING", "ERROR"]


# --- wait ---

def waited(monkeypatch, states: list[dict[str, Any]], *arguments: str) -> int:
    """The exit status of wait, while these are the answers."""
    monkeypatch.setattr(wait, "status", lambda _path, _seconds: states.pop(0) if len(states) > 1 else states[0])
    monkeypatch.setattr(wait.time, "sleep", lambda _seconds: None)
    return ctl.main(["wait", "/mnt", *arguments])


def test_wait_ends_when_it_is_so(monkeypatch, capsys) -> None:
    assert waited(monkeypatch, [status(50), status(89), status(90)], "--used", "90%") == 0
    assert capsys.readouterr().out == "/mnt: used 90%: 90 of 100 MiB\n"


def test_wait_until_it_is_below(monkeypatch, capsys) -> None:
    assert waited(monkeypatch, [status(90), status(50), status(49)], "--used", "<50%") == 0
    assert capsys.readouterr().out == "/mnt: used 49%: 49 of 100 MiB\n"
    assert waited(monkeypatch, [status(90)], "--used", "<50%", "--timeout", "0") == 2


def test_wait_goes_on_without_an_interval(monkeypatch) -> None:
    """It ended at once, with status 2."""
    states = [status(10), status(20), status(95)]
    slept = []
    monkeypatch.setattr(wait, "status", lambda _path, _seconds: states.pop(0))
    monkeypatch.setattr(wait.time, "sleep", slept.append)
    assert ctl.main(["wait", "/mnt", "--used", "90%", "--interval", "0"]) == 0
    assert slept == [wait.LEAST_INTERVAL] * 2


def test_wait_says_that_the_disk_is_full(monkeypatch, capsys) -> None:
    full = status(50)
    full["swap"]["disk_full"] = True
    assert waited(monkeypatch, [full, full, status(90)], "--used", "90%") == 0
    assert capsys.readouterr().err == f"tmpfsctl: warning: /mnt: {pressure.DISK_FULL}\n"


def test_the_log_says_that_the_disk_is_full_and_has_room_again(caplog) -> None:
    state = status(50)
    watch = Pressure(lambda: state)
    with caplog.at_level(logging.INFO):
        for full in (False, True, True, False, False, True):
            state["swap"]["disk_full"] = full
            watch.look()
    assert [record.getMessage() for record in caplog.records] == [
        pressure.DISK_FULL, "the disk under the swap file has room again", pressure.DISK_FULL]


def test_wait_for_any_of_several(monkeypatch, capsys) -> None:
    assert waited(monkeypatch, [status(50, swap=20)], "--used", "90%", "--swap=10%", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"used": 50, "swap": 20}


def test_wait_gives_up(monkeypatch, capsys) -> None:
    assert waited(monkeypatch, [status(50)], "--ram", "90%", "--timeout", "0") == 2
    assert capsys.readouterr().out == "/mnt: ram 0%: 0 of 100 MiB\n"


@pytest.mark.parametrize("arguments, why", [
    ((), "wait for what?"), (("--inodes", "5%"), "no limit of nr_inodes"),
    (("--swap", "5%"), "no limit of swap"),
])
def test_wait_for_what_cannot_be(monkeypatch, capsys, arguments: tuple[str, ...], why: str) -> None:
    limitless = status()
    limitless["inodes_max"] = limitless["swap"]["size_bytes"] = 0
    assert waited(monkeypatch, [limitless], *arguments) == 1
    assert why in capsys.readouterr().err


@pytest.mark.parametrize("text", ("90", "101%", "-1%", "x%", "%", "1e1%", ""))
def test_what_is_no_percentage(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        wait.percent(text)


def test_percentages() -> None:
    assert [wait.percent(text).percent for text in ("0%", "100%", "<99.5%")] == [0, 100, 99.5]
    with pytest.raises(argparse.ArgumentTypeError):
        wait.seconds("1h")


# --- list ---

MOUNTS = [MountPoint(0, number, f"/mnt/{number}", fstype, number) for number, fstype in
          ((1, "fuse.tmpfsd"), (2, "tmpfs"), (3, "fuse.tmpfsd"), (4, "fuse.tmpfsd"), (5, "fuse.tmpfsd"))]


@pytest.fixture
def machine(monkeypatch) -> None:
    """Mounts that answer, are dead, foreign and busy; the first is bound to a second place."""
    def answer(mount: MountPoint, path: str, *_more: Any) -> dict[str, Any]:
        errors = {3: client.Dead, 4: client.Foreign, 5: client.ClientError}
        if mount.minor in errors:
            raise errors[mount.minor](path)
        return status(used=1, ram=50)
    monkeypatch.setattr(list_, "ask_briefly", answer)
    monkeypatch.setattr(list_, "leftovers", lambda: [])
    monkeypatch.setattr(list_.mountinfo, "table", lambda: [*MOUNTS, MOUNTS[0]._replace(path="/bound")])


def test_list(machine, capsys) -> None:
    assert ctl.main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in lines[1:]] == ["/mnt/1", "/mnt/3", "/mnt/4", "/mnt/5"]
    assert [line.split()[1] for line in lines[1:]] == ["wired", "dead", "foreign", "busy"]
    assert lines[1].split() == ["77", "wired", "1M/100M", "50M/100M", "0/100M", "/mnt/1"]
    assert max(map(len, lines)) <= 80


def test_list_as_json(machine, capsys) -> None:
    assert ctl.main(["list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["state"] for row in found] == ["mounted", "dead", "foreign", "busy"]
    assert found[0]["pid"] == 77 and found[0]["swap"]["path"] == "/x"


def test_what_is_hung_or_has_no_socket_or_no_mount(machine, monkeypatch, capsys) -> None:
    """And a stranger's server may answer anything, under any name."""
    def answer(mount: MountPoint, path: str, *_more: Any) -> Any:
        if mount.minor in (3, 4, 5):
            raise {3: client.Hung, 4: client.NoSocket, 5: client.NotUnderstood}[mount.minor](path)
        return {**status(), "backend": "\x1b[31m\n"}
    monkeypatch.setattr(list_, "ask_briefly", answer)
    monkeypatch.setattr(list_, "leftovers", lambda: [{**status(), "mountpoint": "/gone"}])
    assert ctl.main(["list"]) == 0
    lines = capsys.readouterr().out.split("\n")
    shown = [line[10:27].strip() for line in lines[1:-1]]
    assert shown == ["\\x1b[31m\\n", "hung", "no socket", "not understood", "wired"]
    assert lines[-2].endswith("/gone (detached)") and "\x1b" not in "".join(lines)


def test_list_of_nothing(monkeypatch, capsys) -> None:
    monkeypatch.setattr(list_, "leftovers", lambda: [])
    monkeypatch.setattr(list_.mountinfo, "table", lambda: [MOUNTS[1]])
    assert ctl.main(["list"]) == 2 and capsys.readouterr().out == ""
    assert ctl.main(["list", "--json"]) == 2 and json.loads(capsys.readouterr().out) == []
