"""tests/mount/test_swap_faults.py: stores that fail under the swap file of a real mount.

In all cases the daemon lives, resident pages work, and no wrong byte is ever read.  A lost page gives EIO, is counted,
and is logged once with its owner.  When the store works again, so does the mount.
"""

import errno
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
from mountlib import (
    INJECTED, LIVE, Mounted, ctl, eventually, is_mounted, mount_tmpfsd, needs_root, new_mountpoint, reap, spawn, touch,
    unmount
)

pytestmark = [needs_root, pytest.mark.timeout(120)]
MB = 1 << 20
SIZE = 100_000              # of each file
OPTIONS = "ram=1m,size=64m"


class Store:
    """The faulty store: a directory with one file, and the way to its faults."""

    def __init__(self, mounted: Mounted, place: str) -> None:
        self.mounted, self.place = mounted, place
        self.swap = mounted.mnt / "swap"

    def set(self, **faults: Any) -> dict[str, int]:
        """Set the faults; the counts up to now."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(20)
            sock.connect(self.place)
            sock.sendall(json.dumps(faults).encode())
            counts: dict[str, int] = json.loads(sock.recv(65536))
        return counts


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store without faults."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("no /dev/fuse that can be opened")
    mnt, place = new_mountpoint(), str(tmp_path / "socket")
    log = tmp_path / "faultyfs.log"
    with open(log, "wb") as file:
        process = subprocess.Popen([sys.executable, Path(__file__).with_name("faultyfs.py"), mnt, place], stdout=file,
                                   stderr=file)
    mounted = Mounted("faultyfs", mnt, "", process)
    LIVE.add(mounted)
    try:
        assert eventually(lambda: is_mounted(mnt) and os.path.exists(place)), log.read_text()
        yield Store(mounted, place)
    finally:
        LIVE.discard(mounted)
        unmount(mnt)
        process.kill()
        process.wait(timeout=10)
        os.rmdir(mnt)


@pytest.fixture
def tmpfsd_on(store: Store, request: pytest.FixtureRequest) -> Iterator[Callable[..., Mounted]]:
    """A mount that pages to the store; it must end well, even if pages were lost."""
    made: list[Mounted] = []

    def make(options: str = OPTIONS, **environment: str) -> Mounted:
        made.append(mount_tmpfsd(f"{options},swap={store.swap}", **environment))
        return made[-1]

    yield make
    INJECTED[request.node.name] += store.set()["injected"]
    for mounted in made:
        mounted.close()


def content(number: int) -> bytes:
    """The content of file `number`."""
    return random.Random(number).randbytes(SIZE)


def fill(mounted: Mounted, first: int, count: int) -> list[int]:
    """Files with data and names, the numbers of those that were made; the rest were refused."""
    made = []
    for number in range(first, first + count):
        try:
            touch(mounted.mnt / f"file-{number}", content(number))
            made.append(number)
        except OSError as failure:
            assert failure.errno in (errno.ENOSPC, errno.EIO), failure
    return made


def read(mounted: Mounted, number: int) -> bytes | None:
    """A file from the daemon, not from the kernel's cache; None for EIO."""
    try:
        fd = os.open(mounted.mnt / f"file-{number}", os.O_RDONLY)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            return b"".join(iter(lambda: os.read(fd, MB), b""))
        finally:
            os.close(fd)
    except OSError as failure:
        assert failure.errno == errno.EIO, failure
        return None


def lost(mounted: Mounted, numbers: list[int]) -> list[int]:
    """Those that give EIO; the others are right to the last byte."""
    gone = []
    for number in numbers:
        data = read(mounted, number)
        if data is None:
            gone.append(number)
        else:
            assert data == content(number), f"file {number} is wrong"
    return gone


def lives(mounted: Mounted) -> dict[str, Any]:
    """The daemon runs and answers."""
    assert mounted.alive(), mounted.log_text()
    status = mounted.status()
    assert 0 < status["resident_bytes"] <= status["ram_bytes"]
    return status


def demand_short_log(mounted: Mounted, lines: int) -> None:
    """The log has few lines, no lost page twice, and no traceback."""
    text = mounted.log_text()
    told = [line.partition("lost: ")[2] for line in text.splitlines() if "lost: a page" in line]
    assert len(told) == len(set(told)), text
    assert len(text.splitlines()) <= lines and "Traceback" not in text, text


