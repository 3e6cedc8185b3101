"""tests/mount/test_death.py: how a daemon ends, and how it lives when the machine runs out of things (tmpfsd only)."""

import errno
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, Callable

import pytest
from mountlib import (
    NOBODY, REPOSITORY, Mounted, ctl, eventually, fails_with, is_elsewhere, is_exiting, is_mounted, mount_tmpfsd,
    need_others_to_run, needs_root, new_mountpoint, reap, spawn, touch, unmount, what_it_does
)

from tests.stress.worker import Worker
from tmpfsd.mounts import mountinfo
from tmpfsd.server import control

MB = 1 << 20
ENDED = (errno.ENOTCONN, errno.ECONNABORTED, errno.ENODEV)


def socket_of(mounted: Mounted) -> Path:
    """The control socket of a mount."""
    found = mountinfo.find(str(mounted.mnt))
    assert found is not None
    return Path(control.directories(os.geteuid())[0]) / socket_name(found)


def socket_name(mount: mountinfo.MountPoint) -> str:
    """Its name."""
    return control.socket_name(mount.major, mount.minor)


def descriptors(mounted: Mounted) -> int:
    """How many the daemon has."""
    return len(os.listdir(f"/proc/{mounted.pid}/fd"))


class TestKilled:
    """kill -9."""

    def test_leaves_no_swap_file(self, tmp_path):
        mounted = mount_tmpfsd(f"ram=1m,size=64m,swap={tmp_path}")
        touch(mounted.mnt / "x", b"secret" * 500_000)
        assert mounted.status()["swap"]["used_bytes"] > MB
        mounted.daemon.kill()
        mounted.daemon.wait(timeout=10)
        assert os.listdir(tmp_path) == []
        mounted.daemon.returncode = 0
        mounted.close()

    def test_a_stale_socket_stops_nothing(self, tmpfsd):
        """The next mount with the same device number takes its place."""
        killed = mount_tmpfsd("ram=1m,size=16m")
        place = socket_of(killed)
        killed.daemon.kill()
        killed.daemon.wait(timeout=10)
        assert place.is_socket()
        killed.daemon.returncode = 0
        killed.close()
        mounts = [tmpfsd("ram=1m,size=16m") for _ in range(3)]
        assert all(mounted.status()["mountpoint"] == str(mounted.mnt) for mounted in mounts)
        if place.exists() and place not in map(socket_of, mounts):
            place.unlink()

    def test_a_stale_file_in_place_of_the_socket(self, tmp_path):
        """Any file there is replaced: the directory is ours alone."""
        path = tmp_path / "1-2.sock"
        path.write_text("stale")
        control.listen(str(path)).close()
        assert path.is_socket()


class TestAgainAtTheSamePlace:
    """tmpfsd where a tmpfsd mount is already."""

    @staticmethod
    def tmpfsd_at(mnt: Path, **keywords: Any) -> "subprocess.CompletedProcess[str]":
        """The command, in the background."""
        command = [sys.executable, "-m", "tmpfsd.cli.mount", str(mnt), "-o", "ram=1m"]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False,
                              **keywords)

    @pytest.fixture
    def dead(self):
        """A mount whose server was killed."""
        mounted = mount_tmpfsd("ram=1m,size=16m")
        mounted.place = socket_of(mounted)
        mounted.daemon.kill()
        mounted.daemon.wait(timeout=10)
        mounted.daemon.returncode = 0
        yield mounted
        mounted.close()

    def test_a_dead_one_is_unmounted_and_that_is_said(self, dead):
        """The new mount takes its place, and its socket's; open files there do not prevent that."""
        with fails_with(errno.ENOTCONN):
            os.statvfs(dead.mnt)
        assert dead.place.is_socket()
        done = self.tmpfsd_at(dead.mnt)
        assert (done.returncode, done.stdout) == (0, "") and len(done.stderr.splitlines()) == 1
        assert done.stderr.startswith("tmpfsd: warning: ") and str(dead.mnt) in done.stderr and "gone" in done.stderr
        assert os.listdir(dead.mnt) == []
        assert Path("/proc/self/mountinfo").read_text().count(f" {dead.mnt} ") == 1
        found = mountinfo.find(str(dead.mnt))
        assert found is not None and (socket_name(found) == dead.place.name or not dead.place.exists())
        again = self.tmpfsd_at(dead.mnt)
        assert again.returncode == 1 and "already a tmpfsd mount" in again.stderr

    @needs_root
    def test_a_dead_one_of_another_user_is_left(self, dead):
        need_others_to_run()
        done = self.tmpfsd_at(dead.mnt, user=NOBODY, group=NOBODY, extra_groups=[], cwd="/")
        assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and is_mounted(dead.mnt)

    def test_one_that_hangs_is_not_dead(self, tmpfsd):
        """Nothing asks the mount itself: who did could not end."""
        mounted = tmpfsd("ram=1m,size=16m")
        os.kill(mounted.pid, signal.SIGSTOP)
        try:
            refused = self.tmpfsd_at(mounted.mnt)
        finally:
            os.kill(mounted.pid, signal.SIGCONT)
        assert refused.returncode == 1 and "already a tmpfsd mount" in refused.stderr
        assert os.listdir(mounted.mnt) == []


