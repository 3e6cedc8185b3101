"""mount.py: the command tmpfsd, which mounts.

tmpfsd [SOURCE] MOUNTPOINT [-f] [-o OPT[,OPT...]]: SOURCE is ignored, so that mount -t fuse.tmpfsd and fstab
work.  When run as mount(8)'s helper, /sbin/mount.fuse.tmpfsd, its flags have the meaning that mount(8) gives them.

Picture     parent: options, preflight -> fork -> wait for the child's word -> statvfs(mountpoint) -> exit 0
            child:  setsid -> daemon.run() -> "ok" once INIT was served, or one line that says what is wrong
Invariants  G1 Any error is one line on stderr and exit status 1; a traceback only with --debug.
            G2 The parent exits 0 only when the mount answered; else it ends the child and removes what it mounted.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import logging
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from tmpfsd import __version__, compiled, options
from tmpfsd.cli import remount, streams
from tmpfsd.cli.preflight import CliError, check_capacity, check_fuse, check_mountpoint, check_swap, clear_dead
from tmpfsd.mounts import alive, mountinfo
from tmpfsd.mounts.printable import printable
from tmpfsd.mounts.unmount import unmount
from tmpfsd.options import Config, OptionError
from tmpfsd.server.refused import MountError
from tmpfsd.uvm.errors import VmError

START_SECONDS = 60.0
ANSWER_SECONDS = 10.0
END_SECONDS, AGAIN_SECONDS = 5.0, 0.02
OK = b"ok\n"
HELPER_NAMES = ("mount.fuse", "mount.tmpfsd")


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line and status 1."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong with the command line, and exit."""
        streams.complain(f"{self.prog}: {message}")
        sys.exit(1)

    def _print_message(self, message: str, file: Any = None) -> None:
        """Write help and version at once: if that fails, it is an error like any other."""
        print(message, end="", file=file or sys.stderr, flush=True)


def make_parser() -> Parser:
    """Build the parser of the command line."""
    parser = Parser(prog="tmpfsd", allow_abbrev=False,
                    usage="tmpfsd [SOURCE] MOUNTPOINT [-f] [-o OPT[,OPT...]]",
                    description="Mount a tmpfs whose data and metadata page out beyond a budget of memory.",
                    epilog="example:\n  tmpfsd /scratch -o ram=64m,size=4g,swap=/var/tmp\n\n"
                           "All options are in tmpfsd(8).\n\n"
                           "exit status:\n  0  mounted, and the mount answers\n"
                           "  1  not mounted: one line on stderr says why",
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", metavar="[SOURCE] MOUNTPOINT")
    parser.add_argument("-f", "--foreground", action="store_true", help="stay in the foreground")
    parser.add_argument("-o", dest="options", action="append", default=[], metavar="OPT[,OPT...]",
                        help="mount options, for example ram=64m,size=4g,swap=/var/tmp")
    parser.add_argument("--debug", action="store_true", help="log more, and show tracebacks")
    parser.add_argument("--version", action="version", version=f"tmpfsd {__version__} ({compiled.kind()})")
    parser.set_defaults(helper=False)
    return parser


def make_helper_parser() -> Parser:
    """Build the parser for mount(8)'s helper; there -f means "fake"."""
    parser = Parser(prog="tmpfsd", allow_abbrev=False, add_help=False)
    parser.add_argument("paths", nargs=2)
    parser.add_argument("-f", dest="fake", action="store_true")
    parser.add_argument("-o", dest="options", action="append", default=[])
    parser.add_argument("-t", dest="type")
    for flag in "snvr":
        parser.add_argument(f"-{flag}", dest="ignored", action="store_true")
    parser.set_defaults(foreground=False, debug=False, helper=True)
    return parser


def one_line(text: str) -> str:
    """Make one line of a message."""
    return "; ".join(printable(line.strip()) for line in text.split("\n") if line.strip()) or "unknown error"


def describe(error: BaseException) -> str:
    """Say in one line what an exception means to the user."""
    if isinstance(error, OSError):
        where = error.filename
        if where is None and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EBADF):
            where = "the output"                # mostly: it has no name
        if where is None and isinstance(error, FileNotFoundError):
            where, error = "the working directory", OSError("does not exist any more: use absolute paths")
        return one_line(": ".join(str(part) for part in (where, error.strerror or error) if part))
    if isinstance(error, MemoryError):
        return "not enough memory for this ram="
    if isinstance(error, (CliError, OptionError, MountError, VmError)):
        return one_line(str(error) or type(error).__name__)
    return one_line(f"internal error: {type(error).__name__}: {error} (--debug shows more)")


def serve(config: Config, mountpoint: str, foreground: bool, debug: bool, report: Callable[[], None]) -> None:
    """Start the log and run the daemon.  Imported here: a wrong option need not wait for it."""
    from tmpfsd.server import daemon, process
    process.start_log(mountpoint, foreground, debug)
    daemon.run(config, mountpoint, report)


def child(config: Config, mountpoint: str, debug: bool, pipe: int) -> int:
    """Be the daemon; return the exit status."""
    from tmpfsd.server import inherited
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    inherited.let_go((pipe,))
    told = False

    def tell(word: bytes) -> None:
        nonlocal told
        told = True
        with contextlib.suppress(OSError):      # the parent may be gone
            os.write(pipe, word)
        os.close(pipe)

    try:
        serve(config, mountpoint, False, debug, lambda: tell(OK))
    except BaseException as error:
        text = traceback.format_exc() if debug else describe(error)
        if told:                                # the descriptor's number may by now be another file's
            logging.getLogger(__name__).critical("ended: %s", text)
        else:
            tell(os.fsencode(text)[:60_000])
        return 1
    return 0


