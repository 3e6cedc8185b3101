"""Where a mount pages to by default, and the links in the places that swap= names."""

import os
import subprocess
from pathlib import Path

import pytest

from tmpfsd import options, swapplaces
from tmpfsd.mounts import mountinfo


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount")
def test_a_default_place_that_is_read_only_or_full_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    if mountinfo.type_above(str(tmp_path)) in swapplaces.MEMORY_FILESYSTEMS:
        pytest.skip(f"{tmp_path} is in memory")
    monkeypatch.setattr(swapplaces, "SWAP_CANDIDATES", (str(one), str(two)))
    assert swapplaces.default_swap() == str(one)
    subprocess.run(["mount", "--bind", one, one], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", one], check=True)
        assert swapplaces.default_swap() == str(two)
    finally:
        subprocess.run(["umount", one], check=True)
    real, full = os.statvfs, {str(one)}
    monkeypatch.setattr(os, "statvfs", lambda path: fake_statvfs(real(path), path in full))
    assert swapplaces.default_swap() == str(two)
    full.add(str(two))
    assert swapplaces.default_swap() == str(one)           # there may be room later; the mount warns
    monkeypatch.setattr(os, "access", lambda *_args: False)
    assert swapplaces.default_swap() is None


def fake_statvfs(state: os.statvfs_result, full: bool) -> os.statvfs_result:
    """The state of a disk; with `full` it has nothing left."""
    words = list(state[:10])
    words[4] = 0 if full else words[4]                  # f_bavail
    return os.statvfs_result(words)


def test_links_are_followed_as_the_kernel_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d").mkdir()
    (tmp_path / "to-d").symlink_to("d")
    (tmp_path / "d" / "up").symlink_to("../d/./..")
    (tmp_path / "loop").symlink_to("loop")
    for text in ("to-d", "to-d/..", "d/up/new", "./d//x/", "missing/a", "/", "//etc", "to-d/up/to-d"):
        assert swapplaces.follow(text) == os.path.realpath(text)
    with pytest.raises(options.OptionError, match="too many levels"):
        options.parse("swap=loop")


def test_default_swap_is_not_in_memory() -> None:
    path = swapplaces.default_swap()
    assert path is None or os.path.isdir(path)
