"""experiments/child.py: one job in a process of its own.

    python -m tools.experiments.child MODULE.FUNCTION ARGUMENTS      calls FUNCTION(tick, **arguments)

Picture     child: one line of JSON for each step of progress, and one for the result; the parent reads them.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Timer
from typing import Any, NamedTuple

REPOSITORY = Path(__file__).resolve().parents[2]
INTERVAL = 0.1
TIMEOUT = 1800.0


class Job(NamedTuple):
    """A measurement in one process: where its result is kept, what is called, and about how long it takes."""

    key: str
    function: str
    arguments: dict[str, Any]
    weight: float = 1.0


class JobError(Exception):
    """A job that did not end as it should."""


def environment() -> dict[str, str]:
    """The environment of a child: this repository first, nothing that slows the file system down."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TMPFSD_")}
    return {**kept, "PYTHONPATH": str(REPOSITORY), "PYTHONHASHSEED": "0"}


def run(job: Job, tick: Callable[[float], None], timeout: float = TIMEOUT) -> dict[str, Any]:
    """Run a job; return its result.  => JobError."""
    command = [sys.executable, "-m", "tools.experiments.child", job.function, json.dumps(job.arguments)]
    with subprocess.Popen(command, cwd=REPOSITORY, env=environment(), stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True) as process:
        alarm = Timer(timeout, process.terminate)
        alarm.start()
        try:
            result = _follow(process, tick)
            said = process.stderr.read() if process.stderr else ""
        except BaseException:
            process.terminate()
            raise
        finally:
            alarm.cancel()
    if result is None:
        raise JobError(f"{job.key}: exit status {process.returncode}: {said.strip()[-2000:]}")
    return result


def _follow(process: subprocess.Popen[str], tick: Callable[[float], None]) -> dict[str, Any] | None:
    assert process.stdout is not None
    result = None
    for line in process.stdout:
        told = json.loads(line)
        if "result" in told:
            result = told["result"]
        else:
            tick(told["progress"])
    return result


def main(function: str, arguments: str) -> None:
    """The child's side."""
    module, _, name = function.partition(".")
    told = 0.0

    def tick(progress: float) -> None:
        nonlocal told
        if time.monotonic() - told >= INTERVAL:
            told = time.monotonic()
            print(json.dumps({"progress": round(progress, 4)}), flush=True)

    call = getattr(importlib.import_module(f"tools.experiments.{module}"), name)
    print(json.dumps({"result": call(tick, **json.loads(arguments))}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
