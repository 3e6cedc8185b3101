"""tests/mount/test_security.py: nobody is let in: the daemon's privileges, its memory, its swap file, its socket."""

import contextlib
import ctypes
import errno
import json
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable

import pytest
from mountlib import (
    NOBODY, OTHER, PAGE, REPOSITORY, Mounted, as_user, ctl, eventually, fails_with, in_child, inodes_held, is_mounted,
    linkat_following, mount_tmpfsd, needs_root, new_mountpoint, touch
)

from tmpfsd import privileges
from tmpfsd.mounts import mountinfo, places

pytestmark = needs_root
MB = 1 << 20
OPTIONS = "ram=1m,size=64m"


def proc_status(mounted: Mounted) -> dict[str, str]:
    """/proc/PID/status of the daemon."""
    lines = Path(f"/proc/{mounted.pid}/status").read_text().splitlines()
    return {name: text.strip() for name, _, text in (line.partition(":") for line in lines)}


def without_capabilities(function: Callable[[], Any]) -> Any:
    """function() as the daemon's own user, who has no capability: what a compromised service of that user can do."""
    def body() -> Any:
        privileges.set_capabilities(0, 0)
        return function()

    return in_child(body)


class TestPrivileges:
    """What the daemon has."""

    def test_dropped(self, tmpfsd):
        mounted = tmpfsd(OPTIONS)
        assert eventually(lambda: proc_status(mounted)["NoNewPrivs"] == "1")
        status = proc_status(mounted)
        assert int(status["CapEff"], 16) == 0 and int(status["CapPrm"], 16) == privileges.CAP_SYS_ADMIN
        assert int(status["CapInh"], 16) == int(status["CapAmb"], 16) == 0
        assert status["Groups"] == ""
        for task in os.listdir(f"/proc/{mounted.pid}/task"):
            text = Path(f"/proc/{mounted.pid}/task/{task}/status").read_text()
            assert "CapEff:\t0000000000000000" in text

    def test_paging_acls_and_all_else_work_without(self, tmpfsd, tmp_path):
        tmp_path.chmod(0o700)
        os.chown(tmp_path, NOBODY, NOBODY)      # opened before, so that it needs no right to it any more
        mounted = tmpfsd(f"{OPTIONS},acl,swap={tmp_path}")
        touch(mounted.mnt / "x", b"x" * 8 * MB)
        assert (mounted.mnt / "x").read_bytes() == b"x" * 8 * MB
        os.chown(mounted.mnt / "x", NOBODY, 4321)
        os.chmod(mounted.mnt / "x", 0o2770)

        def setfacl(who: int) -> int:
            command = ["setfacl", "-m", f"u:{who}:rw", str(mounted.mnt / "x")]
            return subprocess.run(command, check=True, timeout=20).returncode

        # Whether the group may keep set-group-ID is looked up in /proc of the process that asks.
        as_user(lambda: setfacl(OTHER), groups=(4321,))
        assert stat.S_IMODE(os.stat(mounted.mnt / "x").st_mode) & 0o2000
        as_user(lambda: setfacl(OTHER + 1))
        assert not stat.S_IMODE(os.stat(mounted.mnt / "x").st_mode) & 0o2000

    def test_a_socket_of_metrics_that_it_may_not_remove_is_taken_over(self, tmp_path):
        """In another user's directory the name stays after the unmount; the next mount is not held up by it."""
        pytest.importorskip("prometheus_client")
        os.chown(tmp_path, NOBODY, NOBODY)
        for _ in range(2):
            mounted = mount_tmpfsd(f"{OPTIONS},metrics={tmp_path}/socket")
            try:
                with socket.socket(socket.AF_UNIX) as sock:
                    sock.settimeout(20)
                    sock.connect(str(tmp_path / "socket"))
                    sock.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
                    assert sock.recv(100).startswith(b"HTTP/1.1 200")
            finally:
                mounted.close()
        assert os.listdir(tmp_path) == ["socket"]

    def test_nothing_of_it_is_kept_by_a_program_it_could_start(self):
        def body() -> str:
            privileges.drop()
            return subprocess.run(["cat", "/proc/self/status"], capture_output=True, text=True, check=True).stdout

        lines = in_child(body).splitlines()
        permitted = int(next(line for line in lines if line.startswith("CapPrm")).split()[1], 16)
        assert permitted & ~privileges.CAP_SYS_ADMIN == 0

    def test_admin_is_for_a_moment(self):
        def body() -> list[int]:
            privileges.drop()
            seen = [privileges.capabilities()[0]]
            with privileges.admin():
                seen.append(privileges.capabilities()[0])
            return [*seen, privileges.capabilities()[0]]

        assert in_child(body) == [0, privileges.CAP_SYS_ADMIN, 0]

    def test_a_kernel_that_refuses_is_told_of(self, monkeypatch, caplog):
        def body() -> int:
            privileges.set_capabilities(0, 0)
            privileges.drop()               # setgroups() is not permitted
            return len(caplog.records)

        assert in_child(body) == 1


