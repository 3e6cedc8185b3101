"""A mount in a real memory cgroup: the default survives being filled, with its client in the same group."""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mountlib import REPOSITORY, ctl, eventually, is_mounted, needs_root, unmount

from tmpfsd.options import parse_size

ROOT = Path("/sys/fs/cgroup/memory")
MB = 1 << 20
FILL = """
import os, sys
for number in range(int(sys.argv[2])):
    with open(f"{sys.argv[1]}/{number}", "wb") as file:
        file.write(number.to_bytes(4, "little") * (1 << 18))
print("filled")
"""
pytestmark = [needs_root, pytest.mark.skipif(not os.access("/dev/fuse", os.R_OK | os.W_OK), reason="no /dev/fuse"),
              pytest.mark.skipif(not (ROOT / "memory.limit_in_bytes").exists(), reason="no cgroup of version 1")]


class Group:
    """One memory cgroup."""

    def __init__(self, limit: str) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="tmpfsd-test-", dir=ROOT))
        (self.path / "memory.limit_in_bytes").write_text(limit)

    def run(self, *command: str) -> "subprocess.CompletedProcess[str]":
        """Run a command in it."""
        script = f'echo $$ > {self.path}/cgroup.procs && exec "$@"'
        return subprocess.run(["sh", "-c", script, "sh", *command], capture_output=True, text=True, timeout=100,
                              cwd=REPOSITORY, env={**os.environ, "PYTHONPATH": str(REPOSITORY)})

    def kills(self) -> int:
        """How many processes were killed for lack of memory."""
        words = (self.path / "memory.oom_control").read_text().split()
        return int(words[words.index("oom_kill") + 1])


@pytest.fixture
def mnt(tmp_path: Path) -> Iterator[Path]:
    """A mount point."""
    place = tmp_path / "mnt"
    place.mkdir()
    yield place
    unmount(place)
    assert not is_mounted(place)


@pytest.fixture(params=["48m", "160m"])
def group(request: pytest.FixtureRequest) -> Iterator[Group]:
    """A cgroup of that many bytes."""
    try:
        made = Group(request.param)
    except OSError as error:
        pytest.skip(f"no memory cgroup can be made: {error}")
    yield made
    assert eventually(lambda: not (made.path / "cgroup.procs").read_text())
    assert eventually(lambda: removed(made.path))


def removed(path: Path) -> bool:
    """Remove a cgroup: its last process may still be ending."""
    try:
        path.rmdir()
    except OSError:
        return False
    return True


@pytest.mark.timeout(170)
def test_the_default_mount_survives_being_filled(group: Group, mnt: Path) -> None:
    try:
        started = group.run(sys.executable, "-m", "tmpfsd", str(mnt))
        assert (started.returncode, started.stderr) == (0, "")
        status = status_of(mnt)
        limit = parse_size((group.path / "memory.limit_in_bytes").read_text().strip(), 0)
        assert status["size_bytes"] == limit // 2 and status["ram_bytes"] <= (limit - 32 * MB) // 2
        count = status["size_bytes"] // MB - 2
        filled = group.run(sys.executable, "-c", FILL, str(mnt), str(count))
        assert filled.stdout == "filled\n", filled.stderr
        assert status_of(mnt)["paging"]["pageouts"] > 0
        for number in range(count):
            content = number.to_bytes(4, "little") * (1 << 18)
            found = group.run("md5sum", str(mnt / str(number))).stdout if number == 0 else ""
            assert (mnt / str(number)).read_bytes() == content
            assert not found or found.split()[0] == hashlib.md5(content).hexdigest()
        assert group.kills() == 0
    finally:
        unmount(mnt)


def test_ram_that_cannot_fit_is_warned_of(group: Group, mnt: Path) -> None:
    started = group.run(sys.executable, "-m", "tmpfsd", str(mnt), "-o", "ram=150m,size=1g")
    assert started.returncode == 0
    assert "warning: ram=150m: does not fit, with 32m of the daemon's own" in started.stderr
    unmount(mnt)


def status_of(mnt: Path) -> dict[str, Any]:
    """The status."""
    return json.loads(ctl("status", str(mnt), "--json").stdout)
