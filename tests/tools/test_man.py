"""The manual pages say what the parsers take, man(1) reads them, and the wheel brings them."""

import argparse
import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path
from unittest.mock import MagicMock

import pytest

from tmpfsd.cli import ctl, mount
from tmpfsd.options import FLAGS, GENERIC, VALUED, Config
from tmpfsd.server.commands import Commands
from tmpfsd.server.operations import Operations
from tmpfsd.tmpfs.filesystem import Mount

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = sorted((REPOSITORY / "tools/man").glob("*.8"))


def plain(name: str) -> str:
    """A page without its markup."""
    text = (REPOSITORY / "tools/man" / name).read_text()
    return re.sub(r"\\f.", "", text).replace("\\-", "-")


def has_word(text: str, word: str) -> bool:
    """Is word there, not as a part of a longer one?"""
    return re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", text) is not None


def option_strings(parser: argparse.ArgumentParser) -> set[str]:
    """Every option of a parser and of its subcommands."""
    found: set[str] = set()
    for action in parser._actions:
        found |= set(action.option_strings)
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                found |= option_strings(command)
    return found


def test_every_mount_option_has_its_line() -> None:
    text = plain("tmpfsd.8")
    for name in VALUED:
        assert f"{name}=" in text, name
    for name in {*FLAGS, *GENERIC}:
        assert has_word(text, name), name


def test_no_mount_option_too_many() -> None:
    named = set(re.findall(r"^\.BI? (\w+)=", plain("tmpfsd.8"), re.MULTILINE))
    assert named and named <= set(VALUED)


def test_every_flag_has_its_word() -> None:
    assert all(has_word(plain("tmpfsd.8"), flag) for flag in option_strings(mount.make_parser()))
    text = plain("tmpfsctl.8")
    assert [flag for flag in option_strings(ctl.make_parser()) if not has_word(text, flag)] == []
    assert all(re.search(rf"^\.BI?R? {name} ", text, re.MULTILINE) for name in ctl.SUBCOMMANDS)


@pytest.mark.parametrize("name", ctl.SUBCOMMANDS)
def test_every_flag_is_said_of_its_command(name: str) -> None:
    """Not only somewhere on the page."""
    parsers = next(action.choices for action in ctl.make_parser()._actions
                   if isinstance(action, argparse._SubParsersAction))
    found = re.search(rf"^\.BI?R? {name} .*?(?=^\.TP|^\.SH)", plain("tmpfsctl.8"), re.MULTILINE | re.DOTALL)
    assert found
    flags = option_strings(parsers[name]) - {"-h", "--help"}
    assert [flag for flag in flags if not has_word(found[0], flag)] == []


def test_the_page_of_options_has_each() -> None:
    text = (REPOSITORY / "tmpfsd/options.md").read_text()
    assert [name for name in VALUED if f"`{name}=`" not in text] == []


def test_options_of_readme_are_options() -> None:
    """Those of its table, with their defaults."""
    rows = re.findall(r"^\| `(\w+)(=\w*)?` \| ([^|]*) \|", (REPOSITORY / "README.md").read_text(), re.MULTILINE)
    page = (REPOSITORY / "tmpfsd/options.md").read_text()
    assert len(rows) == 10
    for name, value, default in rows:
        assert name in (VALUED if value else {**FLAGS, **dict.fromkeys(GENERIC)})
        kept = re.search(rf"^\|.*`{name}=?`.*? \| ([^|]*) \| ", page, re.MULTILINE)
        assert kept and (default in kept[1] or default == "none"), name


def test_every_figure_of_the_status_is_explained() -> None:
    mount = Mount(Config(swap=None, ram_bytes=1 << 20))
    try:
        operations = Operations(mount, mount.config)
        status = Commands(mount, operations, lambda: ("/mnt", False), None, MagicMock()).status(None)
    finally:
        mount.close()
    text = plain("tmpfsctl.8").partition("WHAT STATUS SAYS")[2]
    assert [key for key in status if not has_word(text, key)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
@pytest.mark.skipif(not shutil.which("man"), reason="no man here")
def test_man_reads_it(page: Path) -> None:
    done = subprocess.run(["man", "--warnings", "-l", str(page)], capture_output=True, text=True, timeout=60,
                          env={**os.environ, "LC_ALL": "C.UTF-8", "MANWIDTH": "80"}, check=False)
    if not done.stdout and "minimized" in done.stderr:
        pytest.skip("man is a stub here")
    assert done.returncode == 0 and not done.stderr and "EXAMPLES" in done.stdout


@pytest.mark.timeout(280)
def test_the_wheel_brings_commands_and_pages(tmp_path: Path) -> None:
    """Built from a copy and installed into an environment of its own: the commands run, man(1) finds the pages."""
    pytest.importorskip("setuptools", minversion="64")
    copy = tmp_path / "copy"
    shutil.copytree(REPOSITORY, copy, ignore=shutil.ignore_patterns(
        ".git", ".venv", "*.egg-info", "build", "mnt", ".*cache", ".hypothesis", "__pycache__"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(copy)],
                   check=True, capture_output=True, timeout=120)
    wheel, = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.rpartition("/")[2] for name in names if "/share/man/man8/" in name} == {page.name for page in PAGES}
    assert not [name for name in names if name.startswith(("tests", "tools"))]
    place = tmp_path / "venv"
    venv.create(place, system_site_packages=True, with_pip=False)
    subprocess.run([*pip, "--python", str(place / "bin" / "python"), "install", "--no-deps", "--no-index", str(wheel)],
                   check=True, capture_output=True, timeout=120)
    env = {**os.environ, "PATH": f"{place / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": os.pathsep.join(
        path for path in sys.path if "site-packages" in path)}
    for command in ("tmpfsd", "tmpfsctl"):
        done = subprocess.run([command, "--version"], capture_output=True, text=True, env=env, timeout=60, check=True)
        assert done.stdout.startswith(f"{command} ")
        if shutil.which("man"):
            found = subprocess.run(["man", "-w", command], capture_output=True, text=True, env=env, timeout=60,
                                   check=False)
            assert "minimized" in found.stdout + found.stderr or str(place) in found.stdout
