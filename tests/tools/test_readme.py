"""Every command in README.md is run, top to bottom, in a copy of the repository and a mount namespace of its own."""

import os
import re
import shutil
from pathlib import Path
from typing import Iterator

import pytest

from tests import sandbox
from tests.sandbox import REPOSITORY

README = (REPOSITORY / "README.md").read_text()
LEFT_OUT = shutil.ignore_patterns(".git", ".venv", "*.egg-info", "build", "mnt", ".*cache", ".hypothesis",
                                  "__pycache__", "*.png")
# What would take too long or reach out of the sandbox, and what is run instead.
INSTEAD = {
    "make bench NULLFS=nullfs.c EXAMPLE=tmpfs.py BENCH_OPTS=\"--peer 'memfs_ll=memfs_ll -f {mnt}'\"": "make -n bench",
    "make test": "make test T=tests/unit/test_layout.py",
    "make test T=tests/unit": "make test T=tests/unit/test_layers.py",
    "make lint": "make -n lint",
    "make bench": "make -n bench",
    "make experiments": "make -n experiments",
    "make stress N=100000": "make -n stress N=100000",     # minutes; its parts are tests of their own
    "pip install .": "test -f setup.cfg",               # test_man.py builds and installs the wheel
    "man tmpfsd": "man -l tools/man/tmpfsd.8",
    "sudo tmpfsctl install": "tmpfsctl install",
}

pytestmark = [pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
              pytest.mark.skipif(not os.access("/dev/fuse", os.R_OK | os.W_OK), reason="no /dev/fuse"),
              pytest.mark.skipif(not shutil.which("man") or not shutil.which("make"), reason="needs man and make")]


def commands(text: str) -> list[str]:
    """The lines of all blocks of shell commands, without their comments."""
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [re.sub(r"\s+#.*", "", line).strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line]


def safe(line: str) -> str:
    """A command as it is run here."""
    return re.sub(r"(?<!\S)/scratch", '"$HERE"/mnt', INSTEAD.get(line, line))


@pytest.fixture
def copy() -> Iterator[Path]:
    """The sandbox, with a copy of the repository in which everything is set up."""
    with sandbox.directory() as here:
        place = here / "copy"
        shutil.copytree(REPOSITORY, place, ignore=LEFT_OUT)
        sandbox.write_commands(place / ".venv" / "bin", place)
        for stamp in (".run", ".test"):
            (place / ".venv" / stamp).touch()
        yield here


def run(here: Path, lines: list[str]) -> tuple[int, str]:
    """Run lines until one fails: exit status and output."""
    done = sandbox.run(here, "set -x\n" + "\n".join(map(safe, lines)), cwd=str(here / "copy"), seconds=240)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.timeout(280)
def test_every_command_works(copy: Path) -> None:
    status, output = run(copy, commands(README))
    assert status == 0, output[-3000:]
    assert "+ make clean" in output and "consistent" in output and "names removed" in output


def test_a_command_that_fails_is_seen(copy: Path) -> None:
    status, output = run(copy, commands("```sh\ntmpfsctl --version\ntmpfsctl frobnicate /scratch # no\ntrue\n```\n"))
    assert status == 1 and "frobnicate" in output and "+ true" not in output


def test_no_command_hides_from_the_test() -> None:
    """Blocks are of shell commands or say what else they are, and none is indented; what is replaced is there."""
    kinds = re.findall(r"^```(\w*)$", README, re.MULTILINE)
    assert set(kinds[::2]) == {"sh", "text", "fstab"} and set(kinds[1::2]) == {""}
    assert not re.search(r"^    \S", re.sub(r"^```.*?^```", "", README, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    assert set(INSTEAD) <= set(commands(README)) and len(commands(README)) > 20


def test_every_subcommand_is_named() -> None:
    from tmpfsd.cli import ctl
    assert [name for name in ctl.SUBCOMMANDS if f"| `{name}" not in README] == []
