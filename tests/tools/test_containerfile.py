"""The recipe for a container: what it copies is there, and its entry mounts before it runs what it is given."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.sandbox import REPOSITORY

TEXT = (REPOSITORY / "tools/Containerfile").read_text()


def test_what_is_copied_is_there_and_is_what_the_package_needs() -> None:
    copied = [word for line in re.findall(r"^COPY (.*)", TEXT, re.MULTILINE) for word in line.split()[:-1]]
    assert [name for name in copied if not (REPOSITORY / name).exists()] == []
    assert {"setup.cfg", "setup.py", "pyproject.toml", "README.md", "LICENSE", "tmpfsd", "tools/man"} <= set(copied)


def test_the_system_packages_are_those_of_setup() -> None:
    """Which has a file or command for each, and its package."""
    needed = re.search(r"^need=\((.*)\)", (REPOSITORY / "tools/setup.sh").read_text(), re.MULTILINE)
    assert needed
    packages = {pair.split()[-1] for pair in re.findall(r'"([^"]+)"', needed[1])}
    installed = re.search(r"apt-get install .*--no-install-recommends (.*?) \\", TEXT)
    assert installed and packages <= set(installed[1].split())


@pytest.mark.skipif(not shutil.which("sh"), reason="no sh")
@pytest.mark.parametrize("status", (0, 1))
def test_the_entry_mounts_first_and_runs_nothing_where_that_fails(tmp_path: Path, status: int) -> None:
    found = re.search(r"^ENTRYPOINT (.*)", TEXT, re.MULTILINE)
    assert found
    command = tmp_path / "tmpfsd"
    command.write_text(f'#!/bin/sh\necho "mounted: $*"\nexit {status}\n')
    command.chmod(0o755)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "OPTIONS": "ram=64m,size=1g"}
    done = subprocess.run([*json.loads(found[1]), "echo", "a word", "$HOME"], capture_output=True, text=True,
                          env=env, timeout=20, check=False)
    said = ["mounted: /scratch -o ram=64m,size=1g"] + ([] if status else ["a word $HOME"])
    assert done.returncode == status and done.stdout.splitlines() == said
