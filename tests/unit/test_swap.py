"""Slots, clusters, checksums, holes."""

import ctypes
import errno
import mmap
import os
import stat
from pathlib import Path

import pytest

from tests import failpoints
from tmpfsd.uvm import store as store_module
from tmpfsd.uvm import swap as swap_module
from tmpfsd.uvm.errors import Inconsistent, NoSwap, SwapIOError
from tmpfsd.uvm.store import FileStore, open_store
from tmpfsd.uvm.swap import Swap

PAGE = 4096


@pytest.fixture
def pages():
    """Eight pages, each full of its number, and eight more to read into."""
    arena = mmap.mmap(-1, 16 * PAGE)
    view = memoryview(arena)
    frames = [view[i * PAGE:(i + 1) * PAGE] for i in range(16)]
    for i in range(8):
        frames[i][:] = bytes([i + 1]) * PAGE
    return frames


def blocks(swap: Swap) -> int:
    return os.fstat(swap.store.fd).st_blocks


# --- files ---

def test_a_directory_gets_an_unlinked_file(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    fd, size = store.fd, store.most
    state = os.fstat(fd)
    assert (stat.S_IMODE(state.st_mode), state.st_nlink, size) == (0o600, 0, 0)
    assert not list(tmp_path.iterdir())
    os.close(fd)


def test_a_file_is_emptied_and_made_where_it_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "swap"
    for _ in range(2):
        store = open_store(str(path))
        fd, size = store.fd, store.most
        assert (os.fstat(fd).st_size, size) == (0, 0)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        os.write(fd, b"old")
        os.close(fd)


@pytest.mark.parametrize("mode", (0o640, 0o604, 0o622, 0o601))
def test_a_file_that_others_may_open_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "swap"
    path.write_bytes(b"kept")
    path.chmod(mode)
    with pytest.raises(PermissionError, match="alone, mode 0600"):
        open_store(str(path))
    assert path.read_bytes() == b"kept"


def test_a_file_with_two_names_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "swap"
    path.touch(mode=0o600)
    os.link(path, tmp_path / "other")
    with pytest.raises(PermissionError):
        open_store(str(path))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "swap"
    path.touch(mode=0o600)
    os.chown(path, 65534, 65534)
    with pytest.raises(PermissionError):
        open_store(str(path))


def test_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "swap").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError) as caught:
        open_store(str(tmp_path / "swap"))
    assert caught.value.errno == errno.ELOOP and not (tmp_path / "elsewhere").exists()


def test_a_symbolic_link_that_was_put_in_the_way_is_not_followed(tmp_path: Path) -> None:
    """Also not one in the middle, put there after the path was looked at."""
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "file").write_bytes(b"kept")
    (tmp_path / "real" / "file").chmod(0o600)
    (tmp_path / "way").symlink_to("real")
    for path in ("way/file", "way", "way/new"):
        with pytest.raises(OSError) as caught:
            open_store(str(tmp_path / path))
        assert caught.value.errno == errno.ELOOP
    assert (tmp_path / "real" / "file").read_bytes() == b"kept" and not (tmp_path / "real" / "new").exists()


@pytest.mark.parametrize("error", (errno.ENOSYS, errno.EPERM))
def test_without_openat2(tmp_path: Path, monkeypatch, error: int) -> None:
    """A kernel before 5.6, a container's filter."""
    def refuse(*_args: object) -> int:
        ctypes.set_errno(error)
        return -1
    monkeypatch.setattr(store_module, "_syscall", refuse)
    open_store(str(tmp_path)).close()
    open_store(str(tmp_path / "new")).close()
    (tmp_path / "link").symlink_to("new")
    with pytest.raises(OSError) as caught:
        open_store(str(tmp_path / "link"))
    assert caught.value.errno == errno.ELOOP


def test_only_files_and_devices(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    for path in (str(tmp_path / "fifo"), "/dev/null"):
        with pytest.raises(OSError, match="must be a directory, a file or a block device"):
            open_store(path)


def test_a_file_is_made_for_its_owner_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o777)
    try:
        open_store(str(tmp_path / "new")).close()
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o600