def background(config: Config, mountpoint: str, debug: bool) -> None:
    """Start the daemon and return once the mount answers; CliError when it does not."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)       # if it is ignored, no child can be waited for
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(reader)
            status = child(config, mountpoint, debug, writer)
        finally:
            os._exit(status)            # the child must not run the parent's buffers and handlers
    os.close(writer)
    try:
        word = read_word(reader)
        if word != OK:
            raise CliError(os.fsdecode(word) or "the daemon ended without a message")
        demand_answer(mountpoint, pid)
    except BaseException:
        end(pid, mountpoint)
        raise
    finally:
        os.close(reader)


def read_word(reader: int) -> bytes:
    """Return the child's message."""
    word, deadline = b"", time.monotonic() + START_SECONDS
    while word != OK:
        ready, _, _ = select.select([reader], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise CliError(f"the daemon did not start in {START_SECONDS:g} seconds")
        data = os.read(reader, 65536)
        if not data:
            break
        word += data
    return word


def demand_answer(mountpoint: str, pid: int) -> None:
    """Ask the mount for something, in a thread that can be abandoned if it never answers.  => pid: its daemon."""
    answered = threading.Event()
    errors: list[OSError] = []

    def ask() -> None:
        deadline = time.monotonic() + ANSWER_SECONDS / 2
        while True:
            try:
                os.statvfs(mountpoint)
            except OSError as error:
                # It may be another's mount above ours: one that started at the same time, and is about to go.
                if error.errno in alive.ENDED and time.monotonic() < deadline and not has_ended(pid):
                    time.sleep(AGAIN_SECONDS)
                    continue
                errors.append(error)
            answered.set()
            return

    threading.Thread(target=ask, daemon=True).start()
    if not answered.wait(ANSWER_SECONDS):
        raise CliError(f"{mountpoint}: mounted, but it did not answer in {ANSWER_SECONDS:g} seconds")
    if errors:
        raise CliError(f"{mountpoint}: mounted, but it does not answer: {errors[0].strerror or errors[0]}")


def has_ended(pid: int) -> bool:
    """Tell whether a child has ended; it stays to be waited for."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True


def end(pid: int, mountpoint: str) -> None:
    """End our child: first ask, then kill, then unmount what it mounted."""
    for number in (None, signal.SIGTERM, signal.SIGKILL):
        if number is not None:
            os.kill(pid, number)
        deadline = time.monotonic() + END_SECONDS
        while time.monotonic() < deadline:
            if os.waitpid(pid, os.WNOHANG)[0]:
                if number == signal.SIGKILL:
                    take_away(mountpoint)
                return
            time.sleep(0.01)


def take_away(mountpoint: str) -> None:
    """Unmount what a killed daemon left: dead mounts there, and none that another daemon serves."""
    mounted = mountinfo.find(mountpoint)
    if mounted and mounted.fstype == mountinfo.FSTYPE and alive.state_of(mounted) == alive.DEAD:
        unmount(mounted, lazy=True)


def mount(args: argparse.Namespace) -> None:
    """Do what the command line says."""
    if len(args.paths) > 2:
        raise CliError(f"{args.paths[2]}: too many arguments: [SOURCE] MOUNTPOINT")
    config = options.parse(args.options)
    check_fuse()
    dead = clear_dead(args.paths[-1])
    mountpoint = check_mountpoint(args.paths[-1])
    config = check_capacity(check_swap(config, mountpoint))
    with contextlib.suppress(OSError):      # a full disk under stderr is no reason not to mount
        for warning in (*([dead] if dead else []), *config.warnings):
            print(printable(f"tmpfsd: warning: {warning}"), file=sys.stderr)
        sys.stderr.flush()
    if args.foreground:
        from tmpfsd.server import inherited
        inherited.let_go(inherited.handed_over())
        from tmpfsd.server.process import tell_supervisor
        serve(config, mountpoint, True, args.debug, lambda: tell_supervisor(b"READY=1"))
    else:
        background(config, mountpoint, args.debug)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    streams.hold()
    try:
        return run(argv)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        streams.give_up(sys.stdout)
        return 1
    except Exception as error:
        if isinstance(error, OSError):
            streams.give_up(sys.stdout)
        streams.complain(f"tmpfsd: {describe(error)}")
        return 1
    finally:
        streams.settle()            # for example a log that could not be written


def run(argv: Sequence[str] | None) -> int:
    """Read the command line and mount."""
    if "_ARGCOMPLETE" in os.environ:        # a shell asks what may follow, and gets it
        from tmpfsd.cli import completion
        completion.autocomplete(make_parser())
    if argv is None and os.path.basename(sys.argv[0]).startswith(HELPER_NAMES):
        args = make_helper_parser().parse_args()
        if args.fake:
            return 0
        name_source(args)
    else:
        args = make_parser().parse_intermixed_args(argv)
    try:
        if remount.is_remount(options.split(args.options)):
            remount.remount(args.paths[-1], options.split(args.options), keep=not args.helper)
        else:
            mount(args)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if args.debug:
            traceback.print_exc()
        else:
            streams.complain(f"tmpfsd: {describe(error)}")
        return 1
    return 0


def name_source(args: argparse.Namespace) -> None:
    """Have the mount table show the source from fstab: `mount -a` recognizes mounted lines by it."""
    words = options.split(args.options)
    named = remount.is_remount(words) or any(word.startswith("fsname=") for word in words)
    if not named and args.paths[0].isascii():
        args.options.append(f"fsname={options.quote(args.paths[0])}")


if __name__ == "__main__":
    sys.exit(main())
