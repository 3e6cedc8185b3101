"""tmpfsd as a part of the system: mount(8), fstab, df, findmnt, a unit of systemd, users without root.

Files for /sbin and /etc are put there in a mount namespace of its own, with overlays: nothing stays behind.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import Callable, Iterator

import pytest
from mountlib import Mounted, ctl, is_mounted, needs_root, unmount

from tests import sandbox
from tmpfsd.cli import install

NOBODY = "65534"
pytestmark = [needs_root, pytest.mark.skipif(not os.access("/dev/fuse", os.R_OK | os.W_OK), reason="no /dev/fuse")]
Run = Callable[[str], str]


@pytest.fixture
def here() -> Iterator[Path]:
    """A directory that every user can reach, with the commands and mount points."""
    with sandbox.directory() as place:
        yield place


@pytest.fixture
def system(here: Path) -> Run:
    """system(script): run it as root where /etc and /sbin are its own; what it wrote."""
    def run(script: str) -> str:
        done = sandbox.run(here, script)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


# --- mount(8) and fstab ---

def test_mount_and_its_friends(system: Run) -> None:
    out = system("""
        tmpfsctl install >/dev/null
        mount -t fuse.tmpfsd tmpfsd "$HERE/mnt" -o ram=4m,size=64m,nr_inodes=1000,noatime,fsname=scratch
        findmnt -n -o SOURCE,FSTYPE,OPTIONS "$HERE/mnt"
        echo data > "$HERE/mnt/file"
        df -h "$HERE/mnt" | tail -1
        df -i "$HERE/mnt" | tail -1
        umount "$HERE/mnt"
        findmnt "$HERE/mnt" || echo gone
        """).splitlines()
    source, kind, options = out[0].split()
    assert (source, kind) == ("scratch", "fuse.tmpfsd") and {"rw", "noatime"} <= set(options.split(","))
    assert out[1].split()[:2] == ["scratch", "64M"]
    assert out[2].split()[:3] == ["scratch", "1000", "2"]
    assert out[3] == "gone"


def test_fstab(system: Run) -> None:
    """Two lines, with what systemd writes there for itself; and again, as nothing is mounted twice."""
    out = system("""
        tmpfsctl install >/dev/null
        cat > "$HERE/fstab" <<END
tmpfsd  $HERE/mnt   fuse.tmpfsd  ram=4m,size=64m,allow_other,nofail,x-systemd.requires=network.target  0 0
none    $HERE/mnt2  fuse.tmpfsd  defaults,ram=2m,size=32m,_netdev,x-systemd.automount,noauto,x-gvfs-hide  0 0
END
        mount -T "$HERE/fstab" -a
        mount -T "$HERE/fstab" -a
        mount -T "$HERE/fstab" "$HERE/mnt2"
        grep -c "$HERE/mnt.* fuse.tmpfsd" /proc/self/mountinfo
        tmpfsctl status "$HERE/mnt" --json
        umount "$HERE/mnt" "$HERE/mnt2"
        """)
    count, _newline, status = out.partition("\n")
    assert count == "2" and json.loads(status)["size_bytes"] == 64 << 20


def test_the_helper_takes_what_mount_hands_it(system: Run) -> None:
    """-f is "fake" there, not "foreground"; -v and -n are mount's own."""
    out = system("""
        tmpfsctl install >/dev/null
        mount -f -v -t fuse.tmpfsd tmpfsd "$HERE/mnt" -o ram=4m
        findmnt "$HERE/mnt" || echo nothing
        mount -v -n -t fuse.tmpfsd tmpfsd "$HERE/mnt" -o ro,ram=4m
        findmnt -n -o OPTIONS "$HERE/mnt"
        mount -t fuse.tmpfsd tmpfsd "$HERE/mnt2" -o ram=lots 2>&1 || echo refused
        """).splitlines()
    assert out[0] == "nothing" and out[1].startswith("ro,")
    assert "ram=lots" in out[2] and out[-1] == "refused"


def test_several_at_once(tmpfsd: Callable[..., Mounted]) -> None:
    mounts = [tmpfsd(f"ram={n}m,size={n * 16}m") for n in (1, 2, 3)]
    for n, fs in enumerate(mounts):
        (fs.mnt / f"only-{n}").mkdir()
    for n, fs in enumerate(mounts):
        status = fs.status()
        assert status["mountpoint"] == str(fs.mnt) and status["ram_bytes"] == (n + 1) << 20
        assert os.listdir(fs.mnt) == [f"only-{n}"]


# --- without root ---

@pytest.mark.skipif(not shutil.which("fusermount3") or not shutil.which("setpriv"), reason="no fusermount3 or setpriv")
def test_a_user_that_is_not_root(system: Run, here: Path) -> None:
    """In a namespace where every user may open /dev/fuse, as on most machines."""
    probe = subprocess.run(["setpriv", "--reuid", NOBODY, sys.executable, "-c", "pass"], check=False, timeout=20,
                           capture_output=True)
    if probe.returncode:
        pytest.skip(f"another user may not run {sys.executable}")
    out = system(f"""
        mknod -m 666 "$HERE/over/fuse" c 10 229 && mount --bind "$HERE/over/fuse" /dev/fuse || exit 77
        chown {NOBODY} "$HERE/mnt"
        cat > "$HERE/script" <<'END'
            set -e
            cd /
            tmpfsd "$HERE/mnt" -o ram=4m,size=64m
            mkdir -p "$HERE/mnt/tree/sub"; echo data > "$HERE/mnt/tree/sub/file"
            findmnt -n -o OPTIONS "$HERE/mnt"
            tmpfsctl du "$HERE/mnt" >/dev/null
            chmod 500 "$HERE/mnt/tree/sub"
            tmpfsctl discard -y "$HERE/mnt/tree" 2>&1 || true
            chmod 700 "$HERE/mnt/tree/sub"
            tmpfsctl discard -y -q "$HERE/mnt/tree"
            ls -A "$HERE/mnt"
            tmpfsctl umount "$HERE/mnt"
            findmnt "$HERE/mnt" || echo gone
END
        setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups env HOME=/ XDG_RUNTIME_DIR= bash "$HERE/script"
        """).splitlines()
    assert {"nosuid", "nodev", f"user_id={NOBODY}"} <= set(out[0].split(","))
    assert "Permission denied" in out[1] and out[2:] == ["gone"]
    with contextlib.suppress(OSError):
        os.rmdir(f"/tmp/tmpfsd-{NOBODY}")


