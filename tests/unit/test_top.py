"""The screen of top for two looks at a mount, and the effect of its keys."""

import io
import json
import re
from collections import deque
from typing import Any

import pytest
from rich.console import Console

from tmpfsd.cli import ctl, top, topall
from tmpfsd.cli.top import press
from tmpfsd.cli.topview import HEADING, SORTS, Interval, Look, Settings, line, screen
from tmpfsd.fuse import timing
from tmpfsd.mounts.mountinfo import MountPoint

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
    console.print(screen(interval, Settings(**settings), height, width))
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
    for word in ("97M of 100M  97%!!", "in 1.95M", "stalls 2", "123,456,789", "100,000,000", "lookup", "3.0"):
        assert word in text, word


def test_in_40_columns_what_matters_is_there(interval: Interval) -> None:
    lines = shown(interval, 40)
    assert max(map(len, lines)) <= 40
    text = "\n".join(lines)
    for word in ("under pressure", "97M of 100M", "97%!!", "requests/s 104", "data", "metadata", "lookup", "100.0"):
        assert word in text, word
    assert "…" not in "\n".join(lines[2:]), "nothing is cut off but the head and the trouble"
    assert len(shown(interval, 40, 24)) <= 24


def test_what_is_full_is_marked_for_who_sees_no_colours(interval: Interval) -> None:
    used, ram, swap, inodes = shown(interval)[2:6]
    assert used.rstrip().endswith("97%!!") and swap.rstrip().endswith("83%!") and inodes.rstrip().endswith("6%")
    assert ram.rstrip().endswith("97%"), "full ram is how it is meant to be"
    assert 34 >= used.count("█") > swap.count("█") > 25


def test_metadata_is_what_its_pools_have(interval: Interval) -> None:
    lines = shown(interval, 100)
    at = next(number for number, line in enumerate(lines) if line.startswith("PAGES OF"))
    assert [line.split()[0] for line in lines[at + 1:at + 5]] == ["data", "metadata", "string-4096", "string-2048"]
    assert lines[at + 2].split()[-2:] == ["7,664", "3,832"]


def sample(*times: int) -> list[int]:
    """A sample with these times."""
    found = timing.blank()
    for ns in times:
        timing.note(found, ns)
    return found


def test_p99_is_since_top_began() -> None:
    before = BEFORE._replace(latency={"lookup": sample(*[1_000_000] * 50)})
    after = AFTER._replace(latency={"lookup": sample(*[1_000_000] * 50, *[2_000] * 99, 500_000),
                                    "read": sample(*[9_000] * 10)})
    found = {each.name: each.p99 for each in Interval(before, after).requests()}
    assert 2 < found["lookup"] <= 2.5 and 9 < found["read"] <= 11.25 and found["write"] is None
    assert 9 < Interval(before, after).p99() <= 11.25
    # Where nothing was sampled since, it is of all.
    assert 1000 < next(Interval(before, before).requests()).p99 <= 1250


def with_work(look: Look, read: int, written: int, cpu: float) -> Look:
    return look._replace(status={**look.status, "io": {"read_bytes": read, "written_bytes": written},
                                 "daemon": {"cpu_seconds": cpu, "rss_bytes": 45 * MB}})


def test_what_the_daemon_does_and_takes(interval: Interval) -> None:
    here = Interval(with_work(BEFORE, 0, 5, 1.0), with_work(AFTER, 8 * MB, 5, 1.5))
    line_, = (each for each in shown(here) if each.startswith("requests/s"))
    assert line_.split() == "requests/s 104 read/s 4M written/s 0 cpu 25% memory 45M".split()
    assert here.as_json()["io_per_second"] == {"read_bytes": 4 * MB, "written_bytes": 0}
    assert here.as_json()["daemon"] == {"cpu_percent": 25, "rss_bytes": 45 * MB}
    assert interval.as_json()["daemon"] == {"cpu_percent": None, "rss_bytes": None}        # of an older daemon


def test_a_line_for_each_interval() -> None:
    here = Interval(with_work(BEFORE, 0, 5, 1.0), with_work(AFTER, 8 * MB, 5, 1.5))
    words = line(here).split()
    assert words[1:] == ["104", "4M", "0", "1.95M", "0", "97%", "97%", "83%", "25%", "-", "under", "pressure"]
    ends = [column.end() for column in re.finditer(r"\S+( us)?", HEADING)][:-1]
    assert all(line(here)[end - 1:end + 1].strip() and line(here)[end] == " " for end in ends)


def test_what_was_before_is_drawn(interval: Interval) -> None:
    history = deque([(0.0, 0.0), (50.0, 0.0), (100.0, 0.0)])
    lines = [each for each in shown(interval, history=history) if "at most" in each]
    assert lines[0] == "requests/s  ▄█ at most 100" and "at most 0" in lines[1]
    assert not any("at most" in each for each in shown(interval, history=history, height=18))
    assert not any("at most" in each for each in shown(interval))


