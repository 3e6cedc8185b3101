"""ram=auto: it shrinks under pressure at once, and grows slowly while memory is idle; and how the system is read."""

from pathlib import Path

import pytest
import trio
import trio.testing

from tests.fs.fslib import ROOT, Driver
from tmpfsd import machine, options
from tmpfsd.optionwords import Auto
from tmpfsd.server.governor import CALM, COOL, HIGH, MOST_COOL, SECONDS, Governor, Strain, follow, look, stalled_in
from tmpfsd.server.refused import ControlError
from tmpfsd.server.tuning import Tuning
from tmpfsd.server.turns import Turns
from tmpfsd.tmpfs.filesystem import Mount

MB = 1 << 20
GB = 1 << 30


class World:
    """A machine of 8 GiB whose clock and pressure a test sets."""

    def __init__(self, low: int = 16 * MB, high: int = GB) -> None:
        self.time, self.stalled, self.free, self.share = 1000.0, 0.0, 4 * GB, 0.0
        self.ram = 64 * MB
        self.governor = Governor(Auto(low, high), self.seen, lambda: self.time)

    def seen(self) -> Strain:
        return Strain(int(self.stalled), int(self.free), 8 * GB)

    def second(self, share: float | None = None, pages_in: bool = True, least: int = MB) -> int:
        """A second in which so large a share was stood still; how much ram there is then."""
        self.time += 1
        self.stalled += (self.share if share is None else share) * 1e6
        self.ram = self.governor.wanted(self.ram, least, pages_in)
        return self.ram

    def seconds(self, count: int, **how: float) -> int:
        for _ in range(count):
            self.second(**how)
        return self.ram


def test_it_grows_while_memory_is_idle_and_pages_come_in() -> None:
    world = World()
    assert world.seconds(int(CALM) - 1) == 64 * MB
    assert world.second() == 72 * MB                        # an eighth
    assert world.second() == 72 * MB                        # not each second
    assert world.seconds(600) == GB and world.seconds(100) == GB


def test_it_does_not_grow_where_that_is_of_no_use_or_others_have_little() -> None:
    world = World()
    for _ in range(100):
        assert world.second(pages_in=False) == 64 * MB
    world.free = 0.1 * 8 * GB
    assert world.seconds(100) == 64 * MB
    world.free = 4 * GB
    assert world.seconds(100, share=HIGH / 2) == 64 * MB    # neither calm nor pressure


def test_pressure_makes_it_shrink_at_once_but_not_below_its_bound() -> None:
    world = World(low=20 * MB)
    assert world.second(0.5) == 56 * MB
    assert world.second(0.5) == 49 * MB
    assert world.seconds(20, share=0.5) == 20 * MB
    assert world.governor.pressure == pytest.approx(0.5)
    assert world.second(0.5, least=40 * MB) == 40 * MB      # compressed pages want so much


def test_it_gives_back_before_there_is_pressure() -> None:
    world = World()
    world.free = 0.04 * 8 * GB
    assert world.second(0.0) == 56 * MB


def test_after_shrinking_it_waits_and_longer_each_time_that_growing_was_too_much() -> None:
    world = World()
    waits = []
    for _ in range(8):
        world.second(0.5)
        ram, waited = world.ram, 0
        while world.second() == ram:
            waited += 1
        waits.append(waited)
    assert waits[0] >= COOL - 1 and all(b > 1.5 * a for a, b in zip(waits, waits[1:]) if b < MOST_COOL / 2)
    assert max(waits) <= MOST_COOL
    world.seconds(3000)
    world.second(0.5)
    ram = world.ram
    assert world.seconds(int(MOST_COOL / 2)) > ram          # a long calm is remembered too


def test_it_stays_within_its_bounds_whatever_it_is_given() -> None:
    world = World(low=16 * MB, high=32 * MB)
    assert world.second() == 32 * MB
    world.ram = MB
    assert world.second() == 16 * MB


@pytest.mark.parametrize("text, stalled", (
    (b"some avg10=0.00 avg60=0.00 avg300=0.00 total=78947\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=4\n", 78947),
    (b"", 0), (b"some total=x\n", 0), (b"full avg10=0 total=5\n", 0), (b"\xff\x00some total=5", 0)))
def test_psi(text: bytes, stalled: int) -> None:
    assert stalled_in(text) == stalled


def test_what_is_there() -> None:
    seen = look()
    assert 0 < seen.free_bytes <= seen.all_bytes and seen.stalled_us >= 0


def test_a_group_of_version_2_that_has_less_counts(tmp_path: Path) -> None:
    group = tmp_path / "fs/user"
    group.mkdir(parents=True)
    for name, text in (("memory.max", "1073741824"), ("memory.current", "1000000000"),
                       ("memory.stat", "anon 5\ninactive_file 100000000\nactive_file 7\n"), ("memory.pressure", "")):
        (group / name).write_text(text + "\n")
    (tmp_path / "cgroup").write_text("0::/user\n")
    (tmp_path / "mounts").write_text(f"30 20 0:26 / {tmp_path}/fs rw - cgroup2 cgroup2 rw\n")
    (tmp_path / "meminfo").write_text("MemTotal:       8388608 kB\nMemFree: 1 kB\nMemAvailable:    4194304 kB\n")
    where = str(tmp_path / "cgroup"), str(tmp_path / "mounts")
    assert machine.pressure_files(*where) == [b"/proc/pressure/memory", bytes(group / "memory.pressure")]
    assert machine.available_memory(*where, str(tmp_path / "meminfo")) == (173741824, 1 << 30)
    (group / "memory.max").write_text("max\n")
    assert machine.available_memory(*where, str(tmp_path / "meminfo")) == (4 * GB, 8 * GB)


