"""bench/idle.py: what a mount costs while nobody asks it for anything: per cent of a processor."""

from __future__ import annotations

import time

from tools.bench.clients import Clients
from tools.bench.scale import Scale
from tools.bench.servers import KERNEL, TICKS, running
from tools.bench.sheet import FREE, PERCENT, Measure, Refused, Run, processors

TITLE = "idle"
IDLE = "idle"
QUIET_SECONDS = 3.0         # work left over from the files before is done in this time
FILES = 500


def measures(_scale: Scale) -> list[Measure]:
    """What the part measures."""
    return [Measure(IDLE, unit=PERCENT)]


def measure(run: Run) -> None:
    """All servers in the same seconds, after a few files on each; one figure for each."""
    what, = measures(run.scale)
    seconds = run.scale.idle_seconds
    with running(run.specs, run.place, processors(FREE), run.failed) as servers:
        with Clients(1, processors(FREE)) as clients:
            for server in servers:
                try:
                    clients.on(server, [{"make": f"{server.mnt}/files", "n": FILES}])
                except Refused as why:
                    run.sheet.refuse(what, server.name, str(why))
                if server.name == KERNEL:
                    run.sheet.refuse(what, server.name, "has no process")
        run.tick(0.2, "quiet")
        time.sleep(0 if run.scale.quick else QUIET_SECONDS)
        alive = [server for server in servers if server.alive and not run.sheet.refused(what, server.name)]
        before = [server.cpu_ticks() for server in alive]
        run.tick(0.4, f"{seconds:g} s of nothing")
        time.sleep(seconds)
        for server, ticks in zip(alive, before):
            if server.alive:
                run.sheet.add(what, server.name, 100 * (server.cpu_ticks() - ticks) / TICKS / seconds)
