"""The results of `tmpfsctl advise` for a sample: waiting, how much is enough, and the effect of a compressed tier."""

import pytest

from tmpfsd.cli.advise import lines
from tmpfsd.options import Config
from tmpfsd.server.advice import Memory, Shrinking, enough, figures, shares_of
from tmpfsd.tmpfs.filesystem import Mount
from tmpfsd.uvm.sampler import SIZES, Sampler

NO_TIER = Shrinking(0.0, 4096)
# 100 page-ins a second fewer for each 1,000 frames more.
STRAIGHT = [1000.0, 2000.0, 4000.0, 8000.0], [700.0, 600.0, 400.0, 0.0]


def test_rates_lie_between_those_that_are_known() -> None:
    memory = Memory(*STRAIGHT, 0.001, 0.0001, NO_TIER)
    assert [memory.rate(frames) for frames in (500, 1000, 1500, 3000, 7000, 9000)] == [700, 700, 650, 500, 100, 0]


def test_enough_is_the_least_that_keeps_waiting_low() -> None:
    memory = Memory(*STRAIGHT, 0.0001, 0.00001, NO_TIER)       # 100 page-ins a second are 1 %
    found = enough(memory, 0)
    assert found is not None and 7000 < found / 4096 < 7300
    assert enough(memory._replace(store_seconds=0.0000001), 0) == 1000 * 4096
    assert enough(memory._replace(rates=[700.0] * 4), 0) is None
    # What holds everything is enough, whatever was seen.
    assert enough(memory._replace(rates=[700.0] * 4, needed=5000), 0) == 5000 * 4096
    assert enough(memory._replace(rates=[700.0] * 4, needed=2500), 0) == 2500 * 4096
    assert enough(memory._replace(rates=[700.0] * 4, needed=1e6), 0) == 10 ** 6 * 4096


def test_a_tier_takes_what_shrinks() -> None:
    """A ring of 1,000 frames' bytes holds 4,000 pages of a fourth: as much memory as 3,000 frames more."""
    memory = Memory(*STRAIGHT, 0.001, 0.0, Shrinking(1.0, 1024.0))
    assert memory.of(2000, 0) == (600, pytest.approx(0.6))
    stored, waiting = memory.of(2000, 1000 * 4096)
    assert stored == memory.rate(6000) == 200 and waiting == pytest.approx(0.2)
    half = memory._replace(shrinking=Shrinking(0.5, 1024.0)).of(2000, 1000 * 4096)[0]
    assert stored < half < 600                                # what does not shrink goes past
    ram = 4000 * 4096
    assert [each["zram_bytes"] * 4 // ram for each in shares_of(memory, ram)] == [0, 1, 2, 3]
    assert list(shares_of(memory._replace(shrinking=NO_TIER), 4096 * 4000)) == []


@pytest.mark.parametrize("more", ({}, {"compress": "zstd", "zram": 1 << 20}))
def test_figures_of_a_mount(more: dict[str, object]) -> None:
    mount = Mount(Config(ram_bytes=4 << 20, size_bytes=64 << 20, swap="/tmp", uid=0, gid=0, **more))
    try:
        mount.vm.sampler = Sampler(mount.vm)
        found = figures(mount.vm, mount.vm.sampler)
        assert found["ram_bytes"] == 4 << 20 and found["zram_bytes"] == more.get("zram", 0)
        assert len(found["curve"]) == len(SIZES) and found["curve"][4]["ram_bytes"] == 4 << 20
        assert found["enough_bytes"] == found["curve"][0]["ram_bytes"] and found["pageins"] == 0
        text = list(lines(found))
        assert "that is too little" in text[1] and any(line.endswith("now") for line in text)
    finally:
        mount.close()
