"""Compiled or interpreted: which is used, that stale code is never used, and what compiled code must not do."""

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import tmpfsd
from tmpfsd import compiled

PACKAGE = Path(tmpfsd.__file__).parent
SETUP = PACKAGE.parent / "setup.py"
SHOW = "from tmpfsd import compiled; import tmpfsd.uvm.param as hot; print(compiled.kind(), hot.__file__)"
LIBRARY = f"{compiled.GROUP}__mypyc{compiled.SUFFIX}"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package where nothing is compiled."""
    left_out = shutil.ignore_patterns("_compiled", "__pycache__")
    return Path(shutil.copytree(PACKAGE, tmp_path / "tmpfsd", ignore=left_out))


@pytest.fixture
def run(package: Path) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Import a hot module of the copy, and print which it is."""
    def call(pure: str = "", code: str = SHOW) -> "subprocess.CompletedProcess[str]":
        env = {**os.environ, "TMPFSD_PURE": pure}
        return subprocess.run([sys.executable, "-c", code], cwd=package.parent, env=env, capture_output=True, text=True,
                              timeout=60, check=False)
    return call


def made(package: Path, name: str) -> Path:
    """A directory of extensions; only the library's name is there."""
    place = package / "_compiled" / name
    place.mkdir(parents=True)
    (place / LIBRARY).touch()
    return place


def test_the_digest_is_of_every_source(package: Path) -> None:
    seen = {compiled.digest(str(package))}
    sources = compiled.sources(str(package))
    assert {"uvm/vm.py", "pool/pool.py", "tmpfs/vnops.py"} <= set(sources) and len(sources) > 30
    for name in (*sources, *compiled.ALSO_READ):
        with open(package / name, "a") as file:
            file.write("\n")
        seen.add(compiled.digest(str(package)))
    (package / "tmpfs/new.py").touch()
    seen.add(compiled.digest(str(package)))
    os.rename(package / "tmpfs/new.py", package / "tmpfs/newer.py")
    seen.add(compiled.digest(str(package)))
    os.unlink(package / "tmpfs/newer.py")
    seen.add(compiled.digest(str(package)))
    assert len(seen) == 1 + len(sources) + len(compiled.ALSO_READ) + 2


def test_the_digest_is_not_of_what_is_not_compiled(package: Path) -> None:
    before = compiled.digest(str(package))
    for name in ("__init__.py", "uvm/__init__.py", "server/daemon.py", "uvm/README.md"):
        with open(package / name, "a") as file:
            file.write("\n")
    for path in package.rglob("*.py"):
        os.utime(path, (1, 1))
    assert compiled.digest(str(package)) == before


def test_the_digest_is_of_all_that_hot_modules_import() -> None:
    """The compiler puts its knowledge of modules that are not compiled into the extensions (of native.py: none)."""
    for name in compiled.sources():
        for node in ast.walk(ast.parse((PACKAGE / name).read_text())):
            module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            if module.startswith("tmpfsd."):
                path = module.removeprefix("tmpfsd.").replace(".", "/")
                assert path.split("/")[0] in (*compiled.FLOORS, "native") or f"{path}.py" in compiled.ALSO_READ, (
                    f"{name}: {module}")


@pytest.mark.parametrize("others", (False, True))
def test_what_was_never_compiled_runs_interpreted_and_says_nothing(package: Path, run, others: bool) -> None:
    if others:
        (made(package, "of-another-python") / LIBRARY).rename(package / "_compiled/of-another-python/library.so")
    done = run()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["interpreted", str(package / "uvm/param.py")]


def test_what_has_changed_since_runs_interpreted_and_says_so_once(package: Path, run) -> None:
    made(package, "0" * 16)
    done = run()
    assert done.returncode == 0 and done.stdout.split() == ["interpreted", str(package / "uvm/param.py")]
    assert done.stderr == "tmpfsd: its sources have changed since they were compiled: it runs interpreted " \
                          "(`make compile`)\n"


@pytest.mark.parametrize("name", ("stale", ""))
def test_on_demand_all_runs_interpreted(package: Path, run, name: str) -> None:
    made(package, name or compiled.digest(str(package)))
    done = run("1")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["interpreted", str(package / "uvm/param.py")]


def test_compiled_and_interpreted_modules_do_not_mix(package: Path, run) -> None:
    made(package, compiled.digest(str(package)))        # the modules themselves are missing
    done = run()
    assert done.returncode == 1 and "ImportError" in done.stderr and "param" in done.stderr


@pytest.mark.skipif(not compiled.active(), reason="nothing is compiled here")
def test_what_is_compiled_is_used_until_it_is_edited(package: Path, run) -> None:
    place = Path(compiled.place())
    assert compiled.digest() == compiled.digest(str(package))
    shutil.copytree(place, package / "_compiled" / place.name)
    done = run()
    assert (done.returncode, done.stderr) == (0, "")
    kind, file = done.stdout.split()
    assert kind == "compiled" and file.startswith(str(package / "_compiled" / place.name))
    with open(package / "uvm/param.py", "a") as source:
        source.write("\nEDITED = 2006\n")
    done = run(code=SHOW + "; print(hot.EDITED)")
    assert done.returncode == 0 and done.stdout.split()[0] == "interpreted" and done.stdout.split()[-1] == "2006"
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(not compiled.active(), reason="nothing is compiled here")
def test_every_hot_module_is_compiled() -> None:
    for name in compiled.sources():
        module = __import__(f"tmpfsd.{name[:-3].replace('/', '.')}", fromlist=["*"])
        assert str(module.__file__).startswith(compiled.place()), name


