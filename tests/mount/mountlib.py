"""tests/mount/mountlib.py: mounts for the tests, and the system calls that the os module lacks.

A test never knows which file system it runs on: mount_kernel() gives the kernel's own tmpfs, the oracle,
and mount_tmpfsd() ours, started in the foreground so that its process and its log are known.

Invariants  H1 Every tmpfsd mount is in LIVE from before its daemon starts until the daemon has ended.
            H2 Mounted.close() leaves no mount and no process, in any state of the daemon.
Limits      An alarm does not interrupt a call that is stuck in FUSE: only the end of the connection frees it.
            abort_all() ends the connections; the watchdog of conftest.py calls it.
"""

import ctypes
import errno
import json
import os
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter, deque
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Callable, Iterator, NamedTuple

import pytest

from tmpfsd.mounts import mountinfo
from tmpfsd.options import Config
from tmpfsd.server.edge import is_native

REPOSITORY = Path(__file__).resolve().parents[2]
RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT = 1, 2, 4
AT_FDCWD, AT_SYMLINK_FOLLOW = -100, 0x400
FS_IOC_GETFLAGS, FS_IOC_SETFLAGS = 0x80086601, 0x40086602      # <linux/fs.h>
UTIME_NOW, UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2
PAGE = 4096
PF_EXITING = 4  # <linux/sched.h>; proc(5) has it in field 9 of stat
NOBODY, OTHER = 65534, 12345  # two users with no rights; neither needs to be in the password file
DIRENT = struct.Struct("=QqHB")  # struct linux_dirent64: d_ino, d_off, d_reclen, d_type
EDGE = os.environ.get("TMPFSD_TEST_EDGE", "")  # the edge= of every mount that does not say its own
IS_NATIVE = is_native(EDGE or Config().edge)
PATIENCE = 60  # seconds that another's mount namespace may keep a mount of ours, or the kernel a process that exits
LIVE: set["Mounted"] = set()
REFUSED: deque[str] = deque(maxlen=8)  # what umount said last, for who finds a daemon that lives on
INJECTED: Counter[str] = Counter()  # I/O faults by test; conftest.py prints how many

libc = ctypes.CDLL(None, use_errno=True)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


class Mounted:
    """One mount: what kind it is, where, and (for tmpfsd) its daemon."""

    def __init__(self, kind: str, mnt: Path, options: str,
                 process: "subprocess.Popen[bytes] | None" = None, log: "Path | None" = None) -> None:
        self.kind, self.mnt, self.options, self.process, self.log = kind, mnt, options, process, log
        self.device: "tuple[int, int] | None" = None        # once it is mounted

    @property
    def daemon(self) -> "subprocess.Popen[bytes]":
        """The process that serves the mount (tmpfsd only)."""
        assert self.process is not None
        return self.process

    @property
    def edge(self) -> str:
        """Which edge serves it; "" for the kernel's tmpfs."""
        return self.status()["edge"] if self.kind == "tmpfsd" else ""

    @property
    def pid(self) -> int:
        """Its number."""
        return self.daemon.pid

    def find_device(self) -> None:
        """Note which file system it is.  => It is mounted."""
        self.device = next(mount.device for mount in mountinfo.table() if mount.path == str(self.mnt))

    def alive(self) -> bool:
        """Is there something to ask? False once a test has unmounted it, or ended the daemon itself."""
        return is_mounted(self.mnt) and (self.process is None or self.process.poll() is None)

    def status(self) -> dict[str, Any]:
        """The JSON of `tmpfsctl status`."""
        return json.loads(ctl("status", str(self.mnt), "--json").stdout)

    def check(self) -> None:
        """The whole-file-system check; the kernel's tmpfs has none."""
        if self.kind == "tmpfsd":
            result = ctl("check", str(self.mnt), check=False)
            assert result.returncode == 0, f"tmpfsctl check: {result.stdout}{result.stderr}{self.log_text()}"

    def log_text(self) -> str:
        """What the daemon has logged so far."""
        return self.log.read_text(errors="replace") if self.log else ""

    def close(self) -> None:
        """Unmount, by force where it must be, and see that the daemon ended by itself."""
        try:
            busy = unmount(self.mnt)
            if self.process is not None:
                self._reap(1 if busy else 10)
            assert not busy, f"{self.mnt} was busy at its end: a test left something open"
        finally:
            LIVE.discard(self)
            os.rmdir(self.mnt)
            if self.log:
                self.log.unlink()

    def _reap(self, seconds: float) -> None:
        try:
            status = self.wait(seconds)
        except subprocess.TimeoutExpired:
            doing = what_it_does(self.pid)
            self.daemon.kill()
            self.daemon.wait(timeout=10)
            still = [mount for mount in mountinfo.table() if mount.path == str(self.mnt)]
            pytest.fail(f"daemon {self.pid} outlived its mount: {doing}{self.log_text()}\n{still}\n{list(REFUSED)}")
        assert status == 0, f"daemon ended with {status}: {self.log_text()}"

    def wait(self, seconds: float) -> int:
        """How the daemon ended.

        Two delays are no fault of it: a new mount namespace has a copy of the mount, which lives as long as the
        namespace; and on a busy machine the kernel may be slow to free the resources of a process after exit(2).
        """
        try:
            return self.daemon.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            if not is_elsewhere(self.device) and not is_exiting(self.pid):
                raise
            return self.daemon.wait(timeout=PATIENCE)


