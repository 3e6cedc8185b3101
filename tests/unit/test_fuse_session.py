"""fuse/: each opcode driven by bytes: a request in, its reply out."""

import errno
import os
import stat

import pytest

from tests.fs.wirelib import ALL_FLAGS, Wire, refused
from tmpfsd.fuse import abi, init, notify
from tmpfsd.fuse.session import NO_ANSWER, OPERATIONS
from tmpfsd.uvm.param import PAGE_SIZE

ROOT = abi.ROOT_ID
BASIC = ("FUSE_NO_OPEN_SUPPORT", "FUSE_NO_OPENDIR_SUPPORT", "FUSE_MAX_PAGES", "FUSE_BIG_WRITES")


class TestInit:
    def test_what_is_agreed_on(self) -> None:
        wire = Wire(flags=0)
        (major, minor, readahead, flags, background, congestion, max_write, gran, max_pages,
         flags2) = wire.init(ALL_FLAGS, minor=45, readahead=131_072)
        assert (major, minor, readahead, max_write, gran, max_pages) == (7, 45, 131_072, 256 << 10, 1, 64)
        assert 0 < congestion < background
        got = {name for name, bit in abi.INIT_FLAGS.items() if (flags | flags2 << 32) & bit}
        assert got == set(init.WANTED)
        assert not got & set(init.REFUSED) and "FUSE_ATOMIC_O_TRUNC" in init.REFUSED
        wire.close()

    @pytest.mark.parametrize("option, flag", [("acl", "FUSE_POSIX_ACL"), ("writeback", "FUSE_WRITEBACK_CACHE")])
    def test_by_option(self, option: str, flag: str) -> None:
        wire = Wire(**{option: True})
        assert wire.session.agreed.has(flag)
        wire.close()

    def test_nothing_is_asked_for_that_was_not_offered(self) -> None:
        wire = Wire(flags=sum(abi.INIT_FLAGS[name] for name in BASIC), acl=True)
        assert {name for name in abi.INIT_FLAGS if wire.session.agreed.has(name)} == set(BASIC)
        wire.close()

    def test_flags2_counts_only_with_init_ext(self) -> None:
        wire = Wire(flags=0)
        body = abi.INIT_IN.pack(7, 31, 0, sum(abi.INIT_FLAGS[name] for name in BASIC), 0xFFFFFFFF)
        wire.ask(abi.INIT, 0, body[:abi.INIT_IN_HEAD])          # as Linux 5.4 sends it
        assert wire.session.agreed.minor == 31 and wire.session.agreed.flags >> 32 == 0
        wire.close()

    def test_a_newer_minor_is_answered_with_ours(self) -> None:
        wire = Wire(flags=0)
        assert wire.init(minor=99)[:2] == (7, abi.MINOR)
        wire.close()

    def test_a_newer_major_is_asked_again(self) -> None:
        wire = Wire(flags=0)
        assert wire.init(major=8, minor=0)[0] == 7
        with refused(errno.EPROTO):
            wire.lookup(ROOT, b"a")
        assert wire.init()[:2] == (7, 45)
        assert not wire.lookup(ROOT, b"a")
        wire.close()

    @pytest.mark.parametrize("major, minor", [(7, 30), (6, 45), (7, 0)])
    def test_too_old(self, major: int, minor: int) -> None:
        wire = Wire(flags=0)
        with refused(errno.EPROTO):
            wire.init(major=major, minor=minor)
        assert f"{major}.{minor}" in wire.session.refusal and "7.31" in wire.session.refusal
        assert "edge=pyfuse3" in wire.session.refusal and "\n" not in wire.session.refusal
        wire.close()

    @pytest.mark.parametrize("name", BASIC)
    def test_what_must_be_offered(self, name: str) -> None:
        wire = Wire(flags=0)
        with refused(errno.EPROTO):
            wire.init(ALL_FLAGS & ~abi.INIT_FLAGS[name])
        assert name in wire.session.refusal
        wire.close()

    def test_before_and_twice(self) -> None:
        wire = Wire(flags=0)
        with refused(errno.EPROTO):
            wire.getattr(ROOT)
        told: list[int] = []
        wire.session.on_init = lambda: told.append(1)
        wire.init()
        with refused(errno.EPROTO):
            wire.init()
        with refused(errno.EPROTO):
            wire.ask(abi.INIT, 0, b"\7\0\0\0")
        assert told == [1]
        wire.close()


