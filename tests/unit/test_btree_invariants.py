"""B1 to B3 of a B+tree: each is seen when it is broken."""

import pytest
from btreelib import Tree

from tmpfsd.tmpfs import layout
from tmpfsd.uvm.errors import Inconsistent


@pytest.fixture
def tree(make_tree) -> Tree:
    """A tree of height 2 in memory, to be broken."""
    tree = make_tree(8, check=False, tall=True)
    for key in range(0, 200, 2):
        tree.insert(key, key)
    tree.check()
    assert tree.height() == 2
    return tree


def node_of(tree: Tree, level: int, nth: int = 1) -> tuple[int, int]:
    """(handle, offset) of the nth node of a level."""
    handles = [handle for handle, at, _entries in tree.tree.walk(tree.at()) if at == level]
    return handles[nth], tree.mem.string_w(handles[nth])


def broken(tree: Tree, invariant: str) -> None:
    with pytest.raises(Inconsistent) as caught:
        tree.tree.check(tree.at())
    assert caught.value.invariant == invariant


def test_b1_keys_do_not_ascend(tree: Tree) -> None:
    at = node_of(tree, 0)[1] + 8 >> 3
    tree.mem.u64[at], tree.mem.u64[at + 1] = tree.mem.u64[at + 1], tree.mem.u64[at]
    broken(tree, "B1")


@pytest.mark.parametrize("key", (0, 199))
def test_b1_a_leaf_leaves_its_bounds(tree: Tree, key: int) -> None:
    at = node_of(tree, 0)[1]
    tree.mem.u64[(at + 8 >> 3) + (6 if key else 0)] = key
    broken(tree, "B1")


def test_b1_a_separator_is_wrong(tree: Tree) -> None:
    at = node_of(tree, 1)[1]
    tree.mem.u64[(at + 8 >> 3) + 1] += 1
    broken(tree, "B1")


def test_b2_a_node_says_another_level(tree: Tree) -> None:
    layout.set_bt_head(tree.mem.arena, node_of(tree, 0)[1], 7, 7, 1)
    broken(tree, "B2")


@pytest.mark.parametrize("count, cap", ((0, 7), (8, 7), (7, 8), (3, 3)))
def test_b2_counts(tree: Tree, count: int, cap: int) -> None:
    layout.set_bt_head(tree.mem.arena, node_of(tree, 0)[1], count, cap, 0)
    broken(tree, "B2")


def test_b2_the_height_is_wrong(tree: Tree) -> None:
    root, height = layout.tn_tree(tree.mem.arena, tree.at())
    layout.set_tn_tree(tree.mem.arena, tree.at(), root, height + 1)
    broken(tree, "B2")


def test_b2_a_small_leaf_in_a_tall_tree(tree: Tree) -> None:
    mem = tree.mem
    leaf = node_of(tree, 0, 0)[1]
    small = mem.new_string(64)
    at = mem.string_w(small)
    layout.set_bt_head(mem.arena, at, 1, 1, 0)
    mem.u64[at + 8 >> 3] = mem.u64[leaf + 8 >> 3]
    parent = node_of(tree, 1, 0)[1]
    mem.u32[parent + 8 + 8 * 7 >> 2] = small
    broken(tree, "B2")


def test_b2_a_small_inner_node_below_the_root(tree: Tree) -> None:
    mem = tree.mem
    handle, inner = node_of(tree, 1, 0)
    small = mem.new_string(2048)
    at = mem.string_w(small)
    layout.set_bt_head(mem.arena, at, 6, 6, 1)
    mem.arena.move(at + 8, inner + 8, 8 * 6)
    mem.arena.move(at + 8 + 8 * 6, inner + 8 + 8 * 7, 4 * 6)
    root = node_of(tree, 2, 0)[1]
    cap = layout.bt_head(mem.arena, root)[1]
    assert mem.u32[(root + 8 >> 2) + 2 * cap] == handle
    mem.u32[(root + 8 >> 2) + 2 * cap] = small
    broken(tree, "B2")


def test_b3_an_inner_root_has_one_child(tree: Tree) -> None:
    root = node_of(tree, 2, 0)[1]
    layout.set_bt_head(tree.mem.arena, root, 1, layout.bt_head(tree.mem.arena, root)[1], 2)
    broken(tree, "B3")
