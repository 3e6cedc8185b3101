"""tests/stress/cluster.py: kills nodes of a cluster that a mount pages to, while files are written and read.

    python -m tests.stress.cluster [KILLS] [SEED]

Each read is right or refused; when the cluster serves again, everything is there.  Takes 6 seconds a kill.
"""

import logging
import random
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from tests.fs.fslib import CRED, ROOT
from tests.servers import Server, cluster
from tmpfsd.options import Config
from tmpfsd.tmpfs import vnops
from tmpfsd.tmpfs.filesystem import Mount
from tmpfsd.tmpfs.fserror import FsError
from tmpfsd.uvm.errors import NoMemory, SwapIOError

MB = 1 << 20
REFUSED = FsError, SwapIOError, NoMemory
SIZE = 9000
WAIT = 30.0


class Load:
    """Files of one mount, and the refusals."""

    def __init__(self, mount: Mount, seed: int) -> None:
        self.mount, self.rng = mount, random.Random(seed)
        self.files: dict[int, int] = {}
        self.count = self.refused = 0
        self.worst = 0.0

    def content(self, number: int) -> bytes:
        return random.Random(number).randbytes(SIZE)

    def write(self) -> None:
        self.count += 1
        self.mount.breathe()
        ino = vnops.create(self.mount, ROOT, b"%d" % self.count, 0o600, CRED)
        self.mount.breathe()
        if vnops.write(self.mount, ino, 0, self.content(self.count)) == SIZE:      # short where memory ran out in it
            self.files[self.count] = ino

    def read(self, number: int) -> None:
        self.mount.breathe()
        got, want = bytes(vnops.read(self.mount, self.files[number], 0, SIZE)), self.content(number)
        assert got == want, f"file {number} is wrong: {len(got)} bytes, {sum(map(int.__ne__, got, want))} differ"

    def step(self) -> None:
        """One request: right, or refused."""
        began = time.monotonic()
        try:
            if self.rng.random() < 0.05:
                self.write()
            else:
                self.read(self.rng.choice(list(self.files)))
        except REFUSED:
            self.refused += 1
        self.worst = max(self.worst, time.monotonic() - began)

    def state(self) -> str:
        return str(self.mount.status()["stores"][0]["state"])


def kill_one(servers: list[Server], load: Load) -> None:
    """Kill a primary, load the mount until it is served again, start the node."""
    until = time.monotonic() + WAIT
    while not all(each.has_replicas() for each in servers):
        assert time.monotonic() < until, "a replica does not link"
        time.sleep(0.1)
    victim = load.rng.choice([each for each in servers if each.is_primary()])
    victim.kill()
    began, before = time.monotonic(), load.refused
    while time.monotonic() < began + 5 or load.refused == before or load.state() != "ok":
        assert time.monotonic() < began + WAIT, load.state()
        load.step()
        time.sleep(0.002)
    victim.start()


def main(kills: int = 20, seed: int = 1) -> None:
    """Kill so many nodes."""
    logging.disable(logging.CRITICAL)
    with ExitStack() as stack, tempfile.TemporaryDirectory() as directory:
        stack.callback(logging.disable, logging.NOTSET)
        servers = cluster(stack, Path(directory))
        place = "valkey://" + ",".join(f"127.0.0.1:{each.port}" for each in servers) + "/stress"
        mount = Mount(Config(ram_bytes=2 * MB, size_bytes=256 * MB, swap=place, uid=0, gid=0))
        load = Load(mount, seed)
        for _ in range(600):
            load.write()
        for kill in range(1, kills + 1):
            kill_one(servers, load)
            for number in load.files:
                load.read(number)
            print(f"{kill}: {len(load.files)} files whole, {load.refused} refused, worst wait {load.worst:.2f} s",
                  flush=True)
        mount.check()
        mount.close()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
