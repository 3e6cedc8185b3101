"""bench/clients.py: the client processes of a part, as the benchmark sees them.

Picture     ask(requests) -> a line to each client at once -> a line from each -> answers
            no line in time: Hung; the server is killed, and the clients are started anew.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tools.bench.servers import Server, on_cpus
from tools.bench.sheet import Refused

CLIENT = Path(__file__).with_name("client.py")
LIMIT_SECONDS, GRACE_SECONDS = 10.0, 5.0
Request = dict[str, Any]


class Hung(Exception):
    """A client did not answer."""


class Clients:
    """A number of client processes on some processors."""

    __slots__ = ("cpus", "processes")

    def __init__(self, count: int, cpus: set[int]) -> None:
        self.cpus = cpus
        self.processes: list[subprocess.Popen[bytes]] = []
        self._start(count)

    def __enter__(self) -> Clients:
        return self

    def __exit__(self, *_why: object) -> None:
        self._end()

    def __len__(self) -> int:
        return len(self.processes)

    def _start(self, count: int) -> None:
        with on_cpus(self.cpus):
            for _ in range(count):
                self.processes.append(subprocess.Popen(
                    [sys.executable, "-S", str(CLIENT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                    env={**os.environ, "LC_ALL": "C", "TZ": "UTC"}, start_new_session=True))

    def _end(self) -> None:
        for process in self.processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)      # and what it runs
        for process in self.processes:
            process.communicate()
        self.processes.clear()

    def on(self, server: Server, requests: Sequence[Request], limit: float = LIMIT_SECONDS) -> list[Any]:
        """Return what each client answers to its request.  => Refused."""
        if not server.alive:
            raise Refused("the server has ended")
        try:
            answers = self._ask([{"limit": limit, **request} for request in requests], limit + GRACE_SECONDS)
        except Hung:
            server.kill()
            count = len(self)
            self._end()
            self._start(count)
            raise Refused(f"did not answer in {limit + GRACE_SECONDS:g} s") from None
        for answer in answers:
            if "error" in answer:
                raise Refused(answer["error"] if server.alive else "the server has ended")
        return answers

    def _ask(self, requests: Sequence[Request], limit: float) -> list[Any]:
        deadline = time.monotonic() + limit
        for process, request in zip(self.processes, requests, strict=True):
            assert process.stdin is not None
            process.stdin.write(json.dumps(request).encode() + b"\n")
        for process in self.processes:                      # all are to start together
            assert process.stdin is not None
            process.stdin.flush()
        return [self._answer(process, deadline) for process in self.processes]

    @staticmethod
    def _answer(process: subprocess.Popen[bytes], deadline: float) -> Any:
        """A line; clients write only whole ones."""
        assert process.stdout is not None
        data = b""
        while not data.endswith(b"\n"):
            ready, _, _ = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            part = os.read(process.stdout.fileno(), 1 << 20) if ready else b""
            if not part:
                raise Hung
            data += part
        return json.loads(data)


def seconds(answers: Sequence[Any]) -> float:
    """The time from the first start to the last end."""
    return max((max(it["end"] for it in answers) - min(it["start"] for it in answers)) / 1e9, 1e-9)


def micros_each(answers: Sequence[Any]) -> float:
    """Microseconds for each of the operations that all did together."""
    return seconds(answers) * 1e6 / sum(it["n"] for it in answers)
