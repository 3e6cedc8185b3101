"""quota.py: tmpfsctl quota: usage and limits of users and groups on a mount; sets the limits of one of them."""

from __future__ import annotations

import argparse
import contextlib
import grp
import json
import pwd
from collections.abc import Iterator
from typing import Any

from tmpfsd.cli.client import ClientError, ask
from tmpfsd.cli.units import human
from tmpfsd.mounts.printable import printable
from tmpfsd.owners import parse_gid, parse_uid

EPILOG = """\
example:
  tmpfsctl quota /mnt/x
  tmpfsctl quota /mnt/x --user alice --blocks 1g --inodes 100k

Users and groups that use nothing and have no limits of their own are not listed.  USED is what du(1) counts.  New users
and groups get the limits of the mount options usrquota_block_hardlimit= and the like.

exit status:
  0  done             1  refused, or the mount has no quotas"""
ROW = "{:<20} {:>9} {:>9} {:>11} {:>11}"
KEYS = ("id", "used_bytes", "limit_bytes", "inodes", "inodes_max")


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Describe the command line of quota."""
    command.add_argument("mountpoint", metavar="MOUNTPOINT")
    whose = command.add_mutually_exclusive_group()
    whose.add_argument("--user", metavar="NAME", help="only this user, by name or number")
    whose.add_argument("--group", metavar="NAME", help="only this group, by name or number")
    command.add_argument("--blocks", metavar="SIZE", help="set the limit of bytes; 0 for none")
    command.add_argument("--inodes", metavar="N", help="set the limit of inodes; 0 for none")
    command.add_argument("--json", action="store_true", help="print JSON, for scripts")


def owner(args: argparse.Namespace) -> tuple[str, int] | None:
    """Return which account is meant: kind and number; None for all.  => ClientError."""
    try:
        if args.user is not None:
            return "user", parse_uid(args.user, 0)
        return ("group", parse_gid(args.group, 0)) if args.group is not None else None
    except ValueError as error:
        raise ClientError(f"{args.user or args.group}: {error}") from None


def name_of(kind: str, number: int) -> str:
    """Return the name of a user or group, or its number if it has no name here."""
    with contextlib.suppress(KeyError):
        return pwd.getpwuid(number).pw_name if kind == "user" else grp.getgrgid(number).gr_name
    return str(number)


def lines(kind: str, accounts: list[dict[str, Any]]) -> Iterator[str]:
    """Write the accounts of one kind."""
    yield ROW.format(kind.upper(), "USED", "LIMIT", "INODES", "LIMIT")
    for account in accounts:
        yield ROW.format(account["name"], human(account["used_bytes"]),
                         human(account["limit_bytes"]) if account["limit_bytes"] else "none",
                         f"{account['inodes']:,}", f"{account['inodes_max']:,}" if account["inodes_max"] else "none")


def run(args: argparse.Namespace) -> None:
    """Print the accounts; with limits, set them first."""
    one = owner(args)
    limits = [f"{name}={value}" for name, value in (("block_hardlimit", args.blocks), ("inode_hardlimit", args.inodes))
              if value is not None]
    if limits and one is None:
        raise ClientError(f"{limits[0]}: whose limit? give --user or --group")
    request = {"kind": one[0], "id": one[1], "limits": limits} if one else {}
    answer = ask(args.mountpoint, "quota", **request)
    found = {}
    for kind in ("user", "group"):
        rows = answer[kind + "s"]
        found[kind + "s"] = None if rows is None else [
            {"name": name_of(kind, row[0]), **dict(zip(KEYS, row))} for row in rows
            if one is None or one == (kind, row[0])]
    if one is not None:
        if found[one[0] + "s"] is None:
            raise ClientError(f"{args.mountpoint}: {one[0]}s are not counted there")
        found = {one[0] + "s": found[one[0] + "s"]}
    if args.json:
        print(json.dumps(found, indent=2))
        return
    tables = ["\n".join(lines(kind[:-1], accounts)) for kind, accounts in found.items() if accounts is not None]
    print("\n".join(map(printable, "\n\n".join(tables).split("\n"))))