def well_again(mounted: Mounted, store: Store, numbers: list[int]) -> None:
    """Without faults all is there, and new things can be made."""
    store.set()
    assert eventually(lambda: not lost(mounted, numbers))
    # A disk that was full is looked at again after half a second, a device that failed after less.
    assert eventually(lambda: len(fill(mounted, 5000, 20)) == 20)
    assert not lost(mounted, list(range(5000, 5020)))
    mounted.check()


class TestStore:
    """The FUSE server of the tests as the store."""

    def test_without_faults(self, store, tmpfsd_on):
        mounted = tmpfsd_on()
        numbers = fill(mounted, 0, 60)
        assert len(numbers) == 60 and not lost(mounted, numbers)
        assert lives(mounted)["paging"]["pageins"] > 0
        assert store.set()["writes"] > 10
        mounted.check()

    @pytest.mark.parametrize("fault", [
        {"write": errno.EIO}, {"write": errno.ENOSPC}, {"write": errno.EROFS}, {"room": 3 * MB}, {"room": 0}], ids=str)
    def test_writes_fail(self, store, tmpfsd_on, fault):
        """New files that do not fit are refused; all that is there stays."""
        mounted = tmpfsd_on()
        numbers = fill(mounted, 0, 25)
        store.set(**fault)
        numbers += fill(mounted, 100, 60)
        assert len(numbers) < 85
        assert lives(mounted)["paging"]["write_errors"] > 0
        for number in numbers[:10]:
            os.unlink(mounted.mnt / f"file-{number}")
        demand_short_log(mounted, 40)
        well_again(mounted, store, numbers[10:])

    @pytest.mark.parametrize("kind", ["write", "read"])
    def test_short_transfers_end_in_an_error_of_the_page(self, store, tmpfsd_on, kind):
        """Half a page, again and again: nothing ever moves on."""
        mounted = tmpfsd_on()
        numbers = fill(mounted, 0, 60)
        store.set(**{kind: "short"})
        if kind == "write":
            numbers += fill(mounted, 100, 30)
        else:
            assert lost(mounted, numbers)
        assert lives(mounted)["paging"][f"{kind}_errors"] > 0
        well_again(mounted, store, numbers)

    @pytest.mark.parametrize("fault", [errno.EIO, "flip", errno.ETIMEDOUT], ids=str)
    def test_reads_fail(self, store, tmpfsd_on, fault):
        """EIO for pages that are out, no wrong byte, one line for each page however often it is asked for."""
        mounted = tmpfsd_on()
        numbers = fill(mounted, 0, 60)
        kept = max(numbers)
        store.set(read=fault)
        touch(mounted.mnt / "resident", b"works")
        for _ in range(3):
            gone = lost(mounted, numbers)
        assert len(gone) > 20 and (mounted.mnt / "resident").read_bytes() == b"works"
        status = lives(mounted)
        assert status["paging"]["read_errors"] > status["paging"]["lost_pages"] > 0
        text = mounted.log_text()
        assert "lost: a page of file data" in text
        assert text.count("lost: a page") <= status["paging"]["read_errors"] // 2
        demand_short_log(mounted, 20 + status["paging"]["lost_pages"])
        assert "cannot be read back" in ctl("status", str(mounted.mnt)).stdout
        assert kept in numbers
        well_again(mounted, store, numbers)
        assert mounted.status()["paging"]["lost_pages"] == 0

    def test_lost_for_good(self, store, tmpfsd_on):
        """A page that somebody else overwrote in the store is lost until it is removed; its slot is retired then."""
        mounted = tmpfsd_on()
        numbers = fill(mounted, 0, 60)
        with open(store.swap, "r+b", buffering=0) as file:
            file.write(os.urandom(2 * MB))
        gone = lost(mounted, numbers)
        assert gone and set(gone) != set(numbers)
        assert re.search(r"lost: a page of (file data|pool \S+): slot \d+, page \d+: wrong", mounted.log_text())
        for number in gone:
            try:
                os.unlink(mounted.mnt / f"file-{number}")
            except OSError as failure:
                assert failure.errno == errno.EIO
        assert eventually(lambda: mounted.status()["swap"]["bad_slots"] > 0), mounted.status()
        assert not lost(mounted, [number for number in numbers if number not in gone])
        more = fill(mounted, 100, 10)
        assert len(more) == 10 and not lost(mounted, more)

    @pytest.mark.parametrize("fault", [errno.EIO, "flip"], ids=str)
    def test_a_check_tells_what_is_lost(self, store, tmpfsd_on, fault):
        """Pages that cannot be read are reported, and the mount goes on; they are back when the store is."""
        mounted = tmpfsd_on()
        numbers = fill(mounted, 0, 60)
        store.set(read=fault)
        done = ctl("check", str(mounted.mnt), check=False)
        assert "pages cannot be read back" in done.stdout + done.stderr, done
        status = lives(mounted)
        assert status["paging"]["lost_pages"] > 0 and not status["broken"]
        assert "lost: a page of" in mounted.log_text()
        demand_short_log(mounted, 24 + status["paging"]["lost_pages"])
        store.set()
        assert ctl("check", str(mounted.mnt)).stdout.endswith(": consistent\n")     # before anybody needs the pages
        assert not mounted.status()["paging"]["lost_pages"]
        well_again(mounted, store, numbers)

    def test_delays(self, store, tmpfsd_on):
        """A slow store makes all slow and nothing else."""
        mounted = tmpfsd_on()
        numbers = fill(mounted, 0, 30)
        store.set(delay=0.03)
        assert not lost(mounted, numbers[:6])
        numbers += fill(mounted, 100, 3)
        status = lives(mounted)
        assert status["paging"]["read_errors"] == status["paging"]["write_errors"] == 0
        well_again(mounted, store, numbers)

    def test_all_of_it_in_turn(self, store, tmpfsd_on):
        """Faults come and go while files are made, read and removed."""
        mounted, rng, numbers = tmpfsd_on(TMPFSD_CHECK="1"), random.Random(7), []
        faults: list[dict[str, Any]] = [
            {}, {"write": errno.EIO}, {"read": errno.EIO}, {"read": "flip"}, {"room": MB}, {"write": "short"},
            {"read": "short", "write": errno.ENOSPC}]
        for turn in range(24):
            store.set(**rng.choice(faults))
            numbers += fill(mounted, turn * 20, 8)
            lost(mounted, rng.sample(numbers, min(len(numbers), 8)))
            if len(numbers) > 60:
                for number in numbers[:10]:
                    try:
                        os.unlink(mounted.mnt / f"file-{number}")
                        numbers.remove(number)
                    except OSError as failure:
                        assert failure.errno == errno.EIO
        lives(mounted)
        well_again(mounted, store, numbers)

    def test_the_store_dies(self, store, tmpfsd_on):
        """Its server is killed: resident pages work, the mount can be unmounted."""
        mounted = tmpfsd_on()
        numbers = fill(mounted, 0, 60)
        store.set = lambda **_faults: {"injected": 1}       # nobody is there any more to answer
        store.mounted.daemon.kill()
        assert lost(mounted, numbers)
        touch(mounted.mnt / "resident", b"works")
        assert (mounted.mnt / "resident").read_bytes() == b"works"
        status = lives(mounted)
        assert status["paging"]["read_errors"] > 0
        # What fails again and again is told at the first, second, fourth time and so on: writes, and holes.
        demand_short_log(mounted, 32 + status["paging"]["lost_pages"])
        unmount(mounted.mnt)
        assert mounted.daemon.wait(timeout=15) == 0, mounted.log_text()

    def test_a_store_that_hangs_for_a_while(self, store, tmpfsd_on):
        """Those that need it wait; then all goes on, and nothing was lost."""
        mounted = tmpfsd_on()
        numbers = fill(mounted, 0, 40)
        os.kill(store.mounted.pid, signal.SIGSTOP)
        reader = spawn(lambda: lost(mounted, numbers) == [] or os._exit(2))
        time.sleep(1)
        assert os.waitpid(reader, os.WNOHANG) == (0, 0)
        os.kill(store.mounted.pid, signal.SIGCONT)
        reap(reader)
        assert lives(mounted)["paging"]["read_errors"] == 0
        well_again(mounted, store, numbers)


