"""bench/faults.py: how many times an operation waits for the swap device, when metadata are many times `ram`.

    python -m tools.bench.faults [--ram 4m] [--times 8] [--per-dir 1000] [--backend NAME] [--json]

Fills a file system without FUSE with empty files until its metadata are that many times `ram`.  Then it looks at them
in order and at random, lists them, and removes at random.  A fault is one wait; pages that are read ahead come in with
it and are counted as pages.  The last line shows how much there is of what should stay in: the index (pages of trees)
and the lookup counts.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable

from tmpfsd.options import parse
from tmpfsd.uvm.param import PAGE_SIZE
from tools.experiments import drive

SAMPLES = 20_000
PROBE = 10_000


def measure(ram: int, times: float, per_dir: int, backend: str) -> dict[str, dict[str, float]]:
    """Faults and pages read in, for each operation; and the pages of each kind, in parts of `ram`."""
    mp = drive.mount(ram_bytes=ram, backend=backend)
    files = drive.Files(mp, per_dir)
    vm, found = mp.vm, {}
    try:
        files.create_to(PROBE)
        some = SAMPLES
        # The size of a file is known by now: the creates that are measured are the last ones that are needed.
        while vm.npages * PAGE_SIZE * (files.count + some) < times * ram * files.count:
            files.create_to(files.count + per_dir)

        def count(name: str, work: Callable[[], object], operations: int) -> None:
            faults, pages = vm.faults, vm.pageins
            work()
            found[name] = {"faults": (vm.faults - faults) / operations, "pages in": (vm.pageins - pages) / operations}

        rng = random.Random(1)
        count("create", lambda: files.create_to(files.count + some), some)
        count("stat in order", lambda: files.stat(range(some)), some)
        files.stat(rng.choices(range(files.count), k=some))        # let it settle
        count("stat at random", lambda: files.stat(rng.choices(range(files.count), k=some)), some)
        count("readdirplus entry", files.list_all, files.count)
        count("unlink at random", lambda: files.remove(rng.sample(range(files.count), some)), some)
        found["parts of ram"] = {pool.name: pool.npages * PAGE_SIZE / ram for pool in mp.mem.pools() if pool.npages}
    finally:
        mp.close()
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tools.bench.faults", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--ram", default="4m")
    parser.add_argument("--times", type=float, default=8)
    parser.add_argument("--per-dir", type=int, default=drive.PER_DIR)
    parser.add_argument("--backend", default="pageable-submap")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    found = measure(parse([f"ram={args.ram}"]).ram_bytes, args.times, args.per_dir, args.backend)
    if args.json:
        print(json.dumps(found))
        return
    parts = found.pop("parts of ram")
    for name, each in found.items():
        print(f"{name:<20}" + "".join(f"{value:8.3f} {what}" for what, value in each.items()))
    print("in parts of ram: " + ", ".join(f"{name} {part:.2f}" for name, part in parts.items()))


if __name__ == "__main__":
    main()
