"""tools/mutate.py: are the tests any good?  Change the code at one random place after the other: does a test fail?

    python -m tools.mutate --sample 100 [--seed 1] [--minutes 25] [--only tmpfsd/uvm/swap.py]

Copies the repository aside and changes an operator, a comparison, a number, a condition or a statement of uvm/, pool/
or tmpfs/ there; the unit tests that go with the module run first, then the tests of operations with little memory.
Prints each survivor as a diff: either a test is missing, or the change means nothing.

Limits      Annotations, assertions and text are left alone.  A test run that takes too long counts as caught, and is
            named.  A sample says how many, not which.
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
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
FLOORS = ("uvm", "pool", "tmpfs")
PURE = {**os.environ, "TMPFSD_PURE": "1"}     # a change that was not compiled would be said on stderr
SECONDS = 300                   # a test run that takes longer has hung on the change: caught
SWAPS: dict[type, type] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv,
    ast.LShift: ast.RShift, ast.RShift: ast.LShift, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And}
UNIT = {"btree": "btree", "vm": "vm pagedaemon", "pagedaemon": "pagedaemon vm", "swap": "swap pagedaemon",
        "aobj": "aobj backends", "physmem": "physmem vm", "vmem": "vmem vmmap", "pool": "pool strings",
        "strings": "strings pool", "backends": "backends pool", "layout": "layout btree", "mem": "pool strings table"}
ONCE = "not roomy and not thrash and not per-pool and not pageable-object"      # each test with little memory
LEFT_OUT = ("test_failures.py", "test_data.py", "test_bytes.py")       # long; the last two where data is changed


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


def caught(copy: Path, path: Path) -> bool:
    """Whether a test fails in the copy."""
    names = UNIT.get(path.stem, path.stem).split()
    units = [f"tests/unit/test_{name}.py" for name in names if (copy / f"tests/unit/test_{name}.py").exists()]
    long = () if path.stem == "regfile" else LEFT_OUT
    fs = ["tests/fs", "-k", ONCE, *(f"--ignore=tests/fs/{name}" for name in long)]
    for tests in filter(None, (units, fs)):
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--timeout=60", *tests]
        try:
            if subprocess.run(command, cwd=copy, capture_output=True, timeout=SECONDS, env=PURE).returncode:
                return True
        except subprocess.TimeoutExpired:
            print(f"took too long: {path}")
            return True
    return False


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.mutate", description=__doc__.splitlines()[0])
    parser.add_argument("--sample", type=int, default=100, help="how many changes (100)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=60, help="when to stop in any case")
    parser.add_argument("--only", nargs="*", default=[], help="modules, instead of all of the three floors")
    arguments = parser.parse_args()
    every = mutants(arguments.only)
    sample = random.Random(arguments.seed).sample(every, min(arguments.sample, len(every)))
    deadline, tried, survivors = time.monotonic() + 60 * arguments.minutes, 0, 0
    with tempfile.TemporaryDirectory(prefix="tmpfsd-mutate-") as directory:
        copy = Path(directory) / "copy"
        ignore = shutil.ignore_patterns(".git", ".venv", ".hypothesis", "mnt", "*.pyc", "__pycache__")
        shutil.copytree(REPOSITORY, copy, ignore=ignore)
        for path, i in sample:
            if time.monotonic() > deadline:
                break
            before, after = mutate(path, i)
            original = (copy / path).read_text()
            (copy / path).write_text(after)
            tried += 1
            if not caught(copy, path):
                survivors += 1
                print(f"\nsurvived: {path}, place {i}")
                lines = difflib.unified_diff(before.split("\n"), after.split("\n"), n=2, lineterm="")
                print("\n".join(list(lines)[2:]), flush=True)
            (copy / path).write_text(original)
            print(f"{tried - survivors} of {tried} caught", flush=True)
    print(f"{tried - survivors} of {tried} changes caught, of {len(every)} that there are")


if __name__ == "__main__":
    main()
