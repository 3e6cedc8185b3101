"""fuzz/fuzzlib.py: the common part of the targets of this folder.

A target is a function of bytes that raises if something is wrong; the bytes stand for those that another party sends.
Hypothesis calls it in test_fuzz.py, and atheris calls it, guided by the code that is reached:

    python -m tests.fuzz.options -runs=100000       (or control, vnops; -help=1 lists what libFuzzer takes)

A failure leaves its bytes in a file crash-...; give that as an argument to see it again, and make a test of it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from struct import Struct

NUMBER = Struct("<Q")
EDGES = (0, 1, 255, 256, 4095, 4096, 65_536, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 62, (1 << 63) - 1)


class Source:
    """Bytes to take decisions from; at their end all are zero."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def __bool__(self) -> bool:
        return self.at < len(self.data)

    def take(self, n: int) -> bytes:
        """Up to n bytes as they are."""
        taken = self.data[self.at:self.at + n]
        self.at += n
        return taken

    def byte(self) -> int:
        """A number below 256."""
        return (self.take(1) or b"\0")[0]

    def number(self) -> int:
        """A number below 2**63: small ones, edges, any."""
        kind = self.byte()
        if kind < 128:
            return kind
        if kind < 240:
            return max(EDGES[kind % len(EDGES)] + kind % 3 - 1, 0) & (1 << 63) - 1
        return NUMBER.unpack(self.take(8).ljust(8, b"\0"))[0] >> 1

    def bytes(self) -> bytes:
        """Some bytes as they are, seldom many."""
        kind = self.byte()
        return self.take(kind) if kind < 250 else (self.take(8) or b"x") * (1 << kind - 248)


def run(one: Callable[[bytes], None]) -> None:
    """Have atheris look for bytes that make the target raise."""
    import atheris

    atheris.Setup(sys.argv, one)
    atheris.Fuzz()


def main(target: str) -> None:
    """The command line of a target: its module is imported once more, with the code it tests made to count."""
    import importlib

    import atheris

    for name in [name for name in sys.modules if name.startswith(("tmpfsd", "tests.fs"))]:
        del sys.modules[name]
    with atheris.instrument_imports(include=["tmpfsd"]):
        module = importlib.import_module(target)
    run(module.one)
