"""image/file.py: reads an image: its tables at the mount, its pages when they are needed.

Memory uses it as it uses slots (uvm/backing.py).  Pages are read with preadv(2): with a mapped file the daemon would be
killed (SIGBUS) if somebody truncates it.  An image on a server is read by range (source.py).
Ten mounts of one image share its bytes in the host's page cache.

Picture     slot = place --cluster--> bytes in the file --zstd, or as they are--> page --checksum--> memory, or EIO

Breathing   Nothing here breathes.

Limits      A checksum finds accidents, not malice: anyone who makes an image can put nonsense into it.
"""

from __future__ import annotations

import mmap
from array import array
from collections.abc import Sequence
from zlib import crc32

import zstandard

from tmpfsd.image.format import CODES, ImageError, unpack_header
from tmpfsd.image.source import open_source
from tmpfsd.machine import OWN_MEMORY, available_memory
from tmpfsd.swapplaces import shown
from tmpfsd.uvm.errors import SwapIOError, Unanswered, WrongPage, demand
from tmpfsd.uvm.param import PAGE_SHIFT, PAGE_SIZE

KEPT = 8                    # clusters that are kept uncompressed: 512 KiB
MOST_WINDOW = 1 << 20       # bytes: a damaged frame cannot ask for more
UNKNOWN = (-1, (1 << 64) - 1)
MOST_OF_PAGE = 8            # the most bytes that any table has for a page number
OF_PLACE = 12               # bytes of memory for a place, while tables are read


def demand_memory(nbytes: int) -> None:
    """Check that memory has room for tables: a small file with holes may claim to have a large one.  => ImageError."""
    free = available_memory()[0]
    if nbytes > max(free, OWN_MEMORY):
        raise ImageError(f"its tables take {nbytes >> 20}m of memory, and {free >> 20}m can be had")


