"""ctl.py: the command tmpfsctl: what a mount is asked and told, and estimates without one.

A subcommand is a module of its own with add_arguments(parser), run(args) and an EXAMPLE, and one line in SUBCOMMANDS;
each asks the mount through client.py, all but `estimate`, `umount` and `completion`.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from tmpfsd import __version__
from tmpfsd.cli import check, completion, discard, du, estimate, install, prefetch, status, trace, umount
from tmpfsd.cli.mount import Parser, describe

# Name, module, what it does.
SUBCOMMANDS: dict[str, tuple[Any, str]] = {
    "status": (status, "show memory, swap, paging and pools of a mount"),
    "check": (check, "check the whole file system (requests wait meanwhile)"),
    "du": (du, "tell what a tree takes: metadata and data, resident and swapped"),
    "prefetch": (prefetch, "page a tree in"),
    "discard": (discard, "remove a tree inside the daemon, faster than rm -rf"),
    "trace": (trace, "follow page-ins and page-outs with their owner"),
    "umount": (umount, "unmount"),
    "completion": (completion, "write completion of tmpfsd and tmpfsctl for a shell"),
    "install": (install, "install the helper of mount(8) and a systemd unit (needs root)"),
    "estimate": (estimate, "tell how much metadata a tree of files will need, without a mount"),
}


STATUS = """\
exit status:
  0    done
  1    refused or failed: one line on stderr says why
  130  interrupted"""


def make_parser() -> Parser:
    """Build the parser of the command line."""
    parser = Parser(prog="tmpfsctl", allow_abbrev=False, description="Look at, and work with, tmpfsd mounts.",
                    epilog=STATUS, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="version", version=f"tmpfsctl {__version__}")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    for name, (module, text) in SUBCOMMANDS.items():
        epilog = f"example:\n  {module.EXAMPLE}\n\n{STATUS}"
        command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", epilog=epilog,
                                      formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
        command.set_defaults(run=module.run)
        module.add_arguments(command)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    args = make_parser().parse_args(argv)
    try:
        args.run(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:         # `tmpfsctl status | head`
        sys.stderr.close()
        return 1
    except Exception as error:
        if args.debug:
            traceback.print_exc()
        else:
            print(f"tmpfsctl: {describe(error)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
