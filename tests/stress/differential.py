"""stress/differential.py: the same random system calls on the kernel's tmpfs and on tmpfsd, every answer compared.

    python -m tests.stress.differential SEED STEPS [--seeds N] [-o CONFIGURATION] [--edge EDGE]

plays STEPS operations for each seed from SEED on; without -o each seed has another of CONFIGURATIONS.  Both must agree
on all that player.py sees, except for the table in allowed.py.  Every so many steps the whole tree is compared.  A
difference is a failure that names seed and step.  The script is then cut down to a few steps that still differ, and
printed as an argument of play_again().

Picture     script --Pair.run()--> twelve players: six users on each side --answers--> unexplained()

Invariants  D1 Both sides are empty when a script begins, so its results depend on its steps alone.
            D2 Only players touch the mounts, so that a server that hangs stops only them.
"""

from __future__ import annotations

import argparse
import itertools
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from tests.mount import mountlib
from tests.stress import player
from tests.stress.allowed import unexplained
from tests.stress.scripts import (
    ACL_OPERATIONS, NATIVE_OPERATIONS, OPERATIONS, USERS, Operation, Step, operation, script
)

ROOT = 0                        # the user who looks at the whole
EVERY = 1000                    # steps between two looks at the whole
ANSWER_SECONDS = 120
SHRINK_SECONDS = 120
SIZE = "size=2g,mode=1777"


class Configuration(NamedTuple):
    """Options of both mounts, the environment of the daemon."""

    options: str
    environment: dict[str, str] = {}

    @property
    def acl(self) -> bool:
        """Whether ACLs are played."""
        return "acl" in self.options.split(",")

    def through(self, edge: str) -> Configuration:
        """The same, served by an edge."""
        return self._replace(options=f"{self.options},edge={edge}") if edge else self

    @property
    def native(self) -> bool:
        """Whether operations are played that only edge=native passes on."""
        return "edge=native" in self.options.split(",") or mountlib.IS_NATIVE and "edge=" not in self.options


CHECKED, THRASHING = {"TMPFSD_CHECK": "1"}, {"TMPFSD_CHECK": "1", "TMPFSD_THRASH": "1"}
DEEP = {"TMPFSD_CHECK": "2", "TMPFSD_THRASH": "1"}      # everything checked after each request
CONFIGURATIONS = {
    "starving": Configuration("ram=1m", CHECKED),
    "acl": Configuration("ram=1m,acl", CHECKED),
    "thrash": Configuration("ram=2m", THRASHING),
    "noatime": Configuration("ram=1m,noatime,backend=pageable-object", CHECKED),
    "aobj": Configuration("ram=1m,backend=aobj,swap_io=direct", CHECKED),
}
DEEP_CONFIGURATIONS = {"deep": Configuration("ram=1m", DEEP), "deep-acl": Configuration("ram=1m,acl", DEEP)}


class Different(AssertionError):
    """The two sides disagree: at which step, and how."""

    def __init__(self, step: int, what: Operation, differences: list[str]) -> None:
        super().__init__(f"step {step}: {what}:\n    " + "\n    ".join(differences))
        self.step, self.differences = step, differences

    def fields(self) -> frozenset[str]:
        """The fields that differ: they identify this difference while the script is cut down."""
        return frozenset(text.partition(":")[0].rpartition(".")[2] for text in self.differences)


class Side:
    """The players of one file system."""

    def __init__(self, root: str) -> None:
        self.connections: list[Connection] = []
        self.pids = []
        for user in range(len(USERS)):
            here, there = Pipe()
            self.pids.append(player.start(root, user, there))
            there.close()
            self.connections.append(here)

    def close(self) -> None:
        """End the players."""
        for connection in self.connections:
            connection.close()
        for pid in self.pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


