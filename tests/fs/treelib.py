"""tests/fs/treelib.py: trees for the tests of operations on whole trees, and their callers."""

import stat
from typing import NamedTuple

from tests.fs.fslib import ROOT, Driver
from tmpfsd.tmpfs import detach

LONG = b"long-" * 20


class Caller(NamedTuple):
    """Who asks, as the control socket knows it."""

    uid: int = 0
    groups: tuple[int, ...] = ()


SUPER, USER = Caller(), Caller(1000, (1001,))


def grow(fs: Driver, dino: int, width: int = 30, depth: int = 2) -> None:
    """A tree with one of everything in each directory."""
    for i in range(width):
        fs.write(fs.create(dino, b"file-%d" % i), 0, b"x" * (i * 40))
    big = fs.create(dino, b"big")
    for page in range(0, 12, 3):
        fs.write(big, page << 12, b"b" * 5000)
    fs.link(big, dino, b"big-again")
    fs.create(dino, LONG)
    fs.link(fs.create(dino, LONG + b"1"), dino, LONG + b"2")
    fs.symlink(dino, b"short", b"target")
    fs.symlink(dino, b"far", b"t" * 900)
    fs.mknod(dino, b"pipe", stat.S_IFIFO | 0o600)
    node = fs.create(dino, b"attributes")
    fs.setxattr(node, b"user.small", b"v")
    fs.setxattr(node, b"user.large", b"v" * 9000)
    fs.mkdir(dino, LONG + b"dir")
    for i in range(2 if depth else 0):
        grow(fs, fs.mkdir(dino, b"dir-%d" % i), max(width // 3, 2), depth - 1)


def planted(fs: Driver) -> int:
    """A tree that the kernel has forgotten."""
    top = fs.mkdir(ROOT, b"top")
    grow(fs, top, 200 if fs.roomy else 30)
    fs.forget_all()
    return top


def take(fs: Driver, name: bytes = b"top", dino: int = ROOT) -> int:
    """detach()."""
    fs.mp.breathe()
    return detach.detach(fs.mp, dino, name)


def names_below(fs: Driver, dino: int) -> int:
    """Names below a directory, by readdir."""
    found = fs.entries(dino)
    return len(found) + sum(names_below(fs, ino) for ino in found.values() if stat.S_ISDIR(fs.getattr(ino).mode))
