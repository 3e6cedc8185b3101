"""umount.py: tmpfsctl umount: like umount(8), or fusermount3 -u without root, but only for tmpfsd mounts."""

from __future__ import annotations

import argparse

from tmpfsd.cli.client import ClientError, find
from tmpfsd.mounts.unmount import unmount

EPILOG = """\
example:
  tmpfsctl umount /scratch

exit status:
  0  done             1  refused or failed: one line on stderr says why"""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Describe the command line of umount."""
    command.add_argument("mountpoint", metavar="MOUNTPOINT")
    command.add_argument("-l", "--lazy", action="store_true", help="unmount now, even if it is busy")


def run(args: argparse.Namespace) -> None:
    """tmpfsctl umount."""
    error = unmount(find(args.mountpoint), args.lazy)
    if error:
        hint = " (files are open, or a process works there; --lazy unmounts it anyway)" if "busy" in error else ""
        raise ClientError(f"{args.mountpoint}: {error}{hint}")