class Pair:
    """Both sides."""

    def __init__(self, kernel: str, ours: str, acl: bool, native: bool = False) -> None:
        self.acl, self.native = acl, native
        self.roots = Path(kernel), Path(ours)
        self.sides: list[Side] = []
        self.pageins = 0                # of ours, at the end
        self.outcomes: Counter[tuple[str, Any]] = Counter()      # (kind, errno): how often
        for root in (kernel, ours):
            self.sides.append(Side(root))

    def close(self) -> None:
        """End all players."""
        for side in self.sides:
            side.close()

    def ask(self, user: int, operations: list[Operation]) -> Iterator[tuple[Operation, Any, Any]]:
        """Let a user play on both sides at once."""
        connections = [side.connections[user] for side in self.sides]
        for connection in connections:
            connection.send(operations)
        answers = []
        for connection in connections:
            if not connection.poll(ANSWER_SECONDS):
                raise TimeoutError(f"no answer in {ANSWER_SECONDS} seconds to {operations}")
            answers.append(connection.recv())
        return zip(operations, *answers)

    def compare(self, step: int, user: int, operations: list[Operation]) -> None:
        """Play, and compare the answers.  => Different."""
        for i, (what, kernel, ours) in enumerate(self.ask(user, operations)):
            self.outcomes[what[0], kernel["errno"]] += 1
            differences = unexplained(what, kernel, ours)
            if differences:
                raise Different(step + i, (str(USERS[user]), *what), differences)

    def reset(self) -> None:
        """Empty both sides (D1)."""
        for user in reversed(range(len(USERS))):        # root last
            for _what, *answers in self.ask(user, [("reset",)]):
                assert all(answer == {"errno": 0} for answer in answers), f"cannot empty it: {answers}"

    def run(self, steps: Sequence[Step]) -> None:
        """Play a script on both sides from the beginning, and look at the whole now and then.  => Different."""
        self.reset()
        done = 0
        for user, group in itertools.groupby(steps, lambda step: step[0]):
            operations = [operation(seed, self.acl, self.native) for _user, seed in group]
            self.compare(done, user, operations)
            if (done + len(operations)) // EVERY > done // EVERY:
                self.compare(done + len(operations) - 1, ROOT, [("dump",)])
            done += len(operations)
        self.compare(done - 1, ROOT, [("dump",)])

    def shrink(self, steps: list[Step], found: Different) -> list[Step]:
        """A shorter script that ends in the same difference: steps after it are cut off, then ever smaller parts."""
        steps = steps[:found.step + 1]
        deadline = time.monotonic() + SHRINK_SECONDS
        length = len(steps) // 2
        while length:
            at = 0
            while at < len(steps) and time.monotonic() < deadline:
                shorter = steps[:at] + steps[at + length:]
                try:
                    self.run(shorter)
                    at += length
                except Different as other:
                    if other.fields() & found.fields():
                        steps = shorter[:other.step + 1]
                    else:
                        at += length
            length //= 2
        return steps


@contextmanager
def mounts(configuration: Configuration) -> Iterator[Pair]:
    """Both file systems with players on them; the checker looks at ours at the end."""
    options, environment = configuration
    noatime = ",noatime" * ("noatime" in options.split(","))
    kernel = mountlib.mount_kernel(SIZE + noatime)
    try:
        ours = mountlib.mount_tmpfsd(f"{SIZE},{options}", **environment)
        try:
            pair = Pair(str(kernel.mnt), str(ours.mnt), configuration.acl, configuration.native)
            try:
                yield pair
                ours.check()
                pair.pageins = ours.status()["paging"]["pageins"]
            except AssertionError:
                raise
            except BaseException:
                ours.daemon.kill()      # or players that wait for it would never end
                raise
            finally:
                pair.close()
        finally:
            ours.close()
    finally:
        kernel.close()


def play_again(steps: Sequence[Step], configuration: str = "starving", edge: str = "") -> None:
    """Play a script that was cut down."""
    with mounts(CONFIGURATIONS[configuration].through(edge)) as pair:
        pair.run(steps)


def play(seed: int, nsteps: int, pair: Pair) -> None:
    """Play one script; a failure names seed and step, and is cut down."""
    steps = script(seed, nsteps)
    try:
        pair.run(steps)
    except Different as found:
        print(f"\nseed {seed}, {found}\ncutting it down ...", file=sys.stderr, flush=True)
        shorter = pair.shrink(steps, found)
        print(f"play_again({shorter}, CONFIGURATION) plays:", file=sys.stderr)
        for user, number in shorter:
            print("   ", USERS[user], operation(number, pair.acl, pair.native), file=sys.stderr)
        raise


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.stress.differential", description=__doc__.splitlines()[0])
    parser.add_argument("seed", type=int)
    parser.add_argument("steps", type=int)
    parser.add_argument("--seeds", type=int, default=1, help="how many scripts, each with the next seed")
    parser.add_argument("-o", dest="configuration", metavar="CONFIGURATION",
                        choices=[*CONFIGURATIONS, *DEEP_CONFIGURATIONS],
                        help="default: another one for each seed")
    parser.add_argument("--edge", default="", choices=["native", "pyfuse3"], help="default: that of the mount")
    arguments = parser.parse_args()
    began, total = time.monotonic(), 0
    outcomes: Counter[tuple[str, Any]] = Counter()
    for seed in range(arguments.seed, arguments.seed + arguments.seeds):
        name = arguments.configuration or [*CONFIGURATIONS][seed % len(CONFIGURATIONS)]
        with mounts((CONFIGURATIONS | DEEP_CONFIGURATIONS)[name].through(arguments.edge)) as pair:
            play(seed, arguments.steps, pair)
            total += arguments.steps
            outcomes += pair.outcomes
        rate = total / (time.monotonic() - began)
        print(f"seed {seed}, {name}: {total} operations so far, {rate:.0f}/s, {pair.pageins} page-ins, all alike",
              flush=True)
    for kind in ACL_OPERATIONS | OPERATIONS | NATIVE_OPERATIONS:
        found = [f"{number or 'done'} {n}" for (what, number), n in outcomes.most_common() if what == kind]
        print(f"{kind:12}", ", ".join(found))


if __name__ == "__main__":
    main()
