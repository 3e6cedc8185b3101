"""experiments/e11.py: E11: how soon a tree is ready."""

from __future__ import annotations

import os
import re
import tempfile
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter
from typing import Any

from tmpfsd.swapplaces import default_swap
from tools.bench.sheet import Refused, drop_caches
from tools.experiments import figures
from tools.experiments.cgroup import Unavailable
from tools.experiments.child import Job
from tools.experiments.drive import MIB, Tick
from tools.experiments.ready import HOT_EACH, WAYS, Place, ctl, forget, run, tmpfsd
from tools.experiments.report import Claim, goal, mib, ratio, table
from tools.experiments.scale import Scale
from tools.mounts import NotMounted

TITLE = "Images"
QUESTION = ("A tree of small files that others unpack for each job: how soon is it there as an image, what does it "
            "cost in memory and on the disk, and what do ten mounts of one image cost together?")
LIMITS = ("one run each.  \"First file\" is from the start of the command until a file in the middle of the tree was "
          "read; for tmpfsd that includes the start of a daemon, which the last row has alone.  \"find\" asks for each "
          "file's size, of a kernel that has forgotten all names; \"job\" reads each 50th file.  Cold: the host's page "
          "cache has nothing of the image; tar, squashfs and cp read what is in the page cache.  Memory is what is "
          "proportionally the daemon's (PSS), and for what has none the growth of shared memory and slabs of the whole "
          "machine: whatever else runs is in it.")
MOUNTS = 10
SNAPSHOT_MIB, QUICK_SNAPSHOT_MIB = 1024, 8
CHUNK = MIB
FORGETTING = 3              # the first time, a used name is only marked
TAR = "tar into tmpfsd"


def jobs(scale: Scale) -> list[Job]:
    """All ways on one tree; ten mounts; a snapshot."""
    files = 500 if scale.quick else scale.files_image
    return [Job("ways", "e11.ways", {"files": files}, 10),
            Job("snapshot", "e11.snapshot", {"nbytes": (QUICK_SNAPSHOT_MIB if scale.quick else SNAPSHOT_MIB) * MIB}, 2)]


def ways(tick: Tick, files: int) -> dict[str, Any]:
    """Make the tree and everything that is made from it, then go each way."""
    with tempfile.TemporaryDirectory(prefix="tmpfsd-experiment-", dir=default_swap()) as top:
        place = Place(top, files)
        place.make_tree(lambda part: tick(part / 4))
        result: dict[str, Any] = {"files": files, "made": make_all(place), "ways": {}}
        for number, name in enumerate(WAYS):
            tick(0.3 + 0.6 * number / len(WAYS))
            try:
                result["ways"][name] = go(place, name)
            except (NotMounted, Refused, Unavailable) as why:
                result["ways"][name] = {"skipped": str(why)}
        try:
            result["empty"] = empty()
            result["together"] = together(place)
        except (NotMounted, Refused, Unavailable) as why:
            result["together"], result["empty"] = {"skipped": str(why)}, {"skipped": str(why)}
    return result


def make_all(place: Place) -> dict[str, Any]:
    """Make the tar file, the images, the squashfs; return seconds and bytes of each."""
    made: dict[str, Any] = {}
    commands = {"tar": lambda: run(["tar", "cf", place.tar, "-C", place.tree, "."]),
                "image": lambda: ctl("image", "build", place.tree, place.image),
                "hot": lambda: record(place),
                "squashfs": lambda: run(["mksquashfs", place.tree, place.squashfs, "-comp", "zstd", "-quiet",
                                         "-no-progress"])}
    for name, command in commands.items():
        try:
            made[name] = {"seconds": command(), "bytes": (place.top / name).stat().st_size}
        except (NotMounted, Refused, Unavailable) as why:
            made[name] = {"skipped": str(why)}
    return made


def record(place: Place) -> float:
    """Run a job on a mount of the image, and save what it used."""
    with tmpfsd(f"ram=1g,size=8g,image={place.image}") as (mnt, _pids):
        job(place, mnt)
        return ctl("snapshot", "--hot", mnt, place.hot)


