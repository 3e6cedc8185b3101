"""bench/latency.py: how long does one user's request wait for what another one does?

    python -m tools.bench.latency [--ram 256m,1g] [--files 100000] [--extents 60000] [--big 2048] [--only TEXT]
                                  [--json FILE]

On a mount of its own a loop calls statvfs(2), which always reaches the daemon, every half millisecond: first while the
mount is otherwise idle, then beside each kind of other work.  It shows the median, p99 and worst wait in milliseconds,
and p99 as a multiple of the idle one.  Page-out with 64 GiB of swap three quarters full needs a disk of that size.  So
it shows the CPU time of one breath instead, on a machine without FUSE whose slot map is filled first.

Limits      The scheduler is measured too: with two cores, the loop, the daemon and the work share them.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tmpfsd.cli import client
from tmpfsd.options import parse
from tmpfsd.uvm.param import PAGE_SIZE
from tmpfsd.uvm.store import open_store
from tmpfsd.uvm.swap import Swap
from tmpfsd.uvm.vm import Vm
from tools import mounts
from tools.experiments.child import environment

IDLE_SECONDS = 3.0
PER_DIR = 1000
MIB = 1 << 20
SWAP = 64 << 30
LOOP = """\
import os, sys, time
mnt, waits = sys.argv[1], []
print("ready", flush=True)
os.set_blocking(0, False)
while True:
    start = time.perf_counter_ns()
    os.statvfs(mnt)
    waits.append(time.perf_counter_ns() - start)
    time.sleep(0.0005)
    try:
        if os.read(0, 1) == b"":
            break
    except BlockingIOError:
        pass
