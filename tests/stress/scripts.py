"""stress/scripts.py: random system calls, each made of one number.

A script is a list of steps, and a step is (user, seed): the operation is a function of its seed alone.  So any part of
a script is a script, and any source of numbers makes scripts: `random` makes long ones, Hypothesis makes ones that
shrink.  Names and handles come from small pools, so that operations meet each other's files.

Picture     operation(seed) -> (kind, arguments...): player.py does this on one side
Limits      Nothing here looks at a file system: about half of the operations are refused, which is compared too.
"""

from __future__ import annotations

import os
import stat
from random import Random
from struct import Struct
from typing import Any, Callable, NamedTuple


class User(NamedTuple):
    """Who plays; for_files: root's process, which has taken user and group for files only (setfsuid(2))."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    for_files: bool = False

    def __str__(self) -> str:
        return f"root as {self.uid}" if self.for_files else str(self.uid)


USERS = (User(0, 0), User(1000, 1000, (2000,)), User(1001, 1001, (2000, 2001)), User(1002, 2000),
         User(1000, 1000, (2001,), True), User(1001, 2000, (), True))
USER_WEIGHTS = (6, 3, 2, 2, 3, 2)
IDS = (0, 1000, 1001, 1002, 2000, 2001, 4_000_000_000, -1)
HANDLES = 4
# Operations around which nobody looks: they change no place that has a name.
QUIET = frozenset(("getflags", "stat", "access", "readlink", "list", "getxattr", "listxattr", "getacl"))

NAMES = (b"a", b"b", b"c", b"d", b"13characters.", b"m" * 31, b"o" * 33, b"\xff\xfe\x01 \n", b"n" * 255,
         b"p", b"q", b"r")
NAME_WEIGHTS = (20, 20, 20, 10, 4, 2, 2, 5, 5, 4, 4, 4)
NEW = NAMES[3:]                 # less used: where a second name goes
ODD = (b".", b"..", b"", b"n" * 256, b"\xc3" * 1024, b"x" * 1025, b"...", b"a/.", b"b/..", b"c/", b"./d")
LONG = (b"a/" * 2047 + b"a", b"a/" * 2048, b"./" * 2000 + b"b")      # PATH_MAX, and within it

# Around every boundary: in the node, string classes, pages, clusters of pages; and far out.
SIZES = (0, 1, 13, 47, 48, 49, 63, 64, 65, 128, 511, 512, 1024, 2047, 2048, 2049, 4095, 4096, 4097, 8192, 12_000,
         65_535, 65_536, 65_537, 100_000, 250_000)
FAR = ((1 << 31) - 1, 1 << 31, 1 << 32, (1 << 40) + 1, (1 << 62) - 5, (1 << 63) - 4097, (1 << 63) - 2, (1 << 63) - 1)
VALUE_SIZES = (0, 1, 20, 1900, 2048, 2100, 4096, 4097, 9000, 65_536, 65_537)
ATTRIBUTES = (b"user.a", b"user.b", b"user.\xff", b"user." + b"v" * 250, b"trusted.t", b"security.s")
ODD_ATTRIBUTES = (b"user." + b"v" * 251, b"user.", b"system.x", b"nothing", b"")
ACLS = (b"system.posix_acl_access", b"system.posix_acl_default")
YEAR_1988, YEAR_2200 = 567_993_600 * 10**9 + 5, 7_258_118_400 * 10**9 + 999_999_999
NOW, OMIT = (1 << 30) - 1, (1 << 30) - 2                            # UTIME_NOW, UTIME_OMIT
TIMES = (NOW, NOW, OMIT, 0, 1, YEAR_1988, YEAR_1988 + 10**9, YEAR_2200, -1, -(10**15))
DEVICES = (0, os.makedev(1, 3), os.makedev(240, 7), os.makedev(4000, 1_000_000))
TYPES = (stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFDIR, stat.S_IFLNK, 0)
NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4
IMMUTABLE, APPEND, NODUMP, NOATIME = 0x10, 0x20, 0x40, 0x80         # FS_*_FL
_ACL_HEAD, _ACL_ENTRY = Struct("<I"), Struct("<HHI")                # <linux/posix_acl_xattr.h>

Place = tuple[int, bytes]           # a directory's handle or -1, and a path from there
Operation = tuple[Any, ...]
Step = tuple[int, int]


# --- the parts ---

def name(r: Random) -> bytes:
    """One component, seldom an odd one."""
    return r.choice(ODD) if r.random() < 0.04 else r.choices(NAMES, NAME_WEIGHTS)[0]


def path(r: Random) -> bytes:
    """One to three components."""
    if r.random() < 0.003:
        return r.choice(LONG)
    return b"/".join(name(r) for _ in range(r.choices((1, 2, 3), (60, 30, 10))[0])) + b"/" * (r.random() < 0.03)


def place(r: Random) -> Place:
    """A path from the root, or from a directory that is held open."""
    return (handle(r), path(r)) if r.random() < 0.12 else (-1, path(r))


def new(r: Random) -> Place:
    """A place that may be free."""
    return place(r) if r.random() < 0.4 else (-1, r.choice((b"", b"", b"a/", b"b/", b"c/", b"a/b/")) + r.choice(NEW))


def owners(r: Random) -> tuple[int, int]:
    """A new owner and group, or only one of them (allowed.py tells why never none)."""
    while (found := (r.choice(IDS), r.choice(IDS))) == (-1, -1):
        pass
    return found


def handle(r: Random) -> int:
    """One of the user's open files, if there is one at that place."""
    return r.randrange(HANDLES)


