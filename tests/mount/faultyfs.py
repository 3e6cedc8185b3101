"""tests/mount/faultyfs.py: a FUSE file system with one file, `swap`, that fails as it is told.

    python faultyfs.py MOUNTPOINT SOCKET

Bytes are kept in a sparse anonymous file.  A line of JSON on the socket sets the faults, {} is none, and is answered
by the counts of what was done so far:

    write, read    an errno that each gets, "short" (half a page at a time) or, for reads, "flip" (one bit of each page
                   is wrong)
    delay          seconds that each read and write takes
    room           bytes that the store can hold: a write beyond gets ENOSPC
"""

import errno
import json
import os
import stat
import sys
import time

import pyfuse3
import trio

INO, PAGE = 2, 4096
MIB = 1 << 20


class Store(pyfuse3.Operations):
    """The one file and its faults."""

    def __init__(self) -> None:
        super().__init__()
        self.fd = os.memfd_create("store")
        self.faults: dict = {}
        self.counts = {"reads": 0, "writes": 0, "injected": 0}

    def attributes(self, ino: int) -> pyfuse3.EntryAttributes:
        """Of the root or of the file."""
        entry = pyfuse3.EntryAttributes()
        entry.st_ino, entry.st_nlink, entry.st_uid, entry.st_gid = ino, 1, os.geteuid(), os.getegid()
        entry.st_mode = stat.S_IFREG | 0o600 if ino == INO else stat.S_IFDIR | 0o755
        entry.st_size = os.fstat(self.fd).st_size if ino == INO else 0
        entry.attr_timeout = entry.entry_timeout = 0
        return entry

    def fault(self, kind: str) -> str:
        """Delay, fail, or say how else it is to go wrong."""
        self.counts[kind + "s"] += 1
        time.sleep(self.faults.get("delay", 0))
        how = self.faults.get(kind, "")
        self.counts["injected"] += bool(how or self.faults.get("delay"))
        if isinstance(how, int):
            raise pyfuse3.FUSEError(how)
        return how

    async def getattr(self, ino, _ctx):
        return self.attributes(ino)

    async def lookup(self, _parent, name, _ctx):
        if name != b"swap":
            raise pyfuse3.FUSEError(errno.ENOENT)
        return self.attributes(INO)

    async def setattr(self, ino, attr, fields, _fh, _ctx):
        if fields.update_size:
            os.ftruncate(self.fd, attr.st_size)
        return self.attributes(ino)

    async def statfs(self, _ctx):
        data = pyfuse3.StatvfsData()
        data.f_bsize = data.f_frsize = PAGE
        data.f_blocks = data.f_bfree = data.f_bavail = 1 << 20
        data.f_namemax = 255
        return data

    async def open(self, ino, _flags, _ctx):
        return pyfuse3.FileInfo(fh=ino, direct_io=True)

    async def read(self, _fh, offset, size):
        how = self.fault("read")
        data = bytearray(os.pread(self.fd, size, offset))
        if how == "flip":
            for at in range(100, len(data), PAGE):
                data[at] ^= 1
        return bytes(data[:PAGE // 2] if how == "short" else data)

    async def write(self, _fh, offset, data):
        how = self.fault("write")
        if offset + len(data) > self.faults.get("room", 1 << 40):
            self.counts["injected"] += 1
            raise pyfuse3.FUSEError(errno.ENOSPC)
        return os.pwrite(self.fd, data[:PAGE // 2] if how == "short" else data, offset)

    async def flush(self, _fh):
        pass

    async def release(self, _fh):
        pass


async def listen(store: Store, path: str) -> None:
    """Take orders."""
    with trio.socket.socket(trio.socket.AF_UNIX) as sock:
        await sock.bind(path)
        sock.listen(5)
        while True:
            client, _ = await sock.accept()
            with client:
                order = await client.recv(65536)
                store.faults = json.loads(order)
                await client.send(json.dumps(store.counts).encode())


async def serve(store: Store, path: str) -> None:
    """Until the mount ends."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen, store, path)
        await pyfuse3.main()
        nursery.cancel_scope.cancel()


def main(mountpoint: str, path: str) -> None:
    """Mount and serve."""
    store = Store()
    pyfuse3.init(store, mountpoint, {"fsname=faultyfs", "default_permissions"})
    try:
        trio.run(serve, store, path)
    finally:
        pyfuse3.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
