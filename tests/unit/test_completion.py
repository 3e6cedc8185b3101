"""Shell completion and help, as they are derived from the parsers."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tmpfsd.cli import completion, ctl
from tmpfsd.options import FLAGS, VALUED


def complete(tmp_path: Path, *words: str) -> list[str]:
    """What bash offers for the last word."""
    script = tmp_path / "completion"
    script.write_text(completion.script("bash"))
    run = f"""source {script}
COMP_WORDS=({' '.join(f"'{word}'" for word in words)}); COMP_CWORD={len(words) - 1}; COMP_LINE="${{COMP_WORDS[*]}}"
$(complete -p {words[0]} | sed 's/.*-F \\([^ ]*\\).*/\\1/') {words[0]} '{words[-1]}' '{words[-2]}'
printf '%s\\n' "${{COMPREPLY[@]}}" """
    done = subprocess.run(["bash", "-c", run], capture_output=True, text=True, timeout=20, check=False)
    assert not done.stderr, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize("words, some", [
    (("tmpfsctl", "di"), "discard"), (("tmpfsctl", "discard", "--y"), "--yes"),
    (("tmpfsctl", "completion", "z"), "zsh"),
    (("tmpfsctl", ""), "status"), (("tmpfsd", "--de"), "--debug"),
    (("tmpfsd", "-o", "submap_"), "submap_sharing=shared"),
    (("tmpfsd", "-o", "ram=64m,noat"), "ram=64m,noatime"), (("tmpfsctl", "estimate", "--fi"), "--files"),
])
def test_bash_offers(tmp_path: Path, words: tuple[str, ...], some: str) -> None:
    assert some in complete(tmp_path, *words)


def test_every_option_is_there() -> None:
    words = {word.partition("=")[0] for word in completion.option_words()}
    assert words >= {*VALUED, *FLAGS}


def test_zsh_takes_it() -> None:
    text = completion.script("zsh")
    assert "compdef" in text and "discard" in text and "noatime" in text
    if shutil.which("zsh"):
        subprocess.run(["zsh", "-n"], input=text, text=True, check=True, timeout=20)


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

    monkeypatch.setattr(ctl.SUBCOMMANDS["umount"][0], "run", broken)
    assert ctl.main(["umount", "/"]) == 1
    assert capsys.readouterr().err == "tmpfsctl: internal error: ZeroDivisionError: oops (--debug shows more)\n"
    with pytest.raises(ZeroDivisionError):
        ctl.main(["--debug", "umount", "/"])
