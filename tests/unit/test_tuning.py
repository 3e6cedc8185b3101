"""Limits, memory and swap files of a mount that are changed while it is mounted."""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import failpoints
from tests.fs.fslib import CRED, ROOT
from tests.unit.tuninglib import BACKENDS, MB, demand_content, do, store, tunings
from tmpfsd.server import inherited
from tmpfsd.server.awake import open_awake
from tmpfsd.server.commands import gated
from tmpfsd.server.control import Gone
from tmpfsd.server.dispatch import Dispatcher
from tmpfsd.server.refused import ControlError
from tmpfsd.server.tuning import Tuning
from tmpfsd.tmpfs import vnops
from tmpfsd.tmpfs.fserror import FsError
from tmpfsd.uvm.errors import NoMemory
from tmpfsd.uvm.resize import MAX_LOT


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Tuning]]:
    with tunings(tmp_path) as made:
        yield made


# --- set ---

def test_limits_are_changed_together(make) -> None:
    tuning = make(Dispatcher("auto"))
    mount = tuning.mount
    answer = do(tuning.set({"values": ["size=32m", "nr_inodes=1k", "ram=2m", "spin=20", "swap_size=16m"]}))
    assert answer == {
        "size": {"was": 64 * MB, "is": 32 * MB}, "nr_inodes": {"was": 0, "is": 1024},
        "ram": {"was": 4 * MB, "is": 2 * MB}, "spin": {"was": "auto", "is": 20},
        "swap_size": {"was": 64 * MB, "is": 16 * MB}}
    status = mount.status()
    assert (status["size_bytes"], status["inodes_max"], status["ram_bytes"]) == (32 * MB, 1024, 2 * MB)
    assert status["swap"]["size_bytes"] == 16 * MB - 4096
    assert tuning.dispatcher.spin == 20_000 and not tuning.dispatcher.adaptive
    assert (mount.config.ram_bytes, mount.config.spin, mount.config.nr_inodes) == (2 * MB, 20, 1024)


@pytest.mark.parametrize("words, why", [
    (["ram=512k"], "ram=512k: too small: at least 1m"), (["size=1"], "size=1: too small"),
    (["ram=1m", "ram=2m"], "given twice"), (["ram"], "ram: needs a value"), (["spin=fast"], "spin=fast: must be auto"),
    (["backend=wired"], "backend=wired: cannot be changed while it is mounted"), (["nosuid"], "nosuid: cannot be"),
    (["speed=1"], "speed=1: unknown option; these can: size"), ([], "no values"), ("ram=1m", "no values"),
    ([1], "no values"), (None, "no values"), (["nr_inodes=-1"], "nr_inodes=-1: must be"),
    (["ram=1m", "size=x"], "size=x: not"),
])
def test_what_is_refused_is_named_and_nothing_has_changed(make, words: Any, why: str) -> None:
    tuning = make()
    before = tuning.mount.status()
    with pytest.raises(ControlError, match=why):
        do(tuning.set({"values": words}))
    assert tuning.mount.status() == before and not tuning.busy


def test_all_or_none(make) -> None:
    tuning = make(backend="wired", swap=None)
    mount = tuning.mount
    files = store(mount, 200)
    before = mount.status()
    with pytest.raises(ControlError, match="ram=1m: .*k of pages cannot leave ram"):
        do(tuning.set({"values": ["size=16m", "ram=1m", "nr_inodes=300"]}))
    assert mount.status() == before
    demand_content(mount, files)


def test_interrupted_it_is_as_before(make) -> None:
    tuning = make(ram_bytes=8 * MB)
    files = store(tuning.mount, 600)
    steps = tuning.set({"values": ["ram=1m", "size=2m"]})
    while tuning.mount.vm.phys.nframes == 2048:
        next(steps)
    assert tuning.mount.vm.limit == 512
    steps.close()
    assert tuning.mount.vm.phys.nframes == 2048 and tuning.mount.vm.limit == 16384 and not tuning.busy
    demand_content(tuning.mount, files)


def test_nobody_waits_while_it_is_put_back(make) -> None:
    """A client that goes is told to the command, which undoes in steps: 12 MiB paged out take longer than a request."""
    tuning = make(ram_bytes=4 * MB)
    mount = tuning.mount
    steps = gated(mount.gate, "set", tuning.set)({"values": ["size=128m", "ram=16m"]})
    while mount.vm.phys.nframes < 4096:
        next(steps)
    files = store(mount, 1000)
    steps.throw(Gone())
    count, frames = 0, mount.vm.phys.nframes
    with pytest.raises(Gone):
        while True:
            mount.breathe()
            next(steps)
            count += 1
            assert frames - mount.vm.phys.nframes <= MAX_LOT
            frames = mount.vm.phys.nframes
    assert count > 4 and mount.vm.phys.nframes == 1024 and mount.vm.limit == 16384 and not tuning.busy
    demand_content(mount, files)


