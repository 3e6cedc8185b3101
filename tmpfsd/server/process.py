"""process.py: what the daemon asks of the kernel about itself, and where its log goes."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import logging.handlers
import os
import socket
import sys

from tmpfsd.fuse.init import MAX_WRITE
from tmpfsd.mounts.printable import printable

DUMPS = logging.CRITICAL        # a broken invariant and its dump; these contain no names that others chose
PR_SET_DUMPABLE = 4
PR_SET_IO_FLUSHER = 57
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
READ_AHEAD = 1 << 20
MAX_RATIO = 40                  # percent
SYSLOG_SOCKET = "/dev/log"

log = logging.getLogger(__name__)


def prctl(option: int, value: int) -> bool:
    """Call prctl(2); tell whether it worked."""
    libc = ctypes.CDLL(None, use_errno=True)
    return libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) == 0


def harden() -> None:
    """Make the process fit to serve other people's files."""
    os.umask(0)                         # the caller's umask counts, not the daemon's
    prctl(PR_SET_DUMPABLE, 0)           # no core dump and no ptrace: memory and swap hold everybody's data
    if os.geteuid() == 0:
        # Writing to swap must not wait for dirty pages of our own mount to be written back by us.
        prctl(PR_SET_IO_FLUSHER, 1)


def keep_buffers() -> None:
    """Let malloc(3) keep what is freed at the top of the heap.

    The bytes of a write are a new object each time: a heap that returns 256 KiB and takes them again faults in 64
    pages for each request.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)       # glibc's
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 8 * MAX_WRITE)
        mallopt(M_TRIM_THRESHOLD, 16 * MAX_WRITE)


def set_caching(major: int, minor: int) -> None:
    """Set what the kernel reads ahead, and how much it may hold that is not written back.  Root only.

    read_ahead_kb   READ_AHEAD: four requests at once; its default, 128 KiB, is half of one.
    max_ratio       of what the whole machine may hold dirty.  FUSE's default is 1 %, at which a process that writes
                    through mmap waits for us.  Measured: 100 MiB written ten times over takes 0.2 s instead of 1.5 s.
    strict_limit stays 1: if our dirty pages could be all that the machine may hold, we might have to wait for ourselves
    when we write to the swap file (without CAP_SYS_RESOURCE there is no PR_SET_IO_FLUSHER).
    """
    for name, value in (("read_ahead_kb", READ_AHEAD >> 10), ("max_ratio", MAX_RATIO)):
        path = f"/sys/class/bdi/{major}:{minor}/{name}"
        with contextlib.suppress(OSError), open(path, "w", encoding="ascii") as file:
            file.write(str(value))


def tell_supervisor(word: bytes) -> None:
    """Tell systemd the state of the service, if it waits for that (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address.startswith(("/", "@")):
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.sendto(word, address.replace("@", "\0", 1) if address.startswith("@") else address)


def fuse_device(descriptors: set[int]) -> tuple[int, int] | None:
    """Return the device number of the mount that one of these descriptors serves, if the kernel tells it; else None."""
    for descriptor in descriptors:
        with contextlib.suppress(OSError), open(f"/proc/self/fdinfo/{descriptor}", "rb") as file:
            for line in file:
                if line.startswith(b"fuse_connection:"):
                    number = int(line.split(b":")[1])
                    return number >> 20, number & 0xfffff       # a dev_t as the kernel has it
    return None


def still_garbage() -> None:
    """Turn the cyclic collector off.

    A full pass looks at every object of the tables and stalls requests; a request makes no cycles.
    """
    gc.collect()
    gc.freeze()
    gc.disable()


class Syslog(logging.handlers.SysLogHandler):
    """A SysLogHandler that never waits: it drops what a stuck syslog daemon does not take."""

    # The one place where emit() also reconnects; typeshed lists neither it nor the socket (hence the two ignores).
    def _connect_unixsocket(self, address: str) -> None:
        super()._connect_unixsocket(address)        # type: ignore[misc]
        self.socket.setblocking(False)              # type: ignore[attr-defined]


class OneLine(logging.Formatter):
    """Formats messages that contain names which others have chosen; a traceback and a dump keep their lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The message, which must be text that any log can take."""
        return "\n".join(map(printable, super().formatMessage(record).split("\n"))) if record.levelno >= DUMPS else \
            printable(super().formatMessage(record))


def start_log(mountpoint: str, foreground: bool, debug: bool) -> None:
    """Log to stderr in the foreground, to syslog in the background."""
    handler: logging.Handler
    if foreground:
        handler = logging.StreamHandler(sys.stderr)
    elif os.path.exists(SYSLOG_SOCKET):
        try:
            handler = Syslog(SYSLOG_SOCKET, logging.handlers.SysLogHandler.LOG_DAEMON)
        except OSError:
            handler = logging.NullHandler()
    else:
        handler = logging.NullHandler()
    place = printable(mountpoint).replace("%", "%%")
    handler.setFormatter(OneLine(f"tmpfsd[{os.getpid()}]: %(levelname)s {place}: %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.DEBUG if debug else logging.INFO)
    logging.raiseExceptions = False     # a log that cannot be written must not disturb the file system