class TestUnderLoad:
    """Signals and unmounts while processes work."""

    @staticmethod
    def work_until_the_end(mnt: Path, seed: int) -> None:
        """A Worker, which compares each answer with its model, until the mount is gone."""
        os.mkdir(mnt / str(seed))
        os.chdir(mnt / str(seed))           # the path leads elsewhere after the end
        try:
            Worker(Path("."), seed).run(60)
        except OSError as failure:
            assert failure.errno in ENDED, failure
            return
        raise AssertionError("the mount did not end")

    @pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGQUIT, "umount -l"])
    def test_nothing_wrong_before_the_end_and_nothing_left(self, tmp_path, how):
        mounted = mount_tmpfsd(f"ram=1m,size=256m,swap={tmp_path}")
        place = socket_of(mounted)
        workers = [spawn(partial(self.work_until_the_end, mounted.mnt, seed)) for seed in range(4)]
        assert eventually(lambda: mounted.status()["paging"]["pageouts"] > 0, 30)
        if how == "umount -l":
            subprocess.run(["umount", "-l", mounted.mnt], check=True, timeout=30)
            # The file system lives on for those who are in it; then their end ends it.
            os.kill(mounted.pid, signal.SIGTERM)
        else:
            os.kill(mounted.pid, how)
        assert mounted.daemon.wait(timeout=15) == 0, mounted.log_text()
        reap(*workers)
        assert not is_mounted(mounted.mnt) and not place.exists() and os.listdir(tmp_path) == []
        assert "Traceback" not in mounted.log_text()
        mounted.close()

    def test_a_second_signal_while_it_ends(self, tmpfsd):
        mounted = mount_tmpfsd("ram=1m,size=64m")
        touch(mounted.mnt / "x", b"x" * 20 * MB)
        for _ in range(3):
            os.kill(mounted.pid, signal.SIGTERM)
        assert mounted.daemon.wait(timeout=15) == 0, mounted.log_text()
        assert not is_mounted(mounted.mnt)
        mounted.close()


class TestOutOfDescriptors:
    """The daemon has no descriptor left."""

    @pytest.fixture
    def starved(self):
        """A mount whose daemon can open nothing."""
        mounted = mount_tmpfsd("ram=1m,size=64m,acl")
        self.limit(mounted, descriptors(mounted))
        yield mounted
        self.limit(mounted, 1024)
        mounted.close()

    @staticmethod
    def limit(mounted: Mounted, count: int) -> None:
        """Limit the daemon to `count` descriptors."""
        if mounted.alive():
            resource.prlimit(mounted.pid, resource.RLIMIT_NOFILE, (count, 20_000))

    def test_files_go_on(self, starved):
        for number in range(100):
            touch(starved.mnt / str(number), b"x" * 50_000)
        assert all((starved.mnt / str(number)).read_bytes() == b"x" * 50_000 for number in range(100))
        os.setxattr(starved.mnt / "1", "user.x", b"y")
        subprocess.run(["setfacl", "-m", "u:1:rw", starved.mnt / "1"], check=True, timeout=20)
        assert starved.alive()

    def test_whoever_asks_waits_and_is_answered_later(self, starved):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(0.5)
            sock.connect(str(socket_of(starved)))
            sock.sendall(b'{"command": "ping"}\n')
            with pytest.raises(TimeoutError):
                sock.recv(100)
            touch(starved.mnt / "x", b"goes on")
            self.limit(starved, 1024)
            sock.settimeout(20)
            assert b"pong" in sock.recv(100)
        assert len(starved.log_text().splitlines()) < 10

    def test_a_signal_unmounts_all_the_same(self, starved):
        touch(starved.mnt / "x")
        os.kill(starved.pid, signal.SIGTERM)
        assert starved.daemon.wait(timeout=15) == 0, starved.log_text()
        assert not is_mounted(starved.mnt) and "Traceback" not in starved.log_text()

    def test_an_unmount_ends_it(self, starved):
        assert not unmount(starved.mnt)
        assert starved.daemon.wait(timeout=15) == 0, starved.log_text()


