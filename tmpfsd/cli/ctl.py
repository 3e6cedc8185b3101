"""ctl.py: the command tmpfsctl: what a mount is asked and told, and estimates without one.

A subcommand is a module of its own with add_arguments(parser) and run(args), and one line in SUBCOMMANDS; each
asks the mount through client.py, all but the last four.  run() returns the exit status, or None for 0; EPILOG of a
module ends its --help.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from tmpfsd import __version__
from tmpfsd.cli import (
    check, completion, discard, du, estimate, flush, install, list, prefetch, set, status, streams, swapoff, swapon,
    top, trace, umount, wait
)
from tmpfsd.cli.client import ClientError
from tmpfsd.cli.mount import Parser, describe

# Name, module, what it does.
SUBCOMMANDS: dict[str, tuple[Any, str]] = {
    "status": (status, "show memory, swap, paging and pools of a mount"),
    "top": (top, "watch requests, paging and memory of a mount"),
    "list": (list, "list all tmpfsd mounts of this machine"),
    "wait": (wait, "wait until a mount is as full as that, for scripts"),
    "check": (check, "check the whole file system (requests wait meanwhile)"),
    "set": (set, "change size, nr_inodes, ram, spin or swap_size of a mount"),
    "swapon": (swapon, "give a mount another swap file"),
    "swapoff": (swapoff, "drain a swap file of a mount and let it go"),
    "flush": (flush, "page everything out that may leave memory"),
    "du": (du, "tell what a tree takes: metadata and data, resident and swapped"),
    "prefetch": (prefetch, "page a tree in"),
    "discard": (discard, "remove a tree inside the daemon, faster than rm -rf"),
    "trace": (trace, "follow page-ins and page-outs with their owner"),
    "umount": (umount, "unmount"),
    "completion": (completion, "write completion of tmpfsd and tmpfsctl for a shell"),
    "install": (install, "install the helper of mount(8) and a systemd unit (needs root)"),
    "estimate": (estimate, "tell how much metadata a tree of files will need, without a mount"),
}


def make_parser() -> Parser:
    """Build the parser of the command line."""
    parser = Parser(prog="tmpfsctl", allow_abbrev=False, description="Look at a tmpfsd mount, and change it.")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an internal error")
    parser.add_argument("--version", action="version", version=f"tmpfsctl {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    for name, (module, text) in SUBCOMMANDS.items():
        command = commands.add_parser(name, help=text, description=text, epilog=getattr(module, "EPILOG", None),
                                      formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
        command.set_defaults(run=module.run)
        module.add_arguments(command)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    args = argparse.Namespace(debug=False)
    streams.hold()
    try:
        args = make_parser().parse_args(argv)
        code: int | None = args.run(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:         # `tmpfsctl status | head`
        streams.give_up(sys.stdout)
        return 1
    except ClientError as error:
        streams.complain(f"tmpfsctl: {error}")
        return 1
    except Exception as error:
        if isinstance(error, OSError):          # perhaps of the output, which would be tried again
            streams.give_up(sys.stdout)
        if args.debug:
            raise
        streams.complain(f"tmpfsctl: {describe(error)}")
        return 1
    return code or 0


if __name__ == "__main__":
    sys.exit(main())
