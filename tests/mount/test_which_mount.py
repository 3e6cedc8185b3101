"""tests/mount/test_which_mount.py: commands find the right mount, with any name, after a move, whoever answers.

Names are those of tests/hostile.py.  Each mount is started as a user would start it, and looked for by the bytes of its
name in the kernel's table.
"""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Callable

import pytest
from mountlib import NOBODY, REPOSITORY, Mounted, command, ctl, eventually, needs_root, of, touch

from tests.hostile import HOSTILE_PATHS
from tmpfsd.cli import client
from tmpfsd.mounts import mountinfo, places

pytestmark = needs_root
WORST = ("newline", "esc", "no utf-8", "line separator", "markup that ends")
NAMES = (*WORST, "spaces behind", "cr", "vt", "ff", "nel", "nbsp", "backslash", "octal", "hash", "comma", "percent",
         "a line of the table", "a line after U+2028")          # the rest of them costs minutes, and shows no more
HOSTILE = pytest.mark.parametrize("name", [HOSTILE_PATHS[name] for name in NAMES], ids=NAMES)
FORGED = "x\u2028" "99\u00a01\u00a00:99\u00a0/\u00a0"
MB = 1 << 20
PAGES = {"pages": 1, "resident_pages": 1, "swapped_pages": 0}
# What an impostor says to everything: a status, and the size of a swap file.
STATUS = {"mountpoint": "\x1b[2J", "backend": "\x1b[2J", "submap": None, "pools": [], "data": PAGES, "requests": {},
          "swap": {"path": "none", "size_bytes": 0, "used_bytes": 0},
          "paging": dict.fromkeys(("faults", "pageins", "pageouts", "scans", "reclaims", "stalls"), 0),
          **dict.fromkeys(("size_bytes", "used_bytes", "inodes", "inodes_max", "ram_bytes", "resident_bytes",
                           "wired_bytes", "dirty_bytes"), MB)}


def lines_of(path: bytes) -> int:
    """How many lines of the kernel's table are of a path: by its bytes, escaped as the kernel does."""
    escaped = path
    for byte in b"\\ \t\n":
        escaped = escaped.replace(bytes([byte]), b"\\%03o" % byte)
    return Path("/proc/self/mountinfo").read_bytes().count(b" " + escaped + b" ")


# --- names ---

@HOSTILE
def test_a_life_under_any_name(top: bytes, name: bytes) -> None:
    """Mounted, asked, listed, used, unmounted; and what is printed is one line that any terminal and log takes."""
    path = top + b"/" + name
    os.makedirs(path)
    done = command("mount", path, b"-o", b"ram=1m,size=16m,swap=none")
    assert done.returncode == 0 and done.stderr.count(b"\n") == 1, done
    assert lines_of(path) == 1
    touch(path + b"/file", b"data")
    state = json.loads(command("ctl", "status", path, "--json").stdout)
    assert os.fsencode(state["mountpoint"]) == path and not state["detached"]
    rows = json.loads(command("ctl", "list", "--json").stdout)
    assert path in [os.fsencode(row["mountpoint"]) for row in rows if row["state"] == "mounted"]
    few: list[tuple[str | bytes, ...]] = [("status", path), ("list",)]
    many = [("du", path + b"/file"), ("check", path), ("set", path, "size=8m"),
            ("wait", path, "--used", "0%"), ("top", path, "--once", "--delay", "0.1"),
            ("discard", "-y", path + b"/file")]
    for words in few + (many if name in [HOSTILE_PATHS[each] for each in WORST] else []):
        shown = command("ctl", *words)
        assert shown.returncode == 0, (words, shown)
        text = shown.stdout.decode()
        assert all(line.isprintable() for line in text.split("\n")), (words, text)
    refused = command("ctl", "set", path, "size=x")
    assert refused.returncode == 1 and refused.stderr.count(b"\n") == 1 and b"\x1b" not in refused.stderr
    refused = command("mount", path)
    assert refused.returncode == 1 and b"already a tmpfsd mount" in refused.stderr
    done = command("ctl", "umount", path)
    assert done.returncode == 0 and lines_of(path) == 0, done


