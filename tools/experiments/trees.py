"""experiments/trees.py: realistic trees, and how one is built on a Mount.

A tree is a stream of entries, parents first: (kind, path, size or target).  It is made from a seed, so that it is
always the same; only the standard library is a tree that really exists.
"""

from __future__ import annotations

import os
import random
import sysconfig
from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

from tmpfsd.tmpfs import vnops
from tmpfsd.tmpfs.filesystem import Mount
from tmpfsd.tmpfs.forecast import Shape
from tools.experiments.drive import CRED, ROOT

DIR, FILE, LINK, HARD = range(4)
CHUNK = 128 << 10           # what the kernel passes in one write
DATA_MAX = 256 << 10        # longer files are cut: the rest would change the data, but nothing in the submap
HEX = "0123456789abcdef"


class Entry(NamedTuple):
    """Something in a tree; target is a symlink's text, or the path that a hard link names again."""

    kind: int
    path: str
    size: int = 0
    target: str = ""
    xattrs: tuple[tuple[str, int], ...] = ()


def word(rng: random.Random, least: int, most: int) -> str:
    """Letters."""
    return "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(least, most)))


def bytes_of(rng: random.Random, middle: float, spread: float) -> int:
    """A size: half of the sizes are below `middle`, with a long tail."""
    return min(int(middle * rng.lognormvariate(0, spread)), DATA_MAX)


def stdlib(files: int) -> Iterator[Entry]:
    """The standard library of the running Python, with its compiled files, without packages installed into it."""
    top = sysconfig.get_path("stdlib")
    for base, dirs, names in os.walk(top):
        dirs[:] = sorted(name for name in dirs if name not in ("site-packages", "dist-packages"))
        under = os.path.relpath(base, top)
        for name in dirs + sorted(names):
            path = os.path.normpath(os.path.join(under, name))
            found = os.lstat(os.path.join(base, name))
            if os.path.islink(os.path.join(base, name)):
                yield Entry(LINK, path, 0, os.readlink(os.path.join(base, name)))
            elif name in dirs:
                yield Entry(DIR, path)
            elif files > 0:
                files -= 1
                yield Entry(FILE, path, min(found.st_size, DATA_MAX))


def node_modules(files: int) -> Iterator[Entry]:
    """Packages with their dist, lib and nested directories, the links of .bin, and files that packages share."""
    rng = random.Random(2)
    yield Entry(DIR, ".bin")
    shared: list[str] = []
    package = 0
    while files > 0:
        top = f"{word(rng, 3, 14)}-{package}"
        package += 1
        yield Entry(DIR, top)
        dirs = [top]
        for name in rng.sample(["dist", "lib", "src", "esm", "cjs", "types", "test"], rng.randint(0, 4)):
            dirs.append(f"{top}/{name}")
            yield Entry(DIR, dirs[-1])
        for name in ("package.json", "README.md", "LICENSE"):
            yield Entry(FILE, f"{top}/{name}", bytes_of(rng, 1500, 0.7))
        for i in range(int(rng.lognormvariate(2.2, 1.2))):
            path = f"{rng.choice(dirs)}/{word(rng, 3, 18)}{i}{rng.choice(('.js', '.mjs', '.d.ts', '.js.map'))}"
            if shared and rng.random() < 0.05:
                yield Entry(HARD, path, 0, rng.choice(shared))
            else:
                yield Entry(FILE, path, bytes_of(rng, 1400, 1.4))
                shared.append(path)
            files -= 1
        files -= 3
        if rng.random() < 0.15:
            yield Entry(LINK, f".bin/{word(rng, 3, 10)}-{package}", 0, f"../{top}/{dirs[-1].split('/')[-1]}/cli.js")
        del shared[:-200]


def git_objects(files: int) -> Iterator[Entry]:
    """Loose objects: 256 directories of 38-digit names, most of some hundred bytes."""
    rng = random.Random(3)
    for name in ("objects", "refs", "refs/heads", "refs/tags", "info", "hooks", "logs"):
        yield Entry(DIR, name)
    for name in ("HEAD", "config", "description", "index", "packed-refs"):
        yield Entry(FILE, name, bytes_of(rng, 200, 1.0))
    for i in range(256):
        yield Entry(DIR, f"objects/{i:02x}")
    for _ in range(files):
        name = "".join(rng.choices(HEX, k=38))
        yield Entry(FILE, f"objects/{rng.randrange(256):02x}/{name}", bytes_of(rng, 450, 1.3))


