"""experiments/e4.py: E4: how big must a submap be?"""

from __future__ import annotations

from math import ceil
from pathlib import Path
from typing import Any

from tmpfsd.tmpfs.forecast import Estimate, Shape, estimate, uniform
from tmpfsd.uvm.errors import NoMemory
from tmpfsd.uvm.param import PAGE_SIZE
from tmpfsd.uvm.vm import SPARE
from tools.experiments import figures
from tools.experiments.child import Job
from tools.experiments.drive import MIB, Tick, Timer, mount
from tools.experiments.report import Claim, mib, ratio, table
from tools.experiments.scale import Scale
from tools.experiments.trees import TREES, build, shape_of

TITLE = "How big must a submap be?"
QUESTION = "In 2006: \"what size must the submap have?\""
LIMITS = ("trees are built once, in one pass, without FUSE; all but the standard library are generated from a seed "
          "after the shape of real ones.  Files are cut at 256 KiB, which changes only their data pages; those are not "
          "in the submap.  Names hash alike in all builds.  A pool of less than 16 pages is "
          "compared by pages and not by per cent: one page more is one.")
RAM = 64 * MIB
COUNTS = {"standard library": 1 << 30, "node_modules": 20_000, "git objects": 40_000, "maildirs": 20_000,
          "flat": 1_000_000}
QUICK = {"standard library": 300, "node_modules": 500, "git objects": 1500, "maildirs": 500, "flat": 8000}
WITHIN = 0.10
SHORT = 2                   # pages: free items in the page of directories' nodes may make up for one
FEW_PAGES = 16


def jobs(scale: Scale) -> list[Job]:
    """Each tree with an automatic submap, then with the right fixed one and with SHORT pages less."""
    counts = QUICK if scale.quick else COUNTS
    return [Job(name, "e4.tree", {"name": name, "files": counts[name]}, 30 if name == "flat" else 8) for name in TREES]


def tree(tick: Tick, name: str, files: int) -> dict[str, Any]:
    """Build a tree three times; return what it took, and what the estimator says."""
    shape = shape_of(TREES[name](files))
    shape.check()
    total = shape.names.total() + shape.more_names.total()
    mp = mount(ram_bytes=RAM)
    with Timer() as auto:
        build(mp, TREES[name](files), lambda count: tick(count / total / 3))
    status = mp.status()
    mp.close()
    submap = status["submap"]
    right = with_spare(submap["high_water_bytes"])
    fixed = _fixed(name, files, right, lambda count: tick((1 + count / total) / 3))
    short = _fixed(name, files, right - SHORT * PAGE_SIZE, lambda count: tick((2 + count / total) / 3))
    by_shape, by_means = estimate(shape), estimate(means(shape))
    return {"files": shape.files, "nodes": shape.nodes, "data_pages": status["data"]["pages"],
            "pools": {pool["name"]: {"items": pool["items"], "pages": pool["pages"]} for pool in status["pools"]},
            "used": submap["used_bytes"], "auto_size": submap["size_bytes"], "high_water": right,
            "auto_seconds": auto.wall, "fixed": fixed, "short": short,
            "estimate": as_dict(by_shape), "estimate_means": by_means.submap_bytes}


