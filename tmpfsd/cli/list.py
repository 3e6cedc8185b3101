"""list.py: tmpfsctl list: all tmpfsd mounts that this process sees."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import Any

from tmpfsd.cli.client import ClientError, Dead, Foreign, ask_mount
from tmpfsd.cli.status import human
from tmpfsd.mounts import mountinfo

EPILOG = """\
example:
  tmpfsctl list --json

USED, RAM and SWAP are what is used and its limit.  A mount whose server is gone is `dead` (umount it); one of
another user, who alone may ask, is `foreign`; `busy` is one that does not answer.

exit status:
  0  there are mounts      1  error      2  there are none"""
SECONDS = 2.0
ROW = "{:>8}  {:<15}  {:>11}  {:>11}  {:>11}  {}"


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Describe the command line of list."""
    command.add_argument("--json", action="store_true", help="as JSON, for scripts")


def mounts() -> Iterator[dict[str, Any]]:
    """Return what is known of each mount; one that is bound to several places is listed once."""
    found: dict[tuple[int, int], mountinfo.MountPoint] = {}
    for mount in mountinfo.table():
        if mount.fstype == mountinfo.FSTYPE:
            found.setdefault((mount.major, mount.minor), mount)
    for mount in found.values():
        row: dict[str, Any] = {"mountpoint": mount.path, "owner": mount.owner}
        try:
            status = ask_mount(mount, mount.path, SECONDS, "status")
        except ClientError as error:
            state = "dead" if isinstance(error, Dead) else "foreign" if isinstance(error, Foreign) else "busy"
            yield {**row, "state": state}
            continue
        keys = ("backend", "size_bytes", "used_bytes", "ram_bytes", "resident_bytes")
        swap = {key: status["swap"][key] for key in ("path", "size_bytes", "used_bytes")}
        yield {**row, "state": "mounted", "pid": status.get("pid", 0), **{key: status[key] for key in keys},
               "swap": swap}


def line(row: dict[str, Any]) -> str:
    """Write one mount."""
    if row["state"] != "mounted":
        return ROW.format("-", row["state"], "-", "-", "-", row["mountpoint"])
    pairs = ((row["used_bytes"], row["size_bytes"]), (row["resident_bytes"], row["ram_bytes"]),
             (row["swap"]["used_bytes"], row["swap"]["size_bytes"]))
    return ROW.format(row["pid"], row["backend"], *(f"{human(used)}/{human(limit)}" if limit else "none"
                                                    for used, limit in pairs), row["mountpoint"])


def run(args: argparse.Namespace) -> int:
    """Print the mounts."""
    found = list(mounts())
    if args.json:
        print(json.dumps(found, indent=2))
    elif found:
        print("\n".join((ROW.format("PID", "BACKEND", "USED", "RAM", "SWAP", "MOUNTPOINT"), *map(line, found))))
    return 0 if found else 2
