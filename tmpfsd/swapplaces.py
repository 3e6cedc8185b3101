"""swapplaces.py: where a mount may page to: the places that swap= names, and the default one.

It looks only at names, and the symbolic links in them.  cli/preflight.py checks whether a place can be used.

Limits      A colon in a path is written \\:, because a colon separates two places.
"""

from __future__ import annotations

import os
import re
import stat
from typing import NamedTuple

from tmpfsd.mounts import mountinfo

MAX_PLACES = 16             # uvm.swapset.MAX_FILES
SWAP_CANDIDATES = ("/var/tmp", "/tmp")
LEAST_FREE = 64 << 20       # bytes: a disk with less is full
TLS = ("valkeys", "rediss")
REMOTE = re.compile(r"(valkeys?|rediss?)://([^/\s]+)/([A-Za-z0-9._-]{1,64})(?=:|$)", re.ASCII)
SCHEME = re.compile(r"[a-z][a-z0-9+.]*://", re.ASCII)
URL = re.compile(r"[a-z][a-z0-9+.]*://[^@/\s]+/[^@\s]+", re.ASCII)
HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})", re.ASCII)
MEMORY_FILESYSTEMS = frozenset(("tmpfs", "ramfs", "devtmpfs", "fuse.tmpfsd"))


def default_swap() -> str | None:
    """Return the first directory for swap that is not itself in memory and can be written to, or None.

    => a directory whose disk is full is taken only if there is no other.
    """
    places = [real for real in map(os.path.realpath, SWAP_CANDIDATES)
              if os.path.isdir(real) and mountinfo.type_above(real) not in MEMORY_FILESYSTEMS
              and os.access(real, os.W_OK | os.X_OK)]
    return next(filter(has_room, places), places[0] if places else None)


def has_room(path: str) -> bool:
    """Tell whether a swap file in this directory could hold anything."""
    try:
        disk = os.statvfs(path)
    except OSError:
        return False
    return disk.f_bavail * disk.f_frsize >= LEAST_FREE and (disk.f_favail > 0 or not disk.f_files)


def follow(path: str) -> str:
    """Return the absolute path without symbolic links; what does not exist stays as it is.

    => ValueError: a link of another user is in the way, who could point it at any file of ours.  realpath(3) follows
    those too, even what the kernel refuses in sticky directories (/proc/sys/fs/protected_symlinks).
    """
    here, followed = "/", 0
    todo = (path if os.path.isabs(path) else os.path.join(os.getcwd(), path)).split("/")[::-1]
    while todo:
        part = todo.pop()
        if part in ("", ".", ".."):
            here = os.path.dirname(here) if part == ".." else here
            continue
        there = os.path.join(here, part)
        try:
            state = os.lstat(there)
        except OSError:
            state = None
        if state is None or not stat.S_ISLNK(state.st_mode):
            here = there
            continue
        followed += 1
        if followed > mountinfo.MOST_LINKS:
            raise ValueError("too many levels of symbolic links")
        if state.st_uid not in (0, os.geteuid()):
            raise ValueError(f"{there} is a symbolic link of another user: give the path that is meant")
        target = os.readlink(there)
        here = "/" if target.startswith("/") else here
        todo += target.split("/")[::-1]
    return here


class Remote(NamedTuple):
    """A place that a server keeps."""

    scheme: str
    hosts: tuple[tuple[str, int], ...]
    prefix: str


def remote(text: str) -> Remote | None:
    """Read valkey://HOST:PORT[,HOST:PORT...]/PREFIX; None for a path.  => ValueError."""
    scheme = re.match(r"(valkeys?|rediss?)://", text)
    if scheme is None:
        return None
    found = REMOTE.fullmatch(text)
    hosts = [HOST.fullmatch(word) for word in found[2].split(",")] if found is not None else []
    if found is None or not all(hosts) or not all(0 < int(host[2]) < 65536 for host in hosts if host):
        raise ValueError(f"must be {scheme[0]}HOST:PORT[,HOST:PORT...]/PREFIX; a password is for swap_password_file=")
    return Remote(found[1], tuple((host[1].strip("[]"), int(host[2])) for host in hosts if host), found[3])


def split_places(text: str) -> list[str]:
    """The places of swap=, split at the right colons: a server's place has colons of its own."""
    words: list[str] = []
    rest: str | None = text
    while rest is not None:
        found = REMOTE.match(rest)
        if found is not None or remote(rest) is not None:
            assert found is not None
            words.append(found[0])
            rest = rest[found.end() + 1:] if found.end() < len(rest) else None
            continue
        word, *more = re.split(r"(?<!\\):", rest, maxsplit=1)
        words.append(re.sub(r"\\(.)", r"\1", word))
        rest = more[0] if more else None
    return words


def parse_swap(text: str, _physical: int) -> tuple[str, ...]:
    """Read swap=: the places, () for none; whether they can be used is checked later."""
    if text == "none":
        return ()
    words = split_places(text)
    if not all(words):
        raise ValueError("an empty path (a colon in a path is written \\:)")
    places = tuple(word if remote(word) else follow(word) for word in words)
    if len(places) > MAX_PLACES:
        raise ValueError(f"at most {MAX_PLACES} places")
    twice = [place for i, place in enumerate(places) if place in places[:i] and not os.path.isdir(place)]
    if twice:
        raise ValueError(f"{twice[0]} is given twice")
    return places


def is_url(text: str) -> bool:
    """Whether image= names a file on a server."""
    return SCHEME.match(text) is not None


def shown(text: str) -> str:
    """What image= names, as logs and status show it: after the "?" of a URL there may be a key."""
    head, mark, _key = text.partition("?")
    return f"{head}?..." if mark and is_url(text) else text


def parse_image(text: str, _physical: int) -> str:
    """Read image=: an absolute path without symbolic links, or a URL; what is there is checked later."""
    if not is_url(text):
        return follow(text)
    if URL.fullmatch(text) is None:
        raise ValueError("must be SCHEME://HOST/PATH, without a user, a password or a space")
    return text
