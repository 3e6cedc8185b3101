"""Completion as a user meets it: an interactive bash and zsh on a terminal, lines that are typed, and the TAB key."""

import os
import pty
import re
import select
import shutil
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Callable, Iterator

import pytest

from tests import sandbox

START = {
    "bash": r"""unset HISTFILE; bind 'set bell-style none'; bind 'set enable-bracketed-paste off'
                bind -x '"\C-t": printf "%s" "$READLINE_LINE" > "$OUT"'
                source <(tmpfsctl completion bash) 2> "$ERRORS"; touch "$READY" """,
    "zsh": r"""unset zle_bracketed_paste; autoload -Uz compinit; compinit -u -D; bindkey -e
               told() { print -rn -- "$BUFFER" > $OUT }; zle -N told; bindkey '^T' told
               source <(tmpfsctl completion zsh) 2> $ERRORS; touch $READY """,
    # before compinit, as in a ~/.zshrc where it comes first
    "zsh, not yet ready": r"""unset zle_bracketed_paste; bindkey -e
               told() { print -rn -- "$BUFFER" > $OUT }; zle -N told; bindkey '^T' told
               source <(tmpfsctl completion zsh) 2> $ERRORS; touch $READY """,
    "zsh, a file": r"""unset zle_bracketed_paste; mkdir f; tmpfsctl completion zsh > f/_tmpfsd; fpath+=($PWD/f)
               autoload -Uz compinit; compinit -u -D; bindkey -e
               told() { print -rn -- "$BUFFER" > $OUT }; zle -N told; bindkey '^T' told; touch $ERRORS $READY """,
}
COMMANDS = {"bash": ["bash", "--noprofile", "--norc", "-i"], "zsh": ["zsh", "-f", "-i"]}
SECONDS = 20.0
# What is typed before TAB, and what stands there after it.
CASES = (
    ("tmpfsctl sta", "tmpfsctl status"),
    ("tmpfsctl --deb", "tmpfsctl --debug"),
    ("tmpfsctl --debug fl", "tmpfsctl --debug flush"),
    ("tmpfsctl discard -y --q", "tmpfsctl discard -y --quiet"),
    ("tmpfsctl estimate --files 3 --name", "tmpfsctl estimate --files 3 --name-length"),
    ("tmpfsctl estimate --from to", "tmpfsctl estimate --from town/"),
    ("tmpfsctl completion z", "tmpfsctl completion zsh"),
    ("tmpfsctl status to", "tmpfsctl status town/"),
    ("tmpfsctl status --json to", "tmpfsctl status --json town/"),
    ("tmpfsctl swapon town swap-f", "tmpfsctl swapon town swap-file"),
    ("tmpfsctl set town nr", "tmpfsctl set town nr_inodes="),
    ("tmpfsctl set town ram=1m nr", "tmpfsctl set town ram=1m nr_inodes="),
    ("tmpfsd --fore", "tmpfsd --foreground"),
    ("tmpfsd to", "tmpfsd town/"),
    ("tmpfsd none to", "tmpfsd none town/"),
    ("tmpfsd -o noat", "tmpfsd -o noatime"),
    ("tmpfsd -o nosuid,noat", "tmpfsd -o nosuid,noatime"),
    ("tmpfsd -o ram=64m,noat", "tmpfsd -o ram=64m,noatime"),
    ("tmpfsd -o nr_i", "tmpfsd -o nr_inodes="),
    ("tmpfsd -o backend=wi", "tmpfsd -o backend=wired"),
    ("tmpfsd -o ram=64m,backend=ao", "tmpfsd -o ram=64m,backend=aobj"),
    ("tmpfsd town -o noat", "tmpfsd town -o noatime"),
    ("tmpfsd -o ram=64m -o noat", "tmpfsd -o ram=64m -o noatime"),
    ("tmpfsd -o ram=64m,swap=swap-f", "tmpfsd -o ram=64m,swap=swap-file"),
    ("tmpfsd -o swap=a\\ n", "tmpfsd -o swap=a\\ name"),
    ("tmpfsd --foreground town -o uid=1,backend=wi", "tmpfsd --foreground town -o uid=1,backend=wired"),
    ("tmpfsctl set town spin=", "tmpfsctl set town spin=auto"),
    ("tmpfsctl swapon town a", "tmpfsctl swapon town a\\ name"),
    ("tmpfsctl swapon town 'a n", "tmpfsctl swapon town 'a name'"),
    ("tmpfsctl estimate --from=to", "tmpfsctl estimate --from=town/"),
    ("tmpfsctl status ~/to", "tmpfsctl status ~/town/"),
    ("tmpfsctl status $HOME/to", "tmpfsctl status $HOME/town/"),
    ("tmpfsctl status swap-f", "tmpfsctl status swap-f"),
    ("cd / && tmpfsctl sta", "cd / && tmpfsctl status"),
    ("LANG=C tmpfsd tmpfsd -o noat", "LANG=C tmpfsd tmpfsd -o noatime"),
)