@pytest.mark.parametrize("text, bounds", (
    ("auto", (32 * MB, 4 * GB)), ("auto:16m-1g", (16 * MB, GB)), ("auto:16m-16m", (16 * MB, 16 * MB)),
    ("auto:1%-50%", (85897216, 4 * GB))))
def test_the_option(text: str, bounds: tuple[int, int]) -> None:
    config = options.parse(f"ram={text},swap=/tmp", physical=8 * GB)
    assert config.ram_auto == bounds and bounds[0] <= config.ram_bytes <= bounds[1]
    assert options.parse("ram=64m,swap=/tmp", physical=8 * GB).ram_auto is None


@pytest.mark.parametrize("text, why", (
    ("auto:", "auto:MIN-MAX"), ("auto:1g", "auto:MIN-MAX"), ("auto:2g-1g", "auto:MIN-MAX"), ("auto:1k-1g", "too small"),
    ("auto:auto-1g", "not"), ("auto:1m-9g", "more than the physical memory"), ("automatic", "not"),
    ("auto:1m--1g", "negative")))
def test_what_is_no_option(text: str, why: str) -> None:
    with pytest.raises(options.OptionError, match=why):
        options.parse(f"ram={text},swap=/tmp", physical=8 * GB)


def test_set_and_carried_out() -> None:
    """Live: on and off, ram follows what is wanted, and a refused set leaves it on."""
    mount = Mount(options.Config(ram_bytes=8 * MB, size_bytes=64 * MB, swap="/tmp", uid=0, gid=0))
    tuning = Tuning(mount, None)
    try:
        def done(steps):                                    # what `tmpfsctl set` gets
            try:
                while True:
                    next(steps)
            except StopIteration as end:
                return end.value

        assert done(tuning.set({"values": ["ram=auto:2m-16m"]})) == {"ram": {"was": 8 * MB, "is": 8 * MB}}
        assert tuning.governor is not None and mount.config.ram_auto == (2 * MB, 16 * MB)
        for wanted in (16 * MB, 2 * MB, 9 * MB):
            list(tuning.have_ram(wanted))
            assert tuning.ram_bytes == wanted == mount.status()["ram_bytes"]
            assert tuning.governor.bounds == (2 * MB, 16 * MB)
            mount.check()
        with pytest.raises(Exception, match="zram"):
            done(tuning.set({"values": ["ram=4m", "zram=15m"]}))
        assert tuning.governor is not None and tuning.ram_bytes == 9 * MB
        done(tuning.set({"values": ["ram=4m"]}))
        assert tuning.governor is None and mount.config.ram_auto is None and tuning.ram_bytes == 4 * MB
    finally:
        mount.close()


def test_what_is_refused_half_way_is_put_back() -> None:
    mount = Mount(options.Config(ram_bytes=8 * MB, size_bytes=64 * MB, backend="wired", swap=None, uid=0, gid=0))
    tuning, fs = Tuning(mount, None), Driver(mount)
    try:
        for i in range(200):
            fs.write(fs.create(ROOT, b"%d" % i), 0, bytes(5000))
        frames = mount.vm.phys.nframes
        seen = set()
        with pytest.raises(ControlError, match="cannot leave ram"):
            for _ in tuning.have_ram(1 * MB):
                seen.add(mount.vm.phys.nframes)
        assert min(seen) < frames and mount.vm.phys.nframes == frames and tuning.ram_bytes == 8 * MB
        steps = tuning.have_ram(1 * MB)
        while mount.vm.phys.nframes == frames:
            next(steps)
        steps.close()
        assert mount.vm.phys.nframes == frames and not tuning.busy
        mount.check()
    finally:
        mount.close()


@pytest.mark.parametrize("error", (AssertionError("x"), OSError(12, "Cannot allocate memory"), MemoryError()))
def test_what_goes_wrong_does_not_end_the_mount(error: Exception, caplog: pytest.LogCaptureFixture,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    mount = Mount(options.Config(ram_bytes=8 * MB, size_bytes=64 * MB, swap="/tmp", uid=0, gid=0))
    tuning, asked = Tuning(mount, None), []

    def fails(nbytes: int):
        asked.append(nbytes)
        raise error
        yield

    async def main() -> None:
        with trio.move_on_after(2 * SECONDS + COOL / 2):
            await follow(tuning, Turns())

    try:
        tuning.governor = Governor(Auto(16 * MB, 32 * MB), lambda: Strain(0, GB, 2 * GB))
        monkeypatch.setattr(tuning, "have_ram", fails)
        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
        assert asked == [16 * MB] and mount.gate.broken == isinstance(error, AssertionError)
        assert "ram=auto" in caplog.text
    finally:
        mount.close()