@needs_root
class TestFullLog:
    """The disk under the log is full."""

    @staticmethod
    def start(mnt: Path, log: int) -> "subprocess.Popen[bytes]":
        """A daemon in the foreground, with a warning to tell at once."""
        command = [sys.executable, "-m", "tmpfsd.cli.mount", str(mnt), "-f", "--debug", "-o", "swap=none,ram=2m"]
        return subprocess.Popen(command, cwd=REPOSITORY, stdout=log, stderr=log)

    def run(self, log: int) -> None:
        """Mount, work, be full, unmount."""
        mnt = new_mountpoint()
        daemon = self.start(mnt, log)
        try:
            assert eventually(lambda: is_mounted(mnt))
            with pytest.raises(OSError, match="No space"):
                touch(mnt / "x", b"x" * 4 * MB)
            touch(mnt / "y", b"y")
            assert (mnt / "y").read_bytes() == b"y"
            ctl("status", str(mnt))
            assert not unmount(mnt)
            assert daemon.wait(timeout=15) == 0
        finally:
            daemon.kill()
            daemon.wait()
            unmount(mnt)
            os.rmdir(mnt)

    def test_dev_full(self):
        log = os.open("/dev/full", os.O_WRONLY)
        self.run(log)
        os.close(log)

    def test_a_disk_that_is_full(self, tmp_path):
        command = ["mount", "-t", "tmpfs", "-o", "size=4k", "none", tmp_path]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no kernel tmpfs here: {done.stderr.strip()}")
        try:
            with open(tmp_path / "log", "ab", buffering=0) as log:
                log.write(b"x" * 4096)
                self.run(log.fileno())
        finally:
            subprocess.run(["umount", tmp_path], check=True, timeout=20)

    def test_a_reader_that_is_gone(self):
        reader, writer = os.pipe()
        os.close(reader)
        self.run(writer)
        os.close(writer)


@needs_root
def test_a_copy_in_another_mount_namespace_is_waited_for(tmpfsd: Callable[..., Mounted]) -> None:
    """As a container has one, or a test that runs beside: no fault of the daemon, which serves it until it ends."""
    mounted = tmpfsd("ram=1m,size=16m")
    with subprocess.Popen(["unshare", "-m", "--propagation", "private", "sh", "-c", "echo; sleep 1"],
                          stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"\n"
        assert not unmount(mounted.mnt) and is_elsewhere(mounted.device)
        assert mounted.wait(0.1) == 0 and not is_elsewhere(mounted.device)


def test_a_process_that_exits_is_known() -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        assert not is_exiting(process.pid) and what_it_does(process.pid).startswith("cat ")
        process.kill()
        assert eventually(lambda: is_exiting(process.pid))          # a zombie: nobody has waited for it


def test_nothing_is_left_after_many_mounts(tmpfsd: Callable[..., Mounted]) -> None:
    """Mounts that come and go leave no socket."""
    directory = control.directories(os.geteuid())[0]
    mounted = tmpfsd("ram=1m,size=16m")
    place = socket_of(mounted)
    assert place.parent == Path(directory) and place.is_socket()
    unmount(mounted.mnt)
    assert mounted.daemon.wait(timeout=10) == 0
    deadline = time.monotonic() + 5
    while place.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not place.exists()
