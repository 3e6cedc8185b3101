"""bench/core.py: what an operation costs without FUSE, everything resident: microseconds of CPU.

    python -m tools.bench.core [--files 20000] [--rounds 5] [--json | --all]

Each round makes, looks at and removes the same files on a fresh Mount; the loop around the calls is measured empty and
subtracted.  It shows the median and the minimum of the rounds, for the core interpreted and compiled: each has a
process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from time import process_time_ns

from tmpfsd import compiled
from tmpfsd.options import Config
from tmpfsd.tmpfs import vnops
from tmpfsd.tmpfs.filesystem import Mount
from tmpfsd.uvm.param import PAGE_SIZE
from tools.experiments.drive import CRED, ROOT

PER_DIR = 1000
GOALS = {"create": 4.0, "lookup": 2.0, "getattr": 0.3, "unlink": 4.5, "readdirplus entry": 1.0}      # compiled
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


def measure(files: int, rounds: int) -> dict[str, list[float]]:
    """What each operation took in each round, in this process: compiled or not."""
    found = [one_round(files) for _ in range(rounds)]
    return {name: [one[name] for one in found] for name in found[0]}


def elsewhere(pure: str, args: argparse.Namespace) -> tuple[str, dict[str, list[float]]]:
    """The same from a process that runs interpreted (pure "1"), or compiled if it can: (which, the rounds)."""
    options = ["--all", "--files", str(args.files), "--rounds", str(args.rounds)]
    done = subprocess.run([sys.executable, "-m", "tools.bench.core", *options],
                          env={**os.environ, "TMPFSD_PURE": pure}, stdout=subprocess.PIPE, check=True,
                          cwd=Path(__file__).resolve().parents[2])
    answer = json.loads(done.stdout)
    return answer["kind"], answer["rounds"]


def show(columns: dict[str, dict[str, list[float]]]) -> None:
    """A line for each operation, a column for each way of running."""
    head = "".join(f"{kind:>21} " for kind in columns) + f"{'ratio':>8}" * (len(columns) > 1)
    print(f"{'us of CPU (least)':<30}{head}   goal, compiled")
    for name in next(iter(columns.values())):
        middles = [median(rounds[name]) for rounds in columns.values()]
        cells = "".join(f"{middle:>13.2f} {f'({min(rounds[name]):.2f})':>8}"
                        for middle, rounds in zip(middles, columns.values()))
        ratio = f"{middles[1] / middles[0]:8.2f}" if len(middles) > 1 else ""
        print(f"{name:<30}{cells}{ratio}" + (f"{GOALS[name]:>9g}" if name in GOALS else ""))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tools.bench.core", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="the medians, of this process alone")
    parser.add_argument("--all", action="store_true", help="every round as JSON, of this process alone")
    args = parser.parse_args()
    if args.json or args.all:
        found = measure(args.files, args.rounds)
        print(json.dumps({"kind": compiled.kind(), "rounds": found} if args.all else
                         {name: median(rounds) for name, rounds in found.items()}))
        return
    columns = dict(elsewhere(pure, args) for pure in ("1", ""))
    show(columns)
    if len(columns) == 1:
        print("Nothing is compiled from these sources (make compile).")


if __name__ == "__main__":
    main()
