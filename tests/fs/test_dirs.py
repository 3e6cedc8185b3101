"""readdir: cookies, changes while it goes on, names with one hash; directories that grow and shrink."""

import errno
import random
import zlib
from typing import Callable

import pytest

from tests import failpoints
from tests.fs.fslib import ROOT, Driver, refused
from tmpfsd.tmpfs import directory
from tmpfsd.tmpfs.btree import BTree, Path
from tmpfsd.tmpfs.directory import BUCKET_SHIFT, COUNTERS, FIRST_KEY, HASH_MASK, REST_MASK, Directories


def names_of(some: list) -> list[bytes]:
    """The names of a reply."""
    return [name for name, _ino, _attributes, _cookie in some]


def test_dots(fs: Driver) -> None:
    parent = fs.mkdir(ROOT, b"p")
    ino = fs.mkdir(parent, b"d")
    (dot, self, _, cookie), (dotdot, above, attributes, _) = fs.readdir_some(ino, 0, 10)
    assert (dot, self, dotdot, above) == (b".", ino, b"..", parent)
    assert attributes == fs.getattr(parent)
    assert names_of(fs.readdir_some(ino, cookie, 10)) == [b".."]
    assert fs.refs[ino] == fs.refs[parent] == 1


@pytest.mark.parametrize("step", [1, 2, 7, 1000])
def test_steps(fs: Driver, step: int) -> None:
    made = {b"%d" % i: fs.create(ROOT, b"%d" % i) for i in range(150)}
    assert fs.entries(ROOT, step) == made
    assert all(fs.refs[ino] == 1 for ino in made.values())


def test_a_refused_entry_takes_no_reference(fs: Driver) -> None:
    ino = fs.create(ROOT, b"a")
    assert len(fs.readdir_some(ROOT, 0, 2)) == 2
    word = fs.mp.mem.u32[fs.mp.mem.nlookup_word(ino)]
    assert word == 1


@pytest.mark.parametrize("seed", range(4))
def test_entries_come_and_go(fs: Driver, seed: int) -> None:
    rng = random.Random(seed)
    n = 600 if fs.roomy else 120
    staying = {b"stay-%d" % i for i in range(n)}
    going = [b"go-%d" % i for i in range(n)]
    for name in [*staying, *going]:
        fs.forget(fs.create(ROOT, name))
    seen: list[bytes] = []
    cookie = new = 0
    while some := fs.readdir_some(ROOT, cookie, 13):
        for name, ino, _attributes, cookie in some:
            seen.append(name)
            if name not in (b".", b".."):
                fs.forget(ino, 1)
        for _ in range(40):
            if going and rng.random() < 0.7:
                fs.unlink(ROOT, going.pop(rng.randrange(len(going))))
            elif rng.random() < 0.5:
                fs.forget(fs.create(ROOT, b"new-%d" % new))
                new += 1
    assert len(seen) == len(set(seen))
    assert staying <= set(seen)


@pytest.fixture(params=[lambda name: 0, lambda name: sum(name) * 7919 % 5, lambda name: zlib.crc32(name)],
                ids=["one-rest", "few-rests", "own-rests"])
