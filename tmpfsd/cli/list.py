"""list.py: tmpfsctl list: all tmpfsd mounts that this process sees."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tmpfsd.cli.client import ClientError, Dead, Foreign, Hung, NoSocket, NotUnderstood, ask_briefly, leftovers
from tmpfsd.cli.units import human
from tmpfsd.mounts import mountinfo
from tmpfsd.mounts.printable import printable_all

EPILOG = """\
example:
  tmpfsctl list --json

USED, RAM and SWAP show what is used, and its limit.  A mount that cannot be asked has a word instead:
  dead             its server is gone: unmount it
  hung             its server does not answer
  busy             its server refused, or was too slow
  no socket        it has no control socket
  foreign          it belongs to another user, and only that user may ask
  not understood   its server gave an answer that makes no sense
(detached) after the mount point: it is no longer mounted, but its server still holds memory.

exit status:
  0  mounts were found     1  error      2  there are none"""
SECONDS = 1.4
AT_ONCE = 16
ROW = "{:>8}  {:<15}  {:>11}  {:>11}  {:>11}  {}"
STATES: dict[type[ClientError], str] = {Dead: "dead", Foreign: "foreign", Hung: "hung", NoSocket: "no socket",
                                        NotUnderstood: "not understood"}


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Describe the command line of list."""
    command.add_argument("--json", action="store_true", help="print JSON, for scripts")


def mounts() -> Iterator[dict[str, Any]]:
    """Return what is known of each mount; a mount bound to several places is listed once."""
    found: dict[tuple[int, int], mountinfo.MountPoint] = {}
    for mount in mountinfo.table():
        if mount.fstype == mountinfo.FSTYPE:
            found.setdefault(mount.device, mount)
    if found:
        with ThreadPoolExecutor(AT_ONCE) as pool:       # one that hangs does not keep the others waiting
            yield from pool.map(row_of, found.values())
    for status in leftovers():
        yield {"mountpoint": status["mountpoint"], "owner": os.geteuid(), "state": "detached", **figures(status)}


def row_of(mount: mountinfo.MountPoint) -> dict[str, Any]:
    """Return what is known of one mount."""
    row: dict[str, Any] = {"mountpoint": mount.path, "owner": mount.owner}
    try:
        return {**row, "state": "mounted", **figures(ask_briefly(mount, SECONDS, "status"))}
    except ClientError as error:
        return {**row, "state": STATES.get(type(error), "busy")}


def figures(status: dict[str, Any]) -> dict[str, Any]:
    """Return the listed figures of a status."""
    return {"pid": status.get("pid", 0),
            **{key: status[key] for key in ("backend", "size_bytes", "used_bytes", "ram_bytes", "resident_bytes")},
            "swap": {key: status["swap"][key] for key in ("path", "size_bytes", "used_bytes")}}


def line(row: dict[str, Any]) -> str:
    """Write one mount."""
    row = printable_all(row)
    if "pid" not in row:
        return ROW.format("-", row["state"], "-", "-", "-", row["mountpoint"])
    pairs = ((row["used_bytes"], row["size_bytes"]), (row["resident_bytes"], row["ram_bytes"]),
             (row["swap"]["used_bytes"], row["swap"]["size_bytes"]))
    return ROW.format(row["pid"], row["backend"], *(f"{human(used)}/{human(limit)}" if limit else "none"
                                                    for used, limit in pairs),
                      row["mountpoint"] + " (detached)" * (row["state"] == "detached"))


def run(args: argparse.Namespace) -> int:
    """Print the mounts."""
    found = list(mounts())
    if args.json:
        print(json.dumps(found, indent=2))
    elif found:
        print("\n".join((ROW.format("PID", "BACKEND", "USED", "RAM", "SWAP", "MOUNTPOINT"), *map(line, found))))
    return 0 if found else 2
