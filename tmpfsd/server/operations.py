"""operations.py: pyfuse3's handlers, each one call of a vnop.

Types and errno only; tmpfs/vnops.py decides what an operation means.  Every handler is made by
@handler, which counts the request, breathes, runs the vnop to its end and turns what it raises into an
errno: an exception that left a handler would end the server.  A broken invariant is logged with its dump and
answered with EIO; from then on the mount refuses changes (EROFS): tmpfs/gate.py.

Limits      Handlers never await, so only one request is in progress at a time (dispatch.py relies on it).
            Entries and attributes never time out: every change comes through the kernel that caches them.
"""

from __future__ import annotations

import errno
import functools
import os
import stat
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileInfo, FUSEError, RequestContext

from tmpfsd.options import Config
from tmpfsd.server.turns import Turns
from tmpfsd.tmpfs import reap, setid, vnops, writeback, xattr
from tmpfsd.tmpfs.caller import Caller, Privileged
from tmpfsd.tmpfs.filesystem import Mount
from tmpfsd.tmpfs.fserror import FsError
from tmpfsd.uvm.errors import NoMemory, VmError

FOREVER = 1_000_000_000         # seconds
FORGETS = 64                    # references dropped at once: 0.2 ms
MOST_FORGOTTEN = 1 << 18        # references that wait: 4 of the longest lists, some 30 MB


INO, PRIVILEGED = (1 << 32) - 1, 1 << 32        # of the handle of an open file
ANYBODY = Privileged()


def handler(func: Callable[..., Any], changes: bool = False) -> Callable[..., Any]:
    """Make a pyfuse3 handler of a plain method; changes: it is refused once an invariant broke."""
    name = func.__name__

    @functools.wraps(func)
    async def handle(self: Operations, *args: Any) -> Any:
        self.requests[name] += 1
        try:
            if changes:
                self.gate.demand_writable()
            self.breathe()
            if self.quota is not None:
                self.quota.caller = caller_of(args[-1]) if isinstance(args[-1], RequestContext) else None
            try:
                answer = func(self, *args)
            except NoMemory as error:
                answer = reap.retry(self.mount, error, func, self, *args)
            if self.check_each:
                self.mount.check()
            return answer
        except FUSEError:
            raise
        except Exception as error:
            code = self.gate.errno_of(error, name)
        raise FUSEError(code)       # outside the except: an exception must not keep the other's frames alive

    return handle


def changing(func: Callable[..., Any]) -> Callable[..., Any]:
    """Make a handler of an operation that changes the file system."""
    return handler(func, changes=True)


def caller_of(ctx: Any) -> Caller:
    """Who makes a request."""
    return Caller(ctx.uid, ctx.gid, ctx.pid, ctx.umask)


def entry_of(ino: int, attr: tuple[int, ...]) -> EntryAttributes:
    """Build what the kernel caches about a node."""
    entry = EntryAttributes()
    entry.st_ino = ino
    entry.attr_timeout = entry.entry_timeout = FOREVER
    (entry.st_mode, entry.st_nlink, entry.st_uid, entry.st_gid, entry.st_rdev, entry.st_size, entry.st_blocks,
     entry.st_atime_ns, entry.st_mtime_ns, entry.st_ctime_ns, entry.generation) = attr
    return entry


def no_entry() -> EntryAttributes:
    """Build the answer that lets the kernel remember that there is no such name."""
    entry = EntryAttributes()
    entry.st_ino = 0
    entry.attr_timeout = entry.entry_timeout = FOREVER
    return entry


class _Unlabelled(int):
    """An errno that also equals ENODATA."""

    __slots__ = ()
    __hash__ = int.__hash__

    def __eq__(self, other: object) -> bool:
        return other == errno.ENODATA or int.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other


class NoLabel(FUSEError):
    """Nothing has a label yet: EOPNOTSUPP to a caller that asks for one (vnops.getxattr), ENODATA before one is set.

    With XATTR_CREATE pyfuse3 asks the same way before it sets, and only ENODATA means "go on" to it.  There it compares
    the errno; when it answers the kernel it uses the number.
    """

    @property
    def errno(self) -> int:
        """The number; see above."""
        return _Unlabelled(errno.EOPNOTSUPP)


