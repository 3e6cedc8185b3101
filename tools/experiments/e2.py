"""experiments/e2.py: E2: memory over time."""

from __future__ import annotations

from math import ceil
from pathlib import Path
from typing import Any

from tmpfsd.options import BACKENDS, NEVER_OUT
from tmpfsd.uvm.param import PAGE_SIZE
from tools.experiments import figures
from tools.experiments.child import Job
from tools.experiments.drive import MIB, Files, Tick, memory, mount, rss
from tools.experiments.report import Claim, mib, ratio, table
from tools.experiments.scale import Scale

TITLE = "Memory over time"
QUESTION = "Does resident memory stay within its budget while the metadata grow, and what grows in its place?"
LIMITS = ("without FUSE, so the RSS is that of Python, the arena and the page table; a sample for each 1/100 of the "
          "files.  RSS counts pages of the interpreter that other processes share.")
RAM, FILES = 16 * MIB, 600_000
QUICK_RAM, QUICK_FILES = 2 * MIB, 40_000
SAMPLES = 100
PANELS = (("resident", "resident (frames)"), ("wired", "wired"), ("swapped", "swapped"), ("rss", "process RSS"))
# What a page may cost outside the arena: page table 9, slot 5, pool 14 (more with many items), and room to grow.
TABLE_BYTES_A_PAGE = PAGE_SIZE // 100


def jobs(scale: Scale) -> list[Job]:
    """Every backend."""
    ram, files = (QUICK_RAM, QUICK_FILES) if scale.quick else (RAM, FILES)
    return [Job(name, "e2.grow", {"backend": name, "ram": ram, "files": files}, 1 if name in NEVER_OUT else 10)
            for name in BACKENDS]


def grow(tick: Tick, backend: str, ram: int, files: int) -> dict[str, Any]:
    """Create files and look at the memory as they come."""
    before = rss()
    made = Files(mount(backend=backend, ram_bytes=ram))
    samples = [{"files": 0, **memory(made.mp)}]
    for sample in range(1, SAMPLES + 1):
        whole = made.create_to(files * sample // SAMPLES)
        samples.append({"files": made.count, **memory(made.mp)})
        tick(sample / SAMPLES)
        if not whole:
            break
    return {"ram": ram, "files": made.count, "ended": made.ended, "rss_before": before, "samples": samples}


def render(results: dict[str, Any], out: Path) -> tuple[list[str], list[Claim]]:
    """The report of E2."""
    runs = {name: results[name] for name in BACKENDS if name in results}
    rows = []
    for name, it in runs.items():
        last = it["samples"][-1]
        rows.append((name, f"{it['files']:,}", *(mib(max(sample[key] for sample in it["samples"]))
                                                 for key in ("metadata", "resident", "wired", "swapped")),
                     mib(it["rss_before"]), mib(last["rss"]), f"{overhead(it):.0f}"))
    body = table(("backend", "files", "metadata MiB", "resident", "wired", "swapped", "RSS before", "RSS at the end",
                  "RSS a further page, once ram is full, bytes"), rows)
    panels = [(title, {name: ([s["files"] for s in it["samples"]], [s[key] / MIB for s in it["samples"]])
                       for name, it in runs.items()}) for key, title in PANELS]
    ram = next(iter(runs.values()))["ram"]
    figures.lines(out / "e2.png", f"memory while files are created, ram = {mib(ram)} MiB", "files", panels, "MiB")
    return [*body, "![memory over files created](e2.png)", ""], _answer(runs)


def overhead(it: dict[str, Any]) -> float:
    """What each further page of metadata costs the process once `ram` is full: from the first page-out to the end."""
    first = next((sample for sample in it["samples"] if sample["swapped"]), it["samples"][-1])
    last = it["samples"][-1]
    grown = last["rss"] - first["rss"] - (last["resident"] - first["resident"])
    return max(ratio(grown, (last["metadata"] - first["metadata"]) / PAGE_SIZE), 0.0)


def _answer(runs: dict[str, Any]) -> list[Claim]:
    paging = {name: it for name, it in runs.items() if name not in NEVER_OUT}
    kept = all(sample["resident"] <= it["ram"] for it in runs.values() for sample in it["samples"])
    grown = min((it["samples"][-1]["metadata"] / it["ram"] for it in paging.values()), default=0.0)
    still = all(sample["wired"] == 0 for it in paging.values() for sample in it["samples"])
    worst = max((overhead(it) for it in paging.values()), default=0.0)
    return [Claim(kept and still and grown > 1,
                  f"Resident memory never passed `ram` in any sample, nothing is wired by those that page out, "
                  f"and their metadata grew to {grown:.1f} times `ram`.",
                  f"resident memory {'kept to' if kept else 'passed'} `ram`, {'nothing' if still else 'something'} was "
                  f"wired, and metadata grew to {grown:.1f} times `ram`."),
            Claim(worst <= TABLE_BYTES_A_PAGE,
                  f"What grows in its place is the swap file, and tables of {ceil(worst)} bytes for a page of 4,096, "
                  "in or out.",
                  f"beside the swap file {worst:.0f} bytes of the process grow with each page of metadata.")]