class TestNames:
    def test_lookup(self, wire: Wire) -> None:
        ino = wire.mknod(ROOT, b"a", 0o100640)
        node, attributes = wire.entry(abi.LOOKUP, ROOT, b"a\0")
        assert node == ino == attributes.ino and attributes.mode == 0o100640 and attributes.blksize == PAGE_SIZE
        assert wire.lookup(ROOT, b"missing") == 0
        assert wire.lookup(ROOT, b".") == ROOT
        with refused(errno.ENAMETOOLONG):
            wire.lookup(ROOT, b"n" * 256)
        with refused(errno.ENOTDIR):
            wire.lookup(ino, b"a")

    def test_mknod_of_every_type(self, wire: Wire) -> None:
        wire.uid, wire.gid = 7, 8
        for number, kind in enumerate((stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK)):
            got = wire.getattr(wire.mknod(ROOT, b"%d" % number, kind | 0o666, 0x0103, umask=0o027))
            assert got.mode == kind | 0o640 and (got.uid, got.gid) == (7, 8)
            assert got.rdev == (0x0103 if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0)
        with refused(errno.EEXIST):
            wire.mknod(ROOT, b"0")
        with refused(errno.EINVAL):
            wire.mknod(ROOT, b"x", stat.S_IFDIR | 0o777)

    def test_the_umask_is_ours(self, wire: Wire) -> None:
        assert wire.session.agreed.has("FUSE_DONT_MASK")
        assert wire.getattr(wire.mkdir(ROOT, b"d", 0o1777, umask=0o022)).mode == stat.S_IFDIR | 0o1755

    def test_a_default_acl_makes_the_umask_void(self) -> None:
        wire = Wire(acl=True)
        acl = b"\2\0\0\0" + b"".join((b"\1\0\7\0\xff\xff\xff\xff", b"\4\0\7\0\xff\xff\xff\xff",
                                      b"\x20\0\5\0\xff\xff\xff\xff"))
        name = b"system.posix_acl_default"
        wire.ask(abi.SETXATTR, ROOT, abi.SETXATTR_IN.pack(len(acl), 0, 0) + name + b"\0" + acl)
        assert wire.getattr(wire.mknod(ROOT, b"f", 0o100666, umask=0o077)).mode == 0o100664
        assert wire.getattr(wire.mkdir(ROOT, b"d", 0o777, umask=0o077)).mode == stat.S_IFDIR | 0o775
        wire.ask(abi.REMOVEXATTR, ROOT, name + b"\0")
        assert wire.getattr(wire.mknod(ROOT, b"g", 0o100666, umask=0o077)).mode == 0o100600
        wire.close()

    def test_symlink_and_readlink(self, wire: Wire) -> None:
        ino, attributes = wire.entry(abi.SYMLINK, ROOT, b"s\0a/b\0")
        assert attributes.mode == stat.S_IFLNK | 0o777
        assert wire.ask(abi.READLINK, ino) == b"a/b"
        with refused(errno.EINVAL):
            wire.ask(abi.READLINK, ROOT)

    def test_link_rename_unlink_rmdir(self, wire: Wire) -> None:
        ino, d = wire.mknod(ROOT, b"a"), wire.mkdir(ROOT, b"d")
        assert wire.entry(abi.LINK, d, abi.LINK_IN.pack(ino) + b"b\0")[1].nlink == 2
        wire.ask(abi.RENAME, d, abi.RENAME_IN.pack(ROOT) + b"b\0c\0")
        assert wire.lookup(ROOT, b"c") == ino and not wire.lookup(d, b"b")
        with refused(errno.EEXIST):
            wire.ask(abi.RENAME2, ROOT, abi.RENAME2_IN.pack(ROOT, 1) + b"a\0c\0")
        wire.ask(abi.RENAME2, ROOT, abi.RENAME2_IN.pack(ROOT, 2) + b"d\0c\0")
        assert wire.lookup(ROOT, b"c") == d
        with refused(errno.EISDIR):
            wire.ask(abi.UNLINK, ROOT, b"c\0")
        wire.ask(abi.RMDIR, ROOT, b"c\0")
        wire.ask(abi.UNLINK, ROOT, b"a\0")
        with refused(errno.ENOENT):
            wire.ask(abi.UNLINK, ROOT, b"a\0")

    def test_forget(self, wire: Wire) -> None:
        inodes = [wire.mknod(ROOT, b"%d" % number) for number in range(5)]
        for number in range(5):
            wire.ask(abi.UNLINK, ROOT, b"%d\0" % number)
        before = wire.mp.mem.nodes.nitems
        wire.tell(abi.FORGET, inodes[0], abi.FORGET_IN.pack(1))
        assert wire.mp.mem.nodes.nitems == before - 1
        ones = b"".join(abi.FORGET_ONE.pack(ino, 1) for ino in inodes[1:])
        wire.tell(abi.BATCH_FORGET, 0, abi.BATCH_FORGET_IN.pack(4) + ones)
        assert wire.mp.mem.nodes.nitems == before - 5
        assert wire.rules.requests["forget"] == 5
        with refused(errno.ESTALE):
            wire.getattr(inodes[2])


