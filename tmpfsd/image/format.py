"""image/format.py: the file: its header, and how it is written.  FORMAT.md describes it for other readers.

Picture     | header, a page | clusters of pages, compressed or as they are | tables, each from a page boundary on |

Invariants
    I1  The header is written last: an interrupted write is no image.
    I2  Every byte that has a meaning is covered: the header by its checksum, each table by one in the header, each
        page by one in the table `sum`.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from struct import Struct
from typing import Any
from zlib import crc32

import zstandard

from tmpfsd.uvm.errors import VmError
from tmpfsd.uvm.param import PAGE_SHIFT, PAGE_SIZE, round_page

MAGIC = b"TMPFSIMG"
VERSION = 1
CLUSTER = 16                # pages compressed together: read together for any one of them
MOST_CLUSTER = 64
MOST_PAGES = 1 << 29        # places, and page numbers up to 2^31
LEVEL = 1
PAYS = 7 / 8                # of a cluster's bytes: above that it is stored uncompressed
ALIGN = 8
BUFFER = 1 << 20
MOST_TABLES = 90
FLAGGED, LABELS = 1, 2      # of `state`: Mount.flagged, Mount.labels
# magic, version, checksum, bytes of the file, page size, pages of a cluster, places, page numbers, pages in use,
# inodes, seconds since 1970, key of the names' hash, last generation, state, how many tables
HEAD = Struct("<8sIIQIIQQQQqQQII")
TABLE = Struct("<16sQQII")  # name, offset, bytes, checksum, bytes of an element
_CHECKSUM_AT = 12
SYNC_FILE_RANGE_WRITE = 2   # <linux/fs.h>
SYNC_FILE_RANGE = getattr(ctypes.CDLL(None), "sync_file_range", None)       # not every C library has it
CODES = {1: "B", 2: "H", 4: "I", 8: "Q"}


class ImageError(VmError):
    """An image that cannot be used; the text is one line that says why."""


@dataclass(slots=True)
class Header:
    """What is at the start of an image."""

    file_bytes: int = 0
    cluster: int = CLUSTER
    nplaces: int = 0
    nvpns: int = 0
    npages: int = 0
    ninodes: int = 0
    made: int = 0
    key: int = 0
    generation: int = 0
    state: int = 0
    tables: dict[str, tuple[int, int, int, int]] = field(default_factory=dict)      # a fixed number of them

    @property
    def nhot(self) -> int:
        """How many pages to read first."""
        return self.tables["hot"][1] // 4 if "hot" in self.tables else 0


def pack_header(header: Header) -> bytes:
    """The page of a header."""
    page = bytearray(PAGE_SIZE)
    HEAD.pack_into(page, 0, MAGIC, VERSION, 0, header.file_bytes, PAGE_SIZE, header.cluster, header.nplaces,
                   header.nvpns, header.npages, header.ninodes, header.made, header.key, header.generation,
                   header.state, len(header.tables))
    for i, (name, where) in enumerate(header.tables.items()):
        TABLE.pack_into(page, HEAD.size + i * TABLE.size, name.encode(), *where)
    page[_CHECKSUM_AT:_CHECKSUM_AT + 4] = crc32(page).to_bytes(4, "little")
    return bytes(page)


def unpack_header(page: bytes, size: int) -> Header:
    """Read the page of a header; size is the bytes that the file has.  => ImageError."""
    if page[:len(MAGIC)] != MAGIC:
        raise ImageError("not an image of tmpfsd")
    if len(page) < PAGE_SIZE:
        raise ImageError("truncated: it has no whole header")
    (_magic, version, checksum, file_bytes, page_size, cluster, nplaces, nvpns, npages, ninodes, made, key, generation,
     state, ntables) = HEAD.unpack_from(page)
    if version != VERSION:
        raise ImageError(f"an image of version {version}; version {VERSION} can be read")
    blank = page[:_CHECKSUM_AT] + bytes(4) + page[_CHECKSUM_AT + 4:PAGE_SIZE]
    if crc32(blank) != checksum:
        raise ImageError("corrupted: the header does not have its checksum")
    if size < file_bytes:
        raise ImageError(f"truncated: {size} bytes of {file_bytes}")
    sane = (size == file_bytes and page_size == PAGE_SIZE and 0 < cluster <= MOST_CLUSTER and nplaces < MOST_PAGES
            and nplaces <= nvpns < 1 << 31 and npages <= nvpns and ntables <= MOST_TABLES and key < 1 << 63)
    if not sane or sys.byteorder != "little":
        raise ImageError("corrupted: the header says what cannot be")
    header = Header(file_bytes, cluster, nplaces, nvpns, npages, ninodes, made, key, generation, state)
    for i in range(ntables):
        name, offset, nbytes, crc, width = TABLE.unpack_from(page, HEAD.size + i * TABLE.size)
        if width not in CODES or nbytes % width or offset + nbytes > file_bytes or offset % PAGE_SIZE:
            raise ImageError("corrupted: the header says what cannot be")
        header.tables[name.rstrip(b"\0").decode("ascii", "replace")] = (offset, nbytes, crc, width)
    return header


def begin_writing(fd: int, offset: int, nbytes: int) -> None:
    """Have the kernel begin to write a range to the disk, while more is made (sync_file_range(2)).

    That waits only if the queue of the disk is full.  posix_fadvise(2) would begin as well, but waits for all cores.
    """
    if SYNC_FILE_RANGE is not None:
        SYNC_FILE_RANGE(fd, ctypes.c_int64(offset), ctypes.c_int64(nbytes), SYNC_FILE_RANGE_WRITE)


class Writer:
    """Writes an image into an open file, from its start on.  => OSError from all of it."""

    def __init__(self, fd: int, level: int = LEVEL) -> None:
        self.fd = fd
        self.header = Header()
        self.sums = array("I", [0])             # by place; place 0 is not used
        self.offsets = array("Q")               # by cluster
        self.stored = array("I")
        self._compress = zstandard.ZstdCompressor(level=level, write_content_size=False).compress
        self._room = memoryview(mmap.mmap(-1, CLUSTER * PAGE_SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        self._pages = [self._room[i << PAGE_SHIFT:(i + 1) << PAGE_SHIFT] for i in range(CLUSTER)]
        self._filled = 0
        self._out = bytearray(PAGE_SIZE)        # the header's place
        self._at = 0                            # of _out in the file

    def room(self, n: int) -> list[memoryview]:
        """Return where to put the next pages: 1 to n of them."""
        return self._pages[self._filled:self._filled + n]

    def copy(self, pages: memoryview) -> None:
        """Put pages into the room; they are not taken yet."""
        at = self._filled << PAGE_SHIFT
        self._room[at:at + len(pages)] = pages

    def filled(self, n: int) -> int:
        """Take n pages of the room, now filled; return the place of the first."""
        first = len(self.sums)
        self.sums.extend(map(crc32, self.room(n), range(first, first + n)))
        self._filled += n
        if self._filled == CLUSTER:
            self._flush_cluster()
        return first

    def _flush_cluster(self) -> None:
        whole = self._room[:self._filled << PAGE_SHIFT]
        body = self._compress(whole)
        pays = len(body) <= len(whole) * PAYS
        self._align(ALIGN if pays else PAGE_SIZE)
        self.offsets.append(self._at + len(self._out))
        self.stored.append(len(body) if pays else len(whole))
        self._out += body if pays else whole
        self._filled = 0
        if len(self._out) >= BUFFER:
            self._flush()

    def _align(self, to: int) -> None:
        self._out += bytes(-(self._at + len(self._out)) % to)

    def _flush(self) -> None:
        done = 0
        with memoryview(self._out) as view:
            while done < len(view):
                done += os.pwrite(self.fd, view[done:], self._at + done)
        begin_writing(self.fd, self._at, done)
        self._at += done
        self._out.clear()

    def finish(self, tables: Mapping[str, tuple[bytes, int]]) -> int:
        """Write tables, each with its element width, and the header; return the file's bytes.  It is not synced."""
        if self._filled:
            self._flush_cluster()
        own = {"sum": (self.sums.tobytes(), 4), "offset": (self.offsets.tobytes(), 8),
               "stored": (self.stored.tobytes(), 4)}
        header = self.header
        for name, (data, width) in {**own, **tables}.items():
            self._align(PAGE_SIZE)
            header.tables[name] = (self._at + len(self._out), len(data), crc32(data), width)
            self._out += data
            if len(self._out) >= BUFFER:
                self._flush()
        self._align(PAGE_SIZE)
        self._flush()
        header.file_bytes, header.nplaces = self._at, len(self.sums) - 1
        page = pack_header(header)
        if os.pwrite(self.fd, page, 0) != len(page):
            raise OSError(28, "No space left on device")
        return self._at


def describe(header: Header) -> dict[str, Any]:
    """What `image info` prints."""
    stored = round_page(header.file_bytes)
    return {"version": VERSION, "file_bytes": stored, "pages": header.nplaces,
            "bytes": header.npages << PAGE_SHIFT, "inodes": header.ninodes, "made": header.made,
            "cluster_pages": header.cluster, "hot_pages": header.nhot}
