"""B+trees against a dict, roomy and starving, with memory and pages refused in the middle."""

import random
from bisect import bisect_left, bisect_right

import pytest
from btreelib import Tree

from tests import failpoints
from tmpfsd.tmpfs import btree, layout
from tmpfsd.uvm.errors import NoMemory, SwapIOError


def play(tree: Tree, rng: random.Random, steps: int, keys: int, most: int) -> None:
    """Random operations, each against the model."""
    model = tree.model
    for step in range(steps):
        tree.vm.breathe()
        key, at = rng.randrange(keys), tree.at()
        ordered = sorted(model) if step % 20 == 0 else None
        assert tree.tree.get(at, key) == model.get(key)
        if ordered is not None:
            i = bisect_left(ordered, key)
            expected = (ordered[i], model[ordered[i]]) if i < len(ordered) else None
            assert tree.tree.first_from(at, key) == expected
            i = bisect_right(ordered, key)
            low = (ordered[i - 1], model[ordered[i - 1]]) if i else None
            assert tree.tree.around(at, key) == (low, ordered[i] if i < len(ordered) else None)
            assert tree.tree.last_to(at, key) == low
        if key in model:
            model[key] = rng.getrandbits(tree.bits)
            tree.tree.set(at, key, model[key])
        if len(model) < most and rng.random() < 0.7:
            key = rng.randrange(keys)
            if key not in model:
                tree.insert(key, rng.getrandbits(tree.bits))
        elif model:
            tree.remove(rng.choice(list(model)))


@pytest.mark.parametrize("value_size", (4, 8))
@pytest.mark.parametrize("tall", (False, True))
def test_a_key_moves_within_its_leaf(make_tree, value_size: int, tall: bool) -> None:
    tree = make_tree(value_size, tall=tall)
    rng, moved = random.Random(7), 0
    for key in rng.sample(range(0, 2000, 2), 150):
        tree.insert(key, key)
    for _ in range(200):
        old, new = rng.choice(list(tree.model)), rng.randrange(1, 2000)
        if new in tree.model:
            continue
        tree.vm.breathe()
        path, npages = tree.tree.seek(tree.at(), new), tree.vm.npages
        before, after = tree.tree.gap(path)
        assert before in (max((key for key in tree.model if key < new), default=-1), -1)
        assert after == min((key for key in tree.model if key > new), default=-1)
        if tree.tree.move(tree.tree.seek(tree.at(), old), new, path, new):
            moved += 1
            del tree.model[old]
            tree.model[new] = new
        tree.check()
        assert tree.vm.npages == npages
    assert moved > 150 if not tall else 3 < moved < 50


@pytest.mark.parametrize("value_size", (4, 8))
@pytest.mark.parametrize("nframes", (400, 72), ids=("roomy", "starving"))
@pytest.mark.parametrize("seed", range(2))
def test_against_a_dict(make_tree, value_size: int, nframes: int, seed: int) -> None:
    tree = make_tree(value_size, nframes)
    rng = random.Random(seed)
    for most in (6, 60, 900):
        play(tree, rng, 2 * most + 100, 1 << 40, most)
        tree.check()
    assert tree.height() == 1


@pytest.mark.slow
@pytest.mark.parametrize("value_size", (4, 8))
@pytest.mark.parametrize("nframes", (700, 72), ids=("roomy", "starving"))
@pytest.mark.parametrize("seed", range(3))
def test_tall_trees_against_a_dict(make_tree, value_size: int, nframes: int, seed: int) -> None:
    tree = make_tree(value_size, nframes, tall=True)
    rng = random.Random(seed)
    highest = 0
    for most, keys in ((400, 1 << 63), (3, 1 << 63), (300, 500)):
        play(tree, rng, 1000, keys, most)
        tree.check()
        highest = max(highest, tree.height())
    assert highest >= 3


@pytest.mark.parametrize("order", ("up", "down", "inside-out"))
def test_orders_of_insertion_and_removal(make_tree, order: str) -> None:
    keys = list(range(300))
    if order == "down":
        keys.reverse()
    elif order == "inside-out":
        keys.sort(key=lambda key: abs(key - 150))
    tree = make_tree(8, tall=True)
    for key in keys:
        tree.insert(key, key)
    tree.check()
    for key in keys:
        tree.remove(key)
        if key % 20 == 0:
            tree.check()


def test_appending_fills_nodes(make_tree) -> None:
    tree = make_tree(8)
    for key in range(255 * 8):
        tree.insert(key, key)
    nodes = list(tree.tree.walk(tree.at()))
    assert [len(entries) for _handle, level, entries in nodes if not level] == [255] * 8


