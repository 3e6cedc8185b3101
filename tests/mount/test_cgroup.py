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

from tmpfsd.sizes import parse_size

MB = 1 << 20
FILL = """
import os, sys
for number in range(int(sys.argv[2])):
    with open(f"{sys.argv[1]}/{number}", "wb") as file:
        file.write(number.to_bytes(4, "little") * (1 << 18))
print("filled")
"""


def find_place(mounts: str) -> tuple[int, Path] | None:
    """The version, and where a cgroup that limits memory can be made."""
    for line in mounts.splitlines():
        _source, path, fstype, options, *_ = line.split(" ")
        top = Path(path)
        if fstype == "cgroup" and "memory" in options.split(","):
            return 1, top
        if fstype == "cgroup2" and "memory" in controllers(top, "cgroup.controllers"):
            return 2, top
    return None


def controllers(top: Path, name: str) -> list[str]:
    """The words of a file of a cgroup; none if there is no such file."""
    try:
        return (top / name).read_text().split()
    except OSError:
        return []


PLACE = find_place(Path("/proc/mounts").read_text())
pytestmark = [needs_root, pytest.mark.skipif(not os.access("/dev/fuse", os.R_OK | os.W_OK), reason="no /dev/fuse"),
              pytest.mark.skipif(PLACE is None, reason="no cgroup, of version 1 or 2, that limits memory")]


class Group:
    """One memory cgroup."""

    def __init__(self, limit: str) -> None:
        assert PLACE is not None
        self.version, top = PLACE
        if self.version == 2 and "memory" not in controllers(top, "cgroup.subtree_control"):
            (top / "cgroup.subtree_control").write_text("+memory")      # for those below, as systemd has it anyway
        self.path = Path(tempfile.mkdtemp(prefix="tmpfsd-test-", dir=top))
        self.file = self.path / ("memory.limit_in_bytes" if self.version == 1 else "memory.max")
        try:
            self.file.write_text(limit)
        except OSError:
            self.path.rmdir()
            raise

    def limit(self) -> int:
        """How many bytes it may have."""
        return parse_size(self.file.read_text().strip(), 0)

    def run(self, *command: str) -> "subprocess.CompletedProcess[str]":
        """Run a command in it."""
        script = f'echo $$ > {self.path}/cgroup.procs && exec "$@"'
        return subprocess.run(["sh", "-c", script, "sh", *command], capture_output=True, text=True, timeout=100,
                              cwd=REPOSITORY, env={**os.environ, "PYTHONPATH": str(REPOSITORY)})

    def kills(self) -> int:
        """How many processes were killed for lack of memory."""
        words = (self.path / ("memory.oom_control" if self.version == 1 else "memory.events")).read_text().split()
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
        limit = group.limit()
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
    assert "warning: ram=150m: with 32m for the daemon itself, it does not fit" in started.stderr
    unmount(mnt)


def status_of(mnt: Path) -> dict[str, Any]:
    """The status."""
    return json.loads(ctl("status", str(mnt), "--json").stdout)


@pytest.mark.parametrize("mounts, words, found", [
    ("cgroup {top} cgroup rw,memory 0 0", {}, 1), ("cgroup {top} cgroup rw,cpu 0 0", {}, None),
    ("cgroup2 {top} cgroup2 rw 0 0", {"cgroup.controllers": "cpu memory"}, 2),
    ("cgroup2 {top} cgroup2 rw 0 0", {"cgroup.controllers": "cpu"}, None), ("", {}, None),
    ("cgroup2 {top} cgroup2 rw 0 0\ncgroup {top} cgroup rw,memory 0 0", {"cgroup.controllers": ""}, 1),
])
def test_either_version_is_found(tmp_path: Path, mounts: str, words: dict[str, str], found: int | None) -> None:
    """On a machine that has both versions, the one with the memory controller."""
    for name, text in words.items():
        (tmp_path / name).write_text(text)
    place = find_place(mounts.format(top=tmp_path))
    assert (place and place[0]) == found


def test_a_group_of_version_2_is_limited_and_counts_kills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of a directory that looks like one."""
    (tmp_path / "cgroup.subtree_control").write_text("")
    monkeypatch.setitem(globals(), "PLACE", (2, tmp_path))
    made = Group("48m")
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+memory" and made.limit() == 48 * MB
    (made.path / "memory.events").write_text("low 0\nhigh 0\nmax 3\noom 1\noom_kill 2\noom_group_kill 0\n")
    assert made.kills() == 2
