"""Options of mount(8): taken, in force, obeyed, and changed by the real mount -o remount, as on the kernel's tmpfs."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mountlib import Mounted, ctl, eventually, fails_with, needs_root

from tests import sandbox
from tmpfsd import mountflags, options
from tmpfsd.cli import remount
from tmpfsd.cli.client import ClientError
from tmpfsd.options import OptionError

pytestmark = [needs_root, pytest.mark.skipif(not os.access("/dev/fuse", os.R_OK | os.W_OK), reason="no /dev/fuse")]
Run = Callable[[str], str]
FUSE_ONLY = {"user_id=0", "group_id=0", "default_permissions", "allow_other"}


@pytest.fixture
def system() -> Iterator[Run]:
    """system(script): run it as root where /etc and /sbin are its own; what it wrote.  fs and kernel are mounted."""
    with sandbox.directory() as here:
        def run(script: str) -> str:
            done = sandbox.run(here, PREPARE + script)
            assert done.returncode == 0, done.stdout + done.stderr
            return done.stdout
        yield run


PREPARE = """
tmpfsctl install > /dev/null
both() {
    mount -t fuse.tmpfsd tmpfsd "$HERE/mnt" -o "ram=4m,size=64m,$1"
    mount -t tmpfs none "$HERE/mnt2" -o "size=64m,$1"
}
show() { findmnt -n -o OPTIONS "$HERE/mnt"; findmnt -n -o OPTIONS "$HERE/mnt2"; }
"""


def pairs(out: str) -> list[tuple[set[str], set[str]]]:
    """The options of both, without those that only one kind shows."""
    lines = [set(line.split(",")) - FUSE_ONLY for line in out.splitlines()]
    lines = [{word for word in line if not word.startswith(("size=", "inode64"))} for line in lines]
    return list(zip(lines[::2], lines[1::2]))


@pytest.mark.parametrize("words", [
    "nodiratime", "noatime", "strictatime", "lazytime", "nosymfollow", "noexec,nosuid,nodev", "sync", "dirsync",
    "nodiratime,lazytime,nosymfollow,noexec", "silent,iversion,mand", "loud,noiversion,nomand", "relatime,diratime",
    "norelatime,nolazytime,nostrictatime", "atime", "ro,nodiratime"])
def test_taken_as_the_kernel_takes_them(system: Run, words: str) -> None:
    """And findmnt shows the same."""
    (ours, kernels), = pairs(system(f'both {words}; show; umount "$HERE/mnt" "$HERE/mnt2"'))
    assert ours == kernels - {"mand"}           # FUSE refuses to show what Linux has no more


def test_remounted_as_the_kernel_does(system: Run) -> None:
    steps = ["noatime", "nodiratime", "atime", "relatime,diratime", "strictatime", "ro", "rw", "noexec,nosuid", "exec",
             "lazytime", "nolazytime", "sync", "async", "nosymfollow"]
    script = "both noatime; show;" + "".join(
        f'for each in mnt mnt2; do mount -o remount,{words} "$HERE/$each"; done; show;' for words in steps)
    found = pairs(system(script + 'umount "$HERE/mnt" "$HERE/mnt2"'))
    for words, (ours, kernels) in zip(["mount", *steps], found, strict=True):
        assert ours == kernels, words


def test_limits_are_set_by_a_remount(system: Run) -> None:
    out = system("""
        both noatime
        mount -o remount,size=32m,nr_inodes=500,ram=2m,nodev "$HERE/mnt"
        df --output=size,itotal -B1M "$HERE/mnt" | tail -1
        findmnt -n -o OPTIONS "$HERE/mnt"
        mount -o remount,ro "$HERE/mnt"
        tmpfsctl discard --yes "$HERE/mnt/x" 2>&1 || true
        mount -o remount,rw "$HERE/mnt"
        echo ok > "$HERE/mnt/file"
        umount "$HERE/mnt" "$HERE/mnt2"
        """).splitlines()
    assert out[0].split() == ["32", "500"]
    assert {"noatime", "nodev"} <= set(out[1].split(","))
    assert "read-only" in out[2].lower()


@pytest.mark.parametrize("words, named", [
    ("size=32m,backend=wired", "backend=wired: cannot be changed"),
    ("size=32m,mode=700", "mode=700: cannot be changed"),
    ("size=32m,frobnicate", "frobnicate: unknown option"), ("size=32m,nr_inodes=x", "nr_inodes=x"),
    ("size=32m,acl", "acl: cannot be changed"), ("size=32m,swap=/tmp", "swap=/tmp: cannot be changed"),
    ("size=32m,allow_other", "allow_other: cannot be changed"), ("size=32m,fsname=x", "fsname=x: cannot be changed"),
    ("size=32m,huge=always", "no huge pages")])
def test_what_cannot_be_changed_is_named_and_nothing_is_changed(system: Run, words: str, named: str) -> None:
    out = system(f"""
        mount -t fuse.tmpfsd tmpfsd "$HERE/mnt" -o ram=4m,size=64m
        mount -o remount,noexec,{words} "$HERE/mnt" 2>&1 || echo refused
        findmnt -n -o OPTIONS "$HERE/mnt"
        df --output=size -B1M "$HERE/mnt" | tail -1
        umount "$HERE/mnt"
        """).splitlines()
    assert named in out[0] and "refused" in out
    assert "noexec" not in out[-2] and out[-1].split() == ["64"]


def test_what_is_so_already_is_no_change(system: Run) -> None:
    """fstab has all options of the mount; if an option is given twice, the last counts."""
    out = system("""
        words=ram=4m,size=64m,mode=700,uid=5,swap=/var/tmp,noxattr,nofail,x-y,allow_other
        echo "src $HERE/mnt fuse.tmpfsd $words 0 0" > "$HERE/fstab"
        mount -T "$HERE/fstab" "$HERE/mnt"
        mount -T "$HERE/fstab" -o remount,size=48m,noexec "$HERE/mnt"
        df --output=size -B1M "$HERE/mnt" | tail -1
        findmnt -n -o SOURCE,OPTIONS "$HERE/mnt"
        umount "$HERE/mnt"
        """).splitlines()
    assert out[0].split() == ["48"] and out[1].startswith("src ") and "noexec" in out[1]


def test_a_limit_goes_back_when_the_kernel_refuses(system: Run) -> None:
    """ro is refused while a file is open for writing."""
    out = system("""
        mount -t fuse.tmpfsd tmpfsd "$HERE/mnt" -o ram=4m,size=64m
        exec 9> "$HERE/mnt/file"
        mount -o remount,ro,size=32m "$HERE/mnt" 2>&1 || echo refused
        exec 9>&-
        df --output=size -B1M "$HERE/mnt" | tail -1
        umount "$HERE/mnt"
        """).splitlines()
    assert "busy" in out[0] and "refused" in out and out[-1].split() == ["64"]


def test_swap_that_followed_follows_again(system: Run) -> None:
    """What goes back is the size that was given: swap_size was not, and still follows."""
    out = system("""
        mount -t fuse.tmpfsd tmpfsd "$HERE/mnt" -o ram=4m,size=64m
        exec 9> "$HERE/mnt/file"
        mount -o remount,ro,size=96m "$HERE/mnt" 2>&1 || echo refused
        exec 9>&-
        df --output=size -B1M "$HERE/mnt" | tail -1
        tmpfsctl set "$HERE/mnt" size=128m
        umount "$HERE/mnt"
        """)
    assert "refused" in out and " 64\n" in out and "swap_size" in out.rpartition(" 64\n")[2]


def test_without_mount(tmpfsd: Callable[..., Mounted]) -> None:
    """tmpfsd -o remount: options that are not named stay."""
    mounted = tmpfsd("ram=1m,size=8m,nosuid,noexec")
    done = subprocess.run([sys.executable, "-m", "tmpfsd", str(mounted.mnt), "-o", "remount,size=9m,nodiratime"],
                          cwd=sandbox.REPOSITORY, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    shown = subprocess.run(["findmnt", "-n", "-o", "OPTIONS", mounted.mnt], capture_output=True, text=True).stdout
    assert {"nosuid", "noexec", "nodiratime"} <= set(shown.strip().split(","))
    assert mounted.status()["size_bytes"] == 9 << 20


def test_the_kernels_words_need_no_control_socket(tmpfsd: Callable[..., Mounted]) -> None:
    """For example with a read-only /run: the daemon itself sees the options in force."""
    mounted = tmpfsd("ram=1m,size=8m")
    device = os.stat(mounted.mnt).st_dev
    place = Path("/run/tmpfsd") / f"{os.major(device)}-{os.minor(device)}.sock"
    aside = place.with_suffix(".aside")
    place.rename(aside)
    try:
        remount.remount(str(mounted.mnt), ["remount", "noexec", "noatime"], keep=True)
        assert {"noexec", "noatime"} <= set(mountflags_of(mounted.mnt))
        with pytest.raises(ClientError):
            remount.remount(str(mounted.mnt), ["remount", "size=9m", "exec"], keep=True)
        assert "noexec" in mountflags_of(mounted.mnt)
    finally:
        aside.rename(place)


# --- atime ---

def atimes(mnt: Path) -> list[bool]:
    """Which of these changed atime: the first and the second reading of a file, of a directory."""
    found = []
    (mnt / "d").mkdir(exist_ok=True)
    (mnt / "f").write_text("x")
    old = (time.time() - 1000, time.time() - 2000)
    for path, read in ((mnt / "f", lambda: (mnt / "f").read_text()), (mnt / "d", lambda: os.listdir(mnt / "d"))):
        os.utime(path, old)
        for _ in range(2):
            before = os.stat(path).st_atime_ns
            time.sleep(0.02)
            read()
            found.append(os.stat(path).st_atime_ns > before)
    return found


def mountflags_of(mnt: Path) -> list[str]:
    """What is in force."""
    state = os.stat(mnt)
    device = b"%d:%d" % (os.major(state.st_dev), os.minor(state.st_dev))
    return mountflags.in_force(device, os.fsencode(mnt), Path("/proc/self/mountinfo").read_bytes())


EXPECTED = {"": [True, False, True, False], "noatime": [False] * 4, "nodiratime": [True, False, False, False],
            "strictatime": [True] * 4, "relatime": [True, False, True, False],
            "strictatime,nodiratime": [True, True, False, False], "lazytime": [True, False, True, False],
            "noatime,strictatime": [True] * 4}


@pytest.mark.parametrize("words", EXPECTED)
def test_atime(make_fs: Callable[..., Mounted], words: str) -> None:
    """The same on the kernel's tmpfs; on ours a second reading through the cache is seen because of a new opening."""
    mounted = make_fs(size=f"8m,{words}".rstrip(","))
    assert atimes(mounted.mnt) == EXPECTED[words]


