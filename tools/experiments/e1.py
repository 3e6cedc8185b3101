"""experiments/e1.py: E1: how many files?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tmpfsd.options import BACKENDS, NEVER_OUT
from tmpfsd.swapplaces import default_swap
from tmpfsd.tmpfs.forecast import estimate, uniform
from tmpfsd.uvm.param import PAGE_SIZE
from tmpfsd.uvm.vm import RESERVE, SPARE
from tools.experiments import figures
from tools.experiments.child import Job
from tools.experiments.drive import MIB, PER_DIR, Files, Tick, Timer, mount, rss
from tools.experiments.report import Claim, goal, mib, ratio, table
from tools.experiments.scale import Scale

TITLE = "How many files?"
QUESTION = ("In 2006: can the nodes, entries and names of tmpfs be pageable, so that memory does not bound the number "
            "of files?  What is the number with the same memory, and what ends it?")
LIMITS = ("empty files with 13-character names, 1,000 to a directory, without FUSE except the cgroup runs; one run "
          "each.  `size` is 24 times `ram`, so a backend that pages out ends there; a larger `size` would only take "
          "longer.  Daemon RSS is that of a process without FUSE and its libraries.")
RAM, SIZE = 16 * MIB, 24 * 16 * MIB
QUICK_RAM, QUICK_SIZE = 1 * MIB, 24 * MIB
GROUP_BYTES = 128 * MIB
TIMES_FURTHER = 20
TOLERANCE = 0.02
PAGING = tuple(name for name in BACKENDS if name not in NEVER_OUT)


def jobs(scale: Scale) -> list[Job]:
    """Every backend, the kernel's tmpfs, and both in a cgroup of 128 MiB."""
    ram, size = (QUICK_RAM, QUICK_SIZE) if scale.quick else (RAM, SIZE)
    found = [Job(name, "e1.fill", {"backend": name, "ram": ram, "size": size}, 2 if name in NEVER_OUT else 30)
             for name in BACKENDS]
    found.append(Job("kernel", "fuse.kernel_in_cgroup", {"limit": RAM, "files": 10**6, "late": True}, 2))
    if scale.files_cgroup:
        found.append(Job("kernel-cgroup", "fuse.kernel_in_cgroup",
                         {"limit": GROUP_BYTES, "files": 3_000_000, "late": False}, 3))
        found.append(Job("tmpfsd-cgroup", "fuse.tmpfsd_in_cgroup",
                         {"limit": GROUP_BYTES, "files": scale.files_cgroup,
                          "options": f"ram=16m,size=4g,swap={default_swap()},swap_io=direct"},
                         scale.files_cgroup / 6000))
    return found