@HOSTILE
def test_a_signal_ends_it_and_the_log_has_each_line(top: bytes, name: bytes) -> None:
    path, log = top + b"/" + name, top + b"/log"
    os.makedirs(path)
    with open(log, "wb") as file:
        daemon = subprocess.Popen([sys.executable, "-m", "tmpfsd.cli.mount", path, "-f", "-o", "ram=1m,size=16m"],
                                  env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, stderr=file)
    try:
        assert eventually(lambda: b"mounted" in Path(os.fsdecode(log)).read_bytes())
        daemon.terminate()
        assert daemon.wait(20) == 0 and lines_of(path) == 0
    finally:
        daemon.kill()
        daemon.wait()
    lines = Path(os.fsdecode(log)).read_bytes().decode().split("\n")
    assert len(lines) == 4 and all(line.startswith("tmpfsd[") and line.isprintable() for line in lines[:-1]), lines


def test_syslog_loses_no_line_of_a_name_that_is_no_utf_8(top: bytes) -> None:
    """In the background; SysLogHandler drops what it cannot encode."""
    code = f"""
import logging, os, socket
from tmpfsd.server import process
sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
sock.bind({os.fsdecode(top + b"/log")!r})
process.SYSLOG_SOCKET = {os.fsdecode(top + b"/log")!r}
process.start_log(os.fsdecode(b"/m\\xff\\nz%s"), False, False)
logging.getLogger("x").warning("lost: %s", os.fsdecode(b"\\xfe\\x1b"))
sock.settimeout(5)
print(sock.recv(1000))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30,
                          env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, check=True)
    assert r"WARNING /m\\xff\\nz%s: lost: \\xfe\\x1b" in done.stdout


@pytest.mark.parametrize("name", ["a\u2028b", "a\rb", FORGED + "tmp"])
def test_the_name_of_another_mount_harms_nobody(tmpfsd: Callable[..., Mounted], top: bytes, name: str) -> None:
    """Any file system there, of anybody: list, status, new mounts and the default place of swap are as before."""
    before = command("ctl", "list").returncode
    other = os.path.join(os.fsdecode(top), name.replace("/", "_"))
    os.mkdir(other)
    subprocess.run(["mount", "-t", "tmpfs", "none", other], check=True, timeout=20)
    assert before in (0, 2) and command("ctl", "list").returncode in (0, 2)
    mounted = tmpfsd("ram=1m,size=16m")
    assert mounted.status()["swap"]["path"] == os.path.realpath("/var/tmp")


@pytest.mark.parametrize("where", ["find_place", "where", "open_control", "take_over"])
def test_a_failing_daemon_leaves_nothing_mounted(top: bytes, where: str) -> None:
    """Under any name: wherever something goes wrong after it has mounted."""
    path = top + "/a\u2028b".encode()
    os.mkdir(path)
    code = f"""
