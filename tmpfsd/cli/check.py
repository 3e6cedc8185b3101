"""check.py: tmpfsctl check: the whole-file-system check on a live mount."""

from __future__ import annotations

import argparse

from tmpfsd.cli.client import ask

EPILOG = """\
example:
  tmpfsctl check /mnt/x

Requests wait meanwhile.

exit status:
  0  consistent       1  inconsistent, or not checked: no such mount, a page that cannot be read"""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Describe the command line of check."""
    command.add_argument("mountpoint", metavar="MOUNTPOINT")


def run(args: argparse.Namespace) -> None:
    """Print the verdict; ClientError (exit status 1) when something is inconsistent."""
    print(f"{args.mountpoint}: {ask(args.mountpoint, 'check')}")
