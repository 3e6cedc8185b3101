"""image/extract.py: writes an image as files into a directory; and checks whether an image is intact.

Nothing in an image is trusted: names that would lead out of the directory are refused, and every file is made anew.

Limits      Owners, trusted attributes, append-only and immutable need root; without it they are left out.
            A path may have PATH_MAX bytes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator

from tmpfsd.image import chattr
from tmpfsd.image.build import ROOT
from tmpfsd.image.file import Image
from tmpfsd.image.format import ImageError
from tmpfsd.image.links import Links
from tmpfsd.image.thaw import thaw
from tmpfsd.options import Config
from tmpfsd.tmpfs import fileattr, layout, listing, vnops
from tmpfsd.tmpfs.filesystem import Mount
from tmpfsd.tmpfs.layout import ROOT_INO
from tmpfsd.uvm.errors import SwapIOError
from tmpfsd.uvm.param import PAGE_SIZE

Tell = Callable[[int, int], None]
CHUNK = 1 << 20
STEP = 64                   # names of a directory at a time
TELL = 256
RAM = 64 << 20


def open_alone(path: str) -> Mount:
    """A mount of an image for this process alone, which changes nothing.  => ImageError, OSError, VmError."""
    return thaw(Config(ram_bytes=RAM, swap=None, noatime=True, nodiratime=True), path)


def verify(path: str, tell: Tell) -> dict[str, int]:
    """Check every checksum, then the whole file system; what was checked.  => ImageError, Inconsistent, SwapIOError."""
    image = Image(path)
    page = memoryview(bytearray(PAGE_SIZE))
    try:
        for name in image.header.tables:
            image.table(name)
        npages = image.header.nplaces
        for place in range(1, npages + 1):
            try:
                image.read_cluster(place, [page], [0])
            except SwapIOError as error:
                raise ImageError(str(error).removeprefix("image ")) from None
            if not place % TELL:
                tell(place, 2 * npages)
    finally:
        image.close()
    mp = open_alone(path)
    try:
        mp.check(lambda done, of: tell(npages + done * npages // max(of, 1), 2 * npages))
        return {"pages": npages, "inodes": mp.mem.ninodes()}
    finally:
        mp.close()


def extract(path: str, directory: str, tell: Tell = lambda _done, _of: None) -> int:
    """Make the files of an image in a directory that is empty, or new; return how many.  => OSError, VmError."""
    mp = open_alone(path)
    try:
        top = os.fsencode(directory)
        with contextlib.suppress(FileExistsError):
            os.mkdir(top, 0o700)
        if os.listdir(top):
            raise OSError(errno.ENOTEMPTY, "must be an empty directory", directory)
        extractor = _Extractor(mp, tell)
        with contextlib.closing(extractor.links):
            done = extractor.tree(top)
        if mp.flagged:
            extractor.flags(top)
        return done
    finally:
        mp.close()


class _Extractor:
    """Makes files of a mount's nodes."""

    def __init__(self, mp: Mount, tell: Tell) -> None:
        self.mp = mp
        self.tell = tell
        self.links = Links()                    # a name of each file that has several
        self.done = 0

    def tree(self, top: bytes) -> int:
        """Make all; return how many."""
        todo = [(top, ROOT_INO, self.names(ROOT_INO))]
        while todo:
            path, dino, names = todo[-1]
            found = next(names, None)
            if found is None:
                self.attributes(dino, path)
                todo.pop()
                continue
            name, ino = found
            child = os.path.join(path, name)
            self.mp.breathe()
            if stat.S_ISDIR(vnops.getattr(self.mp, ino)[0]):
                os.mkdir(child, 0o700)
                todo.append((child, ino, self.names(ino)))
            else:
                self.leaf(ino, child)
            self.done += 1
            if not self.done % TELL:
                self.tell(self.done, self.mp.mem.ninodes())
        return self.done

    def flags(self, top: bytes) -> None:
        """Set the flags of chattr(1), when nothing else is left to change; what is below a directory first."""
        todo = [(top, ROOT_INO, self.names(ROOT_INO))]
        while todo:
            path, dino, names = todo[-1]
            name, ino = next(names, (b"", dino))
            if name:
                path = os.path.join(path, name)
                self.mp.breathe()
                if stat.S_ISDIR(vnops.getattr(self.mp, ino)[0]):
                    todo.append((path, ino, self.names(ino)))
                    continue
            else:
                todo.pop()
            self.mp.breathe()
            if flags := fileattr.get(self.mp, ino):
                with contextlib.suppress(PermissionError):
                    chattr.put(path, flags)

    def names(self, ino: int) -> Iterator[tuple[bytes, int]]:
        """The entries of a directory.  => ImageError: a name that is not valid."""
        cookie = 0
        while True:
            some: list[tuple[bytes, int, int]] = []

            def emit(name: bytes, child: int, _mode: int, after: int,
                     some: list[tuple[bytes, int, int]] = some) -> bool:
                if len(some) == STEP:
                    return False
                some.append((name, child, after))
                return True

            self.mp.breathe()
            listing.list_names(self.mp, ino, cookie, emit)
            if not some:
                return
            cookie = some[-1][2]
            for name, child, _after in some:
                if name in (b".", b".."):
                    continue
                if b"/" in name or b"\0" in name or not name:
                    raise ImageError(f"corrupted: a name that no file can have: {name!r}")
                yield name, child

    def leaf(self, ino: int, path: bytes) -> None:
        """Make anything but a directory."""
        mp = self.mp
        mode, links, _uid, _gid, rdev, size = vnops.getattr(mp, ino)[:6]
        known = self.links.get(0, ino) if links > 1 else None
        if known is not None:
            os.link(known, path, follow_symlinks=False)
            return
        if stat.S_ISLNK(mode):
            os.symlink(vnops.readlink(mp, ino), path)
        elif stat.S_ISREG(mode):
            self.content(ino, path, size)
        else:
            major, minor = rdev >> 8 & 0xfff, rdev & 0xff | rdev >> 12 & 0xfff00
            os.mknod(path, stat.S_IFMT(mode) | 0o600, os.makedev(major, minor))
        self.attributes(ino, path)
        if links > 1:
            self.links.put(0, ino, path)

    def content(self, ino: int, path: bytes, size: int) -> None:
        """Write the bytes of a file, if it has any."""
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            for start, end in self.extents(ino, size):
                while start < end:
                    self.mp.breathe()
                    data = vnops.read(self.mp, ino, start, min(CHUNK, end - start))
                    done = 0
                    while done < len(data):
                        done += os.pwrite(fd, memoryview(data)[done:], start + done)
                    start += len(data)
            os.ftruncate(fd, size)
        finally:
            os.close(fd)

    def extents(self, ino: int, size: int) -> list[tuple[int, int]]:
        """Where a file has pages; all of a packed file."""
        mp = self.mp
        mp.breathe()
        if layout.tn_kind(mp.arena, mp.mem.node(ino)) != layout.KIND_TREE:
            return [(0, size)]
        found = []
        for _handle, level, entries in mp.extents.walk(mp.mem.node(ino)):
            for first, value in () if level else entries:
                count = layout.unpack_extent(value)[1]
                found.append((first * PAGE_SIZE, min((first + count) * PAGE_SIZE, size)))
        return found

    def attributes(self, ino: int, path: bytes) -> None:
        """Set owner, mode, attributes, times."""
        mp = self.mp
        mp.breathe()
        mode, _links, uid, gid, _rdev, _size, _blocks, atime, mtime = vnops.getattr(mp, ino)[:9]
        with contextlib.suppress(PermissionError):
            os.chown(path, uid, gid, follow_symlinks=False)
        if not stat.S_ISLNK(mode):
            os.chmod(path, stat.S_IMODE(mode))
        mp.breathe()
        for name in vnops.listxattr(mp, ino, ROOT):
            mp.breathe()
            value = bytes(vnops.getxattr(mp, ino, name))
            with contextlib.suppress(PermissionError):
                os.setxattr(path, name, value, follow_symlinks=False)
        os.utime(path, ns=(atime, mtime), follow_symlinks=False)