@pytest.fixture
def loop_device(tmp_path: Path) -> Iterator[str]:
    """A block device of 8 MB."""
    image = tmp_path / "image"
    touch(image)
    os.truncate(image, 8 * MB)
    made = subprocess.run(["losetup", "--find", "--show", image], capture_output=True, text=True, timeout=20)
    if made.returncode:
        pytest.skip(f"no loop devices here: {made.stderr.strip()}")
    device = made.stdout.strip()
    yield device
    # A daemon closes it a moment after its unmount.
    assert eventually(lambda: subprocess.run(["losetup", "-d", device], capture_output=True).returncode == 0)


class TestBlockDevice:
    """swap=DEVICE."""

    @pytest.mark.parametrize("swap_io", ["buffered", "direct"])
    def test_filled(self, loop_device, tmpfsd, swap_io):
        mounted = tmpfsd(f"{OPTIONS},swap={loop_device},swap_io={swap_io}")
        numbers = fill(mounted, 0, 200)
        status = mounted.status()
        assert status["swap"]["size_bytes"] == 8 * MB - 4096 and 60 < len(numbers) < 110
        assert not lost(mounted, numbers)
        for number in numbers[:30]:
            os.unlink(mounted.mnt / f"file-{number}")
        more = fill(mounted, 1000, 10)
        assert len(more) == 10 and not lost(mounted, numbers[30:] + more)

    def test_bytes_that_change_on_it(self, loop_device, tmp_path):
        """Through the file under the loop device, as a disk that goes bad would."""
        mounted = mount_tmpfsd(f"{OPTIONS},swap={loop_device},swap_io=direct")
        try:
            numbers = fill(mounted, 0, 60)
            with open(loop_device, "r+b", buffering=0) as device:
                device.seek(MB)
                device.write(os.urandom(MB))
                os.fsync(device.fileno())
            gone = lost(mounted, numbers)
            assert gone and set(gone) != set(numbers)
            assert lives(mounted)["paging"]["lost_pages"] > 0
            demand_short_log(mounted, 20 + mounted.status()["paging"]["lost_pages"])
        finally:
            mounted.close()

    def test_in_use_by_another_mount(self, loop_device, tmpfsd, tmp_path):
        tmpfsd(f"{OPTIONS},swap={loop_device}")
        command = [sys.executable, "-m", "tmpfsd.cli.mount", str(tmp_path), "-o", f"{OPTIONS},swap={loop_device}"]
        refused = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert refused.returncode == 1 and loop_device in refused.stderr and len(refused.stderr.splitlines()) == 1


