"""uvm/codec.py: how the compressed tier makes pages smaller.

zstd at level 1, from the package zstandard.  Measured on pages of metadata (25 nodes with names of random parts), us a
page and ratio: zstd -5 4.2 and 6.2, zstd -1 4.5 and 10.3, zstd 1 7.3 and 10.5, lz4 2.9 and 4.5, zlib 1 22 and 6.9; back
3.2, 3.1, 4.1, 1.5.
"""

from __future__ import annotations

from typing import Protocol

from tmpfsd.uvm.param import PAGE_SIZE

LEVEL = 1
MOST_WINDOW = 1 << 17       # bytes: a damaged header asks for no more


class Codec(Protocol):
    """Compresses and decompresses a page."""

    def pack(self, page: memoryview) -> bytes:
        """The page's bytes, compressed; perhaps longer than they were.  O(1)."""

    def unpack(self, body: memoryview, page: memoryview) -> bool:
        """Fill a page from what pack() gave; False where that is not possible.  O(1)."""


class Zstd:
    """zstd, without the magic number in its headers: two thirds of the pages take less than a kilobyte."""

    __slots__ = ("_compress", "_decompress", "_error")

    def __init__(self, level: int = LEVEL) -> None:
        import zstandard  # here: a mount without a compressed tier does not wait for the package
        parameters = zstandard.ZstdCompressionParameters.from_level(
            level, source_size=PAGE_SIZE, format=zstandard.FORMAT_ZSTD1_MAGICLESS, write_content_size=False)
        self._compress = zstandard.ZstdCompressor(compression_params=parameters).compress
        self._decompress = zstandard.ZstdDecompressor(
            format=zstandard.FORMAT_ZSTD1_MAGICLESS, max_window_size=MOST_WINDOW).decompress
        self._error = zstandard.ZstdError

    def pack(self, page: memoryview) -> bytes:
        """See Codec.  O(1): 7 us."""
        return self._compress(page)

    def unpack(self, body: memoryview, page: memoryview) -> bool:
        """See Codec.  O(1): 4 us."""
        try:
            page[:] = self._decompress(body, max_output_size=PAGE_SIZE)
        except (self._error, ValueError, MemoryError):
            return False
        return True
