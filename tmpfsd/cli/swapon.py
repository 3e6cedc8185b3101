"""swapon.py: tmpfsctl swapon: give a live mount another swap file, or a server."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
from collections.abc import Iterator
from typing import Any

from tmpfsd.cli.client import ClientError, ask, status
from tmpfsd.cli.preflight import CliError, check_swap
from tmpfsd.cli.streams import complain
from tmpfsd.cli.units import human
from tmpfsd.machine import memory_limit
from tmpfsd.mounts import mountinfo
from tmpfsd.mounts.printable import printable
from tmpfsd.options import Config
from tmpfsd.sizes import parse_swap_size
from tmpfsd.stores.valkey import authority_in, password_in
from tmpfsd.swapplaces import follow, remote
from tmpfsd.uvm.store import open_place
from tmpfsd.uvm.swap import MOST_PRIORITY, UNSAID

MOST_ADDED = 1 << 40        # of a mount without a limit: slot numbers are limited, and more files may come
EPILOG = """\
example:
  tmpfsctl swapon /mnt/x /var/tmp --size 4g
  tmpfsctl swapon /mnt/x valkeys://store:6379/x --password-file PASSWORD --ca-file CA.pem

PATH is a directory (the swap file is an unlinked file there), a file of yours with mode 0600 (it is made if there is
none), or a block device.  What a file or device held before is lost.  Without --size the swap file is as large as the
mount's size, or as the device.  Swap files are filled in order of priority (-p); those without one come last, in the
order in which they were given.  PATH may also be a server, valkey://HOST:PORT[,HOST:PORT...]/PREFIX, as in swap=.

exit status:
  0  in use           1  refused, and nothing was changed"""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Describe the command line of swapon."""
    command.add_argument("mountpoint", metavar="MOUNTPOINT")
    command.add_argument("path", metavar="PATH", help="a directory, a file, a block device or a server")
    command.add_argument("--size", metavar="SIZE", help="bytes, with k, m, g or t, or %% of memory")
    command.add_argument("-p", "--priority", metavar="N", type=int, default=UNSAID,
                         help=f"0 to {MOST_PRIORITY}: the highest is filled first, equal ones in turn")
    command.add_argument("--password-file", metavar="FILE", default="",
                         help="has the password of the server; only you may read it")
    command.add_argument("--ca-file", metavar="FILE", default="",
                         help="has certificates to trust, besides those of the system")
    command.add_argument("--json", action="store_true", help="print JSON, for scripts")


def size_of(args: argparse.Namespace) -> int:
    """Return --size in bytes, or 0 if it is not given."""
    if args.size is None:
        return 0
    try:
        nbytes = parse_swap_size(args.size, memory_limit())
    except ValueError as error:
        raise ClientError(f"--size {args.size}: {error}") from None
    if nbytes < 64 << 10:
        raise ClientError(f"--size {args.size}: too small: at least 64k")
    return nbytes


@contextlib.contextmanager
def what_we_may_open(path: str, config: Config) -> Iterator[dict[str, Any]]:
    """Yield what goes with the request: we may have the right to open it when the daemon has not.  => ClientError."""
    if remote(path):
        try:
            password, authority = password_in(config.swap_password_file), authority_in(config.swap_ca_file)
        except OSError as error:
            raise ClientError(f"{error.filename}: {error.strerror or error}") from None
        yield {"password": password.decode(errors="surrogateescape"), "authority": authority}
        return
    for option, file in (("--password-file", config.swap_password_file), ("--ca-file", config.swap_ca_file)):
        if file:
            raise ClientError(f"{option} {file}: is only for a server")
    try:
        descriptor = open_place(path)
    except OSError as error:
        raise ClientError(f"{path}: {error.strerror or error}") from None
    try:
        yield {"descriptor": descriptor}
    finally:
        os.close(descriptor)


def run(args: argparse.Namespace) -> None:
    """Check that the file can be used, open it, then have the mount use it."""
    size = size_of(args)
    if not UNSAID <= args.priority <= MOST_PRIORITY:
        raise ClientError(f"-p {args.priority}: must be a number from 0 to {MOST_PRIORITY}")
    try:
        path = args.path if remote(args.path) else follow(args.path)
    except ValueError as error:
        raise ClientError(f"{args.path}: {error}") from None
    limit = status(args.mountpoint)["size_bytes"]
    given = frozenset(("swap_size",)) if size else frozenset()
    config = Config(size_bytes=limit, swap=path, swap_size_bytes=size or min(limit, MOST_ADDED), given=given,
                    swap_password_file=args.password_file, swap_ca_file=args.ca_file)
    try:
        config = check_swap(config, mountinfo.resolve(args.mountpoint))
    except CliError as error:
        raise ClientError(str(error)) from None
    with what_we_may_open(path, config) as ours:
        answer = ask(args.mountpoint, "swapon", path=path, size_bytes=config.swap_size_bytes, priority=args.priority,
                     **ours)
    for warning in config.warnings:
        complain(f"tmpfsctl: warning: {warning}")
    print(json.dumps(answer, indent=2) if args.json else
          printable(f"{args.mountpoint}: swap file {path} added, {human(answer['size_bytes'])}"))
