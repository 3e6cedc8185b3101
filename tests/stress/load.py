"""stress/load.py: processes that hold ten times `ram`, and clients of the control socket that do not behave.

    python -m tests.stress.load [--seconds 120] [--processes 16] [--ram 8m] [--clients 1000]

Three parts:

    load     every process plays random operations on a directory and compares all of it with its model (worker.py),
             while the status is asked for ten times a second; at the end everything is checked
    clients  a process makes and removes a file, again and again, first alone and then beside clients that ask, send
             garbage, send byte by byte, say nothing, or do not read the answers
    turns    the same clients, and the processor time that one turn of theirs takes from the request loop: the delay of
             a request on a machine that has a processor to spare

Times are p50, p99, max of one operation.  Exit status 1 if anything was wrong.  Times are reported and not judged,
because they depend on the machine and on its other users.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from array import array
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import trio

from tests.stress.worker import Worker
from tmpfsd.cli import client
from tmpfsd.mounts import mountinfo, places
from tmpfsd.options import Config
from tmpfsd.server import commands, control, loop, operations, trees
from tmpfsd.tmpfs.filesystem import Mount

MB = 1 << 20
TIMES = 10                  # as much as `ram` is held
PROBE_SECONDS = 4.0
KINDS = ("asks", "garbage", "slow", "silent", "deaf")


@contextlib.contextmanager
def mounted(options: str) -> Iterator[Path]:
    """A mount that ends with the block, and must end well."""
    mnt = Path(tempfile.mkdtemp(prefix="tmpfsd-load-"))
    daemon = subprocess.Popen([sys.executable, "-m", "tmpfsd.cli.mount", str(mnt), "-f", "-o", options])
    try:
        deadline = time.monotonic() + 20
        while not mountinfo.find(str(mnt)) or not answers(mnt):
            if daemon.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"tmpfsd -o {options} did not mount")
            time.sleep(0.02)
        yield mnt
    finally:
        daemon.send_signal(signal.SIGTERM)
        try:
            status = daemon.wait(timeout=20)
        except subprocess.TimeoutExpired:
            daemon.kill()
            status = daemon.wait()
        subprocess.run(["umount", "-l", mnt], capture_output=True, check=False)
        mnt.rmdir()
    if status:
        raise SystemExit(f"the daemon ended with {status}")


def answers(mnt: Path) -> bool:
    """Whether its control socket does."""
    try:
        return bool(client.status(str(mnt)))
    except client.ClientError:
        return False


def figures(seconds: array[float] | list[float]) -> str:
    """p50, p99 and max in milliseconds."""
    ordered = sorted(seconds) or [0.0]
    p50, p99 = (ordered[int(len(ordered) * share)] for share in (0.5, 0.99))
    return f"p50 {p50 * 1e3:.3f}  p99 {p99 * 1e3:.2f}  max {ordered[-1] * 1e3:.1f} ms  (n={len(seconds):,})"


# --- load ---

def hold_and_play(directory: str, seed: int, nbytes: int, seconds: float) -> tuple[int, bytes]:
    """The work of each process: (operations, their latencies)."""
    os.mkdir(directory)
    worker = Worker(Path(directory), seed, many=60 + (nbytes >> 16))
    worker.hold(nbytes)
    worker.run(seconds)
    return worker.steps, worker.latencies.tobytes()


class Asker(threading.Thread):
    """Asks for the status ten times a second; the budget must hold in every answer."""

    def __init__(self, mnt: Path) -> None:
        super().__init__(daemon=True)
        self.mnt, self.ended = str(mnt), threading.Event()
        self.latencies: list[float] = []
        self.wrong: list[str] = []
        self.last: dict[str, Any] = {}

    def run(self) -> None:
        """Until ended."""
        while not self.ended.wait(0.1):
            started = time.perf_counter()
            try:
                self.last = client.status(self.mnt)
            except client.ClientError as error:
                self.wrong.append(str(error))
                continue
            self.latencies.append(time.perf_counter() - started)
            if not 0 < self.last["resident_bytes"] <= self.last["ram_bytes"]:
                self.wrong.append(f"resident {self.last['resident_bytes']} of {self.last['ram_bytes']}")


def load(ram_mb: int, processes: int, seconds: float) -> list[str]:
    """The first part; the errors found."""
    each = ram_mb * MB * TIMES // processes
    with mounted(f"ram={ram_mb}m,size={ram_mb * TIMES * 4}m") as mnt:
        asker = Asker(mnt)
        asker.start()
        wrong: list[str] = []
        latencies, steps = array("d"), 0
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            jobs = [pool.submit(hold_and_play, str(mnt / f"process-{i}"), i, each, seconds) for i in range(processes)]
            for job in jobs:
                try:
                    done, taken = job.result()
                    steps += done
                    latencies.frombytes(taken)
                except Exception as error:
                    wrong.append(f"{type(error).__name__}: {error}")
        asker.ended.set()
        asker.join()
        paging = client.status(str(mnt))["paging"]
        verdict = client.ask(str(mnt), "check")
    if verdict != "consistent":
        wrong.append(verdict)
    print(f"load: {processes} processes, {seconds:g} s, ram {ram_mb} MiB, {TIMES * ram_mb} MiB held: {steps:,}"
          f" operations, {paging['pageouts']:,} page-outs, {paging['pageins']:,} page-ins, check: {verdict}")
    print(f"  operations  {figures(latencies)}")
    print(f"  status      {figures(asker.latencies)}")
    return wrong + asker.wrong


# --- clients ---

def probe(directory: Path, seconds: float) -> list[float]:
    """Make and remove a file again and again: how long each pair took."""
    path, taken, deadline = directory / "probe", [], time.perf_counter() + seconds
    while (started := time.perf_counter()) < deadline:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        os.unlink(path)
        taken.append(time.perf_counter() - started)
        time.sleep(0.001)
    return taken


def storm(place: str, count: int, pipe: Any) -> None:
    """A process of `count` clients, until it is told to end; it sends their results."""
    os.nice(10)                         # what is measured is the daemon, not who gets the processor
    outcome: Counter[str] = Counter()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for number in range(count):
                nursery.start_soon(client_forever, place, KINDS[number % len(KINDS)], random.Random(number), outcome)
            await trio.to_thread.run_sync(pipe.recv)
            nursery.cancel_scope.cancel()

    trio.run(main)
    pipe.send(outcome)


async def client_forever(place: str, kind: str, rng: random.Random, outcome: Counter[str]) -> None:
    """One client, which comes back whenever it is sent away."""
    while True:
        try:
            with trio.socket.socket(trio.socket.AF_UNIX) as sock:
                await sock.connect(place)
                outcome["connections"] += 1
                await misbehave(sock, kind, rng, outcome)
        except OSError as error:        # of a full backlog trio says "not connected"
            outcome[f"{kind}: {error.strerror}"] += 1
        await trio.sleep(rng.random() * 0.5)


async def misbehave(sock: Any, kind: str, rng: random.Random, outcome: Counter[str]) -> None:
    """Be a client of that kind until the connection ends."""
    if kind == "silent":
        await answer(sock, kind, outcome)
    while kind != "silent":
        if kind == "slow":
            await sock.send(b"{")
            await trio.sleep(0.5)
            continue
        await sock.send(rng.randbytes(2000) + b"\n" if kind == "garbage" else b'{"command": "status"}\n')
        if kind != "deaf" and not await answer(sock, kind, outcome):
            return
        await trio.sleep(0.05)


async def answer(sock: Any, kind: str, outcome: Counter[str]) -> bool:
    """Read what is said; whether that was an answer."""
    data = await sock.recv(65536)
    said = "refused" if b"too many" in data else "sent away" if b"nothing for" in data else "answered"
    outcome[f"{kind}: {said if data else 'closed'}"] += 1
    return said == "answered" and bool(data)


def clients(count: int, seconds: float) -> list[str]:
    """The second part; the errors found."""
    with mounted("ram=8m,size=64m") as mnt:
        alone = probe(mnt, seconds)
        place = os.path.join(places.directories(os.geteuid())[0],
                             places.socket_name(*client.find(str(mnt)).device))
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=storm, args=(place, count, theirs))
        process.start()
        time.sleep(2)
        beside = probe(mnt, seconds)
        ours.send("end")
        outcome: Counter[str] = ours.recv()
        process.join()
        deadline = time.monotonic() + 10
        while not answers(mnt) and time.monotonic() < deadline:
            time.sleep(0.1)
        verdict = client.ask(str(mnt), "check")
    print(f"clients: {count}, {outcome['connections']:,} connections, check: {verdict}")
    print(f"  alone    {figures(alone)}")
    print(f"  beside   {figures(beside)}  over 10 ms: {sum(taken > 0.01 for taken in beside)}")
    for name, times in sorted(outcome.items()):
        print(f"  {times:>8,} {name}")
    return [] if verdict == "consistent" and outcome["asks: answered"] else ["the clients that ask were not answered"]


def turns(count: int, seconds: float) -> list[str]:
    """The third part: the control server of a Mount in this process, which is not mounted; the errors found."""
    config = Config(ram_bytes=128 * MB, size_bytes=1 << 30, swap="/var/tmp")
    mount = Mount(config)
    handlers = operations.Operations(mount, config)
    served = commands.Commands(mount, handlers, lambda: ("nowhere", True), None, trees.Trees(mount, handlers)).table()
    taken: list[float] = []

    async def main(place: str) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(control.ControlServer(served, os.geteuid()).serve, control.listen(place))
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                before = time.thread_time()
                await trio.lowlevel.checkpoint()            # as the dispatcher does, every TURN
                taken.append(time.thread_time() - before)
                time.sleep(loop.TURN * loop.NANO)
            nursery.cancel_scope.cancel()

    with tempfile.TemporaryDirectory() as directory:
        place = os.path.join(directory, "socket")
        ours, theirs = get_context("spawn").Pipe()
        process = get_context("spawn").Process(target=storm, args=(place, count, theirs))
        process.start()
        trio.run(main, place)
        ours.send("end")
        outcome: Counter[str] = ours.recv()
        process.join()
    mount.close()
    print(f"turns: {count} clients, {outcome['connections']:,} connections, {outcome['asks: answered']:,} answers")
    print(f"  taken    {figures(taken)}  over 10 ms: {sum(each > 0.01 for each in taken)}")
    return []


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.stress.load", description="Load a mount and its socket.")
    parser.add_argument("--seconds", type=float, default=120, help="how long the processes play (120)")
    parser.add_argument("--processes", type=int, default=16, help="how many (16)")
    parser.add_argument("--ram", type=int, default=8, metavar="MIB", help="`ram` of the mount (8); 10 times it is held")
    parser.add_argument("--clients", type=int, default=1000, help="of the control socket (1000)")
    args = parser.parse_args(argv)
    wrong = load(args.ram, args.processes, args.seconds) + clients(args.clients, min(PROBE_SECONDS, args.seconds))
    wrong += turns(args.clients, min(PROBE_SECONDS, args.seconds))
    for text in wrong:
        print(f"wrong: {text}", file=sys.stderr)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
