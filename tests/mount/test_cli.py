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
from pathlib import Path

import pytest
from clilib import NOBODY, ROOT, assert_refused, gone, needs_fuse, needs_root, run, servers, tmpfsctl, tmpfsd, unmount
from mountlib import need_others_to_run

from tmpfsd.cli import mount, preflight
from tmpfsd.mounts import mountinfo
from tmpfsd.server import control

pytestmark = needs_fuse


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
        mount.demand_answer("/mnt", os.getppid())


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
    """test_death.py has how tmpfsd treats such a mount."""
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
        of_strings = {"data_items"} if pool["name"].startswith("string-") else set()
        assert set(pool) == {"name", "item_size", "items", "pages", "resident_pages", "swapped_pages"} | of_strings
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
