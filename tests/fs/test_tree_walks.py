"""Walks through whole trees that change nothing: du, prefetch, their slices, and the trace of pages."""

from typing import Any, Callable

import pytest

from tests.fs.fslib import ROOT, Driver
from tests.fs.treelib import LONG, grow, names_below, planted
from tmpfsd.tmpfs import walk
from tmpfsd.uvm.vm import Vm


def usage(fs: Driver, top: int) -> dict[str, Any]:
    """du."""
    total = walk.Usage(fs.mp, top)
    for _ in total.count():
        fs.mp.breathe()
    return total.totals()


def metadata_of(fs: Driver) -> int:
    """Bytes of all items of all pools."""
    mem = fs.mp.mem
    return (mem.nodes.nitems * (mem.nodes.item_size + 4)
            + sum(pool.nitems * pool.item_size for pool in mem.strings.pools))


def test_du_of_all_is_what_the_pools_say(fs: Driver) -> None:
    planted(fs)
    total = usage(fs, ROOT)
    assert total["metadata"]["bytes"] == metadata_of(fs)
    assert total["data"]["bytes"] == fs.mp.vm.pages_of[1] << 12
    assert total["names"] == names_below(fs, ROOT) and not total["unreadable"] and not total["skipped"]
    assert total["directories"] + total["files"] + total["others"] == fs.mp.mem.nodes.nitems


def test_du_of_parts_adds_up(fs: Driver) -> None:
    top = planted(fs)
    other = fs.mkdir(ROOT, b"other")
    fs.link(fs.lookup(top, b"big"), other, b"shared")
    fs.forget_all()
    whole, one, two = (usage(fs, ino) for ino in (ROOT, top, other))
    assert abs(whole["data"]["bytes"] - one["data"]["bytes"] - two["data"]["bytes"]) <= 1
    assert 0 < two["data"]["bytes"] < one["data"]["bytes"]


def test_du_says_where_it_was(make_fs: Callable[..., Driver]) -> None:
    fs = make_fs()
    planted(fs)
    fs.mp.vm.daemon.evict_all()
    out = usage(fs, ROOT)
    assert out["metadata"]["resident_bytes"] == 0 and out["data"]["resident_bytes"] == 0
    again = usage(fs, ROOT)
    assert 0 < again["metadata"]["swapped_bytes"] < out["metadata"]["swapped_bytes"]    # small files are not read
    assert again["data"]["swapped_bytes"] == again["data"]["bytes"]


# --- slices ---

def large(fs: Driver) -> int:
    """A directory with a file of many extents, one of many pages, one of many attributes, and many names."""
    top = fs.mkdir(ROOT, b"top")
    ino = fs.create(top, b"extents")
    for page in range(0, 1600, 2):
        fs.write(ino, page << 12, b"x" * 4096)
    fs.write(fs.create(top, b"pages"), 0, b"p" * (600 << 12))
    ino = fs.create(top, b"attributes")
    for i in range(300):
        fs.setxattr(ino, b"user.%d" % i, b"v" * 100)
    for i in range(300):
        fs.link(ino, top, b"name-%d-" % i + LONG)
    fs.forget_all()
    return top


def test_du_goes_in_slices(make_fs: Callable[..., Driver], monkeypatch: pytest.MonkeyPatch) -> None:
    fs = make_fs(tiny=True)
    top = large(fs)
    monkeypatch.setattr(walk, "RUN_MOST", 100)
    usage, looked, most, steps = walk.Usage(fs.mp, top), 0, 0, 0
    for name in ("_item", "_data"):
        def counting(self: walk.Usage, *args: Any, original: Any = getattr(walk.Usage, name)) -> None:
            nonlocal looked
            looked += 1
            original(self, *args)

        monkeypatch.setattr(walk.Usage, name, counting)
    for _ in usage.count():
        most, looked, steps = max(most, looked), 0, steps + 1
    assert most <= 300 and steps > 20
    total = usage.totals()
    assert total["data"]["bytes"] == fs.mp.vm.pages_of[1] << 12 and not total["unreadable"]
    assert total["data"]["bytes"] == total["data"]["resident_bytes"] + total["data"]["swapped_bytes"]
    assert 0 < total["data"]["swapped_bytes"] < total["data"]["bytes"]