# --- the build ---

def build(package: Path, where: Path, **env: str) -> "subprocess.CompletedProcess[str]":
    """Compile the copy, with a mypyc that cannot be imported."""
    shutil.copy(SETUP, package.parent)
    broken = package.parent / "broken" / "mypyc"
    broken.mkdir(parents=True, exist_ok=True)
    (broken / "__init__.py").write_text("raise ImportError('no mypyc today')\n")
    path = os.pathsep.join([str(broken.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", str(where)]
    return subprocess.run(command, cwd=package.parent, env={**os.environ, "PYTHONPATH": path, **env},
                          capture_output=True, text=True, timeout=100, check=False)


@pytest.mark.parametrize("pure, status, message", (("", 0, "it will run interpreted: ImportError: no mypyc today"),
                                                   ("1", 0, ""), ("0", 1, "no mypyc today")))
def test_what_cannot_be_compiled(package: Path, tmp_path: Path, pure: str, status: int, message: str) -> None:
    pytest.importorskip("setuptools", minversion="64")
    done = build(package, tmp_path / "lib", TMPFSD_PURE=pure)
    assert done.returncode == status, done.stderr
    assert message in done.stderr and ("warning: not compiled" in done.stderr) == (not pure)
    assert not (package / "_compiled").exists() and not list((tmp_path / "lib").glob("**/_compiled/*"))


def test_what_was_compiled_in_place_goes_into_the_wheel_as_it_is(package: Path, tmp_path: Path) -> None:
    pytest.importorskip("setuptools", minversion="64")
    name = compiled.digest(str(package))
    made(package, name)
    done = build(package, tmp_path / "lib", TMPFSD_PURE="0")
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "lib/tmpfsd/_compiled" / name / LIBRARY).exists()


# --- what tests cannot patch ---

def native(module: str) -> set[str]:
    """Names of a hot module that compiled code does not look up: its functions, its classes, its Final numbers."""
    path = PACKAGE / f"{module.removeprefix('tmpfsd.').replace('.', '/')}.py"
    if f"{path.parent.name}/{path.name}" not in compiled.sources():
        return set()
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.AnnAssign) and ast.unparse(node.annotation) == "Final":
            found.add(ast.unparse(node.target))
    return found


def patches(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, what) of each setattr(hot module or class, ...) that would have no effect when it is compiled."""
    imported = {alias.asname or alias.name: (node.module or "", alias.name) for node in ast.walk(tree)
                if isinstance(node, ast.ImportFrom) for alias in node.names}
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "setattr"
                and len(node.args) >= 2):
            continue
        target, name = node.args[0], ast.unparse(node.args[1]).strip("'")
        module, original = imported.get(ast.unparse(target), ("", ""))
        if original in native(module) or name in native(f"{module}.{original}"):
            yield node.lineno, f"{ast.unparse(target)}.{name}"
        elif isinstance(target, ast.Call) and ast.unparse(target.func) == "type":
            yield node.lineno, ast.unparse(target)


@pytest.mark.parametrize("text, seen", (
    ("from tmpfsd.uvm.vm import Vm\np.setattr(Vm, 'fault', f)", ["Vm.fault"]),
    ("p.setattr(type(fs.mp.vm), 'fault', f)", ["type(fs.mp.vm)"]),
    ("from tmpfsd.tmpfs import btree\np.setattr(btree, 'capacity', f)", ["btree.capacity"]),
    ("from tmpfsd.uvm import param\np.setattr(param, 'PAGE_SHIFT', 9)", ["param.PAGE_SHIFT"]),
    ("from tmpfsd.tmpfs import btree\np.setattr(btree, 'INNER_CAP', 7)", []),
    ("from tmpfsd.server import control\np.setattr(control, 'identity', f)", []),
    ("from tmpfsd.uvm import swap\np.setattr(swap, '_fallocate', f); fs.setattr(ino, mode=5)", [])))
def test_a_patch_that_does_nothing_is_seen(text: str, seen: list[str]) -> None:
    assert [what for _line, what in patches(ast.parse(text))] == seen


def test_no_test_patches_what_compiled_code_does_not_look_up() -> None:
    """It would pass without testing anything: tests/failpoints.py has the other way.

    A test that still needs a patch runs interpreted only, and says so.
    """
    for path in sorted((PACKAGE.parent / "tests").rglob("*.py")):
        tree = ast.parse(path.read_text())
        spared = [range(node.lineno, (node.end_lineno or 0) + 1) for node in tree.body
                  if isinstance(node, ast.FunctionDef) and "failpoints.interpreted_only()" in ast.unparse(node)]
        for line, what in patches(tree):
            assert any(line in lines for lines in spared), f"{path.relative_to(PACKAGE.parent)}:{line}: {what}"


# --- what mypyc takes otherwise than Python does ---

def functions() -> list[tuple[str, ast.FunctionDef]]:
    """Every function that is compiled."""
    return [(f"{name}:{node.lineno}", node) for name in compiled.sources()
            for node in ast.walk(ast.parse((PACKAGE / name).read_text())) if isinstance(node, ast.FunctionDef)]


def test_no_name_stands_for_exceptions_of_two_kinds() -> None:
    """A name has one type in a compiled function: the second `except ... as name` would raise TypeError."""
    for where, function in functions():
        kinds: dict[str, str] = {}
        for node in ast.walk(function):
            if isinstance(node, ast.ExceptHandler) and node.name and node.type is not None:
                kind = ast.unparse(node.type)
                assert kinds.setdefault(node.name, kind) == kind, f"{where}: {node.name} is of two kinds"