@pytest.mark.parametrize("backend", BACKENDS)
def test_ram_down_and_up_on_every_backend(make, backend: str) -> None:
    tuning = make(backend=backend)
    files = store(tuning.mount, 200)
    for words in ("ram=2m", "ram=1m", "ram=3m", "ram=1m"):
        do(tuning.set({"values": [words]}))
        tuning.mount.check()
        demand_content(tuning.mount, files)


def test_size_below_what_is_used_means_full(make) -> None:
    tuning = make()
    mount = tuning.mount
    files = store(mount, 100)
    do(tuning.set({"values": ["size=64k"]}))
    _bsize, blocks, free, *_ = vnops.statfs(mount)
    assert (blocks, free) == (16, 0)
    with pytest.raises(NoMemory, match="size is used up"):
        vnops.write(mount, files[b"file 1"], 1 << 20, bytes(100_000))
    demand_content(mount, files)
    do(tuning.set({"values": ["size=64m"]}))
    vnops.create(mount, ROOT, b"new", 0o600, CRED)


def test_nr_inodes_below_what_is_used_means_full(make) -> None:
    tuning = make()
    store(tuning.mount, 50)
    do(tuning.set({"values": ["nr_inodes=10"]}))
    with pytest.raises((NoMemory, FsError)):
        vnops.create(tuning.mount, ROOT, b"new", 0o600, CRED)
    assert vnops.statfs(tuning.mount)[4:6] == (10, 0)
    do(tuning.set({"values": ["nr_inodes=0"]}))
    vnops.create(tuning.mount, ROOT, b"new", 0o600, CRED)


def test_a_spin_of_ones_own_keeps_no_core_awake(make, tmp_path: Path) -> None:
    dispatcher = Dispatcher()
    (tmp_path / "device").touch()
    dispatcher.awake = open_awake("on", str(tmp_path / "device"))
    dispatcher.awake.hold()
    do(make(dispatcher).set({"values": ["spin=20"]}))
    assert not dispatcher.awake.held
    dispatcher.awake.close()


def test_swap_grows_with_size_unless_it_has_one_of_its_own(make) -> None:
    tuning = make(size_bytes=8 * MB)
    answer = do(tuning.set({"values": ["size=32m"]}))
    assert answer["swap_size"] == {"was": 8 * MB, "is": 32 * MB}
    assert "swap_size" not in do(tuning.set({"values": ["size=16m"]}))          # smaller: nothing is taken away
    assert do(tuning.set({"values": ["size=40m", "swap_size=20m"]}))["swap_size"]["is"] == 20 * MB
    assert "swap_size" not in do(tuning.set({"values": ["size=64m"]}))          # it was given now
    assert "swap_size" not in do(make(size_bytes=8 * MB, swap_size_bytes=4 * MB).set({"values": ["size=32m"]}))
    assert "swap_size" not in do(make(size_bytes=8 * MB, swap=None).set({"values": ["size=32m"]}))
    assert "swap_size" not in do(make(size_bytes=8 * MB, given=frozenset(["swap_size"])).set({"values": ["size=9m"]}))


def test_a_grown_mount_can_be_filled(make) -> None:
    tuning = make(ram_bytes=MB, size_bytes=4 * MB)
    do(tuning.set({"values": ["size=12m"]}))
    ino = vnops.create(tuning.mount, ROOT, b"large", 0o600, CRED)
    for number in range(40):
        tuning.mount.breathe()
        assert vnops.write(tuning.mount, ino, number << 18, os.urandom(1 << 18)) == 1 << 18


def test_swap_size_below_what_is_used_means_full(make) -> None:
    tuning = make(ram_bytes=MB)
    files = store(tuning.mount, 400)
    do(tuning.set({"values": ["swap_size=64k"]}))
    assert tuning.mount.status()["swap"]["size_bytes"] < tuning.mount.status()["swap"]["used_bytes"]
    with pytest.raises(NoMemory):
        for number in range(400):
            tuning.mount.breathe()
            vnops.write(tuning.mount, files[b"file 7"], (number + 9) << 12, bytes(4096))
    demand_content(tuning.mount, files)


def test_without_what_it_is_about(make) -> None:
    with pytest.raises(ControlError, match="spin: this pyfuse3"):
        do(make().set({"values": ["spin=1"]}))
    with pytest.raises(ControlError, match="swap_size: the swap file of the mount is not in use"):
        do(make(swap=None).set({"values": ["swap_size=1m"]}))