class TestMemory:
    """Its memory holds everybody's data."""

    def test_not_readable_by_its_own_user(self, tmpfsd):
        mounted = tmpfsd(OPTIONS)
        touch(mounted.mnt / "x", b"secret")
        swap = os.path.basename(TestSwapFile.swap_descriptor(mounted, Path(mounted.status()["swap"]["path"])))
        for name in ("mem", "maps", "environ", f"fd/{swap}", "root/etc/passwd"):
            with fails_with(errno.EACCES, errno.EPERM):
                without_capabilities(lambda name=name: os.close(os.open(f"/proc/{mounted.pid}/{name}", os.O_RDONLY)))

    def test_not_traceable_by_its_own_user(self, tmpfsd):
        mounted = tmpfsd(OPTIONS)

        def attach() -> int:
            libc = ctypes.CDLL(None, use_errno=True)
            return 0 if libc.ptrace(16, mounted.pid, 0, 0) == 0 else ctypes.get_errno()

        assert without_capabilities(attach) == errno.EPERM

    def test_no_core(self, tmp_path):
        """Killed by a signal that dumps, where core files are wished for."""
        mnt, log = new_mountpoint(), tmp_path / "log"
        with open(log, "wb") as file:
            daemon = subprocess.Popen([sys.executable, "-m", "tmpfsd.cli.mount", str(mnt), "-f", "-o", OPTIONS],
                                      env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, cwd=tmp_path, stderr=file)
        try:
            assert eventually(lambda: is_mounted(mnt) and "mounted" in log.read_text())
            unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
            resource.prlimit(daemon.pid, resource.RLIMIT_CORE, unlimited)
            touch(mnt / "x", b"secret" * 1000)
            os.kill(daemon.pid, signal.SIGABRT)
            _pid, status = os.waitpid(daemon.pid, 0)
            daemon.returncode = -signal.SIGABRT
            assert os.WTERMSIG(status) == signal.SIGABRT and not os.WCOREDUMP(status)
            assert os.listdir(tmp_path) == ["log"]
        finally:
            if daemon.returncode is None:
                daemon.kill()
                daemon.wait()
            subprocess.run(["umount", "-l", mnt], capture_output=True, timeout=20)
            os.rmdir(mnt)