def test_a_named_file_is_emptied_at_the_end(tmp_path: Path, pages) -> None:
    path = tmp_path / "swap"
    swap = Swap(open_store(str(path)), 8)
    slot, _count = swap.alloc(4)
    swap.write_cluster(slot, pages[:4], range(4))
    assert path.stat().st_size
    swap.close()
    assert path.stat().st_size == 0


def test_a_file_whose_server_is_gone_can_be_closed(tmp_path: Path, monkeypatch) -> None:
    """fstat() of a file on a dead FUSE mount fails."""
    swap = Swap(open_store(str(tmp_path)), 8)

    def dead(_fd: int) -> None:
        raise OSError(errno.ENOTCONN, "not connected")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", dead)
        swap.close()
    with pytest.raises(OSError):
        os.fstat(swap.store.fd)


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        open_store(str(tmp_path / "missing" / "swap"))


def test_swap_in_a_named_file(tmp_path: Path, pages) -> None:
    swap = Swap(open_store(str(tmp_path / "swap")), 8)
    slot, count = swap.alloc(4)
    swap.write_cluster(slot, pages[:4], range(4))
    assert swap.read_cluster(slot, pages[8:12], range(4)) == 4
    assert pages[11] == pages[3]
    swap.close()


def test_direct(tmp_path: Path, pages) -> None:
    try:
        store = open_store(str(tmp_path), direct=True)
    except OSError as error:
        pytest.skip(f"no O_DIRECT in {tmp_path}: {error.strerror}")
    swap = Swap(store, 8)
    slot, _count = swap.alloc(4)
    swap.write_cluster(slot, pages[:4], range(4))
    assert swap.read_cluster(slot, pages[8:12], range(4)) == 4
    assert pages[11] == pages[3]
    assert swap.verify(slot + 1, 1) and not swap.verify(slot + 1, 2)
    swap.close()


# --- slots ---

def test_slot_0_is_never_handed_out(make_swap) -> None:
    swap = make_swap(4)
    assert swap.alloc(9) == (1, 4)
    with pytest.raises(NoSwap):
        swap.alloc(1)
    assert (swap.nheld, swap.nfree) == (4, 0)
    swap.check(set(range(1, 5)))


def test_no_slots_at_all(make_swap) -> None:
    with pytest.raises(NoSwap):
        make_swap(0).alloc(1)


def test_what_is_freed_comes_again(make_swap) -> None:
    swap = make_swap(8)
    swap.alloc(8)
    swap.free(3, 2)
    assert swap.alloc(4) == (3, 2)


def test_a_retired_slot_never_comes_again(make_swap) -> None:
    swap = make_swap(3)
    swap.alloc(3)
    swap.retire(2)
    swap.free(1)
    swap.free(3)
    assert {swap.alloc(1)[0], swap.alloc(1)[0]} == {1, 3}
    with pytest.raises(NoSwap):
        swap.alloc(1)
    swap.check({1, 3})


# --- transfers ---

def test_short_transfers_go_on(make_swap, pages) -> None:
    swap = make_swap()
    swap.short = True
    slot, _count = swap.alloc(8)
    swap.write_cluster(slot, pages[:8], range(8))
    assert swap.read_cluster(slot, pages[8:], range(8)) == 8
    assert pages[8:] == pages[:8]


@pytest.mark.parametrize("call", ("pwritev", "preadv"))
def test_a_transfer_that_moves_nothing_has_failed(make_swap, pages, monkeypatch, call: str) -> None:
    swap = make_swap()
    slot, _count = swap.alloc(2)
    swap.write_cluster(slot, pages[:2], range(2))
    monkeypatch.setattr(os, call, lambda _fd, _pages, _offset: 0)
    # The subclass of conftest.py must take the fake for what it stands for.
    plain = Swap(FileStore(os.dup(swap.store.fd)), 8)
    plain.seal = swap.seal
    with pytest.raises((OSError, SwapIOError)):
        plain.write_cluster(slot, pages[:2], range(2))
        plain.read_cluster(slot, pages[8:10], range(2))
    plain.close()


