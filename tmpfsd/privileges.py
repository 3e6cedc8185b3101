"""privileges.py: what root's daemon gives up once it has mounted, and the one capability that it keeps.

Picture     all of root's --drop()--> SYS_ADMIN permitted, none effective --admin()--> SYS_ADMIN effective

    kept        CAP_SYS_ADMIN, for umount(2) at the end; raised for that call only.  Also CAP_DAC_READ_SEARCH, if
                without it no path leads to the mount (below another user's directory of mode 0700)
    given up    all others, among them CAP_DAC_OVERRIDE and, otherwise, CAP_DAC_READ_SEARCH: it can still open what
                root owns (the swap file, the directory of the control socket, devices), nothing else.
                CAP_SYS_RESOURCE too: the swap file does not use the blocks that a disk reserves for root.  The
                supplementary groups.  A file for `tmpfsctl swapon` is opened by tmpfsctl later, and passed as a
                descriptor.
    no_new_privs  no program that it starts gets any of them back

A daemon of another user has nothing to give up, and at its end needs fusermount3, which is set-user-ID: it keeps all.

Limits      It stays user 0, which owns all of root's files.  Landlock (tried, Linux 6.18): umount(2) is EPERM for a
            restricted process, whatever the rules.  That would need a second, unrestricted process that holds the
            capability.  Changing to another uid after opening: other processes of that uid could send signals, and
            every mount would need a uid of its own.
            Capabilities belong to a thread: threads that begin before drop() call give_up() first, and the threads
            that they start have none either.
            A socket of metrics= in another user's directory cannot be removed at the end.  Its name stays, and the next
            mount with that name reuses it.  (A capability kept for that would open everything.)
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import threading
from collections.abc import Iterator

CAP_DAC_READ_SEARCH, CAP_SYS_ADMIN = 1 << 2, 1 << 21
PR_SET_NO_NEW_PRIVS = 38
VERSION_3 = 0x20080522      # _LINUX_CAPABILITY_VERSION_3: 64 bits, in two halves

log = logging.getLogger(__name__)
_libc = ctypes.CDLL(None, use_errno=True)
_groups = threading.Lock()
_left: list[int] = []               # the process that has left them: this one, or the one it was forked from
_Header = ctypes.c_uint32 * 2       # struct __user_cap_header_struct: version, pid
_Data = ctypes.c_uint32 * 6         # struct __user_cap_data_struct[2]: effective, permitted, inheritable


def _call(name: str, data: ctypes.Array[ctypes.c_uint32]) -> None:
    if getattr(_libc, name)(_Header(VERSION_3, 0), data):
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")


def capabilities() -> tuple[int, int]:
    """Return the effective and the permitted capabilities of this thread."""
    data = _Data()
    _call("capget", data)
    return data[0] | data[3] << 32, data[1] | data[4] << 32


def set_capabilities(effective: int, permitted: int) -> None:
    """Set the capabilities of this thread; none is inheritable."""
    low = (1 << 32) - 1
    _call("capset", _Data(effective & low, permitted & low, 0, effective >> 32, permitted >> 32, 0))


def reachable(path: str) -> bool:
    """Tell whether this thread may follow a path up to a mount, which is not asked."""
    try:
        os.close(os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC))
    except PermissionError:
        return False
    except OSError:
        pass
    return True


def leave_groups() -> None:
    """Leave root's supplementary groups, once, with _groups held.

    setgroups(3) is for all threads: if one thread no longer may and another may, the C library calls abort().
    """
    if os.geteuid() == 0 and os.getpid() not in _left:
        os.setgroups([])
        _left.append(os.getpid())


def drop(mountpoint: str = "/") -> None:
    """Give up what is not needed to serve a mount; only for root."""
    if os.geteuid() != 0:
        return
    try:
        with _groups:
            leave_groups()
        permitted = capabilities()[1]
        set_capabilities(0, permitted)
        kept = CAP_SYS_ADMIN if reachable(mountpoint) else CAP_SYS_ADMIN | CAP_DAC_READ_SEARCH
        set_capabilities(0, permitted & kept)
    except OSError as error:
        log.warning("privileges are kept: %s", error)
    _libc.prctl(PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), 0, 0, 0)


def give_up() -> None:
    """Keep no capability in this thread, nor in those that it starts: threads that speak to a server need none."""
    try:
        with _groups:
            leave_groups()
            set_capabilities(0, 0)
    except OSError as error:
        log.warning("a thread keeps its privileges: %s", error)


@contextlib.contextmanager
def admin() -> Iterator[None]:
    """Have CAP_SYS_ADMIN within, and what else is kept, if this thread may."""
    effective, permitted = capabilities()
    if effective & CAP_SYS_ADMIN or not permitted & CAP_SYS_ADMIN:
        yield
        return
    set_capabilities(effective | permitted & (CAP_SYS_ADMIN | CAP_DAC_READ_SEARCH), permitted)
    try:
        yield
    finally:
        set_capabilities(effective, permitted)
