"""The commands tmpfsd and tmpfsctl as a user meets them.

Every mistake is one line and status 1, and leaves nothing mounted and no process.  A real mount each; skipped
where there is no /dev/fuse.
"""

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mountlib import need_others_to_run

from tmpfsd import options
from tmpfsd.cli import mount, preflight
from tmpfsd.mounts import mountinfo
from tmpfsd.server import control

FUSE = os.access("/dev/fuse", os.R_OK | os.W_OK)
ROOT = os.geteuid() == 0
NOBODY = 65534
SECONDS = 30

pytestmark = pytest.mark.skipif(not FUSE, reason="no /dev/fuse that this user may use")
needs_root = pytest.mark.skipif(not ROOT, reason="needs root")


def run(*command: str, **keywords: Any) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end, with a bound on its time."""
    return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False,
                          stdin=subprocess.DEVNULL, **keywords)


def tmpfsd(*args: str, **keywords: object) -> "subprocess.CompletedProcess[str]":
    """Run the command tmpfsd."""
    return run(sys.executable, "-m", "tmpfsd", *args, **keywords)


def tmpfsctl(*args: str, **keywords: object) -> "subprocess.CompletedProcess[str]":
    """Run the command tmpfsctl."""
    return run(sys.executable, "-m", "tmpfsd.cli.ctl", *args, **keywords)


def unmount(path: Path) -> "subprocess.CompletedProcess[str]":
    """Unmount as the user would."""
    return run("umount", str(path)) if ROOT else run("fusermount3", "-u", str(path))


def servers(mountpoint: Path) -> set[int]:
    """Return the processes that were started for this mount point."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if os.fsencode(str(mountpoint)) in words and b"tmpfsd" in words:
                found.add(int(entry.name))
    return found


