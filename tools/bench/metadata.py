"""bench/metadata.py: create, stat cold, open-close, rename, unlink, mkdir, symlink: microseconds for each."""

from __future__ import annotations

from tools.bench.clients import Clients, micros_each
from tools.bench.scale import Scale
from tools.bench.servers import Server, running, settle
from tools.bench.sheet import FREE, SAME, SLAB, Measure, Run, drop_caches, interleave, processors

TITLE = "metadata operations"
COLD = "stat cold"
# In this order: later ones use what earlier ones make.
OPERATIONS = ("create", COLD, "open-close", "rename", "unlink", "mkdir", "symlink")
PLACEMENTS = (FREE, SAME)


def measures(scale: Scale) -> list[Measure]:
    """What the part measures."""
    return [Measure(operation, placement, clients)
            for placement in PLACEMENTS for clients in scale.clients for operation in OPERATIONS]


def measure(run: Run) -> None:
    """New servers for each placement; servers that do not run everything skip the part with several clients."""
    share = 1 / len(PLACEMENTS) / len(run.scale.clients)
    done = 0.0
    for placement in PLACEMENTS:
        cpus = processors(placement)
        with running(run.specs, run.place, cpus, run.failed) as servers:
            for count in run.scale.clients:
                asked = [server for server in servers if server.spec.full or count == 1]
                with Clients(count, cpus) as clients:
                    operate(run, clients, placement, asked, (done, done + share))
                done += share


def operate(run: Run, clients: Clients, placement: str, servers: list[Server], span: tuple[float, float]) -> None:
    """All operations of these clients, each client in a directory of its own, a new one in each round."""
    each = run.scale.files // len(clients)

    def before(what: Measure) -> None:
        if what.operation == COLD:
            drop_caches(SLAB)
        settle(servers)

    def step(number: int, what: Measure, server: Server) -> float:
        directories = [f"{server.mnt}/{len(clients)}.{number}.{client}" for client in range(len(clients))]
        if what.operation == OPERATIONS[0]:
            clients.on(server, [{"make": directory} for directory in directories])
        used = server.cpu_seconds()
        answers = clients.on(server, [{"operation": what.operation, "directory": directory, "n": each}
                                      for directory in directories])
        settle([server])
        if number >= 0:
            run.sheet.spend(what, server.name, (server.cpu_seconds() - used) * 1e6 / (each * len(clients)))
        return micros_each(answers)

    interleave(run, [Measure(name, placement, len(clients)) for name in OPERATIONS], servers, step, before, span)