class Image:
    """An open image.  => ImageError, OSError."""

    def __init__(self, path: str, cache_bytes: int = 0, directory: str | None = None) -> None:
        self.path = shown(path)
        self.source = open_source(path, cache_bytes, directory)
        try:
            self.header = unpack_header(self.source.read(0, PAGE_SIZE), self.source.size)
            demand_memory(self.header.nplaces * OF_PLACE)
            self._sums, self._offsets, self._stored = self.array("sum"), self.array("offset"), self.array("stored")
            self._demand_clusters()
        except BaseException:
            self.source.close()
            raise
        self.base, self.width = 1, self.header.nplaces
        self.nheld = self.width
        self.pages_read = 0
        self.hot = array("I")                       # pages to read first; see warm.py
        self._decompress = zstandard.ZstdDecompressor(max_window_size=MOST_WINDOW).decompress
        self._kept: dict[int, bytes] = {}           # at most KEPT, the most recently used last
        self._scratch = memoryview(mmap.mmap(-1, PAGE_SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))

    def table(self, name: str, width: int = 1) -> bytes:
        """The bytes of a table, a whole number of elements of this width.  O(its bytes).  => ImageError."""
        where = self.header.tables.get(name)
        if where is None:
            raise ImageError(f"corrupted: there is no table {name}")
        offset, nbytes, checksum, _width = where
        if nbytes > MOST_OF_PAGE * (self.header.nvpns + 1):     # a file may have holes, which cost nothing
            raise ImageError(f"corrupted: the table {name} is larger than it can be")
        if nbytes % width:
            raise ImageError(f"corrupted: the table {name} does not have elements of {width} bytes")
        data = self.source.read(offset, nbytes)
        if len(data) < nbytes or crc32(data) != checksum:
            raise ImageError(f"corrupted: the table {name} does not have its checksum")
        return data

    def array(self, name: str) -> array[int]:
        """A table as an array.  O(its bytes).  => ImageError."""
        data = self.table(name)
        return array(CODES[self.header.tables[name][3]], data)

    def _demand_clusters(self) -> None:
        """=> ImageError: the tables of clusters are impossible.  O(clusters)."""
        header = self.header
        nclusters = -(-header.nplaces // header.cluster)
        fits = (len(self._sums) == header.nplaces + 1 and self._sums.itemsize == self._stored.itemsize == 4
                and self._offsets.itemsize == 8 and len(self._offsets) == len(self._stored) == nclusters)
        if not fits or nclusters and (max(self._offsets) >= header.file_bytes
                                      or max(self._stored) > header.cluster << PAGE_SHIFT):
            raise ImageError("corrupted: its clusters are not inside the file")

    # What memory calls (uvm/backing.py)

    def owns(self, slot: int) -> bool:
        """See Backing."""
        return 0 < slot <= self.width

    def free(self, slot: int, n: int = 1) -> None:
        """See Backing."""
        self.nheld -= n

    def retire(self, slot: int) -> None:
        """See Backing."""
        self.nheld -= 1

    def read_cluster(self, slot: int, pages: Sequence[memoryview], vpns: Sequence[int]) -> int:
        """See Backing."""
        got = 0
        try:
            while got < len(pages):
                got += self._read(slot + got, pages[got:])
        except (OSError, ImageError) as error:
            if not got:
                where = f"image {self.path}: page {slot}"
                if isinstance(error, OSError):
                    away = self.source.state() != "ok"
                    raise (Unanswered if away else SwapIOError)(f"{where}: {error.strerror}") from error
                raise WrongPage(f"{where}: {error}") from error
        self.pages_read += got
        return got

    def _read(self, place: int, pages: Sequence[memoryview]) -> int:
        """Fill pages from one cluster; return how many.  => ImageError, OSError."""
        cluster = (place - 1) // self.header.cluster
        for again in (True, False):
            try:
                return self._read_once(place, pages)
            except ImageError:
                self._kept.pop(cluster, None)
                if not self.source.wrong(self._offsets[cluster], self._stored[cluster]) or not again:
                    raise
        raise AssertionError

    def _read_once(self, place: int, pages: Sequence[memoryview]) -> int:
        cluster, k = divmod(place - 1, self.header.cluster)
        size = min(self.header.cluster, self.width - cluster * self.header.cluster)
        n = min(len(pages), size - k)
        if self._stored[cluster] == size << PAGE_SHIFT:
            where = self._offsets[cluster] + (k << PAGE_SHIFT)
            if self.source.read_into(where, pages[:n]) != n << PAGE_SHIFT:
                raise ImageError("truncated")
        else:
            whole = self._unpacked(cluster, size)
            for i in range(n):
                pages[i][:] = whole[k + i << PAGE_SHIFT:(k + i + 1) << PAGE_SHIFT]
        for i in range(n):
            if crc32(pages[i], place + i) != self._sums[place + i]:
                if i:
                    return i
                raise ImageError("corrupted: it does not have its checksum")
        return n

    def _unpacked(self, cluster: int, size: int) -> bytes:
        """The pages of a compressed cluster.  => ImageError, OSError."""
        whole = self._kept.pop(cluster, None)
        if whole is None:
            body = bytearray(self._stored[cluster])
            with memoryview(body) as view:
                got = self.source.read_into(self._offsets[cluster], [view])
            try:
                if got < len(body):
                    raise ImageError("truncated")
                if zstandard.frame_content_size(body) not in (*UNKNOWN, size << PAGE_SHIFT):
                    raise ImageError("corrupted: it is of another size")
                whole = self._decompress(body, max_output_size=size << PAGE_SHIFT)
            except (zstandard.ZstdError, ValueError, MemoryError):
                raise ImageError("corrupted: it cannot be unpacked") from None
            if len(whole) != size << PAGE_SHIFT:
                raise ImageError("corrupted: it is of another size")
            if len(self._kept) >= KEPT:
                del self._kept[next(iter(self._kept))]
        self._kept[cluster] = whole
        return whole

    def verify(self, slot: int, vpn: int) -> bool:
        """See Backing."""
        try:
            return self.read_cluster(slot, [self._scratch], [vpn]) == 1
        except WrongPage:
            return False

    def bring(self, slot: int) -> None:
        """Bring the cluster of a page where it can be read at once; for a thread that may wait.  => OSError."""
        cluster = (slot - 1) // self.header.cluster
        self.source.bring(self._offsets[cluster], self._stored[cluster])

    def descriptors(self) -> list[int]:
        """See Backing."""
        return self.source.descriptors()

    def check(self, held: set[int]) -> None:
        """See Backing."""
        demand(len(held) == self.nheld, "B1", f"{self.nheld} slots of the image are held, pages name {len(held)}")

    def stats(self) -> dict[str, object]:
        """The key `image` of the status."""
        return {"path": self.path, "pages": self.nheld, "pages_read": self.pages_read,
                "hot_pages": self.header.nhot, "state": self.source.state()}

    def close(self) -> None:
        """See Backing."""
        self.source.close()
