"""uvm/seal.py: checks that a page comes back from a store as it went out, and may encrypt it on the way.

A seal is a layer of the path to any store, not a part of one.  Crc keeps a checksum seeded with the page's number, 4
bytes a place: it detects damage by accident, and a slot that answers with another page's bytes.  Gcm encrypts
(AES-256-GCM, of the package cryptography) and authenticates, with the page's number in it, 28 bytes a place: it also
detects changes made on purpose, and nobody can read the content of the store (after Provos, Encrypting Virtual Memory).

A nonce is a counter of 6 bytes, which makes it unique, and 6 random bytes, which keep it unknown to somebody who learns
the key some day: a place cannot be read without its nonce.  The nonce is overwritten when its slot is freed.

Picture     page --seal(place, page number)--> bytes to write ... bytes read --unseal--> the page, or it is refused

Invariants
    E1  No nonce is used twice with one key.  Each store has its own key, made when it is opened, and kept nowhere else.
    E2  A place that nobody holds has no nonce.

Breathing   Nothing here breathes.

Limits      The key is in the daemon's memory, which is kept out of core dumps.  Its page is locked if the system allows
            it, but the library has a copy of its own: an unencrypted swap partition of the machine may get that.
            2^48 pages can be written in the life of a store.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from array import array
from struct import Struct
from typing import Protocol, Sequence
from zlib import crc32

from tmpfsd.uvm.param import PAGE_SIZE

MOST_PAGES = 16             # sealed at once: the page daemon's CLUSTER
GROW = 16384                # places by which the arrays grow, at most, beyond what is asked for
NONCE, TAG = 12, 16
COUNTER = 6                 # bytes of the nonce that count; the rest is random
STRIDE = 2 * PAGE_SIZE      # between two pages on their way: a tag stands behind each, and O_DIRECT wants pages aligned
RANDOM = 4096               # random bytes fetched at once
_VPN = Struct("<Q")


class Seal(Protocol):
    """The part of a seal that swap.py needs.  Pages come in a row of places, with their numbers, at most MOST_PAGES."""

    @property
    def encrypts(self) -> bool:
        """Whether the content of pages is hidden from the store.  O(1)."""

    @property
    def nplaces(self) -> int:
        """For how many places there is memory.  O(1)."""

    def grow(self, n: int) -> None:
        """Have memory for n more places, or a few more than that.  O(n)."""

    def cut(self, nplaces: int) -> None:
        """Have memory for nplaces only.  O(1)."""

    def seal(self, place: int, pages: Sequence[memoryview], vpns: Sequence[int]) -> Sequence[memoryview]:
        """The bytes to be written for pages; good until the next call.  O(pages)."""

    def room(self, pages: Sequence[memoryview]) -> Sequence[memoryview]:
        """The buffers to read into for pages; good until the next call.  O(1)."""

    def unseal(self, place: int, read: Sequence[memoryview], pages: Sequence[memoryview], vpns: Sequence[int]) -> int:
        """Make pages of the bytes read into room(); how many are right, counted from the first.  O(pages)."""

    def forget(self, place: int, n: int) -> None:
        """Nobody holds these places any more.  O(n)."""


class Crc:
    """A checksum for each place."""

    __slots__ = ("_sums",)
    encrypts = False

    def __init__(self) -> None:
        self._sums = array("I", [0])            # by place; place 0 is not used

    @property
    def nplaces(self) -> int:
        """See Seal.  O(1)."""
        return len(self._sums)

    def grow(self, n: int) -> None:
        """See Seal.  O(n + GROW)."""
        self._sums.frombytes(bytes(4 * (n + min(len(self._sums) >> 3, GROW))))

    def cut(self, nplaces: int) -> None:
        """See Seal.  O(1)."""
        del self._sums[nplaces:]

    def seal(self, place: int, pages: Sequence[memoryview], vpns: Sequence[int]) -> Sequence[memoryview]:
        """See Seal: the pages as they are.  O(pages)."""
        sums = self._sums
        for i, page in enumerate(pages):
            sums[place + i] = crc32(page, vpns[i])
        return pages

    def room(self, pages: Sequence[memoryview]) -> Sequence[memoryview]:
        """See Seal.  O(1)."""
        return pages

    def unseal(self, place: int, read: Sequence[memoryview], pages: Sequence[memoryview], vpns: Sequence[int]) -> int:
        """See Seal.  O(pages)."""
        sums = self._sums
        for i, page in enumerate(read):
            if crc32(page, vpns[i]) != sums[place + i]:
                return i
        return len(pages)

    def forget(self, place: int, n: int) -> None:
        """See Seal: a checksum tells nothing.  O(1)."""


class Gcm:
    """A nonce and a tag for each place, and the key to all of them."""

    __slots__ = ("_encrypt", "_decrypt", "_invalid", "_nonces", "_tags", "_count", "_random", "_used", "_key")
    encrypts = True

    def __init__(self) -> None:
        # Imported here, so that a mount that does not encrypt does not wait for it.
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        self._key = os.urandom(32)
        _lock(self._key)
        cipher = AESGCM(self._key)
        self._encrypt, self._decrypt = cipher.encrypt_into, cipher.decrypt_into
        self._invalid = InvalidTag
        self._nonces = bytearray(NONCE)         # by place; place 0 is not used
        self._tags = bytearray(TAG)
        self._count = 0
        self._random = b""
        self._used = 0

    @property
    def nplaces(self) -> int:
        """See Seal.  O(1)."""
        return len(self._tags) // TAG

    def grow(self, n: int) -> None:
        """See Seal.  O(n + GROW), and now and then the arrays are copied."""
        n += min(self.nplaces >> 3, GROW)
        self._nonces.extend(bytes(NONCE * n))
        self._tags.extend(bytes(TAG * n))

    def cut(self, nplaces: int) -> None:
        """See Seal.  O(1)."""
        del self._nonces[NONCE * nplaces:], self._tags[TAG * nplaces:]

    def _nonce(self) -> bytes:
        """One that was never used (E1)."""
        at = self._used
        if at + NONCE - COUNTER > len(self._random):
            self._random, at = os.urandom(RANDOM), 0
        self._used = at + NONCE - COUNTER
        self._count += 1
        return self._count.to_bytes(COUNTER, "little") + self._random[at:self._used]

    def seal(self, place: int, pages: Sequence[memoryview], vpns: Sequence[int]) -> Sequence[memoryview]:
        """See Seal.  O(pages): 1.6 us each."""
        tags, nonces = self._tags, self._nonces
        for i, page in enumerate(pages):
            nonce, at = self._nonce(), place + i
            self._encrypt(nonce, page, _VPN.pack(vpns[i]), _sealed[i])
            nonces[NONCE * at:NONCE * at + NONCE] = nonce
            tags[TAG * at:TAG * at + TAG] = _tag_of[i]
        return _text_of[:len(pages)]

    def room(self, pages: Sequence[memoryview]) -> Sequence[memoryview]:
        """See Seal.  O(1)."""
        return _text_of[:len(pages)]

    def unseal(self, place: int, read: Sequence[memoryview], pages: Sequence[memoryview], vpns: Sequence[int]) -> int:
        """See Seal.  O(pages): 1.5 us each.  => A page that is refused is zeroed."""
        tags, nonces = self._tags, self._nonces
        for i in range(len(read)):
            at = place + i
            _tag_of[i][:] = tags[TAG * at:TAG * at + TAG]
            nonce = bytes(nonces[NONCE * at:NONCE * at + NONCE])
            try:
                self._decrypt(nonce, _sealed[i], _VPN.pack(vpns[i]), pages[i])
            except self._invalid:
                pages[i][:] = bytes(PAGE_SIZE)
                return i
        return len(read)

    def forget(self, place: int, n: int) -> None:
        """See Seal (E2).  O(n)."""
        self._nonces[NONCE * place:NONCE * (place + n)] = bytes(NONCE * n)
        self._tags[TAG * place:TAG * (place + n)] = bytes(TAG * n)


def _lock(key: bytes) -> None:
    """Lock the page of a key in memory, if the system allows it.  O(1)."""
    with_head = bytes.__basicsize__ - 1
    ctypes.CDLL(None).mlock(ctypes.c_void_p(id(key) + with_head), ctypes.c_size_t(len(key)))


def make_seal(encrypt: bool) -> Seal:
    """The seal of a store.  O(1)."""
    return Gcm() if encrypt else Crc()


# Page aligned, as O_DIRECT demands; private, so that a frozen copy (frozen.py) has its own.
_way = memoryview(mmap.mmap(-1, MOST_PAGES * STRIDE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
_sealed = [_way[i * STRIDE:i * STRIDE + PAGE_SIZE + TAG] for i in range(MOST_PAGES)]
_text_of = [sealed[:PAGE_SIZE] for sealed in _sealed]
_tag_of = [sealed[PAGE_SIZE:] for sealed in _sealed]
