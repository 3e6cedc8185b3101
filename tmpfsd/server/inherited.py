"""inherited.py: what a process inherits from its caller, and what the daemon does with that.

A daemon lives for months; its caller is a shell, a test runner, a container's start script.  The daemon needs nothing
that the caller's process had.  And one of the caller's limits would show up much later, as an EIO of the file system.

Picture     let_go()    descriptors closed (a lock of the caller is released, a pipe ends), working directory "/", no
                        signal blocked, SIGCHLD at its default (fusermount3 is waited for)
            set_limits() raised to what is needed, as far as this user may; else MountError names the limit
            kept        nice, scheduling and affinity, which the caller chooses for the daemon; the environment; the
                        descriptors that systemd handed over (LISTEN_FDS) in the foreground

Invariants  N1 After let_go() nothing is open except what was to be kept.
            N2 No limit of the caller becomes an error of a file: it is raised, or the mount is refused.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from collections.abc import Container

from tmpfsd.options import Config
from tmpfsd.server.refused import MountError
from tmpfsd.swapplaces import remote

FILES = 1024                    # descriptors: 64 clients, 16 scrapes, 16 swap files, one each being passed
LEAST_FILES = 160
OWN_ADDRESSES = 256 << 20       # address space of the interpreter, its libraries, a few threads' stacks
FIRST_LISTEN = 3                # SD_LISTEN_FDS_START of sd_listen_fds(3)
ADJUSTMENT = -500               # of the score by which the OOM killer chooses
INFINITE = resource.RLIM_INFINITY


def handed_over() -> range:
    """Return the descriptors that systemd gave to this process (sd_listen_fds(3))."""
    count = os.environ.get("LISTEN_FDS", "")
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or not (count.isascii() and count.isdigit()):
        return range(0)
    return range(FIRST_LISTEN, FIRST_LISTEN + int(count))


def let_go(keep: Container[int]) -> None:
    """Close all descriptors but 0, 1, 2 and those to keep; leave the caller's directory and its signal mask."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in keep:
            with contextlib.suppress(OSError):      # the one of the listing is closed already
                os.close(int(name))
    os.chdir("/")
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def set_limits(config: Config) -> None:
    """Raise the limits of this process that the mount could reach.  => MountError names one that cannot be raised."""
    file_bytes = 0
    if not all(remote(place) or is_device(place) for place in config.places):
        file_bytes = config.swap_size_bytes
    needs = ((resource.RLIMIT_FSIZE, "RLIMIT_FSIZE (ulimit -f)", INFINITE, file_bytes,
              "bytes of the swap file (give a smaller swap_size=)"),
             (resource.RLIMIT_NOFILE, "RLIMIT_NOFILE (ulimit -n)", FILES, LEAST_FILES, "open files"),
             (resource.RLIMIT_AS, "RLIMIT_AS (ulimit -v)", INFINITE, config.ram_bytes + OWN_ADDRESSES,
              "bytes of address space"),
             (resource.RLIMIT_DATA, "RLIMIT_DATA (ulimit -d)", INFINITE, config.ram_bytes + OWN_ADDRESSES,
              "bytes of memory"),
             (resource.RLIMIT_CPU, "RLIMIT_CPU (ulimit -t)", INFINITE, INFINITE, "seconds"))
    for kind, name, wanted, least, what in needs:
        got = raise_limit(kind, wanted)
        if below(got, least):
            need = "no limit of" if least == INFINITE else f"{least}"
            raise MountError(f"{name} is {got}, and this user may not raise it: the mount needs {need} {what}")


def is_device(path: str) -> bool:
    """Tell whether a path is a block device: limits of file sizes do not apply to those."""
    try:
        return os.stat(path).st_mode & 0o170000 == 0o060000
    except OSError:
        return False


def below(one: int, other: int) -> bool:
    """Compare two limits."""
    return one != INFINITE and (other == INFINITE or one < other)


def raise_limit(kind: int, wanted: int) -> int:
    """Raise a limit to what is wanted, or as far as this user may; return its new value."""
    soft, hard = resource.getrlimit(kind)
    if not below(soft, wanted):
        return soft
    for new in ((wanted, wanted if below(hard, wanted) else hard), (hard, hard)):
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(kind, new)
            return new[0]
    return soft


def largest_file() -> int:
    """Return how many bytes a file written by this process may have, or RLIM_INFINITY."""
    return resource.getrlimit(resource.RLIMIT_FSIZE)[0]


def spare_me(path: str = "/proc/self/oom_score_adj") -> None:
    """Have the OOM killer take others first, if this user may set that and nobody has set anything else.

    If this daemon dies, everything in its mount is lost; and it keeps to a budget, so it is never what grows.
    """
    with contextlib.suppress(OSError, ValueError), open(path, "r+", encoding="ascii") as file:
        if int(file.read()) == 0:
            file.seek(0)
            file.write(str(ADJUSTMENT))
