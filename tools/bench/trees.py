"""bench/trees.py: what people do with trees: unpack a tar, cp -a, find, grep -r, rm -rf: seconds.

The tree has the shape of node_modules (as in the experiments), without its links, which not every server supports.
With several clients each has a smaller tree.  `noperm` has the trees of one client.
"""

from __future__ import annotations

import io
import tarfile
from contextlib import suppress
from pathlib import Path

from tools.bench.clients import Clients, Request, seconds
from tools.bench.scale import Scale
from tools.bench.servers import NOPERM, Server, running, settle
from tools.bench.sheet import ALL, FREE, SECONDS, Measure, Refused, Run, drop_caches, interleave, processors
from tools.experiments.trees import DIR, FILE, node_modules

TITLE = "trees"
UNPACK, COPY, FIND, GREP, REMOVE = "unpack a tar", "cp -a", "find cold", "grep -r cold", "rm -rf"
OPERATIONS = (UNPACK, COPY, FIND, GREP, REMOVE)
# The earlier operation that an operation needs.  nullfs, which cannot list, removes a directory with all its contents.
WHOLE, LISTED = (UNPACK, "the tree was not unpacked"), (FIND, "the tree cannot be listed")
NEEDS = {UNPACK: (), COPY: (WHOLE,), FIND: (WHOLE,), GREP: (WHOLE, LISTED), REMOVE: (WHOLE, LISTED)}
TEXT = b"export const answer = 42;  // what a line of a program looks like\n"
NEEDLE = b"a needle in the stack\n"
LIMIT_SECONDS = 30.0


def measures(scale: Scale) -> list[Measure]:
    """What the part measures."""
    return [Measure(operation, FREE, clients, SECONDS) for clients in scale.clients for operation in OPERATIONS]


def measure(run: Run) -> None:
    """Trees of one client and then of several on the same mounts."""
    run.specs, cpus = [spec for spec in run.specs if spec.full or spec.name == NOPERM], processors(FREE)
    share = 1 / len(run.scale.clients)
    with running(run.specs, run.place, cpus, run.failed) as servers:
        for number, count in enumerate(run.scale.clients):
            archive = run.place / f"tree{count}.tar"
            files = pack(archive, run.scale.tree if count == 1 else run.scale.trees // count)
            with Clients(count, cpus) as clients:
                asked = [server for server in servers if server.spec.full or count == 1]
                operate(run, clients, asked, archive, files, (number * share, (number + 1) * share))


def pack(archive: Path, count: int) -> int:
    """Write a tar; return how many files are in it.  The last one has the needle."""
    entries = [entry for entry in node_modules(count) if entry.kind in (DIR, FILE)]
    files = [entry.path for entry in entries if entry.kind == FILE]
    with tarfile.open(archive, "w") as tar:
        for entry in entries:
            info = tarfile.TarInfo(entry.path)
            if entry.kind == DIR:
                info.type, info.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(info)
                continue
            content = (TEXT * (entry.size // len(TEXT) + 1))[:entry.size] + NEEDLE * (entry.path == files[-1])
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return len(files)


def operate(run: Run, clients: Clients, servers: list[Server], archive: Path, files: int,
            span: tuple[float, float]) -> None:
    """All operations, each client with a tree of its own."""
    copies: list[tuple[Server, list[str]]] = []

    def before(what: Measure) -> None:
        while what.operation == UNPACK and copies:          # of the last round: neither timed nor counted
            server, places = copies.pop()
            with suppress(Refused):
                clients.on(server, [request(REMOVE, place, archive) for place in places], LIMIT_SECONDS)
        if what.operation in (FIND, GREP):
            drop_caches(ALL, "find", "grep")
        archive.read_bytes()                                # the tar itself is always cached
        settle(servers)

    def step(number: int, what: Measure, server: Server) -> float:
        places = [f"{server.mnt}/{len(clients)}.{number}.{client}" for client in range(len(clients))]
        for needed, why in NEEDS[what.operation]:
            if run.sheet.refused(what._replace(operation=needed), server.name):
                raise Refused(why)
        if what.operation == UNPACK:
            clients.on(server, [{"make": place} for place in places])
        answers = clients.on(server, [request(what.operation, place, archive) for place in places], LIMIT_SECONDS)
        settle([server])
        if what.operation == COPY:
            copies.append((server, [copy_of(place) for place in places]))
        expected = {FIND: files, GREP: 1}.get(what.operation, 0)
        for answer in answers:
            if answer["lines"] != expected:
                raise Refused(f"{answer['lines']:,} lines instead of {expected:,}")
        return seconds(answers)

    interleave(run, [Measure(name, FREE, len(clients), SECONDS) for name in OPERATIONS], servers, step, before, span)


def request(operation: str, place: str, archive: Path) -> Request:
    """What a client runs."""
    return {"run": {UNPACK: ["tar", "-xf", str(archive), "-C", place], COPY: ["cp", "-a", place, copy_of(place)],
                    FIND: ["find", place, "-type", "f"],
                    GREP: ["grep", "-r", NEEDLE.decode().strip(), place], REMOVE: ["rm", "-rf", place]}[operation]}


def copy_of(place: str) -> str:
    """Where the copy of a client's tree is."""
    return f"{place}.copy"
