"""tmpfs/forecast.py: how much metadata a tree of files will need, by pool, before there is one.

Pure arithmetic over the records of layout.py, the rules of directory.py, regfile.py and xattr.py for what goes where,
and the classes of pool/strings.py.  A tree is described by its Shape: histograms, because sizes are rounded up to
classes, and a mean does not tell how.

A directory's index is the only part that depends on chance: keys are hashes, so it is random which leaves split or
share with a neighbour.  leaves() simulates that without keys: in a tree of n entries, the next key falls between any
two of them with equal chance, so it falls into a leaf in proportion to the number of its entries.

The file system of a file with holes is asked where they are (lseek(2), SEEK_DATA): they take no pages here either.

Limits      Trees that are only built: pages that churn leaves half empty (E5 of tools/experiments) are not counted.
            Files were written once from start to end; their data are in few extents, except that a hole ends one.
            A file system that does not tell its holes (FUSE, mostly) counts as one without holes.
"""

from __future__ import annotations

import errno
import os
import random
import stat
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate
from math import exp, log, sqrt
from statistics import NormalDist

from tmpfsd.pool.strings import CLASSES, POOLS
from tmpfsd.pool.table import WORDS_PER_PAGE
from tmpfsd.tmpfs.btree import INNER_CAP, LEAF_CLASSES, capacity, has_room
from tmpfsd.tmpfs.layout import INLINE_MAX, NAME_INLINE_MAX, TD_NAME, TX_NAME
from tmpfsd.tmpfs.mem import NODES_PER_PAGE
from tmpfsd.tmpfs.regfile import PACKED_MAX
from tmpfsd.tmpfs.xattr import INLINE_VALUE_MAX
from tmpfsd.uvm.param import PAGE_SIZE
from tmpfsd.uvm.vmmap import SUBMAP_CHUNK

DIRENT_VALUE, EXTENT_VALUE = 4, 8
LEAF_CAPS = [capacity(size, DIRENT_VALUE) for size in LEAF_CLASSES]
LEAF_CAP = LEAF_CAPS[-1]
EXTENT_CAPS = [capacity(size, EXTENT_VALUE) for size in LEAF_CLASSES]
EXTENT_ITEM = LEAF_CLASSES[0]       # a file whose data are in one to three runs
SIZE_STEPS = 1000                   # sizes that stand for a distribution of them
TREE_PAGE = PAGE_SIZE + 1           # stands for the size of a page of a tree, which is of another pool than a string
SIZES = (*CLASSES, TREE_PAGE)       # in the order of POOLS
HANDLE = 4                          # bytes of a handle in an attribute
PLAYED = 12                         # leaves' worth of entries that are simulated; larger trees grow in proportion
PLAYS = 8


@dataclass(slots=True)
class Shape:
    """A tree, as counts; the root is counted as a directory of its own."""

    entries: Counter[int] = field(default_factory=Counter)              # names in a directory -> directories
    names: Counter[int] = field(default_factory=Counter)                # length of a node's first name -> nodes
    more_names: Counter[int] = field(default_factory=Counter)           # length of a further link's name -> links
    sizes: Counter[int] = field(default_factory=Counter)                # bytes of a regular file -> files
    sparse: Counter[tuple[int, int]] = field(default_factory=Counter)   # (pages of data, runs of them) -> such files
    targets: Counter[int] = field(default_factory=Counter)              # length of a target -> symlinks
    xattrs: Counter[tuple[int, int]] = field(default_factory=Counter)   # (bytes of name, of value) -> attributes

    @property
    def files(self) -> int:
        """Names of regular files and symlinks, including hard links."""
        return self.sizes.total() + self.sparse.total() + self.targets.total() + self.more_names.total()

    @property
    def nodes(self) -> int:
        """Inodes of all kinds."""
        return self.entries.total() + self.names.total() - self.subdirectories

    @property
    def subdirectories(self) -> int:
        """Directories that have a name: all except the root."""
        return self.entries.total() - 1

    def check(self) -> None:
        """Raise ValueError if the counts cannot be those of one tree."""
        named = self.names.total() + self.more_names.total()
        held = sum(n * count for n, count in self.entries.items())
        if named != held or self.names.total() != self.files - self.more_names.total() + self.subdirectories:
            raise ValueError(f"{named} names, {held} places in directories: not one tree")