def need_others_to_run() -> None:
    """Skip where other users may not run this Python: root's clone may be in a directory of root's alone."""
    try:
        subprocess.run([sys.executable, "-c", ""], user=NOBODY, group=NOBODY, extra_groups=[], cwd="/", timeout=60)
    except PermissionError:
        pytest.skip(f"another user may not run {sys.executable}")


def abort_all() -> None:
    """End every tmpfsd daemon, so that whatever waits for one gets ENOTCONN."""
    for mounted in list(LIVE):
        mounted.daemon.kill()


def is_mounted(mnt: Path) -> bool:
    """Is something mounted here? Read from the kernel's table: a dead mount would hang or refuse a stat."""
    return any(mount.path == str(mnt) for mount in mountinfo.table())


def is_elsewhere(device: "tuple[int, int] | None") -> bool:
    """Has any mount namespace a mount of this file system?"""
    for path in Path("/proc").glob("[0-9]*/mountinfo"):
        with suppress(OSError), open(path, "rb", buffering=0) as file:       # it has ended, or is not ours to read
            if any(mount.device == device for mount in mountinfo.table(file)):
                return True
    return False


def is_exiting(pid: int) -> bool:
    """Has a process called exit(2), or been killed?"""
    flags = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[6]
    return bool(int(flags) & PF_EXITING)


def what_it_does(pid: int) -> str:
    """Each thread of a process: its name, state, and where in the kernel it waits."""
    told = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):
            head, _bracket, tail = (task / "stat").read_text().rpartition(")")
            told.append(f"{head.partition('(')[2]} {tail.split()[0]} {(task / 'wchan').read_text()}\n")
    return "".join(told)


def unmount(mnt: Path) -> bool:
    """umount, then umount -l: whether that was needed. Nothing is done where nothing is mounted."""
    # A child that was ended a moment ago may still hold a file: umount is tried more than once.
    for command in (["umount"], ["umount"], ["umount"], ["umount", "-l"]):
        if not is_mounted(mnt):
            return False
        if os.geteuid() != 0:
            command = ["fusermount3", "-u"] + (["-z"] if "-l" in command else [])
        done = subprocess.run([*command, str(mnt)], timeout=30, capture_output=True)
        if done.returncode:
            REFUSED.append(f"{command}: {done.returncode}: {os.fsdecode(done.stderr)}")
            time.sleep(0.1)
    return "-l" in command


def new_mountpoint() -> Path:
    """A directory that every user can reach (pytest's own are for the owner only)."""
    mnt = Path(tempfile.mkdtemp(prefix="tmpfsd-test-"))
    mnt.chmod(0o755)
    return mnt