class Shell:
    """An interactive shell on a terminal of its own."""

    def __init__(self, name: str, place: Path) -> None:
        self.out, self.ready, self.errors = (place / word for word in ("out", "ready", "errors"))
        self.terminal, side = pty.openpty()
        environment = {"PATH": f"{place / 'bin'}:{os.environ['PATH']}", "TERM": "dumb", "LC_ALL": "C.UTF-8",
                       "HOME": str(place), "OUT": str(self.out), "READY": str(self.ready), "ERRORS": str(self.errors)}
        self.process = subprocess.Popen(COMMANDS[name.partition(",")[0]], stdin=side, stdout=side, stderr=side,
                                        env=environment, cwd=place, start_new_session=True)
        os.close(side)
        for line in START[name].splitlines():
            self.type(line.strip() + "\n")
        self.wait(self.ready.exists)

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self.terminal, text.encode())

    def wait(self, condition: Callable[[], object]) -> None:
        """Read the output until the condition holds: a terminal that nobody reads stops its writers."""
        shown, deadline = b"", time.monotonic() + SECONDS
        while not condition():
            assert time.monotonic() < deadline, shown.decode(errors="replace")
            if select.select([self.terminal], [], [], 0.01)[0]:
                shown += os.read(self.terminal, 65536)

    def complete(self, line: str) -> str:
        """Type a line and TAB: the line after that, without characters that zsh would remove at the next blank."""
        self.out.unlink(missing_ok=True)
        self.type(f"{line}\t\x14")
        self.wait(lambda: self.out.exists() and self.out.stat().st_size)
        self.type("\x05\x15")           # to its end, and away with it
        return re.sub(r"(?<= )(--[a-z-]+)=$", r"\1", self.out.read_text().rstrip(" ,"))

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()
        os.close(self.terminal)


@contextmanager
def started(name: str, place: Path) -> Iterator[Shell]:
    """A shell that knows how our commands are completed."""
    sandbox.write_commands(place / "bin")
    (place / "town").mkdir()
    (place / "swap-file").touch()
    (place / "a name").touch()
    shell = Shell(name, place)
    try:
        yield shell
    finally:
        shell.close()


# What fish says may follow a line; it has its own way with quotes, ~ and blanks.
FISH = (
    ("tmpfsctl sta", "status"), ("tmpfsctl --debug fl", "flush"), ("tmpfsctl discard -y --q", "--quiet"),
    ("tmpfsctl completion z", "zsh"), ("tmpfsctl status to", "town/"), ("tmpfsctl set town nr", "nr_inodes="),
    ("tmpfsd to", "town/"), ("tmpfsd -o ram=64m,noat", "ram=64m,noatime"), ("tmpfsd -o backend=wi", "backend=wired"),
)


@pytest.mark.skipif(not shutil.which("fish"), reason="no fish here")
@pytest.mark.parametrize("way", ["sourced", "a file"])
def test_fish_completes(way: str, tmp_path: Path) -> None:
    sandbox.write_commands(tmp_path / "bin")
    (tmp_path / "town").mkdir()
    environment = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "LC_ALL": "C.UTF-8", "HOME": str(tmp_path),
                   "TMPFSD_PURE": "1"}
    start = "tmpfsctl completion fish | source"
    if way == "a file":
        files = "~/.config/fish/completions"
        start = f"for c in tmpfsd tmpfsctl; tmpfsctl completion fish > {files}/$c.fish; end"
        (tmp_path / ".config/fish/completions").mkdir(parents=True)
    lines = "; ".join(f"complete -C '{line}'; echo ---" for line, _ in FISH)
    done = subprocess.run(["fish", "-c", f"{start}; {lines}"], cwd=tmp_path, env=environment, capture_output=True,
                          text=True, timeout=60)
    found = [[word.split("\t")[0].strip() for word in part.strip().split("\n")]
             for part in done.stdout.split("---\n")[:-1]]
    assert done.stderr == "" and found == [[word] for _, word in FISH]


@pytest.mark.parametrize("name", START)
def test_tab_completes(name: str, tmp_path: Path) -> None:
    shell_command = COMMANDS[name.partition(",")[0]][0]
    if not shutil.which(shell_command):
        pytest.skip(f"no {shell_command} here")
    with started(name, tmp_path) as shell:
        found = {line: shell.complete(line) for line, _ in CASES}
    assert shell.errors.read_text() == ""
    assert found == dict(CASES)