waits.sort()
n = len(waits)
print(n, waits[n // 2], waits[n * 99 // 100], waits[-1])
"""


def asked(mnt: str, work: Callable[[], object]) -> dict[str, float]:
    """The loop's waits beside a piece of work."""
    loop = subprocess.Popen([sys.executable, "-c", LOOP, mnt], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert loop.stdin is not None and loop.stdout is not None
    loop.stdout.readline()
    time.sleep(0.2)
    start = time.monotonic()
    try:
        work()
    finally:
        seconds = time.monotonic() - start
        loop.stdin.close()
        words = loop.stdout.read().split()
        loop.wait()
        loop.stdout.close()
    n, p50, p99, worst = map(int, words)
    return {"asked": n, "p50": p50 / 1e6, "p99": p99 / 1e6, "worst": worst / 1e6, "seconds": seconds}


@contextmanager
def mounted(options: str) -> Iterator[str]:
    """A mount of its own."""
    with tempfile.TemporaryDirectory() as place:
        mnt = os.path.join(place, "mnt")
        os.mkdir(mnt)
        command = [sys.executable, "-m", "tmpfsd.cli.mount", "latency", mnt, "-f", "-o", options]
        with subprocess.Popen(command, env=environment(), stderr=subprocess.DEVNULL) as server:
            try:
                mounts.wait_for_mount(mnt, server)
                yield mnt
            finally:
                mounts.unmount(mnt)
                mounts.end(server)


class Works:
    """What others do to a mount, in such an order that each finds what it needs."""

    def __init__(self, mnt: str, ram: int, args: argparse.Namespace) -> None:
        self.mnt, self.ram, self.args = Path(mnt), ram, args
        self.tree, self.big, self.holes = self.mnt / "tree", self.mnt / "big", self.mnt / "holes"

    def prepared(self) -> Iterator[tuple[str, Callable[[], object]]]:
        """(what, work): preparations are made between two of them, and are not measured."""
        yield "idle", lambda: time.sleep(IDLE_SECONDS)
        self.make_tree()
        yield f"check of {self.args.files} files", lambda: self.ask("check")
        yield "du of them", lambda: self.ask("du", path="tree")
        yield "discard of them", self.discard
        yield f"xattrs that fill {self.ram >> 20}m", self.fill_with_xattrs
        self.ask("discard", path="xattrs")
        yield f"write of {self.args.big} MiB", self.write_big
        yield "du of it", lambda: self.ask("du", path="big")
        yield "snapshot of it", self.snapshot
        yield "set ram to a quarter", lambda: self.set_ram(self.ram >> 2)
        yield "and back", lambda: self.set_ram(self.ram)
        with tempfile.TemporaryDirectory(dir="/var/tmp") as place:
            one, = self.ask("status")["swap"]["files"]
            self.ask("swapon", path=os.path.join(place, "swap"), size_bytes=8 << 30)
            yield "swapoff", lambda: self.ask("swapoff", path=one["path"])
        yield "rm of it", self.big.unlink
        self.make_holes()
        yield f"rm of {self.args.extents} extents", self.holes.unlink

    def ask(self, command: str, **arguments: Any) -> Any:
        """Run a command of the control socket to its end; return its result."""
        *_, answer = client.follow(client.find(str(self.mnt)), command, **arguments)
        return answer["result"]

    def make_tree(self) -> None:
        """Files in directories."""
        self.tree.mkdir()
        for i in range(self.args.files):
            if i % PER_DIR == 0:
                (self.tree / f"{i // PER_DIR}").mkdir()
            os.close(os.open(self.tree / f"{i // PER_DIR}" / f"file-{i}", os.O_CREAT | os.O_WRONLY))

    def make_holes(self) -> None:
        """A file in which every other page is a hole."""
        with open(self.holes, "wb", buffering=0) as file:
            for i in range(self.args.extents):
                os.pwrite(file.fileno(), b"x", 2 * PAGE_SIZE * i)

    def write_big(self) -> None:
        """A plain file."""
        block = random.Random(1).randbytes(MIB)
        with open(self.big, "wb", buffering=0) as file:
            for _ in range(self.args.big):
                file.write(block)

    def fill_with_xattrs(self) -> None:
        """Values of 60 KB, a quarter more than fits into memory."""
        top, value = self.mnt / "xattrs", random.Random(2).randbytes(60_000)
        top.mkdir()
        for i in range(self.ram * 5 // 4 // len(value)):
            path = top / f"{i}"
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
            os.setxattr(path, "user.big", value)

    def discard(self) -> None:
        """Discard the tree, and wait until all of it is free."""
        self.ask("discard", path="tree")
        while self.ask("status")["inodes"] > 100:
            time.sleep(0.05)

    def snapshot(self) -> None:
        """As `tmpfsctl snapshot`, to the disk."""
        with tempfile.TemporaryDirectory(dir="/var/tmp") as place:
            subprocess.run([sys.executable, "-m", "tmpfsd.cli.ctl", "snapshot", str(self.mnt), f"{place}/image"],
                           env=environment(), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def set_ram(self, nbytes: int) -> None:
        """As `tmpfsctl set`."""
        self.ask("set", values=[f"ram={nbytes >> 20}m"])


def breaths(ram: int) -> dict[str, float]:
    """CPU time of a breath when the machine pages out to 64 GiB of swap, three quarters full and fragmented."""
    swap = Swap(open_store("/var/tmp"), SWAP // PAGE_SIZE)
    held = []
    while (first_n := swap.alloc(256))[1] and swap.nfree > 256:
        held.append(first_n[0])
    rng = random.Random(3)
    for first in held:
        for at in rng.sample(range(256), 64):
            swap.free(first + at)
    vm = Vm(ram, swap)
    waits = []
    for vpn in range(1, 5 * vm.phys.nframes // 4):
        start = time.thread_time_ns()
        vm.breathe()
        waits.append(time.thread_time_ns() - start)
        vm.alloc_page(2 * vpn, 1)
    vm.close()
    slow = sorted(wait for wait in waits if wait > 10_000) or [0]
    n = len(slow)
    return {"asked": n, "p50": slow[n // 2] / 1e6, "p99": slow[n * 99 // 100] / 1e6, "worst": slow[-1] / 1e6,
            "seconds": sum(waits) / 1e9}


def measure(ram: int, args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Every work at one size of memory."""
    found: dict[str, dict[str, float]] = {}
    with mounted(f"ram={ram >> 20}m,size=8g,swap_size=64g,swap=/var/tmp") as mnt:
        for what, work in Works(mnt, ram, args).prepared():
            if args.only in what or what == "idle":
                found[what] = asked(mnt, work)
                show(what, found[what], found["idle"])
            else:
                work()
    what = "a breath, 64 GiB of swap 3/4 full"
    if args.only in what:
        found[what] = breaths(ram)
        show(what, found[what], None)
    return found


def show(what: str, row: dict[str, float], idle: dict[str, float] | None) -> None:
    """One line."""
    times = f"{row['p99'] / idle['p99']:6.1f}" if idle else "      "
    waits = f"{row['p50']:8.2f} {row['p99']:8.2f} {times} {row['worst']:8.2f}"
    print(f"{what:34} {waits} {row['seconds']:8.1f}", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tools.bench.latency",
                                     description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--ram", default="256m,1g")
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--extents", type=int, default=60_000)
    parser.add_argument("--big", type=int, default=2048, help="MiB of the big file")
    parser.add_argument("--only", default="", help="works whose name has this; the others are done and not shown")
    parser.add_argument("--json", help="write the figures there too")
    args = parser.parse_args()
    results: dict[str, Any] = {}
    for word in args.ram.split(","):
        ram = parse(f"ram={word}").ram_bytes
        print(f"ram={word}: ms of wait      {'p50':>14} {'p99':>8} {'x idle':>6} {'worst':>8} {'seconds':>8}")
        results[word] = measure(ram, args)
    if args.json:
        Path(args.json).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
