"""discard.py: tmpfsctl discard: a tree removed inside the daemon.

The name is gone at once; what was in the tree is freed between requests.  Interrupting the command ends only the
waiting.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from tmpfsd.cli.client import ClientError, follow, on_mount
from tmpfsd.cli.progress import watch
from tmpfsd.cli.several import each
from tmpfsd.cli.streams import complain
from tmpfsd.mounts import mountinfo
from tmpfsd.mounts.printable import printable

EPILOG = """\
example:
  tmpfsctl discard --yes /scratch/build-1234 /scratch/build-1235

exit status:
  0  done             1  refused or failed: one line on stderr says why"""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Describe the command line of discard."""
    command.add_argument("path", metavar="PATH", nargs="+", help="a directory or file on a tmpfsd mount")
    command.add_argument("-y", "--yes", action="store_true", help="do not ask (needed if there is no terminal)")
    command.add_argument("-q", "--quiet", action="store_true", help="print nothing if all went well")
    command.add_argument("--json", action="store_true", help="print JSON, for scripts")


def confirm(path: str) -> None:
    """Ask a user on a terminal; ClientError if the answer is no, or if there is no terminal."""
    if not sys.stdin.isatty():
        raise ClientError(f"{path}: there is no terminal to ask on: give --yes")
    print(f"Remove {printable(path)} and all that is below it? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise ClientError(f"{path}: not removed")


def demand_nothing_mounted(path: str, device: tuple[int, int], inside: str) -> None:
    """Refuse if something is mounted on or below it, as rm does: wherever the file system is bound to."""
    mounts = {mount.id: mount for mount in mountinfo.table()}
    for mount in mounts.values():
        below = mounts.get(mount.parent)
        if below is not None and below.device == device and mountinfo.within(below.inner(mount.path), inside):
            raise ClientError(f"{path}: busy: {mount.path} is a mount point")


def demand_no_link(path: str, where: mountinfo.Where) -> None:
    """Refuse a path through a symbolic link: rm would remove the link; whoever means its target can name that."""
    if where.links:
        raise ClientError(f"{path}: through the symbolic link {where.links[-1]}: give the path that it leads to, "
                          f"{where.path}")


def discard(path: str, args: argparse.Namespace) -> dict[str, Any]:
    """Remove one tree; return what was removed."""
    where = on_mount(path)
    mount, inside = where.mount, where.inside
    assert mount is not None
    if where.at_mount or not inside:
        raise ClientError(f"{path}: the root of the mount: unmount it instead")
    demand_no_link(path, where)
    demand_nothing_mounted(path, mount.device, inside)
    if not args.yes:
        confirm(path)
    answers = follow(mount, "discard", path=inside)
    result = watch(answers, lambda progress: f"{path}: {progress['names']:,} names freed")
    if result["lost"]:
        complain(f"tmpfsctl: {path}: {result['lost']:,} inodes could not be read back: their memory stays in use "
                 "until the unmount")
    if not args.quiet and not args.json:
        print(f"{printable(path)}: {result['names']:,} names removed")
    return {"path": path, **result}


def run(args: argparse.Namespace) -> None:
    """tmpfsctl discard."""
    found: list[dict[str, Any]] = []
    try:
        each(args.path, lambda path: found.append(discard(path, args)))
    finally:
        if args.json and found:
            print(json.dumps(found if len(args.path) > 1 else found[0], indent=2))
