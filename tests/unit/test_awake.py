"""server/awake.py: the bound on the latency of cores, on a file that stands for the device."""

import logging
import os
from pathlib import Path

import pytest

pytest.importorskip("pyfuse3")

from tmpfsd.server import awake  # noqa: E402  (needs pyfuse3)
from tmpfsd.server.awake import NO_BOUND, NONE_LESS, Awake, open_awake, wanted  # noqa: E402
from tmpfsd.server.loop import FIRST_SPIN, MOST_SPIN, Loop  # noqa: E402


@pytest.fixture
def device(tmp_path: Path) -> Path:
    path = tmp_path / "device"
    path.touch()
    return path


def test_a_bound_is_held_once_and_released_once(device: Path) -> None:
    it = open_awake("on", str(device))
    for _ in range(2):
        it.hold()
    assert it.held and device.read_bytes() == NO_BOUND + NONE_LESS
    for _ in range(2):
        it.release()
    assert not it.held and device.read_bytes() == NO_BOUND + NONE_LESS + NO_BOUND
    it.close()
    it.hold()
    it.close()
    assert not it.held and len(device.read_bytes()) == 12


def test_nothing_happens_without_a_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(awake, "wanted", lambda: True)
    for it in (Awake(), open_awake("off"), open_awake("auto", str(tmp_path / "missing"))):
        it.hold()
        assert not it.held
        it.release()
        it.close()
    with pytest.raises(OSError):
        open_awake("on", str(tmp_path / "missing"))


def test_a_device_that_refuses_is_told_once(device: Path, caplog: pytest.LogCaptureFixture) -> None:
    it = Awake(os.open(device, os.O_RDONLY))
    with caplog.at_level(logging.WARNING):
        it.hold()
        it.hold()
    assert not it.held and [record.levelname for record in caplog.records] == ["WARNING"]
    caplog.clear()


def test_auto_wants_it_where_the_kernel_polls_before_it_halts(tmp_path: Path) -> None:
    driver = tmp_path / "current_driver"
    assert not wanted(driver)
    driver.write_text("intel_idle\n")
    assert not wanted(driver, 2)
    driver.write_text("haltpoll\n")
    assert wanted(driver, 2) and wanted(driver, awake.MOST_CORES) and not wanted(driver, awake.MOST_CORES + 1)


def test_cores_are_awake_while_the_spin_pays(device: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1})
    loop = Loop()
    loop.awake = open_awake("on", str(device))
    loop._adapt(MOST_SPIN)
    assert loop.spin == FIRST_SPIN and loop.awake.held
    loop._adapt(MOST_SPIN)
    loop._adapt(100 * MOST_SPIN)
    assert loop.spin and loop.awake.held            # one long wait among short ones
    loop._adapt(100 * MOST_SPIN)
    assert not loop.spin and not loop.awake.held
    loop.awake.close()


def test_a_single_core_is_not_kept_awake(device: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0})
    loop = Loop()
    loop.awake = open_awake("on", str(device))
    loop._adapt(MOST_SPIN)
    assert not loop.awake.held
    loop.awake.close()