def uniform(files: int, name_length: int, dirs: int = 0, size: int = 0, symlinks: int = 0, target_length: int = 20,
            hard_links: int = 0, xattrs: int = 0, xattr_name: int = 12, xattr_length: int = 32,
            median_size: int = 0) -> Shape:
    """A shape from means: all names, files and symlinks are alike, spread evenly over `dirs` directories in the root.

    With dirs 0 all are in the root.  symlinks and hard_links are added to files; xattrs are for each file.  With a
    median below the mean, sizes are log-normal, as those of real files are.
    """
    shape = Shape()
    total = files + symlinks + hard_links
    if dirs:
        each, more = divmod(total, dirs)
        shape.entries[each] += dirs - more
        shape.entries[each + 1] += more
        shape.entries[dirs] += 1
    else:
        shape.entries[total] += 1
    shape.names[name_length] = files + symlinks + dirs
    shape.more_names[name_length] = hard_links
    shape.sizes.update(_spread(files, size, median_size) if 0 < median_size < size else {size: files})
    shape.targets[target_length] = symlinks
    shape.xattrs[xattr_name, xattr_length] = files * xattrs
    for counter in (shape.entries, shape.names, shape.more_names, shape.sizes, shape.targets, shape.xattrs):
        for key in [key for key, count in counter.items() if not count]:
            del counter[key]
    return shape


def _spread(files: int, mean: int, median: int) -> Counter[int]:
    """Sizes of the log-normal distribution that has this mean and this median."""
    normal = NormalDist(log(median), sqrt(2 * log(mean / median)))
    steps = min(files, SIZE_STEPS)
    sizes: Counter[int] = Counter()
    for i in range(steps):
        sizes[round(exp(normal.inv_cdf((i + 0.5) / steps)))] += files * (i + 1) // steps - files * i // steps
    return sizes


def of_tree(top: str) -> Shape:
    """The shape of an existing directory tree, without what cannot be read.  Follows no symlinks."""
    shape = Shape()
    seen: set[tuple[int, int]] = set()
    for base, dirs, others in os.walk(top):
        shape.entries[len(dirs) + len(others)] += 1
        for name in dirs + others:
            path, length = os.path.join(base, name), len(os.fsencode(name))
            try:
                found = os.lstat(path)
            except OSError:
                found = os.stat_result((stat.S_IFREG, 0, 0, 1, 0, 0, 0, 0, 0, 0))
            if found.st_nlink > 1 and not stat.S_ISDIR(found.st_mode):
                if (found.st_dev, found.st_ino) in seen:
                    shape.more_names[length] += 1
                    continue
                seen.add((found.st_dev, found.st_ino))
            shape.names[length] += 1
            if stat.S_ISLNK(found.st_mode):
                # A symlink to a directory is among os.walk()'s directories, and is not walked into.
                shape.targets[found.st_size] += 1
            elif stat.S_ISREG(found.st_mode):
                _add_file(shape, path, found)
            elif not stat.S_ISDIR(found.st_mode):
                shape.sizes[0] += 1
            for attribute in _attributes(path):
                shape.xattrs[attribute] += 1
    return shape


def _add_file(shape: Shape, path: str, found: os.stat_result) -> None:
    """Count a regular file by its size, or if it has holes, by its data."""
    if found.st_size > PACKED_MAX and found.st_blocks * 512 < found.st_size:
        data = _data(path)
        if data is not None:
            shape.sparse[data] += 1
            return
    shape.sizes[found.st_size] += 1