def test_another_pages_bytes_are_found_out(make_swap, pages) -> None:
    swap = make_swap()
    slot, _count = swap.alloc(1)
    swap.write_cluster(slot, pages[:1], [7])
    assert swap.read_cluster(slot, pages[8:9], [7]) == 1
    with pytest.raises(SwapIOError, match="checksum"):
        swap.read_cluster(slot, pages[8:9], [8])


def test_a_flipped_bit_in_the_middle_gives_the_pages_before_it(make_swap, pages) -> None:
    swap = make_swap()
    slot, _count = swap.alloc(8)
    swap.write_cluster(slot, pages[:8], range(8))
    swap.flip(slot + 5)
    assert swap.read_cluster(slot, pages[8:], range(8)) == 5
    with pytest.raises(SwapIOError):
        swap.read_cluster(slot + 5, pages[8:], range(5, 13))
    assert [swap.verify(slot + i, i) for i in range(8)] == [True] * 5 + [False] + [True] * 2


def test_an_unreadable_slot_behind_the_first_costs_only_the_read_ahead(make_swap, pages) -> None:
    swap = make_swap()
    slot, _count = swap.alloc(8)
    swap.write_cluster(slot, pages[:8], range(8))
    swap.bad_read = {slot + 3}
    assert swap.read_cluster(slot, pages[8:], range(8)) == 1
    with pytest.raises(SwapIOError):
        swap.read_cluster(slot + 3, pages[8:], range(3, 11))


def test_what_was_never_written_cannot_be_read(make_swap, pages) -> None:
    swap = make_swap()
    slot, _count = swap.alloc(1)
    with pytest.raises(SwapIOError):
        swap.read_cluster(slot, pages[8:9], [1])


# --- holes ---

def written(make_swap, pages, nslots: int):
    swap = make_swap(nslots)
    for _ in range(1, nslots + 1, 8):
        slot, _count = swap.alloc(8)
        swap.write_cluster(slot, pages[:8], range(8))
    return swap


def trim_all(swap: Swap) -> int:
    slices = 1
    while swap.trim():
        slices += 1
    return slices


def test_trim_gives_disk_space_back(make_swap, pages) -> None:
    swap = written(make_swap, pages, 256)
    full = blocks(swap)
    if not full:
        pytest.skip("this file system does not count blocks at once")
    assert not swap.trim()
    swap.free(1, 128)
    trim_all(swap)
    assert blocks(swap) <= full // 2 + 16
    swap.free(129, 128)
    trim_all(swap)
    assert blocks(swap) <= 16
    assert not swap.trim()


def test_trim_works_in_slices(make_swap, pages) -> None:
    swap = written(make_swap, pages, 256)
    for slot in range(1, 256, 2):
        swap.free(slot)
    slices = 1
    while swap.trim(budget=10):
        slices += 1
    assert slices == 13
    assert all(swap.verify(slot, (slot - 1) % 8) for slot in range(2, 256, 2))


def test_trim_punches_a_bounded_number_of_slots_a_slice(make_swap, pages, monkeypatch) -> None:
    failpoints.interpreted_only()
    monkeypatch.setattr("tmpfsd.uvm.swap.HOLE", 32)
    swap = written(make_swap, pages, 512)
    for slot in range(1, 512, 8):
        swap.free(slot, 6)
    punched, discard = [], swap.store.discard
    monkeypatch.setattr(swap.store, "discard", lambda first, n: punched.append(n) or discard(first, n))
    swap.trim()
    assert sum(punched) == 36           # 32 at the end of the sixth hole of six
    trim_all(swap)
    assert sum(punched) == 64 * 6
    assert all(swap.verify(slot, (slot - 1) % 8) for slot in range(7, 512, 8))


def test_what_is_freed_during_a_pass_is_punched_too(make_swap, pages) -> None:
    swap = written(make_swap, pages, 256)
    swap.free(1, 8)
    for slot in range(100, 256, 2):
        swap.free(slot)
    assert swap.trim(budget=10)
    swap.free(20, 64)                   # behind the place where the pass goes on
    before = blocks(swap)
    trim_all(swap)
    assert before - blocks(swap) >= 8 * (64 + 60)


