"""tools/test.sh runs all tests in two halves at once: a failure in either is seen, and no test is left out."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.sandbox import REPOSITORY

FOLDERS = sorted(path.name for path in (REPOSITORY / "tests").iterdir() if path.is_dir() and path.name != "__pycache__")


def run(tmp_path: Path, statuses: "tuple[int, int]" = (0, 0), more: str = "") -> "subprocess.CompletedProcess[str]":
    """The script, with a Python that prints its arguments and ends with the status of that half."""
    for folder in (*FOLDERS, *filter(None, [more])):
        (tmp_path / "tests" / folder).mkdir(parents=True)
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho \"ran $*\"\n"
                      f"case \"$*\" in *tests/mount*) exit {statuses[0]} ;; *) exit {statuses[1]} ;; esac\n")
    python.chmod(0o755)
    return subprocess.run([str(REPOSITORY / "tools/test.sh"), str(python), "-x"], cwd=tmp_path, capture_output=True,
                          text=True, timeout=30, check=False)


def test_every_folder_is_run_once(tmp_path: Path) -> None:
    done = run(tmp_path)
    words = done.stdout.split()
    assert done.returncode == 0 and [words.count(f"tests/{folder}") for folder in FOLDERS] == [1] * len(FOLDERS)
    assert words.count("-x") == words.count("ran") and words.index("tests/mount") < words.index("tests/unit")


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core: there is one run")
@pytest.mark.parametrize("statuses", [(1, 0), (0, 1), (2, 1), (1, 2)])
def test_a_failure_in_either_half_is_the_status(tmp_path: Path, statuses: "tuple[int, int]") -> None:
    done = run(tmp_path, statuses)
    assert done.returncode == max(statuses) and done.stdout.count("ran ") == 2


def test_a_folder_that_is_in_no_half_is_an_error(tmp_path: Path) -> None:
    done = run(tmp_path, more="another")
    assert done.returncode == 1 and "tests/another is in neither half" in done.stderr and not done.stdout
