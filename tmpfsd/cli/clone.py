"""clone.py: tmpfsctl clone: a second mount of the present state of a first."""

from __future__ import annotations

import argparse
import os
import tempfile

from tmpfsd.cli import mount
from tmpfsd.cli.client import ClientError
from tmpfsd.cli.snapshot import save
from tmpfsd.options import default_swap, quote

EPILOG = """\
example:
  tmpfsctl clone /scratch /mnt/copy -o ram=64m

The state is saved in a file in /var/tmp or /tmp, which takes room as long as the new mount exists.  Its name is removed
once that is mounted.  What is changed in one of the two mounts afterwards does not appear in the other.

exit status:
  0  mounted, and the mount answers         1  not mounted: one line on stderr says why"""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Describe the command line of clone."""
    command.add_argument("mountpoint", metavar="MOUNTPOINT")
    command.add_argument("path", metavar="NEWMOUNTPOINT")
    command.add_argument("-o", dest="options", action="append", default=[], metavar="OPT[,OPT...]",
                         help="mount options of the new mount")


def run(args: argparse.Namespace) -> int:
    """Save, mount, and remove the name of the image."""
    directory = default_swap()
    if directory is None:
        raise ClientError("no directory for the image (/var/tmp, /tmp) that can be written to and is outside memory")
    with tempfile.TemporaryDirectory(prefix="tmpfsd-clone-", dir=directory) as place:
        image = os.path.join(place, "image")
        save(args.mountpoint, image)
        options = [part for text in args.options for part in ("-o", text)]
        return mount.main([args.path, *options, "-o", f"image={quote(image)}"])
