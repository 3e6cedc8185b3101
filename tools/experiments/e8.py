"""experiments/e8.py: E8: how many files without a disk?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tools.experiments import figures
from tools.experiments.child import Job
from tools.experiments.drive import MIB, Files, Tick, Timer, mount
from tools.experiments.report import Claim, goal, mib, ratio, table
from tools.experiments.scale import Scale

TITLE = "How many files without a disk?"
QUESTION = ("With `swap=none` what leaves memory can only be compressed in it.  How many files is that in a memory "
            "cgroup where the kernel's tmpfs is ended, and how much of `ram` should be for compressed pages?")
LIMITS = ("empty files with 13-character names, 1,000 to a directory; one run each.  The real mounts have creator and "
          "daemon in the cgroup.  The shares are measured without FUSE.")
GROUP_BYTES = 128 * MIB
OPTIONS = "ram=74m,zram=64m,swap=none,compress=zstd,size=4g"
GOAL = 2_500_000
RAM, SHARES = 16 * MIB, (25, 50, 75, 88)
QUICK_RAM, QUICK_SHARES = 3 * MIB, (34, 50)


def jobs(scale: Scale) -> list[Job]:
    """Both file systems in a cgroup of 128 MiB, and some shares of `ram`."""
    ram, shares = (QUICK_RAM, QUICK_SHARES) if scale.quick else (RAM, SHARES)
    found = [Job(f"share/{share}", "e8.fill", {"ram": ram, "share": share}, share / 10) for share in (0, *shares)]
    if scale.files_cgroup:
        found.append(Job("kernel-cgroup", "fuse.kernel_in_cgroup",
                         {"limit": GROUP_BYTES, "files": 3_000_000, "late": False}, 3))
        found.append(Job("tmpfsd-cgroup", "fuse.tmpfsd_in_cgroup",
                         {"limit": GROUP_BYTES, "files": scale.files_cgroup, "options": OPTIONS},
                         scale.files_cgroup / 10_000))
    return found


def fill(tick: Tick, ram: int, share: int) -> dict[str, Any]:
    """Files until the first error, with this percentage of ram for compressed pages."""
    zram = {"compress": "zstd", "zram": ram * share // 100} if share else {}
    files = Files(mount(ram_bytes=ram, swap=None, **zram))
    with Timer() as timer:
        files.create_to(1 << 30, lambda _done: tick(min(files.count * 40 / ram, 1.0)))
    with Timer() as stat:
        files.stat(range(0, files.count, 10))
    state = files.mp.status()
    return {**timer.result(files.count), "stat": stat.result(-(-files.count // 10)), "ended": files.ended, "ram": ram,
            "share": share, "resident": state["resident_bytes"], "ratio": state["zram"]["ratio"]}


def render(results: dict[str, Any], out: Path) -> tuple[list[str], list[Claim]]:
    """The report of E8."""
    shares = sorted((it for key, it in results.items() if key.startswith("share/")), key=lambda it: it["share"])
    ram = shares[0]["ram"]
    body = [f"A mount of `ram` {mib(ram)} MiB, filled until the first error:", ""]
    body += table(("for compressed pages", "files", "times as many", "ratio", "bytes of ram a file", "creates/s",
                   "stats/s in order", "ended by"), [
        (f"{it['share']} %", f"{it['n']:,}", f"{ratio(it['n'], shares[0]['n']):.1f}", it["ratio"] or "-",
         f"{ratio(it['ram'], it['n']):.0f}", f"{it['rate']:,.0f}", f"{it['stat']['rate']:,.0f}", it["ended"])
        for it in shares])
    figures.lines(out / "e8.png", f"files in ram={mib(ram)} MiB without a disk", "per cent of ram for compressed pages",
                  [("files", {"files": ([it["share"] for it in shares], [it["n"] for it in shares])})], "files")
    body += ["![files over the share](e8.png)", ""]
    kernel, ours = (results.get(key, {"skipped": "not asked for"}) for key in ("kernel-cgroup", "tmpfsd-cgroup"))
    body += ["Real mounts, creator and daemon in a memory cgroup of 128 MiB:", ""]
    rows: list[tuple[object, ...]] = []
    for name, it in (("kernel tmpfs", kernel), (f"tmpfsd, {OPTIONS}", ours)):
        if "skipped" in it:
            rows.append((name, "-", "-", f"skipped: {it['skipped']}", "-", "-"))
            continue
        rows.append((name, f"{max(it.get('found', 0), it['created']):,}", f"{it['listed']:,}" if it["listed"] else "-",
                     f"killed ({it['kills']} by the OOM killer)" if it["kills"] else it["ended"], mib(it["peak"]),
                     f"{ratio(it['created'], it['seconds']):,.0f}"))
    body += table(("file system", "files", "listed", "ended by", "peak MiB of the group", "files/s"), rows)
    if "created" in ours and ours["wanted"] >= GOAL:
        body += [goal(ours["created"], GOAL, "files in 128 MiB, without a disk"), ""]
    return body, _answer(shares, kernel, ours)


def _answer(shares: list[dict[str, Any]], kernel: dict[str, Any], ours: dict[str, Any]) -> list[Claim]:
    best = max(shares, key=lambda it: int(it["n"]))
    claims = [Claim(best["share"] > 0,
                    f"Of the shares that were tried {best['share']} % holds most: {best['n']:,} files, "
                    f"{ratio(best['n'], shares[0]['n']):.1f} times as many as without compression.",
                    "compressing in memory holds no more files than not compressing.")]
    if "created" in ours and "found" in kernel:
        whole = ours["ended"] != "killed" and not ours["kills"] and ours["daemon"] == "runs"
        claims.append(Claim(whole and ours["created"] > kernel["found"],
                            f"In a cgroup of 128 MiB and without a disk tmpfsd created {ours['created']:,} files with "
                            f"nothing killed, the kernel's tmpfs {kernel['found']:,}"
                            f"{' before the OOM killer came' if kernel['kills'] else ''}.",
                            f"tmpfsd created {ours['created']:,} files ({ours['kills']} killed), the kernel's tmpfs "
                            f"{kernel['found']:,} ({kernel['kills']} killed)."))
    return claims
