"""bench/data.py: data by fio: sequential and random, written and read: MiB a second.

Each write begins with new files.  fio drops the pages of its files before a read (POSIX_FADV_DONTNEED), so that a FUSE
server must serve them; the kernel's tmpfs has no other place for its pages and keeps them.
"""

from __future__ import annotations

import json
import shutil
from typing import Any

from tools.bench.clients import Clients
from tools.bench.scale import Scale
from tools.bench.servers import Server, running, settle
from tools.bench.sheet import FREE, RATE, Measure, Refused, Run, interleave, processors

TITLE = "data"
WRITE, READ, RANDOM_READ, RANDOM_WRITE = ("write 1 MiB", "read 1 MiB uncached", "random read 4 KiB uncached",
                                          "random write 4 KiB")
PATTERNS = {WRITE: ("write", "1M"), READ: ("read", "1M"), RANDOM_READ: ("randread", "4k"),
            RANDOM_WRITE: ("randwrite", "4k")}
PROGRAM = "fio"
FILES = "data"


def measures(scale: Scale) -> list[Measure]:
    """What the part measures."""
    return [Measure(operation, FREE, clients, RATE) for clients in scale.clients for operation in PATTERNS]


def measure(run: Run) -> None:
    """One client runs fio, which has its own processes."""
    run.specs, cpus = run.full, processors(FREE)
    wanted = measures(run.scale)
    if shutil.which(PROGRAM) is None:
        for what in wanted:
            for spec in run.specs:
                run.sheet.refuse(what, spec.name, "fio is missing")
        return
    with running(run.specs, run.place, cpus, run.failed) as servers, Clients(1, cpus) as clients:
        def step(_number: int, what: Measure, server: Server) -> float:
            if what.operation == WRITE:
                clients.on(server, [{"run": ["sh", "-c", f"rm -f {server.mnt}/{FILES}.*"]}])
            answers = clients.on(server, [{"run": command(run.scale, what, server.mnt), "output": True}])
            settle([server])
            return mib_per_second(answers[0]["output"], what.operation)

        # Files left by one client do not disturb four clients: the names are the same.
        interleave(run, wanted, servers, step, lambda _what: settle(servers))


def command(scale: Scale, what: Measure, mnt: str) -> list[str]:
    """The command line of fio."""
    pattern, block = PATTERNS[what.operation]
    size = (scale.data_mib << 10) // what.clients
    words = [PROGRAM, f"--name={pattern}", f"--directory={mnt}", f"--filename_format={FILES}.$jobnum",
             f"--rw={pattern}", f"--bs={block}", f"--size={size}k", f"--numjobs={what.clients}", "--group_reporting",
             "--ioengine=psync", "--fallocate=none", "--invalidate=1", "--output-format=json",
             "--clocksource=clock_gettime"]                 # so that it does not look for a better one at each start
    if pattern.startswith("rand"):
        words.append(f"--io_size={(scale.random_mib << 10) // what.clients}k")
    if pattern.endswith("write"):
        words.append("--end_fsync=1")                       # a writeback cache is then written out
    return words


def mib_per_second(output: str, operation: str) -> float:
    """From fio's report.  => Refused."""
    try:
        job: Any = json.loads(output[output.index("{"):])["jobs"][0]
    except (ValueError, LookupError):
        raise Refused("fio's report is not understood") from None
    if job["error"]:
        raise Refused(f"fio: error {job['error']}")
    return float(job["write" if operation in (WRITE, RANDOM_WRITE) else "read"]["bw_bytes"]) / (1 << 20)
