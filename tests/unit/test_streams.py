"""The commands with standard streams that are closed, full or unread: a line at most, and no traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sandbox import REPOSITORY

CTL, MOUNT = (f"{sys.executable} -m tmpfsd.cli.{name}" for name in ("ctl", "mount"))
OUTPUTS = [f"{CTL} status --help", f"{CTL} estimate --files 10", f"{MOUNT} --version"]
MISTAKES = [f"{CTL} status /", f"{CTL} nothing", f"{MOUNT} / -o nothing"]


def run(script: str, cwd: Path, unbuffered: str) -> "subprocess.CompletedProcess[str]":
    """A line of shell."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": unbuffered}
    return subprocess.run(["bash", "-o", "pipefail", "-c", script], cwd=cwd, env=environment, capture_output=True,
                          text=True, timeout=60, check=False)


@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("command", OUTPUTS)
def test_output_that_cannot_be_written(tmp_path: Path, command: str, unbuffered: str) -> None:
    full = run(f"{command} > /dev/full", tmp_path, unbuffered)
    assert full.returncode == 1 and full.stderr.count("\n") == 1, full.stderr
    assert full.stderr.endswith(": the output: No space left on device\n")
    unread = run(f"{command} | exec true", tmp_path, unbuffered)
    assert unread.returncode in (0, 1) and unread.stderr == ""
    closed = run(f"{command} >&-", tmp_path, unbuffered)
    assert closed.returncode == 0 and closed.stderr == ""


@pytest.mark.parametrize("command", MISTAKES)
def test_a_message_that_nobody_hears(tmp_path: Path, command: str) -> None:
    for redirection in ("2> /dev/full", "2>&-", "<&- >&- 2>&-"):
        done = run(f"{command} {redirection}", tmp_path, "")
        assert (done.returncode, done.stdout) == (1, ""), redirection


@pytest.mark.parametrize("command", [f"{CTL} status .", f"{CTL} du x", f"{MOUNT} x"])
def test_without_a_working_directory(tmp_path: Path, command: str) -> None:
    done = run(f"mkdir gone; cd gone; rmdir ../gone; {command}", tmp_path, "")
    assert done.returncode == 1
    assert done.stderr.split(": ", 1)[1] == "the working directory: does not exist any more: use absolute paths\n"
