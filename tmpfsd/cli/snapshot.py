"""snapshot.py: tmpfsctl snapshot: save a live mount in an image."""

from __future__ import annotations

import argparse
import json
from typing import Any

from tmpfsd.cli.client import ClientError, find, follow
from tmpfsd.cli.newfile import new_file
from tmpfsd.cli.progress import watch
from tmpfsd.mounts.printable import printable

EPILOG = """\
example:
  tmpfsctl snapshot /scratch /srv/tools.image
  tmpfsd /mnt -o image=/srv/tools.image

A frozen copy of the daemon writes the image, while requests are served.  Pages that they change exist twice until it
is written.  FILE is replaced when the whole image is on disk.  Writes that the kernel still holds back (through mmap,
or with the option writeback) are not in it: run sync -f before.

With --hot the image lists the pages that were used since the mount began with an image, or since tmpfsctl trace
--record; otherwise those in memory.  A mount of the image reads them first, in the background, while ram has room.

exit status:
  0  saved            1  not saved: FILE is as it was"""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Describe the command line of snapshot."""
    command.add_argument("mountpoint", metavar="MOUNTPOINT")
    command.add_argument("file", metavar="FILE")
    command.add_argument("--hot", action="store_true",
                         help="list the pages that were used: a mount of the image reads them first")
    command.add_argument("--json", action="store_true", help="print JSON, for scripts")


def run(args: argparse.Namespace) -> None:
    """Save, and say what was saved."""
    done = save(args.mountpoint, args.file, args.hot)
    print(json.dumps({"file": args.file, **done}, indent=2) if args.json
          else printable(f"{args.file}: {done['inodes']:,} inodes, {done['bytes']:,} bytes"))


def save(mountpoint: str, path: str, hot: bool = False) -> dict[str, Any]:
    """Save a mount in a file; return what was saved.  => ClientError."""
    mounted = find(mountpoint)
    try:
        with new_file(path) as file:
            done: dict[str, Any] = watch(follow(mounted, "snapshot", descriptor=file.fd, hot=hot), text)
            file.commit()
    except OSError as error:
        raise ClientError(f"{path}: {error.strerror or error}") from None
    return done


def text(progress: dict[str, Any]) -> str:
    """Write the progress."""
    return f"saved {100 * progress['done'] // max(progress['of'], 1)} %"
