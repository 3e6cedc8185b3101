"""A B+tree cut in two, at every place, with memory and pages refused in the middle."""

import random
from typing import Any

import pytest
from btreelib import Tree

from tests import failpoints
from tmpfsd.tmpfs import layout
from tmpfsd.tmpfs.btsplit import split
from tmpfsd.tmpfs.btwalk import nodes_from
from tmpfsd.tmpfs.mem import Mem
from tmpfsd.uvm.errors import NoMemory, SwapIOError
from tmpfsd.uvm.vm import Vm


def grown(make_tree: Any, seed: int, n: int, tall: bool = True) -> Tree:
    """A tree with nodes of every filling, some with one child."""
    tree, rng = make_tree(8, 700, tall=tall, check=False), random.Random(seed)
    for key in rng.sample(range(1 << 20), n):
        tree.insert(key, key * 3)
    for key in rng.sample(sorted(tree.model), n // 2):
        tree.remove(key)
    return tree


def other(tree: Tree) -> int:
    """Another owner, without entries."""
    ino = tree.mem.get_node(0)
    layout.init_node(tree.vm.phys.arena, tree.mem.node_w(ino), 0o100600, layout.KIND_TREE, 0, 0, 0, 0, 2, 0)
    return ino


def entries(tree: Tree, ino: int) -> dict[int, int]:
    """The entries of an owner, after a check."""
    tree.vm.breathe()
    assert tree.tree.check(tree.mem.node(ino)) >= 0
    found: dict[int, int] = {}
    while batch := tree.tree.batch_from(tree.mem.node(ino), max(found, default=-1) + 1):
        found.update(batch)
    return found


def check(tree: Tree, ino: int, key: int) -> None:
    """Both have their part, and no item is anybody else's."""
    assert entries(tree, tree.ino) == {k: v for k, v in tree.model.items() if k < key}
    assert entries(tree, ino) == {k: v for k, v in tree.model.items() if k >= key}
    nodes = sum(1 for owner in (tree.ino, ino) for _node in tree.tree.walk(tree.mem.node(owner)))
    assert nodes == sum(1 for _handle in tree.mem.strings.handles())


@pytest.mark.parametrize("n", (0, 1, 2, 5, 12, 60, 400))
@pytest.mark.parametrize("seed", range(4))
def test_at_every_place(make_tree: Any, n: int, seed: int) -> None:
    places = sorted(grown(make_tree, seed, n).model)
    step = max(len(places) // 12, 1)
    for key in [0, *places[::step], *[place + 1 for place in places[::step]], 1 << 21]:
        tree = grown(make_tree, seed, n)
        ino = other(tree)
        tree.vm.breathe()
        split(tree.tree, tree.at(), key, tree.mem.node_w(ino))
        check(tree, ino, key)


def test_both_go_on(make_tree: Any) -> None:
    """Each part takes and loses entries as any tree does."""
    tree = grown(make_tree, 9, 300)
    ino, rng = other(tree), random.Random(9)
    tree.vm.breathe()
    split(tree.tree, tree.at(), 1 << 19, tree.mem.node_w(ino))
    for owner in (tree.ino, ino):
        model = entries(tree, owner)
        for key in rng.sample(range(1 << 20), 200):
            if key not in model:
                tree.vm.breathe()
                tree.tree.insert(tree.mem.node_w(owner), key, key)
                model[key] = key
        assert entries(tree, owner) == model
        for key in list(model):
            tree.vm.breathe()
            tree.tree.remove(tree.mem.node_w(owner), key)
        assert not entries(tree, owner)
    assert not list(tree.mem.strings.handles())


def test_with_whole_pages(make_tree: Any) -> None:
    tree = make_tree(8, 700, check=False)
    for key in range(3000):
        tree.insert(key, key)
    ino = other(tree)
    tree.vm.breathe()
    split(tree.tree, tree.at(), 1234, tree.mem.node_w(ino))
    check(tree, ino, 1234)


@pytest.mark.parametrize("where, name, error", [(Mem, "new_tree_node", NoMemory), (Vm, "fault", SwapIOError)])
def test_refused_it_has_changed_nothing(make_tree: Any, where: type, name: str, error: type[Exception],
                                        monkeypatch: pytest.MonkeyPatch) -> None:
    failpoints.interpreted_only()
    tree = grown(make_tree, 3, 400)
    ino, key = other(tree), sorted(tree.model)[90]
    for n in range(30):
        original, calls = getattr(where, name), 0

        def call(*args: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == n + 1:
                raise error("injected")
            return original(*args)

        tree.vm.breathe()
        tree.vm.daemon.evict_all()
        with monkeypatch.context() as patch:
            patch.setattr(where, name, call)
            try:
                split(tree.tree, tree.at(), key, tree.mem.node_w(ino))
            except (NoMemory, SwapIOError):
                pass
        if entries(tree, ino):
            break
        check(tree, ino, 1 << 30)
    assert n > 1
    check(tree, ino, key)


@pytest.mark.parametrize("n", (0, 1, 5, 60, 400))
@pytest.mark.parametrize("seed", range(3))
def test_nodes_from_a_key_on(make_tree: Any, n: int, seed: int) -> None:
    """Each node once; from the middle, the rest of the leaves."""
    tree = grown(make_tree, seed, n)
    tree.vm.breathe()
    found, key = [], 0
    while key is not None:
        handles, key = nodes_from(tree.tree, tree.at(), key)
        found += handles
    nodes = [(handle, level, entries) for handle, level, entries in tree.tree.walk(tree.at())]
    assert sorted(found) == sorted(handle for handle, _level, _entries in nodes)
    for handle, level, entries in nodes:
        if not level:
            assert handle in nodes_from(tree.tree, tree.at(), entries[-1][0])[0]
