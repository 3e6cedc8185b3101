"""fuse/session.py: one connection with the kernel: requests in, replies out, all of them bytes.

handle() takes a request as it was read from the device and returns the reply as it is to be written: one buffer,
several for writev(2), or None if the kernel expects none.  It knows no descriptor, no event loop and no clock, so a
test or a fuzzer can drive it by bytes alone.  A Policy has the part that both edges of the server share: counting,
errors to errno, whether the mount may change.

Picture     NEW --INIT--> SERVING       before INIT all else is refused (EPROTO)

            request -> header -> OPERATIONS[opcode] -> may it change? breathe -> handler: decode, one vnop, encode
            FsError, VmError -> Policy.errno_of -> the header alone, with the errno

Invariants  S1 A request that has an answer gets exactly one, with its `unique`.
            S2 A handler sees only requests that are as long as they say, and as their structure needs.
            S3 A handler sees only existing inodes: others are ESTALE.  (The kernel sends none; a fuzzer does.)
            S4 An opcode that is not known, or not served, is ENOSYS: the kernel asks once, and does without.
Breathing   handle() breathes before each operation; a reply with views of frames must be written before the next.
Limits      If the kernel refuses a reply (ENOENT), the connection was aborted.  References that the reply gave stay
            until the unmount, which comes next.
"""

from __future__ import annotations

import errno
import logging
import traceback
from collections import deque
from typing import Any, Callable, NamedTuple, Protocol, Sequence

from tmpfsd.fuse import (
    abi, attributes, data, directories, init, ioctls, names, notify, replies, seek, space, timing, xattrs
)
from tmpfsd.fuse.held import Held
from tmpfsd.fuse.init import Agreement, Refusal
from tmpfsd.fuse.later import NOBODY, Later
from tmpfsd.fuse.lookahead import Lookahead
from tmpfsd.options import Config
from tmpfsd.tmpfs import node, reap, vnops
from tmpfsd.tmpfs.caller import Caller
from tmpfsd.tmpfs.filesystem import Mount
from tmpfsd.tmpfs.fserror import FsError
from tmpfsd.uvm.errors import Inconsistent, NoMemory, VmError

log = logging.getLogger(__name__)

Reply = bytes | Sequence[bytes | bytearray | memoryview] | None
Handler = Callable[["Session", int, Any], Reply]
HEADER_SIZE = abi.IN_HEADER.size
_header = abi.IN_HEADER.unpack


class Policy(Protocol):
    """The part that both edges of a server share."""

    requests: dict[str, int]        # number of requests by name

    @property
    def broken(self) -> bool:
        """Whether an invariant of the mount did not hold."""

    def errno_of(self, error: FsError | VmError, name: str) -> int:
        """Turn an error into an errno; log, count and remember it if needed."""

    def demand_writable(self) -> None:
        """=> FsError EROFS if nothing may be changed."""


class Operation(NamedTuple):
    """The handling of an opcode: `least` is the size of its structure; with `changes` it needs a writable mount."""

    name: str
    handler: Handler
    least: int = 0
    changes: bool = False


def not_served(_s: "Session", _ino: int, _data: bytes) -> bytes:
    """Tell the kernel not to send this again."""
    raise FsError(errno.ENOSYS)


def nothing_to_do(s: "Session", _ino: int, _data: bytes) -> bytes:
    """Answer a request that needs no work."""
    return replies.done(s)


