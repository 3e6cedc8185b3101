"""bench/render.py: the report: the goals, one table of everything, and how it was measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from tools.bench import chart, data, idle, listing, metadata, pressure, trees
from tools.bench.goals import GOALS, Cells, middle, number, spread, times_as_fast, why_not
from tools.bench.scale import QUICK, Scale
from tools.bench.servers import KERNEL, NULLFS, TMPFSD, counterpart
from tools.bench.sheet import FREE, SAME, Measure
from tools.experiments import machine
from tools.experiments.report import Claim, table

PARTS: dict[str, Any] = {"metadata": metadata, "list": listing, "data": data, "trees": trees, "pressure": pressure,
                         "idle": idle}
COUNTED: dict[str, Callable[[Scale, Measure], float]] = {
    "metadata": lambda scale, _it: scale.files, "list": lambda scale, _it: scale.listed,
    "data": lambda scale, it: scale.random_mib if it.operation.startswith("random") else scale.data_mib,
    "trees": lambda scale, _it: scale.tree}
CHART, BACKENDS_CHART = "bench.png", "backends.png"
WHY_LENGTH = 36
QUIET_PERCENT = 10.0
HEAD = """# Benchmark

tmpfsd beside the kernel's tmpfs, the floor (`nullfs`: a C server that does as little as a FUSE server can) and other
FUSE servers. `make bench` writes this report: everything in a part was measured in the same run, one server after the
other in each round, and each sentence about a result was checked against the result by the program that wrote it.

    make bench NULLFS=nullfs.c EXAMPLE=tmpfs.py BENCH_OPTS="--peer 'memfs_ll=memfs_ll -f {mnt}' \\
        --peer 'memfs_ll, default_permissions=memfs_ll -f -o default_permissions {mnt}'"
    python -m tools.bench --only metadata,idle                # parts; the others keep their last results
    python -m tools.bench --quick --out DIR                   # small sizes: shows that it works, not how well
    python -m tools.bench --render                            # the report again from results.json
"""
METHOD = """## How it is measured

- **Rounds.** In each round each operation is done on each server before the next operation begins; another server
  comes first each time. A first round warms up, shows what a server cannot do, and is not counted. A figure is the
  median of the rounds; *spread* is half the distance of tmpfsd's quartiles, as a share of its median.
- **Placement.** *free*: the scheduler puts server and clients where it likes. *same core*: all of them on one
  processor (sched_setaffinity), each server started anew.
- **Clients** are processes in Python that loop over a system call, each in a directory of its own, with names relative
  to an open directory. What they and the system calls cost together is the column of the kernel's tmpfs: so much of
  every figure is not the server's. Several clients: the time from the first start to the last end, for each operation
  of all of them together.
- **Cold.** Names and inodes are dropped before (`echo 2 > /proc/sys/vm/drop_caches`; for trees 3, with the pages), and
  what the servers do with the FORGETs is waited for. The kernel's tmpfs has no colder place than memory: its names
  stay. Data are uncached because fio drops its files' pages (POSIX_FADV_DONTNEED) before it reads.
- **Units.** us: microseconds for one (of `ls`: for an entry of {listed:,}). MiB/s: by fio, which counts milliseconds,
  over {data_mib} MiB in sequence and {random_mib} MiB at random, all clients together, a write with its fsync. s: for a
  tree of {tree:,} files; several clients have trees of {trees:,} together. %: of one processor, once, over
  {idle_seconds:g} s, from the clock ticks in /proc/PID/stat. Ratios say how many times as fast tmpfsd is.
- **tmpfsd** runs with its defaults except `ram` and `size`, so that nothing pages out, except where it is to.
- **Awake.** The core of a client that waits for an answer is idle, and in a virtual machine it halts. tmpfsd keeps it
  awake meanwhile (`awake=auto`, [options](../../tmpfsd/options.md)), the other servers do not: with free placement the
  difference is mostly that. On one core it plays no part.
- **Permissions.** With `default_permissions` the kernel checks them, for which it asks a server for a directory's
  attributes after each change in it. tmpfsd has it unless it is told `noperm`, nullfs and pyfuse3's example have it;
  memfs_ll has not unless it is told. Goals and sentences compare servers that do the same; the columns "to ..." are
  of tmpfsd with its defaults.