def test_one_change_at_a_time(make) -> None:
    tuning = make(ram_bytes=8 * MB)
    steps = tuning.set({"values": ["ram=1m"]})
    next(steps)
    for other in (tuning.set({"values": ["size=1m"]}), tuning.flush({})):
        with pytest.raises(ControlError, match="set is under way"):
            do(other)
    do(steps)
    do(tuning.flush({}))


# --- swap files ---

def test_another_file_and_back(make, tmp_path: Path) -> None:
    tuning = make(ram_bytes=MB)
    files = store(tuning.mount, 300)
    other = tmp_path / "other"
    other.touch(mode=0o600)
    answer = tuning.swapon({"path": str(other), "size_bytes": 32 * MB})
    assert answer["size_bytes"] == 32 * MB - 4096
    moved = do(tuning.swapoff({"path": str(tmp_path)}))
    assert moved["moved_bytes"] > MB
    swap = tuning.mount.status()["swap"]
    assert swap["path"] == str(other) and [file["path"] for file in swap["files"]] == [str(other)]
    assert other.stat().st_size > MB
    demand_content(tuning.mount, files)
    with pytest.raises(ControlError, match="swap_size: the swap file of the mount"):
        do(tuning.set({"values": ["swap_size=1m"]}))
    with pytest.raises(ControlError, match="holds .* other swap files have room for 0k"):
        do(tuning.swapoff({"path": str(other)}))
    tuning.swapon({"path": str(tmp_path), "size_bytes": 32 * MB})
    do(tuning.swapoff({"path": str(other)}))
    assert other.stat().st_size == 0            # as at the unmount: nothing is left in it
    demand_content(tuning.mount, files)


def test_a_mount_without_swap_gets_some_and_loses_it(make, tmp_path: Path) -> None:
    tuning = make(ram_bytes=MB, swap=None)
    with pytest.raises(ControlError, match="no swap"):
        do(tuning.flush({}))
    tuning.swapon({"path": str(tmp_path), "size_bytes": 32 * MB})
    files = store(tuning.mount, 20)
    assert do(tuning.flush({}))["resident_bytes"] == 0
    do(tuning.swapoff({"path": str(tmp_path)}))
    assert tuning.mount.status()["swap"]["files"] == []
    demand_content(tuning.mount, files)


@pytest.mark.parametrize("request_, why", [
    ({"path": "relative", "size_bytes": MB}, "absolute"), ({"size_bytes": MB}, "absolute"),
    ({"path": "/tmp", "size_bytes": 4096}, "two pages"), ({"path": "/tmp"}, "two pages"),
    ({"path": "/missing/file", "size_bytes": MB}, "/missing/file: No such file"),
    ({"path": "/tmp", "size_bytes": 1 << 45}, "no slot numbers left"),
    ({"path": "/tmp", "size_bytes": MB, "priority": 32768}, "from 0 to 32767"),
    ({"path": "/tmp", "size_bytes": MB, "priority": "5"}, "from 0 to 32767"),
])
def test_swapon_refuses(make, request_: dict[str, Any], why: str) -> None:
    tuning = make()
    with pytest.raises(ControlError, match=why):
        tuning.swapon(request_)
    assert len(tuning.mount.status()["swap"]["files"]) == 1 and not tuning.busy


def test_several_places_are_filled_in_turn(make, tmp_path: Path) -> None:
    """swap=a:b; where one cannot be opened, none is left open."""
    for name in "abc":
        (tmp_path / name).mkdir()
    one, *more = (str(tmp_path / name) for name in "abc")
    tuning = make(ram_bytes=MB, swap=one, swap_more=tuple(more), swap_size_bytes=MB)
    files = store(tuning.mount, 200)
    stores = tuning.mount.status()["stores"]
    assert [each["path"] for each in stores] == [one, *more]
    assert [each["priority"] for each in stores] == [-1, -2, -3]
    assert stores[0]["used_bytes"] >= stores[1]["used_bytes"] > 0 and all(each["encrypted"] for each in stores)
    do(tuning.swapoff({"path": one}))
    demand_content(tuning.mount, files)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError):
        make(swap=one, swap_more=(more[0], str(tmp_path / "missing" / "file")))
    assert len(os.listdir("/proc/self/fd")) == before


def test_swapon_encrypts_as_the_mount_does(make, tmp_path: Path) -> None:
    for crypt in (False, True):
        tuning = make(swap_crypt=crypt)
        tuning.swapon({"path": str(tmp_path), "size_bytes": MB, "priority": 7})
        stores = tuning.mount.status()["stores"]
        assert [each["encrypted"] for each in stores] == [crypt, crypt]
        assert [each["priority"] for each in stores] == [7, -1]


