"""check.py: tmpfsctl check: the whole-file-system check on a live mount."""

from __future__ import annotations

import argparse
import json
from typing import Any

from tmpfsd.cli.client import find, follow
from tmpfsd.cli.progress import watch
from tmpfsd.mounts.printable import printable

EPILOG = """\
example:
  tmpfsctl check /mnt/x

A frozen copy of the daemon is checked, while requests are served.  Pages that they change exist twice until the check
ends.  If swap is nearly full, the mount may need the space that the check keeps.  Then the check fails: run it again.

exit status:
  0  consistent; if there are pages of data that cannot be read back, it says how many
  1  inconsistent, or not checked: no such mount, a page of metadata that cannot be read back"""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Describe the command line of check."""
    command.add_argument("mountpoint", metavar="MOUNTPOINT")
    command.add_argument("--json", action="store_true", help="print JSON, for scripts")


def run(args: argparse.Namespace) -> None:
    """Print the verdict; ClientError (exit status 1) when something is inconsistent."""
    verdict = watch(follow(find(args.mountpoint), "check"), text)
    print(json.dumps({"mountpoint": args.mountpoint, "verdict": verdict}, indent=2) if args.json
          else printable(f"{args.mountpoint}: {verdict}"))


def text(progress: dict[str, Any]) -> str:
    """Write the progress."""
    return f"checked {100 * progress['done'] // max(progress['of'], 1)} %"