def mode(r: Random) -> int:
    """Permission bits: mostly wide, at times any."""
    return r.choice((0o777,) * 5 + (0o755, 0o666, 0o640, 0o700, 0o2775, 0o1777, 0o6755, r.randrange(0o10000)))


def offset(r: Random) -> int:
    """Where to read and write."""
    return r.choice(FAR) if r.random() < 0.05 else r.choice(SIZES) + r.choice((0, 0, 0, -1, 1, 4096))


def size(r: Random) -> int:
    """How much."""
    return r.choice(SIZES) if r.random() < 0.7 else r.randrange(9000)


def acl(r: Random) -> bytes:
    """An ACL as the kernel encodes it: mostly a good one."""
    entries = [(1, r.randrange(8), 0xFFFFFFFF)]
    entries += [(2, r.randrange(8), uid) for uid in (1000, 1001) if r.random() < 0.4]
    entries.append((4, r.randrange(8), 0xFFFFFFFF))
    entries += [(8, r.randrange(8), gid) for gid in (2000, 2001) if r.random() < 0.4]
    if len(entries) > 2 or r.random() < 0.2:
        entries.append((16, r.randrange(8) | 1, 0xFFFFFFFF))
    entries.append((32, r.randrange(8), 0xFFFFFFFF))
    if r.random() < 0.08:
        r.shuffle(entries)
    if r.random() < 0.1:
        del entries[r.randrange(len(entries)):]
    return _ACL_HEAD.pack(2 if r.random() < 0.98 else 3) + b"".join(_ACL_ENTRY.pack(*entry) for entry in entries)


def target(r: Random) -> bytes:
    """Where a symlink leads: mostly to something in reach."""
    if r.random() < 0.75:
        return path(r)[:4095] or b"a"
    return r.choice((b"/" + path(r)[:200], b"../" + name(r), b"t" * r.choice((47, 48, 49, 200, 2048, 4095)), b"."))


# --- the operations ---

def _open(r: Random) -> Operation:
    flags = r.choices((os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_PATH), (3, 3, 16, 1))[0]
    for flag, chance in ((os.O_CREAT, 0.6), (os.O_EXCL, 0.15), (os.O_TRUNC, 0.1), (os.O_APPEND, 0.1),
                         (os.O_NOFOLLOW, 0.1)):
        if r.random() < chance:
            flags |= flag
    return handle(r), place(r), flags, mode(r)


def _opendir(r: Random) -> Operation:
    return handle(r), place(r), os.O_RDONLY | os.O_DIRECTORY, 0