"""


def cell(cells: Cells, measure: Measure, server: str) -> str:
    """A figure, or why there is none."""
    value = middle(cells, measure, server)
    if value is not None:
        return number(value, measure.unit)
    if server not in cells.get(measure.key, {}):
        return ""
    why = why_not(cells, measure, server)
    return why if len(why) <= WHY_LENGTH else why[:WHY_LENGTH] + "..."


def ratio(cells: Cells, measure: Measure, other: str) -> str:
    """How many times as fast tmpfsd is."""
    value = times_as_fast(middle(cells, measure, TMPFSD), middle(cells, measure, other), measure.unit)
    return "" if value is None else f"{value:.2f}"


def servers_of(results: Mapping[str, Any], *parts: str) -> dict[str, str]:
    """Name and command of all servers that these parts know, in order."""
    found: dict[str, str] = {}
    for part in parts:
        found.update(results[part]["servers"] if part in results else [])
    return found


def everything(results: Mapping[str, Any], cells: Cells) -> list[str]:
    """The one table."""
    common = [part for part in PARTS if part != "pressure"]
    servers = list(servers_of(results, *common))
    rows = []
    for part in common:
        if part not in results:
            continue
        for it in PARTS[part].measures(scale_of(results[part])):
            parted = spread(cells, it, TMPFSD)
            rows.append([it.operation, it.placement, it.clients, it.unit,
                         *(cell(cells, it, name) for name in servers), ratio(cells, it, NULLFS),
                         ratio(cells, it, KERNEL), "" if parted is None else f"{100 * parted:.0f} %"])
    return table(("operation", "placement", "clients", "unit", *servers, f"to {NULLFS}", f"to {KERNEL}", "spread"),
                 rows, 4)


def scale_of(part: Mapping[str, Any]) -> Scale:
    """The sizes of a part that has been run."""
    return QUICK if part["quick"] else Scale()


def to_reach(cells: Cells) -> list[str]:
    """The goals."""
    rows = [(goal.text, *goal.verdict(cells)) for goal in GOALS]
    return ["## Figures to reach", "", *table(("goal", "measured", "verdict"), rows)]


def beyond_ram(results: Mapping[str, Any], cells: Cells) -> list[str]:
    """Creates when metadata do not fit."""
    if "pressure" not in results:
        return []
    measure, = pressure.measures(Scale())
    times = scale_of(results["pressure"]).times
    rows = [(name, f"`{command}`", cell(cells, measure, name))
            for name, command in servers_of(results, "pressure").items()]
    return [f"## Metadata at {times} times `ram`", "",
            "Both mounts hold the same files when the rounds begin; only `ram` differs.", "",
            *table(("server", "command", "us a create"), rows, 2)]


def requests(results: Mapping[str, Any], cells: Cells) -> list[str]:
    """What the kernel requested from tmpfsd, counted in the warm-up round."""
    rows = []
    for part, counted in COUNTED.items():
        if part not in results:
            continue
        scale = scale_of(results[part])
        for it in PARTS[part].measures(scale):
            asked = cells.get(it.key, {}).get(TMPFSD, {}).get("requests", {})
            if asked and it.placement == FREE and it.clients == 1:
                each = {name: count / counted(scale, it) for name, count in asked.items()}
                rows.append((it.operation, ", ".join(f"{name} {value:.2f}" for name, value in sorted(each.items())
                                                     if value >= 0.005)))
    return ["## Requests", "", "What the kernel asked of tmpfsd for each operation (mkdir and symlink: with their "
            "removal), entry, file of a tree, or MiB, counted by the server:", "",
            *table(("operation", "requests"), rows, 2)]


def processor_time(results: Mapping[str, Any], cells: Cells) -> list[str]:
    """What the servers' processes used for each metadata operation of one client."""
    if "metadata" not in results:
        return []
    servers = [name for name in servers_of(results, "metadata") if name != KERNEL]
    rows = []
    for it in metadata.measures(scale_of(results["metadata"])):
        used = [cells.get(it.key, {}).get(name, {}).get("cpu", []) for name in servers]
        if it.clients == 1 and any(used):
            rows.append((it.operation, it.placement, *(number(median(values), it.unit) if values else ""
                                                       for values in used)))
    return ["## Processor time", "", "Microseconds that the server's process used for each, in user and kernel mode, "
            "with what nobody waits for (RELEASE, FORGET; mkdir and symlink: with their removal), by the scheduler's "
            "own clock. It hangs less on how busy the machine is.", "",
            *table(("operation", "placement", *servers), rows, 2)]


