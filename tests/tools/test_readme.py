"""Every command in README.md is run, top to bottom, in a copy of the repository and a mount namespace of its own.

The pages beside the code have no shell commands of their own; the targets of their links must exist.
"""

import os
import re
import shutil
from pathlib import Path
from typing import Iterator

import pytest

from tests import sandbox
from tests.sandbox import REPOSITORY

README = (REPOSITORY / "README.md").read_text()
PAGES = sorted(path for folder in ("tmpfsd", "tools") for path in (REPOSITORY / folder).rglob("*.md"))
WRITTEN = [path for path in PAGES if path.parent.name not in ("bench", "experiments")]      # the others by programs
MOST_LINES = 190
LEFT_OUT = shutil.ignore_patterns(".git", ".venv", "*.egg-info", "build", "mnt", ".*cache", ".hypothesis",
                                  "__pycache__", "*.png")
# What would take too long or reach out of the sandbox, and what is run instead.
INSTEAD = {
    "make test T=tests/unit": "make test T=tests/unit/test_layers.py",
    "make lint": "make -n lint",
    "make bench": "make -n bench",
    "make experiments": "make -n experiments",
    # test_install.py installs
    "make install": "make -n install; tmpfsctl install",
    "make uninstall": "make -n uninstall",
    "man tmpfsd": "man -l tools/man/tmpfsd.8",
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


def kinds(text: str) -> tuple[set[str], set[str]]:
    """The words with which blocks begin, and end."""
    found = re.findall(r"^```(\w*)$", text, re.MULTILINE)
    return set(found[::2]), set(found[1::2])


def test_no_command_hides_from_the_test() -> None:
    """Blocks are shell commands or name their kind, and none is indented; all keys of INSTEAD are in the page."""
    assert kinds(README) == ({"sh", "text", "fstab"}, {""})
    assert not re.search(r"^    \S", re.sub(r"^```.*?^```", "", README, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    assert set(INSTEAD) <= set(commands(README)) and len(commands(README)) > 20


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_commands_that_are_run_stand_in_readme(page: Path) -> None:
    begin, end = kinds(page.read_text())
    assert begin <= {"text"} and end <= {""}


@pytest.mark.parametrize("page", [REPOSITORY / "README.md", *PAGES], ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_what_is_linked_to_is_there(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_what_a_page_names_is_there(page: Path) -> None:
    """Modules by their path from the package, from the page, or alone."""
    names = set(re.findall(r"`((?:\w+/)*\w+\.py)`", page.read_text()))
    roots = (page.parent, REPOSITORY / "tmpfsd", REPOSITORY)
    assert [name for name in names if not any((root / name).exists() for root in roots)
            and not list((REPOSITORY / "tmpfsd").rglob(name))] == []


def test_every_page_can_be_found_from_readme() -> None:
    todo, seen = [REPOSITORY / "README.md"], set()
    while todo:
        page = todo.pop().resolve()
        if page not in seen:
            seen.add(page)
            todo += [page.parent / link for link in re.findall(r"\]\(([^)#:]+\.md)\)", page.read_text())]
    assert [page for page in PAGES if page not in seen] == []


def test_readme_is_short() -> None:
    assert len(README.splitlines()) <= MOST_LINES


def test_every_subcommand_is_named() -> None:
    from tmpfsd.cli import ctl
    text = (REPOSITORY / "tmpfsd/cli/README.md").read_text()
    assert [name for name in ctl.SUBCOMMANDS if f"| `{name}" not in text] == []
