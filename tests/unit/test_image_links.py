"""Files with several names are remembered on disk, not on the heap."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys

import pytest

from tmpfsd.image.links import Links

MANY = """
import resource
from tmpfsd.image.links import Links
links = Links()
links.put(1, 1, b"x")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for ino in range(2, 200_000):
    links.put(1, ino, b"12345678" * 8)
assert links.get(1, 77_777) == b"12345678" * 8
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_it_says_what_was_put() -> None:
    rng, links = random.Random(3), Links()
    model = {}
    for _ in range(2000):
        key = rng.choice((0, 5, (1 << 64) - 1)), rng.randrange(1 << 64)
        model[key] = rng.randbytes(rng.choice((0, 8, 4000)))
        links.put(*key, model[key])
    assert all(links.get(*key) == value for key, value in model.items())
    assert links.get(0, 1) is None
    links.close()


def test_memory_is_bounded() -> None:
    """The bytes that are put are 12 MB; a dict of them took 40 MB."""
    done = subprocess.run([sys.executable, "-c", MANY], capture_output=True, text=True, timeout=100, check=True)
    assert int(done.stdout) < 8 << 10               # KiB


def test_a_disk_that_fails_is_an_error_of_the_system() -> None:
    links = Links()
    links._base.execute("DROP TABLE links")
    for ask in (lambda: links.put(1, 1, b""), lambda: links.get(1, 1)):
        with pytest.raises(OSError, match="several links"):
            ask()
    links.close()
    with pytest.raises(sqlite3.ProgrammingError):
        links.get(1, 1)