def claims(results: Mapping[str, Any], cells: Cells) -> list[str]:
    """Sentences about the results, each with its condition; each server beside the tmpfsd that does the same."""
    others = {name: counterpart(name, command) for name, command in servers_of(results, *PARTS).items()
              if not name.startswith(TMPFSD) and name not in (KERNEL, NULLFS)}
    said = []
    for placement in (FREE, SAME):
        ratios = {(own, name, operation): times_as_fast(middle(cells, it, own), middle(cells, it, name), it.unit)
                  for operation in metadata.OPERATIONS for it in [Measure(operation, placement)]
                  for name, own in others.items()}
        known = {key: value for key, value in ratios.items() if value is not None}
        if not known:
            continue
        slower = [f"{own} than {name}'s {operation} ({value:.2f})" for (own, name, operation), value in known.items()
                  if value < 1]
        said.append(Claim(not slower, f"With one client, placement {placement}, no metadata operation of another FUSE "
                          f"server that keeps files is faster than tmpfsd's, with noperm where the other checks no "
                          f"permissions: the least ratio is {min(known.values()):.2f}.",
                          f"with one client, placement {placement}, slower are {', '.join(slower)}."))
    return [*(f"- {claim}" for claim in said), ""]


def why_lines(results: Mapping[str, Any]) -> list[str]:
    """The servers with their commands, and those that did not start."""
    lines = ["## Servers", "", *(f"- {name}: `{command}`" if command else f"- {name}"
                                 for name, command in servers_of(results, *PARTS).items()), ""]
    failed: dict[str, str] = {}
    for part in results.values():
        failed.update(part["failed"])
    return [*lines, *(f"- **{name} was not measured**: {why}." for name, why in failed.items()), ""]


def machines(results: Mapping[str, Any]) -> list[str]:
    """The machine of each part; one line if they are all alike."""
    lines: dict[str, list[str]] = {}
    used = []
    for name, part in ((name, results[name]) for name in PARTS if name in results):
        quick = " **A quick run: sizes are too small to mean much.**" if part["quick"] else ""
        text = f"{machine.sentence(part['machine'])}; median of {part['rounds']} rounds.{quick}"
        lines.setdefault(text, []).append(name)
        used.append((name, part["others"]))
    quiet = Claim(max(percent for _, percent in used) <= QUIET_PERCENT, "The machine was quiet:",
                  "the machine was not quiet:")
    return [*(f"Machine ({', '.join(names)}): {text}" for text, names in lines.items()), "",
            f"{quiet} all others together used {', '.join(f'{percent:.0f} % ({name})' for name, percent in used)} "
            "of the processors meanwhile.", ""]


def write(results: Mapping[str, Any], out: Path) -> None:
    """README.md and its picture."""
    cells: dict[str, Any] = {key: found for part in results.values() for key, found in part["cells"].items()}
    missing = [name for name in PARTS if name not in results]
    lines = [HEAD, *(machines(results) if results else [])]
    if missing:
        lines += [f"Not run yet: {', '.join(missing)}.", ""]
    lines += [*to_reach(cells), *claims(results, cells), "## Everything", "",
              "An empty cell: not asked of that server. The other backends of tmpfsd do the metadata operations with "
              "one client, and the listings.", "",
              *everything(results, cells), *beyond_ram(results, cells), *processor_time(results, cells),
              *requests(results, cells), *why_lines(results)]
    names = chart.servers(results)
    if chart.draw(chart.peers(names), cells, out / CHART):
        lines += [f"![tmpfsd beside others: the operations of one client]({CHART})", ""]
    if chart.draw(chart.backends(names), cells, out / BACKENDS_CHART):
        lines += [f"![The backends of tmpfsd: the operations of one client]({BACKENDS_CHART})", ""]
    lines.append(METHOD.format(**asdict(Scale())))
    text = "\n".join(lines)
    while "\n\n\n" in text:
        text = text.replace("\n\n\n", "\n\n")
    (out / "README.md").write_text(text.rstrip() + "\n", encoding="utf-8")
