"""bench/servers.py: the file systems that are measured, each mounted by a server of its own while a part runs.

Picture     Spec -running()-> Server (process, mount, log) -end of running()-> nothing
            A server that does not start is named in the results and left out; the others go on.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from tmpfsd.options import BACKENDS
from tools import mounts
from tools.experiments.child import environment
from tools.mounts import NotMounted

TMPFSD, KERNEL, NULLFS, EXAMPLE = "tmpfsd", "kernel tmpfs", "nullfs", "pyfuse3 example"
NOPERM = f"{TMPFSD}, noperm"
DEFAULT_BACKEND = "pageable-submap"
RESIDENT = "ram=1g,size=4g"                     # nothing pages out with it
ANSWER_SECONDS = 10.0
UNMOUNTED_SECONDS = 1.0                         # a server that never mounted, or no longer is, has no reason to stay
SETTLE_SECONDS, GLANCE_SECONDS, QUIET_SHARE = 2.0, 0.01, 0.1
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Spec:
    """A server: its command, in which {mnt} is the mountpoint, or why it cannot be started."""

    name: str
    command: tuple[str, ...] = ()
    full: bool = True                           # False: metadata operations of one client only
    missing: str = ""

    @property
    def shown(self) -> str:
        """The command, for the report: without directories."""
        return shlex.join(re.sub(r"[^\s=,:]*/", "", word) for word in self.command).replace("'{mnt}'", "{mnt}")


def tmpfsd(name: str, options: str, full: bool = True) -> Spec:
    """tmpfsd with these options."""
    return Spec(name, (sys.executable, "-m", "tmpfsd.cli.mount", "bench", "{mnt}", "-f", "-o", options), full)


def backends(quick: bool) -> list[Spec]:
    """tmpfsd with the backends that are not the default."""
    names = [name for name in BACKENDS if name != DEFAULT_BACKEND]
    return [tmpfsd(f"{TMPFSD}, {name}", f"{RESIDENT},backend={name}", False) for name in names[:1 if quick else None]]


def noperm() -> Spec:
    """tmpfsd without the kernel's permission check, for comparison with servers without default_permissions."""
    return replace(tmpfsd(NOPERM, f"{RESIDENT},noperm", False), missing="" if os.geteuid() == 0 else "needs root")


def counterpart(name: str, command: str) -> str:
    """The tmpfsd that a FUSE server is compared with: the kernel checks permissions for both, or for none."""
    return TMPFSD if name == EXAMPLE or "default_permissions" in command else NOPERM


def kernel() -> Spec:
    """The kernel's tmpfs: a mount without a server."""
    return Spec(KERNEL, ("mount", "-t", "tmpfs", "-o", "size=50%,nr_inodes=0", "tmpfs", "{mnt}"),
                missing="" if os.geteuid() == 0 else "needs root")


def nullfs(source: str, place: Path) -> Spec:
    """The floor, compiled from its source."""
    program = place / NULLFS
    try:
        flags = subprocess.run(["pkg-config", "--cflags", "--libs", "fuse3"], capture_output=True, text=True,
                               check=True).stdout.split()
        subprocess.run(["cc", "-O2", source, "-o", str(program), *flags], capture_output=True, text=True, check=True,
                       timeout=120)
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
        return Spec(NULLFS, missing=without_places(f"cannot be compiled: {said[0] if said else error}"))
    return Spec(NULLFS, (str(program), "{mnt}"))


def peer(text: str) -> Spec:
    """A server given as NAME=COMMAND.  => ValueError."""
    name, _, command = text.partition("=")
    words = tuple(shlex.split(command))
    if not name.strip() or not any("{mnt}" in word for word in words):
        raise ValueError(f"{text!r} is not NAME=COMMAND with {{mnt}} for the mountpoint")
    return Spec(name.strip(), words)


def without_places(text: str) -> str:
    """A text without directories and without the name of the host."""
    text = re.sub(r"(?<![\w.])/(?:[^\s/:'\"]+/)*(?=[^\s/:'\"])", "", text)
    return re.sub(rf"\b{re.escape(os.uname().nodename)}\b", "host", text)


