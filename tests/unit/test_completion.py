"""Shell completion and help, as they are derived from the parsers."""

import re

import pytest

from tmpfsd.cli import completion, ctl
from tmpfsd.options import FLAGS, VALUED


def test_every_option_is_there() -> None:
    words = {word.partition("=")[0] for word in completion.option_words()}
    assert words >= {*VALUED, *FLAGS}


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_nothing_of_the_tables_is_left_out(shell: str) -> None:
    text = completion.script(shell)
    words = {*(word.rstrip("=") for word in completion.option_words()), *ctl.SUBCOMMANDS, "--median-size", "--lazy"}
    assert not {word for word in words if not re.search(rf"(?<![\w-]){word}(?![\w-])", text)}
    assert not re.search("TABLE|COMMANDS|MOUNT_OPTIONS|SETTABLE", text)


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
