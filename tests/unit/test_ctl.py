"""What tmpfsctl prints, from a status made by hand."""

import re
import subprocess
import sys
from typing import Any

import pytest

from tmpfsd.cli import ctl
from tmpfsd.cli.status import format_status, show, styles, warnings
from tmpfsd.cli.units import human


def status(**changes: Any) -> dict[str, Any]:
    """A status with large numbers, changed where a test wants."""
    pool = {"name": "tmpfs_node", "item_size": 160, "items": 10**9, "pages": 10**8, "resident_pages": 10**8,
            "swapped_pages": 10**8}
    many = 123_456_789_012
    return {
        "mountpoint": "/mnt", "backend": "pageable-submap", "size_bytes": 1 << 40, "used_bytes": 1 << 39,
        "inodes": 10**9, "inodes_max": 10**9, "ram_bytes": 1 << 30, "resident_bytes": 1 << 30,
        "wired_bytes": 1 << 30, "dirty_bytes": 1 << 30,
        "submap": {"policy": "auto", "sharing": "per-pool", "size_bytes": 1 << 30, "used_bytes": 1 << 29,
                   "high_water_bytes": 1 << 30},
        "swap": {"path": "/var/tmp", "size_bytes": 1 << 40, "used_bytes": 1 << 39},
        "paging": dict.fromkeys(("faults", "pageins", "pageouts", "scans", "reclaims", "stalls"), many),
        "pools": [pool, {**pool, "name": "a_name_that_is_longer_than_its_column"}],
        "data": {"pages": 10**9, "resident_pages": 10**9, "swapped_pages": 10**9},
        "requests": {f"request{number}": many for number in range(25)},
        **changes,
    }


@pytest.mark.parametrize("nbytes, text", [
    (0, "0"), (1000, "0.977K"), (999, "999"), (4096, "4K"), (1 << 20, "1M"), (1023 << 20, "0.999G"),
    (11_837_000_000, "11G"), (1 << 40, "1T"), (1 << 70, "1.05e+06P"),
])
def test_human(nbytes: int, text: str) -> None:
    assert human(nbytes) == text


@pytest.mark.parametrize("changes", [{}, {"swap": {"path": None, "size_bytes": 0, "used_bytes": 0}},
                                     {"submap": None}, {"pools": []}, {"requests": {}}, {"inodes_max": 0}])
def test_fits_80_columns(changes: dict[str, Any]) -> None:
    assert max(map(len, format_status(status(**changes)).splitlines())) <= 80


def test_full_of_wired_metadata() -> None:
    wired = status(backend="wired", wired_bytes=(1 << 30) - (512 << 10))
    assert "warning: ram is full of wired metadata: creates get ENOSPC" in format_status(wired)
    assert not list(warnings(status(backend="wired", wired_bytes=1 << 29)))
    assert not list(warnings(status()))


def test_full_swap() -> None:
    full = status(swap={"path": "/x", "size_bytes": 4096, "used_bytes": 4096})
    assert list(warnings(full)) == ["swap is full: writes and creates get ENOSPC"]


def test_swap_in_trouble() -> None:
    swap = {"path": "/x", "size_bytes": 1 << 20, "used_bytes": 4096, "disk_full": True, "bad_slots": 1234}
    assert list(warnings(status(swap=swap))) == [
        "the disk under the swap file is full: writes and creates get ENOSPC", "1,234 swap slots are bad"]
    assert not list(warnings(status(swap={**swap, "disk_full": False, "bad_slots": 0})))


@pytest.mark.parametrize("command", ctl.SUBCOMMANDS)
def test_help_has_an_example_and_the_exit_status(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        ctl.main([command, "--help"])
    text = capsys.readouterr().out
    assert ended.value.code == 0
    assert f"example:\n  tmpfsctl {command}" in text and "\nexit status:\n  0  " in text


@pytest.mark.parametrize("command", ("check", "du", "flush", "list", "status", "umount"))
def test_what_takes_long_to_import_is_left_out(command: str) -> None:
    look = ("import sys; from tmpfsd.cli import ctl\n"
            "try: ctl.main(sys.argv[1:])\n"
            "finally: print(*{'trio', 'rich', 'pyfuse3', 'prometheus_client'} & {*sys.modules})")
    words = [command] if command == "list" else [command, "/nowhere"]
    done = subprocess.run([sys.executable, "-c", look, *words], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1:] == [""], done.stdout


def test_no_traceback_reaches_a_user(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(_path: str) -> None:
        raise KeyError("of a daemon of another version")
    monkeypatch.setattr("tmpfsd.cli.status.status", fail)
    assert ctl.main(["status", "/mnt"]) == 1
    message = capsys.readouterr().err
    assert message.startswith("tmpfsctl: internal error: KeyError: ") and message.count("\n") == 1
    with pytest.raises(KeyError):
        ctl.main(["--debug", "status", "/mnt"])


def test_several_swap_files_are_shown_each() -> None:
    file = {"path": "/a", "size_bytes": 1 << 20, "used_bytes": 1 << 19, "draining": True}
    swap = {"path": "/a", "size_bytes": 2 << 20, "used_bytes": 1 << 19,
            "files": [file, {**file, "path": "/b", "draining": False}]}
    lines = format_status(status(swap=swap)).splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("swap"))
    assert [line.strip() for line in lines[at + 1:at + 3]] == [
        "/a: 512K of 1M  (50%), draining", "/b: 512K of 1M  (50%)"]


def test_colours_are_for_what_is_nearly_full() -> None:
    nothing = status(inodes=0, swap={"path": "/x", "size_bytes": 100, "used_bytes": 0})
    assert styles(nothing) == {"warning": "bold red"}
    full = {"path": "/x", "size_bytes": 100, "used_bytes": 96}
    assert styles(status(used_bytes=(1 << 40) * 85 // 100, swap=full)) == {
        "warning": "bold red", "health": "bold red", "used": "yellow", "swap": "red", "inodes": "red"}


def test_colours_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    full = status(refused={"size is used up": 7})
    show(full)
    plain = capsys.readouterr().out
    assert "\x1b" not in plain and plain == format_status(full) + "\n"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    show(full)
    coloured = capsys.readouterr().out
    assert "\x1b[1;31mwarning: ENOSPC 7 times: size is used up\x1b[0m" in coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == plain