from tmpfsd.cli import mount
from tmpfsd.server import daemon
def fail(*_): raise RuntimeError("broken")
daemon.Daemon.{where} = fail
daemon.InForce.look = fail
raise SystemExit(mount.main([{os.fsdecode(path)!r}, "-o", "ram=1m,size=16m"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60,
                          env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, check=False)
    assert done.returncode == 1 and lines_of(path) == 0, done


# --- who answers ---

FUSE_BY_HAND = """
import ctypes, os, sys, time
fd = os.open("/dev/fuse", os.O_RDWR)
libc = ctypes.CDLL(None, use_errno=True)
data = b"fd=%d,rootmode=40000,user_id=%d,group_id=%d" % (fd, int(sys.argv[2]), int(sys.argv[2]))
if libc.mount(b"x", os.fsencode(sys.argv[1]), b"fuse.tmpfsd", 0, data):
    sys.exit(os.strerror(ctypes.get_errno()))
print("mounted", flush=True)
time.sleep(60)
"""


@contextmanager
def stranger(path: "str | bytes", uid: int = NOBODY) -> Iterator[None]:
    """A FUSE mount of a user that nobody serves.  => path must be a directory; it is not looked at."""
    with subprocess.Popen([sys.executable, "-c", FUSE_BY_HAND, path, str(uid)], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == b"mounted\n"
            yield
        finally:
            subprocess.run(["umount", "-l", path], timeout=20, check=False)
            process.kill()


@contextmanager
def impostor(place: str, uid: int, heard: str, owner: "int | None" = None) -> Iterator[None]:
    """Somebody who listens at a socket, notes what comes, and has a status for everybody."""
    answer = json.dumps({"ok": True, "result": STATUS}).encode() + b"\n"
    code = f"""
import os, socket
listener = socket.socket(socket.AF_UNIX)
listener.bind({place!r})
os.chown({place!r}, {uid if owner is None else owner}, 0)
os.chmod({place!r}, 0o777)
heard = open({heard!r}, "wb", buffering=0)
os.setgroups([])
os.setresgid({uid}, {uid}, {uid})
os.setresuid({uid}, {uid}, {uid})
listener.listen(8)
print("listening", flush=True)
while True:
    client, _ = listener.accept()
    client.settimeout(1)
    try:
        data, files, _, _ = socket.recv_fds(client, 4096, 4)
        heard.write(data + b" %d files" % len(files) if data else b"")
        client.sendall({answer!r})
    except OSError:
        pass
    client.close()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == b"listening\n"
            yield
        finally:
            process.kill()
            if os.path.lexists(place):
                os.unlink(place)


def test_a_forged_line_makes_root_give_no_file_away(tmpfsd: Callable[..., Mounted], top: bytes) -> None:
    """The exploit: a FUSE mount of a user whose path reads, as text, as the line of root's mount."""
    mounted = tmpfsd("ram=1m,size=16m")
    secret = Path(os.fsdecode(top), "secret")
    touch(secret, b"secret", mode=0o600)
    text = f"x\u2028" f"99\u00a01\u00a00:9999\u00a0/\u00a0{mounted.mnt}\u00a0rw\u00a0-\u00a0fuse.tmpfsd\u00a0x" \
        f"\u00a0rw,user_id={NOBODY}\u2028"
    path = os.path.join(os.fsdecode(top), text.lstrip("/"))
    directory = f"/tmp/tmpfsd-{NOBODY}"
    made = not os.path.exists(directory)
    os.makedirs(directory, mode=0o700, exist_ok=True)
    os.chown(directory, NOBODY, NOBODY)
    heard = os.path.join(os.fsdecode(top), "heard")
    os.makedirs(path)
    try:
        with stranger(path), impostor(f"{directory}/0-9999.sock", NOBODY, heard):
            done = command("ctl", "swapon", str(mounted.mnt), str(secret), "--size", "1m")
            state = mounted.status()
    finally:
        if made:
            os.rmdir(directory)
    assert Path(heard).read_bytes() == b""
    assert done.returncode == 0 and str(secret) in json.dumps(state["swap"])     # it went to the mount that was meant


@pytest.mark.parametrize("words", [("status",), ("swapon",), ("top", "--once", "--delay", "0.1"), ("flush",)])
def test_who_is_not_the_owner_is_told_and_asked_nothing(top: bytes, words: tuple[str, ...]) -> None:
    """At the right place, of the right owner by its inode: the credentials of who listens are another's."""
    path, secret = os.fsdecode(top + b"/m"), Path(os.fsdecode(top), "secret")
    touch(secret, b"secret", mode=0o600)
    os.mkdir(path)
    with stranger(path, 0):
        os.makedirs(places.ROOT_DIRECTORY, mode=0o700, exist_ok=True)
        place = os.path.join(places.ROOT_DIRECTORY, places.socket_name(*of(path).device))
        heard = os.path.join(os.fsdecode(top), "heard")
        with impostor(place, NOBODY, heard, owner=0):
            more = (str(secret), "--size", "1m") if words[0] == "swapon" else words[1:]
            done = command("ctl", words[0], path, *more)
    assert done.returncode == 1 and b"not asked" in done.stderr and done.stdout == b"", done
    assert Path(heard).read_bytes() == b""


def test_what_another_answers_is_escaped_and_no_file_of_ours_is_given_to_him(top: bytes) -> None:
    """A mount that is a user's own: root may ask it, and gives it nothing."""
    path, secret = os.fsdecode(top + b"/m"), Path(os.fsdecode(top), "secret")
    touch(secret, b"secret", mode=0o600)
    os.mkdir(path)
    directory = f"/tmp/tmpfsd-{NOBODY}"
    made = not os.path.exists(directory)
    os.makedirs(directory, mode=0o700, exist_ok=True)
    os.chown(directory, NOBODY, NOBODY)
    heard = os.path.join(os.fsdecode(top), "heard")
    try:
        with stranger(path):
            with impostor(f"{directory}/{places.socket_name(*of(path).device)}", NOBODY, heard):
                done = command("ctl", "swapon", path, str(secret), "--size", "1m")
                listed = command("ctl", "list")
    finally:
        if made:
            os.rmdir(directory)
    assert done.returncode == 1 and b"not given" in done.stderr and b" 1 files" not in Path(heard).read_bytes()
    assert b"\x1b" not in listed.stdout + listed.stderr and path.encode() in listed.stdout


def test_a_link_to_the_socket_of_another_mount_is_not_followed(tmpfsd: Callable[..., Mounted], top: bytes) -> None:
    """A user would have root's commands on his mount carried out on root's."""
    mounted = tmpfsd("ram=1m,size=16m")
    touch(mounted.mnt / "kept")
    path, directory = os.fsdecode(top + b"/m"), f"/tmp/tmpfsd-{NOBODY}"
    os.mkdir(path)
    made = not os.path.exists(directory)
    os.makedirs(directory, mode=0o700, exist_ok=True)
    os.chown(directory, NOBODY, NOBODY)
    try:
        with stranger(path):
            link = f"{directory}/{places.socket_name(*of(path).device)}"
            os.symlink(f"{places.ROOT_DIRECTORY}/{places.socket_name(*of(mounted.mnt).device)}", link)
            try:
                done = command("ctl", "discard", "-y", f"{path}/kept")
            finally:
                os.unlink(link)
    finally:
        if made:
            os.rmdir(directory)
    assert done.returncode == 1 and (mounted.mnt / "kept").exists()


@pytest.mark.parametrize("how", ["another's", "writable", "a link", "a file"])
def test_a_directory_of_sockets_that_is_not_the_owners(top: bytes, how: str) -> None:
    place = os.fsdecode(top + b"/sockets")
    os.mkdir(place, 0o700)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(f"{place}/1-2.sock")
        found = places.open_socket(place, "1-2.sock", 0)
        assert found is not None
        os.close(found)
        if how == "another's":
            os.chown(place, NOBODY, NOBODY)
        elif how == "writable":
            os.chmod(place, 0o770)
        elif how == "a link":
            os.rename(place, place + "-real")
            os.symlink(place + "-real", place)
        else:
            os.unlink(f"{place}/1-2.sock")
            touch(f"{place}/1-2.sock")
        assert places.open_socket(place, "1-2.sock", 0) is None
    assert places.open_socket(place + "/no", "1-2.sock", 0) is None


# --- where it is ---

@pytest.fixture
def private(top: bytes) -> Iterator[str]:
    """A place where mounts may be moved: its own is shared with nobody."""
    place = os.fsdecode(top + b"/private")
    os.mkdir(place)
    subprocess.run(["mount", "-t", "tmpfs", "none", place], check=True, timeout=20)
    subprocess.run(["mount", "--make-private", place], check=True, timeout=20)
    for name in ("old", "new", "bound", "inner"):
        os.mkdir(f"{place}/{name}")
    yield place


@contextmanager
def served(path: str, options: str = "ram=1m,size=16m") -> "Iterator[subprocess.Popen[bytes]]":
    """A daemon in the foreground."""
    with subprocess.Popen([sys.executable, "-m", "tmpfsd.cli.mount", path, "-f", "-o", options],
                          env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, stderr=subprocess.DEVNULL) as daemon:
        try:
            assert eventually(lambda: mountinfo.find(path) is not None, 30)
            os.statvfs(path)
            assert eventually(lambda: client.lives(of(path)), 30)
            yield daemon
        finally:
            daemon.kill()


def test_moved(private: str) -> None:
    """mount --move: all commands and SIGTERM mean this mount; the old name means nothing."""
    old, new = f"{private}/old", f"{private}/new"
    with served(old) as daemon:
        touch(f"{old}/file", b"x")
        subprocess.run(["mount", "--move", old, new], check=True, timeout=20)
        assert json.loads(ctl("status", new, "--json").stdout)["mountpoint"] == new
        assert "not a mount point" in ctl("status", old, check=False).stderr
        ctl("discard", "-y", f"{new}/file")
        assert os.listdir(new) == []
        daemon.terminate()
        assert daemon.wait(20) == 0
        assert mountinfo.find(new) is None and mountinfo.find(old) is None


def test_bound_elsewhere(private: str) -> None:
    """SIGTERM takes all of it away, and leaves what is mounted where it was."""
    old, new, bound = (f"{private}/{name}" for name in ("old", "new", "bound"))
    with served(old) as daemon:
        os.mkdir(f"{old}/d")
        subprocess.run(["mount", "--bind", old, new], check=True, timeout=20)
        subprocess.run(["mount", "--bind", f"{old}/d", bound], check=True, timeout=20)
        subprocess.run(["umount", old], check=True, timeout=20)
        subprocess.run(["mount", "-t", "tmpfs", "another", old], check=True, timeout=20)
        assert json.loads(ctl("status", bound, "--json").stdout)["mountpoint"] == new
        daemon.terminate()
        assert daemon.wait(20) == 0
        assert mountinfo.find(new) is None and mountinfo.find(bound) is None and of(old).fstype == "tmpfs"


def test_below_a_directory_that_is_a_users_alone(top: bytes) -> None:
    """A daemon without CAP_DAC_OVERRIDE may not follow the path; it left a dead mount at SIGTERM."""
    above = os.fsdecode(top + b"/private")
    os.makedirs(f"{above}/m")
    os.chown(above, NOBODY, NOBODY)
    os.chmod(above, 0o700)
    with served(f"{above}/m") as daemon:
        daemon.terminate()
        assert daemon.wait(20) == 0 and mountinfo.find(f"{above}/m") is None


def test_two_at_once_at_one_place_end_each_its_own(private: str) -> None:
    """The second is mounted over the first; each finds its own mount, not the one on top."""
    path = f"{private}/old"
    code = """
import sys
from tmpfsd.cli import mount, preflight
from tmpfsd.server import daemon
from tmpfsd.server.daemon import Daemon
find = Daemon.find_place
def slow(self, *fds):
    input()
    return find(self, *fds)
Daemon.find_place = slow
raise SystemExit(mount.main([sys.argv[1], "-f", "-o", "ram=1m,size=16m"]))
"""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen([sys.executable, "-c", code, path], stdin=subprocess.PIPE, env=environment,
                          stderr=subprocess.DEVNULL) as first:
        try:
            assert eventually(lambda: mountinfo.find(path) is not None) and first.stdin is not None
            lower = of(path)
            with stranger(path, 0):
                upper = of(path)
                assert upper.device != lower.device
                first.stdin.write(b"\n")
                first.stdin.flush()
                place = os.path.join(places.ROOT_DIRECTORY, places.socket_name(*lower.device))
                assert eventually(lambda: os.path.exists(place))
                first.terminate()
                assert first.wait(20) == 0 and of(path).device == upper.device
        finally:
            first.kill()


@pytest.mark.parametrize("edge", ["native", "pyfuse3"])
def test_of_those_that_start_at_once_at_one_place_one_stays(private: str, edge: str) -> None:
    """Each finds the place free before it mounts; whoever lands above another goes."""
    path = f"{private}/old"
    words = [sys.executable, "-m", "tmpfsd.cli.mount", "at once", path, "-o", f"ram=1m,size=16m,edge={edge}"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    started = [subprocess.Popen(words, env=environment, stderr=subprocess.PIPE) for _ in range(4)]
    try:
        ended = [(process.communicate(timeout=60)[1], process.returncode) for process in started]
        assert sorted(status for _said, status in ended) == [0, 1, 1, 1], ended
        assert all(status == 0 or b"tmpfsd" in said for said, status in ended)
        assert lines_of(os.fsencode(path)) == 1
    finally:
        while lines_of(os.fsencode(path)):
            subprocess.run(["umount", path], check=True, timeout=20)


def test_over_what_hides_another(private: str) -> None:
    """The table has two tmpfsd at one path, of which nobody can reach the first; the second is not above it."""
    path = f"{private}/old"
    try:
        assert command("mount", os.fsencode(path), "-o", "ram=1m,size=16m").returncode == 0
        subprocess.run(["mount", "-t", "tmpfs", "none", path], check=True, timeout=20)
        done = command("mount", os.fsencode(path), "-o", "ram=1m,size=16m")
        assert done.returncode == 0 and lines_of(os.fsencode(path)) == 3, done
    finally:
        while lines_of(os.fsencode(path)):
            subprocess.run(["umount", path], check=True, timeout=20)


@pytest.mark.parametrize("through", ["the mount", "a bind of its root", "a bind of a directory"])
@pytest.mark.parametrize("at", ["the tree", "deep inside", "inside, by another bind"])
def test_discard_tears_nothing_down_that_is_mounted_inside(private: str, through: str, at: str) -> None:
    old, bound, other = f"{private}/old", f"{private}/bound", f"{private}/new"
    with served(old) as daemon:
        os.makedirs(f"{old}/dir/tree/deep")
        os.mkdir(f"{old}/dir/free")
        subprocess.run(["mount", "--bind", old, other], check=True, timeout=20)
        way = {"the mount": f"{old}/dir", "a bind of its root": f"{other}/dir", "a bind of a directory": bound}[through]
        if way == bound:
            subprocess.run(["mount", "--bind", f"{old}/dir", bound], check=True, timeout=20)
        inner = {"the tree": f"{way}/tree", "deep inside": f"{way}/tree/deep",
                 "inside, by another bind": f"{other}/dir/tree/deep"}[at]
        subprocess.run(["mount", "-t", "tmpfs", "none", inner], check=True, timeout=20)
        done = ctl("discard", "-y", f"{way}/tree", check=False)
        why = "not on a tmpfsd mount" if at == "the tree" else "busy"
        assert done.returncode == 1 and why in done.stderr and of(inner).fstype == "tmpfs"
        if way == bound:
            assert "unmount it" in ctl("discard", "-y", bound, check=False).stderr
        ctl("discard", "-y", f"{way}/free")
        assert os.listdir(f"{old}/dir") == ["tree"]
        daemon.terminate()
        assert daemon.wait(20) == 0


def test_discard_through_a_link_says_where_it_leads(tmpfsd: Callable[..., Mounted], tmp_path: Path) -> None:
    mounted = tmpfsd("ram=1m,size=16m")
    os.makedirs(mounted.mnt / "a" / "b")
    (tmp_path / "link").symlink_to(mounted.mnt / "a")
    (tmp_path / "hop").symlink_to("link")
    for path, real in (("link", "a"), ("link/b", "a/b"), ("hop", "a")):
        done = ctl("discard", "-y", str(tmp_path / path), check=False)
        assert done.returncode == 1 and f"{mounted.mnt}/{real}\n" in done.stderr and "symbolic link" in done.stderr
    assert (mounted.mnt / "a" / "b").exists()
