"""stress/model.py: seeded random operations against a model in dicts.

    python -m tests.stress.model SEED STEPS [roomy|starving|thrash] [check every N steps]

Every answer is compared with the model's, and every so many steps the whole tree, and mp.check().  A failure
names seed and step.

Limits      Names of directories that were removed are not used: the kernel does not ask for them.
"""

from __future__ import annotations

import errno
import random
import stat
import sys
import tempfile
from typing import Any, Callable

from tests.fs.fslib import CRED, MODES, ROOT, Driver, make_mount, tiny_trees
from tmpfsd.tmpfs.fserror import FsError
from tmpfsd.uvm.errors import VmError

NAME_LENGTHS = (1, 2, 5, 13, 31, 32, 33, 60, 255)
NNAMES = 48
SIZES = (0, 1, 47, 48, 49, 100, 2047, 2048, 2049, 4095, 4096, 4097, 8192, 65535, 65536, 65537, 150_000)
VALUE_SIZES = (0, 1, 20, 1900, 2048, 2100, 4096, 4097, 9000, 65536)
NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4
REFUSED = (FsError, VmError)
ANY = -1                    # any errno: the kernel refuses this itself


class MNode:
    """A node of the model."""

    __slots__ = ("ino", "mode", "uid", "gid", "links", "data", "xattrs", "entries", "parent", "rdev")

    def __init__(self, ino: int, mode: int, parent: int = 0, data: bytes = b"", rdev: int = 0) -> None:
        self.ino, self.mode, self.rdev = ino, mode, rdev
        self.uid = self.gid = 0
        self.is_dir_links()
        self.data = bytearray(data)
        self.xattrs: dict[bytes, bytes] = {}
        self.entries: dict[bytes, MNode] = {}
        self.parent = parent

    def is_dir_links(self) -> None:
        """Links of a new node."""
        self.links = 2 if self.is_dir else 1

    @property
    def is_dir(self) -> bool:
        """Whether it is a directory."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_reg(self) -> bool:
        """Whether it is a regular file."""
        return stat.S_ISREG(self.mode)


class Model:
    """Operations on both, compared."""

    def __init__(self, fs: Driver, seed: int) -> None:
        self.fs = fs
        self.random = random.Random(seed)
        self.root = MNode(ROOT, stat.S_IFDIR | 0o1777, ROOT)
        self.nodes: dict[int, MNode] = {ROOT: self.root}
        self.names = [self._name(length) for length in NAME_LENGTHS for _ in range(NNAMES // len(NAME_LENGTHS) + 1)]
        self.attribute_names = [b"user." + bytes([97 + i]) * n for i, n in enumerate((1, 5, 30, 100, 250))]
        self.attribute_names += [b"trusted.t", b"security.s"]
        self.log: list[str] = []
        self.operations: list[tuple[Callable[[], None], int]] = [
            (self.create, 14), (self.mknod, 2), (self.mkdir, 6), (self.symlink, 3), (self.link, 6), (self.unlink, 10),
            (self.rmdir, 4), (self.rename, 14), (self.lookup, 4), (self.getattr, 2), (self.setattr, 3),
            (self.write, 14), (self.read, 6), (self.truncate, 5), (self.punch, 4), (self.readdir, 2),
            (self.setxattr, 6), (self.getxattr, 2), (self.removexattr, 3), (self.forget, 8), (self.idle, 1)]
        self._choices = [operation for operation, _weight in self.operations]
        self._weights = [weight for _operation, weight in self.operations]

    def _name(self, length: int) -> bytes:
        name = bytes(self.random.choice([i for i in range(1, 256) if i != 47]) for _ in range(length))
        return name if name not in (b".", b"..") else b"dot"

    # --- playing ---

    def step(self) -> None:
        """One operation."""
        self.random.choices(self._choices, self._weights)[0]()

    def note(self, *what: Any) -> None:
        """Remember what was done last."""
        self.log.append(" ".join(item[:24].hex() if isinstance(item, bytes) else str(item) for item in what))
        del self.log[:-20]

    def expect(self, number: int, operation: Callable[..., Any], *args: Any) -> Any:
        """Run an operation that must be refused with that errno, or succeed (0)."""
        try:
            result = operation(*args)
        except REFUSED as error:
            if number == ANY:
                return None
            assert error.errno == number, f"{error!r} where {errno.errorcode.get(number, 'success')} was expected"
            return None
        assert not number, f"success where {errno.errorcode.get(number, 'a refusal')} was expected"
        return result

    # --- choosing ---

    def pick(self, want: Callable[[MNode], bool] = lambda node: True) -> MNode | None:
        """A node the kernel knows."""
        for _ in range(12):
            ino = self.random.choice(list(self.nodes))
            node = self.nodes[ino]
            if (self.fs.refs[ino] or ino == ROOT) and want(node):
                return node
        return None

    def directory(self) -> MNode:
        """A directory that has a name, looked up from the root."""
        linked = [node for node in self.nodes.values() if node.is_dir and node.links]
        node = self.random.choice(linked)
        if node is not self.root and not self.fs.refs[node.ino]:
            self.reach(node)
        return node

    def reach(self, node: MNode) -> None:
        """Look a directory up, and those above it."""
        parent = self.nodes[node.parent]
        if parent is not self.root and not self.fs.refs[parent.ino]:
            self.reach(parent)
        name = next(name for name, child in parent.entries.items() if child is node)
        assert self.fs.lookup(parent.ino, name) == node.ino

    def name_in(self, dnode: MNode, likely: bool) -> bytes:
        """A name, mostly one that is there if likely."""
        if likely and dnode.entries and self.random.random() < 0.8:
            return self.random.choice(list(dnode.entries))
        return self.random.choice(self.names)

    def bury(self, node: MNode) -> None:
        """A node goes with its last link and reference."""
        if not node.links and not self.fs.refs[node.ino]:
            del self.nodes[node.ino]

    # --- operations ---

    def _made(self, dnode: MNode, name: bytes, ino: int, mode: int, data: bytes = b"", rdev: int = 0) -> None:
        assert ino not in self.nodes, f"inode {ino} is in use"
        node = self.nodes[ino] = dnode.entries[name] = MNode(ino, mode, dnode.ino, data, rdev)
        if node.is_dir:
            dnode.links += 1

    def create(self) -> None:
        """create()"""
        dnode = self.directory()
        name = self.name_in(dnode, False)
        self.note("create", dnode.ino, name)
        ino = self.expect(errno.EEXIST * (name in dnode.entries), self.fs.create, dnode.ino, name, 0o640)
        if ino:
            self._made(dnode, name, ino, stat.S_IFREG | 0o640)

    def mknod(self) -> None:
        """mknod()"""
        dnode = self.directory()
        name = self.name_in(dnode, False)
        mode = self.random.choice((stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK)) | 0o600
        rdev = 259 if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else 0
        self.note("mknod", dnode.ino, name)
        ino = self.expect(errno.EEXIST * (name in dnode.entries), self.fs.mknod, dnode.ino, name, mode, 259)
        if ino:
            self._made(dnode, name, ino, mode, b"", rdev)

    def mkdir(self) -> None:
        """mkdir()"""
        dnode = self.directory()
        name = self.name_in(dnode, False)
        self.note("mkdir", dnode.ino, name)
        ino = self.expect(errno.EEXIST * (name in dnode.entries), self.fs.mkdir, dnode.ino, name, 0o755)
        if ino:
            self._made(dnode, name, ino, stat.S_IFDIR | 0o755)

    def symlink(self) -> None:
        """symlink()"""
        dnode = self.directory()
        name = self.name_in(dnode, False)
        target = self.random.randbytes(self.random.choice((1, 47, 48, 49, 200, 4095)))
        self.note("symlink", dnode.ino, name, len(target))
        ino = self.expect(errno.EEXIST * (name in dnode.entries), self.fs.symlink, dnode.ino, name, target)
        if ino:
            self._made(dnode, name, ino, stat.S_IFLNK | 0o777, target)

    def link(self) -> None:
        """link()"""
        dnode, node = self.directory(), self.pick()
        if node is None:
            return
        name = self.name_in(dnode, False)
        number = errno.EEXIST if name in dnode.entries else errno.EPERM if node.is_dir else 0
        number = number or (errno.ENOENT if not node.links else 0)
        self.note("link", node.ino, dnode.ino, name)
        if self.expect(number, self.fs.link, node.ino, dnode.ino, name):
            dnode.entries[name] = node
            node.links += 1

    def unlink(self) -> None:
        """unlink()"""
        dnode = self.directory()
        name = self.name_in(dnode, True)
        node = dnode.entries.get(name)
        self.note("unlink", dnode.ino, name)
        if node is None or node.is_dir:
            self.expect(errno.EISDIR if node else errno.ENOENT, self.fs.unlink, dnode.ino, name)
            return
        self.fs.unlink(dnode.ino, name)
        del dnode.entries[name]
        node.links -= 1
        self.bury(node)

    def rmdir(self) -> None:
        """rmdir()"""
        dnode = self.directory()
        name = self.name_in(dnode, True)
        node = dnode.entries.get(name)
        self.note("rmdir", dnode.ino, name)
        if node is None or not node.is_dir or node.entries:
            number = errno.ENOENT if node is None else errno.ENOTEMPTY if node.is_dir else errno.ENOTDIR
            self.expect(number, self.fs.rmdir, dnode.ino, name)
            return
        self.fs.rmdir(dnode.ino, name)
        del dnode.entries[name]
        dnode.links -= 1
        node.links = 0
        self.bury(node)

    def _is_below(self, dnode: MNode, ancestor: MNode) -> bool:
        while dnode is not ancestor:
            if dnode is self.root:
                return False
            dnode = self.nodes[dnode.parent]
        return True

    def _refusal(self, dnode: MNode, name: bytes, ndnode: MNode, nname: bytes, flags: int) -> int:
        node, there = dnode.entries.get(name), ndnode.entries.get(nname)
        if dnode is not ndnode:
            if node is None:
                return ANY
            if node.is_dir and self._is_below(ndnode, node):
                return errno.EINVAL
            if there and there.is_dir and self._is_below(dnode, there):
                return errno.EINVAL if flags & EXCHANGE else errno.ENOTEMPTY
        if node is None or (flags & EXCHANGE and there is None):
            return errno.ENOENT
        if flags & NOREPLACE and there:
            return errno.EEXIST
        if there is None or there is node or flags & EXCHANGE:
            return 0
        if node.is_dir != there.is_dir:
            return errno.ENOTDIR if node.is_dir else errno.EISDIR
        return errno.ENOTEMPTY if there.entries else 0

    def rename(self) -> None:
        """rename()"""
        dnode, ndnode = self.directory(), self.directory()
        if self.random.random() < 0.3:
            ndnode = dnode
        name, nname = self.name_in(dnode, True), self.name_in(ndnode, self.random.random() < 0.5)
        flags = self.random.choice((0, 0, 0, NOREPLACE, EXCHANGE, EXCHANGE, WHITEOUT))
        self.note("rename", dnode.ino, name, ndnode.ino, nname, flags)
        number = self._refusal(dnode, name, ndnode, nname, flags)
        before = self.fs.mp.mem.nodes.nitems
        self.expect(number, self.fs.rename, dnode.ino, name, ndnode.ino, nname, flags)
        if number:
            assert self.fs.mp.mem.nodes.nitems == before
            return
        self._renamed(dnode, name, ndnode, nname, flags)

    def _renamed(self, dnode: MNode, name: bytes, ndnode: MNode, nname: bytes, flags: int) -> None:
        node, there = dnode.entries[name], ndnode.entries.get(nname)
        if node is there:
            return
        if there is not None:
            ndnode.links -= there.is_dir
        dnode.links -= node.is_dir
        ndnode.links += node.is_dir
        ndnode.entries[nname] = node
        node.parent = ndnode.ino
        if flags & EXCHANGE:
            assert there is not None
            dnode.entries[name] = there
            there.parent = dnode.ino
            dnode.links += there.is_dir
            return
        del dnode.entries[name]
        if there is not None:
            there.links -= 2 if there.is_dir else 1
            self.bury(there)
        if flags & WHITEOUT:
            white = self.fs.lookup(dnode.ino, name)
            assert white
            self._made(dnode, name, white, stat.S_IFCHR)

    def lookup(self) -> None:
        """lookup()"""
        dnode = self.directory()
        name = self.name_in(dnode, True)
        self.note("lookup", dnode.ino, name)
        ino = self.fs.lookup(dnode.ino, name)
        assert ino == (dnode.entries[name].ino if name in dnode.entries else 0)

    def getattr(self) -> None:
        """getattr()"""
        node = self.pick()
        if node is not None:
            self.note("getattr", node.ino)
            self.compare_attributes(node)

    def compare_attributes(self, node: MNode) -> None:
        """Mode, links, owner, size of a node."""
        st = self.fs.getattr(node.ino)
        size = 40 + 20 * len(node.entries) if node.is_dir else len(node.data)
        assert st[:6] == (node.mode, node.links, node.uid, node.gid, node.rdev, size), f"inode {node.ino}: {st}"

    def setattr(self) -> None:
        """chmod, chown, utimens"""
        node = self.pick()
        if node is None:
            return
        mode, uid, gid = self.random.randrange(0o10000), self.random.randrange(1 << 32), self.random.randrange(1 << 32)
        times = [self.random.choice((-1, 0, 1 << 62, -(1 << 70), 1 << 65)) for _ in range(2)]
        if node is self.root:
            return
        self.note("setattr", node.ino, mode, uid, gid)
        if node.is_dir:
            mode &= ~stat.S_ISGID
        self.fs.setattr(node.ino, mode=mode, uid=uid, gid=gid, atime_ns=times[0], mtime_ns=times[1])
        assert self.fs.getattr(node.ino)[7:9] == tuple(times)
        node.mode, node.uid, node.gid = stat.S_IFMT(node.mode) | mode, uid, gid

    def write(self) -> None:
        """write()"""
        node = self.pick(lambda node: node.is_reg)
        if node is None:
            return
        offset = self.random.choice((0, len(node.data), self.random.choice(SIZES), self.random.randrange(200_000)))
        data = self.random.randbytes(self.random.choice((1, 10, 40, 500, 3000, 4096, 20_000, 70_000)))
        self.note("write", node.ino, offset, len(data))
        assert self.fs.write(node.ino, offset, data) == len(data)
        node.data.extend(bytes(max(offset - len(node.data), 0)))
        node.data[offset:offset + len(data)] = data

    def read(self) -> None:
        """read()"""
        node = self.pick(lambda node: node.is_reg)
        if node is not None:
            offset, size = self.random.choice(SIZES), self.random.choice(SIZES)
            self.note("read", node.ino, offset, size)
            assert self.fs.read(node.ino, offset, size) == node.data[offset:offset + size]

    def truncate(self) -> None:
        """truncate()"""
        node = self.pick(lambda node: node.is_reg)
        if node is not None:
            size = self.random.choice(SIZES)
            self.note("truncate", node.ino, size)
            self.fs.truncate(node.ino, size)
            node.data[size:] = bytes(max(size - len(node.data), 0))

    def punch(self) -> None:
        """punch()"""
        node = self.pick(lambda node: node.is_reg)
        if node is not None:
            offset, length = self.random.choice(SIZES), self.random.choice(SIZES)
            self.note("punch", node.ino, offset, length)
            self.fs.punch(node.ino, offset, length)
            end = min(offset + length, len(node.data))
            if offset < end:
                node.data[offset:end] = bytes(end - offset)

    def readdir(self) -> None:
        """readdir()"""
        dnode = self.directory()
        self.note("readdir", dnode.ino)
        found = self.fs.entries(dnode.ino, self.random.choice((1, 7, 100)))
        assert found == {name: node.ino for name, node in dnode.entries.items()}

    def setxattr(self) -> None:
        """setxattr()"""
        node = self.pick()
        if node is None:
            return
        name, value = self.random.choice(self.attribute_names), self.random.randbytes(self.random.choice(VALUE_SIZES))
        flags = self.random.choice((0, 0, 1, 2))
        there = name in node.xattrs
        self.note("setxattr", node.ino, name, len(value), flags)
        number = errno.EEXIST if there and flags == 1 else errno.ENODATA if not there and flags == 2 else 0
        self.expect(number, self.fs.setxattr, node.ino, name, value, flags, CRED)
        if not number:
            node.xattrs[name] = value

    def getxattr(self) -> None:
        """getxattr()"""
        node = self.pick()
        if node is not None:
            name = self.random.choice(self.attribute_names)
            self.note("getxattr", node.ino, name)
            number = errno.ENODATA * (name not in node.xattrs)
            assert self.expect(number, self.fs.getxattr, node.ino, name) == node.xattrs.get(name)
            assert self.fs.listxattr(node.ino) == sorted(node.xattrs)

    def removexattr(self) -> None:
        """removexattr()"""
        node = self.pick(lambda node: bool(node.xattrs)) or self.pick()
        if node is not None:
            name = self.random.choice(self.attribute_names)
            self.note("removexattr", node.ino, name)
            self.expect(errno.ENODATA * (name not in node.xattrs), self.fs.removexattr, node.ino, name)
            node.xattrs.pop(name, None)

    def forget(self) -> None:
        """forget()"""
        node = self.pick(lambda node: node is not self.root)
        if node is not None:
            n = self.random.choice((1, self.fs.refs[node.ino]))
            self.note("forget", node.ino, n)
            self.fs.forget(node.ino, n)
            self.bury(node)

    def idle(self) -> None:
        """Background work."""
        self.note("idle")
        self.fs.mp.breathe()
        self.fs.mp.idle()

    # --- the whole ---

    def compare(self) -> None:
        """Every node, its data and its attributes."""
        self.fs.check()
        assert self.fs.mp.mem.nodes.nitems == len(self.nodes)
        for node in self.nodes.values():
            self.compare_attributes(node)
            if node.is_reg:
                assert self.fs.read(node.ino, 0, len(node.data) + 1) == node.data, f"data of inode {node.ino}"
            elif stat.S_ISLNK(node.mode):
                assert self.fs.readlink(node.ino) == node.data
            elif node.is_dir and node.links:
                assert self.fs.entries(node.ino) == {name: child.ino for name, child in node.entries.items()}
            found = {name: self.fs.getxattr(node.ino, name) for name in self.fs.listxattr(node.ino)}
            assert found == node.xattrs, f"attributes of inode {node.ino}"


def play(seed: int, steps: int, mode: str = "starving", tiny: bool = False, every: int = 500, **options: Any) -> None:
    """Play `steps` operations; a failure names seed and step."""
    with tempfile.TemporaryDirectory() as swap:
        mp = make_mount(swap, mode, **options)
        fs = Driver(mp, mode)
        model = Model(fs, seed)
        step = 0
        try:
            for step in range(steps):
                model.step()
                if step % every == every - 1:
                    model.compare()
            model.compare()
            fs.finish()
        except BaseException:
            print(f"\nseed {seed}, step {step}, {mode}{', tiny trees' * tiny}; the last operations:", file=sys.stderr)
            print("\n".join(model.log), file=sys.stderr)
            raise
        mp.close()


def main() -> None:
    """The command line."""
    seed, steps = int(sys.argv[1]), int(sys.argv[2])
    mode = sys.argv[3] if len(sys.argv) > 3 else MODES[seed % len(MODES)]
    every = int(sys.argv[4]) if len(sys.argv) > 4 else 500
    if seed & 1:
        with tiny_trees():
            play(seed, steps, mode, True, every)
    else:
        play(seed, steps, mode, False, every)
    print(f"seed {seed}: {steps} operations, {mode}: all as in the model")


if __name__ == "__main__":
    main()