def gone(mountpoint: Path, seconds: float = 10) -> bool:
    """Wait until nothing is mounted and no process is left."""
    deadline = time.monotonic() + seconds
    while servers(mountpoint) or mountinfo.find(str(mountpoint)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@pytest.fixture
def mountpoint(tmp_path: Path) -> Iterator[Path]:
    """A directory to mount at, left clean whatever the test did."""
    path = tmp_path / "mnt"
    path.mkdir()
    yield path
    while mountinfo.find(str(path)):
        if unmount(path).returncode and run(*(["umount", "-l"] if ROOT else ["fusermount3", "-uz"]),
                                            str(path)).returncode:
            break
    for pid in servers(path):
        os.kill(pid, signal.SIGKILL)
    assert gone(path)


@pytest.fixture
def mounted(mountpoint: Path) -> Path:
    """A mount."""
    options = "ram=4m,size=64m" + (",allow_other" if ROOT else "")
    done = tmpfsd("source", str(mountpoint), "-o", options)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return mountpoint


def assert_refused(done: "subprocess.CompletedProcess[str]", *names: str) -> None:
    """Require status 1, one line on stderr that has these names, and nothing on stdout."""
    assert done.returncode == 1, done
    assert done.stdout == "" and len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("tmpfsd: ") or done.stderr.startswith("tmpfsctl"), done.stderr
    for name in names:
        assert name in done.stderr


WRONG = [
    "frobnicate", "frobnicate=1", "size", "size=", "size=-1", "size=1.5g", "size=x", "size=4k",
    "size=16e", "ram=0", "ram=-1m", "ram=512k", "ram=99999g", "ram=101%", "nr_inodes=many", "mode=999",
    "uid=no-such-user", "gid=-1", "nr_inodes=2147483648", "swap=",
    "swap_size=0", "swap_size=x", "swap_io=mmap", "backend=magic",
    "windows=64", "submap=1m,backend=aobj", "submap_sharing=shared,backend=pageable-object", "submap=0",
    "submap=99t", "submap_sharing=x", "windows=0", "windows=4", "spin=-1", "spin=x", "acl=1", "noxattr,acl", "ro,rw",
    "ro=1", "size=1m,size=2m", "submap=2m,size=1m", "huge=always", "mpol=bind:0", "nr_blocks=1",
    "swap_size=1m,swap=none", "swap_io=direct,swap=none", "submap=1m,backend=wired",
    "windows=2,backend=wired",
]


@pytest.mark.parametrize("text", WRONG)
def test_wrong_option(mountpoint: Path, text: str) -> None:
    """G1: the first of the options is the one that the message must name."""
    named = text.split(",")[0].split("=")[0]
    assert_refused(tmpfsd("src", str(mountpoint), "-o", text), f"tmpfsd: {named}")
    assert not mountinfo.find(str(mountpoint)) and not servers(mountpoint)


@pytest.mark.parametrize("args, named", [
    ((), "MOUNTPOINT"), (("",), "mount point: empty"), (("none", ""), "mount point: empty"),
    (("-o",), "-o"), (("--frob", "x"), "--frob"), (("a", "b", "c"), "c"),
])
def test_wrong_command_line(args: tuple[str, ...], named: str) -> None:
    assert_refused(tmpfsd(*args), named)


def test_a_mount_that_answers_with_an_error_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """G2: and the parent does not take it for an answer."""
    def fail(_path: str) -> None:
        raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")

    monkeypatch.setattr(os, "statvfs", fail)
    with pytest.raises(preflight.CliError, match="/mnt: .*not answer: Transport endpoint"):
        mount.demand_answer("/mnt")


def test_version_and_help() -> None:
    for done in (tmpfsd("--version"), tmpfsd("--help"), tmpfsctl("--version"), tmpfsctl("status", "--help")):
        assert done.returncode == 0 and done.stdout and not done.stderr


def test_mountpoint_missing_or_a_file(tmp_path: Path) -> None:
    assert_refused(tmpfsd(str(tmp_path / "no")), str(tmp_path / "no"), "No such file")
    (tmp_path / "file").touch()
    assert_refused(tmpfsd(str(tmp_path / "file")), str(tmp_path / "file"), "ot a directory")
    assert_refused(tmpfsd(str(tmp_path / "file" / "x")), "ot a directory")


def test_mountpoint_not_empty_is_allowed(mountpoint: Path) -> None:
    (mountpoint / "below").touch()
    assert tmpfsd(str(mountpoint), "-o", "ram=1m").returncode == 0
    assert os.listdir(mountpoint) == []
    assert unmount(mountpoint).returncode == 0
    assert os.listdir(mountpoint) == ["below"]


def test_mount_twice(mounted: Path) -> None:
    before = servers(mounted)
    assert_refused(tmpfsd(str(mounted)), str(mounted), "already a tmpfsd mount")
    assert servers(mounted) == before
    (mounted / "still").touch()


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
    """Root would empty what it leads to.  The kernel refuses such links in sticky directories; realpath(3) does not."""
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


def test_swap_larger_than_the_disk_warns_where_it_was_asked_for(tmp_path: Path) -> None:
    asked = options.parse(f"size=64m,swap_size=8t,swap={tmp_path}")
    warning, = preflight.check_swap(asked, "/mnt").warnings
    assert warning.startswith("swap_size=8796093022208: ") and "bytes free" in warning
    by_default = options.parse(f"size=16t,swap={tmp_path}")
    assert preflight.check_swap(by_default, "/mnt") == by_default


def test_no_swap_warns_and_mounts(mountpoint: Path) -> None:
    done = tmpfsd(str(mountpoint), "-o", "swap=none,ram=1m")
    assert done.returncode == 0 and len(done.stderr.splitlines()) == 1 and "warning: swap=none" in done.stderr


def test_answers_at_once_and_looks_as_asked(mounted: Path) -> None:
    assert os.listdir(mounted) == []
    found = mountinfo.find(str(mounted))
    assert found is not None and found.fstype == "fuse.tmpfsd" and found.owner == os.geteuid()
    assert mounted.stat().st_mode & 0o7777 == 0o1777
    assert len(servers(mounted)) == 1


def test_called_as_mount_calls_it(mountpoint: Path) -> None:
    done = tmpfsd("none", str(mountpoint), "-o", "rw,noauto,nofail,x-systemd.automount,mode=750", "-o",
                  "dev,suid,fsname=a\\,b,noexec")
    assert done.returncode == 0, done.stderr
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    line = next(line for line in lines if str(mountpoint) in line)
    assert " a,b " in line and "noexec" in line
    assert mountpoint.stat().st_mode & 0o7777 == 0o750
    assert ("nosuid" in line) == (not ROOT) and ("nodev" in line) == (not ROOT)


def test_read_only(mountpoint: Path) -> None:
    assert tmpfsd(str(mountpoint), "-o", "ro").returncode == 0
    with pytest.raises(OSError, match="Read-only"):
        (mountpoint / "x").touch()


def test_path_with_blanks_and_a_link(tmp_path: Path) -> None:
    path = tmp_path / "a b\\c,d"
    path.mkdir()
    (tmp_path / "link").symlink_to(path)
    assert tmpfsd(str(tmp_path / "link"), "-o", "ram=1m").returncode == 0
    try:
        assert tmpfsctl("status", str(path)).returncode == 0
        assert tmpfsctl("status", str(tmp_path / "link")).returncode == 0
    finally:
        assert unmount(path).returncode == 0
    assert gone(path)


def test_umount_ends_the_process_and_the_socket(mounted: Path) -> None:
    """L3: what it made is gone."""
    found = mountinfo.find(str(mounted))
    assert found is not None
    place = Path(control.directories(os.geteuid())[0]) / control.socket_name(found.major, found.minor)
    assert place.is_socket()
    assert unmount(mounted).returncode == 0
    assert gone(mounted) and not place.exists()


@pytest.mark.parametrize("number", (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT))
def test_signal_unmounts(mounted: Path, number: int) -> None:
    """L3: ended by a signal."""
    (mounted / "x").write_text("data")
    for pid in servers(mounted):
        os.kill(pid, number)
    assert gone(mounted)


def test_signal_when_busy(mounted: Path) -> None:
    file = os.open(mounted / "x", os.O_RDWR | os.O_CREAT)
    os.write(file, b"data")
    for pid in servers(mounted):
        os.kill(pid, signal.SIGTERM)
    assert gone(mounted)
    with pytest.raises(OSError):
        os.write(file, b"more")
    with contextlib.suppress(OSError):      # close() may say ENOTCONN too
        os.close(file)


def test_unmount_while_busy_is_refused_and_all_goes_on(mounted: Path) -> None:
    with open(mounted / "x", "w+b", buffering=0) as file:
        done = unmount(mounted)
        assert done.returncode != 0 and "busy" in done.stderr
        file.write(b"goes on")
        assert os.pread(file.fileno(), 100, 0) == b"goes on"
        assert tmpfsctl("status", str(mounted)).returncode == 0
    assert unmount(mounted).returncode == 0
    assert gone(mounted)


@needs_root
def test_a_server_never_unmounts_what_is_not_its_own(mounted: Path) -> None:
    """L1."""
    held = os.open(mounted, os.O_RDONLY)
    try:
        assert run("umount", "-l", str(mounted)).returncode == 0
        assert run("mount", "-t", "tmpfs", "other", str(mounted)).returncode == 0
        for pid in servers(mounted):
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + 10
        while servers(mounted) and time.monotonic() < deadline:
            time.sleep(0.02)
        found = mountinfo.find(str(mounted))
        assert not servers(mounted) and found is not None and found.fstype == "tmpfs"
    finally:
        os.close(held)
        run("umount", str(mounted))


def test_killed_server_leaves_a_mount_that_umount_removes(mounted: Path) -> None:
    """What tmpfsd makes of one is in test_death.py."""
    for pid in servers(mounted):
        os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while servers(mounted) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert_refused(tmpfsctl("status", str(mounted)), str(mounted))
    assert unmount(mounted).returncode == 0
    assert tmpfsd(str(mounted), "-o", "ram=1m").returncode == 0


SIGNAL_HALFWAY = """
import os, signal, sys
from tmpfsd import options
from tmpfsd.server import daemon

attach = daemon.Daemon.attach

def attach_and_signal(self):
    if sys.argv[2] == "before":
        os.kill(os.getpid(), signal.SIGTERM)
    attach(self)
    if sys.argv[2] == "after":
        os.kill(os.getpid(), signal.SIGTERM)

daemon.Daemon.attach = attach_and_signal
daemon.run(options.parse("ram=1m,size=64m"), sys.argv[1], lambda: None)
print("ended as it should")
"""


@pytest.mark.parametrize("when", ("before", "after"))
def test_a_signal_while_mounting_leaves_nothing(mountpoint: Path, when: str) -> None:
    """L2: it is held back until the mount can be taken down."""
    done = run(sys.executable, "-c", SIGNAL_HALFWAY, str(mountpoint), when)
    assert (done.returncode, done.stdout) == (0, "ended as it should\n"), done.stderr
    assert gone(mountpoint)


def test_foreground_logs_and_ends_with_0(mountpoint: Path) -> None:
    process = subprocess.Popen([sys.executable, "-m", "tmpfsd", str(mountpoint), "-f", "-o", "ram=1m"],
                               stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 10
        while not mountinfo.find(str(mountpoint)) and time.monotonic() < deadline:
            time.sleep(0.02)
        (mountpoint / "x").touch()
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=10)
    finally:
        process.kill()
    assert process.returncode == 0 and "mounted" in log and str(mountpoint) in log and "Traceback" not in log


def test_status(mounted: Path) -> None:
    (mounted / "x").write_bytes(b"x" * 100_000)
    status = json.loads(tmpfsctl("status", str(mounted), "--json").stdout)
    assert set(status) >= {
        "mountpoint", "backend", "size_bytes", "used_bytes", "inodes", "inodes_max", "ram_bytes",
        "resident_bytes", "wired_bytes", "dirty_bytes", "submap", "swap", "paging", "pools", "data",
        "requests"}
    assert set(status["submap"]) == {"policy", "sharing", "size_bytes", "used_bytes", "high_water_bytes"}
    assert set(status["swap"]) >= {"path", "size_bytes", "used_bytes"}
    assert set(status["paging"]) >= {"faults", "pageins", "pageouts", "scans", "reclaims", "stalls"}
    assert set(status["data"]) == {"pages", "reserved_pages", "resident_pages", "swapped_pages"}
    for pool in status["pools"]:
        assert set(pool) == {"name", "item_size", "items", "pages", "resident_pages", "swapped_pages"}
    assert status["mountpoint"] == str(mounted) and status["ram_bytes"] == 4 << 20
    assert status["size_bytes"] == 64 << 20 and status["inodes"] >= 1 and status["requests"]["write"] >= 1


def test_status_as_text_fits_a_terminal(mounted: Path) -> None:
    done = tmpfsctl("status", str(mounted))
    assert done.returncode == 0 and "pageable-submap" in done.stdout
    assert max(len(line) for line in done.stdout.splitlines() if str(mounted) not in line) <= 80


def test_status_says_that_wired_metadata_fills_ram(mountpoint: Path) -> None:
    assert tmpfsd(str(mountpoint), "-o", "ram=1m,backend=wired").returncode == 0
    assert "warning" not in tmpfsctl("status", str(mountpoint)).stdout
    with pytest.raises(OSError, match="No space left"):
        for number in range(20_000):
            (mountpoint / str(number)).touch()
    done = tmpfsctl("status", str(mountpoint))
    assert "ram is full of wired metadata" in done.stdout, done.stdout


def test_check(mounted: Path) -> None:
    (mounted / "d").mkdir()
    done = tmpfsctl("check", str(mounted))
    assert (done.returncode, done.stderr) == (0, "") and "consistent" in done.stdout


@pytest.mark.parametrize("args, named", [
    ((), "COMMAND"), (("status",), "MOUNTPOINT"), (("frob", "/"), "frob"), (("status", "/proc"), "/proc"),
    (("status", "/no/such/place"), "/no/such/place"), (("status", ""), "mount point: empty"), (("check", "/"), "/"),
])
def test_tmpfsctl_mistakes(args: tuple[str, ...], named: str) -> None:
    assert_refused(tmpfsctl(*args), named)


def need_another_user(code: str) -> None:
    """Skip unless another user can run this, with this Python."""
    need_others_to_run()
    probe = run(sys.executable, "-c", code, user=NOBODY, group=NOBODY, extra_groups=[], cwd="/")
    if probe.returncode:
        pytest.skip(f"another user cannot: {code}: {probe.stderr.strip().splitlines()[-1]}")


@needs_root
@pytest.mark.skipif(not shutil.which("fusermount3"), reason="no fusermount3 for an unprivileged mount")
def test_without_root(tmp_path: Path) -> None:
    """A user's own mount: made, asked, hidden from others, unmounted."""
    need_another_user("import os, tmpfsd.cli.mount; os.close(os.open('/dev/fuse', os.O_RDWR))")
    place = Path("/tmp") / f"tmpfsd-test-{os.getpid()}"
    place.mkdir(mode=0o755)
    os.chown(place, NOBODY, NOBODY)
    user = {"user": NOBODY, "group": NOBODY, "extra_groups": [], "cwd": "/"}
    try:
        done = tmpfsd(str(place), "-o", "ram=1m,dev,suid", **user)
        assert (done.returncode, done.stderr) == (0, "")
        assert tmpfsctl("status", str(place), **user).returncode == 0
        assert tmpfsctl("status", str(place)).returncode == 0
        assert_refused(tmpfsd("/usr", **user), "/usr")
        assert_refused(tmpfsd(str(place), **user), "already")
        pid, = servers(place)
        os.kill(pid, signal.SIGTERM)
        assert gone(place)
    finally:
        run("umount", "-l", str(place))
        place.rmdir()


@needs_root
def test_without_fusermount3(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    need_another_user("import tmpfsd.cli.mount")
    done = tmpfsd("/tmp", user=NOBODY, group=NOBODY, cwd="/", env={**os.environ, "PATH": "/nowhere"})
    assert_refused(done, "fusermount3")


@needs_root
def test_without_dev_fuse(mountpoint: Path) -> None:
    """In a mount namespace whose /dev is empty."""
    script = f"mount -t tmpfs none /dev && exec {sys.executable} -m tmpfsd {mountpoint}"
    done = run("unshare", "-m", "sh", "-c", script)
    if "unshare" in done.stderr:
        pytest.skip(f"no mount namespaces here: {done.stderr.strip()}")
    assert_refused(done, "/dev/fuse", "modprobe")
