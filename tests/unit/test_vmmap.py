"""kernel_map and its submaps."""

import random

import pytest

from tmpfsd.uvm.errors import Inconsistent, NoMemory
from tmpfsd.uvm.vmmap import SUBMAP_CHUNK, Submap, VmMap


def test_page_0_is_in_no_map() -> None:
    assert VmMap("map").alloc() == 1


def test_ranges() -> None:
    vmmap = VmMap("map", 1, 20)
    assert vmmap.alloc(4) == 1
    assert vmmap.alloc_some(8, after=5) == (5, 8)
    assert vmmap.alloc_some(4, after=5) == (13, 4)      # not free there: elsewhere
    vmmap.free(3, 4)
    assert vmmap.alloc_some(9, after=3) == (3, 4)
    assert vmmap.alloc_some(9) == (17, 4)
    with pytest.raises(NoMemory, match="full"):
        vmmap.alloc_some(1, after=3)
    with pytest.raises(NoMemory, match="full"):
        vmmap.alloc()
    assert vmmap.nused == 20
    vmmap.check()


def test_a_fixed_submap_is_full_when_it_is_full() -> None:
    parent = VmMap("map")
    submap = Submap("sub", parent, 5)
    assert parent.nused == 5
    vpns = [submap.alloc() for _ in range(5)]
    with pytest.raises(NoMemory, match="full"):
        submap.alloc()
    submap.check()
    submap.free(vpns[2])
    assert submap.alloc() == vpns[2]
    for vpn in vpns:
        submap.free(vpn)
    assert submap.stats() == {"size_bytes": 5 << 12, "used_bytes": 0, "high_water_bytes": 5 << 12}
    submap.check()


def test_a_submap_that_sizes_itself_grows_and_shrinks_by_chunks() -> None:
    parent = VmMap("map")
    submap = Submap("sub", parent)
    assert parent.nused == submap.npages == 0
    vpns = []
    for n in range(1, 3 * SUBMAP_CHUNK):
        vpns.append(submap.alloc())
        assert submap.npages == parent.nused == -(-n // SUBMAP_CHUNK) * SUBMAP_CHUNK
    random.Random(1).shuffle(vpns)
    for vpn in vpns:
        submap.free(vpn)
        submap.check()
    assert parent.nused == submap.npages == submap.nused == 0
    assert submap.high_water == 3 * SUBMAP_CHUNK - 1
    parent.check()


def test_chunks_need_not_touch() -> None:
    parent = VmMap("map")
    submap, other = Submap("sub", parent), Submap("other", parent)
    held: list[tuple[Submap, int]] = []
    rng = random.Random(2)
    for _ in range(3000):
        if held and rng.random() < 0.48:
            which, vpn = held.pop(rng.randrange(len(held)))
            which.free(vpn)
        else:
            which = rng.choice((submap, other))
            held.append((which, which.alloc()))
    assert len({vpn for _which, vpn in held}) == len(held)
    for which in (submap, other):
        which.check()
    for which, vpn in held:
        which.free(vpn)
    assert parent.nused == 0
    parent.check()


def test_a_submap_that_cannot_grow_refuses_and_nothing_has_changed() -> None:
    parent = VmMap("map", 1, SUBMAP_CHUNK + 5)
    submap = Submap("sub", parent)
    for _ in range(SUBMAP_CHUNK):
        submap.alloc()
    with pytest.raises(NoMemory):
        submap.alloc()
    assert (submap.nused, submap.npages) == (SUBMAP_CHUNK, SUBMAP_CHUNK)
    submap.check()


def broken(checked, invariant: str) -> None:
    with pytest.raises(Inconsistent) as caught:
        checked.check()
    assert caught.value.invariant == invariant


def test_m1_a_map_holds_page_0() -> None:
    broken(VmMap("map", 0, 10), "M1")


def test_m2_a_chunk_is_not_the_parents() -> None:
    parent = VmMap("map")
    submap = Submap("sub", parent)
    parent.free(submap.alloc(), SUBMAP_CHUNK)
    broken(submap, "M2")


@pytest.mark.parametrize("bitmap", (0, 2))
def test_m3_chunk_bitmaps(bitmap: int) -> None:
    submap = Submap("sub", VmMap("map"))
    submap._chunks[submap.alloc()] = bitmap
    broken(submap, "M3")


def test_m2_a_chunk_with_room_is_not_known_as_such() -> None:
    submap = Submap("sub", VmMap("map"))
    submap.alloc()
    submap._partial.clear()
    broken(submap, "M2")


def test_m2_chunks_do_not_add_up() -> None:
    submap = Submap("sub", VmMap("map"))
    submap.alloc()
    submap.npages += SUBMAP_CHUNK
    broken(submap, "M2")


def test_m3_nused_is_wrong() -> None:
    vmmap = VmMap("map")
    submap, fixed = Submap("sub", vmmap), Submap("fixed", vmmap, 3)
    for checked in (submap, fixed, vmmap):
        checked.nused += 1
        broken(checked, "M3")