@pytest.mark.parametrize("value_size", (4, 8))
def test_leaves_share_before_they_split(make_tree, value_size: int) -> None:
    tree = make_tree(value_size, 700)
    rng = random.Random(value_size)
    for _ in range(12_000):
        tree.insert(rng.getrandbits(60), 7)
    tree.vm.breathe()
    counts = [len(entries) for _handle, level, entries in tree.tree.walk(tree.at()) if not level]
    assert sum(counts) / len(counts) > 0.8 * btree.capacity(4096, value_size)


def test_a_neighbour_that_cannot_be_read_is_not_shared_with(make_tree) -> None:
    tree = make_tree()
    cap = btree.capacity(4096, 4)
    for key in range(0, 3 * cap, 3):                        # appended: a full leaf, and one with a single entry
        tree.insert(key, key)
    tree.insert(3 * cap, 0)
    tree.vm.breathe()
    sparse = [handle for handle, level, entries in tree.tree.walk(tree.at()) if len(entries) == 1]
    assert len(sparse) == 1
    tree.vm.daemon.evict_all()
    tree.vm.swap.bad_read.add(tree.vm.slot_of[tree.mem.strings.va(sparse[0]) >> 12])
    tree.insert(1, 1)
    assert tree.vm.read_errors
    tree.vm.swap.bad_read.clear()
    tree.vm.breathe()
    assert sum(1 for _handle, level, _entries in tree.tree.walk(tree.at()) if not level) == 3


def test_a_small_tree_is_a_small_item(make_tree) -> None:
    tree = make_tree(4)
    sizes = []
    for key in range(100):
        tree.insert(key, key)
        handle, height = layout.tn_tree(tree.vm.phys.arena, tree.at())
        assert height == 0
        sizes.append(tree.mem.strings.size(handle))
    assert (sizes[0], sizes[3], sizes[4], sizes[99]) == (64, 64, 128, 2048)
    for key in range(97):
        tree.remove(key)
    assert tree.mem.strings.size(layout.tn_tree(tree.vm.phys.arena, tree.at())[0]) == 128


def test_the_keys_and_values_at_the_edges(make_tree) -> None:
    for value_size in (4, 8):
        tree = make_tree(value_size)
        most = (1 << 8 * value_size) - 1
        tree.insert((1 << 64) - 1, most)
        tree.insert(0, 0)
        assert tree.tree.first_from(tree.at(), 1) == ((1 << 64) - 1, most)
        assert tree.tree.last_to(tree.at(), (1 << 64) - 2) == (0, 0)


def test_an_empty_tree(make_tree) -> None:
    tree = make_tree()
    at = tree.at()
    assert (tree.tree.get(at, 1), tree.tree.first_from(at, 0), tree.tree.last_to(at, 9)) == (None, None, None)
    assert tree.tree.batch_from(at, 0) == [] and tree.tree.check(at) == 0


def test_the_way_that_was_found_serves_the_change(make_tree) -> None:
    tree = make_tree(tall=True)
    for key in range(0, 200, 2):
        tree.insert(key, key)
    for key in range(1, 200, 14):
        at = tree.at()
        path = tree.tree.seek(at, key)
        tree.tree.insert(at, key, key, path)
        tree.model[key] = key
    for key in range(0, 200, 6):
        tree.vm.breathe()
        at = tree.at()
        path = tree.tree.seek(at, key)
        assert tree.tree.covers(path) and tree.tree.entry(path) == (key, key)
        tree.tree.remove(at, key, path)
        del tree.model[key]


@pytest.mark.slow
@pytest.mark.parametrize("value_size", (4, 8))
def test_height_2_with_nodes_of_a_page(make_vm, value_size: int) -> None:
    rng = random.Random(7)
    tree = Tree(make_vm(3000, reserve=64, nslots=4000), value_size)
    tree.vm.check_level = 0
    n = 116_500 if value_size == 4 else 87_500
    for key in range(n):                        # 340 leaves of 340, or of 255, and a few
        if not key & 63:
            tree.vm.breathe()
            at = tree.at()
        tree.tree.insert(at, key << 20, key)
    assert tree.height() == 2
    for key in rng.sample(range(n), 3000):
        tree.vm.breathe()
        assert tree.tree.get(tree.at(), key << 20) == key
        tree.tree.remove(tree.at(), key << 20)
        tree.tree.insert(tree.at(), (key << 20) + 1, key)
    tree.vm.breathe()
    assert tree.tree.check(tree.at()) == n


# --- refusals ---