def test_a_passing_error_does_not_end_hole_punching(make_swap, pages, monkeypatch) -> None:
    swap = written(make_swap, pages, 64)
    swap.free(1, 64)

    def refused(*_args) -> int:
        ctypes.set_errno(errno.ENOSPC)          # a file system may need a block to split an extent
        return -1
    with monkeypatch.context() as patch:
        patch.setattr(store_module, "_fallocate", refused)
        swap.trim()
    swap.untrimmed = 64
    trim_all(swap)
    assert blocks(swap) <= 16


def test_an_interrupted_punch_is_tried_again(make_swap, pages, monkeypatch) -> None:
    swap = written(make_swap, pages, 64)
    swap.free(1, 64)
    punch, interruptions = store_module._fallocate, [1, 1]

    def interrupted(*args) -> int:
        if interruptions:
            interruptions.pop()
            ctypes.set_errno(errno.EINTR)
            return -1
        return punch(*args)
    monkeypatch.setattr(store_module, "_fallocate", interrupted)
    trim_all(swap)
    assert not interruptions and blocks(swap) <= 16


def test_a_file_system_without_holes_is_asked_once(make_swap, pages, monkeypatch) -> None:
    calls = []

    def unsupported(*args) -> int:
        calls.append(args)
        ctypes.set_errno(errno.EOPNOTSUPP)
        return -1
    monkeypatch.setattr(store_module, "_fallocate", unsupported)
    swap = written(make_swap, pages, 16)
    swap.free(1, 8)
    swap.trim()
    swap.free(9, 8)
    assert not swap.trim()
    assert len(calls) == 1


# --- invariants ---

def broken(swap: Swap, invariant: str, held: set[int] | None = None) -> None:
    with pytest.raises(Inconsistent) as caught:
        swap.check(held)
    assert caught.value.invariant == invariant


def test_s1_slot_0_is_free(make_swap) -> None:
    swap = make_swap(8)
    swap.alloc(1)
    swap._arena.base = 0
    swap._arena.free(0)
    broken(swap, "S1")


@pytest.mark.parametrize("counter", ("nheld", "nbad"))
def test_s2_slots_do_not_add_up(make_swap, counter: str) -> None:
    swap = make_swap(8)
    swap.alloc(2)
    setattr(swap, counter, getattr(swap, counter) + 1)
    broken(swap, "S2")


def test_s2_pages_name_fewer_slots_than_are_held(make_swap) -> None:
    swap = make_swap(8)
    swap.alloc(2)
    broken(swap, "S2", {1})


def test_s2_a_page_names_a_free_slot(make_swap) -> None:
    swap = make_swap(8)
    swap.alloc(2)
    broken(swap, "S2", {1, 5})


def test_a_full_disk_is_said_until_a_write_finds_room(make_swap, pages, monkeypatch) -> None:
    """`space` is back half a second later; who looks at the status then shall know all the same."""
    swap = make_swap(8)
    slot, _count = swap.alloc(2)
    swap.disk_full()
    assert swap.full and swap.stats()["disk_full"]
    swap.write_cluster(slot, pages[:1], range(1))           # it has its blocks: this proves nothing
    assert swap.full
    monkeypatch.setattr(swap_module.time, "monotonic", lambda: 1e18)
    assert swap.space and swap.full
    swap.write_cluster(slot, pages[:1], range(1))
    assert not swap.full
    swap.disk_full()
    swap.free(slot, 1)
    assert swap.full
    swap.free(slot + 1, 1)
    assert not swap.full                                    # nothing of ours is left there


def test_holes_that_fail_are_told_seldom(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The first, the second, the fourth: a store that is dead does not fill the log."""
    (tmp_path / "swap").write_bytes(bytes(1 << 16))
    store = FileStore(os.open(tmp_path / "swap", os.O_RDONLY))          # EBADF, which may pass
    try:
        with caplog.at_level("INFO"):
            assert not any(store.discard(1, 1) for _ in range(100))
        told = [record.getMessage() for record in caplog.records]
        assert len(told) == 7 and "64 times so far" in told[-1] and store.can_discard
    finally:
        store.close()
