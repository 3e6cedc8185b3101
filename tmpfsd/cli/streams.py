"""streams.py: standard output and error of the commands, whatever state we got them in: closed, full, or unread.

Invariants  T1 Numbers 0, 1 and 2 are open from the start.  Otherwise a file that is opened later would take one, and
               receive the output.  (And tmpfsd's child, which puts /dev/null there, would cut its own pipe.)
            T2 Output that could not be written is dropped: the interpreter would try again at exit, with a traceback.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import TextIO

from tmpfsd.mounts.printable import printable


def hold() -> None:
    """Put /dev/null in place of a closed standard stream."""
    with contextlib.suppress(FileNotFoundError):        # a /dev without it: nothing can be done
        while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
            os.set_inheritable(number, True)
        os.close(number)
    for name, number in (("stdin", 0), ("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", closefd=False, encoding="utf-8"))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")       # as stderr: a name that it cannot encode is no error


def give_up(stream: TextIO) -> None:
    """Send what is left in a stream nowhere."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def settle() -> None:
    """Write what is left, or give it up: if the interpreter tries and fails, the exit status is 120."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            give_up(stream)


def complain(text: str) -> None:
    """Say what is wrong, in one line, if anybody can hear it."""
    try:
        print(printable(text), file=sys.stderr, flush=True)
    except OSError:
        give_up(sys.stderr)
