"""tools/mutate.py: are the tests any good?  Change the code at one random place after the other: does a test fail?

    python -m tools.mutate --sample 100 [--seed 1] [--minutes 25] [--jobs 2] [--only tmpfsd/uvm/swap.py]

Copies the repository and records which test runs which line (covering.py).  Then, in the copy, it changes an operator,
a comparison, a number, a condition or a statement of uvm/, pool/ or tmpfs/, and runs the tests of that line, the
quickest first: unit tests, and those of operations with little memory.
Prints each survivor as a diff: either a test is missing, or the change makes no difference.

Limits      Annotations, assertions and text are left alone.  A test run that takes too long counts as caught, and is
            named.  A sample shows how many survive, not which.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from tools.covering import Covering

REPOSITORY = Path(__file__).resolve().parents[1]
FLOORS = ("uvm", "pool", "tmpfs")
SECONDS = 300                   # a test run that takes longer has hung on the change: caught
SWAPS: dict[type, type] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv,
    ast.LShift: ast.RShift, ast.RShift: ast.LShift, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And}
ONCE = "not roomy and not thrash and not per-pool and not pageable-object"      # each test with little memory
LEFT_OUT = ("fs/test_failures.py", "fs/test_bytes.py")      # long
NOT_COPIED = (".git", ".venv", ".hypothesis", "mnt", "build", "_compiled", "*.pyc", "__pycache__")


def places(tree: ast.AST) -> Iterator[ast.AST]:
    """Nodes that can be changed."""
    skip: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert) or isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            skip.update(id(child) for child in ast.walk(node))
        for field in ("annotation", "returns"):
            if getattr(node, field, None) is not None:
                skip.update(id(child) for child in ast.walk(getattr(node, field)))
        if id(node) in skip:
            continue
        if isinstance(node, (ast.BinOp, ast.BoolOp, ast.AugAssign)) and type(getattr(node, "op")) in SWAPS:
            yield node
        elif isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
            yield node
        elif isinstance(node, ast.Constant) and type(node.value) in (int, bool):
            yield node
        elif isinstance(node, (ast.If, ast.While)):
            yield node
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            yield node


def change(node: ast.AST) -> None:
    """Change one node in place."""
    if isinstance(node, (ast.BinOp, ast.BoolOp, ast.AugAssign)):
        node.op = SWAPS[type(node.op)]()
    elif isinstance(node, ast.Compare):
        node.ops[0] = SWAPS[type(node.ops[0])]()
    elif isinstance(node, ast.Constant):
        node.value = not node.value if isinstance(node.value, bool) else node.value + 1
    elif isinstance(node, (ast.If, ast.While)):
        node.test = ast.UnaryOp(ast.Not(), node.test)
    elif isinstance(node, ast.Expr):
        node.value = ast.Constant(None)


def mutants(only: list[str]) -> list[tuple[Path, int]]:
    """(module, number of the place in it) of all changes."""
    modules = [REPOSITORY / path for path in only] or [
        path for floor in FLOORS for path in sorted((REPOSITORY / "tmpfsd" / floor).glob("*.py"))]
    return [(path.relative_to(REPOSITORY), i)
            for path in modules for i, _node in enumerate(places(ast.parse(path.read_text())))]


def mutate(path: Path, i: int) -> tuple[str, str]:
    """The module before and after the i-th change, both as ast writes them."""
    tree = ast.parse((REPOSITORY / path).read_text())
    before = ast.unparse(tree)
    change(list(places(tree))[i])
    return before, ast.unparse(ast.fix_missing_locations(tree))


def lines(path: Path, i: int) -> tuple[int, int]:
    """First and last line of the i-th place: of a condition without the statements that depend on it."""
    node: Any = list(places(ast.parse((REPOSITORY / path).read_text())))[i]
    part = node.test if isinstance(node, (ast.If, ast.While)) else node
    return part.lineno, part.end_lineno


def run_pytest(copy: Path, seconds: float, *arguments: str, **environment: str) -> int:
    """Run pytest; return its exit status."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "tools.covering", *arguments]
    environment = {**os.environ, "TMPFSD_PURE": "1", "PYTHONPATH": str(copy), **environment}    # PURE: nothing stale
    return subprocess.run(command, cwd=copy, capture_output=True, timeout=seconds, env=environment).returncode


