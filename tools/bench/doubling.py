"""bench/doubling.py: does a create cost the same with five million files as with the first?

    python -m tools.bench.doubling [--files 5000000] [--ram 256m] [--layout many|one] [--json FILE]

Creates empty files on a mount of its own.  At each doubling of their number it shows the rate of the last files before
it, the resident memory of the daemon, and the cost of a file.  At the end it times the unmount, without listing or
removing anything.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tmpfsd.cli import client
from tools import mounts
from tools.experiments.child import environment

FIRST, WINDOW, PER_DIR = 10_000, 100_000, 1000


def steps(files: int) -> list[int]:
    """10,000 and its doubles below files, and files."""
    found, step = [], FIRST
    while step < files:
        found.append(step)
        step *= 2
    return [*found, files]


def rss(pid: int) -> int:
    """Resident bytes of a process."""
    fields = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def mounted(mnt: str, options: str) -> Iterator[subprocess.Popen[bytes]]:
    """A tmpfsd in the foreground; its mount is gone at the end."""
    command = [sys.executable, "-m", "tmpfsd.cli.mount", "tmpfsd", mnt, "-f", "-o", options]
    daemon = subprocess.Popen(command, env=environment(), stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        mounts.wait_for_mount(mnt, daemon)
        yield daemon
    finally:
        mounts.unmount(mnt)
        mounts.end(daemon)


def paths(root: str, layout: str, files: int) -> Iterator[str]:
    """The files' paths; directories are made on the way."""
    directory = f"{root}/one"
    os.mkdir(directory)
    for number in range(files):
        if layout == "many" and number % PER_DIR == 0:
            directory = f"{root}/d{number // PER_DIR:06}"
            os.mkdir(directory)
        yield f"{directory}/file{number:09}"


def create(root: str, layout: str, files: int, pid: int) -> Iterator[dict[str, Any]]:
    """Create files; a row at each step: the rate is that of the files since the last step, at most WINDOW."""
    flags, start, since = os.O_CREAT | os.O_EXCL | os.O_WRONLY, time.perf_counter(), 0
    begun, wanted = start, steps(files)
    for number, path in enumerate(paths(root, layout, files), 1):
        os.close(os.open(path, flags, 0o644))
        if number == min(WINDOW, files):
            yield {"first": number / (time.perf_counter() - begun)}
        if number == wanted[0] - WINDOW:
            start, since = time.perf_counter(), number
        if number == wanted[0]:
            seconds = time.perf_counter() - start
            state = client.status(root)
            yield {"files": number, "rate": (number - since) / seconds, "rss": rss(pid),
                   "resident": state["resident_bytes"], "bytes_a_file": state["used_bytes"] / number,
                   "pageouts": state["paging"]["pageouts"], "pageins": state["paging"]["pageins"]}
            del wanted[0]
            start, since = time.perf_counter(), number


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Run all of it; print as it goes."""
    rows: list[dict[str, Any]] = []
    first = 0.0
    print(f"{'files':>10}{'creates/s':>12}{'RSS MiB':>10}{'resident':>10}{'B a file':>10}{'page-outs':>12}", flush=True)
    with tempfile.TemporaryDirectory(prefix="tmpfsd-doubling-") as mnt:
        with mounted(mnt, f"ram={args.ram},size={args.size}") as daemon:
            for row in create(mnt, args.layout, args.files, daemon.pid):
                if "first" in row:
                    first = row["first"]
                    continue
                rows.append(row)
                print(f"{row['files']:>10,}{row['rate']:>12,.0f}{row['rss'] / (1 << 20):>10.0f}"
                      f"{row['resident'] / (1 << 20):>10.0f}{row['bytes_a_file']:>10.0f}{row['pageouts']:>12,}",
                      flush=True)
            start = time.perf_counter()
            mounts.unmount(mnt)
            daemon.wait(mounts.END_SECONDS)
            ended = time.perf_counter() - start
    ratio = rows[-1]["rate"] / first
    print(f"the last {WINDOW:,} at {ratio:.2f} of the rate of the first; unmounted in {ended:.1f} s")
    return {"layout": args.layout, "ram": args.ram, "first": first, "rows": rows, "ratio": ratio,
            "unmount_seconds": ended}


def main() -> None:
    """Measure, and keep it."""
    parser = argparse.ArgumentParser(prog="python -m tools.bench.doubling",
                                     description=(__doc__ or "").partition(": ")[2].splitlines()[0])
    parser.add_argument("--files", type=int, default=5_000_000)
    parser.add_argument("--ram", default="256m")
    parser.add_argument("--size", default="8g")
    parser.add_argument("--layout", choices=("many", "one"), default="many", help="1,000 to a directory, or all in one")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    result = run(args)
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
