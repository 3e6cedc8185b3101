"""Imports go downwards only: one list tells which layer stands on which."""

import ast
from pathlib import Path

import pytest

import tmpfsd

PACKAGE = Path(tmpfsd.__file__).parent
# The ground first.
FLOORS = ("compiled", "native", "seldom", "mounts", "machine", "mountflags", "optionwords", "sizes", "owners",
          "swapplaces", "options", "privileges", "uvm", "stores", "pool", "tmpfs", "image", "fuse", "server", "cli",
          "__main__")
MODULES = sorted(PACKAGE.rglob("*.py"))


def floor_of(parts: tuple[str, ...]) -> str:
    """Return the floor of a module, given its path below the package."""
    return parts[0].removesuffix(".py") if parts else "__init__"


def imports(path: Path, types: bool = True) -> list[tuple[str, ...]]:
    """Return what a module imports of the package, at its top or inside a function; or only what it runs."""
    found: list[str] = []
    tree = ast.parse(path.read_text())
    unseen = {id(node) for branch in ast.walk(tree) if not types and isinstance(branch, ast.If)
              and isinstance(branch.test, ast.Name) and branch.test.id == "TYPE_CHECKING"
              for statement in branch.body for node in ast.walk(statement)}
    for node in ast.walk(tree):
        if id(node) in unseen:
            continue
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return [tuple(name.split(".")[1:]) for name in found if name.split(".")[0] == "tmpfsd"]


def test_every_floor_is_listed() -> None:
    floors = {floor_of(path.relative_to(PACKAGE).parts) for path in MODULES}
    assert floors <= {*FLOORS, "__init__"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_downwards(path: Path) -> None:
    here = floor_of(path.relative_to(PACKAGE).parts)
    if here == "__init__":
        assert imports(path) in ([], [("compiled",)])
        return
    for parts in imports(path):
        there = floor_of(parts)
        if there.startswith("__version"):
            continue
        assert there in FLOORS, f"{here} imports the unknown {'.'.join(parts)}"
        assert FLOORS.index(there) <= FLOORS.index(here), f"imports {'.'.join(parts)}, which is above it"


def test_no_module_waits_for_itself() -> None:
    """What runs has no circles; what only the type checker reads may: a Mount, and what is done with one."""
    names = {path.relative_to(PACKAGE).with_suffix("").parts: path for path in MODULES}
    waits = {name: {part for parts in imports(path, types=False) for part in (parts, parts[:-1])
                    if part in names and part != name} for name, path in names.items()}
    while free := [name for name, others in waits.items() if not others]:
        for name in free:
            del waits[name]
        for others in waits.values():
            others.difference_update(free)
    assert not waits, "these import each other, or what does"


def test_one_name_one_thing() -> None:
    """No two modules have one name, and no two public classes."""
    classes = [node.name for path in MODULES for node in ast.walk(ast.parse(path.read_text()))
               if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
    assert sorted(classes) == sorted(set(classes))
    modules = [path.name for path in MODULES if path.name != "__init__.py"]
    assert sorted(modules) == sorted(set(modules))


@pytest.mark.parametrize("floor", ("mounts", "uvm", "pool", "tmpfs", "image", "fuse"))
def test_only_the_server_knows_pyfuse3_and_trio(floor: str) -> None:
    for path in (PACKAGE / floor).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & {"pyfuse3", "trio"}, path