def test_atime_after_a_remount_past_the_helper(tmpfsd: Callable[..., Mounted]) -> None:
    mounted = tmpfsd("ram=4m,size=8m")
    assert atimes(mounted.mnt) == EXPECTED[""]
    for words in ("noatime", "strictatime", "relatime,nodiratime", "relatime,diratime"):
        subprocess.run(["mount", "-o", f"remount,bind,{words}", mounted.mnt], check=True, timeout=20)
        if words == "strictatime" and mounted.edge == "native":
            continue            # the kernel asks for OPEN no more, so it reads from its cache (README)
        key = {"relatime,nodiratime": "nodiratime", "relatime,diratime": ""}.get(words, words)
        assert eventually(lambda: atimes(mounted.mnt) == EXPECTED[key], 5), words


def test_a_read_only_mount_changes_no_atime(tmpfsd: Callable[..., Mounted]) -> None:
    mounted = tmpfsd("ram=4m,size=8m")
    (mounted.mnt / "f").write_text("x")
    os.utime(mounted.mnt / "f", (1, 2))
    subprocess.run(["mount", "-o", "remount,bind,ro", mounted.mnt], check=True, timeout=20)
    ctl("status", str(mounted.mnt))
    assert eventually(lambda: "ro" in mountflags_of(mounted.mnt))
    time.sleep(1.2)
    (mounted.mnt / "f").read_text()
    time.sleep(1.2)
    (mounted.mnt / "f").read_text()
    assert os.stat(mounted.mnt / "f").st_atime_ns == 1_000_000_000
    with fails_with(30):
        (mounted.mnt / "g").touch()