def maildirs(files: int) -> Iterator[Entry]:
    """Mail boxes of some hundred messages, with the flags in long names and a keyword on some."""
    rng = random.Random(4)
    for user in range(max(files // 250, 1)):
        top = f"{word(rng, 4, 9)}{user}"
        for name in (top, f"{top}/cur", f"{top}/new", f"{top}/tmp"):
            yield Entry(DIR, name)
        for _ in range(250):
            size = bytes_of(rng, 5000, 1.1)
            name = f"{rng.randrange(10**9, 2 * 10**9)}.M{rng.randrange(10**6)}P{rng.randrange(10**5)}.mx,S={size}"
            xattrs = (("user.keyword", rng.randint(4, 30)),) if rng.random() < 0.2 else ()
            if rng.random() < 0.9:
                yield Entry(FILE, f"{top}/cur/{name}:2,{rng.choice(('S', 'RS', ''))}", size, "", xattrs)
            else:
                yield Entry(FILE, f"{top}/new/{name}", size, "", xattrs)


def flat(files: int) -> Iterator[Entry]:
    """Empty files in one directory."""
    for i in range(files):
        yield Entry(FILE, f"file{i:09d}")


TREES: dict[str, Callable[[int], Iterator[Entry]]] = {
    "standard library": stdlib, "node_modules": node_modules, "git objects": git_objects, "maildirs": maildirs,
    "flat": flat}


def parent(path: str) -> str:
    """The directory of a path, "" for the root."""
    return path.rpartition("/")[0]


def build(mp: Mount, entries: Iterator[Entry], done: Callable[[int], None]) -> int:
    """Make a tree; return how many names it has.  The inode numbers of directories and link targets are kept here."""
    inos = {"": ROOT}
    count = 0
    for count, entry in enumerate(entries, 1):
        mp.breathe()
        dino, name = inos[parent(entry.path)], os.fsencode(entry.path.rpartition("/")[2])
        ino = _make(mp, dino, name, entry, inos)
        if entry.kind in (DIR, FILE) and "/" in entry.path or entry.kind == DIR:
            inos[entry.path] = ino
        for attribute, length in entry.xattrs:
            mp.breathe()
            vnops.setxattr(mp, ino, attribute.encode(), bytes(length))
        for offset in range(0, entry.size, CHUNK):
            mp.breathe()
            vnops.write(mp, ino, offset, bytes(min(CHUNK, entry.size - offset)))
        mp.breathe()
        vnops.forget(mp, ino, 1)
        if count % 500 == 0:
            done(count)
    return count


def _make(mp: Mount, dino: int, name: bytes, entry: Entry, inos: dict[str, int]) -> int:
    if entry.kind == DIR:
        return vnops.mkdir(mp, dino, name, 0o755, CRED)
    if entry.kind == LINK:
        return vnops.symlink(mp, dino, name, os.fsencode(entry.target), CRED)
    if entry.kind == HARD:
        return vnops.link(mp, inos[entry.target], dino, name)
    return vnops.create(mp, dino, name, 0o644, CRED)


def shape_of(entries: Iterator[Entry]) -> Shape:
    """What the estimator is told about a tree."""
    shape, held = Shape(), Counter({"": 0})
    for entry in entries:
        held[parent(entry.path)] += 1
        length = len(os.fsencode(entry.path.rpartition("/")[2]))
        (shape.more_names if entry.kind == HARD else shape.names)[length] += 1
        if entry.kind == DIR:
            held[entry.path] += 0
        elif entry.kind == FILE:
            shape.sizes[entry.size] += 1
        elif entry.kind == LINK:
            shape.targets[len(os.fsencode(entry.target))] += 1
        shape.xattrs.update((len(name), size) for name, size in entry.xattrs)
    shape.entries = Counter(held.values())
    return shape
