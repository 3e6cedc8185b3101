"""experiments/e3.py: E3: what does paging cost?"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from tmpfsd.options import BACKENDS, NEVER_OUT
from tmpfsd.uvm.param import PAGE_SIZE
from tools.experiments import figures
from tools.experiments.child import Job
from tools.experiments.drive import MIB, Files, Tick, Timer, cached_swap, mount
from tools.experiments.e1 import largest
from tools.experiments.report import Claim, goal, mib, middle, rate, ratio, table
from tools.experiments.scale import Scale

TITLE = "What does paging cost?"
QUESTION = "What does it cost when the metadata are larger than memory, by operation and by way of paging?"
LIMITS = ("without FUSE, so each operation costs 5 to 15 us beside its paging and paging weighs more than through a "
          "mount, where a request adds 40 us; `ram` is 4 MiB, which makes 8 times `ram` about 175,000 files.  Stat in "
          "order is in the order of creation.  Stat at random is a sample.  Medians where there are several runs, "
          "which are made in turn.")
MULTIPLES = (0.5, 1, 2, 4, 8)
RAM = 4 * MIB
QUICK_RAM, QUICK_MULTIPLES = 1 * MIB, (0.5, 4)
SAMPLE, QUICK_SAMPLE = 10_000, 500
PHASES = ("create", "list", "stat in order", "stat at random", "remove")
DEFAULT = "pageable-submap"
CREATE_GOAL, STAT_GOAL = 0.6, 0.5
LOW, HIGH = 0.5, 8


def jobs(scale: Scale) -> list[Job]:
    """Each backend, way of paging and size; several runs of the short ones and of those that have goals."""
    ram, multiples, sample = (QUICK_RAM, QUICK_MULTIPLES, QUICK_SAMPLE) if scale.quick else (RAM, MULTIPLES, SAMPLE)
    found = []
    for turn in range(1 if scale.quick else 3):
        for multiple in multiples:
            for backend in BACKENDS:
                for io in ("buffered", "direct"):
                    long = multiple > 1 and not (backend == DEFAULT and io == "buffered")
                    if long and turn or backend in NEVER_OUT and (multiple > LOW or io == "direct"):
                        continue
                    files = largest(int(multiple * ram) // PAGE_SIZE)
                    arguments = {"backend": backend, "io": io, "ram": ram, "files": files, "sample": sample}
                    found.append(Job(key(backend, io, multiple, turn), "e3.cost", arguments,
                                     files / 20_000 * (2 if io == "direct" else 1)))
    return found


def key(backend: str, io: str, multiple: float, turn: int) -> str:
    """Where a result is kept."""
    return f"{backend}/{io}/{multiple:g}/{turn}"


def cost(tick: Tick, backend: str, io: str, ram: int, files: int, sample: int) -> dict[str, Any]:
    """All phases on one file system."""
    made = Files(mount(backend=backend, ram_bytes=ram, swap_io=io))
    result: dict[str, Any] = {"files": files, "ram": ram}
    half = files // 2
    with Timer() as first:
        made.create_to(half)
    with Timer() as second:
        whole = made.create_to(files)
    assert whole, made.ended
    result["create"] = {"rate": files / (first.wall + second.wall), "second_half": (files - half) / second.wall,
                        "cpu": first.cpu + second.cpu}
    status = made.mp.status()
    result["metadata"], result["swapped"] = status["used_bytes"], status["swap"]["used_bytes"]
    result["cached"] = cached_swap(made.mp)
    order = random.Random(1).sample(range(files), min(sample, files))
    work = (("list", made.list_all, files), ("stat in order", lambda: made.stat(range(files)), files),
            ("stat at random", lambda: made.stat(order), len(order)),
            ("remove", lambda: made.remove(range(files)), files))
    for step, (name, call, n) in enumerate(work, 1):
        tick(step / len(PHASES))
        before = made.mp.vm.pageins
        with Timer() as timer:
            call()
        result[name] = {**timer.result(n), "pageins": made.mp.vm.pageins - before}
    made.mp.breathe()
    return result


def figure_of(results: dict[str, Any], backend: str, io: str, multiple: float, *path: str) -> float | None:
    """A median over the runs."""
    return middle(results, [key(backend, io, multiple, turn) for turn in range(3)], *path)


def render(results: dict[str, Any], out: Path) -> tuple[list[str], list[Claim]]:
    """The report of E3."""
    multiples = sorted({float(name.split("/")[2]) for name in results})
    body, panels = [], []
    for phase in PHASES:
        rows, drawn = [], {}
        for backend in BACKENDS:
            for io in ("buffered", "direct"):
                rates = [figure_of(results, backend, io, multiple, phase, "rate") for multiple in multiples]
                if any(rates):
                    rows.append((backend, io, *map(rate, rates)))
                    if io == "buffered":
                        drawn[backend] = ([m for m, r in zip(multiples, rates) if r], [r for r in rates if r])
        body += [f"{phase.capitalize()}, files a second, by metadata in multiples of `ram`:", ""]
        body += table(("backend", "swap_io", *(f"{multiple:g}" for multiple in multiples)), rows, left=2)
        panels.append((phase, drawn))
    ram = next(iter(results.values()))["ram"]
    figures.lines(out / "e3.png", f"rates, ram = {mib(ram)} MiB, swap_io=buffered", "metadata / ram", panels,
                  "files a second", xlog=True)
    body += ["![rates over size](e3.png)", "", *_cache(results, multiples), *_goals(results, multiples)]
    return body, _answer(results, multiples)


def _cache(results: dict[str, Any], multiples: list[float]) -> list[str]:
    """What the host keeps of the swap file."""
    rows = []
    for io in ("buffered", "direct"):
        rows += [(io, f"{multiple:g}", mib(figure_of(results, DEFAULT, io, multiple, "swapped") or 0),
                  mib(figure_of(results, DEFAULT, io, multiple, "cached") or 0)) for multiple in multiples]
    return [f"Copies of paged-out pages in the host's page cache after the creates ({DEFAULT}); the host may reclaim "
            "them at any time, and a page-in that finds one costs no disk:", "",
            *table(("swap_io", "metadata / ram", "swapped MiB", "of it in the page cache, MiB"), rows)]


def against(results: dict[str, Any], multiples: list[float], *path: str, io: str = "buffered") -> float:
    """The default backend's rate at the largest size over that at the smallest."""
    return ratio(figure_of(results, DEFAULT, io, multiples[-1], *path) or 0,
                 figure_of(results, DEFAULT, io, multiples[0], *path) or 0)


