"""Which pages were used, and in which order."""

from __future__ import annotations

import random

from tmpfsd.uvm.used import Used, used_pages


def test_the_first_use_counts(make_vm, fill) -> None:
    vm = make_vm()
    vpns = fill(vm, 200)
    list(vm.daemon.flush())
    vm.used = Used(vm)
    wanted = random.Random(1).sample(vpns[::3], 20)
    for vpn in (*wanted, *reversed(wanted)):
        vm.breathe()
        vm.read(vpn << 12)
    assert list(used_pages(vm)) == wanted


def test_no_use_is_missed_though_pages_leave(make_vm, fill) -> None:
    """Against a model: pages at random, some new, with so little memory that they come and go."""
    rng, vm = random.Random(2), make_vm(nframes=48)
    vpns = fill(vm, 400)
    vm.used, model = Used(vm), set()
    for step in range(3000):
        vm.breathe()
        if step % 10:
            vpn = rng.choice(vpns[:200])
            (vm.write if step % 3 else vm.read)(vpn << 12)
        else:
            vpn = fill(vm, 1)[0]
        model.add(vpn)
    found = used_pages(vm)
    assert len(found) == len(set(found)) and set(found) == model


def test_what_came_in_beside_it_was_not_used(make_vm, fill) -> None:
    vm = make_vm()
    vpns = fill(vm, 40)
    list(vm.daemon.flush())
    vm.used = Used(vm)
    for vpn in vpns[16:19]:
        vm.breathe()
        vm.read(vpn << 12)
    assert vm.is_resident(vpns[19]) and vm.is_resident(vpns[21])        # read ahead
    vm.read(vpns[21] << 12)
    assert list(used_pages(vm)) == [*vpns[16:19], vpns[21]]


def test_memory_for_it_is_bounded(make_vm) -> None:
    seen = Used(make_vm(), most=10)
    for vpn in (1 << 20, *range(1, 100)):
        seen.note(vpn)
    assert list(seen.order) == [1 << 20, *range(1, 10)]


def test_nobody_has_noted_it(make_vm, fill) -> None:
    vm = make_vm()
    vpns = fill(vm, 200)
    assert set(used_pages(vm)) == {vpn for vpn in vpns if vm.is_resident(vpn)}
