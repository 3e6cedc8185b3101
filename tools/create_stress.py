#!/usr/bin/env python3
"""create_stress.py: creates files until something fails, and says how fast.

Works in a directory of its own on any file system, so that a kernel tmpfs can be compared with a tmpfsd.  The parts are
in stresskit/; here are the options and the order of steps.

Exit status 0: all done.   1: a phase ended with an error.   2: bad arguments.   128 + N: ended by signal N.
"""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import suppress
from datetime import datetime, timezone

from rich.console import Console

# if tmpfsd is not installed, its client lies beside this directory; an installed one comes first
sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from stresskit.display import display_on  # noqa: E402
from stresskit.plan import Plan, PlanError, parse_size, share_out  # noqa: E402
from stresskit.probe import Probe, mounted_at  # noqa: E402
from stresskit.report import Report, print_summary, write_json  # noqa: E402
from stresskit.runner import DROP_CACHES, Phase, Runner  # noqa: E402

EXAMPLES = """\
examples:
  create_stress.py /mnt --files 300000 --dirs 300
        300,000 empty files in 300 directories; they stay there
  create_stress.py /mnt --files 100000 --per-dir 100000 --verify --unlink
        one big directory: create, stat and read back in order and at random, list, remove
  create_stress.py /mnt --files 20000 --size 64k --procs 2 --verify --cold --unlink
        1.2 GiB in all, from two processes, verified with the kernel's caches dropped (as root)
  create_stress.py /mnt --files 1000000 --json run.json --plot run.png
        with figures: rate, and on a tmpfsd mount resident and swapped bytes, over files created

Ctrl-C ends the run after the files at hand and sums up what was done (exit status 130); a second one
kills the workers.  An error ends its phase; the phases after it go on with the files that exist.
"""


def positive(text: str) -> int:
    """An argument that counts something."""
    if not (text.isascii() and text.isdigit()) or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def size(text: str) -> int:
    """An argument in bytes."""
    try:
        return parse_size(text)
    except PlanError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def percent(text: str) -> float:
    """An argument above 0 and up to 100."""
    with suppress(ValueError):
        if 0 < (number := float(text.removesuffix("%"))) <= 100:
            return number
    raise argparse.ArgumentTypeError(f"{text!r} is not a percentage above 0 and up to 100")


def output_file(text: str) -> str:
    """A file that can be written; checked before hours of work."""
    directory = os.path.dirname(os.path.abspath(text))
    if os.path.isdir(text) or not os.path.isdir(directory) or not os.access(directory, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text!r} cannot be written")
    return text


def image_file(text: str) -> str:
    """An output file that is a picture."""
    if not text.lower().endswith((".png", ".svg", ".pdf")):
        raise argparse.ArgumentTypeError(f"{text!r} does not end in .png, .svg or .pdf")
    return output_file(text)


def parser() -> argparse.ArgumentParser:
    """All options."""
    options = argparse.ArgumentParser(
        description="Create many files on a mounted file system; measure, verify and remove them.",
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    add = options.add_argument
    add("directory", metavar="MOUNTPOINT", help="a directory on the file system to be stressed")
    add("--files", type=positive, metavar="N", help="files to create (10000)")
    add("--dirs", type=positive, metavar="N", help="directories to share them evenly among")
    add("--per-dir", type=positive, metavar="N", help="or: at most so many files in a directory (1000)")
    add("--procs", type=positive, metavar="N", default=1, help="processes; they share the directories (1)")
    add("--name-length", type=positive, metavar="N", default=13, help="bytes of a file's name (13)")
    add("--size", type=size, metavar="N[k|m|g]", default=0, help="bytes to write to each file (0)")
    add("--verify", action="store_true",
        help="stat and read all back, in order and at random; then list all directories")
    add("--sample", type=percent, metavar="PERCENT", help="verify only so many of the files at random (100)")
    add("--cold", action="store_true",
        help="drop the kernel's caches (of all mounts; needs root) before each phase but create")
    add("--unlink", action="store_true", help="remove everything at the end")
    add("--json", type=output_file, metavar="FILE", help="write all figures to FILE")
    add("--plot", type=image_file, metavar="FILE.png", help="draw rate and memory over files created")
    return options


def plan_of(args: argparse.Namespace) -> Plan:
    """The plan that the options ask for, or PlanError."""
    if not os.path.isdir(args.directory):
        raise PlanError(f"{args.directory}: not a directory")
    if args.sample is not None and not args.verify:
        raise PlanError("--sample has no meaning without --verify")
    if args.cold and not (args.verify or args.unlink):
        raise PlanError("--cold has no meaning without --verify or --unlink")
    if args.cold and not os.access(DROP_CACHES, os.W_OK):
        raise PlanError(f"--cold: {DROP_CACHES} cannot be written (that needs root)")
    files, dirs = share_out(args.files, args.dirs, args.per_dir)
    return Plan(files=files, dirs=dirs, procs=args.procs, name_length=args.name_length, size=args.size,
                verify=args.verify, sample=args.sample or 100.0, unlink=args.unlink, cold=args.cold)


def make_base(directory: str) -> str:
    """A new directory for the run: the first create_stress.N that is free."""
    number = 0
    while True:
        with suppress(FileExistsError):
            base = os.path.join(os.path.abspath(directory), f"create_stress.{number}")
            os.mkdir(base)
            return base
        number += 1


def remove_base(base: str, phases: list[Phase]) -> str | None:
    """Remove the run's directory if it is empty; return what is left otherwise."""
    if phases and phases[-1].name != "unlink" and phases[0].files:
        return base
    try:
        os.rmdir(base)
    except OSError:
        return base
    return None


def write_files(report: Report, json_path: str | None, plot_path: str | None, console: Console) -> bool:
    """Write the files that were asked for; False if some of it failed."""
    done = True
    try:
        if json_path:
            write_json(report, json_path)
    except OSError as error:
        console.print(f"--json: {error}", markup=False)
        done = False
    try:
        if plot_path and report.phases:
            from stresskit.plot import write_plot  # importing it takes longer than many a run
            write_plot(report, plot_path)
    except OSError as error:
        console.print(f"--plot: {error}", markup=False)
        done = False
    return done


def run(args: argparse.Namespace, argv: list[str], plan: Plan, base: str) -> int:
    """Run the phases, print the results, and return the exit status."""
    errors = Console(stderr=True)
    probe = Probe(mounted_at(base))
    display = display_on(errors)
    runner = Runner(plan, base, probe, display.show)
    with runner.signals as signals:
        before, started = probe.read(), datetime.now(timezone.utc).isoformat(timespec="seconds")
        with display:
            phases = runner.run()
        failed = any(phase.failures for phase in phases)
        status = 128 + signals.signum if signals.signum else int(failed)
        report = Report(command=argv, started=started, target=os.path.abspath(args.directory),
                        mounted=probe.mounted, plan=plan, before=before, phases=phases,
                        left=remove_base(base, phases), exit_status=status)
        print_summary(report, Console())
        written = write_files(report, args.json, args.plot, errors)
    return status or int(not written)


def main(argv: list[str] | None = None) -> int:
    """The tool."""
    argv = sys.argv[1:] if argv is None else argv
    options = parser()
    args = options.parse_args(argv)
    try:
        plan = plan_of(args)
        base = make_base(args.directory)
    except (PlanError, OSError) as error:
        options.error(str(error))
    return run(args, argv, plan, base)


if __name__ == "__main__":
    sys.exit(main())