def mount_kernel(options: str) -> Mounted:
    """Mount the kernel's tmpfs; skips where that is not allowed."""
    if os.geteuid() != 0:
        pytest.skip("a kernel tmpfs needs root")
    mnt = new_mountpoint()
    result = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(mnt)],
                            capture_output=True, text=True, timeout=30)
    if result.returncode:
        os.rmdir(mnt)
        pytest.skip(f"no kernel tmpfs here: {result.stderr.strip()}")
    return Mounted("kernel", mnt, options)


def mount_tmpfsd(options: str, others: bool = True, **environment: str) -> Mounted:
    """Mount tmpfsd and wait until it answers; root's mounts are open to others."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("no /dev/fuse that can be opened")
    mnt = new_mountpoint()
    handle, log = tempfile.mkstemp(prefix="tmpfsd-test-", suffix=".log")
    if os.geteuid() == 0 and others:
        options += ",allow_other"
    if EDGE and "edge=" not in options:
        options += f",edge={EDGE}"
    command = [sys.executable, "-m", "tmpfsd.cli.mount", "test", str(mnt), "-f", "-o", options]
    daemon = subprocess.Popen(command, env=_environment(environment), stdin=subprocess.DEVNULL,
                              stdout=handle, stderr=handle)
    os.close(handle)
    mounted = Mounted("tmpfsd", mnt, options, daemon, Path(log))
    LIVE.add(mounted)
    _wait_until_served(mounted)
    return mounted


def _wait_until_served(mounted: Mounted) -> None:
    deadline = time.monotonic() + 20
    while not is_mounted(mounted.mnt):
        if mounted.daemon.poll() is not None or time.monotonic() > deadline:
            text = mounted.log_text()
            mounted.daemon.kill()
            mounted.close()
            pytest.fail(f"tmpfsd -o {mounted.options} did not mount: {text}")
        time.sleep(0.01)
    mounted.find_device()
    os.statvfs(mounted.mnt)


def _environment(extra: dict[str, str]) -> dict[str, str]:
    path = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path, **extra}


def ctl(*arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
    """Run tmpfsctl."""
    return subprocess.run([sys.executable, "-m", "tmpfsd.cli.ctl", *arguments], env=_environment({}),
                          capture_output=True, text=True, check=check, timeout=120)


@contextmanager
def fails_with(*expected: int) -> Iterator[None]:
    """The block must raise OSError with one of these errno values."""
    with pytest.raises(OSError) as caught:
        yield
    number = caught.value.errno or 0
    assert number in expected, \
        f"{errno.errorcode[number]} instead of {[errno.errorcode[e] for e in expected]}"


def _checked(result: int, *where: object) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), *where[:1])
    return result


def renameat2(old: "os.PathLike[str] | str", new: "os.PathLike[str] | str", flags: int) -> None:
    """rename() with flags."""
    paths = AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new)
    _checked(libc.renameat2(*paths, ctypes.c_uint(flags)), old)


class Timespec(ctypes.Structure):
    """struct timespec."""

    _fields_ = [("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long)]


Time = int | tuple[int, int]  # nanoseconds since the epoch (or UTIME_NOW, UTIME_OMIT), or the two fields


def utimensat(path: "os.PathLike[str] | str", atime: Time, mtime: Time) -> None:
    """utimensat() with UTIME_NOW, UTIME_OMIT and times that os.utime() does not take."""
    pairs = [(0, t) if t in (UTIME_NOW, UTIME_OMIT) else divmod(t, 10**9) if isinstance(t, int) else t
             for t in (atime, mtime)]
    both = (Timespec * 2)(*(Timespec(*pair) for pair in pairs))
    _checked(libc.utimensat(AT_FDCWD, os.fsencode(path), both, 0), path)


def linkat_following(old: "os.PathLike[str] | str", new: "os.PathLike[str] | str") -> None:
    """linkat() with AT_SYMLINK_FOLLOW, which os.link() leaves out."""
    _checked(libc.linkat(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), AT_SYMLINK_FOLLOW), old)


class Entry(NamedTuple):
    """One directory entry as getdents64() gives it."""

    name: bytes
    ino: int
    offset: int
    kind: int


def inodes_held(mounted: Mounted) -> int:
    """How many inodes a tmpfsd mount holds, those among them that were removed."""
    status = mounted.status()
    return status["inodes"] + status["orphans"]


def getdents(fd: int, size: int = 32768) -> list[Entry]:
    """One getdents64() call; an empty list at the end of the directory."""
    buffer = ctypes.create_string_buffer(size)
    end, at = _checked(libc.getdents64(fd, buffer, ctypes.c_size_t(size))), 0
    entries: list[Entry] = []
    raw = buffer.raw[:end]
    while at < end:
        ino, offset, length, kind = DIRENT.unpack_from(raw, at)
        entries.append(Entry(raw[at + DIRENT.size:at + length].split(b"\0", 1)[0], ino, offset, kind))
        at += length
    return entries


def spawn(function: Callable[[], Any]) -> int:
    """Run function in a forked child (which always ends here); returns its pid."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: fork beside the watchdog's thread
        pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        function()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def reap(*pids: int) -> None:
    """Wait for children of spawn(): each must have ended well."""
    statuses = [os.waitpid(pid, 0)[1] for pid in pids]
    assert not any(statuses), f"wait status of children: {statuses}"