class Refusing:
    """A call that raises NoMemory at the n-th time, once."""

    def __init__(self, n: int) -> None:
        self.left, self.refused = n, False

    def __call__(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.refused = True
            raise NoMemory("refused by the test")


@pytest.mark.parametrize("where", (("Strings.get", "Strings.get_tree_page"), ("Vm.alloc_page",)), ids=("item", "page"))
@pytest.mark.parametrize("tall", (False, True), ids=("", "tall"))
def test_every_allocation_refused(make_tree, where: tuple[str, ...], tall: bool) -> None:
    tree, rng, refusals = make_tree(tall=tall), random.Random(8), 0
    for step in range(350):
        key = step if step < 100 else rng.randrange(1 << 40)
        if key in tree.model:
            continue
        n = 1
        while True:
            refusing = Refusing(n)
            before = tree.mem.strings.pools[-1].nitems, layout.tn_tree(tree.vm.phys.arena, tree.at())
            with failpoints.at(where, refusing):
                try:
                    tree.insert(key, step)
                except NoMemory:
                    pass
            if key in tree.model:
                break
            assert refusing.refused
            after = tree.mem.strings.pools[-1].nitems, layout.tn_tree(tree.vm.phys.arena, tree.at())
            assert before == after
            refusals += 1
            n += 1
            if step % 10 == 0 or n > 2:
                tree.check()
    assert refusals >= 5 + 60 * tall


@pytest.mark.parametrize("tall", (False, True), ids=("", "tall"))
def test_remove_needs_no_memory(make_tree, tall: bool) -> None:
    tree, rng = make_tree(tall=tall), random.Random(9)
    keys = rng.sample(range(1 << 40), 300)
    for key in keys:
        tree.insert(key, 1)

    def refuse() -> None:
        raise NoMemory("refused by the test")
    with failpoints.at(("Strings.get", "Strings.get_tree_page"), refuse):
        for i, key in enumerate(keys):
            tree.remove(key)
            if i % 25 == 0:
                tree.check()


def out_pages(tree: Tree) -> list[int]:
    """Evict all but the owner; the slots of the tree's pages."""
    tree.vm.breathe()
    tree.vm.daemon.evict_all()
    tree.at()
    pages = [vpn for pool in tree.mem.strings.pools for vpn in pool.pages if vpn]
    return [tree.vm.slot_of[vpn] for vpn in pages if not tree.vm.is_resident(vpn)]


@pytest.mark.parametrize("seed", range(3))
def test_a_page_that_cannot_be_read(make_tree, seed: int) -> None:
    tree, rng = make_tree(8, tall=True), random.Random(seed)
    for key in range(0, 250, 2):
        tree.insert(key, key)
    failures = 0
    for _ in range(150):
        key = rng.randrange(250)
        tree.vm.swap.bad_read = set(rng.sample(out_pages(tree), 3))
        try:
            if key in tree.model:
                tree.remove(key)
            else:
                tree.insert(key, key)
        except SwapIOError:
            failures += 1
        tree.vm.swap.bad_read.clear()
        tree.check()
    assert failures >= 5


def test_lowering_the_root_onto_a_page_that_cannot_be_read(make_tree) -> None:
    tree = make_tree(8, check=False, tall=True)
    for key in range(50):                       # 49 fill seven leaves of seven; the last begins another branch
        tree.insert(key, key)
    root, height = layout.tn_tree(tree.vm.phys.arena, tree.at())
    assert height == 2
    branch = [entries for handle, _level, entries in tree.tree.walk(tree.at()) if handle == root][0][0][1]
    out_pages(tree)
    tree.vm.swap.bad_read = {tree.vm.slot_of[tree.mem.strings.va(branch) >> 12]}
    try:
        tree.remove(49)
    except SwapIOError:
        pass
    tree.vm.swap.bad_read.clear()
    tree.check()


def test_an_unreadable_page_with_room_does_not_refuse_all_others(make_tree) -> None:
    tree = make_tree(check=False)
    mem = tree.mem
    mem.new_string(64)
    tree.vm.daemon.evict_all()
    tree.vm.swap.bad_read = {tree.vm.slot_of[mem.strings.pools[1].pages[0]]}
    for _ in range(100):
        try:
            mem.new_string(64)
            return
        except SwapIOError:
            pass
    mem.new_string(64)


def test_a_root_above_leaves_grows_through_the_classes(make_tree) -> None:
    """A directory of 1,000 needs an item above its leaves, not a page."""
    tree = make_tree(4, 200)
    sizes, leaves = [], 0
    for key in range(340 * 30):
        tree.vm.breathe()
        tree.insert(key, key)
        root, height = layout.tn_tree(tree.vm.phys.arena, tree.at())
        size = tree.mem.strings.size(root)
        if height and size not in sizes:
            sizes.append(size)
            leaves = sum(level == 0 for _handle, level, _entries in tree.tree.walk(tree.at()))
            assert leaves == {64: 2, 128: 5, 256: 11, 512: 21}[size]
    assert sizes == [64, 128, 256, 512]
    tree.check()
