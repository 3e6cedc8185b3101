"""Files, tails and attributes that are too large to be freed at once: the list of the doomed.

In most tests a file of a few pages counts as a large one, so that the code for large files runs.
"""

import errno
import random
from typing import Any, Callable, Iterator

import pytest

from tests import failpoints
from tests.fs.fslib import POINTS, ROOT, Driver, Pair, refused
from tests.fs.test_failures import exact
from tests.fs.test_undefined import attempts, pattern
from tmpfsd.tmpfs import cut, detach, doomed, reap
from tmpfsd.tmpfs.btree import BTree
from tmpfsd.uvm.errors import Inconsistent, NoMemory, SwapIOError

PAGE = 4096


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three pages and two extents are many."""
    for name, value in (("FEW_PAGES", 3), ("FEW_EXTENTS", 2), ("STEP_PAGES", 3), ("STEP_EXTENTS", 2)):
        monkeypatch.setattr(cut, name, value)
    monkeypatch.setattr(doomed, "FEW_ATTRIBUTES", 1)


def spread(fs: Driver, npages: int = 40, name: bytes = b"file") -> Pair:
    """A file of one-page extents with holes between them, and one long extent in the middle."""
    pair = Pair(fs, name)
    for page in range(0, npages, 2):
        pair.write(page * PAGE, bytes([1 + page % 200]) * PAGE)
    pair.write(npages // 2 * PAGE, b"m" * 9 * PAGE)
    return pair


@pytest.mark.usefixtures("few")
def test_a_file_handle_does_not_bring_back_what_is_doomed(fs: Driver) -> None:
    """A handle from before (NFS, open_by_handle_at) has the right generation until the node is free."""
    pair = spread(fs)
    top = fs.mkdir(ROOT, b"d")
    fs.create(top, b"f", 0o600)
    fs.unlink(ROOT, b"file")
    fs.forget(pair.ino)
    assert fs.mp.doomed == pair.ino
    detach.detach(fs.mp, ROOT, b"d")
    for ino in (pair.ino, top):
        for name in (b".", b".."):
            with refused(errno.ESTALE if name == b"." else errno.ENOTDIR if ino == pair.ino else errno.ENOENT):
                fs.lookup(ino, name)
    fs.reap_all(check=True)


SIZES = (0, 1, PAGE - 1, PAGE, PAGE + 1, 7 * PAGE, 7 * PAGE + 5, 20 * PAGE, 22 * PAGE + 7, 28 * PAGE, 30 * PAGE + 100,
         36 * PAGE + 1, 38 * PAGE + 4000)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.usefixtures("few")
def test_a_tail_is_gone_at_once(fs: Driver, size: int) -> None:
    pair = spread(fs)
    pair.truncate(size)
    pair.compare()
    assert fs.getattr(pair.ino).blocks == 8 * pair.npages == 8 * sum(
        any(pair.data[page << 12:page + 1 << 12]) for page in range(len(pair.data) + 4095 >> 12)) or size < PAGE
    fs.check()
    pair.truncate(40 * PAGE)
    pair.compare()
    pair.write(30 * PAGE + 9, b"n" * 3 * PAGE)
    pair.compare()
    fs.reap_all(check=True)
    pair.compare()
    assert not fs.mp.doomed_pages and not fs.mp.mem.norphans and not fs.mp.lost_nodes


def test_a_large_file_is_not_walked(make_fs: Callable[..., Driver], monkeypatch: pytest.MonkeyPatch) -> None:
    """With the real limits: only the reaper frees pages."""
    failpoints.interpreted_only()
    fs = make_fs("roomy", noatime=True)
    pairs = [spread(fs, 2000, b"%d" % i) for i in range(3)]
    calls = 0
    original = type(fs.mp.vm).free_pages

    def free_pages(*args: Any) -> None:
        nonlocal calls
        calls += args[2]
        original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(type(fs.mp.vm), "free_pages", free_pages)
        fs.unlink(ROOT, b"0")
        fs.forget(pairs[0].ino)
        pairs[1].truncate(0)
        pairs[2].truncate(900 * PAGE + 17)
        assert calls == 0
        assert fs.mp.doomed_pages == 2 * 1004 + 1004 - 451
        while fs.mp.doomed:
            calls = 0
            reap.reap(fs.mp)
            assert calls <= cut.STEP_PAGES + 8
    pairs[2].compare()
    assert fs.getattr(pairs[1].ino).blocks == 0


@pytest.mark.usefixtures("few")
def test_room_is_there_at_once(fs: Driver) -> None:
    """On a full mount, the operation after a removal or a truncation has room, even if nothing was reaped yet."""
    vm = fs.mp.vm
    pair = spread(fs)
    vm.limit = vm.npages
    with refused(errno.ENOSPC):
        fs.write(fs.create(ROOT, b"other"), 0, b"x" * 3 * PAGE)
    fs.unlink(ROOT, b"file")
    fs.forget(pair.ino)
    assert fs.mp.doomed and vm.npages == vm.limit
    free = fs.statfs()[2]
    assert free == fs.mp.doomed_pages >= 20
    other = fs.lookup(ROOT, b"other")
    assert fs.write(other, 0, b"x" * (free - 4) * PAGE) == (free - 4) * PAGE
    assert vm.npages <= vm.limit
    fs.truncate(other, 0)
    for i in range(20):
        fs.write(fs.create(ROOT, b"new-%d" % i), 0, b"y" * 3000)
    vm.limit = 1 << 62


@pytest.mark.usefixtures("few")
def test_an_inode_is_free_at_once(make_fs: Callable[..., Driver]) -> None:
    fs = make_fs("roomy", nr_inodes=3)
    pair = spread(fs)
    other = fs.create(ROOT, b"other")
    with refused(errno.ENOSPC):
        fs.create(ROOT, b"no")
    pair.truncate(3 * PAGE)         # takes a node for the tail, which does not count
    assert fs.mp.doomed and fs.statfs()[5] == 0
    fs.check()
    fs.unlink(ROOT, b"other")
    fs.forget(other)
    fs.create(ROOT, b"yes")
    assert fs.statfs()[5] == 0


@pytest.mark.usefixtures("few")
def test_attributes_go_in_steps(fs: Driver) -> None:
    for kind in range(5):
        name = b"%d" % kind
        ino = (fs.create(ROOT, name) if kind < 3 else fs.mkdir(ROOT, name) if kind == 3
               else fs.symlink(ROOT, name, b"target"))
        if kind in (1, 2):
            fs.write(ino, 0, b"x" * 900 * kind)
        for i in range(5):
            fs.setxattr(ino, b"user.%d" % i, b"v" * 1000 * i)
        (fs.rmdir if kind == 3 else fs.unlink)(ROOT, name)
        fs.forget(ino)
        assert fs.mp.doomed == ino
        fs.check()
    fs.reap_all(check=True)
    assert fs.mp.mem.nodes.nitems == 1 and not fs.mp.mem.norphans


@pytest.mark.usefixtures("few")
def test_a_discarded_tree_with_large_files(fs: Driver) -> None:
    top = fs.mkdir(ROOT, b"top")
    for i in range(4):
        sub = fs.mkdir(top, b"sub-%d" % i)
        ino = fs.create(sub, b"large")
        for page in range(0, 20, 2):
            fs.write(ino, page * PAGE, b"x" * PAGE)
        fs.link(ino, top, b"again-%d" % i)
    fs.forget_all()
    fs.mp.breathe()
    detach.detach(fs.mp, ROOT, b"top")
    fs.reap_all(check=True)
    assert fs.mp.mem.nodes.nitems == 1


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("seed", range(6))
def test_against_bytearrays(make_fs: Callable[..., Driver], mode: str, seed: int) -> None:
    fs = make_fs(mode, tiny=True)
    rng = random.Random(seed)
    pairs = [Pair(fs, b"%d" % i) for i in range(3)]
    for step in range(150 if fs.roomy else 70):
        pair, size = rng.choice(pairs), rng.choice((0, rng.randrange(60 * PAGE), rng.randrange(60) * PAGE))
        what = rng.random()
        if what < 0.5:
            pair.write(size, bytes([rng.randrange(1, 200)]) * rng.randrange(1, 5 * PAGE))
        elif what < 0.8:
            pair.truncate(size)
        elif what < 0.9:
            pair.punch(size, rng.randrange(10 * PAGE))
        elif fs.mp.doomed:
            reap.reap(fs.mp)
        if step % 10 == 0:
            fs.check()
        pair.compare()
    for pair in pairs:
        pair.compare()


# --- what fails ---

CUTS = [0, 5, PAGE, 3 * PAGE + 77, 6 * PAGE, 7 * PAGE + 1, 12 * PAGE + 4095, 21 * PAGE + 9]


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "lasting"])
@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("size", CUTS)
@pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
def test_truncate(make_fs: Callable[..., Driver], request: pytest.FixtureRequest, size: int, point: str,
                  lasting: bool, large: bool) -> None:
    """Old bytes or new ones, and zeroes where it grows again."""
    fs = make_fs("roomy", tiny=True, noatime=True)
    if large:
        request.getfixturevalue("few")
    pair = spread(fs, 26)

    def again() -> None:
        nonlocal pair
        fs.unlink(ROOT, b"file")
        fs.forget(pair.ino)
        fs.reap_all()
        pair = spread(fs, 26)

    for was_refused in attempts(fs, point, lasting, lambda: fs.truncate(pair.ino, size), again):
        old, found = bytes(pair.data), bytes(fs.content(pair.ino))
        if was_refused:
            assert found == old
        else:
            assert found == old[:size].ljust(size, b"\0")
        fs.truncate(pair.ino, 40 * PAGE)
        assert fs.content(pair.ino) == found + bytes(40 * PAGE - len(found))
        fs.truncate(pair.ino, size)
        fs.truncate(pair.ino, 40 * PAGE)
        assert fs.content(pair.ino) == old[:size] + bytes(40 * PAGE - min(size, len(old)))


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("offset, length", [(5, 100), (PAGE, 3 * PAGE), (9, 5 * PAGE), (12 * PAGE + 1, 4 * PAGE),
                                            (13 * PAGE + 7, 20 * PAGE), (0, 26 * PAGE)])
@pytest.mark.usefixtures("few")
def test_punch(make_fs: Callable[..., Driver], offset: int, length: int, point: str) -> None:
    """Each page is as before, or zero if it was in the range."""
    fs = make_fs("roomy", tiny=True, noatime=True)
    pair = spread(fs, 26)

    def again() -> None:
        nonlocal pair
        fs.unlink(ROOT, b"file")
        fs.forget(pair.ino)
        fs.reap_all()
        pair = spread(fs, 26)

    for was_refused in attempts(fs, point, False, lambda: fs.punch(pair.ino, offset, length), again):
        old, found = bytes(pair.data), fs.content(pair.ino)
        new = bytearray(old)
        new[offset:offset + length] = bytes(max(min(offset + length, len(old)) - offset, 0))
        if not was_refused:
            assert found == new
        for start in range(0, len(old), PAGE):
            assert found[start:start + PAGE] in (old[start:start + PAGE], new[start:start + PAGE])
        fs.punch(pair.ino, offset, length)
        assert fs.content(pair.ino) == new


REMOVALS: dict[str, Callable[[Driver, int], None]] = {
    "unlink": lambda fs, ino: (fs.unlink(ROOT, b"file"), fs.forget(ino))[1],
    "rename over": lambda fs, ino: (fs.rename(ROOT, b"new", ROOT, b"file"), fs.forget(ino))[1],
}


@pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("case", REMOVALS)
def test_removal(make_fs: Callable[..., Driver], request: pytest.FixtureRequest, case: str, point: str,
                 large: bool) -> None:
    """After each failure another file has its own bytes, and a new one has no bytes of others."""
    fs = make_fs("roomy", tiny=True, noatime=True)
    if large:
        request.getfixturevalue("few")
    keep = fs.create(ROOT, b"keep")
    fs.write(keep, 0, pattern(9, 3))
    pair = spread(fs, 26)
    fs.forget(fs.create(ROOT, b"new"))

    def again() -> None:
        nonlocal pair
        for name in {b"file", b"new"} & fs.entries(ROOT).keys():
            fs.unlink(ROOT, name)
        if fs.refs[pair.ino]:
            fs.forget(pair.ino)
        fs.reap_all()
        pair = spread(fs, 26)
        fs.write(fs.create(ROOT, b"new"), 0, pattern(2, 1))
        fs.forget(fs.lookup(ROOT, b"new"))

    for _refused in attempts(fs, point, False, lambda: REMOVALS[case](fs, pair.ino), again):
        assert fs.content(keep) == pattern(9, 3)
        grown = fs.create(ROOT, b"grown")
        fs.truncate(grown, 6 * PAGE)
        fs.write(grown, PAGE + 5, b"g")
        assert fs.content(grown) == bytes(PAGE + 5) + b"g" + bytes(5 * PAGE - 6)
        fs.unlink(ROOT, b"grown")
        fs.forget(grown)
        fs.lost = fs.lost or bool(fs.mp.lost_nodes)


@pytest.mark.usefixtures("few")
def test_without_memory_a_tail_is_cut_in_place(fs: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    failpoints.interpreted_only()
    pair = spread(fs)
    pair.compare()

    def no_node(*_args: Any) -> int:
        raise NoMemory("injected")

    with monkeypatch.context() as patch:
        patch.setattr(type(fs.mp.mem), "get_orphan", no_node)
        pair.truncate(9 * PAGE + 5)
    pair.compare()
    assert not fs.mp.doomed
    pair.truncate(40 * PAGE)
    pair.compare()


@pytest.mark.usefixtures("few")
def test_what_cannot_be_read_back_is_lost_alone(make_fs: Callable[..., Driver],
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    failpoints.interpreted_only()
    fs = make_fs("roomy")
    fs.lost = True
    pairs = [spread(fs, 20, b"%d" % i) for i in range(3)]
    for pair in pairs:
        fs.unlink(ROOT, b"%d" % pairs.index(pair))
        fs.forget(pair.ino)
    bad, original = pairs[1].ino, BTree.seek

    def seek(tree: BTree, at: int, key: int) -> Any:
        if at == fs.mp.mem.node(bad):
            raise SwapIOError("injected")
        return original(tree, at, key)

    with monkeypatch.context() as patch:
        patch.setattr(BTree, "seek", seek)
        fs.reap_all()
    assert fs.mp.lost_nodes == 1 and not fs.mp.doomed_pages
    assert fs.mp.mem.nodes.nitems == 2


@pytest.mark.usefixtures("few")
def test_a_list_that_cannot_be_read_stays(make_fs: Callable[..., Driver], monkeypatch: pytest.MonkeyPatch) -> None:
    failpoints.interpreted_only()
    fs = make_fs("roomy")
    pair = spread(fs)
    pair.truncate(3)
    first = fs.mp.doomed

    def node_w(_mem: Any, _ino: int) -> int:
        raise SwapIOError("injected")

    with monkeypatch.context() as patch:
        patch.setattr(type(fs.mp.mem), "node_w", node_w)
        with pytest.raises(SwapIOError):
            reap.reap(fs.mp)
        assert not fs.mp.make_room()
    assert fs.mp.doomed == first
    fs.reap_all()
    pair.compare()


@pytest.fixture
def broken(make_fs: Callable[..., Driver], few: None) -> Iterator[Driver]:
    """With a tail on the list; put right again afterwards."""
    fs = make_fs("roomy")
    spread(fs).truncate(5)
    fs.check()
    saved = fs.mp.doomed, fs.mp.doomed_pages
    yield fs
    fs.mp.doomed, fs.mp.doomed_pages = saved


def test_k1_what_has_a_link_is_doomed(broken: Driver) -> None:
    broken.mp.doomed = broken.lookup(ROOT, b"file")
    with pytest.raises(Inconsistent, match="K1"):
        broken.mp.check()


def test_k3_doomed_pages_are_counted(broken: Driver) -> None:
    broken.mp.doomed_pages += 1
    with pytest.raises(Inconsistent, match="K3"):
        broken.mp.check()


def test_counts_are_as_after_mounting(make_fs: Callable[..., Driver]) -> None:
    fs = make_fs("roomy")
    counts = exact(fs)
    pair = spread(fs, 3000)
    pair.truncate(1501 * PAGE + 1)
    fs.unlink(ROOT, b"file")
    fs.forget_all()
    fs.reap_all()
    assert exact(fs) == counts