def with_spare(nbytes: int) -> int:
    """The smallest fixed submap that has this much beside what it keeps back for renames (backends.py)."""
    npages = most = nbytes // PAGE_SIZE
    while npages - min(SPARE, npages // 8) < most:
        npages += 1
    return npages * PAGE_SIZE


def _fixed(name: str, files: int, nbytes: int, done: Any) -> dict[str, Any]:
    """The same tree in a fixed submap."""
    mp = mount(ram_bytes=RAM, submap=nbytes)
    ended = "all created"
    with Timer() as timer:
        try:
            build(mp, TREES[name](files), done)
        except NoMemory as error:
            ended = f"ENOSPC: {error}"
    mp.close()
    return {"seconds": timer.wall, "ended": ended}


def as_dict(it: Estimate) -> dict[str, Any]:
    """An estimate for the results."""
    return {"pools": {name: {"items": it.items[name], "pages": pages} for name, pages in it.pages.items()},
            "bytes": it.submap_bytes, "auto": it.auto_bytes, "data_pages": it.data_pages}


def means(shape: Shape) -> Shape:
    """What a user knows from counting and dividing: the shape of `tmpfsctl estimate --files N --name-length L ...`."""
    names = sum(length * count for length, count in shape.names.items())
    size = sum(size * count for size, count in shape.sizes.items())
    sizes = sorted(shape.sizes.elements())
    target = sum(length * count for length, count in shape.targets.items())
    return uniform(shape.sizes.total(), round(names / shape.names.total()), shape.subdirectories,
                   size // max(shape.sizes.total(), 1), shape.targets.total(),
                   max(target // max(shape.targets.total(), 1), 1), shape.more_names.total(),
                   median_size=sizes[len(sizes) // 2])


def off(predicted: float, measured: float) -> float:
    """How far a prediction is from what was measured."""
    return ratio(predicted, measured) - 1


def is_near(predicted: int, measured: int) -> bool:
    """Within 10 %, or a page if the pool is small."""
    return abs(predicted - measured) <= max(WITHIN * measured, 1 if measured < FEW_PAGES else 0)


def pool_names(it: dict[str, Any]) -> list[str]:
    """The pools of a tree, measured or predicted, in order."""
    names = {*it["pools"], *it["estimate"]["pools"]}
    return sorted(names, key=lambda name: (name.startswith("string-"), int(name.rpartition("-")[2] or 0)
                                           if name.startswith("string-") else 0, name != "node"))


def render(results: dict[str, Any], out: Path) -> tuple[list[str], list[Claim]]:
    """The report of E4."""
    rows = [(name, f"{it['files']:,}", mib(it["used"]), f"{ratio(it['used'], it['files']):.0f}",
             f"{100 * off(it['estimate']['bytes'], it['used']):+.1f} %",
             f"{100 * off(it['estimate_means'], it['used']):+.1f} %",
             f"{it['data_pages']:,}", f"{it['estimate']['data_pages']:,}") for name, it in results.items()]
    body = ["All pools together. The first estimate is told the distributions (`tmpfsctl estimate --from DIR`), the "
            "second only counts, means and the median size (`--files N --name-length L --dirs D --size MEAN "
            "--median-size M ...`):", ""]
    body += table(("tree", "files", "submap MiB", "bytes a file", "estimate", "from means and median", "data pages",
                   "estimated"), rows)
    for name, it in results.items():
        body += [f"{name.capitalize()}, by pool:", "", *table(
            ("pool", "items", "pages", "estimated", "off", "bytes a file", "within 10 %"), _pool_rows(it))]
    body += ["What `submap=auto` takes, against the right fixed size (the most pages ever in use, and what is kept "
             "back for renames), which was then tried, and tried with two pages less:", "", *table(
                 ("tree", "fixed MiB", "auto MiB", "auto more", "fixed", "two pages less", "seconds fixed", "auto"),
                 [_auto_row(name, it) for name, it in results.items()])]
    figures.bars(out / "e4.png", "bytes of submap for each file", "bytes",
                 {name: ratio(it["used"], it["files"]) for name, it in results.items()})
    return [*body, "![bytes of submap for each file](e4.png)", ""], _answer(results)


def _pool_rows(it: dict[str, Any]) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for name in pool_names(it):
        found = it["pools"].get(name, {"items": 0, "pages": 0})
        guess = it["estimate"]["pools"].get(name, {"items": 0, "pages": 0})
        rows.append((name, f"{found['items']:,}", f"{found['pages']:,}", f"{guess['pages']:,}",
                     f"{100 * off(guess['pages'], found['pages']):+.1f} %" if found["pages"] else "-",
                     f"{ratio(found['pages'] * PAGE_SIZE, it['files']):.1f}",
                     "yes" if is_near(guess["pages"], found["pages"]) else "**no**"))
    return rows


def _auto_row(name: str, it: dict[str, Any]) -> tuple[object, ...]:
    return (name, mib(it["high_water"]), mib(it["auto_size"]), f"{(it['auto_size'] - it['high_water']) >> 10:,} KiB",
            it["fixed"]["ended"], it["short"]["ended"], f"{it['fixed']['seconds']:.2f}", f"{it['auto_seconds']:.2f}")


def _answer(results: dict[str, Any]) -> list[Claim]:
    per_file = [ratio(it["used"], it["files"]) for it in results.values()]
    wrong = [f"{tree_name}: {pool}" for tree_name, it in results.items() for pool in pool_names(it)
             if not is_near(it["estimate"]["pools"].get(pool, {"pages": 0})["pages"],
                            it["pools"].get(pool, {"pages": 0})["pages"])]
    exact = all(it["fixed"]["ended"] == "all created" and "submap" in it["short"]["ended"] for it in results.values())
    extra = max(it["auto_size"] - it["high_water"] for it in results.values())
    worst = max(abs(off(it["estimate"]["bytes"], it["used"])) for it in results.values())
    means_worst = max(abs(off(it["estimate_means"], it["used"])) for it in results.values())
    span = f"{min(per_file):.0f} to {max(per_file):.0f} bytes a file"
    return [Claim(not wrong and worst <= WITHIN,
                  f"{span}, by the lengths of names and the sizes of small files: a tree's needs can be told before it "
                  f"is built, within {ceil(1000 * worst) / 10:.1f} % from its distributions (from counts, means and "
                  f"the median size up to {ceil(100 * means_worst)} % off).",
                  f"{span}; the estimate is {100 * worst:.1f} % off at worst, and these pools are not within 10 %: "
                  f"{', '.join(wrong) or 'none'}."),
            Claim(exact and extra <= 2 * 64 * PAGE_SIZE,
                  "But nobody needs to choose: a fixed submap two pages too small refuses files, and one that sizes "
                  f"itself took at most {extra >> 10} KiB more address space than the right size.",
                  f"a submap that sizes itself took up to {extra >> 10} KiB more than the right size; the fixed sizes "
                  f"{'behaved as computed' if exact else 'did not behave as computed'}.")]
