"""image.py: tmpfsctl image: make, look at, verify and unpack images, without a mount."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from typing import Any

from tmpfsd.cli.client import ClientError
from tmpfsd.cli.newfile import new_file
from tmpfsd.cli.progress import CLEAR
from tmpfsd.mounts.printable import printable
from tmpfsd.swapplaces import shown

EPILOG = """\
example:
  tmpfsctl image build /usr/lib/gcc /srv/gcc.image
  tmpfsctl image info /srv/gcc.image
  tmpfsctl image verify /srv/gcc.image
  tmpfsctl image extract /srv/gcc.image gcc
  tmpfsd /mnt -o image=/srv/gcc.image

With --mtime all files get that time, in seconds since 1970.  Then the same tree gives the same image, byte for byte.

exit status:
  0  done             1  failed, or the image is damaged: one line on stderr says why"""
SECONDS = 0.1               # between two reports of progress


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Describe the command line of image."""
    command.add_argument("what", choices=("build", "info", "verify", "extract"), help="what to do")
    command.add_argument("paths", nargs="+", metavar="PATH",
                         help="build: a directory and the image; extract: an image and a directory; otherwise an image")
    command.add_argument("--json", action="store_true", help="print JSON, for scripts")
    command.add_argument("--mtime", type=int, metavar="SECONDS", help="build: the time of all files")


class Bar:
    """Shows progress on a terminal; call it with anything and its text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.shown = sys.stderr.isatty()
        self.told = 0.0

    def __call__(self, one: int, other: int) -> None:
        now = time.monotonic()
        if self.shown and now - self.told > SECONDS:
            self.told = now
            share = 100 * one // max(other, 1)
            line = self.text.format(one=f"{one:,}", other=f"{other:,}", share=share)
            print(CLEAR + line, end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        """Leave an empty line."""
        if self.shown:
            print(CLEAR, end="", file=sys.stderr, flush=True)


def run(args: argparse.Namespace) -> None:
    """Do what is asked for."""
    two = args.what in ("build", "extract")
    if len(args.paths) != 1 + two:
        raise ClientError(f"image {args.what}: " + ("two paths are needed" if two else "one path is needed"))
    if args.mtime is not None and args.what != "build":
        raise ClientError(f"image {args.what}: --mtime is only for build")
    if args.mtime is not None and not 0 <= args.mtime < 1 << 33:
        raise ClientError(f"--mtime {args.mtime}: must be seconds since 1970")
    {"build": build, "info": info, "verify": verify, "extract": extract}[args.what](args)


def tell(args: argparse.Namespace, found: dict[str, Any], text: str) -> None:
    """Print what was done."""
    print(json.dumps(found, indent=2) if args.json else printable(text))


def build(args: argparse.Namespace) -> None:
    """Make an image of a directory."""
    from tmpfsd.image import build as building
    from tmpfsd.options import default_swap
    directory, path = args.paths
    if not os.path.isdir(directory):
        raise ClientError(f"{directory}: not a directory")
    bar = Bar("{one} files, {other} bytes")
    with new_file(path) as file:
        nbytes = building.build(os.fsencode(directory), file.fd, args.mtime, bar, default_swap())
        file.commit()
    bar.end()
    tell(args, {"file": path, "bytes": nbytes}, f"{path}: {nbytes:,} bytes")


def info(args: argparse.Namespace) -> None:
    """Say what an image is."""
    from tmpfsd.image.file import Image
    from tmpfsd.image.format import ImageError, describe
    path = args.paths[0]
    try:
        image = Image(path)
    except ImageError as error:
        raise ClientError(f"{shown(path)}: {error}") from None
    found = describe(image.header)
    image.close()
    if args.json:
        print(json.dumps(found, indent=2))
        return
    made = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(found["made"])) if found["made"] else "unknown"
    rows = (("version", found["version"]), ("made", made), ("inodes", f"{found['inodes']:,}"),
            ("holds", f"{found['bytes']:,} bytes"), ("file", f"{found['file_bytes']:,} bytes"),
            ("hot", f"{found['hot_pages']:,} pages"))
    for name, value in rows:
        print(f"{name:<12}{value}")


def verify(args: argparse.Namespace) -> None:
    """Check whether an image is intact."""
    from tmpfsd.image import extract as extracting
    from tmpfsd.uvm.errors import VmError
    path, bar = args.paths[0], Bar("verified {share} %")
    try:
        found = extracting.verify(path, bar)
    except VmError as error:
        raise ClientError(f"{shown(path)}: {str(error).removeprefix(shown(path) + ': ')}") from None
    finally:
        bar.end()
    tell(args, {"image": path, **found}, f"{shown(path)}: intact: {found['inodes']:,} inodes, {found['pages']:,} pages")


def extract(args: argparse.Namespace) -> None:
    """Extract files from an image."""
    from tmpfsd.image import extract as extracting
    bar = Bar("extracted {share} %")
    try:
        done = extracting.extract(args.paths[0], args.paths[1], bar)
    finally:
        bar.end()
    tell(args, {"directory": args.paths[1], "files": done}, f"{args.paths[1]}: {done:,} files")