def job(place: Place, mnt: str) -> float:
    """Read every HOT_EACH-th file; return seconds."""
    start = perf_counter()
    for number in range(0, place.files, HOT_EACH):
        with open(os.path.join(mnt, place.name(number)), "rb") as file:
            if file.read() != place.content(number):
                raise NotMounted(f"{place.name(number)} has other bytes")
    return perf_counter() - start


def go(place: Place, name: str) -> dict[str, Any]:
    """One way.  => NotMounted, Unavailable."""
    way, file, cold = WAYS[name]
    path = place.top / file
    if cold and path.exists():
        forget(path)
    before, start = of_machine(), perf_counter()
    with way(place) as (mnt, pids):
        middle = place.files // 2
        with open(os.path.join(mnt, place.name(middle)), "rb") as opened:
            if opened.read() != place.content(middle):
                raise NotMounted("a file has other bytes")
        first = perf_counter() - start
        seconds = job(place, mnt)
        for _ in range(FORGETTING):
            drop_caches("2")
        find = run(["find", mnt, "-size", "-1000000c"])
        memory = sum(map(pss, pids)) if pids else max(of_machine() - before, 0)
        disk = 0 if "kernel" in name or name == TAR else used(path)
    return {"first": first, "job": seconds, "find": find, "memory": memory, "disk": disk}


def together(place: Place) -> dict[str, Any]:
    """Many mounts of one image; in each everything is looked at.  => NotMounted, Unavailable."""
    found = []
    with ExitStack() as stack:
        pids: list[int] = []
        for _ in range(MOUNTS):
            mnt, more = stack.enter_context(tmpfsd(f"ram=64m,size=8g,image={place.image}"))
            pids += more
            run(["find", mnt, "-size", "-1000000c"])
            found.append(sum(map(pss, pids)))
    return {"memory": found, "image": place.image.stat().st_size}


def empty() -> dict[str, Any]:
    """Mount with nothing in it; return the seconds until it answers.  => NotMounted, Unavailable."""
    start = perf_counter()
    with tmpfsd("ram=1g,size=8g") as (mnt, _pids):
        os.statvfs(mnt)
        return {"first": perf_counter() - start}


def snapshot(tick: Tick, nbytes: int) -> dict[str, Any]:
    """Save a mount whose data are in memory; compare with the disk alone.  Random bytes: nothing compresses."""
    with tempfile.TemporaryDirectory(prefix="tmpfsd-experiment-", dir=default_swap()) as top:
        try:
            with tmpfsd(f"ram={nbytes // MIB * 5 // 4 + 16}m,size=8g") as (mnt, _pids):
                write(Path(mnt, "data"), nbytes)
                tick(0.3)
                seconds = ctl("snapshot", mnt, Path(top, "image"))
        except (NotMounted, Refused, Unavailable) as why:
            return {"skipped": str(why)}
        tick(0.7)
        return {"bytes": nbytes, "seconds": seconds, "disk": write(Path(top, "file"), nbytes)}


