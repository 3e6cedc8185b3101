"""ctl.py: the command tmpfsctl: asks and changes a mount, and makes estimates without one.

A subcommand is a module of its own with add_arguments(parser) and run(args), and one line in SUBCOMMANDS.  Each asks
a mount through client.py, except `image` and the last four.  run() returns the exit status, or None for 0; EPILOG of a
module ends its --help.  Only what the command line names is imported: all of them together, with trio and rich, take
130 ms, most take 45.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Collection, Sequence

from tmpfsd import __version__
from tmpfsd.cli import streams
from tmpfsd.cli.client import ClientError
from tmpfsd.cli.mount import Parser, describe

# The module, and what it does.
SUBCOMMANDS = {
    "status": "show memory, swap, paging and pools of a mount",
    "top": "watch requests, paging and memory of a mount",
    "advise": "estimate how many page-ins there would be with more or less ram",
    "list": "list all tmpfsd mounts of this machine",
    "events": "follow what happens to a mount: changes of its health, and its log",
    "wait": "wait until a mount is as full as you say, for scripts",
    "check": "check the whole file system, while requests are served",
    "snapshot": "save a mount in an image, while requests are served",
    "clone": "mount the present state of a mount a second time",
    "image": "build, inspect, verify and extract images, without a mount",
    "set": "change size, nr_inodes, ram, zram, spin or swap_size of a mount",
    "quota": "show how much users and groups use and may use, and set limits",
    "swapon": "add a swap file to a mount",
    "swapoff": "empty a swap file of a mount and stop using it",
    "flush": "page out everything that may leave memory",
    "du": "show how many bytes a tree takes: metadata and data, resident and swapped",
    "prefetch": "page a tree in before it is needed",
    "discard": "remove a tree inside the daemon, faster than rm -rf",
    "trace": "follow page-ins and page-outs, and what the pages belong to",
    "umount": "unmount a tmpfsd mount",
    "completion": "print the completion of tmpfsd and tmpfsctl for a shell",
    "install": "install the helper for mount(8) and a systemd unit (needs root)",
    "estimate": "estimate how much metadata a tree will need, without a mount",
}


def make_parser(names: Collection[str] = tuple(SUBCOMMANDS)) -> Parser:
    """Build the parser of the command line; subcommands that are not among names get no arguments."""
    parser = Parser(prog="tmpfsctl", allow_abbrev=False, description="Inspect a tmpfsd mount, or change it.")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an internal error")
    parser.add_argument("--version", action="version", version=f"tmpfsctl {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    for name, text in SUBCOMMANDS.items():
        command = commands.add_parser(name, help=text, description=text, allow_abbrev=False,
                                      formatter_class=argparse.RawDescriptionHelpFormatter)
        if name in names:
            module = importlib.import_module(f"tmpfsd.cli.{name}")
            command.epilog = getattr(module, "EPILOG", None)
            command.set_defaults(run=module.run)
            module.add_arguments(command)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    words = sys.argv[1:] if argv is None else argv
    args = argparse.Namespace(debug=False)
    streams.hold()
    try:
        if "_ARGCOMPLETE" in os.environ:            # a shell asks what may follow, and gets it
            from tmpfsd.cli import completion
            completion.autocomplete(make_parser(os.environ.get("COMP_LINE", "").split()))
        args = make_parser(words).parse_args(words)
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
        if isinstance(error, OSError):          # perhaps from the output, which would be written again
            streams.give_up(sys.stdout)
        if args.debug:
            raise
        streams.complain(f"tmpfsctl: {describe(error)}")
        return 1
    finally:
        streams.settle()
    return code or 0


if __name__ == "__main__":
    sys.exit(main())