def _data(path: str) -> tuple[int, int] | None:
    """(pages, runs) of a file that has holes; None if it has none, or cannot be asked.

    => O(runs).  This does not wait, even if the file was replaced by a FIFO.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    pages = runs = start = end = 0
    try:
        size = os.fstat(fd).st_size
        while True:
            start = os.lseek(fd, end, os.SEEK_DATA)
            first = max(start // PAGE_SIZE, -(-end // PAGE_SIZE))       # a page that two runs share counts once
            end = os.lseek(fd, start, os.SEEK_HOLE)
            pages += max(-(-end // PAGE_SIZE) - first, 0)
            runs += 1
            if start == 0 and end >= size:
                return None
    except OSError as error:        # ENXIO: no data behind here
        return (pages, runs) if error.errno == errno.ENXIO else None
    finally:
        os.close(fd)


def _attributes(path: str) -> Iterator[tuple[int, int]]:
    """(bytes of name, of value) of each attribute that tmpfsd would keep."""
    try:
        for name in os.listxattr(path, follow_symlinks=False):
            if not name.startswith("system."):
                yield len(os.fsencode(name)), len(os.getxattr(path, name, follow_symlinks=False))
    except OSError:
        return


@dataclass(frozen=True, slots=True)
class Estimate:
    """The needs of a shape: items and pages of each pool, and pages of data, which are not in the submap."""

    items: dict[str, float]
    pages: dict[str, int]
    data_pages: int
    files: int

    @property
    def npages(self) -> int:
        """Pages of metadata: a fixed submap must hold them."""
        return sum(self.pages.values())

    @property
    def submap_bytes(self) -> int:
        """The least submap=SIZE."""
        return self.npages * PAGE_SIZE

    @property
    def auto_bytes(self) -> int:
        """The address space that submap=auto takes: whole chunks."""
        return -(-self.npages // SUBMAP_CHUNK) * SUBMAP_CHUNK * PAGE_SIZE

    @property
    def size_bytes(self) -> int:
        """The least size=: metadata and data."""
        return (self.npages + self.data_pages) * PAGE_SIZE

    @property
    def per_file(self) -> float:
        """Bytes of metadata for each file, everything included."""
        return self.submap_bytes / max(self.files, 1)


def estimate(shape: Shape) -> Estimate:
    """The needs of a tree of this shape when it has been built."""
    strings = [0.0] * len(POOLS)
    for demands in (_indexes(shape.entries), _dirents(shape), _contents(shape), _attribute_items(shape.xattrs)):
        for nbytes, count in demands:
            strings[bisect_left(SIZES, nbytes)] += count
    used = [(name, size, nitems) for name, size, nitems in zip(POOLS, SIZES, strings) if nitems]
    items: dict[str, float] = {"node": shape.nodes, "nlookup": shape.nodes}
    items.update((name, nitems) for name, _size, nitems in used)
    dirs = shape.entries.total()
    pages = {"node": _pages(dirs, NODES_PER_PAGE) + _pages(shape.nodes - dirs, NODES_PER_PAGE),
             "nlookup": _pages(shape.nodes, WORDS_PER_PAGE)}
    pages.update((name, _pages(nitems, PAGE_SIZE // min(size, PAGE_SIZE))) for name, size, nitems in used)
    data = sum(-(-size // PAGE_SIZE) * count for size, count in shape.sizes.items() if size > PACKED_MAX)
    data += sum(npages * count for (npages, _runs), count in shape.sparse.items())
    return Estimate(items, pages, data, shape.files)


def _pages(nitems: float, per_page: int) -> int:
    """Lowest free item first: only the last page is not full."""
    return -(-round(nitems) // per_page)


def _indexes(entries: Mapping[int, int]) -> Iterator[tuple[int, float]]:
    """(bytes, count) of the nodes of directories' B+trees."""
    sizes = (*LEAF_CLASSES[:-1], TREE_PAGE)
    for n, count in entries.items():
        if 0 < n <= LEAF_CAP:
            yield sizes[bisect_left(LEAF_CAPS, n)], count
        elif n:
            pages, root = tree_nodes(n)
            yield TREE_PAGE, count * pages
            yield sizes[bisect_left(LEAF_CAPS, root)], count