@pytest.mark.parametrize("highest", [0.0, 0.4, 1.0, 1.9, 2.9, 7.7, 1e9])
def test_any_rates_can_be_drawn(interval: Interval, highest: float) -> None:
    history = deque([(highest, 0.3 * highest), (highest / 3, highest), (0.0, 0.0)])
    assert sum("at most" in each for each in shown(interval, history=history)) == 2


# --- all mounts ---

def glance(number: int, look: Look | None, why: str = "") -> tuple[tuple[int, int], topall.Glance]:
    """One mount of several."""
    return (0, number), topall.Glance(MountPoint(0, number, f"/mnt/{number}", "fuse.tmpfsd", 0), look, why)


def all_shown(width: int, before: dict[Any, Any], after: dict[Any, Any]) -> list[str]:
    """The lines that top prints of several mounts."""
    out = io.StringIO()
    Console(file=out, width=width, force_terminal=False).print(topall.table(before, after, width))
    return out.getvalue().splitlines()


def test_all_mounts() -> None:
    before = dict((glance(1, BEFORE), glance(2, BEFORE), glance(3, None, "hung")))
    after = dict((glance(1, AFTER._replace(status={**AFTER.status, "requests": {"lookup": 101}})), glance(2, AFTER),
                  glance(3, None, "dead"), glance(4, AFTER), glance(5, None, "not understood")))
    lines = all_shown(140, before, after)
    assert [each.split()[-1] for each in lines[1:]] == ["/mnt/2", "/mnt/1", "/mnt/4", "/mnt/3", "/mnt/5"]
    assert lines[1].split()[:3] == ["under", "pressure", "104"] and lines[4].split()[:2] == ["dead", "-"]
    assert "not understood" in lines[5] and "97%" in lines[1]
    narrow = all_shown(40, before, after)
    assert max(map(len, narrow)) <= 40 and narrow[1].split() == ["under", "pressure", "104", "97%", "/mnt/2"]
    found = topall.as_json(before, dict((glance(2, AFTER), glance(3, None, "dead"))))
    assert found[0]["requests_per_second"] == 104
    assert found[1] == {"mountpoint": "/mnt/3", "health": "dead"}


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [dict([glance(1, BEFORE)]), dict([glance(1, AFTER)]), dict([glance(1, AFTER)])]
    monkeypatch.setattr(topall, "look_at_all", lambda: found.pop(0))
    monkeypatch.setattr(top.time, "sleep", lambda _seconds: None)


@pytest.mark.parametrize("words, nlines", [(("--once",), 2), (("2", "2"), 6), (("0.5", "1"), 3)])
def test_all_mounts_as_lines(many: None, capsys: pytest.CaptureFixture[str], words: tuple[str, ...],
                             nlines: int) -> None:
    assert ctl.main(["top", *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == nlines and lines[-1].rstrip().endswith("/mnt/1")


def test_all_mounts_as_json(many: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert ctl.main(["top", "--once", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["requests_per_second"] == 104


@pytest.mark.parametrize("as_json", (False, True))
def test_lines_of_one_mount(looks: None, capsys: pytest.CaptureFixture[str], as_json: bool) -> None:
    assert ctl.main(["top", "/mnt", "2", "1", *["--json"] * as_json]) == 0
    lines = capsys.readouterr().out.splitlines()
    if as_json:
        assert json.loads(lines[0])["requests_per_second"] == 104
    else:
        assert lines[0] == HEADING and lines[1].split()[1] == "104"


@pytest.mark.parametrize("words, why", [
    (("/mnt", "x"), "seconds"), (("/mnt", "2", "0"), "above zero"), (("/mnt", "2", "--once"), "--once"),
    (("/mnt", "--json"), "--once"), ((), "terminal"), (("-1",), "")])
def test_top_that_cannot_be(capsys: pytest.CaptureFixture[str], words: tuple[str, ...], why: str) -> None:
    try:
        assert ctl.main(["top", *words]) == 1
    except SystemExit as end:
        assert end.code
    assert why in capsys.readouterr().err


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
    assert set(SORTS) == set("rtlpn")


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
    assert found["requests"]["lookup"] == {"per_second": 100, "total": 300, "latency_us": 3.0, "p99_us": None}
    assert found["requests_per_second"] == 104 and found["health"] == "under pressure"
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


def test_counts_that_fall_are_no_rates() -> None:
    """Only another's server has them; the history is drawn without an accident."""
    found = Interval(AFTER, Look(14.0, BEFORE.status, {}))
    assert found.all_requests() == 0 and not any(found.paging().values())