class TestSwapFile:
    """Nobody but the daemon reaches it."""

    @staticmethod
    def swap_descriptor(mounted: Mounted, directory: Path) -> str:
        """Its place in /proc."""
        for name in os.listdir(f"/proc/{mounted.pid}/fd"):
            link = f"/proc/{mounted.pid}/fd/{name}"
            if os.readlink(link).startswith(str(directory)):
                return link
        raise AssertionError("no swap file")

    def test_no_name_no_mode_no_way(self, tmpfsd, tmp_path):
        tmp_path.chmod(0o1777)
        mounted = tmpfsd(f"{OPTIONS},swap={tmp_path}")
        touch(mounted.mnt / "x", b"secret" * 500_000)
        link = self.swap_descriptor(mounted, tmp_path)
        state = os.stat(link)
        assert (stat.S_IMODE(state.st_mode), state.st_uid, state.st_nlink) == (0o600, 0, 0) and state.st_size > MB
        assert os.listdir(tmp_path) == []
        with fails_with(errno.EACCES, errno.EPERM):
            as_user(lambda: os.close(os.open(link, os.O_RDONLY)))
        with fails_with(errno.ENOENT):          # O_EXCL beside O_TMPFILE: it can never be given a name
            linkat_following(link, tmp_path / "name")

    @pytest.mark.parametrize("crypt", ["on", "off"])
    def test_a_named_one_keeps_nothing(self, tmp_path, crypt):
        swap = tmp_path / "swap"
        touch(swap, mode=0o600)
        mounted = mount_tmpfsd(f"{OPTIONS},swap={swap},swap_crypt={crypt}")
        touch(mounted.mnt / "x", b"secret" * 500_000)
        there = swap.read_bytes()
        assert there.strip(b"\0") and (b"secret" in there) == (crypt == "off")
        mounted.close()
        assert swap.stat().st_size == 0

    @pytest.mark.parametrize("how", ["mode", "owner", "link", "symlink"])
    def test_what_others_reach_is_refused(self, tmp_path, how):
        swap, mnt = tmp_path / "swap", tmp_path / "mnt"
        mnt.mkdir()
        touch(swap, b"kept", mode=0o600)
        {"mode": lambda: swap.chmod(0o640), "owner": lambda: os.chown(swap, NOBODY, NOBODY),
         "link": lambda: os.link(swap, tmp_path / "second"),
         "symlink": lambda: [swap.rename(tmp_path / "real"), swap.symlink_to("real"), (tmp_path / "real").chmod(0o644)],
         }[how]()
        command = [sys.executable, "-m", "tmpfsd.cli.mount", str(mnt), "-o", f"{OPTIONS},swap={swap}"]
        refused = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False)
        assert refused.returncode == 1 and "swap" in refused.stderr and not is_mounted(mnt)
        assert swap.read_bytes() == b"kept"

    @pytest.mark.parametrize("what", ["a directory", "a file below one"])
    def test_a_live_mount_gets_what_only_the_caller_may_open(self, tmpfsd, tmp_path, what):
        """The daemon gave up the right to enter another user's directory; tmpfsctl hands the open file over."""
        mounted, place = tmpfsd(OPTIONS), tmp_path / "place"
        place.mkdir(mode=0o700)
        swap = place if what == "a directory" else place / "swap"
        if swap != place:
            touch(swap, b"old", mode=0o600)
        os.chown(place, NOBODY, NOBODY)
        with fails_with(errno.EACCES):
            without_capabilities(lambda: os.listdir(place))
        ctl("swapon", str(mounted.mnt), str(swap), "--size", "32m")
        ctl("swapoff", str(mounted.mnt), mounted.status()["swap"]["files"][0]["path"])
        content = os.urandom(8 * MB)
        touch(mounted.mnt / "x", content)
        assert [file["used_bytes"] > MB for file in mounted.status()["swap"]["files"]] == [True]
        assert (mounted.mnt / "x").read_bytes() == content
        assert os.listdir(place) == ([] if swap == place else ["swap"])


class TestSocket:
    """Root and the mounting user only."""

    @staticmethod
    def socket_of(mounted: Mounted) -> Path:
        """Where it is."""
        found = mountinfo.find(str(mounted.mnt))
        assert found is not None
        return Path(places.ROOT_DIRECTORY) / places.socket_name(found.major, found.minor)

    def test_modes(self, tmpfsd):
        place = self.socket_of(tmpfsd(OPTIONS))
        state, above = place.stat(), place.parent.stat()
        assert (stat.S_IMODE(state.st_mode), state.st_uid) == (0o600, 0)
        assert (stat.S_IMODE(above.st_mode), above.st_uid) == (0o700, 0)

    def test_another_user_cannot_connect(self, tmpfsd):
        place = str(self.socket_of(tmpfsd(OPTIONS)))

        def connect() -> None:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(place)

        with fails_with(errno.EACCES):
            as_user(connect)

    def test_a_descriptor_handed_over_is_no_help(self, tmpfsd):
        """The socket's modes are passed by; the peer's credentials are those of who connects."""
        place = self.socket_of(tmpfsd(OPTIONS))
        directory = os.open(place.parent, os.O_PATH)

        def ask() -> str:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            privileges.set_capabilities(0, 0)
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(20)
                sock.connect(f"/proc/self/fd/{directory}/{place.name}")
                with contextlib.suppress(BrokenPipeError):      # it has answered and hung up already
                    sock.sendall(b'{"command": "status"}\n')
                return sock.recv(1000).decode()

        os.chmod(place, 0o666)
        os.chmod(place.parent, 0o755)
        try:
            assert json.loads(in_child(ask)) == {"ok": False, "error": "only root and the mounting user may ask"}
        finally:
            os.chmod(place.parent, 0o700)
            os.close(directory)

    def test_input_is_bounded(self, tmpfsd):
        """In size and in time; the mount goes on meanwhile."""
        mounted = tmpfsd(OPTIONS)
        place = str(self.socket_of(mounted))
        with socket.socket(socket.AF_UNIX) as large, socket.socket(socket.AF_UNIX) as slow:
            for sock in (large, slow):
                sock.settimeout(20)
                sock.connect(place)
            slow.sendall(b'{"comm')
            with pytest.raises(OSError):
                for _ in range(1000):
                    large.sendall(b"x" * 65536)
            touch(mounted.mnt / "x", b"goes on")
            assert b"nothing for" in slow.recv(1000) and slow.recv(1000) == b""
        assert ctl("status", str(mounted.mnt)).returncode == 0


