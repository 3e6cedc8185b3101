"""experiments/e5.py: E5: one submap, or one for each pool?"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from tmpfsd.tmpfs import vnops
from tmpfsd.tmpfs.btree import LEAF_CLASSES
from tmpfsd.tmpfs.forecast import estimate, uniform
from tmpfsd.uvm.errors import VmError
from tmpfsd.uvm.param import PAGE_SIZE
from tools.experiments import figures
from tools.experiments.child import Job
from tools.experiments.drive import MIB, PER_DIR, Files, Tick, Timer, mount
from tools.experiments.report import Claim, mib, middle, rate, ratio, table
from tools.experiments.scale import Scale

TITLE = "One submap or one for each pool?"
QUESTION = "In 2006: \"should each pool have its own submap?\""
LIMITS = ("without FUSE.  The churn: files of 100 bytes, 1,000 to a directory; a random half of them removed; then "
          "files of 500 bytes until the first error or as many as were removed.  A fixed submap has 5 % more than the "
          "first files need.  Medians of three runs, made in turn.  The figures are of this churn; another one would "
          "have others.")
RAM, FILES, SAMPLE = 4 * MIB, 60_000, 5_000
QUICK_RAM, QUICK_FILES, QUICK_SAMPLE = 1 * MIB, 4_000, 300
FIRST, SECOND = 100, 500        # bytes of a file before and after
SLACK = 1.05
# Nodes, their lookup counts, and the classes that directories grow through, including FIRST and SECOND bytes.
POOLS = len(LEAF_CLASSES) + 2
CASES = ("shared, fixed", "per-pool, the same in all", "per-pool, as much for each", "shared, auto", "per-pool, auto")
EVEN = 0.25                     # a smaller difference of page-ins is no reason for either
TURNS = 3


def jobs(scale: Scale) -> list[Job]:
    """The five ways, in turn."""
    ram, files, sample = (QUICK_RAM, QUICK_FILES, QUICK_SAMPLE) if scale.quick else (RAM, FILES, SAMPLE)
    need = estimate(uniform(files, 13, dirs=-(-files // PER_DIR), size=FIRST)).npages
    whole = int(need * SLACK) * PAGE_SIZE
    part = whole // PAGE_SIZE // POOLS * PAGE_SIZE
    options: dict[str, dict[str, Any]] = dict(zip(CASES, (
        {"submap": whole}, {"submap": part, "submap_sharing": "per-pool"},
        {"submap": whole, "submap_sharing": "per-pool"}, {}, {"submap_sharing": "per-pool"})))
    plain = {"ram": ram, "files": files, "sample": sample}
    return [Job(f"{case}/{turn}", "e5.churn", {**plain, "options": options[case]}, 3)
            for turn in range(1 if scale.quick else TURNS) for case in CASES]


class Sized(Files):
    """Files that have bytes."""

    __slots__ = ("nbytes", "alive")

    def __init__(self, mp: Any) -> None:
        super().__init__(mp)
        self.nbytes = FIRST
        self.alive = bytearray()

    def create(self) -> None:
        """Make the next file, with its bytes; if it cannot have them, it is removed again."""
        mp, number = self.mp, self.count
        super().create()
        name, dino = self.name(number), self.dirs[number // PER_DIR]
        self.alive.append(1)
        mp.breathe()
        ino = vnops.lookup(mp, dino, name)
        try:
            mp.breathe()
            vnops.write(mp, ino, 0, bytes(self.nbytes))
        except VmError:
            mp.breathe()
            vnops.unlink(mp, dino, name)
            self.count -= 1
            self.alive.pop()
            raise
        finally:
            vnops.forget(mp, ino, 1)

    def read(self, numbers: list[int]) -> None:
        """Look up and read."""
        mp = self.mp
        for number in numbers:
            mp.breathe()
            ino = vnops.lookup(mp, self.dirs[number // PER_DIR], self.name(number))
            mp.breathe()
            vnops.read(mp, ino, 0, SECOND)
            vnops.forget(mp, ino, 1)

    def numbers(self) -> list[int]:
        """The files that exist."""
        return [number for number, there in enumerate(self.alive) if there]


def churn(tick: Tick, ram: int, files: int, sample: int, options: dict[str, Any]) -> dict[str, Any]:
    """Create, remove a random half, create other sizes; then look at the rest."""
    made = Sized(mount(ram_bytes=ram, **options))
    rng = random.Random(5)
    with Timer() as timer:
        made.create_to(files)
        first, ended_first = made.count, made.ended
        tick(0.3)
        gone = rng.sample(range(first), first // 2)
        made.remove(gone)
        for number in gone:
            made.alive[number] = 0
        tick(0.5)
        made.nbytes, made.ended = SECOND, ""
        made.create_to(first + len(gone))
    tick(0.8)
    second = made.count - first
    state = made.mp.status()
    before = made.mp.vm.pageins
    order = rng.sample(made.numbers(), min(sample, len(made.numbers())))
    with Timer() as look:
        made.read(order)
    held = sum(pool["items"] * pool["item_size"] for pool in state["pools"])
    pages = sum(pool["pages"] for pool in state["pools"]) * PAGE_SIZE
    submap = state["submap"]
    return {"first": first, "second": second, "wanted": files, "ended": made.ended or ended_first, "ram": ram,
            "size": submap["size_bytes"], "used": submap["used_bytes"], "high_water": submap["high_water_bytes"],
            "held": held, "pages": pages, "seconds": timer.wall, "pageins": made.mp.vm.pageins - before,
            "looked": len(order), "look_rate": len(order) / look.wall, "pageouts": state["paging"]["pageouts"]}


def figure_of(results: dict[str, Any], case: str, name: str) -> float:
    """A median over the runs."""
    return middle(results, [f"{case}/{turn}" for turn in range(TURNS)], name) or 0.0


def render(results: dict[str, Any], out: Path) -> tuple[list[str], list[Claim]]:
    """The report of E5."""
    rows = []
    for case in CASES:
        it = {name: figure_of(results, case, name) for name in
              ("first", "second", "size", "used", "pages", "held", "pageins", "looked", "look_rate", "pageouts")}
        rows.append((case, f"{it['first']:,.0f}", f"{it['second']:,.0f}",
                     results[f"{case}/0"]["ended"] or "all created", mib(it["size"]), mib(it["size"] - it["used"]),
                     mib(it["pages"] - it["held"]), f"{ratio(it['pageins'], it['looked']):.2f}", rate(it["look_rate"]),
                     f"{it['pageouts']:,.0f}"))
    wanted = next(iter(results.values()))["wanted"]
    body = table(("submap", f"first files, of {wanted:,}", "second files", "ended by", "size MiB", "no page MiB",
                  "free in pages MiB", "page-ins a read", "reads/s", "page-outs"), rows)
    body += ["\"No page\" is address space of the submap that no page has; with an ENOSPC beside it, it is space that "
             "is left and cannot be had. \"Free in pages\" is the room in pages that are taken, of removed files and "
             "of rounding: it is a pool's own and no other pool's, in either case. Reads are of what survived, at "
             f"random, {SECOND} bytes and {FIRST} bytes mixed.", ""]
    figures.bars(out / "e5.png", "files after the churn",
                 "files", {case: figure_of(results, case, "first") / 2 + figure_of(results, case, "second")
                           for case in CASES})
    return [*body, "![files after the churn](e5.png)", ""], _answer(results)


def _answer(results: dict[str, Any]) -> list[Claim]:
    shared, same, each = CASES[:3]
    files = {case: figure_of(results, case, "first") + figure_of(results, case, "second") for case in CASES}
    left = ratio(figure_of(results, same, "size") - figure_of(results, same, "used"), figure_of(results, same, "size"))
    times = ratio(figure_of(results, each, "size"), figure_of(results, shared, "size"))
    pageins = [ratio(figure_of(results, case, "pageins"), figure_of(results, case, "looked")) for case in CASES[3:]]
    apart = ratio(pageins[1], pageins[0]) - 1 if pageins[0] else 0.0
    return [Claim(files[same] < files[shared] and left > 0,
                  f"No: with the same address space in all, a submap for each pool ends after "
                  f"{100 * ratio(files[same], files[shared]):.0f} % of the files that a shared one holds, with "
                  f"{100 * left:.0f} % of it unused; to go further it needs {times:.1f} times the address space.",
                  f"with the same address space in all, a submap for each pool reached "
                  f"{100 * ratio(files[same], files[shared]):.0f} % of the files of a shared one."),
            Claim(abs(apart) <= EVEN,
                  f"Where submaps size themselves the two are alike: a read at random after the churn costs "
                  f"{pageins[0]:.2f} page-ins with a shared one and {pageins[1]:.2f} with one for each pool.",
                  f"where submaps size themselves, page-ins a read differ: {pageins[0]:.2f} shared, {pageins[1]:.2f} "
                  "per pool.")]
