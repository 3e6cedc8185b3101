"""How much memory there is: the smallest limit of the cgroups on the way up, of both versions, in trees made here."""

import os
from pathlib import Path

import pytest

from tmpfsd import machine, options

MB = 1 << 20
NO_LIMIT = 9223372036854771712          # what version 1 says for none


class Tree:
    """A fake of /proc/self/cgroup, mountinfo and a mounted hierarchy."""

    def __init__(self, place: Path) -> None:
        self.place, self.cgroup, self.mounts = place, place / "cgroup", place / "mountinfo"
        self.cgroup.write_text("")
        self.mounts.write_text("1 1 8:1 / / rw - ext4 /dev/x rw\nbroken line\n36 25 0:3 / /x rw shared:1 -\n")

    def member(self, line: str) -> None:
        self.cgroup.write_text(self.cgroup.read_text() + line + "\n")

    def mount(self, root: str, point: Path, kind: str, options_: str) -> None:
        text = f"30 1 0:32 {root} {str(point).replace(' ', chr(92) + '040')} rw shared:5 - {kind} {kind} {options_}\n"
        self.mounts.write_text(self.mounts.read_text() + text)

    def group(self, path: str, **files: object) -> None:
        directory = self.place / path
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (directory / name.replace("__", ".")).write_text(f"{content}\n")

    def limit(self) -> int | None:
        found = list(machine.limits(str(self.cgroup), str(self.mounts)))
        return min(found) if found else None


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_version_2(tree: Tree, tmp_path: Path) -> None:
    """The smallest on the way up counts, and memory.high as memory.max does."""
    tree.member("0::/a/b/c")
    tree.mount("/", tmp_path / "fs", "cgroup2", "rw")
    tree.group("fs/a/b/c", memory__max="max", memory__high="max")
    assert tree.limit() is None
    tree.group("fs/a", memory__max=100 * MB)
    assert tree.limit() == 100 * MB
    tree.group("fs/a/b/c", memory__max=200 * MB)
    assert tree.limit() == 100 * MB
    tree.group("fs/a/b", memory__high=50 * MB)
    assert tree.limit() == 50 * MB
    tree.group("fs/a/b/d", memory__max=MB)
    assert tree.limit() == 50 * MB                          # another's


def test_version_1(tree: Tree, tmp_path: Path) -> None:
    tree.member("4:cpu,memory:/a/b")
    tree.member("3:cpuset:/")
    tree.mount("/", tmp_path / "with blank", "cgroup", "rw,cpu,memory")
    tree.group("with blank/a/b", memory__limit_in_bytes=NO_LIMIT, memory__stat="cache 0")
    assert tree.limit() == NO_LIMIT
    tree.group("with blank/a", memory__limit_in_bytes=70 * MB)
    assert tree.limit() == 70 * MB
    tree.group("with blank/a/b", memory__stat=f"cache 0\nhierarchical_memory_limit {60 * MB}\ntotal_cache 5")
    assert tree.limit() == 60 * MB                          # of a group that is not to be seen


def test_both_versions_at_once(tree: Tree, tmp_path: Path) -> None:
    """As here: the memory controller is in version 1, and version 2 is mounted for names only."""
    tree.member("4:memory:/x")
    tree.member("0::/")
    tree.mount("/", tmp_path / "memory", "cgroup", "rw,memory")
    tree.mount("/", tmp_path / "unified", "cgroup2", "rw")
    tree.group("memory/x", memory__limit_in_bytes=MB)
    tree.group("unified")
    assert tree.limit() == MB


@pytest.mark.parametrize("root, ours", [("/docker/x", "/docker/x"), ("/", "/../../docker/x"), ("/../y", "/../y"),
                                        ("/docker/x", "/"), ("/docker/x", "/docker/xy"), ("/", "/")])
def test_in_a_container(tree: Tree, tmp_path: Path, root: str, ours: str) -> None:
    """The mounted root is our own group, or the nearest to it that can be seen."""
    tree.member(f"0::{ours}")
    tree.mount(root, tmp_path / "fs", "cgroup2", "rw")
    tree.group("fs", memory__max=30 * MB)
    tree.group("memory.max", memory__max=MB)                # where ".." must not lead
    assert tree.limit() == 30 * MB


def test_a_group_below_the_root_of_a_container(tree: Tree, tmp_path: Path) -> None:
    tree.member("0::/docker/x/service")
    tree.mount("/docker/x", tmp_path / "fs", "cgroup2", "rw")
    tree.group("fs/service", memory__max=20 * MB)
    tree.group("fs", memory__max=30 * MB)
    assert tree.limit() == 20 * MB


@pytest.mark.parametrize("text", ["", "max", "-5", "12 monkeys", "9" * 30])
def test_what_is_no_number_is_no_limit(tree: Tree, tmp_path: Path, text: str) -> None:
    tree.member("0::/")
    tree.mount("/", tmp_path / "fs", "cgroup2", "rw")
    tree.group("fs", memory__max=text)
    assert tree.limit() is None


def test_without_cgroups(tmp_path: Path) -> None:
    assert not list(machine.limits(str(tmp_path / "none"), str(tmp_path / "neither")))
    assert 0 < machine.memory_limit() <= machine.physical_memory()


# --- what the options make of it ---

@pytest.mark.parametrize("limit, ram", [(8 << 30, 128 * MB), (288 * MB, 128 * MB), (160 * MB, 64 * MB),
                                        (48 * MB, 8 * MB), (20 * MB, MB)])
def test_the_default_is_a_share_of_the_limit(monkeypatch: pytest.MonkeyPatch, limit: int, ram: int) -> None:
    monkeypatch.setattr(options, "memory_limit", lambda: limit)
    config = options.parse("", swap=lambda: "/swap")
    assert config.ram_bytes == ram == options.Config(swap=None).ram_bytes
    assert config.size_bytes == limit // 2 == options.Config(swap=None).size_bytes
    assert options.parse("ram=50%").ram_bytes == limit // 2
    assert any("may be killed" in warning for warning in config.warnings) == (limit == 20 * MB)


def test_ram_that_leaves_no_room_for_the_daemon_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "memory_limit", lambda: 160 * MB)
    assert not options.parse("ram=128m", swap=lambda: "/swap").warnings
    warning, = options.parse("ram=129m", swap=lambda: "/swap").warnings
    assert warning.startswith("ram=129m: with 32m for the daemon itself, it does not fit into the 160m")


def test_this_machine() -> None:
    """On any machine: the file found can be read, and has the kernel's value."""
    path = next((line.split(":")[2] for line in Path("/proc/self/cgroup").read_text().splitlines()
                 if line.split(":")[1] == "memory"), None)
    file = f"/sys/fs/cgroup/memory{path}/memory.limit_in_bytes"
    if path is None or not os.path.exists(file):
        pytest.skip("no memory cgroup of version 1")
    assert machine.memory_limit() <= int(Path(file).read_text())