# --- systemd ---

def test_install_and_remove(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{here / 'bin'}:{os.environ['PATH']}")
    helper, unit = tmp_path / install.HELPER, tmp_path / install.UNIT
    for _ in range(2):
        ctl("install", "--root", str(tmp_path))
        assert os.readlink(helper) == str(here / "bin" / "tmpfsd")
    assert f"ExecStart={here}/bin/tmpfsd tmpfsd %f -f -o ${{OPTIONS}}\n" in unit.read_text()
    ctl("install", "--root", str(tmp_path), "--remove")
    assert not os.path.lexists(helper) and not unit.exists()
    unit.write_text("[Unit]\nDescription=someone else's\n")
    assert "does not belong to tmpfsd" in ctl("install", "--root", str(tmp_path), check=False).stderr
    assert "does not belong to tmpfsd" in ctl("install", "--root", str(tmp_path), "--remove", check=False).stderr
    assert "someone" in unit.read_text()


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze")
def test_systemd_takes_the_unit(here: Path, tmp_path: Path) -> None:
    unit = tmp_path / "tmpfsd@scratch.service"
    unit.write_text(install.TEMPLATE.format(command=here / "bin" / "tmpfsd"))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True,
                          timeout=50, check=False)
    assert [line for line in done.stderr.splitlines() if "tmpfsd" in line] == []


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze")
def test_the_unit_is_hardened(here: Path, tmp_path: Path) -> None:
    """As far as a unit can be that mounts for all others."""
    unit = tmp_path / "tmpfsd@.service"
    unit.write_text(install.TEMPLATE.format(command=here / "bin" / "tmpfsd"))
    words = ["systemd-analyze", "security", "--offline=true", "--threshold=50", str(unit)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=50, check=False)
    if "unrecognized option" in done.stderr:
        pytest.skip("a systemd before 250")
    assert done.returncode == 0, done.stdout[-300:] + done.stderr


def directives(unit: str, instance: str, path: str) -> dict[str, str]:
    """The lines of a unit of one instance, each once."""
    lines = [line.partition("=") for line in unit.splitlines() if "=" in line and not line.startswith("#")]
    found = {name: text.replace("%f", path).replace("%i", instance) for name, _, text in lines}
    lists = [name for name, _, _ in lines if name == "DeviceAllow"]      # which may only be written so
    assert len(found) + len(lists) - bool(lists) == len(lines) and "%" not in "".join(found.values())
    return found


@pytest.mark.parametrize("options", ["", "ram=2m,size=48m"])
def test_the_unit_serves_as_systemd_would_run_it(here: Path, tmp_path: Path, options: str,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    """Its ExecStart and environment, Type=notify with the main process alone heard, and SIGTERM at the stop."""
    monkeypatch.setenv("PATH", f"{here / 'bin'}:{os.environ['PATH']}")
    mnt = here / "mnt"
    ctl("install", "--root", str(tmp_path))
    unit = directives((tmp_path / install.UNIT).read_text(), "here-mnt", str(mnt))
    assert (unit["Type"], unit["EnvironmentFile"]) == ("notify", "-/etc/tmpfsd/here-mnt.conf")
    environment = dict([unit["Environment"].split("=", 1)])
    environment |= {"OPTIONS": options} if options else {}
    words = [environment["OPTIONS"] if word == "${OPTIONS}" else word for word in unit["ExecStart"].split()]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(str(here / "notify"))
        supervisor.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        supervisor.settimeout(30)
        # As of a unit of the system: an environment with next to nothing, the root directory, a session of its own.
        with subprocess.Popen(words, env={**environment, "NOTIFY_SOCKET": str(here / "notify"), "LANG": "C.UTF-8",
                                          "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"},
                              cwd="/", stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                              start_new_session=True) as process:
            try:
                word, [(_, _, credentials)], _, _ = supervisor.recvmsg(100, 100)
                assert word == b"READY=1" and is_mounted(mnt)
                assert struct.unpack("3i", credentials)[0] == process.pid       # NotifyAccess=main
                status = json.loads(ctl("status", str(mnt), "--json").stdout)
                assert status["ram_bytes"] == (2 << 20 if options else 128 << 20)
                process.send_signal(signal.SIGTERM)
                assert process.wait(timeout=float(unit["TimeoutStopSec"])) == 0 and not is_mounted(mnt)
                assert supervisor.recv(100) == b"STOPPING=1"
                supervisor.setblocking(False)
                with pytest.raises(BlockingIOError):            # once
                    supervisor.recv(100)
            finally:
                process.kill()
                unmount(mnt)