class TestDefaultPermissions:
    """The kernel checks where others may enter, whatever the options."""

    @pytest.mark.parametrize("options", ["", ",default_permissions", ",acl", ",writeback", ",backend=wired"])
    def test_always(self, tmpfsd, options):
        mounted = tmpfsd(OPTIONS + options)
        line = next(line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(mounted.mnt) in line)
        assert "default_permissions" in line
        touch(mounted.mnt / "secret", b"secret", mode=0o600)
        with fails_with(errno.EACCES):
            as_user(lambda: (mounted.mnt / "secret").read_text())

    def test_without_allow_other_nobody_else_enters(self):
        """Not even root's own other users; root's processes do."""
        mnt = new_mountpoint()
        command = [sys.executable, "-m", "tmpfsd.cli.mount", str(mnt), "-o", OPTIONS]
        try:
            subprocess.run(command, cwd=REPOSITORY, check=True, timeout=60)
            touch(mnt / "x", mode=0o666)
            with fails_with(errno.EACCES):
                as_user(lambda: os.listdir(mnt))
            assert os.listdir(mnt) == ["x"]
        finally:
            subprocess.run(["umount", mnt], check=True, timeout=20)
            os.rmdir(mnt)


class TestOldData:
    """Freed content is never visible to the next user of the memory."""

    SECRET = b"SECRET~!" * 512

    def strew(self, mounted: Mounted) -> None:
        """Another user's data in pages, in strings and in nodes, resident and paged; then all of it is removed."""
        for number in range(400):
            name = mounted.mnt / f"secret-{number}"
            touch(name, self.SECRET[:(40, 100, 700, 2000, 40_000)[number % 5]] * (20 if number % 5 == 4 else 1))
            if number % 4 == 0:
                os.setxattr(name, "user.secret", self.SECRET[:1500])
        for number in range(400):
            os.unlink(mounted.mnt / f"secret-{number}")
        assert eventually(lambda: inodes_held(mounted) == 1)

    @pytest.mark.parametrize("thrash", ["0", "1"])
    def test_grown_files_read_as_zeroes(self, tmpfsd, thrash):
        mounted = tmpfsd(OPTIONS, TMPFSD_THRASH=thrash)
        self.strew(mounted)
        sizes = (1, 40, 48, 49, 100, 700, 2048, 2049, PAGE, PAGE + 1, 20_000, 300_000)
        for number, size in enumerate(sizes * 8):
            name = mounted.mnt / f"new-{number}"
            touch(name, b"x" if number % 2 else b"")
            os.truncate(name, size)
            if number % 3 == 0:         # a hole before the last byte
                with open(name, "r+b", buffering=0) as file:
                    file.seek(size + 5000)
                    file.write(b"y")
        for number, size in enumerate(sizes * 8):
            content = bytearray((mounted.mnt / f"new-{number}").read_bytes())
            if number % 3 == 0:
                assert content.pop() == ord("y")
                assert len(content) == size + 5000
            assert not any(content[1:]) and content[:1] in (b"\0", b"x"), number

    def test_shrunk_and_grown_again(self, tmpfsd):
        """Its own data, that was cut off, is gone too."""
        mounted = tmpfsd(OPTIONS)
        for size in (48, 2000, PAGE, 100_000):
            name = mounted.mnt / f"{size}"
            touch(name, (self.SECRET * 30)[:size])
            os.truncate(name, size // 3)
            os.truncate(name, size)
            assert name.read_bytes() == (self.SECRET * 30)[:size // 3] + bytes(size - size // 3)