class TestAttributes:
    def test_setattr(self, wire: Wire) -> None:
        ino = wire.mknod(ROOT, b"a")
        got = wire.setattr(ino, abi.FATTR_MODE | abi.FATTR_UID | abi.FATTR_GID | abi.FATTR_SIZE, mode=0o104755, uid=3,
                           gid=4, size=10)
        assert (got.mode, got.uid, got.gid, got.size) == (0o104755, 3, 4, 10)
        got = wire.setattr(ino, abi.FATTR_ATIME | abi.FATTR_MTIME, atime=-5, atimensec=7, mtime=1 << 34, mtimensec=9)
        assert (got.atime, got.atimensec, got.mtime, got.mtimensec) == (-5, 7, 1 << 34, 9)
        wire.mp.now = lambda: 12_000_000_034
        now = abi.FATTR_ATIME | abi.FATTR_ATIME_NOW | abi.FATTR_MTIME | abi.FATTR_MTIME_NOW
        got = wire.setattr(ino, now, atime=1, mtime=1)
        assert (got.atime, got.atimensec, got.mtime, got.mtimensec) == (12, 34, 12, 34)
        with refused(errno.EFBIG):
            wire.setattr(ino, abi.FATTR_SIZE, size=(1 << 64) - 1)
        with refused(errno.EISDIR):
            wire.setattr(ROOT, abi.FATTR_SIZE, size=0)

    def test_o_trunc_of_an_empty_file_sets_its_times(self, wire: Wire) -> None:
        """As there is no OPEN it comes as a SETATTR without a file handle."""
        ino = wire.mknod(ROOT, b"stamp")
        wire.mp.now = lambda: 99_000_000_000
        got = wire.setattr(ino, abi.FATTR_SIZE | abi.FATTR_LOCKOWNER, size=0)
        assert got.mtime == got.ctime == 99

    def test_statx(self, wire: Wire) -> None:
        wire.mp.now = lambda: 5_000_000_006
        ino = wire.mknod(ROOT, b"c", stat.S_IFCHR | 0o600, os.makedev(4, 300) & 0xFFFFFFFF)
        wire.mp.now = lambda: 9_000_000_000
        wire.setattr(ino, abi.FATTR_MODE, mode=0o644)
        reply = wire.ask(abi.STATX_OP, ino, abi.STATX_IN.pack(0, 0, 0, 0xFFF))
        names = [name for name, code in abi.STATX_OUT.fields if "x" not in code]
        got = dict(zip(names, abi.STATX_OUT.unpack(reply)))
        assert (got["stat.btime.tv_sec"], got["stat.btime.tv_nsec"], got["stat.ctime.tv_sec"]) == (5, 6, 9)
        assert (got["stat.mode"], got["stat.nlink"], got["stat.ino"]) == (stat.S_IFCHR | 0o644, 1, ino)
        assert (got["stat.rdev_major"], got["stat.rdev_minor"]) == (4, 300) and got["stat.mask"] & 0x800

    def test_statfs_and_access(self, wire: Wire) -> None:
        blocks, bfree, bavail, files, ffree, bsize, namelen, frsize = abi.STATFS_OUT.unpack(wire.ask(abi.STATFS, ROOT))
        assert blocks > bfree > 0 and bavail == bfree and files > ffree > 0
        assert (bsize, namelen, frsize) == (PAGE_SIZE, 255, PAGE_SIZE)
        assert wire.ask(abi.STATFS, 0)
        wire.ask(abi.ACCESS, ROOT, abi.ACCESS_IN.pack(os.R_OK | os.X_OK))
        with refused(errno.EACCES):
            wire.ask(abi.ACCESS, wire.mknod(ROOT, b"a"), abi.ACCESS_IN.pack(os.X_OK))


