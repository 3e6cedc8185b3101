"""image/build.py: an image of a directory, made without a mount.

A tree is walked in the order of names and put into a file system of this process, which pages out as usual; then that
is frozen.  With `mtime` every time is that one, and the key of the hash is 0: the same tree gives the same bytes.

Limits      Sockets, FIFOs and devices are made as they are.  What cannot be read is an error, and nothing is made.
            The sorted names of the directory that is being walked are in memory, and those of the directories above it.
            With mtime, anybody can make names that collide in mounts of the image.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator

from tmpfsd.image import chattr
from tmpfsd.image.format import Writer
from tmpfsd.image.freeze import freeze
from tmpfsd.image.links import Links
from tmpfsd.machine import memory_limit
from tmpfsd.options import Config
from tmpfsd.tmpfs import fileattr, layout, vnops, xattr
from tmpfsd.tmpfs.filesystem import Mount
from tmpfsd.tmpfs.layout import ROOT_INO

Tell = Callable[[int, int], None]       # files so far, bytes so far
CHUNK = 1 << 20
MOST = 8 << 40              # bytes of an image
LEAST_RAM, MOST_RAM = 64 << 20, 2 << 30
TELL = 256
NANO = 10 ** 9
KNOWN = ("user.", "trusted.", "security.", *(os.fsdecode(name) for name in xattr.ACL_NAMES))


class Root:
    """A caller that may do everything, and has no umask."""

    uid = gid = umask = 0

    def in_group(self, _gid: int) -> bool:
        """In every group."""
        return True

    def capable(self, _capability: int) -> bool:
        """With every capability."""
        return True


ROOT = Root()


def build(directory: bytes, fd: int, mtime: int | None = None, tell: Tell = lambda _files, _bytes: None,
          swap: str | None = None) -> int:
    """Write an image of a directory into an open file; return its bytes.  => OSError, VmError, FsError."""
    ram = min(max(memory_limit() // 4, LEAST_RAM), MOST_RAM)
    mp = Mount(Config(size_bytes=MOST, ram_bytes=ram, swap=swap, acl=True, noatime=True))
    try:
        if mtime is not None:
            _stop_clock(mp, mtime * NANO)
        builder = _Builder(mp, tell, None if mtime is None else mtime * NANO)
        with contextlib.closing(builder.links):
            builder.tree(directory)
        mp.flagged = builder.flagged
        return freeze(mp, Writer(fd), made=mtime or 0)
    finally:
        mp.close()


def _stop_clock(mp: Mount, now: int) -> None:
    """Fix the time, also that of the root, and the key of the hash: nothing is left to chance."""
    mp.now = lambda: now
    mp.dirs.key = 0
    layout.init_node(mp.arena, mp.mem.node_w(ROOT_INO), stat.S_IFDIR | 0o755, layout.KIND_TREE, 2, 0, 0, 40,
                     mp.generation, now, spec=layout.directory_spec(ROOT_INO))


class _Builder:
    """Puts a tree into a mount."""

    def __init__(self, mp: Mount, tell: Tell, time_ns: int | None) -> None:
        self.mp = mp
        self.tell = tell
        self.time_ns = time_ns
        self.links = Links()            # our inode of each file with several names
        self.files = self.bytes = 0
        self.flagged = False            # the later mount's flag: until then nothing is forbidden here

    def tree(self, top: bytes) -> None:
        """Put everything that is in a directory, and its own attributes."""
        todo: list[tuple[bytes, int, Iterator[bytes]]] = [(top, ROOT_INO, iter(sorted(os.listdir(top))))]
        while todo:
            path, dino, names = todo[-1]
            name = next(names, None)
            if name is None:
                self.attributes(dino, path, os.lstat(path))
                todo.pop()
                if dino != ROOT_INO:
                    vnops.forget(self.mp, dino, 1)
                continue
            child = path + b"/" + name
            state = os.lstat(child)
            if stat.S_ISDIR(state.st_mode):
                self.mp.breathe()
                ino = vnops.mkdir(self.mp, dino, name, 0o700, ROOT)
                todo.append((child, ino, iter(sorted(os.listdir(child)))))
            else:
                self.leaf(dino, name, child, state)
            self.files += 1
            if not self.files % TELL:
                self.tell(self.files, self.bytes)

    def leaf(self, dino: int, name: bytes, path: bytes, state: os.stat_result) -> None:
        """Put anything but a directory."""
        mp, mode = self.mp, state.st_mode
        mp.breathe()
        several = state.st_nlink > 1
        known = self.links.get(state.st_dev, state.st_ino) if several else None
        if known is not None:
            vnops.forget(mp, vnops.link(mp, int.from_bytes(known, "little"), dino, name), 1)
            return
        if stat.S_ISREG(mode):
            ino = vnops.create(mp, dino, name, 0o600, ROOT)
            self.file(ino, path, state)
        else:
            if stat.S_ISLNK(mode):
                ino = vnops.symlink(mp, dino, name, os.readlink(path), ROOT)
            else:
                ino = vnops.mknod(mp, dino, name, stat.S_IFMT(mode) | 0o600, self.device(state), ROOT)
            self.attributes(ino, path, state)
        if several:
            self.links.put(state.st_dev, state.st_ino, ino.to_bytes(8, "little"))
        vnops.forget(mp, ino, 1)

    def device(self, state: os.stat_result) -> int:
        """A device number as the kernel passes it to us."""
        if not stat.S_ISCHR(state.st_mode) and not stat.S_ISBLK(state.st_mode):
            return 0
        major, minor = os.major(state.st_rdev), os.minor(state.st_rdev)
        return minor & 0xff | major << 8 | (minor & ~0xff) << 12

    def file(self, ino: int, path: bytes, state: os.stat_result) -> None:
        """Put the bytes of a file, its holes, and its attributes: it is opened once for all of them."""
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            end = 0
            for first, last in extents(fd, state):
                end = self.content(ino, path, fd, first, last)
            if end < state.st_size:
                self.mp.breathe()
                vnops.truncate(self.mp, ino, state.st_size)
            self.attributes(ino, fd, state)
        finally:
            os.close(fd)

    def content(self, ino: int, path: bytes, fd: int, start: int, end: int) -> int:
        """Put the bytes of a file in [start, end); where they end, as the file may be shorter by now."""
        while start < end:
            data = os.pread(fd, min(CHUNK, end - start), start)
            if not data:
                break
            self.mp.breathe()
            done = vnops.write(self.mp, ino, start, data)
            if done < len(data):
                raise OSError(errno.ENOSPC, "no room in memory and swap", os.fsdecode(path))
            start, self.bytes = start + done, self.bytes + done
        return start

    def attributes(self, ino: int, path: bytes | int, state: os.stat_result) -> None:
        """Give a node its owner, mode, times and attributes; path may be a descriptor."""
        mp = self.mp
        for name in listed(path):
            mp.breathe()
            vnops.setxattr(mp, ino, os.fsencode(name), os.getxattr(path, name, **not_followed(path)), 0, ROOT)
        times = (state.st_atime_ns, state.st_mtime_ns) if self.time_ns is None else (self.time_ns, self.time_ns)
        mode = None if stat.S_ISLNK(state.st_mode) else stat.S_IMODE(state.st_mode)
        mp.breathe()
        vnops.setattr(mp, ino, ROOT, mode, state.st_uid, state.st_gid, atime_ns=times[0], mtime_ns=times[1])
        flags = chattr.of(path) if fileattr.has_flags(state.st_mode) else 0
        if flags:
            mp.breathe()
            fileattr.put(mp, ino, flags, ROOT)
            self.flagged, mp.flagged = True, False


def not_followed(path: bytes | int) -> dict[str, bool]:
    """What keeps calls for attributes from following a link; they do not take it with a descriptor."""
    return {} if isinstance(path, int) else {"follow_symlinks": False}


def listed(path: bytes | int) -> list[str]:
    """The names of a file's attributes that an image has, in order."""
    try:
        names = os.listxattr(path, **not_followed(path))
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.EPERM, errno.ENODATA):
            return []
        raise
    return sorted(name for name in names if name.startswith(KNOWN)) if names else []


def extents(fd: int, state: os.stat_result) -> Iterator[tuple[int, int]]:
    """Where a file has bytes: (start, end)."""
    if state.st_blocks * 512 >= state.st_size:
        yield 0, state.st_size
        return
    end = 0
    while end < state.st_size:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        end = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, min(end, state.st_size)
