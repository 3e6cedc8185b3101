"""bench/listing.py: a directory of many entries, listed with and without their attributes: microseconds an entry."""

from __future__ import annotations

from tools.bench.clients import Clients, seconds
from tools.bench.scale import Scale
from tools.bench.servers import Server, running, settle
from tools.bench.sheet import SLAB, Measure, Refused, Run, drop_caches, interleave, processors

TITLE = "a large directory"
PLAIN, LONG = "ls -f", "ls -l"
FLAGS = {PLAIN: "-f", LONG: "-l"}
EXTRA = {PLAIN: (0, 2), LONG: (1,)}     # lines that are not files: "." and "..", which some omit; the total
FILL_SECONDS, CHUNK, LIST_SECONDS = 60.0, 5000, 20.0
TRIED = 0.25                            # of that time; after it one can predict that it will not be enough
FILLING = 0.5                           # of the part, roughly


def measures(_scale: Scale) -> list[Measure]:
    """What the part measures."""
    return [Measure(PLAIN), Measure(LONG)]


def measure(run: Run) -> None:
    """Fill a directory on each server that can list it, then list it cold in each round."""
    wanted = measures(run.scale)
    cpus = processors(wanted[0].placement)
    with running(run.specs, run.place, cpus, run.failed) as servers, Clients(1, cpus) as clients:
        for number, server in enumerate(servers):
            run.tick(FILLING * number / len(servers), f"fill {server.name}")
            try:
                fill(clients, server, run.scale.listed)
            except Refused as why:
                for what in wanted:
                    run.sheet.refuse(what, server.name, str(why))

        def before(_what: Measure) -> None:
            drop_caches(SLAB, "ls")
            settle(servers)

        def step(_number: int, what: Measure, server: Server) -> float:
            return listed(clients, server, what.operation, run.scale.listed)

        interleave(run, wanted, servers, step, before, (FILLING, 1.0))


def fill(clients: Clients, server: Server, entries: int) -> None:
    """Files in one directory.  => Refused."""
    clients.on(server, [{"run": ["ls", "-f", server.mnt]}])         # without readdir there is no reason to fill it
    spent, made = 0.0, 0
    while made < entries:
        more = min(CHUNK, entries - made)
        answers = clients.on(server, [{"make": f"{server.mnt}/list", "first": made, "n": more}], FILL_SECONDS)
        made += more
        spent += seconds(answers)
        if spent > FILL_SECONDS * TRIED and spent / made * entries > FILL_SECONDS:
            raise Refused(f"more than {FILL_SECONDS:g} s to fill it")


def listed(clients: Clients, server: Server, operation: str, entries: int) -> float:
    """Microseconds an entry.  => Refused."""
    answers = clients.on(server, [{"run": ["ls", FLAGS[operation], f"{server.mnt}/list"]}], LIST_SECONDS)
    settle([server])
    found = answers[0]["lines"] - entries
    if found not in EXTRA[operation]:
        raise Refused(f"lists {found + entries:,} lines for {entries:,} entries")
    return seconds(answers) * 1e6 / entries
