"""Each public method of uvm/ and pool/ says what it costs, as those of sortedcontainers do."""

import ast
from pathlib import Path

import pytest

import tmpfsd

TOP = Path(tmpfsd.__file__).parent
MODULES = sorted(path for floor in ("uvm", "pool") for path in (TOP / floor).glob("*.py"))


def silent(tree: ast.Module) -> list[str]:
    """Public methods, and functions of modules, that say nothing of it; "All O(" covers those of a class or module."""
    found = []
    for node in tree.body:
        is_class = isinstance(node, ast.ClassDef)
        if is_class and node.name.startswith("_"):
            continue
        covered = "All O(" in (ast.get_docstring(tree) or "") + (ast.get_docstring(node) or "" if is_class else "")
        for method in node.body if is_class else [node]:
            if isinstance(method, ast.FunctionDef) and not method.name.startswith("_") and not covered:
                told = ast.get_docstring(method) or ""
                if "O(" not in told and "See " not in told:
                    found.append(method.name)
    return found


@pytest.mark.parametrize("module", MODULES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_it_is_said(module: Path) -> None:
    assert silent(ast.parse(module.read_text())) == []