def _mknod(r: Random) -> Operation:
    return place(r), r.choice(TYPES) | mode(r), r.choice(DEVICES)


def attribute(r: Random) -> bytes:
    """The name of an extended attribute."""
    return r.choice(ODD_ATTRIBUTES if r.random() < 0.1 else ATTRIBUTES[:2] if r.random() < 0.7 else ATTRIBUTES)


def _setxattr(r: Random) -> Operation:
    return place(r), r.random() < 0.8, attribute(r), r.choice(VALUE_SIZES), r.choice((0, 0, 0, 1, 2))


def _acl(r: Random) -> Operation:
    return place(r), r.choice(ACLS), acl(r)


def _write(r: Random) -> Operation:
    return handle(r), offset(r), size(r), r.randrange(256)


def _length(r: Random) -> int:
    """How much room."""
    return r.choice((0, 1, 100, 4096, 9000, 70_000, 600_000))


def _fixed(r: Random) -> Operation:
    """An attempt on a file that is immutable or append-only meanwhile."""
    at = place(r)
    attempt: Operation = r.choice((
        ("unlink", at), ("rmdir", at), ("rename", at, new(r), 0), ("rename", new(r), at, 0),
        ("link", at, new(r), False), ("chmod", at, 0o777), ("chown", at, 1000, 1000, True),
        ("utimens", at, NOW, NOW, True), ("utimens", at, 1, 1, True), ("truncate", at, size(r)),
        ("mkdir", (at[0], at[1] + b"/new"), 0o777),
        ("setxattr", at, True, ATTRIBUTES[0], 20, 0), ("removexattr", at, True, ATTRIBUTES[0])))
    return at, r.choice((IMMUTABLE, APPEND)), [*attempt]        # no tuple: that would be a place