OPERATIONS: dict[int, Operation] = {
    abi.LOOKUP: Operation("lookup", names.lookup),
    abi.MKNOD: Operation("mknod", names.mknod, abi.MKNOD_IN.size, changes=True),
    abi.MKDIR: Operation("mkdir", names.mkdir, abi.MKDIR_IN.size, changes=True),
    abi.SYMLINK: Operation("symlink", names.symlink, changes=True),
    abi.TMPFILE: Operation("tmpfile", names.tmpfile, abi.CREATE_IN.size, changes=True),
    abi.LINK: Operation("link", names.link, abi.LINK_IN.size, changes=True),
    abi.UNLINK: Operation("unlink", names.unlink, changes=True),
    abi.RMDIR: Operation("rmdir", names.rmdir, changes=True),
    abi.RENAME: Operation("rename", names.rename, abi.RENAME_IN.size, changes=True),
    abi.RENAME2: Operation("rename", names.rename2, abi.RENAME2_IN.size, changes=True),
    abi.GETATTR: Operation("getattr", attributes.getattr_),
    abi.SETATTR: Operation("setattr", attributes.setattr_, abi.SETATTR_IN.size, changes=True),
    abi.STATX_OP: Operation("statx", attributes.statx),
    abi.READLINK: Operation("readlink", attributes.readlink),
    abi.ACCESS: Operation("access", attributes.access, abi.ACCESS_IN.size),
    abi.STATFS: Operation("statfs", attributes.statfs),
    abi.READ: Operation("read", data.read, abi.READ_IN.size),
    abi.WRITE: Operation("write", data.write, abi.WRITE_IN.size, changes=True),
    abi.FALLOCATE: Operation("fallocate", space.fallocate, abi.FALLOCATE_IN.size, changes=True),
    abi.LSEEK: Operation("lseek", seek.lseek, abi.LSEEK_IN.size),
    abi.NOTIFY_REPLY: Operation("notify_reply", seek.notify_reply),
    abi.COPY_FILE_RANGE: Operation("copy_file_range", data.copy_file_range, abi.COPY_FILE_RANGE_IN.size, changes=True),
    abi.COPY_FILE_RANGE_64: Operation("copy_file_range", data.copy_file_range_64, abi.COPY_FILE_RANGE_IN.size,
                                      changes=True),
    abi.READDIR: Operation("readdir", directories.readdir, abi.READ_IN.size),
    abi.READDIRPLUS: Operation("readdirplus", directories.readdirplus, abi.READ_IN.size),
    abi.GETXATTR: Operation("getxattr", xattrs.getxattr, abi.GETXATTR_IN.size),
    abi.LISTXATTR: Operation("listxattr", xattrs.listxattr, abi.GETXATTR_IN.size),
    abi.SETXATTR: Operation("setxattr", xattrs.setxattr, abi.SETXATTR_COMPAT, changes=True),
    abi.REMOVEXATTR: Operation("removexattr", xattrs.removexattr, changes=True),
    abi.OPEN: Operation("open", data.open_),
    abi.OPENDIR: Operation("opendir", data.open_),
    abi.CREATE: Operation("create", not_served),
    abi.FLUSH: Operation("flush", not_served),
    abi.FSYNC: Operation("fsync", not_served),
    abi.FSYNCDIR: Operation("fsyncdir", not_served),
    abi.IOCTL: Operation("ioctl", ioctls.ioctl, abi.IOCTL_IN.size),
    abi.POLL: Operation("poll", not_served),
    abi.RELEASE: Operation("release", nothing_to_do),
    abi.RELEASEDIR: Operation("releasedir", nothing_to_do),
    abi.SYNCFS: Operation("syncfs", nothing_to_do),
    abi.DESTROY: Operation("destroy", nothing_to_do),
}
NO_ANSWER: dict[int, Operation] = {
    abi.FORGET: Operation("forget", names.forget, abi.FORGET_IN.size),
    abi.BATCH_FORGET: Operation("forget", names.batch_forget, abi.BATCH_FORGET_IN.size),
    abi.INTERRUPT: Operation("interrupt", names.interrupt),
}
OTHER = "other"                     # opcodes that nobody knows
NAMES = tuple(sorted({OTHER, *(each.name for each in (*OPERATIONS.values(), *NO_ANSWER.values()))}))
_FORGET = NO_ANSWER[abi.FORGET].name