class Server:
    """A file system while it is mounted."""

    __slots__ = ("spec", "mnt", "log", "process")

    def __init__(self, spec: Spec, mnt: Path) -> None:
        self.spec = spec
        self.mnt = str(mnt)
        self.log = mnt.with_suffix(".log")
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def name(self) -> str:
        """Its name."""
        return self.spec.name

    @property
    def alive(self) -> bool:
        """Whether there is somebody to answer; the kernel always is."""
        return self.process is None or self.process.poll() is None

    def start(self) -> None:
        """Mount it.  => NotMounted."""
        if self.spec.missing:
            raise NotMounted(self.spec.missing)
        command = [word.replace("{mnt}", self.mnt) for word in self.spec.command]
        os.mkdir(self.mnt)
        if self.spec.name == KERNEL:
            self._demand(command)
            return
        with self.log.open("wb") as log:
            try:
                self.process = subprocess.Popen(command, env=environment(), stdin=subprocess.DEVNULL, stdout=log,
                                                stderr=log, start_new_session=True)
            except OSError as error:
                raise NotMounted(f"cannot be started: {error.strerror}") from None
        try:
            mounts.wait_for_mount(self.mnt, self.process)
        except NotMounted as why:
            said = self.log.read_text(errors="replace").strip().splitlines()
            raise NotMounted(without_places(": ".join([str(why), *said[-1:]]))) from None
        self._demand(["stat", "-f", self.mnt])

    def _demand(self, command: list[str]) -> None:
        """Run a command that touches the mount.  => NotMounted."""
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            _, said = process.communicate(timeout=ANSWER_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()                                         # before that, not even SIGKILL ends who waits for it
            process.kill()
            process.communicate()
            raise NotMounted(f"mounted, but did not answer in {ANSWER_SECONDS:g} s") from None
        if process.returncode:
            raise NotMounted(without_places(said.decode(errors="replace").strip()))

    def close(self) -> None:
        """Unmount it, and wait until its process ends."""
        mounted = mounts.is_mounted(self.mnt)
        if mounted:
            mounts.unmount(self.mnt)
        if self.process is not None:
            mounts.end(self.process, mounts.END_SECONDS if mounted else UNMOUNTED_SECONDS)
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)     # what it started: it has a session of its own
        with suppress(OSError):
            os.rmdir(self.mnt)

    def kill(self) -> None:
        """End a server that does not answer: processes that wait for it get ENOTCONN."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(mounts.END_SECONDS)

    def cpu_ticks(self) -> int:
        """Clock ticks that its process has used."""
        if self.process is None:
            return 0
        fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    def cpu_seconds(self) -> float:
        """Processor time of its threads, to the microsecond; 0 if the kernel does not tell."""
        total = 0
        if self.process is not None:
            for path in Path(f"/proc/{self.process.pid}/task").glob("*/schedstat"):
                with suppress(OSError):                     # a thread may end
                    total += int(path.read_text(encoding="ascii").split()[0])
        return total / 1e9


@contextmanager
def on_cpus(cpus: set[int]) -> Iterator[None]:
    """Everything that is started in the block, and its children, stays on these processors."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def running(specs: Sequence[Spec], place: Path, cpus: set[int],
            failed: dict[str, str]) -> Iterator[list[Server]]:
    """These servers, mounted; the reasons why some are not go into `failed`."""
    with ExitStack() as stack:
        servers = []
        for number, spec in enumerate(specs):
            server = Server(spec, place / f"mnt{number}")
            stack.callback(server.close)
            try:
                with on_cpus(cpus):
                    server.start()
            except NotMounted as why:
                failed[spec.name] = str(why)
            else:
                servers.append(server)
        yield servers


def settle(servers: Sequence[Server]) -> None:
    """Wait until none has old work left: the caller that causes a FORGET or RELEASE does not wait for it."""
    deadline = time.monotonic() + SETTLE_SECONDS
    used = sum(server.cpu_seconds() for server in servers)
    while time.monotonic() < deadline:
        time.sleep(GLANCE_SECONDS)
        before, used = used, sum(server.cpu_seconds() for server in servers)
        if used - before < QUIET_SHARE * GLANCE_SECONDS:
            return