def weak_hash(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Three buckets for all names."""
    failpoints.interpreted_only()
    monkeypatch.setattr(Directories, "hash",
                        lambda self, name: 1 + sum(name) % 3 << BUCKET_SHIFT | request.param(name))


def test_names_with_one_hash(weak_hash: None, fs: Driver) -> None:
    rng = random.Random(3)
    made: dict[bytes, int] = {}
    for i in range(400):
        name = b"%d" % rng.randrange(60)
        if name in made:
            fs.unlink(ROOT, name)
            fs.forget(made.pop(name))
        else:
            made[name] = fs.create(ROOT, name)
        if i % 20 == 0:
            assert fs.entries(ROOT, 5) == made
            fs.check()
    for name, ino in made.items():
        assert fs.lookup(ROOT, name) == ino
        fs.rename(ROOT, name, ROOT, b"x" + name)
    fs.check()


def test_names_that_come_back(fs: Driver) -> None:
    """Also a name whose key is still a separator in the index."""
    rng = random.Random(4)
    names = [b"%d" % i for i in range(3000 if fs.roomy else 200)]
    there: set[bytes] = set()
    for step in range(4 * len(names)):
        name = rng.choice(names)
        if name in there:
            fs.unlink(ROOT, name)
        else:
            fs.forget(fs.create(ROOT, name))
        there ^= {name}
        if step % len(names) == 0:
            fs.check()
    fs.check()
    assert set(fs.entries(ROOT)) == there


def test_a_small_directory_is_looked_up_once_for_a_listing(fs: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    failpoints.interpreted_only()
    dino, seek, seeks = fs.mkdir(ROOT, b"d"), BTree.seek, []

    def counted(tree: BTree, at: int, key: int) -> Path:
        seeks.append(key)
        return seek(tree, at, key)

    for n in range(5):
        fs.create(dino, b"%d" % n)
    monkeypatch.setattr(BTree, "seek", counted)
    assert len(fs.readdir_some(dino, 0, 100)) == 7
    assert len(seeks) == 1


def test_a_listing_leads_on_from_any_entry_of_a_bucket(weak_hash: None, fs: Driver) -> None:
    """Also from one that is gone, while others take cookies of the same bucket."""
    names = [b"%d" % i for i in range(60)]
    for name in names:
        fs.forget(fs.create(ROOT, name))
    listed = fs.readdir_some(ROOT, 0, 100)
    assert len({cookie for _name, _ino, _attributes, cookie in listed}) == 62
    for place, (name, _ino, _attributes, cookie) in enumerate(listed[2:], 2):
        assert fs.readdir_some(ROOT, cookie, 100)[:3] == listed[place + 1:place + 4]
        fs.unlink(ROOT, name)
        assert fs.readdir_some(ROOT, cookie, 100)[:3] == listed[place + 1:place + 4]
        fs.create(ROOT, name)
        assert fs.readdir_some(ROOT, cookie, 100)[:3] == listed[place + 1:place + 4]
    fs.check()


def test_a_bucket_that_is_full_refuses_names_and_nothing_else(weak_hash: None, fs: Driver) -> None:
    names = [name for name in map(b"%04d".__mod__, range(1000)) if not sum(name) % 3][:COUNTERS + 1]
    inos = {name: fs.create(ROOT, name) for name in names[:COUNTERS]}
    before = fs.dump()
    for refuse in (lambda: fs.create(ROOT, names[-1]), lambda: fs.link(inos[names[0]], ROOT, names[-1])):
        with refused(errno.ENOSPC):
            refuse()
    with refused(errno.EEXIST):
        fs.create(ROOT, names[3])
    assert fs.dump() == before
    fs.unlink(ROOT, names[7])
    fs.create(ROOT, names[-1])
    assert set(fs.entries(ROOT)) == {*names} - {names[7]}


def test_cookies_have_31_bits(fs: Driver) -> None:
    """The C library of a 32-bit program refuses others: it would see an empty directory."""
    for i in range(200):
        fs.forget(fs.create(ROOT, b"%d" % i))
    cookies = [cookie for _name, _ino, _attributes, cookie in fs.readdir_some(ROOT, 0, 300)]
    assert cookies == sorted(cookies) and len(set(cookies)) == 202
    assert cookies[:2] == [1, 2] and cookies[2] >= COUNTERS and 1 << 28 < cookies[-1] < 1 << 31
    assert fs.readdir_some(ROOT, cookies[-1], 1) == fs.readdir_some(ROOT, (1 << 63) - 1, 1) == []


def test_keys_that_the_hash_makes() -> None:
    """The lowest are not the dots', and the highest has 63 bits."""
    failpoints.interpreted_only()       # an instance without __init__()
    dirs = object.__new__(Directories)
    dirs.key = 0
    for value, key in ((0, FIRST_KEY), ((1 << 64) - 1, HASH_MASK), (5, FIRST_KEY | 5),
                       (FIRST_KEY - 1, FIRST_KEY | REST_MASK), (3 << 62, 1 << 62)):
        with pytest.MonkeyPatch.context() as patch:
            word = value.to_bytes(8, "little")
            patch.setattr(directory, "source_hash", lambda _key, _name, word=word: word)
            assert dirs.hash(b"any") == key


def test_grow_and_shrink(fs: Driver) -> None:
    n = 3000 if fs.roomy else 400
    names = [b"%d" % i for i in range(n)]
    random.Random(1).shuffle(names)
    for name in names:
        fs.forget(fs.create(ROOT, name))
    fs.check()
    assert fs.getattr(ROOT).size == 40 + 20 * n
    random.Random(2).shuffle(names)
    for i, name in enumerate(names):
        fs.unlink(ROOT, name)
        if i % (n // 10) == 0:
            fs.check()
    assert fs.counts()["strings"] == fs.start["strings"]


def test_many_in_order_then_few(make_fs: Callable[..., Driver]) -> None:
    fs = make_fs("roomy")
    names = [b"%d" % i for i in range(8000)]
    for name in names:
        fs.forget(fs.create(ROOT, name))
    for name in names[10:]:
        fs.unlink(ROOT, name)
    assert set(fs.entries(ROOT)) == set(names[:10])
    assert fs.mp.mem.strings.pools[-1].nitems <= 10, "pages of the index that are nearly empty"
