"""Completion for shells, and help, both derived from the parsers."""

import argparse
import re
import threading
from pathlib import Path
from typing import Callable

import pytest

from tmpfsd.cli import completion, ctl, mount
from tmpfsd.mounts import mountinfo
from tmpfsd.options import FLAGS, VALUED


def test_every_option_is_there() -> None:
    words = {word.partition("=")[0] for word in completion.option_words()}
    assert words >= {*VALUED, *FLAGS}


@pytest.mark.parametrize("prefix, some, none", [
    ("", {"ram=", "noatime"}, {"default_permissions"}),
    ("ram=64m,no", {"ram=64m,noatime", "ram=64m,size="}, {"noatime"}),
    ("submap=auto,submap_sharing=", {"submap=auto,submap_sharing=shared"}, set()),
    (r"fsname=a\,backend=x,swap_io=", {r"fsname=a\,backend=x,swap_io=direct"}, set()),
    ("swap=", {"swap=none", r"swap=a\,b/"}, set()),
    (r"swap=a\,", {r"swap=a\,b/"}, set()),
    ("swap=~/", {"swap=none"}, {r"swap=~/a\,b/"}),
])
def test_mount_options(prefix: str, some: set[str], none: set[str], tmp_path: Path,
                       monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a,b").mkdir()
    found = set(completion.mount_options(prefix))
    assert found >= some and not found & none


def test_mounted_tmpfsds_are_mountpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = [mountinfo.MountPoint(0, 1, "/", "ext4", 0),
              mountinfo.MountPoint(0, 2, str(tmp_path / "b"), mountinfo.FSTYPE, 0)]
    monkeypatch.setattr(mountinfo, "table", lambda: mounts)
    for name in "ab":
        (tmp_path / name).mkdir()
    (tmp_path / "c").touch()
    assert completion.mountpoints("") == [f"{tmp_path}/b"]
    assert sorted(completion.mountpoints(f"{tmp_path}/")) == [f"{tmp_path}/a/", f"{tmp_path}/b"]


@pytest.mark.parametrize("complete", [completion.paths, completion.directories])
def test_what_does_not_answer_is_left_alone(complete: Callable[[str], list[str]],
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()
    monkeypatch.setattr(completion, "SECONDS", 0.01)
    monkeypatch.setattr(completion, "look", lambda *_: iter(ended.wait, True))
    assert complete("/hangs/a") == ["/hangs/a"] and complete("") == ["./"]
    ended.set()


def test_every_argument_is_known() -> None:
    parsers: list[argparse.ArgumentParser] = [mount.make_parser(), ctl.make_parser()]
    for parser in parsers:
        completion.attach(parser)
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                parsers += action.choices.values()
            elif not action.option_strings:
                assert action.choices or hasattr(action, "completer"), f"{parser.prog}: {action.dest}"


@pytest.mark.parametrize("name", ctl.SUBCOMMANDS)
def test_help_has_an_example_that_parses(name: str, capsys: pytest.CaptureFixture[str],
                                         monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    with pytest.raises(SystemExit) as ended:
        ctl.main([name, "--help"])
    text = capsys.readouterr().out
    found = re.search(r"^example:\n  tmpfsctl (.*)$", text, re.MULTILINE)
    assert ended.value.code == 0 and found and "exit status:" in text
    words = re.split("[>&]", found[1])[0].split()
    assert ctl.make_parser().parse_args(words).command == name


def test_no_traceback_reaches_a_user(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(_args: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("tmpfsd.cli.umount.run", broken)
    assert ctl.main(["umount", "/"]) == 1
    assert capsys.readouterr().err == "tmpfsctl: internal error: ZeroDivisionError: oops (--debug shows more)\n"
    with pytest.raises(ZeroDivisionError):
        ctl.main(["--debug", "umount", "/"])
