"""experiments/e6.py: E6: does the flag do anything in the main map?"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from tmpfsd.uvm.errors import VmError
from tmpfsd.uvm.pagedaemon import BACKOFF
from tools.experiments import figures
from tools.experiments.child import Job
from tools.experiments.drive import MIB, Files, Tick, Timer, memory, mount
from tools.experiments.report import Claim, mib, middle, ratio, table
from tools.experiments.scale import Scale

TITLE = "Does the flag do anything in the main map?"
QUESTION = "In 2006: \"does the PAGEABLE flag do anything in the main kernel map?\""
LIMITS = ("without FUSE; CPU is that of the whole process.  When a backend has met its first error it is asked for "
          "more files for 2 seconds without a pause, to see what the refusals cost.  Medians of three runs, made in "
          "turn.")
BACKENDS = ("wired", "pageable-flag", "pageable-object", "pageable-submap")
RAM, FILES, SECONDS = 4 * MIB, 100_000, 2.0
QUICK_RAM, QUICK_FILES, QUICK_SECONDS = 1 * MIB, 12_000, 0.2
TURNS = 3
HANG = 1e-3                 # CPU seconds of a refusal: with more, the machine would be busy with nothing else


def jobs(scale: Scale) -> list[Job]:
    """The flag against pages that never leave, and pages that have an owner."""
    ram, files, seconds = (QUICK_RAM, QUICK_FILES, QUICK_SECONDS) if scale.quick else (RAM, FILES, SECONDS)
    return [Job(f"{name}/{turn}", "e6.pressed", {"backend": name, "ram": ram, "files": files, "seconds": seconds})
            for turn in range(1 if scale.quick else TURNS) for name in BACKENDS]


def pressed(tick: Tick, backend: str, ram: int, files: int, seconds: float) -> dict[str, Any]:
    """Create, and go on when it is refused."""
    made = Files(mount(backend=backend, ram_bytes=ram))
    with Timer() as timer:
        made.create_to(files, tick)
    state = made.mp.status()
    paging = state["paging"]
    result = {**timer.result(made.count), "wanted": files, "ended": made.ended, "ram": ram,
              "pageouts": paging["pageouts"], "scans": paging["scans"], "pageins": paging["pageins"],
              "unowned": state.get("unowned_bytes", 0), **memory(made.mp)}
    if made.ended:
        tries = refused = 0
        end = time.monotonic() + seconds
        with Timer() as pressing:
            while time.monotonic() < end:
                tries += 1
                try:
                    made.create()
                except VmError:
                    refused += 1
        after = made.mp.status()["paging"]
        result["after"] = {"tries": tries, "refused": refused, "cpu": pressing.cpu / tries,
                           "seconds": pressing.wall, "scans": after["scans"] - paging["scans"],
                           "vain": after["stalls"] - paging["stalls"],
                           "pageouts": after["pageouts"] - paging["pageouts"]}
    return result


def figure_of(results: dict[str, Any], name: str, *path: str) -> float:
    """A median over the runs."""
    return middle(results, [f"{name}/{turn}" for turn in range(TURNS)], *path) or 0.0


def scans_a_second(results: dict[str, Any], name: str) -> float:
    """Of the page daemon, while creates are refused."""
    return ratio(figure_of(results, name, "after", "scans"), figure_of(results, name, "after", "seconds"))


def render(results: dict[str, Any], out: Path) -> tuple[list[str], list[Claim]]:
    """The report of E6."""
    rows, after = [], []
    for name in BACKENDS:
        it = results[f"{name}/0"]
        n = figure_of(results, name, "n")
        rows.append((name, f"{n:,.0f} of {it['wanted']:,}", it["ended"] or "all created",
                     mib(figure_of(results, name, "swapped")), f"{figure_of(results, name, 'pageouts'):,.0f}",
                     f"{figure_of(results, name, 'scans'):,.0f}", mib(it["wired"]), mib(it["unowned"]),
                     f"{1e6 * ratio(figure_of(results, name, 'cpu'), n):.1f}"))
        if "after" in it:
            tries = it["after"]["tries"]
            after.append((name, f"{it['after']['refused']:,} of {tries:,}",
                          f"{1e6 * figure_of(results, name, 'after', 'cpu'):.1f}",
                          f"{figure_of(results, name, 'after', 'scans'):,.0f}",
                          f"{figure_of(results, name, 'after', 'vain'):,.0f}", f"{scans_a_second(results, name):.0f}",
                          f"{figure_of(results, name, 'after', 'pageouts'):,.0f}"))
    ram = results[f"{BACKENDS[0]}/0"]["ram"]
    body = [f"`ram` is {mib(ram)} MiB.", "", *table(
        ("backend", "files", "ended by", "swapped MiB", "page-outs", "scans", "wired MiB", "PAGEABLE, no owner, MiB",
         "CPU us a file"), rows)]
    body += ["After the first refusal, further creates:", "", *table(
        ("backend", "refused", "CPU us a refusal", "scans", "of them in vain", "scans a second", "page-outs"), after)]
    wanted = results[f"{BACKENDS[0]}/0"]["wanted"]
    figures.bars(out / "e6.png", f"files created, ram = {mib(ram)} MiB, {wanted:,} wanted", "files",
                 {name: figure_of(results, name, "n") for name in BACKENDS})
    return [*body, "![files created](e6.png)", ""], _answer(results)


def _answer(results: dict[str, Any]) -> list[Claim]:
    wired, flag, owned = ({key: figure_of(results, name, key) for key in ("n", "pageouts", "wanted")}
                          for name in BACKENDS[:3])
    after = {key: figure_of(results, "pageable-flag", "after", key) for key in ("scans", "vain", "cpu", "pageouts")}
    a_second = scans_a_second(results, "pageable-flag")
    plain = figure_of(results, "wired", "after", "cpu")
    most = figure_of(results, "pageable-flag", "after", "seconds") / BACKOFF + 2     # limited by the hysteresis
    nothing = flag["n"] == wired["n"] and flag["pageouts"] == after["pageouts"] == 0
    return [Claim(nothing and after["scans"] == after["vain"] > 0 and after["scans"] <= most and after["cpu"] < HANG,
                  f"No: a page without an owner is on no queue, so pageable-flag stops at the same {flag['n']:,.0f} "
                  f"files as wired, without a page-out, and the daemon's {after['scans']:,.0f} scans find nothing "
                  f"({a_second:.0f} a second by its hysteresis; {1e6 * after['cpu']:.0f} us of CPU a refusal, wired "
                  f"{1e6 * plain:.0f}).",
                  f"pageable-flag stopped at {flag['n']:,.0f} files (wired: {wired['n']:,.0f}) with "
                  f"{flag['pageouts'] + after['pageouts']:,.0f} page-outs; {after['vain']:,.0f} of "
                  f"{after['scans']:,.0f} scans were in vain, {a_second:.0f} a second, and a refusal cost "
                  f"{1e6 * after['cpu']:,.0f} us of CPU."),
            Claim(owned["n"] == owned["wanted"] and owned["pageouts"] > 0,
                  f"It is the owner that does it: the same pages owned by the kernel object created all "
                  f"{owned['n']:,.0f} files with {owned['pageouts']:,.0f} page-outs.",
                  f"pages owned by the kernel object created {owned['n']:,.0f} of {owned['wanted']:,.0f} files with "
                  f"{owned['pageouts']:,.0f} page-outs.")]
