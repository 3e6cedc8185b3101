"""bench/core.py: what an operation costs without FUSE, everything resident: microseconds of CPU.

    python -m tools.bench.core [--files 20000] [--rounds 5] [--json]

Each round makes, looks at and removes the same files on a fresh Mount; the loop around the calls is measured with
nothing in it and subtracted.  The median of the rounds is shown, and the least.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from statistics import median
from time import process_time_ns

from tmpfsd.options import Config
from tmpfsd.tmpfs import vnops
from tmpfsd.tmpfs.mount import Mount
from tmpfsd.uvm.param import PAGE_SIZE
from tools.experiments.drive import CRED, ROOT

PER_DIR = 1000
GOALS = {"create": 12.0, "lookup": 4.0, "getattr": 2.0, "unlink": 10.0, "readdirplus entry": 3.0}
BLOCK = bytes(PAGE_SIZE)
BLOCKS = 64


def timed(call: Callable[..., object], arguments: Iterable[tuple]) -> float:
    """Microseconds of CPU for each call, without the loop."""
    items = list(arguments)
    start = process_time_ns()
    for item in items:
        pass
    empty = process_time_ns() - start
    start = process_time_ns()
    for item in items:
        call(*item)
    return (process_time_ns() - start - empty) / len(items) / 1000


def one_round(nfiles: int) -> dict[str, float]:
    """Every operation once for each file, each after the breath that the dispatcher takes."""
    mp = Mount(Config(ram_bytes=512 << 20, size_bytes=4 << 30, swap=None))
    dirs = [vnops.mkdir(mp, ROOT, b"dir%06d" % i, 0o755, CRED) for i in range(max(nfiles // PER_DIR, 1))]
    names = [(dirs[i % len(dirs)], b"file%09d" % i) for i in range(nfiles)]
    breathe = mp.breathe
    inos: list[int] = []

    def create(dino: int, name: bytes) -> None:
        breathe()
        ino = vnops.create(mp, dino, name, 0o644, CRED)
        vnops.getattr(mp, ino)
        inos.append(ino)

    def lookup(dino: int, name: bytes) -> None:
        breathe()
        ino = vnops.lookup(mp, dino, name)
        vnops.getattr(mp, ino)

    def getattr_(ino: int) -> None:
        breathe()
        vnops.getattr(mp, ino)

    def rename(dino: int, name: bytes) -> None:
        breathe()
        vnops.rename(mp, dino, name, dino, b"n" + name, 0, CRED)

    def readdir(dino: int) -> None:
        breathe()
        vnops.readdir(mp, dino, 0, lambda name, ino, attributes, cookie: True)

    def write(ino: int, offset: int) -> None:
        breathe()
        vnops.write(mp, ino, offset, BLOCK)

    def read(ino: int, offset: int) -> None:
        breathe()
        vnops.read(mp, ino, offset, PAGE_SIZE)

    def unlink(dino: int, name: bytes) -> None:
        breathe()
        vnops.unlink(mp, dino, name)

    found = {"create": timed(create, names), "lookup": timed(lookup, names),
             "lookup of what is not there": timed(lookup_missing(mp), names),
             "getattr": timed(getattr_, [(ino,) for ino in inos]),
             "readdirplus entry": timed(readdir, [(dino,) for dino in dirs]) * len(dirs) / nfiles,
             "rename": timed(rename, names)}
    blocks = [(ino, block * PAGE_SIZE) for ino in inos[:nfiles // BLOCKS] for block in range(BLOCKS)]
    found["write of a new page"] = timed(write, blocks)
    found["write of 4 KiB"] = timed(write, blocks)
    found["read of 4 KiB"] = timed(read, blocks)
    for ino in inos:
        vnops.forget(mp, ino, 3)
    found["unlink"] = timed(unlink, [(dino, b"n" + name) for dino, name in names[nfiles // BLOCKS:]])
    mp.close()
    return found


def lookup_missing(mp: Mount) -> Callable[[int, bytes], None]:
    """A look-up that finds nothing, as before each create."""
    def missing(dino: int, name: bytes) -> None:
        mp.breathe()
        vnops.lookup(mp, dino, b"x" + name)

    return missing


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tools.bench.core", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rounds = [one_round(args.files) for _ in range(args.rounds)]
    medians = {name: median(it[name] for it in rounds) for name in rounds[0]}
    if args.json:
        print(json.dumps(medians))
        return
    for name, value in medians.items():
        goal = f"  goal {GOALS[name]:g}" if name in GOALS else ""
        print(f"{name:<30}{value:8.2f} us  (least {min(it[name] for it in rounds):.2f}){goal}")


if __name__ == "__main__":
    main()