def end(*pids: int) -> None:
    """End children that run until they are told to."""
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def in_child(function: Callable[[], Any]) -> Any:
    """function() in another process: its (JSON-able) result, or its OSError raised here."""
    reader, writer = os.pipe()

    def body() -> None:
        try:
            answer = {"result": function()}
        except OSError as failure:
            answer = {"errno": failure.errno}
        os.write(writer, json.dumps(answer).encode())

    pid = spawn(body)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        text = pipe.read()
    reap(pid)
    answer = json.loads(text)
    if "errno" in answer:
        raise OSError(answer["errno"], os.strerror(answer["errno"]))
    return answer["result"]


def as_user(function: Callable[[], Any], uid: int = NOBODY, gid: "int | None" = None,
            groups: tuple[int, ...] = ()) -> Any:
    """function() as another user, without any capability."""
    def body() -> Any:
        os.setgroups(groups)
        os.setresgid(*[uid if gid is None else gid] * 3)
        os.setresuid(uid, uid, uid)
        return function()

    return in_child(body)


def set_fsids(uid: int, gid: int) -> None:
    """Make this thread use files as another user: setfsuid(2), which also drops the capabilities for files."""
    for call, number in ((libc.setfsgid, gid), (libc.setfsuid, uid)):
        call(number)
        assert call(-1) == number       # it returns no error


def as_fsuser(function: Callable[[], Any], uid: int = NOBODY, gid: "int | None" = None,
              groups: tuple[int, ...] = ()) -> Any:
    """function() in a process of root's that uses files as another user does, as file servers do."""
    def body() -> Any:
        os.setgroups(groups)
        set_fsids(uid, uid if gid is None else gid)
        return function()

    return in_child(body)


def touch(path: "os.PathLike[str] | str | bytes", content: bytes = b"", mode: int = 0o644) -> None:
    """Create (or overwrite) a file with this content."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        while content:
            content = content[os.write(fd, content):]
    finally:
        os.close(fd)


def make_one(kind: str, path: Path) -> None:
    """Make a file of this kind."""
    if kind == "symlink":
        os.symlink("text", path)
    else:
        makers: dict[str, Callable[[Path], object]] = {"file": touch, "directory": os.mkdir, "fifo": os.mkfifo}
        makers[kind](path)


def eventually(condition: Callable[[], bool], seconds: float = 10) -> bool:
    """Does condition() become true in this time? For work that the daemon does while it is idle."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process that does nothing meanwhile."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def of(path: "str | bytes | Path") -> mountinfo.MountPoint:
    """The mount at a path."""
    found = mountinfo.find(os.fsdecode(path))
    assert found is not None
    return found


def command(module: str, *words: "str | bytes") -> "subprocess.CompletedProcess[bytes]":
    """Run tmpfsd or tmpfsctl, in bytes."""
    return subprocess.run([sys.executable, "-m", f"tmpfsd.cli.{module}", *words], capture_output=True, timeout=60,
                          env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, stdin=subprocess.DEVNULL, check=False)
