"""swapoff.py: tmpfsctl swapoff: drain a swap file of a live mount, and release it."""

from __future__ import annotations

import argparse
import json
import os
import sys

from tmpfsd.cli.bar import ask_with_bar
from tmpfsd.cli.units import human
from tmpfsd.mounts.printable import printable
from tmpfsd.uvm.zlog import ZRAM

EPILOG = """\
example:
  tmpfsctl swapoff /mnt/x /var/tmp

PATH is the name that `tmpfsctl status` shows.  The name `zram` means the compressed pages: their memory is then for
other pages.  What the swap file holds goes to the other swap files, or stays in ram if they are full.  Requests are
served meanwhile.  If you interrupt the command (Ctrl-C), the swap file stays in use, and nothing is lost.  Pages that
cannot be read back from a bad disk stay on it; all others are saved.

exit status:
  0  not in use any more      1  refused, or some pages cannot be read: still in use
  130  interrupted: still in use"""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Describe the command line of swapoff."""
    command.add_argument("mountpoint", metavar="MOUNTPOINT")
    command.add_argument("path", metavar="PATH", help="the swap file, as `tmpfsctl status` shows it")
    command.add_argument("--json", action="store_true", help="print JSON, for scripts")


def run(args: argparse.Namespace) -> None:
    """Follow the draining to its end."""
    path = args.path if args.path == ZRAM or "://" in args.path else os.path.realpath(args.path)
    try:
        answer = ask_with_bar(args.mountpoint, "swapoff", f"draining {path}", path=path)
    except KeyboardInterrupt:
        print(f"tmpfsctl: interrupted: {printable(path)} is still in use", file=sys.stderr)
        raise
    if "warning" in answer:
        print(printable(f"tmpfsctl: warning: {answer['warning']}"), file=sys.stderr)
    print(json.dumps(answer, indent=2) if args.json else
          printable(f"{args.mountpoint}: swap file {path} removed, {human(answer['moved_bytes'])} moved"))
