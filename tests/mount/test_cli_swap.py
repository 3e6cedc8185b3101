"""The places that swap= may name, as a user meets them: files, devices, links, disks that are too small, memory."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from clilib import NOBODY, assert_refused, gone, needs_fuse, needs_root, run, servers, tmpfsctl, tmpfsd, unmount

from tmpfsd import options
from tmpfsd.cli import preflight
from tmpfsd.mounts import mountinfo

pytestmark = needs_fuse


def test_swap_that_cannot_be_used(mountpoint: Path, tmp_path: Path) -> None:
    missing = f"swap={tmp_path}/no/swap"
    assert_refused(tmpfsd(str(mountpoint), "-o", missing), missing, "No such file")
    assert_refused(tmpfsd(str(mountpoint), "-o", f"swap={mountpoint}"), f"swap={mountpoint}", "inside")
    (mountpoint / "d").mkdir()
    assert_refused(tmpfsd(str(mountpoint), "-o", f"swap={mountpoint}/d"), f"swap={mountpoint}/d", "inside")
    assert_refused(tmpfsd(str(mountpoint), "-o", "swap=/dev/null"), "swap=/dev/null", "block device")
    assert_refused(tmpfsd(str(mountpoint), "-o", "swap=/proc"), "swap=/proc")
    assert not mountinfo.find(str(mountpoint)) and not servers(mountpoint)


@needs_root
def test_swap_not_writable(mountpoint: Path, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    assert run("mount", "-t", "tmpfs", "-o", "ro", "none", str(place)).returncode == 0
    try:
        assert_refused(tmpfsd(str(mountpoint), "-o", f"swap={place}"), f"swap={place}", "Read-only")
    finally:
        run("umount", str(place))


def test_swap_in_a_file(mountpoint: Path, tmp_path: Path) -> None:
    swap = tmp_path / "swap"
    swap.touch(mode=0o600)
    assert tmpfsd(str(mountpoint), "-o", f"swap={swap},swap_size=16m,ram=1m,size=32m").returncode == 0
    data = os.urandom(8 << 20)
    (mountpoint / "big").write_bytes(data)
    assert (mountpoint / "big").read_bytes() == data
    status = json.loads(tmpfsctl("status", str(mountpoint), "--json").stdout)
    assert status["swap"]["path"] == str(swap) and status["swap"]["used_bytes"] > 0
    assert swap.stat().st_size
    assert unmount(mountpoint).returncode == 0
    assert gone(mountpoint) and swap.stat().st_size == 0


def test_a_swap_file_that_does_not_exist_is_made(mountpoint: Path, tmp_path: Path) -> None:
    swap = tmp_path / "new"
    done = run("sh", "-c", 'umask 777; exec "$@"', "sh", sys.executable, "-m", "tmpfsd", str(mountpoint), "-o",
               f"swap={swap},ram=1m,size=32m")
    assert (done.returncode, done.stderr) == (0, "")
    assert swap.stat().st_mode == 0o100600
    (mountpoint / "big").write_bytes(b"x" * (8 << 20))
    assert swap.stat().st_size


def test_a_swap_file_that_is_made_by_swapon(mounted: Path, tmp_path: Path) -> None:
    done = tmpfsctl("swapon", str(mounted), str(tmp_path / "new"), "--size", "16m")
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "new").stat().st_mode == 0o100600


@needs_root
def test_a_link_of_another_user_is_not_followed(mounted: Path, mountpoint: Path, tmp_path: Path) -> None:
    """Root would empty its target.  The kernel refuses such links in sticky directories; realpath(3) does not."""
    secret, sticky, second = tmp_path / "secret", tmp_path / "sticky", tmp_path / "second"
    secret.write_bytes(b"kept")
    secret.chmod(0o600)
    for place in (sticky, second):
        place.mkdir()
    sticky.chmod(0o1777)
    for name, target in (("swap", secret), ("up", tmp_path)):
        (sticky / name).symlink_to(target)
        os.lchown(sticky / name, NOBODY, NOBODY)
    for path in (sticky / "swap", sticky / "up" / "secret"):
        assert_refused(tmpfsd(str(second), "-o", f"swap={path}"), f"swap={path}", "another user")
        assert_refused(tmpfsctl("swapon", str(mounted), str(path)), str(path), "another user")
    (sticky / "mine").symlink_to(secret)
    done = tmpfsctl("swapon", str(mounted), str(sticky / "mine"), "--size", "16m")
    assert done.returncode == 0, done.stderr


@needs_root
@pytest.mark.skipif(not shutil.which("losetup") or not shutil.which("mkfs.ext4"), reason="no losetup or mkfs.ext4")
def test_a_block_device_is_claimed(mountpoint: Path, tmp_path: Path) -> None:
    image = tmp_path / "image"
    with open(image, "wb") as file:
        file.truncate(32 << 20)
    made = run("losetup", "--show", "-f", str(image))
    if made.returncode:
        pytest.skip(f"no loop device: {made.stderr.strip()}")
    device = made.stdout.strip()
    try:
        done = tmpfsd(str(mountpoint), "-o", f"swap={device},ram=1m,size=64m")
        assert done.returncode == 0
        assert "size=67108864: ram and swap together hold" in done.stderr
        assert run("mkfs.ext4", "-F", "-q", device).returncode != 0
        second = tmp_path / "second"
        second.mkdir()
        assert_refused(tmpfsd(str(second), "-o", f"swap={device}"), f"swap={device}", "busy")
        assert unmount(mountpoint).returncode == 0 and gone(mountpoint)
        tmpfsd(str(mountpoint), "-o", "ram=1m,size=8m")
        assert tmpfsctl("swapon", str(mountpoint), device).returncode == 0
        assert run("mkfs.ext4", "-F", "-q", device).returncode != 0
        assert tmpfsctl("swapoff", str(mountpoint), device).returncode == 0
        assert run("mkfs.ext4", "-F", "-q", device).returncode == 0
    finally:
        unmount(mountpoint)
        assert gone(mountpoint)
        run("losetup", "-d", device)


@needs_root
def test_memory_that_pages_to_memory_is_warned_of(mountpoint: Path, tmp_path: Path) -> None:
    assert run("mount", "-t", "tmpfs", "none", str(tmp_path / "mnt")).returncode == 0
    config = preflight.check_swap(options.parse(f"swap={mountpoint}"), "/elsewhere")
    assert "in memory (tmpfs)" in config.warnings[0]
    run("umount", str(mountpoint))


def test_a_size_that_can_never_be_used_is_warned_of(mountpoint: Path) -> None:
    done = tmpfsd(str(mountpoint), "-o", "ram=1m,size=1g,swap_size=1m")
    assert done.returncode == 0 and "warning: size=1073741824: ram and swap together hold 2097152" in done.stderr


@needs_root
@pytest.mark.parametrize("size", ("17t", "1000t", "8e", "15e", "200%"))
def test_a_size_that_the_kernels_tmpfs_takes(mountpoint: Path, tmp_path: Path, size: str) -> None:
    """And df shows the same."""
    place = tmp_path / "kernel"
    place.mkdir()
    assert run("mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(place)).returncode == 0
    try:
        assert tmpfsd(str(mountpoint), "-o", f"ram=1m,size={size}").returncode == 0
        shown = [run("df", "-B1", "--output=size", str(path)).stdout.split()[1] for path in (mountpoint, place)]
        assert abs(int(shown[0]) - int(shown[1])) <= (2 << 20 if "%" in size else 0)    # the kernel keeps some pages
        (mountpoint / "file").write_bytes(b"x" * (8 << 20))
        assert tmpfsctl("set", str(mountpoint), "size=18t").returncode == 0
        assert tmpfsctl("check", str(mountpoint)).returncode == 0
    finally:
        run("umount", str(place))


def test_a_swap_file_larger_than_its_disk_is_warned_of(tmp_path: Path) -> None:
    file = tmp_path / "swap"
    file.touch(mode=0o600)
    for path in (file, tmp_path / "new"):
        warning, = preflight.check_swap(options.parse(f"size=64m,swap_size=8t,swap={path}"), "/mnt").warnings
        assert warning.startswith("swap_size=8796093022208: ") and "bytes free" in warning


def test_swap_in_a_file_that_others_may_read(mountpoint: Path, tmp_path: Path) -> None:
    swap = tmp_path / "swap"
    swap.write_bytes(b"kept")
    swap.chmod(0o644)
    assert_refused(tmpfsd(str(mountpoint), "-o", f"swap={swap}"), f"swap={swap}", "mode 0600")
    assert swap.read_bytes() == b"kept" and not mountinfo.find(str(mountpoint))


@pytest.mark.parametrize("name", ("", "swap"))
def test_swap_on_a_tmpfsd_mount_is_refused(mounted: Path, tmp_path: Path, name: str) -> None:
    """Two mounts that page to each other would wait for each other for ever."""
    (mounted / "swap").touch(mode=0o600)
    place = tmp_path / "second"
    place.mkdir()
    assert_refused(tmpfsd(str(place), "-o", f"swap={mounted / name}"), f"swap={mounted}", "tmpfsd mount")
    assert not mountinfo.find(str(place))


@needs_root
@pytest.mark.skipif(not shutil.which("losetup"), reason="no losetup")
def test_a_loop_device_of_a_file_on_a_tmpfsd_mount_is_refused(mounted: Path, tmp_path: Path) -> None:
    """It would wait for itself as the file would, and the kernel even when it is killed."""
    with open(mounted / "image", "wb") as file:
        file.truncate(4 << 20)
    made = run("losetup", "--show", "-f", str(mounted / "image"))
    if made.returncode:
        pytest.skip(f"no loop device: {made.stderr.strip()}")
    device = made.stdout.strip()
    try:
        place = tmp_path / "second"
        place.mkdir()
        assert_refused(tmpfsd(str(place), "-o", f"swap={device}"), f"swap={device}", str(mounted / "image"))
        assert_refused(tmpfsctl("swapon", str(mounted), device), f"swap={device}", str(mounted / "image"))
    finally:
        run("losetup", "-d", device)


@pytest.mark.parametrize("path", ("/proc/self/mem", "/proc/self/clear_refs"))
def test_what_keeps_nothing_is_refused(mountpoint: Path, path: str) -> None:
    assert_refused(tmpfsd(str(mountpoint), "-o", f"swap={path}"), "nothing is kept there (proc)")


def test_absolute_paths_need_no_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone_soon = tmp_path / "gone"
    gone_soon.mkdir()
    monkeypatch.chdir(gone_soon)
    gone_soon.rmdir()
    assert options.parse(f"swap={tmp_path}").swap == str(tmp_path)
    monkeypatch.chdir("/")


def test_swap_larger_than_the_disk_warns_where_it_was_asked_for(tmp_path: Path) -> None:
    asked = options.parse(f"size=64m,swap_size=8t,swap={tmp_path}")
    warning, = preflight.check_swap(asked, "/mnt").warnings
    assert warning.startswith("swap_size=8796093022208: ") and "bytes free" in warning
    by_default = options.parse(f"size=16t,swap={tmp_path}")
    assert preflight.check_swap(by_default, "/mnt") == by_default
