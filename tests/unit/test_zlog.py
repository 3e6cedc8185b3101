"""The ring of compressed pages, against a model."""

import random
from collections.abc import Callable

import pytest

from tmpfsd.uvm.codec import Zstd
from tmpfsd.uvm.errors import Inconsistent, SwapIOError
from tmpfsd.uvm.zlog import HEAD, UNIFORM, ZLog, footprint

PAGE = 4096
BASE = 1000
NBYTES = 64 << 10


@pytest.fixture
def ring(request: pytest.FixtureRequest) -> ZLog:
    made = ZLog(NBYTES, BASE, 1 << 20, Zstd())
    request.addfinalizer(made.close)
    return made


def page_of(rng: random.Random, nrandom: int) -> memoryview:
    """A page of which so many bytes do not shrink."""
    return memoryview(bytearray((rng.randbytes(nrandom) + b"name" * 1024)[:PAGE]))


def put(ring: ZLog, vpn: int, page: memoryview) -> int:
    body = ring.pack(page)
    assert body is not None
    slot = ring.alloc(1)
    ring.put(slot, vpn, body)
    return slot


def read(ring: ZLog, slot: int, vpn: int) -> bytes:
    page = memoryview(bytearray(PAGE))
    ring.read_cluster(slot, [page], [vpn])
    return bytes(page)


def fits(ring: ZLog, page: memoryview) -> bool:
    body = ring.pack(page)
    nbytes = len(body) if isinstance(body, bytes) else 0
    return ring.room(nbytes) and ring.may_live(nbytes)


@pytest.mark.parametrize("seed", range(4))
def test_against_a_model(ring: ZLog, seed: int) -> None:
    rng = random.Random(seed)
    model: dict[int, tuple[int, bytes]] = {}
    for step in range(4000):
        page = page_of(rng, rng.choice((0, 8, 100, 700, 2000)))
        if rng.random() < 0.1:
            page = memoryview(bytearray(bytes([rng.randrange(256)]) * PAGE))
        if fits(ring, page):
            vpn = rng.randrange(1, 1 << 30)
            slot = put(ring, vpn, page)
            assert slot not in model
            model[slot] = vpn, bytes(page)
        elif not ring.skip_dead(3):
            if ring.oldest() is not None and rng.random() < 0.5:
                ring.carry()
            else:
                ring.free(next(iter(model)))
                del model[next(iter(model))]
        if model and rng.random() < 0.3:
            slot = rng.choice(list(model))
            assert read(ring, slot, model[slot][0]) == model[slot][1]
        if model and rng.random() < 0.3:
            slot = rng.choice(list(model))
            ring.free(slot)
            del model[slot]
        if step % 200 == 0:
            ring.check(set(model))
            for slot, (vpn, content) in model.items():
                assert read(ring, slot, vpn) == content
    assert ring.nheld == len(model) > 0


def test_the_oldest_come_first(ring: ZLog) -> None:
    rng = random.Random(1)
    slots = [put(ring, vpn, page_of(rng, 300)) for vpn in range(1, 21)]
    ring.free(slots[0])
    ring.free(slots[3])
    assert ring.oldest() is None and ring.skip_dead(1) == 1 and ring.oldest() is not None
    assert [record.vpn for record in ring.peek(4, 100)] == [2, 3, 5, 6]
    assert [record.vpn for record in ring.peek(100, 4)] == [2, 3, 5]
    ring.carry()
    assert [record.vpn for record in ring.peek(100, 100)] == [3, *range(5, 21), 2]
    ring.check({*slots} - {slots[0], slots[3]})


def test_a_repeated_byte_takes_no_room(ring: ZLog) -> None:
    for byte in (0, 7, 255):
        slot = put(ring, byte + 1, memoryview(bytearray(bytes([byte]) * PAGE)))
        assert read(ring, slot, byte + 1) == bytes([byte]) * PAGE
    assert ring.used == ring.live_bytes == 0 and ring.nheld == ring.nuniform == 3
    almost = bytearray(PAGE)
    almost[2000] = 1
    assert isinstance(ring.pack(memoryview(almost)), bytes)


def test_what_does_not_shrink_is_not_packed(ring: ZLog) -> None:
    assert ring.pack(memoryview(random.Random(1).randbytes(PAGE))) is None and ring.refused == 1
    page = random.Random(2).randbytes(PAGE)
    slot = ring.alloc(1)
    ring.put(slot, 5, page)             # but it can be put whole
    assert read(ring, slot, 5) == page and ring.live_bytes == footprint(PAGE)


def test_a_row_of_slots_is_read_at_once(ring: ZLog) -> None:
    rng = random.Random(3)
    pages, slot = [page_of(rng, 200) for _ in range(8)], ring.alloc(8)
    for i, page in enumerate(pages):
        ring.put(slot + i, 40 + i, ring.pack(page) or 0)
    back = [memoryview(bytearray(PAGE)) for _ in range(8)]
    assert ring.read_cluster(slot, back, range(40, 48)) == 8 and back == pages and ring.hits == 8
    assert ring.read_cluster(slot, back, [40, 41, 99, 43, 44, 45, 46, 47]) == 2
    with pytest.raises(SwapIOError):
        ring.read_cluster(slot, back, range(41, 49))


@pytest.mark.parametrize("seed", range(20))
def test_damage_is_an_error_and_nothing_worse(ring: ZLog, seed: int) -> None:
    """Any bytes of records changed: a page is whole, or refused, or (no checksum in memory) wrong, but a page."""
    rng = random.Random(seed)
    slots = {put(ring, vpn, page_of(rng, rng.randrange(1000))): vpn for vpn in range(1, 30)}
    for _ in range(200):
        ring._now.memory[rng.randrange(ring.used)] = rng.randrange(256)
    refused = 0
    for slot, vpn in slots.items():
        try:
            assert len(read(ring, slot, vpn)) == PAGE
        except SwapIOError:
            refused += 1
    assert refused
    for slot in slots:
        ring.free(slot)
    assert (ring.nheld, ring.live_bytes) == (0, 0)


def corrupt_head(ring: ZLog, slot: int) -> None:
    HEAD.pack_into(ring._now.memory, 0, slot + 1, 1, 20, 0)


def corrupt_live(ring: ZLog, _slot: int) -> None:
    ring.live_bytes += 8


def corrupt_used(ring: ZLog, _slot: int) -> None:
    ring._now.used += 8


def corrupt_count(ring: ZLog, _slot: int) -> None:
    ring.nheld += 1


def corrupt_uniform(ring: ZLog, slot: int) -> None:
    ring._packed[slot - BASE] = UNIFORM


@pytest.mark.parametrize("corrupt, number", [(corrupt_head, "R1"), (corrupt_live, "R2"), (corrupt_used, "R3"),
                                             (corrupt_count, "R4"), (corrupt_uniform, "R1|R2|R4")])
def test_check(ring: ZLog, corrupt: Callable[[ZLog, int], None], number: str) -> None:
    slot = put(ring, 1, page_of(random.Random(1), 500))
    put(ring, 2, page_of(random.Random(2), 500))
    ring.check({slot, slot + 1})
    corrupt(ring, slot)
    with pytest.raises(Inconsistent) as caught:
        ring.check({slot, slot + 1})
    assert caught.value.invariant in number.split("|")