def _goals(results: dict[str, Any], multiples: list[float]) -> list[str]:
    where = f"{multiples[-1]:g} times `ram` over {multiples[0]:g} times, {DEFAULT}, buffered"
    return [goal(against(results, multiples, "create", "rate"), CREATE_GOAL, f"create, {where}"),
            goal(against(results, multiples, "stat in order", "rate"), STAT_GOAL, f"stat in order, {where}"),
            f"- create, the second half of the files only: "
            f"{against(results, multiples, 'create', 'second_half'):.2f}; all files, direct: "
            f"{against(results, multiples, 'create', 'rate', io='direct'):.2f}.",
            f"- stat at random: {against(results, multiples, 'stat at random', 'rate'):.2f}, direct "
            f"{against(results, multiples, 'stat at random', 'rate', io='direct'):.2f}.", ""]


def _answer(results: dict[str, Any], multiples: list[float]) -> list[Claim]:
    create, stat = (against(results, multiples, phase, "rate") for phase in ("create", "stat in order"))
    wild = against(results, multiples, "stat at random", "rate")
    faults = [ratio(figure_of(results, DEFAULT, "buffered", multiples[-1], phase, "pageins") or 0,
                    figure_of(results, DEFAULT, "buffered", multiples[-1], phase, "n") or 0)
              for phase in ("stat in order", "stat at random")]
    size = f"{multiples[-1]:g} times `ram`"
    return [Claim(create >= CREATE_GOAL and stat >= STAT_GOAL,
                  f"At {size} creating keeps {100 * create:.0f} % and stat in order {100 * stat:.0f} % of the rate at "
                  f"{multiples[0]:g} times.",
                  f"at {size} creating keeps {100 * create:.0f} % and stat in order {100 * stat:.0f} % of the rate at "
                  f"{multiples[0]:g} times."),
            Claim(wild < stat and faults[1] > faults[0],
                  f"Without locality each file costs {faults[1]:.2f} page-ins instead of {faults[0]:.3f}: stat at "
                  f"random keeps {100 * wild:.0f} % when the swap file is cached by the host, "
                  f"{100 * against(results, multiples, 'stat at random', 'rate', io='direct'):.0f} % when each page-in "
                  "goes to the disk.",
                  f"stat at random keeps {100 * wild:.0f} %, with {faults[1]:.2f} page-ins a file ({faults[0]:.3f} in "
                  "order).")]
