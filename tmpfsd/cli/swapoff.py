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

PATH is what `tmpfsctl status` calls it; `zram` are the compressed pages, whose memory is for frames then.
What it holds goes to the other swap files, or stays in ram where
they are full.  Requests are served meanwhile.  Interrupted (Ctrl-C) it is in use again as before, and nothing
is lost.  Pages that cannot be read back from a bad disk stay on it, all others are saved.

exit status:
  0  let go           1  refused, or some pages cannot be read: it is in use as before
  130  interrupted: it is in use as before"""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Describe the command line of swapoff."""
    command.add_argument("mountpoint", metavar="MOUNTPOINT")
    command.add_argument("path", metavar="PATH", help="the swap file, as `tmpfsctl status` shows it")
    command.add_argument("--json", action="store_true", help="print what was moved as JSON")


def run(args: argparse.Namespace) -> None:
    """Follow the draining to its end."""
    path = args.path if args.path == ZRAM or "://" in args.path else os.path.realpath(args.path)
    try:
        answer = ask_with_bar(args.mountpoint, "swapoff", f"draining {path}", path=path)
    except KeyboardInterrupt:
        print(f"tmpfsctl: interrupted: {printable(path)} is in use as before", file=sys.stderr)
        raise
    if "warning" in answer:
        print(printable(f"tmpfsctl: warning: {answer['warning']}"), file=sys.stderr)
    print(json.dumps(answer, indent=2) if args.json else
          printable(f"{args.mountpoint}: pages to {path} no more, {human(answer['moved_bytes'])} moved"))