class Session:
    """The connection of one mount.  Handlers find the header of the request in `unique` and `caller`."""

    __slots__ = ("mount", "config", "policy", "agreed", "unique", "caller", "notices", "later",
                 "held", "lookahead", "seeks", "on_init", "refusal", "_known", "_requests", "_check_each", "_table",
                 "_silent", "_quota")

    def __init__(self, mount: Mount, config: Config, policy: Policy) -> None:
        self.mount, self.config, self.policy = mount, config, policy
        self.agreed = Agreement(0, 0)
        self.unique = 0
        self.caller = Caller()
        self.notices: list[bytes] = []      # that take no lock, to be written before the reply
        self.later: deque[Later] = deque()  # requests that are answered later, in order
        self.lookahead = Lookahead()        # of listings
        self.held = Held()                  # pages of holes that the kernel may hold
        self.seeks: dict[int, seek.Sought] = {}     # LSEEKs that wait for a NOTIFY_REPLY, by unique
        self.on_init: Callable[[], None] = lambda: None
        self.refusal = ""                   # why this kernel is not served
        self._requests = policy.requests
        for name in NAMES:
            self._requests.setdefault(name, 0)
        self._known = mount.mem.nodes.is_held
        self._quota = mount.quota
        self._check_each = mount.check_level >= 2      # TMPFSD_CHECK=2
        self._table, self._silent = OPERATIONS.copy(), NO_ANSWER.copy()

    def handle(self, request: memoryview) -> Reply:
        """Do what a request asks for, and return the reply."""
        if len(request) < HEADER_SIZE:
            log.error("a request of %d bytes", len(request))
            return None
        length, opcode, unique, ino, uid, gid, pid = _header(request)
        operation = self._table.get(opcode)
        if operation is None:
            return self._handle_other(opcode, unique, ino, request)
        self._requests[operation.name] += 1
        if length != len(request) or length < HEADER_SIZE + operation.least or not self.agreed.minor:
            return replies.refused(unique, errno.EPROTO)
        self.unique = unique
        caller = self.caller
        caller.uid, caller.gid, caller.pid = uid, gid, pid
        if self._quota is not None:
            self._quota.caller = caller
        try:
            if operation.changes:
                self.policy.demand_writable()
            self.mount.breathe()
            if not self._known(ino - 1):
                return self._unknown(unique, ino, operation, request)
            body = request if opcode == abi.WRITE else bytes(request)
            try:
                reply = operation.handler(self, ino, body)
            except NoMemory as shortage:
                reply = reap.retry(self.mount, shortage, operation.handler, self, ino, body)
            return self._checked(reply) if self._check_each else reply
        except (FsError, VmError) as error:
            code = self.policy.errno_of(error, operation.name)
        except AssertionError as bug:
            code = self._broken(bug, operation.name)
        except Exception:
            log.exception("%s: unexpected", operation.name)
            code = errno.EIO
        return replies.refused(unique, code)

    def go_on(self) -> Reply:
        """Do a step of the first request that is answered later: its answer, or None while there is none.  O(1).

        => There is one.
        """
        later = self.later[0]
        try:
            self.policy.demand_writable()
            self.mount.breathe()
            if self._known(later.ino - 1) and later.step():
                return None
            code = 0
        except (FsError, VmError) as error:
            code = self.policy.errno_of(error, later.name)
        except AssertionError as bug:
            code = self._broken(bug, later.name)
        except Exception:
            log.exception("%s: unexpected", later.name)
            code = errno.EIO
        self.later.popleft()
        return replies.refused(later.unique, code) if later.unique != NOBODY else None

    def not_told(self, notice: bytes) -> Reply:
        """The kernel did not take a notice: the reply to the request that waits for its effect, if any."""
        unique = notify.sought(notice)
        return replies.refused(unique, errno.EIO) if self.seeks.pop(unique, None) is not None else None

    def demand_known(self, ino: int) -> None:
        """=> FsError ESTALE for an inode that is not there (S3)."""
        if not self._known(ino - 1):
            raise FsError(errno.ESTALE)

    def _unknown(self, unique: int, ino: int, operation: Operation, request: memoryview) -> Reply:
        """A request with an unknown inode.  Requests about the whole file system have 0; the rest is ESTALE."""
        if not ino and operation.name in ABOUT_NO_NODE:
            return operation.handler(self, ino, bytes(request))
        return replies.refused(unique, errno.ESTALE)

    def _checked(self, reply: Reply) -> Reply:
        """Check everything; that moves pages, so views of frames are copied first."""
        if reply is not None and not isinstance(reply, bytes):
            reply = b"".join(reply)
        self.mount.check()
        return reply

    def _broken(self, error: AssertionError, name: str) -> int:
        return self.policy.errno_of(Inconsistent("assert", str(error), traceback.format_exc()), name)

    # --- timing, while somebody asks ---

    def time_next(self, samples: dict[str, list[int]], clock: Callable[[], int]) -> None:
        """Add the time that the next request of each opcode takes to its sample (timing.py), by name."""
        for table, operations in ((self._table, OPERATIONS), (self._silent, NO_ANSWER)):
            for opcode, operation in operations.items():
                sample = samples.setdefault(operation.name, timing.blank())
                table[opcode] = operation._replace(handler=_timed(table, opcode, operation, sample, clock))

    def time_no_more(self) -> None:
        """Undo time_next()."""
        self._table.update(OPERATIONS)
        self._silent.update(NO_ANSWER)

    # --- rare requests, and those without an answer ---

    def _handle_other(self, opcode: int, unique: int, ino: int, request: memoryview) -> Reply:
        """INIT, requests without an answer, and unknown opcodes."""
        if opcode == abi.INIT:
            return self._init(unique, bytes(request))
        operation = self._silent.get(opcode)
        if operation is None:
            self._requests[OTHER] += 1
            return replies.refused(unique, errno.ENOSYS)
        if len(request) >= HEADER_SIZE + operation.least:
            operation.handler(self, ino, bytes(request))
        return None

    def _init(self, unique: int, request: bytes) -> bytes:
        """The handshake; a second one is refused."""
        if self.agreed.minor or len(request) < HEADER_SIZE + abi.INIT_IN_HEAD:
            return replies.refused(unique, errno.EPROTO)
        try:
            self.agreed, body = init.answer(request, self.config)
        except Refusal as refusal:
            self.refusal = str(refusal)
            log.error("%s", refusal)
            return replies.refused(unique, refusal.errno)
        self.unique = unique
        if self.agreed.minor:
            log.debug("INIT: minor %d, flags %#x", self.agreed.minor, self.agreed.flags)
            self.on_init()
        return replies.header(self, len(body)) + body

    def forget(self, ino: int, nlookup: int) -> None:
        """The kernel gives references back.  Raises nothing.  => Breathes before each."""
        self._requests[_FORGET] += 1
        try:
            self.mount.breathe()
            if self._known(ino - 1) and not self.policy.broken:     # it would free things by tables that are wrong
                vnops.forget(self.mount, ino, nlookup)
                if self.held.has(ino) and not (self._known(ino - 1) and node.is_known(self.mount, ino)):
                    self.held.forget(ino)
        except VmError as error:
            self.policy.errno_of(error, _FORGET)
        except AssertionError as bug:
            self._broken(bug, _FORGET)
        except Exception:
            log.exception("forget of inode %d", ino)


def _timed(table: dict[int, Operation], opcode: int, operation: Operation, sample: list[int],
           clock: Callable[[], int]) -> Handler:
    """A handler that times itself once, and puts the one without a timer back."""
    def timed(s: Session, ino: int, data: Any) -> Reply:
        table[opcode] = operation
        start = clock()
        try:
            return operation.handler(s, ino, data)
        finally:
            timing.note(sample, clock() - start)
    return timed


ABOUT_NO_NODE = {each.name for each in OPERATIONS.values()
                 if each.handler in (attributes.statfs, nothing_to_do, not_served)}
