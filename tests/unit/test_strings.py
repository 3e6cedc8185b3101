"""Items of any size up to a page, known by handles."""

import random

import pytest

from tmpfsd.pool import PageableSubmap, Strings
from tmpfsd.pool.strings import CLASSES, INDEX_BITS, MAX_SIZE, TREE, TREE_HANDLES
from tmpfsd.uvm.errors import Inconsistent


@pytest.fixture
def strings(make_vm):
    vm = make_vm(nframes=128, nslots=4000)
    made = Strings(vm, PageableSubmap(vm), 4)
    yield made
    made.check()
    for handle in list(made.handles()):
        made.put(handle)
    assert vm.npages == vm.kernel_map.nused == 0


@pytest.mark.parametrize("nbytes, size", [(1, 32), (32, 32), (33, 64), (257, 384), (1361, 2048), (4096, 4096)])
def test_the_smallest_class_that_has_room(strings: Strings, nbytes: int, size: int) -> None:
    assert strings.size(strings.get(nbytes)) == size


def test_classes_fill_pages() -> None:
    assert CLASSES == tuple(sorted(CLASSES)) and MAX_SIZE == 4096
    for size in CLASSES:
        assert size % 8 == 0 and 4096 // size * size >= 3840, size


def test_handles(strings: Strings) -> None:
    handle = strings.get(1)
    assert handle == 1 << INDEX_BITS            # 0 is no item
    assert strings.get(4096) < 1 << 31          # a bit is left to the holder
    assert strings.is_held(handle)
    for other in (0, handle + 1, 15 << INDEX_BITS, (1 << 31) - 1):
        assert not strings.is_held(other)
    strings.put(handle)
    assert not strings.is_held(handle)


def test_items_of_all_classes_stay_apart(strings: Strings) -> None:
    rng = random.Random(5)
    vm = strings.vm
    held: dict[int, bytes] = {}
    for step in range(1200):
        vm.breathe()
        if held and rng.random() < 0.45:
            handle = rng.choice(list(held))
            text = held.pop(handle)
            at = vm.read(strings.va(handle))
            assert vm.phys.arena[at:at + len(text)] == text
            strings.put(handle)
        else:
            text = rng.randbytes(rng.choice((rng.randint(1, 200), rng.randint(1, 4096))))
            handle = strings.get(len(text))
            assert handle not in held and strings.size(handle) >= len(text)
            assert strings.va(handle) == strings.pools[(handle >> INDEX_BITS) - 1].va(handle & (1 << INDEX_BITS) - 1)
            at = vm.write(strings.va(handle))
            vm.phys.arena[at:at + len(text)] = text
            held[handle] = text
    assert sorted(strings.handles()) == sorted(held)


def test_check_looks_into_every_class(strings: Strings) -> None:
    strings.get(2000)
    strings.pools[CLASSES.index(2048)].nitems += 1
    with pytest.raises(Inconsistent, match="string-2048"):
        strings.check()
    strings.pools[CLASSES.index(2048)].nitems -= 1


def test_pages_of_trees_are_a_pool_of_their_own(strings) -> None:
    page, tree = strings.get(MAX_SIZE), strings.get_tree_page()
    assert page < TREE_HANDLES <= tree and strings.size(page) == strings.size(tree) == MAX_SIZE
    assert strings.pools[TREE].nitems == strings.pools[CLASSES.index(MAX_SIZE)].nitems == 1
    assert strings.pools[TREE].owner not in [pool.owner for pool in strings.pools[:TREE]]
    assert strings.is_held(tree) and set(strings.handles()) == {page, tree}
    assert tree < 1 << 31, "a holder has a bit left to itself"