def record(copy: Path) -> Covering:
    """Run all tests once, unit tests and others side by side."""
    units = [f"tests/unit/{path.name}" for path in sorted((copy / "tests/unit").glob("test_*.py"))
             if any(f"tmpfsd.{floor}" in path.read_text() for floor in FLOORS)]
    fs = ["tests/fs", "-k", ONCE, *(f"--ignore=tests/{name}" for name in LEFT_OUT)]
    records = [str(copy / "units"), str(copy / "fs")]
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda tests, name: run_pytest(copy, 1800, *tests, COVERING_RECORD=name), (units, fs), records))
    return Covering(records)


def caught(copy: Path, path: Path, tests: list[str]) -> bool:
    """Whether one of the tests fails in the copy."""
    (copy / "tests.only").write_text("\n".join(tests))
    files = sorted({name.split("::")[0] for name in tests})
    try:
        return bool(tests) and run_pytest(copy, SECONDS, "-x", "--timeout=60", *files,
                                          COVERING_ONLY=str(copy / "tests.only")) != 0
    except subprocess.TimeoutExpired:
        print(f"took too long: {path}")
        return True


class Workshop:
    """Copies of the repository, in which changes are tried side by side."""

    def __init__(self, directory: Path, jobs: int) -> None:
        self._copies: SimpleQueue[Path] = SimpleQueue()
        for job in range(jobs):
            copy = directory / f"copy{job}"
            shutil.copytree(REPOSITORY, copy, ignore=shutil.ignore_patterns(*NOT_COPIED))
            self._copies.put(copy)
        self._recorded, self.covering = copy, record(copy)

    def attempt(self, path: Path, i: int, deadline: float) -> tuple[bool, str]:
        """Whether a change was caught, and what to report if not.  => TimeoutError after the deadline."""
        if time.monotonic() > deadline:
            raise TimeoutError
        tests = self.covering.tests(str(self._recorded / path), *lines(path, i))
        before, after = mutate(path, i)
        copy = self._copies.get()
        original = (copy / path).read_text()
        try:
            (copy / path).write_text(after)
            found = caught(copy, path, tests)
        finally:
            (copy / path).write_text(original)
            self._copies.put(copy)
        diff = difflib.unified_diff(before.split("\n"), after.split("\n"), n=2, lineterm="")
        return found, "\n".join([f"\nsurvived {len(tests)} tests: {path}, place {i}", *list(diff)[2:]])


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.mutate", description=__doc__.splitlines()[0])
    parser.add_argument("--sample", type=int, default=100, help="how many changes (100)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=60, help="when to stop in any case")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="how many at a time (one a core)")
    parser.add_argument("--only", nargs="*", default=[], help="modules, instead of all of the three floors")
    arguments = parser.parse_args()
    every = mutants(arguments.only)
    sample = random.Random(arguments.seed).sample(every, min(arguments.sample, len(every)))
    deadline, ncaught, tried = time.monotonic() + 60 * arguments.minutes, 0, 0
    with tempfile.TemporaryDirectory(prefix="tmpfsd-mutate-") as directory:
        workshop = Workshop(Path(directory), arguments.jobs)
        print(f"{len(workshop.covering)} tests recorded", flush=True)
        with ThreadPoolExecutor(arguments.jobs) as pool, suppress(TimeoutError):
            for found, text in pool.map(lambda place: workshop.attempt(*place, deadline), sample):
                tried, ncaught = tried + 1, ncaught + found
                print("" if found else text + "\n", f"{ncaught} of {tried} caught", sep="", flush=True)
    print(f"{ncaught} of {tried} changes caught, of {len(every)} that there are")


if __name__ == "__main__":
    main()