def fill(tick: Tick, backend: str, ram: int, size: int) -> dict[str, Any]:
    """Files until the first error."""
    before = rss()
    files = Files(mount(backend=backend, ram_bytes=ram, size_bytes=size))
    likely = largest(size // PAGE_SIZE)
    with Timer() as timer:
        files.create_to(1 << 30, lambda _done: tick(min(files.count / likely, 1.0)))
    state = files.mp.status()
    return {**timer.result(files.count), "ended": files.ended, "rss_before": before, "rss": rss(), "ram": ram,
            "size": size, "used": state["used_bytes"], "resident": state["resident_bytes"],
            "swapped": state["swap"]["used_bytes"], "paging": state["paging"]}


def largest(npages: int) -> int:
    """The most files whose metadata fit into these pages, by the estimator."""
    low, high = 0, npages * 64
    while low < high:
        middle = (low + high + 1) // 2
        if estimate(uniform(middle, 13, dirs=-(-middle // PER_DIR))).npages <= npages:
            low = middle
        else:
            high = middle - 1
    return low


def render(results: dict[str, Any], out: Path) -> tuple[list[str], list[Claim]]:
    """The report of E1."""
    fills = {name: results[name] for name in BACKENDS if name in results}
    kernel = results.get("kernel", {"skipped": "not run"})
    rows: list[tuple[object, ...]] = [
        (name, f"{it['n']:,}", it["ended"], mib(it["resident"]), mib(it["swapped"]), mib(it["rss"]),
         f"{ratio(it['used'], it['n']):.0f}") for name, it in fills.items()]
    if "skipped" in kernel:
        rows.append(("kernel tmpfs", "-", f"skipped: {kernel['skipped']}", "-", "-", "-", "-"))
    else:
        rows.append((f"kernel tmpfs, cgroup of {mib(kernel['limit'])} MiB", f"{kernel['found']:,}",
                     "the creator was killed" if kernel["kills"] else kernel["ended"], mib(kernel["peak"]), "0.0", "-",
                     f"{ratio(kernel['peak'], kernel['found']):.0f}"))
    ram = next(iter(fills.values()))["ram"]
    body = table(("backend", "files", "ended by", "resident MiB", "swapped MiB", "process RSS MiB", "bytes a file"),
                 rows)
    body += [f"`ram` is {mib(ram)} MiB. The creator of the kernel's row joins its cgroup when Python is up, so the "
             "group is charged for the files and hardly for the process.", ""]
    body += _arithmetic(fills, ram)
    body += _cgroup(results)
    drawn = {name: float(it["n"]) for name, it in fills.items()}
    if "found" in kernel:
        drawn["kernel tmpfs"] = float(kernel["found"])
    figures.bars(out / "e1.png", f"files created, ram = {mib(ram)} MiB", "files", drawn)
    bytes_of = {name: ratio(it["resident"], it["n"]) for name, it in fills.items()}
    if "found" in kernel:
        bytes_of["kernel tmpfs"] = ratio(kernel["peak"], kernel["found"])
    figures.bars(out / "e1_bytes.png", "bytes of RAM for each file", "bytes", bytes_of)
    body += ["![files](e1.png)", "", "![bytes of RAM for each file](e1_bytes.png)", ""]
    return body, _answer(fills, results)


def _arithmetic(fills: dict[str, Any], ram: int) -> list[str]:
    """Where wired and pageable-flag must stop."""
    npages = ram // PAGE_SIZE - RESERVE - SPARE
    expected = largest(npages)
    lines = [f"What never pages out stops by arithmetic: {ram // PAGE_SIZE:,} frames minus the reserve of {RESERVE} "
             f"and {SPARE} for renames are {npages:,} pages.  The estimator (E4) puts {expected:,} files in them.",
             ""]
    for name in NEVER_OUT:
        if name in fills:
            off = ratio(fills[name]["n"], expected) - 1
            verdict = "as computed" if abs(off) <= TOLERANCE else "**not as computed**"
            lines.append(f"- {name}: {fills[name]['n']:,} files, {100 * off:+.1f} % of that: {verdict}.")
    if "wired" in fills:
        lines += [goal(further(fills, name), TIMES_FURTHER, f"{name}, times as many files as wired")
                  for name in PAGING if name in fills]
    return [*lines, ""]


def further(fills: dict[str, Any], name: str) -> float:
    """How many times as many files as wired."""
    return ratio(fills[name]["n"], fills["wired"]["n"])


def _cgroup(results: dict[str, Any]) -> list[str]:
    """The figure for 128 MiB."""
    rows: list[tuple[object, ...]] = []
    for key, name in (("kernel-cgroup", "kernel tmpfs"), ("tmpfsd-cgroup", "tmpfsd, ram=16m,swap_io=direct")):
        it = results.get(key)
        if it is None or "skipped" in it:
            rows.append((name, "-", "-", f"skipped: {it['skipped'] if it else 'not asked for'}", "-", "-"))
            continue
        rows.append((name, f"{it.get('found', it['created']):,} of {it['wanted']:,}",
                     f"{it['listed']:,}" if it["listed"] else "-",
                     f"killed ({it['kills']} by the OOM killer)" if it["kills"] else it["ended"], mib(it["peak"]),
                     f"{ratio(it['created'], it['seconds']):,.0f}"))
    lines = ["Real mounts, the creating process (and for tmpfsd the daemon too) in a memory cgroup of 128 MiB:", ""]
    return lines + table(("file system", "created", "listed", "ended by", "peak MiB of the group", "files/s"), rows)


def _answer(fills: dict[str, Any], results: dict[str, Any]) -> list[Claim]:
    reached = {name: further(fills, name) for name in PAGING if name in fills and "wired" in fills}
    by_size = all("size is used up" in fills[name]["ended"] for name in reached)
    least = min(reached.values(), default=0.0)
    claims = [Claim(bool(reached) and least >= TIMES_FURTHER and by_size,
                    f"Yes: the backends that page out hold at least {int(least)} times as many files as wired pages in "
                    "the same memory, and only `size` ends them.",
                    f"the backends that page out hold {least:.1f} times as many files as wired pages"
                    f"{'' if by_size else ', and something other than `size` ended one of them'}.")]
    it, kernel = results.get("tmpfsd-cgroup", {}), results.get("kernel-cgroup", {})
    if "created" in it and "found" in kernel:
        whole = it["created"] == it["listed"] == it["wanted"] and not it["kills"] and it["daemon"] == "runs"
        claims.append(Claim(whole and kernel["kills"] > 0,
                            f"In a cgroup of 128 MiB tmpfsd created and listed {it['created']:,} files with nothing "
                            f"killed, where the kernel's tmpfs was ended by the OOM killer after {kernel['found']:,}.",
                            f"tmpfsd created {it['created']:,} and listed {it['listed']:,} of {it['wanted']:,} files "
                            f"({it['kills']} killed), the kernel's tmpfs {kernel['found']:,} "
                            f"({kernel['kills']} killed)."))
    else:
        never = [fills[name]["n"] for name in NEVER_OUT if name in fills]
        claims.append(Claim(bool(never), f"What never pages out ends at {max(never, default=0):,} files; the cgroup "
                            "runs were not made.", "the backends that never page out were not run."))
    return claims
