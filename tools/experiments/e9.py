"""experiments/e9.py: E9: what do compression and encryption cost, and what do they save?"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from tmpfsd.uvm.param import PAGE_SIZE
from tools.experiments import figures
from tools.experiments.child import Job
from tools.experiments.drive import MIB, Files, Tick, Timer, mount
from tools.experiments.e1 import largest
from tools.experiments.report import GOAL_MET, GOAL_MISSED, Claim, goal, mib, middle, rate, ratio, table
from tools.experiments.scale import Scale

TITLE = "Compressed and encrypted pages"
QUESTION = ("What do a compressed tier before swap and encrypted swap cost where the metadata are 8 times `ram`, and "
            "how much less reaches the disk?")
LIMITS = ("empty files, 1,000 to a directory, without FUSE.  The tier is a part of the same `ram` (the default share, "
          "or 75 %).  Buffered swap is in the host's page cache, which holds all of it: a page-in is a copy, and no "
          "disk is waited for; `direct` reads the disk.  Bytes to swap are what the process has passed to write(2).  "
          "Medians of three runs, made in turn.")
TIMES = 8
RAM, SAMPLE, TURNS = 12 * MIB, 20_000, 3
QUICK_RAM, QUICK_SAMPLE = 2 * MIB, 300
BYTES_RAM, BYTES_FILES = 16 * MIB, 300_000
PLAIN, CRYPT, ZSTD, MORE, MOST, BOTH = "neither", "encrypted", "zram=50%", "zram=75%", "zram=90%", "encrypted, zram=50%"
VARIANTS: dict[str, dict[str, Any]] = {
    PLAIN: {"swap_crypt": False},
    CRYPT: {},
    ZSTD: {"swap_crypt": False, "compress": "zstd", "zram": -50},
    MORE: {"swap_crypt": False, "compress": "zstd", "zram": -75},
    MOST: {"swap_crypt": False, "compress": "zstd", "zram": -90},
    BOTH: {"compress": "zstd", "zram": -50},
}
DIRECT = ", direct"
VARIANTS |= {name + DIRECT: {**VARIANTS[name], "swap_io": "direct"} for name in (PLAIN, ZSTD, MORE, MOST)}
TIERS = (ZSTD, MORE, MOST)
MOST_BYTES = 1 / 3          # of the bytes without compression
PHASES = ("create", "stat in order", "list", "stat at random")


def jobs(scale: Scale) -> list[Job]:
    """Every variant, in turn; and how many bytes they write."""
    ram, sample = (QUICK_RAM, QUICK_SAMPLE) if scale.quick else (RAM, SAMPLE)
    files = largest(TIMES * ram // PAGE_SIZE)
    found = [Job(f"{name}/{turn}", "e9.work", {"ram": ram, "files": files, "sample": sample, "variant": name}, 4)
             for turn in range(1 if scale.quick else TURNS) for name in VARIANTS]
    ram, files = (QUICK_RAM, files) if scale.quick else (BYTES_RAM, BYTES_FILES)
    found += [Job(f"bytes/{name}", "e9.written", {"ram": ram, "files": files, "variant": name}, 3)
              for name in (PLAIN, *TIERS)]
    return found


def passed_to_write() -> int:
    """Bytes that this process has passed to write(2) and its like."""
    with open("/proc/self/io", encoding="ascii") as file:
        return int(dict(line.split(": ") for line in file.read().splitlines())["wchar"])


def work(tick: Tick, ram: int, files: int, sample: int, variant: str) -> dict[str, Any]:
    """Create, look at all in order, list, look at some at random."""
    made = Files(mount(ram_bytes=ram, **VARIANTS[variant]))
    order = random.Random(9).sample(range(files), min(sample, files))
    result: dict[str, Any] = {"files": files, "ram": ram}
    steps = (("create", lambda: made.create_to(files), files),
             ("stat in order", lambda: made.stat(range(files)), files), ("list", made.list_all, files),
             ("stat at random", lambda: made.stat(order), len(order)))
    for step, (name, call, n) in enumerate(steps, 1):
        with Timer() as timer:
            call()
        result[name] = timer.result(n)
        tick(step / len(steps))
    assert made.count == files, made.ended
    state = made.mp.status()
    return {**result, "zram": state["zram"]}


def written(tick: Tick, ram: int, files: int, variant: str) -> dict[str, Any]:
    """How many bytes these creates pass to write(2)."""
    made = Files(mount(ram_bytes=ram, **VARIANTS[variant]))
    before = passed_to_write()
    made.create_to(files, tick)
    return {"files": files, "ram": ram, "bytes": passed_to_write() - before}


def figure_of(results: dict[str, Any], name: str, *path: str) -> float:
    """A median over the runs."""
    return middle(results, [f"{name}/{turn}" for turn in range(TURNS)], *path) or 0.0


def against(results: dict[str, Any], name: str, other: str, phase: str) -> float:
    """A rate divided by that of another variant: in CPU time, or in wall time if a disk is waited for."""
    figure = "rate" if name.endswith(DIRECT) else "cpu"
    one, two = (figure_of(results, which, phase, figure) for which in (name, other))
    return ratio(one, two) if figure == "rate" else ratio(two, one)


def render(results: dict[str, Any], out: Path) -> tuple[list[str], list[Claim]]:
    """The report of E9."""
    any_run = results[f"{PLAIN}/0"]
    body = [f"`ram` {mib(any_run['ram'])} MiB, {any_run['files']:,} files, whose metadata are {TIMES} times as much; "
            "operations a second:", ""]
    body += table(("swap", *PHASES), [(name, *(rate(figure_of(results, name, phase, "rate")) for phase in PHASES))
                                      for name in VARIANTS])
    drawn = {PLAIN: (CRYPT, *TIERS, BOTH), PLAIN + DIRECT: tuple(name + DIRECT for name in TIERS)}
    for picture, (base, names) in zip(("e9.png", "e9_direct.png"), drawn.items()):
        figures.groups(out / picture, f"rate over that of \"{base}\"", list(PHASES),
                       {name: [against(results, name, base, phase) for phase in PHASES] for name in names})
    body += ["![rates over those without](e9.png)", "", "![the same where swap is direct](e9_direct.png)", ""]
    body += ["Ratios, of CPU where swap is buffered, of time where it is direct:", ""]
    body += table(("swap", "against", *PHASES), [
        (name, base, *(f"{against(results, name, base, phase):.2f}" for phase in PHASES))
        for base, names in drawn.items() for name in names], left=2)
    sent = {name: results[f"bytes/{name}"] for name in (PLAIN, *TIERS) if f"bytes/{name}" in results}
    if sent:
        first = sent[PLAIN]
        body += [f"Bytes to swap of {first['files']:,} creates in `ram` {mib(first['ram'])} MiB:", ""]
        body += table(("swap", "MiB", "of that without"), [
            (name, mib(it["bytes"]), f"{ratio(it['bytes'], first['bytes']):.2f}") for name, it in sent.items()])
    body += [*_goals(results, sent), ""]
    return body, _answer(results, sent)


def _goals(results: dict[str, Any], sent: dict[str, Any]) -> list[str]:
    best = max(TIERS, key=lambda name: against(results, name + DIRECT, PLAIN + DIRECT, PHASES[3]))
    lines = [goal(against(results, best + DIRECT, PLAIN + DIRECT, PHASES[3]), 3,
                  f"stat at random with direct swap, {best} against no compression")]
    lines += [goal(min(against(results, name, PLAIN, phase) for phase in PHASES[:3]), 0.85,
                   f"the least of create, stat in order and list, {name} against no compression") for name in TIERS]
    lines += [goal(against(results, CRYPT, PLAIN, phase), 0.9, f"{phase}, encrypted against not")
              for phase in (PHASES[0], PHASES[3])]
    for name in TIERS if sent else ():
        part = ratio(sent[name]["bytes"], sent[PLAIN]["bytes"])
        lines.append(f"- bytes to swap, {name} against no compression: {part:.2f}, goal at most {MOST_BYTES:.2f}: "
                     f"{GOAL_MET if part <= MOST_BYTES else GOAL_MISSED}.")
    return lines


def _answer(results: dict[str, Any], sent: dict[str, Any]) -> list[Claim]:
    gain, best = max((against(results, name + DIRECT, PLAIN + DIRECT, PHASES[3]), name) for name in TIERS)
    costs = [against(results, CRYPT, PLAIN, phase) for phase in PHASES]
    claims = [Claim(gain > 1, f"Where a page-in waits for the disk, {best} makes stats at random {gain:.1f} times as "
                    "fast.", f"where a page-in waits for the disk, no share made stats at random faster ({gain:.2f})."),
              Claim(min(costs) >= 0.7, f"Encryption costs at most {100 * (1 - min(costs)):.0f} % of the CPU of any of "
                    "these.", f"encryption left {min(costs):.2f} of one of the rates.")]
    if sent:
        parts = {name: ratio(sent[name]["bytes"], sent[PLAIN]["bytes"]) for name in TIERS}
        said = ", ".join(f"{part:.2f} with {name}" for name, part in parts.items())
        claims.append(Claim(max(parts.values()) < 1 / 3, f"Of the bytes to swap there are left {said}.",
                            f"of the bytes to swap there are left {said}: not less than a third."))
    return claims