class TestData:
    @pytest.mark.parametrize("size", [1, 48, 49, 2048, 2049, PAGE_SIZE, 100_000, init.MAX_WRITE])
    def test_what_is_written_is_read(self, wire: Wire, size: int) -> None:
        ino, data = wire.mknod(ROOT, b"a"), os.urandom(size)
        assert wire.write(ino, 0, data) == size
        assert wire.read(ino, 0, 1 << 20) == data, "of a read without end, MAX_WRITE bytes are answered"
        assert wire.read(ino, size - 1, 100) == data[-1:] and wire.read(ino, size, 100) == b""
        assert wire.read(ino, size // 3, size // 2) == data[size // 3:size // 3 + size // 2]

    def test_holes(self, wire: Wire) -> None:
        ino = wire.mknod(ROOT, b"a")
        wire.write(ino, 3 * PAGE_SIZE + 5, b"x" * PAGE_SIZE)
        wire.setattr(ino, abi.FATTR_SIZE, size=9 * PAGE_SIZE + 1)
        whole = bytes(3 * PAGE_SIZE + 5) + b"x" * PAGE_SIZE + bytes(5 * PAGE_SIZE - 4)
        assert wire.read(ino, 0, 1 << 20) == whole
        for offset in (0, 1, 4095, 4096, 3 * PAGE_SIZE + 4, 5 * PAGE_SIZE + 7):
            for size in (1, 4096, 5000, 20_000):
                assert wire.read(ino, offset, size) == whole[offset:offset + size]

    def test_a_read_copies_nothing(self, wire: Wire) -> None:
        ino = wire.mknod(ROOT, b"a")
        wire.write(ino, 0, b"y" * (4 * PAGE_SIZE))
        reply = wire.session.handle(memoryview(wire.request(abi.READ, ino, abi.READ_IN.pack(0, 4 * PAGE_SIZE))))
        assert reply is not None and all(isinstance(view, memoryview) for view in reply[1:])
        assert {view.obj is wire.mp.arena for view in reply[1:] if isinstance(view, memoryview)} == {True}

    def test_a_write_is_as_long_as_it_says(self, wire: Wire) -> None:
        ino = wire.mknod(ROOT, b"a")
        for size in (2, 4, 1 << 31):
            with refused(errno.EINVAL):
                wire.ask(abi.WRITE, ino, abi.WRITE_IN.pack(0, size, 0, 0) + b"abc")
        with refused(errno.EFBIG):
            wire.write(ino, (1 << 63) - 1, b"ab")

    def test_only_regular_files_have_data(self, wire: Wire) -> None:
        fifo = wire.mknod(ROOT, b"fifo", stat.S_IFIFO | 0o644)
        with refused(errno.EISDIR):
            wire.read(ROOT, 0, 10)
        with refused(errno.EISDIR):
            wire.write(ROOT, 0, b"x")
        with refused(errno.EINVAL):
            wire.read(fifo, 0, 10)

    def test_a_write_takes_set_id_bits(self, wire: Wire) -> None:
        ino = wire.mknod(ROOT, b"a", 0o106777)
        wire.write(ino, 0, b"x")
        assert wire.getattr(ino).mode == 0o106777 and not wire.session.notices
        wire.uid = wire.gid = 1000
        wire.write(ino, 0, b"x", abi.WRITE_KILL_SUIDGID)
        assert wire.getattr(ino).mode == 0o100777 and wire.session.notices == [notify.inval_inode(ino)]

    def test_a_write_of_who_may_not_write_by_now_takes_them_too(self, wire: Wire) -> None:
        ino = wire.mknod(ROOT, b"a", 0o106755)
        wire.uid = wire.gid = 1000
        assert wire.setattr(ino, 0).mode == 0o106755          # chown(-1, -1), or the kernel before a write
        wire.write(ino, 0, b"x", abi.WRITE_KILL_SUIDGID)
        assert wire.getattr(ino).mode == 0o100755 and not wire.mp.marks


class TestDirectories:
    @pytest.mark.parametrize("plus", [False, True])
    def test_all_names_once(self, wire: Wire, plus: bool) -> None:
        d = wire.mkdir(ROOT, b"d")
        made = {b"%03d" % number + b"n" * (number % 9): wire.mknod(d, b"%03d" % number + b"n" * (number % 9))
                for number in range(300)}
        made[b"sub"] = wire.mkdir(d, b"sub")
        found: dict[bytes, int] = {}
        cookie = 0
        while some := wire.listing(d, plus, cookie, 1000):
            for entry in some:
                assert entry.name not in found
                found[entry.name], cookie = entry.ino, entry.cookie
                dots = entry.name in (b".", b"..")
                assert entry.node in ({0} if not plus or dots else {entry.ino, 0})    # lookahead.py
                assert entry.kind == (stat.S_IFDIR if dots or entry.name == b"sub" else stat.S_IFREG) >> 12
        assert found == {**made, b".": d, b"..": ROOT}

    def test_references(self, wire: Wire) -> None:
        """Only READDIRPLUS takes them."""
        ino = wire.mknod(ROOT, b"a")
        for plus in (False, True):
            wire.listing(ROOT, plus)
        wire.ask(abi.UNLINK, ROOT, b"a\0")
        wire.tell(abi.FORGET, ino, abi.FORGET_IN.pack(1))
        assert wire.getattr(ino).nlink == 0
        wire.tell(abi.FORGET, ino, abi.FORGET_IN.pack(1))
        with refused(errno.ESTALE):
            wire.getattr(ino)

    @pytest.mark.parametrize("plus", [False, True])
    def test_refused(self, wire: Wire, plus: bool) -> None:
        with refused(errno.ENOTDIR):
            wire.listing(wire.mknod(ROOT, b"a"), plus)
        assert wire.listing(ROOT, plus, size=0) == wire.listing(ROOT, plus, size=20) == []
        assert wire.listing(ROOT, plus, cookie=(1 << 63) - 1) == []
        with refused(errno.EINVAL):
            wire.listing(ROOT, plus, cookie=(1 << 64) - 1)


class TestXattrs:
    def test_all(self, wire: Wire) -> None:
        def put(name: bytes, value: bytes, flags: int = 0) -> None:
            wire.ask(abi.SETXATTR, ROOT, abi.SETXATTR_IN.pack(len(value), flags, 0) + name + b"\0" + value)

        def get(name: bytes, size: int) -> bytes:
            return wire.ask(abi.GETXATTR, ROOT, abi.GETXATTR_IN.pack(size) + name + b"\0")

        put(b"user.a/b", b"\0value\0")
        assert get(b"user.a/b", 100) == b"\0value\0" and get(b"user.a/b", 0) == abi.GETXATTR_OUT.pack(7)
        with refused(errno.ERANGE):
            get(b"user.a/b", 3)
        with refused(errno.EEXIST):
            put(b"user.a/b", b"", 1)
        with refused(errno.ENODATA):
            put(b"user.c", b"", 2)
        for flags, code in ((3, errno.ENODATA), (4, errno.EINVAL)):
            with refused(code):
                put(b"user.c", b"", flags)
        put(b"user.c", b"")
        assert wire.ask(abi.LISTXATTR, ROOT, abi.GETXATTR_IN.pack(0)) == abi.GETXATTR_OUT.pack(16)
        names = wire.ask(abi.LISTXATTR, ROOT, abi.GETXATTR_IN.pack(99))
        assert sorted(names.split(b"\0")) == [b"", b"user.a/b", b"user.c"]
        for name in (b"user.a/b\0", b"user.c\0"):
            wire.ask(abi.REMOVEXATTR, ROOT, name)
        with refused(errno.ENODATA):
            get(b"user.c", 5)

    def test_the_short_form(self) -> None:
        wire = Wire(flags=ALL_FLAGS & ~abi.INIT_FLAGS["FUSE_SETXATTR_EXT"])
        wire.ask(abi.SETXATTR, ROOT, abi.SETXATTR_IN.pack(1, 0, 0)[:abi.SETXATTR_COMPAT] + b"user.a\0v")
        assert wire.ask(abi.GETXATTR, ROOT, abi.GETXATTR_IN.pack(9) + b"user.a\0") == b"v"
        wire.close()

    @pytest.mark.parametrize("kill, mode", [(0, 0o102775), (1, 0o100775)])
    def test_the_kernel_says_whether_an_acl_takes_setgid(self, kill: int, mode: int) -> None:
        wire = Wire(acl=True)
        ino = wire.mknod(ROOT, b"a", 0o102770)
        acl = b"\2\0\0\0" + b"".join((b"\1\0\7\0\xff\xff\xff\xff", b"\4\0\7\0\xff\xff\xff\xff",
                                      b"\x20\0\5\0\xff\xff\xff\xff"))
        wire.uid = 1000
        wire.ask(abi.SETXATTR, ino, abi.SETXATTR_IN.pack(len(acl), 0, kill) + b"system.posix_acl_access\0" + acl)
        assert wire.getattr(ino).mode == mode
        wire.close()

    def test_noxattr(self) -> None:
        wire = Wire(xattr=False)
        for opcode, body in ((abi.GETXATTR, abi.GETXATTR_IN.pack(0) + b"user.a\0"),
                             (abi.LISTXATTR, abi.GETXATTR_IN.pack(0)), (abi.REMOVEXATTR, b"user.a\0"),
                             (abi.SETXATTR, abi.SETXATTR_IN.pack(0, 0, 0) + b"user.a\0")):
            with refused(errno.ENOSYS):
                wire.ask(opcode, ROOT, body)
        wire.close()


def test_every_handler_is_in_a_table() -> None:
    assert not set(OPERATIONS) & set(NO_ANSWER)
    assert {*OPERATIONS, *NO_ANSWER, abi.INIT} <= set(abi.OPCODES.values())
