"""bench/pressure.py: creates on a tmpfsd whose metadata are many times `ram`, and on one where they are resident.

Both are filled first, with the same files, a thousand to a directory; then each round creates a few more on each.
"""

from __future__ import annotations

from collections.abc import Callable

from tmpfsd.cli import client
from tmpfsd.options import parse
from tools.bench.clients import Clients, micros_each, seconds
from tools.bench.scale import Scale
from tools.bench.servers import RESIDENT, Server, running, settle, tmpfsd
from tools.bench.sheet import FREE, Measure, Refused, Run, interleave, processors

TITLE = "creates when metadata do not fit"
RESIDENT_NAME, TIGHT_NAME = "tmpfsd, resident", "tmpfsd, metadata beyond ram"
CREATE = "create, filled"
PER_DIR = 1000
FILL_SECONDS = 120.0
FILLING = 0.8                           # of the part, roughly


def measures(_scale: Scale) -> list[Measure]:
    """What the part measures."""
    return [Measure(CREATE)]


def measure(run: Run) -> None:
    """The servers are its own."""
    scale, cpus = run.scale, processors(FREE)
    run.specs = [tmpfsd(RESIDENT_NAME, RESIDENT), tmpfsd(TIGHT_NAME, f"ram={scale.tight},size=4g")]
    wanted = scale.times * parse([f"ram={scale.tight}"]).ram_bytes
    with running(run.specs, run.place, cpus, run.failed) as servers, Clients(1, cpus) as clients:
        for number, server in enumerate(servers):
            try:
                fill(clients, server, wanted, lambda part: run.tick(
                    FILLING * (number + part) / len(servers), f"fill {server.name}"))
            except Refused as why:
                run.sheet.refuse(Measure(CREATE), server.name, str(why))

        def step(number: int, _what: Measure, server: Server) -> float:
            answers = clients.on(server, [{"make": f"{server.mnt}/more{number}", "n": scale.more}])
            settle([server])
            return micros_each(answers)

        interleave(run, measures(scale), servers, step, lambda _what: settle(servers), (FILLING, 1.0))


def fill(clients: Clients, server: Server, wanted: int, tick: Callable[[float], None]) -> None:
    """Make empty files until metadata take that many bytes.  => Refused."""
    used, number, spent = 0, 0, 0.0
    while used < wanted:
        answers = clients.on(server, [{"make": f"{server.mnt}/dir{number:09d}", "n": PER_DIR}])
        number += 1
        spent += seconds(answers)
        if spent > FILL_SECONDS:
            raise Refused(f"more than {FILL_SECONDS:g} s to fill it")
        used = client.status(server.mnt)["used_bytes"]
        tick(used / wanted)
