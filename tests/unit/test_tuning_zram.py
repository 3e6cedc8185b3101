"""Compressed pages of a mount that are changed while it is mounted: zram=, and swapoff of them."""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.fs.fslib import CRED, ROOT
from tests.unit.tuninglib import MB, demand_content, do, store, tunings
from tmpfsd.server.refused import ControlError
from tmpfsd.server.tuning import Tuning
from tmpfsd.tmpfs import vnops


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Tuning]]:
    with tunings(tmp_path) as made:
        yield made


def test_compressed_pages(make, tmp_path: Path) -> None:
    """The ring is within ram, in the status, and let go as a swap file is; without swap pages go there only."""
    tuning = make(ram_bytes=4 * MB, compress="zstd", zram=-50)
    files = store(tuning.mount, 600)
    status = tuning.mount.status()
    assert status["ram_bytes"] == 4 * MB >= status["resident_bytes"] and tuning.mount.vm.phys.nframes == 2 * MB >> 12
    zram = status["zram"]
    assert zram["size_bytes"] == 2 * MB and 0 < zram["used_bytes"] < zram["stored_bytes"] and zram["ratio"] > 3
    demand_content(tuning.mount, files)
    assert tuning.mount.status()["zram"]["hits"] > 0
    do(tuning.set({"values": ["ram=5m"]}))
    assert (tuning.mount.status()["ram_bytes"], tuning.mount.vm.phys.nframes) == (5 * MB, 3 * MB >> 12)
    with pytest.raises(ControlError, match="zram=2m is a part of it"):
        do(tuning.set({"values": ["ram=2m"]}))
    assert do(tuning.swapoff({"path": "zram"}))["moved_bytes"] > 0
    status = tuning.mount.status()
    assert status["zram"]["size_bytes"] == 0 and tuning.mount.vm.phys.nframes == 5 * MB >> 12
    demand_content(tuning.mount, files)


def test_compressed_pages_without_swap(make, tmp_path: Path) -> None:
    tuning = make(ram_bytes=4 * MB, swap=None, compress="zstd", zram=-50)
    files = store(tuning.mount, 1000)
    assert tuning.mount.status()["stores"] == [] and tuning.mount.status()["swap"]["disk_full"] is False
    demand_content(tuning.mount, files)
    with pytest.raises(ControlError, match="zram: it holds"):
        do(tuning.swapoff({"path": "zram"}))
    tuning.swapon({"path": str(tmp_path), "size_bytes": 64 * MB})
    do(tuning.swapoff({"path": "zram"}))
    assert tuning.mount.status()["stores"][0]["used_bytes"] > 8 * MB
    demand_content(tuning.mount, files)


def test_zram_is_changed_within_ram(make) -> None:
    """A larger one takes frames, a smaller one gives them back, 0 lets it go; one can be added if there was none."""
    tuning = make(ram_bytes=8 * MB, swap_size_bytes=64 * MB)
    mount, files = tuning.mount, store(tuning.mount, 900)
    for word, zram in (("zram=4m", 4), ("zram=75%", 6), ("zram=1m", 1), ("zram=2m", 2), ("zram=0", 0), ("zram=50%", 4)):
        steps = tuning.set({"values": [word]})
        with suppress(StopIteration):
            while True:
                next(steps)
                assert mount.status()["ram_bytes"] <= 8 * MB
        status = mount.status()
        assert (status["zram"]["size_bytes"], status["ram_bytes"]) == (zram * MB, 8 * MB), word
        assert mount.config.zram_bytes == zram * MB
        mount.check()
    demand_content(mount, files)
    answer = do(tuning.set({"values": ["zram=12m", "ram=16m"]}))
    assert answer["zram"] == {"was": 4 * MB, "is": 12 * MB} and mount.status()["ram_bytes"] == 16 * MB
    do(tuning.set({"values": ["ram=4m", "zram=25%"]}))
    status = mount.status()
    assert (status["zram"]["size_bytes"], status["ram_bytes"]) == (MB, 4 * MB)
    demand_content(mount, files)


@pytest.mark.parametrize("word, why", [
    ("zram=8m", "zram=8m: is a part of ram=8m and must leave 1m"), ("zram=1g", "is a part of ram=8m"),
    ("zram=100%", "less than 100%"), ("zram=5%", "zram=0m: must be 0, or from 1m to 16g"), ("zram=4k", "at least 1m"),
    ("zram=17g", "at most 16g"), ("zram=-1", "negative"), ("zram=lots", "not"), ("zram", "needs a value"),
    ("compress=none", "cannot be changed while it is mounted"),
])
@pytest.mark.parametrize("compress", ("zstd", "none"))
def test_a_zram_that_is_refused_changes_nothing(make, compress: str, word: str, why: str) -> None:
    tuning = make(ram_bytes=8 * MB, compress=compress, zram=-25)
    files = store(tuning.mount, 300)
    before, config = tuning.mount.status(), tuning.mount.config
    with pytest.raises(ControlError, match=why):
        do(tuning.set({"values": [word]}))
    assert tuning.mount.status() == before and tuning.mount.config == config
    demand_content(tuning.mount, files)


def test_a_zram_that_holds_too_much_stays(make) -> None:
    """Without swap; and settings changed before it are put back."""
    tuning = make(ram_bytes=8 * MB, swap=None, compress="zstd", zram=-50)
    mount, files = tuning.mount, {}
    for number in range(400):
        name = b"dense %d" % number
        mount.breathe()
        files[name] = vnops.create(mount, ROOT, name, 0o600, CRED)
        mount.breathe()
        vnops.write(mount, files[name], 0, os.urandom(2000) * 6)
    before = mount.status()["zram"]["size_bytes"], mount.status()["ram_bytes"], mount.status()["size_bytes"]
    for words in (["zram=1m"], ["zram=0"], ["size=32m", "zram=1m"]):
        with pytest.raises(ControlError, match="zram=[01]m: it holds"):
            do(tuning.set({"values": words}))
        status = mount.status()
        assert (status["zram"]["size_bytes"], status["ram_bytes"], status["size_bytes"]) == before
    assert mount.config.zram == -50 and mount.config.compress == "zstd"


@pytest.mark.parametrize("after", (1, 2, 5, 20, 80))
@pytest.mark.parametrize("word", ("zram=1m", "zram=6m", "zram=0"))
def test_a_change_of_zram_that_is_broken_off(make, word: str, after: int) -> None:
    """As when tmpfsctl is killed: all is as before (U1)."""
    tuning = make(ram_bytes=8 * MB, compress="zstd", zram=-50)
    files = store(tuning.mount, 900)
    steps = tuning.set({"values": [word]})
    for _ in range(after):
        next(steps, None)
    done = "zram" not in tuning.busy and not tuning.busy
    steps.close()
    status = tuning.mount.status()
    assert done or status["zram"]["size_bytes"] == 4 * MB
    assert status["ram_bytes"] == 8 * MB
    demand_content(tuning.mount, files)
