"""Checksums and encryption of the pages in a store."""

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tmpfsd.uvm.errors import SwapIOError
from tmpfsd.uvm.seal import COUNTER, NONCE, Gcm, make_seal
from tmpfsd.uvm.store import FileStore, open_store
from tmpfsd.uvm.swap import Swap

PAGE = 4096
TEXT = b"what somebody wrote into a file "


def pages(n: int) -> list[memoryview]:
    return [memoryview(bytearray((TEXT * 128)[:-4] + i.to_bytes(4, "little"))) for i in range(n)]


@pytest.fixture(params=(False, True), ids=("crc", "gcm"))
def swap(tmp_path: Path, request: pytest.FixtureRequest) -> Swap:
    made = Swap(open_store(str(tmp_path)), 64, seal=make_seal(request.param))
    request.addfinalizer(made.close)
    return made


@pytest.fixture
def sealed(tmp_path: Path, request: pytest.FixtureRequest) -> Swap:
    made = Swap(open_store(str(tmp_path)), 64, seal=Gcm())
    request.addfinalizer(made.close)
    return made


def content(swap: Swap) -> bytes:
    assert isinstance(swap.store, FileStore)
    return os.pread(swap.store.fd, 65 * PAGE, 0)


def overwrite(swap: Swap, slot: int, offset: int, data: bytes) -> None:
    assert isinstance(swap.store, FileStore)
    os.pwrite(swap.store.fd, data, slot * PAGE + offset)


def read(swap: Swap, slot: int, vpn: int) -> bytes:
    page = memoryview(bytearray(PAGE))
    swap.read_cluster(slot, [page], [vpn])
    return bytes(page)


@pytest.mark.parametrize("n", (1, 2, 16))
def test_what_went_out_comes_back(swap: Swap, n: int) -> None:
    slot, count = swap.alloc(n)
    swap.write_cluster(slot, pages(n), range(100, 100 + n))
    back = [memoryview(bytearray(PAGE)) for _ in range(n)]
    assert count == n == swap.read_cluster(slot, back, range(100, 100 + n))
    assert back == pages(n)


def test_only_the_page_itself_is_taken(swap: Swap) -> None:
    slot, _count = swap.alloc(3)
    swap.write_cluster(slot, pages(3), range(3))
    assert swap.verify(slot, 0) and not swap.verify(slot, 1) and not swap.verify(slot + 1, 0)
    overwrite(swap, slot, 0, content(swap)[(slot + 1) * PAGE:(slot + 2) * PAGE])       # another slot's bytes
    assert not swap.verify(slot, 0) and not swap.verify(slot, 1)


def test_every_flipped_bit_is_found(swap: Swap) -> None:
    slot, _count = swap.alloc(1)
    swap.write_cluster(slot, pages(1), [5])
    there, rng = content(swap), random.Random(1)
    for at in (0, PAGE - 1, *(rng.randrange(PAGE) for _ in range(60))):
        overwrite(swap, slot, at, bytes([there[slot * PAGE + at] ^ 1 << rng.randrange(8)]))
        assert not swap.verify(slot, 5), at
        overwrite(swap, slot, at, there[slot * PAGE + at:slot * PAGE + at + 1])
    assert swap.verify(slot, 5)


def test_nothing_of_a_page_is_in_the_store(swap: Swap) -> None:
    slot, _count = swap.alloc(4)
    swap.write_cluster(slot, pages(4), range(4))
    assert (TEXT in content(swap)) == (not swap.seal.encrypts)
    assert swap.stats()["encrypted"] == swap.seal.encrypts


def test_equal_pages_look_different(sealed: Swap) -> None:
    slot, _count = sealed.alloc(2)
    sealed.write_cluster(slot, [pages(1)[0], pages(1)[0]], [7, 7])
    there = content(sealed)
    assert there[slot * PAGE:(slot + 1) * PAGE] != there[(slot + 1) * PAGE:(slot + 2) * PAGE]


def test_a_checksum_can_be_forged_and_a_tag_cannot(sealed: Swap) -> None:
    """Bytes that were in the store before are refused, also in their own slot."""
    slot, _count = sealed.alloc(1)
    sealed.write_cluster(slot, pages(1), [3])
    before = content(sealed)[slot * PAGE:(slot + 1) * PAGE]
    sealed.write_cluster(slot, pages(2)[1:], [3])
    overwrite(sealed, slot, 0, before)
    with pytest.raises(SwapIOError):
        read(sealed, slot, 3)


def test_a_page_that_is_refused_shows_nothing(sealed: Swap) -> None:
    slot, _count = sealed.alloc(1)
    sealed.write_cluster(slot, pages(1), [3])
    overwrite(sealed, slot, 9, b"\0\0\0\0")
    page = memoryview(bytearray(PAGE))
    with pytest.raises(SwapIOError):
        sealed.read_cluster(slot, [page], [3])
    assert bytes(page) == bytes(PAGE)


def test_a_freed_slot_is_dead(sealed: Swap) -> None:
    """E2: its nonce is gone, though the store still has its bytes."""
    slot, _count = sealed.alloc(2)
    sealed.write_cluster(slot, pages(2), range(2))
    before = content(sealed)
    sealed.free(slot)
    assert content(sealed) == before and not sealed.verify(slot, 0) and sealed.verify(slot + 1, 1)
    seal = sealed.seal
    assert isinstance(seal, Gcm) and seal._nonces[NONCE * slot:NONCE * (slot + 1)] == bytes(NONCE)


def test_no_nonce_comes_twice(sealed: Swap) -> None:
    """E1, and a nonce cannot be guessed from those before it."""
    seal = sealed.seal
    assert isinstance(seal, Gcm)
    nonces = [seal._nonce() for _ in range(5000)]
    assert len({nonce[:COUNTER] for nonce in nonces}) == len({nonce[COUNTER:] for nonce in nonces}) == 5000


def test_each_store_has_a_key_of_its_own(tmp_path: Path) -> None:
    assert Gcm()._key != Gcm()._key


@pytest.mark.parametrize("direct", (False, True))
def test_direct(tmp_path: Path, direct: bool) -> None:
    try:
        swap = Swap(open_store(str(tmp_path), direct), 64, seal=Gcm())
    except OSError as error:
        pytest.skip(f"no O_DIRECT in {tmp_path}: {error.strerror}")
    slot, _count = swap.alloc(16)
    swap.write_cluster(slot, pages(16), range(16))
    assert all(swap.verify(slot + i, i) for i in range(16))
    swap.close()


def test_memory_comes_and_goes_with_slots(swap: Swap) -> None:
    """Nothing is kept for free slots at the end."""
    slot, _count = swap.alloc(16)
    swap.write_cluster(slot, pages(16), range(16))
    swap.free(slot + 4, 12)
    while swap.trim():
        pass
    assert swap.seal.nplaces == slot + 4 and all(swap.verify(slot + i, i) for i in range(4))
    slot, _count = swap.alloc(16)
    swap.write_cluster(slot, pages(16), range(16))
    assert all(swap.verify(slot + i, i) for i in range(16))


def test_a_machine_over_encrypted_swap(make_vm: Callable, fill: Callable, number_in: Callable) -> None:
    vm = make_vm(64)
    vm.swap.seal = Gcm()
    vpns = fill(vm, 300)
    for vpn in vpns:
        vm.breathe()
        assert number_in(vm, vpn) == vpn
    victim = next(vpn for vpn in vpns if not vm.is_resident(vpn))
    vm.swap.flip(vm.slot_of[victim])
    with pytest.raises(SwapIOError):
        number_in(vm, victim)
    vm.check()
