"""tests/mount/test_stress_load.py: `python -m tests.stress.load`, bounded: nothing lost, nobody ends the daemon."""

import subprocess
import sys

import pytest
from mountlib import REPOSITORY, needs_root


@needs_root
@pytest.mark.timeout(120)
def test_load_and_clients() -> None:
    command = [sys.executable, "-m", "tests.stress.load", "--seconds", "3", "--processes", "8", "--ram", "2",
               "--clients", "300"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    assert "page-outs" in done.stdout and "p99" in done.stdout