def _shorter(fs: Driver, top: int) -> None:
    for name in (b"extents", b"pages"):
        fs.truncate(fs.lookup(top, name), 7 << 12)


def _gone(fs: Driver, top: int) -> None:
    fs.remove_all(top)
    fs.forget_all()
    fs.reap_all()


def _others(fs: Driver, top: int) -> None:
    """The same inode numbers and handles, for other things."""
    _gone(fs, top)
    for i in range(700):
        fs.symlink(top, b"%d" % i + LONG, b"t" * (i % 900 + 1))
    fs.forget_all()


@pytest.mark.parametrize("change", [_shorter, _gone, _others])
@pytest.mark.parametrize("run", [lambda mp, top: walk.Usage(mp, top).count(),
                                 lambda mp, top: walk.Prefetch(mp, top, True).run()], ids=["du", "prefetch"])
def test_what_changes_between_slices(make_fs: Callable[..., Driver], monkeypatch: pytest.MonkeyPatch, run: Any,
                                     change: Callable[[Driver, int], None]) -> None:
    monkeypatch.setattr(walk, "RUN_MOST", 100)
    monkeypatch.setattr(walk, "BATCH", 4)
    for step in range(3, 40, 9):
        fs = make_fs(tiny=True)
        top = large(fs)
        for n, _ in enumerate(run(fs.mp, top)):
            if n == step:
                change(fs, top)
        fs.check()


# --- prefetch ---

def prefetch(fs: Driver, top: int, data: bool = True) -> dict[str, Any]:
    """prefetch."""
    run = walk.Prefetch(fs.mp, top, data)
    for _ in run.run():
        fs.mp.breathe()
    return run.totals()


def faults_of(fs: Driver, work: Callable[[], Any]) -> int:
    """Page-ins that something causes."""
    before = fs.mp.vm.pageins
    work()
    return fs.mp.vm.pageins - before


def test_prefetch_pages_in(make_fs: Callable[..., Driver]) -> None:
    fs = make_fs()
    top = planted(fs)
    fs.mp.vm.daemon.evict_all()
    told = prefetch(fs, top, data=False)
    assert told["pageins"] > 10 and not told["full"] and told["names"] == names_below(fs, top)
    assert faults_of(fs, lambda: [entry for entry in walk.Walk(fs.mp, top)]) == 0
    assert prefetch(fs, top)["pageins"] > 0
    assert faults_of(fs, lambda: fs.dump()) <= 8        # the pages of attributes' values and of the root
    assert prefetch(fs, top)["pageins"] == 0


def test_prefetch_stops_when_memory_is_full(make_fs: Callable[..., Driver]) -> None:
    fs = make_fs("starving")
    top = fs.mkdir(ROOT, b"top")
    for i in range(20):
        fs.write(fs.create(top, b"file-%d" % i), 0, b"x" * 100_000)
    fs.mp.vm.daemon.evict_all()
    told = prefetch(fs, top)
    assert told["full"] and told["pageins"] <= fs.mp.vm.phys.nframes


# --- trace ---

def test_trace_tells_every_page(make_fs: Callable[..., Driver]) -> None:
    fs = make_fs("starving")
    vm: Vm = fs.mp.vm
    told = {"in": 0, "out": 0, "drop": 0}

    def note(what: str, vpn: int, npages: int) -> None:
        assert all(vm.flags[vpn + i] for i in range(npages))
        told[what] += npages

    before = vm.pageins, vm.daemon.pageouts, vm.daemon.reclaims
    vm.trace = note
    grow(fs, fs.mkdir(ROOT, b"top"), 40, 1)
    vm.trace = None
    assert told["in"] == vm.pageins - before[0] and told["out"] == vm.daemon.pageouts - before[1]
    assert told["drop"] == vm.daemon.reclaims - before[2] and min(told.values()) > 0
