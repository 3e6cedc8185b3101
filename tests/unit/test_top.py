"""What top shows of two looks at a mount, and what its keys do."""

import io
import json
from typing import Any

import pytest
from rich.console import Console

from tmpfsd.cli import ctl, top
from tmpfsd.cli.top import press
from tmpfsd.cli.topview import SORTS, Interval, Look, Settings, screen

MB = 1 << 20


def status(requests: dict[str, int], **paging: int) -> dict[str, Any]:
    """A status with these counts."""
    pools = [{"name": f"string-{size}", "item_size": size, "items": 9, "pages": size, "resident_pages": size // 2,
              "swapped_pages": size - size // 2} for size in (64, 4096, 2048, 96, 1360)]
    return {"mountpoint": "/mnt/" + "long" * 30, "backend": "pageable-submap", "pid": 1234567,
            "used_bytes": 97 * MB, "size_bytes": 100 * MB, "resident_bytes": 97 * MB, "ram_bytes": 100 * MB,
            "inodes": 123_456_789, "inodes_max": 2_147_483_647,
            "swap": {"path": "/x", "used_bytes": 50 * MB, "size_bytes": 60 * MB}, "pools": pools,
            "data": {"pages": 123_456_789, "resident_pages": 23_456_789, "swapped_pages": 100_000_000},
            "paging": {**dict.fromkeys(("faults", "pageins", "pageouts", "scans", "reclaims", "stalls"), 0), **paging},
            "requests": requests}


BEFORE = Look(10.0, status({"lookup": 100, "write": 1000}, pageins=5), {"lookup": [10, 100_000]})
AFTER = Look(12.0, status({"lookup": 300, "write": 1000, "read": 8}, pageins=1005, stalls=4),
             {"lookup": [20, 130_000], "read": [2, 80_000]})


@pytest.fixture
def interval() -> Interval:
    return Interval(BEFORE, AFTER)


def shown(interval: Interval, width: int = 80, height: int = 0, **settings: Any) -> list[str]:
    """The lines that top prints."""
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=False)
    console.print(screen(interval, Settings(**settings), height))
    return out.getvalue().splitlines()


def test_rates_and_means_are_of_the_interval(interval: Interval) -> None:
    found = {each.name: (each.rate, each.total, each.latency) for each in interval.requests()}
    assert found == {"lookup": (100, 300, 3.0), "write": (0, 1000, None), "read": (4, 8, 40.0)}
    assert interval.paging()["pageins"] == 500 and interval.paging()["stalls"] == 2


def test_where_an_interval_has_no_sample_the_mean_is_of_all() -> None:
    assert next(Interval(AFTER, AFTER).requests()).latency == 6.5


@pytest.mark.parametrize("width", (80, 120))
def test_it_fits(interval: Interval, width: int) -> None:
    lines = shown(interval, width)
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    for word in ("97M of 100M  97%", "in 500", "stalls 2", "123,456,789", "100,000,000", "lookup", "3.0"):
        assert word in text, word


def with_zram(look: Look, hits: int, writebacks: int) -> Look:
    zram = {"size_bytes": 50 * MB, "used_bytes": 10 * MB, "stored_bytes": 58 * MB, "ratio": 5.8, "hits": hits,
            "writebacks": writebacks}
    return look._replace(status={**look.status, "zram": zram})


@pytest.mark.parametrize("width", (80, 120))
def test_compressed_pages_have_a_line(interval: Interval, width: int) -> None:
    assert not any(line.startswith("zram") for line in shown(interval)) and interval.as_json()["zram"] == {}
    here = Interval(with_zram(BEFORE, 100, 9), with_zram(AFTER, 300, 9))
    line, = (line for line in shown(here, width) if line.startswith("zram"))
    for word in ("10M of 50M", "for 58M, 5.8 to 1", "hits/s 100", "written back/s 0"):
        assert word in line, word
    assert here.as_json()["zram"]["hits_per_second"] == 100
    assert len(shown(here, height=18)) <= 18
    # It was let go and made anew, or made only now: no rate below 0.
    assert Interval(with_zram(BEFORE, 100, 9), with_zram(AFTER, 3, 0)).zram()["hits_per_second"] == 0
    assert Interval(BEFORE, with_zram(AFTER, 4, 2)).zram()["hits_per_second"] == 2


@pytest.mark.parametrize("height", (12, 18, 24, 40))
def test_it_is_no_higher_than_the_terminal(interval: Interval, height: int) -> None:
    lines = shown(interval, height=height)
    assert len(lines) <= height
    assert any(line.startswith("data ") for line in lines) and any(line.startswith("lookup") for line in lines)


@pytest.mark.parametrize("sort, first", [("r", "lookup"), ("t", "write"), ("l", "read"), ("n", "lookup")])
def test_requests_are_sorted(interval: Interval, sort: str, first: str) -> None:
    lines = shown(interval, sort=sort)
    at = next(number for number, line in enumerate(lines) if line.startswith("REQUEST"))
    assert lines[at + 1].startswith(first) and lines[at].count("*") == 1


def test_help_and_pause_are_shown(interval: Interval) -> None:
    assert any("quit" in line for line in shown(interval, help=True))
    assert shown(interval, paused=True)[0].startswith("paused") and shown(interval)[0].startswith("every 2 s")
    assert "delay in seconds: 1.5_" in shown(interval, typed="1.5")[0]


# --- keys ---

def test_keys() -> None:
    settings = Settings()
    assert not any(press(settings, key) for key in "l h")
    assert settings == Settings(sort="l", paused=True, help=True)
    assert not press(settings, "x") and not settings.help
    assert not press(settings, " ") and not settings.paused
    assert press(settings, "q")
    assert press(Settings(help=True), "q")
    assert set(SORTS) == set("rtln")


@pytest.mark.parametrize("typed, delay", [
    ("d3\r", 3), ("s0.5\n", 0.5), ("d7\x1b", 2), ("d\r", 2), ("d0\r", top.LEAST), ("d99999\r", top.MOST),
    ("d1\x7f4\r", 4), ("dq5\r", 5), ("d..\r", 2),
])
def test_a_new_delay_is_typed(typed: str, delay: float) -> None:
    settings = Settings()
    assert not any([press(settings, key) for key in typed])
    assert settings.delay == delay and settings.typed is None


# --- the command ---

@pytest.fixture
def looks(monkeypatch) -> None:
    found = [BEFORE, AFTER]
    monkeypatch.setattr(top, "look", lambda _path: found.pop(0))
    monkeypatch.setattr(top.time, "sleep", lambda _seconds: None)


def test_once(looks, capsys) -> None:
    assert ctl.main(["top", "/mnt", "--once"]) == 0
    text = capsys.readouterr().out
    assert "lookup" in text and "\x1b" not in text


def test_once_as_json(looks, capsys) -> None:
    assert ctl.main(["top", "/mnt", "--once", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["requests"]["lookup"] == {"per_second": 100, "total": 300, "latency_us": 3.0}
    assert found["seconds"] == 2 and found["paging_per_second"]["pageins"] == 500
    assert {pool["name"] for pool in found["pools"]} >= {"data", "string-64"}


def test_it_needs_a_terminal(capsys) -> None:
    assert ctl.main(["top", "/mnt"]) == 1 and "needs a terminal" in capsys.readouterr().err
    assert ctl.main(["top", "/mnt", "--json"]) == 1 and "--once" in capsys.readouterr().err


@pytest.mark.parametrize("height", (0, 14, 24))
def test_a_full_disk_is_shown(height: int) -> None:
    state = status({"lookup": 1})
    state["swap"]["disk_full"] = True
    found = Interval(BEFORE, Look(12.0, state, {}))
    lines = shown(found, height=height)
    assert "the disk under the swap file is full" in lines[1] and (not height or len(lines) <= height)
    assert found.as_json()["disk_full"] and not Interval(BEFORE, AFTER).as_json()["disk_full"]