class Operations(pyfuse3.Operations):
    """The handlers of one mount."""

    supports_dot_lookup = True

    def __init__(self, mount: Mount, config: Config) -> None:
        super().__init__()
        self.mount = mount
        self.breathe = mount.breathe
        self.enable_writeback_cache = config.writeback
        self.enable_acl = config.acl
        self.xattr = config.xattr
        self.gate = mount.gate
        self.quota = mount.quota
        self.check_each = mount.check_level >= 2     # TMPFSD_CHECK=2
        self.forgotten: deque[Sequence[tuple[int, int]]] = deque()     # what is left for forgetter()
        self.nforgotten = 0                 # references in it
        self.something_forgotten = trio.Event()
        self.turns = Turns()
        self.on_init: Callable[[], None] = lambda: None
        self.requests = dict.fromkeys(KINDS, 0)

    def init(self) -> None:
        """Note that the kernel's INIT is being served."""
        self.on_init()

    # What edge=native asks (fuse/session.py: Policy)

    @property
    def broken(self) -> bool:
        """Whether an invariant broke."""
        return self.gate.broken

    def errno_of(self, error: Exception, name: str) -> int:
        """Turn an error into an errno."""
        return self.gate.errno_of(error, name)

    def demand_writable(self) -> None:
        """=> FsError EROFS once an invariant broke."""
        self.gate.demand_writable()

    def entry(self, ino: int) -> EntryAttributes:
        """Build the entry of a node."""
        return entry_of(ino, vnops.getattr(self.mount, ino))

    # Names

    @handler
    def lookup(self, parent: int, name: bytes, _ctx: Any) -> EntryAttributes:
        ino = vnops.lookup(self.mount, parent, name)
        return entry_of(ino, vnops.getattr(self.mount, ino)) if ino else no_entry()

    @changing
    def create(self, parent: int, name: bytes, mode: int, _flags: int,
               ctx: Any) -> tuple[FileInfo, EntryAttributes]:
        ino = vnops.create(self.mount, parent, name, mode, ctx)
        return FileInfo(fh=ino | self.privilege(), keep_cache=True), self.entry(ino)

    @changing
    def mknod(self, parent: int, name: bytes, mode: int, rdev: int, ctx: Any) -> EntryAttributes:
        return self.entry(vnops.mknod(self.mount, parent, name, mode, rdev, ctx))

    @changing
    def mkdir(self, parent: int, name: bytes, mode: int, ctx: Any) -> EntryAttributes:
        return self.entry(vnops.mkdir(self.mount, parent, name, mode, ctx))

    @changing
    def symlink(self, parent: int, name: bytes, target: bytes, ctx: Any) -> EntryAttributes:
        return self.entry(vnops.symlink(self.mount, parent, name, target, ctx))

    @changing
    def link(self, ino: int, parent: int, name: bytes, _ctx: Any) -> EntryAttributes:
        return self.entry(vnops.link(self.mount, ino, parent, name))

    @changing
    def unlink(self, parent: int, name: bytes, _ctx: Any) -> None:
        vnops.unlink(self.mount, parent, name)

    @changing
    def rmdir(self, parent: int, name: bytes, _ctx: Any) -> None:
        vnops.rmdir(self.mount, parent, name)

    @changing
    def rename(self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int,
               ctx: Any) -> None:
        vnops.rename(self.mount, parent, name, new_parent, new_name, flags, ctx)

    async def forget(self, inodes: Sequence[tuple[int, int]]) -> None:
        """Drop the kernel's references.  Must not raise.  forgetter() does the rest of a long list.

        At most MOST_FORGOTTEN wait for it: a list beyond that is handled at once.
        """
        rest = len(inodes) - FORGETS
        if rest > 0 and self.nforgotten + rest > MOST_FORGOTTEN:
            rest = 0
        self.forget_some(inodes[:FORGETS] if rest > 0 else inodes)
        if rest > 0:
            self.nforgotten += rest
            self.forgotten.append(inodes[FORGETS:])
            self.something_forgotten.set()

    def forget_some(self, inodes: Sequence[tuple[int, int]]) -> None:
        """Drop these references; breathe before each."""
        requests, mount, breathe, gate = self.requests, self.mount, self.breathe, self.gate
        for ino, nlookup in inodes:
            requests["forget"] += 1
            if gate.broken:
                continue        # it would free items by counts that are wrong
            try:
                breathe()
                vnops.forget(mount, ino, nlookup)
            except Exception as error:
                gate.errno_of(error, "forget")

    async def forgetter(self) -> None:
        """Forget the rest of long lists, some in each turn: the kernel may send 65,000 at once."""
        while True:
            await self.something_forgotten.wait()
            self.something_forgotten = trio.Event()
            with self.turns.background():
                while self.forgotten:
                    await self.forget_in_turns(self.forgotten.popleft())

    async def forget_in_turns(self, inodes: Sequence[tuple[int, int]]) -> None:
        """Drop all these references, between requests."""
        self.nforgotten -= len(inodes)
        self.turns.begin()
        for at in range(0, len(inodes), FORGETS):
            self.forget_some(inodes[at:at + FORGETS])
            if self.turns.over():
                await trio.lowlevel.checkpoint()
                self.turns.begin()
        await trio.lowlevel.checkpoint()

    # Nodes

    @handler
    def getattr(self, ino: int, _ctx: Any) -> EntryAttributes:
        return entry_of(ino, vnops.getattr(self.mount, ino))

    @changing
    def setattr(self, ino: int, attr: EntryAttributes, fields: Any, fh: int | None,
                ctx: Any) -> EntryAttributes:
        wanted: dict[str, Any] = {}
        if fields.update_mode:
            wanted["mode"] = stat.S_IMODE(attr.st_mode)
        if fields.update_uid:
            wanted["uid"] = attr.st_uid
        if fields.update_gid:
            wanted["gid"] = attr.st_gid
        if fields.update_size:
            wanted["size"] = attr.st_size
        if fields.update_atime:
            wanted["atime_ns"] = attr.st_atime_ns
        if fields.update_mtime:
            wanted["mtime_ns"] = attr.st_mtime_ns
        if fields.update_ctime:
            wanted["ctime_ns"] = attr.st_ctime_ns
        vnops.setattr(self.mount, ino, caller_of(ctx), **wanted, by_path=fh is None)
        return self.entry(ino)

    @handler
    def readlink(self, ino: int, _ctx: Any) -> bytes:
        return vnops.readlink(self.mount, ino)

    @handler
    def access(self, ino: int, how: int, _ctx: Any) -> bool:
        return vnops.access(self.mount, ino, how)       # asked for with noperm only

    @handler
    def statfs(self, _ctx: Any) -> pyfuse3.StatvfsData:
        data = pyfuse3.StatvfsData()
        (data.f_bsize, data.f_blocks, data.f_bfree, data.f_bavail, data.f_files, data.f_ffree, data.f_favail,
         data.f_namemax) = vnops.statfs(self.mount)
        data.f_frsize = data.f_bsize
        return data

    # Files

    @handler
    def open(self, ino: int, flags: int, ctx: Any) -> FileInfo:
        if flags & os.O_TRUNC:
            self.gate.demand_writable()
        vnops.open(self.mount, ino, flags, caller_of(ctx))
        # With strictatime each open is followed by a read that is sent here.
        return FileInfo(fh=ino | (self.privilege() if flags & os.O_ACCMODE else 0),
                        keep_cache=not self.mount.strictatime)

    def privilege(self) -> int:
        """PRIVILEGED if no quota holds for the caller: the binding says who opened a file, but not who writes."""
        return PRIVILEGED if self.quota is not None and self.quota.exempt() else 0

    @handler
    def read(self, fh: int, offset: int, size: int) -> Any:
        data = vnops.read(self.mount, fh & INO, offset, size)
        self.mount.nread += len(data)
        return data

    @handler
    def write(self, fh: int, offset: int, data: bytes) -> int:
        """Write; the binding does not say which writes are the kernel's, of pages changed through a mapping.

        A write(2) of whole pages into a hole looks the same.  So it gets ENOSPC instead of a short count, and is
        counted as lost (fuse/LIMITS.md).
        """
        mount = self.mount
        if self.quota is not None:
            self.quota.caller = ANYBODY if fh & PRIVILEGED else None
            fh &= INO
        try:
            mount.gate.demand_writable()
            try:
                done = self.write_some(fh, offset, data)
            except NoMemory as error:
                done = reap.retry(mount, error, self.write_some, fh, offset, data)
        except (FsError, VmError) as error:
            if writeback.may_be(mount, fh, offset, len(data)):
                mount.gate.lost_write(fh, offset, len(data), error)
            raise
        if done < len(data) and writeback.may_be(mount, fh, offset, len(data)):
            done += writeback.write(mount, fh, offset + done, data[done:])
        mount.nwritten += done
        return done

    def write_some(self, fh: int, offset: int, data: bytes) -> int:
        """Write, and clear set-id bits that go with it."""
        if fh in self.mount.marks and setid.cleared(self.mount, fh):
            pyfuse3.invalidate_inode(fh, attr_only=True)    # it still holds the old mode
        return vnops.write(self.mount, fh, offset, data)

    @handler
    def flush(self, _fh: int) -> None:
        raise FUSEError(errno.ENOSYS)       # the kernel asks once and never again

    @handler
    def fsync(self, _fh: int, _datasync: bool) -> None:
        raise FUSEError(errno.ENOSYS)

    @handler
    def release(self, _fh: int) -> None:
        pass                                # open files have no state: fh is the inode and PRIVILEGED

    # Directories

    @handler
    def opendir(self, ino: int, _ctx: Any) -> int:
        return ino

    @handler
    def readdir(self, fh: int, cookie: int, token: Any) -> None:
        reply = pyfuse3.readdir_reply

        def emit(name: bytes, ino: int, attr: tuple[int, ...], next_cookie: int) -> bool:
            return reply(token, name, entry_of(ino, attr), next_cookie)

        vnops.readdir(self.mount, fh, cookie, emit)

    @handler
    def fsyncdir(self, _fh: int, _datasync: bool) -> None:
        raise FUSEError(errno.ENOSYS)

    @handler
    def releasedir(self, _fh: int) -> None:
        pass

    # Extended attributes

    def need_xattr(self) -> None:
        """Refuse if the mount has none; the kernel makes EOPNOTSUPP of it and never asks again."""
        if not self.xattr:
            raise FUSEError(errno.ENOSYS)

    @handler
    def getxattr(self, ino: int, name: bytes, _ctx: Any) -> bytes:
        self.need_xattr()
        if name == xattr.LABEL and not self.mount.labels:
            raise NoLabel(errno.EOPNOTSUPP)
        return bytes(vnops.getxattr(self.mount, ino, name))

    @changing
    def setxattr(self, ino: int, name: bytes, value: bytes, ctx: Any) -> None:
        self.need_xattr()
        vnops.setxattr(self.mount, ino, name, value, 0, caller_of(ctx))    # pyfuse3 checks CREATE and REPLACE

    @handler
    def listxattr(self, ino: int, ctx: Any) -> list[bytes]:
        self.need_xattr()
        return vnops.listxattr(self.mount, ino, caller_of(ctx))

    @changing
    def removexattr(self, ino: int, name: bytes, ctx: Any) -> None:
        self.need_xattr()
        vnops.removexattr(self.mount, ino, name, caller_of(ctx))


KINDS = tuple(sorted({"forget"} | {
    name for name, value in vars(Operations).items() if hasattr(value, "__wrapped__")}))