def test_a_file_of_others_or_in_use_is_refused(make, tmp_path: Path) -> None:
    tuning, path = make(), tmp_path / "file"
    path.touch(mode=0o644)
    with pytest.raises(ControlError, match="alone, mode 0600"):
        tuning.swapon({"path": str(path), "size_bytes": MB})
    path.chmod(0o600)
    tuning.swapon({"path": str(path), "size_bytes": MB})
    with pytest.raises(ControlError, match="pages to it"):
        tuning.swapon({"path": str(path), "size_bytes": MB})


def test_a_file_that_was_handed_over(make, tmp_path: Path) -> None:
    """Its name is shown; permissions to open it do not matter any more."""
    tuning, path = make(ram_bytes=MB), tmp_path / "file"
    path.touch(mode=0o600)
    handed = [os.open(path, os.O_RDWR)]
    tuning.swapon({"path": "/nowhere", "size_bytes": 32 * MB, "descriptors": handed})
    do(tuning.swapoff({"path": str(tmp_path)}))
    files = store(tuning.mount, 300)
    assert handed == [] and tuning.mount.status()["swap"]["path"] == "/nowhere" and path.stat().st_size > MB
    demand_content(tuning.mount, files)


@pytest.mark.parametrize("flags, name, why", [
    (os.O_RDONLY, "file", "for reading and writing"), (os.O_RDWR, "open", "alone, mode 0600"),
    (os.O_RDWR, "/dev/null", "a file or a block device"), (os.O_RDONLY, "", "a file or a block device"),
])
def test_what_is_handed_over_may_be_refused(make, tmp_path: Path, flags: int, name: str, why: str) -> None:
    tuning = make()
    (tmp_path / "file").touch(mode=0o600)
    (tmp_path / "open").touch(mode=0o644)
    handed = [os.open(tmp_path / name, flags)]
    with pytest.raises(ControlError, match=f"^/x: .*{why}"):
        tuning.swapon({"path": "/x", "size_bytes": MB, "descriptors": handed})
    assert not tuning.busy
    os.close(handed[0])         # it was left to who gave it


def test_swapoff_of_what_is_not_there(make, tmp_path: Path) -> None:
    with pytest.raises(ControlError, match=f"/x: no swap file of this mount; there are: {tmp_path}"):
        do(make().swapoff({"path": "/x"}))
    with pytest.raises(ControlError, match="there are: none"):
        do(make(swap=None).swapoff({}))


# --- flush ---

@pytest.mark.parametrize("backend", BACKENDS)
def test_flush(make, backend: str) -> None:
    tuning = make(backend=backend)
    files = store(tuning.mount, 300)
    answer = do(tuning.flush({}))
    assert answer["stayed_bytes"] == answer["pageable_bytes"] == 0
    assert answer["resident_bytes"] == answer["wired_bytes"]
    assert (answer["wired_bytes"] > 0) == (backend in ("wired", "pageable-flag"))
    tuning.mount.check()
    demand_content(tuning.mount, files)


def test_flush_on_full_swap_says_what_stays(make) -> None:
    tuning = make(swap_size_bytes=MB)
    files = store(tuning.mount, 300)
    answer = do(tuning.flush({}))
    assert answer["stayed_bytes"] > 0 and answer["evicted_bytes"] > 0
    demand_content(tuning.mount, files)


def test_flush_of_a_dead_disk_ends(make) -> None:
    tuning = make()
    store(tuning.mount, 300)

    def refused() -> None:
        raise OSError(errno.EIO, "dead")
    with failpoints.at("Swap.write_cluster", refused):
        answer = do(tuning.flush({}))
    assert answer["evicted_bytes"] == 0 and answer["stayed_bytes"] == answer["resident_bytes"]
    assert tuning.mount.vm.daemon.write_errors < 100


def test_a_file_longer_than_the_daemon_may_write_is_refused(make, tmp_path: Path, monkeypatch) -> None:
    """RLIMIT_FSIZE: page-out would get EFBIG."""
    tuning = make()
    monkeypatch.setattr(inherited, "largest_file", lambda: 2 * MB)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ControlError, match="RLIMIT_FSIZE"):
        tuning.swapon({"path": str(tmp_path), "size_bytes": 4 * MB})
    with pytest.raises(ControlError, match="RLIMIT_FSIZE"):
        do(tuning.set({"values": ["swap_size=3m"]}))
    assert len(os.listdir("/proc/self/fd")) == before
    tuning.swapon({"path": str(tmp_path), "size_bytes": 2 * MB})


def test_that_no_swap_is_left_is_said(make, tmp_path: Path) -> None:
    tuning = make()
    tuning.swapon({"path": "/var/tmp", "size_bytes": 2 * MB})
    assert "warning" not in do(tuning.swapoff({"path": "/var/tmp"}))
    assert "no swap is left" in do(tuning.swapoff({"path": str(tmp_path)}))["warning"]
