"""A copy of the machine that looks around while the machine runs: the slots that it reads do not change."""

import os
import random

import pytest

from tmpfsd.uvm.errors import Inconsistent
from tmpfsd.uvm.frozen import Hold, become_copy
from tmpfsd.uvm.swapset import free_base, swapoff, swapon
from tmpfsd.uvm.vm import Vm


def out(vm: Vm, vpns: list[int]) -> dict[int, bytes]:
    """The contents of the slots of pages that are out."""
    return {vm.slot_of[vpn]: os.pread(vm.swap.store.fd, 4096, vm.slot_of[vpn] << 12) for vpn in vpns if vm.slot_of[vpn]}


def told() -> list[int]:
    return []


def hold_of(vm: Vm, words: list[int]) -> Hold:
    return Hold(vm, lambda: words.append(1))


def test_what_was_out_stays_in_its_slots(make_vm, fill) -> None:
    vm, words = make_vm(64, nslots=4000), told()
    vpns = fill(vm, 300)
    vm.daemon.evict_all()
    before = out(vm, vpns)
    hold = hold_of(vm, words)
    for vpn in vpns[:100]:
        vm.free_page(vpn)
        vm.kernel_map.free(vpn)
    for vpn in vpns[100:]:
        vm.breathe()
        vm.phys.u64[vm.write(vpn << 12) >> 3] = 4711
    fill(vm, 300)
    vm.daemon.evict_all()
    while vm.idle():
        pass
    vm.check()
    assert out_now(vm, before) == before and not words
    assert vm.swap.nparked >= 100
    hold.let_go()
    while vm.idle():
        pass
    vm.check()
    assert vm.swap.nparked == 0 and out_now(vm, before) != before


def out_now(vm: Vm, slots: dict[int, bytes]) -> dict[int, bytes]:
    return {slot: os.pread(vm.swap.store.fd, 4096, slot << 12) for slot in slots}


def test_requests_come_first_where_slots_run_short(make_vm, fill, number_in) -> None:
    vm, words = make_vm(64, nslots=200), told()
    vpns = fill(vm, 200)
    vm.daemon.evict_all()
    hold = hold_of(vm, words)
    for vpn in vpns[:150]:
        vm.free_page(vpn)
        vm.kernel_map.free(vpn)
    assert vm.swap.nfree == 150 and vm.swap.nparked == 150
    vpns = vpns[150:] + fill(vm, 120)
    assert hold.broken and words == [1]
    vm.check()
    vm.daemon.evict_all()
    assert [number_in(vm, vpn) for vpn in vpns[:20]] == vpns[:20]


def test_a_page_is_written_over_in_place_only_after_the_hold_ended(make_vm, fill, number_in) -> None:
    vm, words = make_vm(64, nslots=100), told()
    vpns = fill(vm, 100)
    vm.daemon.evict_all()
    fill(vm, 30)
    for vpn in vpns[:10]:
        vm.breathe()
        vm.write(vpn << 12)
    assert vm.swap.nfree == 0
    hold = hold_of(vm, words)
    vm.daemon.evict_all()
    assert hold.broken and words == [1]
    hold.let_go()
    assert number_in(vm, vpns[3]) == vpns[3]


def test_swapoff_ends_it(make_vm, make_swap, fill) -> None:
    vm, words = make_vm(64, nslots=400), told()
    fill(vm, 200)
    vm.daemon.evict_all()
    one = vm.swap
    swapon(vm, make_swap(500, free_base(vm.swap.files, 500)))
    hold = hold_of(vm, words)
    for _ in swapoff(vm, one):
        vm.check()
    assert hold.broken and words == [1]


@pytest.mark.parametrize("nslots", (4000, 330))
def test_a_copy_sees_what_there_was(make_vm, fill, nslots: int) -> None:
    """The copy pages everything in, and checks, while the machine changes everything."""
    vm, words = make_vm(64, nslots=nslots), told()
    vpns = fill(vm, 300)
    ready, go = os.pipe(), os.pipe()
    pid = os.fork()
    if not pid:
        code = 1
        try:
            become_copy(vm)
            os.read(go[0], 1)
            for vpn in vpns:
                vm.breathe()
                assert vm.phys.u64[vm.read(vpn << 12) >> 3] == vpn
            vm.check()
            code = 0
        finally:
            os._exit(code)
    hold = hold_of(vm, words)
    rng = random.Random(2)
    for vpn in rng.sample(vpns, 250):
        vm.breathe()
        vm.phys.u64[vm.write(vpn << 12) >> 3] = 0
    vm.daemon.evict_all()
    os.write(go[1], b"g")
    status = os.waitpid(pid, 0)[1]
    assert status == 0 or hold.broken and nslots < 4000
    assert nslots < 4000 or not hold.broken
    hold.let_go()
    for fd in (*ready, *go):
        os.close(fd)


def test_s2_a_parked_slot_is_not_counted(make_vm, fill) -> None:
    vm = make_vm(check=False)
    vpns = fill(vm, 60)
    vm.daemon.evict_all()
    hold_of(vm, told())
    vm.free_page(vpns[0])
    vm.kernel_map.free(vpns[0])
    vm.check()
    vm.swap.nparked = 0
    with pytest.raises(Inconsistent, match="S2"):
        vm.check()
