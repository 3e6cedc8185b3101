"""experiments/e7.py: E7: windows."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from tmpfsd.options import OptionError, parse
from tmpfsd.optionwords import MIN_WINDOWS
from tmpfsd.tmpfs import vnops
from tmpfsd.uvm.errors import Inconsistent
from tmpfsd.uvm.param import PAGE_SIZE
from tools.experiments import figures
from tools.experiments.child import Job
from tools.experiments.drive import CRED, MIB, PER_DIR, ROOT, Files, Tick, Timer, mount
from tools.experiments.e1 import largest
from tools.experiments.report import Claim, mib, middle, rate, ratio, table
from tools.experiments.scale import Scale

TITLE = "Windows"
QUESTION = ("In 2006 an anonymous object seen through one window did not work: two records could not be held at once.  "
            "How many windows does it take, and what do they cost against a submap?")
LIMITS = (f"without FUSE.  Fewer than {MIN_WINDOWS} windows are refused at mount; here they are made all the same, to "
          "see how far they go, and the comparison begins with those that a mount may have.  A window here is an entry "
          "of the page table in Python: mapping one costs no TLB flush as it did in 2006, so the cost is less than a "
          "kernel's.  \"Fits\" is `ram` of 2 times the metadata, where nothing pages and only the windows cost; "
          "\"pages\" is metadata of 2 times `ram`.  Medians of three runs, made in turn.")
FEW = (1, 2, 4, 8, 16, 32)  # refused at mount
WINDOWS, QUICK_WINDOWS = (64, 128, 256, 512, 1024), (64, 256)
METADATA, SAMPLE, TURNS = 12 * MIB, 10_000, 3
QUICK_METADATA, QUICK_SAMPLE = 2 * MIB, 500
CASES = {"fits": 2.0, "pages": 0.5}
PHASES = ("create", "stat in order", "stat at random")
NOISE = 10                  # per cent by which medians of the same thing may differ


def jobs(scale: Scale) -> list[Job]:
    """The submap, and the object with more and more windows."""
    metadata, sample, windows = ((QUICK_METADATA, QUICK_SAMPLE, QUICK_WINDOWS) if scale.quick
                                 else (METADATA, SAMPLE, WINDOWS))
    files = largest(metadata // PAGE_SIZE)
    found = [Job("refused", "e7.refused", {"windows": list(FEW)}, 0.2)]
    found += [Job(f"few/{n}", "e7.few", {"ram": metadata // 2, "files": files, "windows": n}) for n in FEW]
    for turn in range(1 if scale.quick else TURNS):
        for case, times in CASES.items():
            for name in ("submap", *map(str, windows)):
                options: dict[str, Any] = {"backend": "pageable-submap"}
                if name != "submap":
                    options = {"backend": "aobj", "windows": int(name)}
                arguments = {"ram": int(metadata * times), "files": files, "sample": sample,
                             "options": options}
                found.append(Job(f"{case}/{name}/{turn}", "e7.seen", arguments, 3))
    return found


def refused(_tick: Tick, windows: list[int]) -> dict[str, str]:
    """What the mount says to too few windows."""
    said = {}
    for n in windows:
        try:
            parse(f"backend=aobj,windows={n}")
            said[str(n)] = ""
        except OptionError as error:
            said[str(n)] = str(error)
    return said


def few(tick: Tick, ram: int, files: int, windows: int) -> dict[str, Any]:
    """Files of an object with fewer windows than a mount allows, in one directory, until an operation lacks one.

    Each breath then frees all windows, so the only limit is how many records one operation holds at once.
    """
    created, ended = 0, ""
    try:
        mp = mount(ram_bytes=ram, backend="aobj", windows=windows)
        for created in range(files):
            if created % PER_DIR == 0:
                tick(created / files)
            mp.breathe()
            vnops.forget(mp, vnops.create(mp, ROOT, Files.name(created), 0o644, CRED), 1)
        created = files
    except Inconsistent as error:
        ended = str(error)
    return {"windows": windows, "created": created, "wanted": files, "ended": ended}


def seen(tick: Tick, ram: int, files: int, sample: int, options: dict[str, Any]) -> dict[str, Any]:
    """Create and stat; count what windows do."""
    made = Files(mount(ram_bytes=ram, **options))
    order = random.Random(7).sample(range(files), min(sample, files))
    result: dict[str, Any] = {"files": files, "ram": ram}
    work = (("create", lambda: made.create_to(files), files), ("stat in order", lambda: made.stat(range(files)), files),
            ("stat at random", lambda: made.stat(order), len(order)))
    for step, (name, call, n) in enumerate(work, 1):
        before = made.mp.status()["submap"].get("recycles", 0)
        with Timer() as timer:
            call()
        recycles = made.mp.status()["submap"].get("recycles", 0) - before
        result[name] = {**timer.result(n), "recycles": recycles / n}
        tick(step / len(work))
    assert made.count == files, made.ended
    return result


def figure_of(results: dict[str, Any], case: str, name: str, *path: str) -> float:
    """A median over the runs."""
    return middle(results, [f"{case}/{name}/{turn}" for turn in range(TURNS)], *path) or 0.0


def names_of(results: dict[str, Any]) -> list[str]:
    """The submap and the numbers of windows."""
    found = {key.split("/")[1] for key in results if key.partition("/")[0] in CASES}
    return ["submap", *sorted(found - {"submap"}, key=int)]


def render(results: dict[str, Any], out: Path) -> tuple[list[str], list[Claim]]:
    """The report of E7."""
    names = names_of(results)
    body = ["Refused at mount:", "", *(f"- `{said or f'windows={n}: **not refused**'}`" for n, said
                                       in results["refused"].items()), "",
            "Made all the same, empty files in one directory until an operation had no window for a record:", ""]
    body += table(("windows", "files", "ended by"), [
        (it["windows"], f"{it['created']:,} of {it['wanted']:,}", it["ended"] or "all created")
        for it in fewest(results)])
    panels = []
    for case in CASES:
        ram = next(it["ram"] for key, it in results.items() if key.startswith(case))
        body += [f"{case.capitalize()} (`ram` {mib(ram)} MiB), operations a second, and window recycles an operation:",
                 ""]
        body += table(("windows", *(heading for phase in PHASES for heading in (phase, "recycles"))), [
            (name, *(cell for phase in PHASES for cell in (
                rate(figure_of(results, case, name, phase, "rate")),
                "-" if name == "submap" else f"{figure_of(results, case, name, phase, 'recycles'):.2f}")))
            for name in names])
        counts = [int(name) for name in names[1:]]
        drawn = {phase: (counts, [against(results, case, str(n), phase) for n in counts]) for phase in PHASES}
        panels.append((case, drawn))
    figures.lines(out / "e7.png", "rate with windows over rate with a submap", "windows", panels,
                  "ratio", xlog=True)
    return [*body, "![rates over windows](e7.png)", ""], _answer(results)


def fewest(results: dict[str, Any]) -> list[dict[str, Any]]:
    """The runs with too few windows, fewest first."""
    return sorted((it for key, it in results.items() if key.startswith("few/")), key=lambda it: it["windows"])


def against(results: dict[str, Any], case: str, name: str, phase: str) -> float:
    """The rate with this many windows divided by that of the submap."""
    return ratio(figure_of(results, case, name, phase, "rate"), figure_of(results, case, "submap", phase, "rate"))


def _answer(results: dict[str, Any]) -> list[Claim]:
    windows = names_of(results)[1:]
    few, many = windows[0], windows[-1]
    every = all(results["refused"].values())
    one, lucky = fewest(results)[0], [it["windows"] for it in fewest(results) if not it["ended"]]
    all_few = [100 * against(results, case, few, phase) for case in CASES for phase in PHASES]
    near = [100 * against(results, case, many, phase) for case in CASES for phase in PHASES[:2]]
    wild = [100 * against(results, case, many, PHASES[2]) for case in CASES]
    spans = [f"{min(part):.0f} to {max(part):.0f} %" for part in (all_few, near, wild)]
    return [Claim(every and int(few) == MIN_WINDOWS and one["windows"] == 1 and one["created"] == 0,
                  f"With one window not one file can be made; with {min(lucky, default=few)} creates alone go on, but "
                  f"only {MIN_WINDOWS}, the most pages an operation may touch, are enough for all, and with these "
                  f"everything works at {spans[0]} of the submap's rates.",
                  f"{'fewer were refused' if every else 'some fewer were not refused'}; one window made "
                  f"{one['created']} files; with {few} the rates are {spans[0]} of the submap's."),
            Claim(max(near) <= 100 + NOISE and max(wild) <= 100,
                  f"With {many}, creates and stats in order run at {spans[1]} and stats at random at {spans[2]} of the "
                  "submap's rates: beyond the noise of a run, windows are never faster.",
                  f"with {many}, creates and stats in order run at {spans[1]} and stats at random at {spans[2]} of the "
                  "submap's rates, so windows were faster somewhere.")]