def tree_nodes(n: int) -> tuple[float, int]:
    """The B+tree of n names, more than one leaf holds: (pages below the root, children of the root)."""
    level = leaves(n, LEAF_CAP)
    total = level
    while level > INNER_CAP:
        level = leaves(round(level), INNER_CAP)
        total += level
    return total, max(round(level), 2)


def leaves(n: int, cap: int) -> float:
    """The expected number of leaves of a tree of n random keys, inserted in any order."""
    if n <= cap:
        return 1.0
    most = PLAYED * cap
    return _played(n, cap) if n <= most else n / most * _played(most, cap)


@lru_cache(maxsize=1 << 16)
def _played(n: int, cap: int) -> float:
    """Leaves of a tree of n > cap random keys: the mean of PLAYS."""
    return sum(_play(n, cap, random.Random(seed)) for seed in range(PLAYS)) / PLAYS


def _play(n: int, cap: int, rng: random.Random) -> int:
    """Simulate BTree.insert(), with a count for each leaf; the number of leaves."""
    counts = [cap]
    for held in range(cap, n):
        place = bisect_right(list(accumulate(counts)), rng.randrange(held))
        if counts[place] == cap:
            place = _make_room(counts, place, cap, rng)
        counts[place] += 1
    return len(counts)


def _make_room(counts: list[int], place: int, cap: int, rng: random.Random) -> int:
    """Share a full leaf with a neighbour, or split it; the leaf where the entry goes then."""
    for other in (place - 1, place + 1):
        if 0 <= other < len(counts) and has_room(counts[other], cap):
            first, both = min(place, other), counts[place] + counts[other]
            break
    else:
        first, both = place, cap
        counts.insert(place, 0)
    counts[first:first + 2] = [both >> 1, both - (both >> 1)]
    return first + (rng.randrange(both) >= both >> 1)


def _dirents(shape: Shape) -> Iterator[tuple[int, int]]:
    """Names that are not in their node."""
    for length, count in shape.names.items():
        if length > NAME_INLINE_MAX:
            yield TD_NAME + length, count
    for length, count in shape.more_names.items():
        yield TD_NAME + length, count


def _contents(shape: Shape) -> Iterator[tuple[int, int]]:
    """Small files and long targets that are packed, and the extents of files in pages."""
    for size, count in shape.sizes.items():
        if size > PACKED_MAX:
            yield EXTENT_ITEM, count
        elif size > INLINE_MAX:
            yield size, count
    for (_npages, runs), count in shape.sparse.items():
        if 0 < runs <= EXTENT_CAPS[-1]:
            yield LEAF_CLASSES[bisect_left(EXTENT_CAPS, runs)], count
        elif runs:
            yield PAGE_SIZE, count * -(-runs * 4 // (EXTENT_CAPS[-1] * 3))     # leaves of keys in order: 3/4 full
    for length, count in shape.targets.items():
        if length > INLINE_MAX:
            yield length, count


def _attribute_items(xattrs: Mapping[tuple[int, int], int]) -> Iterator[tuple[int, int]]:
    """Extended attributes: one item, or one and a page for each 4 KiB of the value."""
    for (name, value), count in xattrs.items():
        if TX_NAME + name + value <= INLINE_VALUE_MAX:
            yield TX_NAME + name + value, count
        else:
            chunks = -(-value // PAGE_SIZE)
            yield TX_NAME + name + HANDLE * chunks, count
            yield PAGE_SIZE, count * chunks
