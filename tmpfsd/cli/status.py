"""status.py: tmpfsctl status: a mount's memory, swap, paging and pools, as text or JSON."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from tmpfsd.cli.client import status
from tmpfsd.cli.packed import percent_of, split
from tmpfsd.cli.units import human
from tmpfsd.mounts.printable import printable_all
from tmpfsd.server.health import health
from tmpfsd.server.pressure import DISK_FULL, THRESHOLDS, shares
from tmpfsd.sizes import UNLIMITED
from tmpfsd.uvm.param import PAGE_SIZE
from tmpfsd.uvm.vm import RESERVE, SPARE

EPILOG = """\
example:
  tmpfsctl status /mnt/x

The mount itself is not touched.  On a terminal a line is yellow from 80 % of its limit, and red from 95 %.

exit status:
  0  shown            1  error: no such mount, its server is gone or hangs, not permitted"""
FULL = 0.98             # of what may be wired: beyond it there is hardly room for more metadata


def share(part: int, whole: int) -> str:
    """Write a size, its limit, and the percentage."""
    if whole >= UNLIMITED:
        return f"{human(part)}, no limit"
    percent = f"  ({100 * part / whole:.0f}%)" if whole else ""
    return f"{human(part)} of {human(whole)}{percent}"


def rows(state: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Return the lines of the table, each a name and a text."""
    swap, submap = state["swap"], state["submap"]
    most = state["inodes_max"]
    found = health(state)
    yield "health", str(found)
    yield from (("", text) for text in found.what_helps)
    yield "mount point", state["mountpoint"]
    yield "backend", state["backend"]
    yield "used", share(state["used_bytes"], state["size_bytes"])
    yield "inodes", f"{state['inodes']:,}" + (f" of {most:,}" if most else ", no limit")
    yield "ram", share(state["resident_bytes"], state["ram_bytes"])
    yield "", f"wired {human(state['wired_bytes'])}, dirty {human(state['dirty_bytes'])}"
    zram = state.get("zram") or {}
    if zram.get("size_bytes"):
        yield "zram", share(zram["used_bytes"], zram["size_bytes"]) + f": {human(zram['stored_bytes'])} of pages, " \
            f"{zram['ratio']} to 1"
        yield "", f"{zram['hits']:,} hits, {zram['writebacks']:,} written back"
    if swap and swap.get("path"):
        yield "swap", share(swap["used_bytes"], swap["size_bytes"])
        yield from (("", text) for text in swap_files(swap))
    else:
        yield "swap", "none"
    if submap:
        yield "submap", f"{submap['policy']}, {submap['sharing']}: " + share(
            submap["used_bytes"], submap["size_bytes"]) + f", at most {human(submap['high_water_bytes'])}"
    for name, part in zip(("data pages", "metadata"), split(state)):
        yield name, f"{part['pages']:,}: {part['resident_pages']:,} resident, {part['swapped_pages']:,} swapped"


def swap_files(swap: dict[str, Any]) -> Iterator[str]:
    """Return the places of swap; for several files, also what is in each."""
    files = swap.get("files", [])
    if len(files) < 2:
        yield str(swap["path"])
        return
    for file in files:
        yield f"{file['path']}: {share(file['used_bytes'], file['size_bytes'])}" + ", draining" * file["draining"] \
            + ", its disk is full" * bool(file.get("disk_full"))


def pool_lines(pools: list[dict[str, Any]]) -> Iterator[str]:
    """Return the table of pools; its last column is the part that small files have."""
    heading = "data" if any("data_items" in pool for pool in pools) else ""
    yield f"{'pool':<12}{'size':>6}{'items':>14}{'pages':>14}{'resident':>14}{'swapped':>14}{heading:>6}".rstrip()
    for pool in pools:
        yield (f"{pool['name'][:12]:<12}{pool['item_size']:>6,}{pool['items']:>14,}{pool['pages']:>14,}"
               f"{pool['resident_pages']:>14,}{pool['swapped_pages']:>14,}{percent_of(pool):>6}").rstrip()


