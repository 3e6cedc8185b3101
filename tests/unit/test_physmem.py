"""Frames."""

import pytest

from tmpfsd.uvm.errors import Inconsistent
from tmpfsd.uvm.param import PAGE_SIZE, atop, ptoa, round_page
from tmpfsd.uvm.physmem import PhysMem


@pytest.fixture
def phys():
    made = PhysMem(8 * PAGE_SIZE + 100)
    yield made
    made.close()


def test_the_budget_is_rounded_down(phys: PhysMem) -> None:
    assert phys.nframes == 8
    assert len(phys.free_frames) == 8


def test_alloc_and_free(phys: PhysMem) -> None:
    assert [phys.alloc(vpn) for vpn in range(1, 9)] == list(range(8))
    phys.check()
    with pytest.raises(IndexError):
        phys.alloc(9)
    phys.dirty[3] = phys.referenced[3] = 1
    phys.free(3)
    phys.free(5)
    phys.check()
    assert phys.alloc(7) == 5           # freed last, warmest


def test_freed_twice(phys: PhysMem) -> None:
    phys.alloc(1)
    phys.free(0)
    with pytest.raises(AssertionError):
        phys.free(0)


def test_views_are_of_one_arena(phys: PhysMem) -> None:
    phys.frame(2)[8:16] = (2006).to_bytes(8, "little")
    assert phys.u64[2 * 512 + 1] == phys.u32[2 * 1024 + 2] == 2006
    assert phys.arena[2 * PAGE_SIZE + 8] == 2006 & 0xFF


def broken(phys: PhysMem, invariant: str) -> None:
    with pytest.raises(Inconsistent) as caught:
        phys.check()
    assert caught.value.invariant == invariant


def test_f1_a_frame_is_free_twice(phys: PhysMem) -> None:
    phys.free_frames.append(3)
    broken(phys, "F1")


def test_f1_a_frame_is_free_and_owned(phys: PhysMem) -> None:
    phys.owner[3] = 1
    broken(phys, "F1")


def test_f1_a_frame_is_lost(phys: PhysMem) -> None:
    phys.free_frames.pop()
    broken(phys, "F1")


@pytest.mark.parametrize("flags", ("dirty", "referenced"))
def test_f2_a_free_frame_is_in_use(phys: PhysMem, flags: str) -> None:
    getattr(phys, flags)[3] = 1
    broken(phys, "F2")


def test_conversions() -> None:
    assert [round_page(n) for n in (0, 1, 4096, 4097)] == [0, 4096, 4096, 8192]
    assert atop(ptoa(7)) == atop(ptoa(7) + 4095) == 7