@pytest.fixture
def device_mapper(loop_device: str) -> Iterator[Callable[[str], str]]:
    """device_mapper("0 16384 linear DEV 0"): a mapped device with that table; DEV is a loop device."""
    have = subprocess.run(["dmsetup", "targets"], capture_output=True, text=True, timeout=20)
    if have.returncode or "flakey" not in have.stdout:
        pytest.skip(f"no device mapper with linear, error and flakey: {(have.stderr or have.stdout).strip()[:80]}")
    name = f"tmpfsd-test-{os.getpid()}"

    def load(table: str) -> str:
        command = ["reload" if os.path.exists(f"/dev/mapper/{name}") else "create", name, "--table",
                   table.replace("DEV", loop_device)]
        subprocess.run(["dmsetup", *command], check=True, timeout=20)
        if command[0] == "reload":
            subprocess.run(["dmsetup", "resume", name], check=True, timeout=20)
        return f"/dev/mapper/{name}"

    yield load
    eventually(lambda: subprocess.run(["dmsetup", "remove", name], capture_output=True, timeout=20).returncode == 0)


class TestDeviceMapper:
    """A device that goes bad under a mount; needs a kernel with these targets."""

    @pytest.mark.parametrize("table", [
        "0 4096 linear DEV 0\n4096 64 error\n4160 12224 linear DEV 4160", "0 16384 error",
        "0 16384 flakey DEV 0 0 60 1 drop_writes", "0 16384 flakey DEV 0 0 60"], ids=str)
    def test_goes_bad(self, device_mapper, table):
        device = device_mapper("0 16384 linear DEV 0")
        mounted = mount_tmpfsd(f"{OPTIONS},swap={device},swap_io=direct")
        try:
            numbers = fill(mounted, 0, 50)
            device_mapper(table)
            numbers += fill(mounted, 100, 30)
            lost(mounted, numbers)
            status = lives(mounted)
            assert status["paging"]["read_errors"] + status["paging"]["write_errors"] > 0
            device_mapper("0 16384 linear DEV 0")
            more = fill(mounted, 1000, 5)
            assert not lost(mounted, more)
        finally:
            mounted.close()
