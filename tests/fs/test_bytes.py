"""Files byte for byte: Hypothesis plays reads, writes, truncations and holes around every change of representation.

Two files grow side by side, so that the pages of neither are in a row.  They are forgotten and looked up in between.
"""

import tempfile
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fs.fslib import MODES, ROOT, Driver, Pair, make_mount, tiny_trees
from tmpfsd.pool.strings import CLASSES
from tmpfsd.tmpfs.layout import INLINE_MAX
from tmpfsd.tmpfs.mem import DATA_RUN
from tmpfsd.tmpfs.regfile import CHUNK, PACKED_MAX
from tmpfsd.uvm.param import CLUSTER, PAGE_SIZE

EDGES = sorted({0, INLINE_MAX, *CLASSES, PACKED_MAX, PAGE_SIZE, 2 * PAGE_SIZE, CLUSTER * PAGE_SIZE, CHUNK * PAGE_SIZE,
                2 * CHUNK * PAGE_SIZE, DATA_RUN * PAGE_SIZE})
MOST = EDGES[-1] + 3 * PAGE_SIZE

near_edges = st.builds(lambda edge, d: max(edge + d, 0), st.sampled_from(EDGES), st.integers(-2, 2))
places = near_edges | st.integers(0, MOST)
lengths = near_edges.filter(lambda n: n <= 3 * CHUNK * PAGE_SIZE) | st.integers(0, 3 * PAGE_SIZE)
numbers = st.integers(0, 1)
operations = st.one_of(
    st.tuples(st.just("write"), numbers, places, lengths, st.integers(1, 255)),
    st.tuples(st.just("append"), numbers, lengths, st.integers(1, 255)),
    st.tuples(st.just("read"), numbers, places, lengths),
    st.tuples(st.just("truncate"), numbers, places),
    st.tuples(st.just("punch"), numbers, places, lengths | places),
    st.tuples(st.just("reopen"), numbers),
    st.tuples(st.just("evict")), st.tuples(st.just("idle")))


class Player:
    """The operations on two files."""

    def __init__(self, fs: Driver) -> None:
        self.fs, self.pairs = fs, [Pair(fs, b"one"), Pair(fs, b"two")]

    def write(self, i: int, offset: int, length: int, byte: int) -> None:
        """Bytes that differ from page to page and from one write to the next."""
        self.pairs[i].write(offset, (bytes(range(byte, 256)) * (length // (256 - byte) + 1))[:length])

    def append(self, i: int, length: int, byte: int) -> None:
        """At the end."""
        self.write(i, len(self.pairs[i].data), length, byte)

    def read(self, i: int, offset: int, length: int) -> None:
        """A part, which may lie behind the end."""
        pair = self.pairs[i]
        assert self.fs.read(pair.ino, offset, length) == pair.data[offset:offset + length]

    def truncate(self, i: int, size: int) -> None:
        """Shorter or longer."""
        self.pairs[i].truncate(size)

    def punch(self, i: int, offset: int, length: int) -> None:
        """A hole."""
        self.pairs[i].punch(offset, length)

    def reopen(self, i: int) -> None:
        """The kernel forgets the file and finds it again."""
        pair = self.pairs[i]
        self.fs.forget(pair.ino)
        assert self.fs.lookup(ROOT, (b"one", b"two")[i]) == pair.ino

    def evict(self) -> None:
        """All that may leave leaves."""
        self.fs.mp.breathe()
        self.fs.mp.vm.daemon.evict_all()

    def idle(self) -> None:
        """Background work."""
        self.fs.mp.breathe()
        self.fs.mp.idle()


def play(mode: str, script: list[Any]) -> None:
    """One script on a fresh file system."""
    with tempfile.TemporaryDirectory() as swap:
        fs = Driver(make_mount(swap, mode), mode)
        player = Player(fs)
        for name, *arguments in script:
            getattr(player, name)(*arguments)
        fs.check()
        for pair in player.pairs:
            pair.compare()
        fs.finish()
        fs.mp.close()


@pytest.mark.parametrize("mode", MODES)
def test_bytes(mode: str) -> None:
    @settings(max_examples=300, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(operations, min_size=1, max_size=40))
    def run(script: list[Any]) -> None:
        play(mode, script)

    if mode == "thrash":
        with tiny_trees():
            run()
    else:
        run()
