"""The hash of names has a key of its own in each mount, and is the same in each process."""

import os
import subprocess
import sys
from typing import Callable

from tests.fs.fslib import ROOT, Driver
from tmpfsd.tmpfs.directory import Directories

NAMES = [b"%d" % i for i in range(200)]


def test_two_mounts_differ(make_fs: Callable[..., Driver]) -> None:
    """So names that collide, or the order of a listing, cannot be worked out beforehand."""
    one, two = make_fs(), make_fs()         # with keys of the fixture's, as all tests have
    assert len({Directories(one.mp.mem).key for _ in range(8)} | {one.mp.dirs.key, two.mp.dirs.key}) == 10
    same = [name for name in NAMES if one.mp.dirs.hash(name) == two.mp.dirs.hash(name)]
    assert not same
    for fs in (one, two):
        for name in NAMES:
            fs.create(ROOT, name)
    assert list(one.entries(ROOT)) != list(two.entries(ROOT))
    assert sorted(one.entries(ROOT)) == sorted(two.entries(ROOT)) == sorted(NAMES)


def test_with_the_interpreters_key_known() -> None:
    """PYTHONHASHSEED=0 is no way in."""
    script = ("from tmpfsd.options import Config; from tmpfsd.tmpfs.filesystem import Mount; "
              "print(Mount(Config(ram_bytes=1 << 20, swap=None)).dirs.hash(b'name'))")
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    seen = {subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, check=True,
                           timeout=60).stdout for _ in range(3)}
    assert len(seen) == 3


def siphash13(key: int, data: bytes) -> int:
    """SipHash-1-3 of Aumasson and Bernstein, with (key, 0) for its key, written down anew."""
    mask = (1 << 64) - 1
    v = [key ^ 0x736f6d6570736575, 0x646f72616e646f6d, key ^ 0x6c7967656e657261, 0x7465646279746573]

    def rotate(word: int, by: int) -> int:
        return (word << by | word >> 64 - by) & mask

    def mix() -> None:
        v[0], v[2] = (v[0] + v[1]) & mask, (v[2] + v[3]) & mask
        v[1], v[3] = rotate(v[1], 13) ^ v[0], rotate(v[3], 16) ^ v[2]
        v[0] = rotate(v[0], 32)
        v[2], v[0] = (v[2] + v[1]) & mask, (v[0] + v[3]) & mask
        v[1], v[3] = rotate(v[1], 17) ^ v[2], rotate(v[3], 21) ^ v[0]
        v[2] = rotate(v[2], 32)

    whole = len(data) & ~7
    words = [int.from_bytes(data[i:i + 8], "little") for i in range(0, whole, 8)]
    for word in (*words, int.from_bytes(data[whole:], "little") | (len(data) & 255) << 56):
        v[3] ^= word
        mix()
        v[0] ^= word
    v[2] ^= 0xff
    for _ in range(3):
        mix()
    return v[0] ^ v[1] ^ v[2] ^ v[3]


def test_it_is_the_same_everywhere(make_fs: Callable[..., Driver]) -> None:
    """Another process with another interpreter finds the names of an image."""
    dirs = make_fs().mp.dirs
    for key in (0, 1, dirs.key, (1 << 63) - 1):
        dirs.key = key
        for name in (b"", b"a", b"1234567", b"12345678", b"\xff" * 255, *NAMES):
            assert dirs.bits(name) == siphash13(key, name)