# kind: (weight, its arguments)
OPERATIONS: dict[str, tuple[int, Callable[[Random], Operation]]] = {
    "open": (20, _open),
    "opendir": (4, _opendir),
    "reopen": (1, lambda r: (handle(r), handle(r), r.choice((os.O_RDONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC)))),
    "close": (1, lambda r: (handle(r),)),
    "mkdir": (10, lambda r: (place(r), mode(r))),
    "mknod": (5, _mknod),
    "symlink": (4, lambda r: (target(r), place(r))),
    "link": (6, lambda r: (place(r), new(r), r.random() < 0.3)),
    "linkfd": (3, lambda r: (handle(r), new(r))),
    "unlink": (7, lambda r: (place(r),)),
    "rmdir": (4, lambda r: (place(r),)),
    "rename": (14, lambda r: (place(r), r.choice((place, new))(r),
                              r.choices((0, NOREPLACE, EXCHANGE, 3, 6, 8), (20, 6, 12, 1, 1, 1))[0])),
    "whiteout": (2, lambda r: (place(r), new(r), WHITEOUT)),
    "stat": (5, lambda r: (place(r), r.random() < 0.5)),
    "fstat": (3, lambda r: (handle(r),)),
    "access": (2, lambda r: (place(r), r.randrange(8))),
    "readlink": (2, lambda r: (place(r),)),
    "chmod": (5, lambda r: (place(r), mode(r))),
    "fchmod": (2, lambda r: (handle(r), mode(r))),
    "chown": (4, lambda r: (place(r), *owners(r), r.random() < 0.5)),
    "fchown": (2, lambda r: (handle(r), *owners(r))),
    "utimens": (4, lambda r: (place(r), r.choice(TIMES), r.choice(TIMES), r.random() < 0.5)),
    "futimens": (2, lambda r: (handle(r), r.choice(TIMES), r.choice(TIMES))),
    "truncate": (4, lambda r: (place(r), offset(r))),
    "ftruncate": (5, lambda r: (handle(r), offset(r))),
    "pwrite": (14, _write),
    "write": (4, lambda r: (handle(r), size(r), r.randrange(256))),
    "pread": (7, lambda r: (handle(r), offset(r), size(r))),
    "read": (2, lambda r: (handle(r), size(r))),
    "lseek": (2, lambda r: (handle(r), offset(r), r.randrange(3))),
    "copy": (2, lambda r: (handle(r), handle(r), size(r), offset(r), offset(r))),
    "mmap": (5, lambda r: (handle(r), r.choice((0, 0, 4096, 65_536)), size(r), r.choice(("read", "write", "private")),
                           r.randrange(256))),
    "fsync": (1, lambda r: (handle(r), r.random() < 0.5)),
    "list": (4, lambda r: (place(r), r.choice((300, 500, 4096, 32_768)), r.randrange(8))),
    "relist": (2, lambda r: (handle(r), r.choice((300, 32_768)))),
    "fill": (2, lambda r: (place(r), r.choice((5, 40, 120)))),
    "sweep": (1, lambda r: (place(r), r.choice((3, 30, 120)))),
    "setxattr": (6, _setxattr),
    "fsetxattr": (1, lambda r: (handle(r), attribute(r), r.choice(VALUE_SIZES), r.randrange(3))),
    "getxattr": (3, lambda r: (place(r), r.random() < 0.8, attribute(r))),
    "listxattr": (2, lambda r: (place(r), r.random() < 0.8)),
    "removexattr": (2, lambda r: (place(r), r.random() < 0.8, attribute(r))),
    "open_up": (1, lambda r: ()),
    "umask": (1, lambda r: (r.choice((0, 0, 0o022, 0o007, 0o727)),)),
    "statfs": (1, lambda r: ()),
}
# With ACLs: their attributes; without what allowed.py says.
ACL_OPERATIONS: dict[str, tuple[int, Callable[[Random], Operation]]] = {
    **{kind: entry for kind, entry in OPERATIONS.items() if kind != "whiteout"},
    "setacl": (12, _acl),
    "getacl": (4, lambda r: (place(r), r.choice(ACLS))),
    "removeacl": (2, lambda r: (place(r), r.choice(ACLS))),
}
# What edge=native passes on beside.
NATIVE_OPERATIONS: dict[str, tuple[int, Callable[[Random], Operation]]] = {
    "fallocate": (12, lambda r: (handle(r), r.choice((0, 0, 1, 1, 3, 3, 3, 2, 8, 32)), offset(r), _length(r))),
    "seek": (5, lambda r: (handle(r), offset(r), r.choice((os.SEEK_DATA, os.SEEK_HOLE)))),
    "tmpfile": (6, lambda r: (handle(r), (-1, r.choice((b".", b"a", b"b", b"a/b"))), r.random() < 0.2, mode(r))),
    "linktmp": (4, lambda r: (handle(r), new(r))),
    "copymore": (6, lambda r: (handle(r), handle(r), size(r), offset(r), offset(r))),
    "setflags": (3, lambda r: (place(r), r.choice((0, NODUMP, NOATIME, NODUMP | NOATIME, 1, APPEND)))),
    "getflags": (2, lambda r: (place(r),)),
    "fixed": (8, _fixed),
    "setboth": (3, lambda r: (place(r), True, attribute(r), r.choice(VALUE_SIZES), r.choice((0, 1, 2, 3, 3)))),
}
TABLES = {(acls, native): (ACL_OPERATIONS if acls else OPERATIONS) | (NATIVE_OPERATIONS if native else {})
          for acls in (False, True) for native in (False, True)}
_CHOICES = {key: (table, list(table), [weight for weight, _make in table.values()]) for key, table in TABLES.items()}


def operation(seed: int, acls: bool = False, native: bool = False) -> Operation:
    """The operation that belongs to a number."""
    r = Random(seed)
    table, kinds, weights = _CHOICES[acls, native]
    kind = r.choices(kinds, weights)[0]
    return (kind, *table[kind][1](r))


def script(seed: int, nsteps: int) -> list[Step]:
    """A long script: runs of steps of one user, so that not each is a message to another process."""
    r = Random(seed)
    steps: list[Step] = []
    while len(steps) < nsteps:
        user = r.choices(range(len(USERS)), USER_WEIGHTS)[0]
        steps += [(user, r.getrandbits(32)) for _ in range(min(r.choice((1, 2, 8, 30)), nsteps - len(steps)))]
    return steps