def write(path: Path, nbytes: int) -> float:
    """Write random bytes and sync them; return the seconds, without the time to make the bytes."""
    data = [os.urandom(CHUNK) for _ in range(8)]
    start = perf_counter()
    with open(path, "wb", buffering=0) as file:
        for number in range(nbytes // CHUNK):
            file.write(data[number % len(data)])
        os.fsync(file.fileno())
    return perf_counter() - start


def pss(pid: int) -> int:
    """Memory of a process, with its part of shared pages."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    found = re.search(r"^Pss:\s+(\d+)", text, re.MULTILINE)
    return int(found[1]) << 10 if found else 0


def of_machine() -> int:
    """Shared memory and slabs of the whole machine."""
    text = Path("/proc/meminfo").read_text(encoding="ascii")
    return sum(int(number) << 10 for number in re.findall(r"^(?:Shmem|Slab):\s+(\d+)", text, re.MULTILINE))


def used(path: Path) -> int:
    """Bytes on the disk, of a file or of everything below a directory."""
    if not path.is_dir():
        return path.stat().st_blocks * 512
    return sum(os.lstat(os.path.join(top, name)).st_blocks * 512
               for top, names, files in os.walk(path) for name in (*names, *files))


def render(results: dict[str, Any], out: Path) -> tuple[list[str], list[Claim]]:
    """The report of E11."""
    it = results["ways"]
    gone = {name: way for name, way in it["ways"].items() if "skipped" not in way}
    body = [f"{it['files']:,} files of up to 300 bytes, 1,000 to a directory:", ""]
    rows = [(name, f"{way['first']:.2f}", f"{way['job']:.2f}", f"{way['find']:.2f}", mib(way["memory"]),
             mib(way["disk"])) for name, way in gone.items()]
    if "first" in it["empty"]:
        rows.append(("an empty mount of tmpfsd", f"{it['empty']['first']:.2f}", "-", "-", "-", "-"))
    body += table(("way", "first file s", "job s", "find s", "memory MiB", "disk MiB"), rows)
    body += [f"- {name}: left out: {way['skipped']}." for name, way in it["ways"].items() if "skipped" in way]
    body += ["", "Making them:", ""]
    body += table(("what", "seconds", "MiB"), [(name, f"{made['seconds']:.1f}", mib(made["bytes"]))
                                               for name, made in it["made"].items() if "skipped" not in made])
    body += _together(it["together"]) + _snapshot(results.get("snapshot", {}))
    if gone:
        figures.dots(out / "e11.png", f"{it['files']:,} small files", "seconds until the first file is read, log scale",
                     {name: way["first"] for name, way in gone.items()})
        body += ["", "![seconds until the first file](e11.png)", ""]
    return [*_goals(it, gone), *body], _answer(gone, it["empty"])


def _together(it: dict[str, Any]) -> list[str]:
    if "skipped" in it:
        return [f"Ten mounts: left out: {it['skipped']}.", ""]
    one, ten = it["memory"][0], it["memory"][-1]
    return [f"{MOUNTS} mounts of one image, `ram=64m`, all files looked at in each: {mib(ten)} MiB together, the first "
            f"{mib(one)} MiB; the image, {mib(it['image'])} MiB, is in the host's page cache once.", ""]


def _snapshot(it: dict[str, Any]) -> list[str]:
    if "seconds" not in it:
        return []
    speed, disk = it["bytes"] / it["seconds"], it["bytes"] / it["disk"]
    return [f"A snapshot of {mib(it['bytes'])} MiB in memory: {mib(speed)} MiB/s; the disk alone: {mib(disk)} MiB/s.",
            "",
            goal(ratio(speed, disk), 0.5, "snapshot's rate of the disk's")]


def _goals(it: dict[str, Any], gone: dict[str, Any]) -> list[str]:
    lines = []
    if "image, warm" in gone and TAR in gone:
        image, tar = gone["image, warm"], gone[TAR]
        lines += [goal(ratio(tar["first"], image["first"]), 100, "times sooner than tar into tmpfsd"),
                  *(goal(ratio(gone[name]["first"], image["first"]), 100, f"times sooner than {name}")
                    for name in gone if name.startswith("tar") and name != TAR),
                  goal(ratio(tar["find"], image["find"]), 0.7, "`find` on an image, of the rate on a resident mount")]
    made = it["made"]
    if "seconds" in made["image"] and "seconds" in made["squashfs"]:
        lines.append(goal(ratio(made["squashfs"]["seconds"], made["image"]["seconds"]), 0.5,
                          "build's rate of mksquashfs'"))
    return [*lines, ""]


def _answer(gone: dict[str, Any], bare: dict[str, Any]) -> list[Claim]:
    names = [name for name in gone if name.startswith("image")]
    others = [way["first"] for name, way in gone.items() if name.startswith(("tar", "cp"))]
    if not names or not others or "first" not in bare:
        return [Claim(True, "Nothing could be mounted here, so there is nothing to compare on this machine.", "")]
    slowest, soonest = max(gone[name]["first"] for name in names), min(others)
    return [Claim(slowest < soonest,
                  f"A tree that is an image is there after {slowest:.2f} s at the latest, where an empty mount took "
                  f"{bare['first']:.2f} s; what unpacks or copies takes {soonest:.1f} s at the least.",
                  f"an image took up to {slowest:.2f} s, and the soonest of tar and cp {soonest:.2f} s: the tree is "
                  "too small for an image to be sooner.")]