def count_lines(title: str, counts: Iterable[tuple[str, int]]) -> Iterator[str]:
    """Return named counts in lines of 80 columns."""
    line = f"{title:<11}"
    for name, count in counts:
        text = f"  {name} {count:,}"
        if len(line) + len(text) > 80:
            yield line
            line = " " * 11
        line += text
    yield line


def warnings(state: dict[str, Any]) -> Iterator[str]:
    """Return what the user should know now."""
    if state.get("broken"):
        yield "an invariant does not hold (the log has it): changes are refused; copy what you need, and unmount"
    most = state["ram_bytes"] - (RESERVE + SPARE) * PAGE_SIZE       # the rest is kept for faults and renames
    if state["backend"] == "wired" and state["wired_bytes"] >= FULL * most:
        yield "ram is full of wired metadata: creates get ENOSPC"
    if state.get("unowned_bytes", 0) >= FULL * most:
        yield (f"ram is full of pageable pages without an owner: {state['paging']['scans']:,} scans found none of them"
               " on a queue, creates get ENOSPC")
    for reason, count in sorted(state.get("refused", {}).items()):
        yield f"ENOSPC {count:,} times: {reason}"
    swap = state["swap"]
    if swap and swap.get("path") and swap["size_bytes"] and swap["used_bytes"] >= swap["size_bytes"]:
        yield "swap is full: writes and creates get ENOSPC"
    if swap and swap.get("disk_full"):
        yield DISK_FULL
    if state.get("lost_writes"):
        yield (f"{state['lost_writes']:,} writes of whole pages failed: what was written through a mapping may be lost "
               "(the log has it)")
    if state["paging"].get("lost_pages"):
        yield f"{state['paging']['lost_pages']:,} pages cannot be read back from swap: what needs them gets EIO"
    if state.get("lost_inodes"):
        yield f"{state['lost_inodes']:,} removed inodes keep pages that cannot be read back; they are tried again"
    if swap and swap.get("bad_slots"):
        yield f"{swap['bad_slots']:,} swap slots are bad"


def format_status(state: dict[str, Any]) -> str:
    """Write the whole status as text."""
    state = printable_all(state)
    lines = [f"{name:<13}{text}" for name, text in rows(state)]
    lines += count_lines("paging", state["paging"].items())
    lines += ["", *pool_lines(state["pools"]), ""]
    lines += count_lines("requests", sorted(state["requests"].items(), key=lambda item: -item[1]))
    lines += [f"warning: {text}" for text in warnings(state)]
    return "\n".join(lines)


def styles(state: dict[str, Any]) -> dict[str, str]:
    """Return the colour of lines by their first word; full ram is normal."""
    word = health(state).state
    colours = {"warning": "bold red"}
    if word != "ok":
        colours["health"] = "yellow" if word == "under pressure" else "bold red"
    for name, share_ in shares(state):
        if name != "ram" and share_.percent >= THRESHOLDS[1]:
            colours[name] = "red" if share_.percent >= THRESHOLDS[0] else "yellow"
    return colours


def show(state: dict[str, Any]) -> None:
    """Print the status, in colour on a terminal."""
    text = format_status(state)
    if not sys.stdout.isatty():
        print(text)
        return
    from rich.console import Console
    console, colours = Console(highlight=False, markup=False, soft_wrap=True), styles(state)
    for line in text.splitlines():
        console.print(line, style=colours.get(line.partition(" ")[0].rstrip(":")))


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Describe the command line of status."""
    command.add_argument("mountpoint", metavar="MOUNTPOINT")
    command.add_argument("--json", action="store_true", help="print JSON, for scripts")


def run(args: argparse.Namespace) -> None:
    """tmpfsctl status."""
    answer = status(args.mountpoint)
    if args.json:
        print(json.dumps(answer, indent=2))
    else:
        show(answer)