def test_nosymfollow(tmpfsd: Callable[..., Mounted]) -> None:
    mounted = tmpfsd("ram=4m,size=8m,nosymfollow")
    (mounted.mnt / "f").write_text("x")
    (mounted.mnt / "link").symlink_to("f")
    with fails_with(40):
        (mounted.mnt / "link").read_text()


def test_writing_through_mmap_does_not_wait_at_one_percent(tmpfsd: Callable[..., Mounted]) -> None:
    mounted = tmpfsd("ram=4m,size=8m")
    device = os.stat(mounted.mnt).st_dev
    place = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}")
    if not os.access(place, os.W_OK):
        pytest.skip("no /sys that can be written to")

    def found() -> list[str]:
        return [(place / name).read_text().strip() for name in ("max_ratio", "read_ahead_kb")]
    assert eventually(lambda: found() == ["40", "1024"]), found()


# --- without a mount ---

def test_a_user_is_told_what_only_root_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for word in ("nodiratime", "strictatime", "lazytime", "nosymfollow"):
        with pytest.raises(OptionError, match=f"^{word}: only root"):
            options.parse(f"nosuid,{word}")
    assert options.parse("silent,loud,mand,iversion,diratime,relatime,nolazytime").generic


def test_another_mount_at_the_path_is_left(tmp_path: Path) -> None:
    with fails_with(19):
        mountflags.remount(b"0:0", str(tmp_path), mountflags.RDONLY)
    (tmp_path / "link").symlink_to(tmp_path)
    with fails_with(20, 40):
        mountflags.remount(b"0:0", str(tmp_path / "link"), mountflags.RDONLY)


def test_what_is_in_force_is_read_as_bytes() -> None:
    table = ("30 1 0:50 / /m rw,noatime - fuse.tmpfsd x rw,user_id=0\n"
             "31 1 0:51 / /m\u2028 30 1 0:51 / /x ro shared:1 - fuse.x x ro\n"
             "32 1 0:51 / /a\\040b ro,nosuid shared:1 - fuse.tmpfsd x rw,user_id=5\n"
             "33 1 0:51 / /bound rw - fuse.tmpfsd x rw\n").encode()
    assert mountflags.in_force(b"0:51", b"/a b", table) == ["ro", "nosuid", "rw", "user_id=5"]
    assert mountflags.in_force(b"0:50", b"/elsewhere", table) == ["rw", "noatime", "rw", "user_id=0"]
    assert mountflags.in_force(b"0:9", b"/m", table) == []
